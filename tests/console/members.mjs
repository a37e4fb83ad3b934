// The console of a cluster while one of its members is stopped. It says "ready" on its output once it has seen all
// members; whoever started it then stops one.

import { open, run, screenshot } from "./browser.mjs";

await run({
  async "a member that is down is shown, with what that means"(tab) {
    const page = await tab({ scheme: "dark" });
    await open(page, "#/cluster");
    await page.getByText("All 3 voting members answer").waitFor({ timeout: 60_000 });
    console.log("ready");
    await page.getByText("2 of 3 voting members answer. The cluster serves, but it cannot lose another member.").waitFor({ timeout: 60_000 });
    await page.locator("tr.down").waitFor();
    // Some samples, so that the plots are worth looking at.
    if (process.env.SCREENSHOTS) await page.waitForTimeout(40_000);
    await screenshot(page, "cluster");
  },
});
