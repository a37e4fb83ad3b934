// The console while authentication is on: user root with the password "right", and ann, who may read public/.

import { barriers, holds, PAGE, row, run, same, screenshot } from "./browser.mjs";

async function logIn(page, name, password) {
  await page.getByLabel("User").fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Log in" }).click();
}

await run({
  async "before the login there is a form and nothing else"(tab) {
    const page = await tab();
    await page.goto(`${PAGE}#/keys?key=secret/a`);
    await page.getByRole("heading", { name: "Log in" }).waitFor();
    same(await page.locator("nav a").count(), 0, "views");
    holds(!/secret|hidden|rev/.test(await page.locator("body").innerText()), "nothing is told");
    same(await barriers(page), [], "barriers");
    await logIn(page, "root", "wrong");
    await page.getByText("etcdserver: authentication failed, invalid user ID or password").waitFor();
    await logIn(page, "root", "right");
    await page.locator(".value pre", { hasText: "hidden" }).waitFor();
    // The token is in the page only.
    await page.reload();
    await page.getByRole("heading", { name: "Log in" }).waitFor();
  },

  async "a user sees what the roles permit"(tab) {
    const page = await tab();
    await page.goto(`${PAGE}#/keys?prefix=public/&shape=list`);
    await logIn(page, "ann", "pass");
    await page.getByText("1 key below public/").waitFor();
    await page.getByLabel("Prefix of keys").fill("secret/");
    await page.keyboard.press("Enter");
    await page.getByText("etcdserver: permission denied").waitFor();
  },

  async "users and roles are shown"(tab) {
    const page = await tab();
    await page.goto(`${PAGE}#/users`);
    await logIn(page, "root", "right");
    await page.getByText("Authentication is on").waitFor();
    await page.getByRole("row", { name: "reader read public/" }).waitFor();
    await screenshot(page, "users");
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByRole("heading", { name: "Log in" }).waitFor();
  },
});
