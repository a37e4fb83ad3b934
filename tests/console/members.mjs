// The console of a cluster while one of its members is stopped. It says "ready" on its output once it has seen all
// members; whoever started it then stops one.

import { barriers, holds, open, run, same, screenshot } from "./browser.mjs";

await run({
  async "a newcomer finds why the cluster is not well, from any page"(tab) {
    const page = await tab({ scheme: "dark" });
    await open(page);
    await page.getByRole("link", { name: "3 of 3 members" }).waitFor();
    console.log("ready");
    await page.getByRole("link", { name: "2 of 3 members" }).click();
    await page.getByText("2 of 3 voting members answer. The cluster serves, but it cannot lose another member.").waitFor();
    const why = await page.locator(".verdict").innerText();
    holds(/No answer from \w+ \(.+\): is the process running/.test(why), `who does not answer, and why: ${why}`);
    await page.locator("tr.down").waitFor();
    same(await barriers(page), [], "barriers");
    // Some samples, so that the plots are worth looking at.
    if (process.env.SCREENSHOTS) await page.waitForTimeout(40_000);
    await page.getByText("2 of 3 voting members answer. The cluster serves").waitFor();
    await screenshot(page, "cluster");

    const narrow = await tab({ width: 400, height: 800 });
    await open(narrow, "#/cluster");
    await narrow.locator("tr.down").getByText("no answer").waitFor();
    const hidden = await narrow.evaluate(() => [...document.querySelectorAll("td, nav a, .badge")].filter((element) => element.getBoundingClientRect().right > innerWidth).map((element) => element.innerText));
    same(hidden, [], "what is to the right of the screen");
  },
});
