// The console of a single member, used as a person uses it.

import { execFileSync, spawn } from "node:child_process";
import { barriers, base64, call, clear, holds, open, put, putMany, row, run, same, screenshot } from "./browser.mjs";

const etcdctl = (...args) => execFileSync(process.env.ETCDCTL, ["--endpoints", process.env.ENDPOINT ?? process.env.SERVER, ...args], { encoding: "utf8" });

const value = (page) => page.locator(".value pre").innerText();

/** The value alone: while one is edited, what is between two versions is in a `pre` too. */
const settled = (page) => page.locator('pre[aria-label="Value"]').waitFor();

const pod = (number, node) => JSON.stringify({ kind: "Pod", metadata: { name: `web-${number}`, labels: { app: "web" } }, spec: { node, containers: [{ image: "web:1.4" }] } });

async function kubernetes() {
  await clear();
  for (const [space, count] of [["default", 6], ["kube-system", 3], ["shop", 4]]) {
    for (let number = 0; number < count; number += 1) await put(`/registry/pods/${space}/web-${number}`, pod(number, "node-a"));
  }
  await put("/registry/services/shop/front", '{"port":443}');
  await put("config/features", "dark_mode = on\nquota = 100\n");
  await put("greeting", "hello");
  await put("/registry/pods/shop/web-1", pod(1, "node-b"));
  await put("/registry/pods/shop/web-1", pod(1, "node-c"));
}

/** What each view shows once it has asked the server. */
const READY = { keys: ".row .name", leases: ".row .name", live: ".status:not(:empty)", cluster: "tbody tr", users: ".verdict-line" };

await run({
  async "what is put appears, in the tree and in the list"(tab) {
    await clear();
    const page = await tab();
    await open(page);
    await page.getByText("No keys").waitFor();
    etcdctl("put", "app/config/port", "8080");
    await open(page);
    // Directories without siblings are open.
    await row(page, "app/").waitFor();
    await row(page, "port").click();
    await page.locator(".value pre").waitFor();
    same(await value(page), "8080", "the value");
    await page.getByRole("button", { name: "List" }).click();
    await row(page, "app/config/port").waitFor();
    await page.getByLabel("Prefix of keys").fill("nothing/");
    await page.keyboard.press("Enter");
    await page.getByText("No keys below nothing/").waitFor();
  },

  async "a value is shown as text, as JSON and as bytes"(tab) {
    await clear();
    await put("json", '{"b":[1,2],"a":null}');
    await put("bytes", Buffer.from([0, 255, 65]).toString("latin1"));
    await call("kv/put", { key: base64("bytes"), value: Buffer.from([0, 255, 65]).toString("base64") });
    const page = await tab();
    await open(page, "#/keys?key=json");
    await page.locator(".value pre").waitFor();
    same(await value(page), '{\n  "b": [\n    1,\n    2\n  ],\n  "a": null\n}', "JSON is chosen by itself, and pretty");
    await page.getByRole("button", { name: "Text" }).click();
    same(await value(page), '{"b":[1,2],"a":null}', "the text");
    await open(page, "#/keys?key=bytes");
    await page.locator(".value pre").waitFor();
    same(await value(page), "000000  00 ff 41                                         ..A", "bytes");
  },

  async "markup in keys and values stays text"(tab) {
    await clear();
    await put("<img src=x onerror=alert(1)>", "<script>alert(2)</script>");
    const page = await tab();
    await open(page);
    await row(page, "<img").click();
    await page.locator(".value pre").waitFor();
    same(await value(page), "<script>alert(2)</script>", "the value");
    same(await page.locator("img, script:not([src])").count(), 0, "elements made of data");
  },

  async "the history goes back to the compaction, and two revisions are compared"(tab) {
    await clear();
    const revisions = [];
    for (let step = 1; step <= 5; step += 1) revisions.push(Number((await put("counter", `line\n${step}\n`)).header.revision));
    await call("kv/compaction", { revision: String(revisions[1]) });
    const shown = revisions.map((revision) => revision.toLocaleString("en-US"));
    const page = await tab();
    await open(page, "#/keys?key=counter");
    await page.getByText("older ones were compacted").waitFor();
    same(await page.locator(".mark .revision").allInnerTexts(), shown.slice(1).reverse(), "the revisions");
    await page.locator(".mark", { hasText: shown[2] }).click();
    same(await value(page), "line\n3\n", "an older value");
    await page.getByRole("button", { name: "Compare with the one before" }).click();
    same((await page.locator(".diff span:not(.same)").allInnerTexts()).map((line) => line.trim()), ["- 2", "+ 3"], "the difference");
  },

  async "an older state of all keys can be seen"(tab) {
    await clear();
    const { header } = await put("old", "then");
    await call("kv/deleterange", { key: base64("old") });
    const page = await tab();
    await open(page);
    await page.getByLabel("As of").selectOption("revision");
    await page.getByRole("textbox", { name: "Time or revision" }).fill(String(header.revision));
    await page.getByRole("button", { name: "Show", exact: true }).click();
    await row(page, "old").click();
    await page.locator(".value pre").waitFor();
    same(await value(page), "then", "the value at that revision");
    same(await page.getByRole("button", { name: "Edit" }).count(), 0, "the past cannot be edited");
    await page.getByRole("button", { name: "Back to now" }).click();
    await page.getByText("No keys").first().waitFor();
  },

  async "two people do not overwrite each other"(tab) {
    await clear();
    await put("shared", "first");
    const page = await tab();
    await open(page, "#/keys?key=shared");
    await page.getByRole("button", { name: "Edit" }).click();
    await page.getByLabel("New value").fill("mine");
    await put("shared", "theirs");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Not saved: somebody changed this key").waitFor();
    same(etcdctl("get", "shared", "--print-value-only"), "theirs\n", "nothing was overwritten");
    await screenshot(page, "conflict");
    await page.getByRole("button", { name: "Overwrite theirs" }).click();
    await settled(page);
    same(etcdctl("get", "shared", "--print-value-only"), "mine\n", "the second time it is known what is overwritten");
  },

  async "an edit keeps the lease of the key"(tab) {
    await clear();
    const { ID } = await call("lease/grant", { TTL: "300" });
    await put("leased", "one", { lease: ID });
    const page = await tab();
    await open(page, "#/keys?key=leased");
    await page.locator(".value pre").waitFor();
    await page.keyboard.press("e");
    await page.getByLabel("New value").fill("two");
    await page.keyboard.press("Control+Enter");
    await page.locator(".value pre", { hasText: "two" }).waitFor();
    const { kvs } = await call("kv/range", { key: base64("leased") });
    same(kvs[0].lease, ID, "the lease");
  },

  async "a key is made and deleted"(tab) {
    await clear();
    await put("taken", "x");
    const page = await tab();
    await open(page);
    await page.keyboard.press("n");
    await page.getByLabel("Name of the new key").fill("taken");
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByText("There is a key of this name already").waitFor();
    await page.getByLabel("Name of the new key").fill("fresh");
    await page.getByLabel("Value", { exact: true }).fill("born");
    await page.getByRole("button", { name: "Create" }).click();
    await page.locator(".value pre", { hasText: "born" }).waitFor();
    await page.getByRole("button", { name: "Delete\u2026" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByText("There is no such key now").waitFor();
    same(etcdctl("get", "fresh"), "", "it is gone");
  },

  async "the live view shows what others do as it happens"(tab) {
    await clear();
    const page = await tab();
    await open(page, "#/live?prefix=orders/");
    await page.getByText("0 events").waitFor();
    // The watch has begun when an event of it arrives; what is put before may be missed.
    for (let number = 0; (await page.locator(".row.event").count()) === 0; number += 1) {
      await put("orders/first", String(number));
      await page.waitForTimeout(50);
    }
    etcdctl("put", "orders/17", "shipped");
    await row(page, "orders/17").waitFor();
    etcdctl("del", "orders/17");
    await page.locator(".event .kind.delete").first().waitFor();
    for (let number = 0; number < 24; number += 1) await put(`orders/${number}`, `{"state":"paid","total":${number * 3}}`);
    await row(page, "orders/23").waitFor();
    await screenshot(page, "live");
  },

  // The questions of somebody who sees the page for the first time, each begun at the front page. The one about a
  // member that is down is in members.mjs.
  async "a newcomer finds the value of a key an hour ago"(tab) {
    await clear();
    await put("greeting", "hello");
    const { header } = await put("app/config/limit", "10");
    // The member notes every few seconds which revision is current.
    const noted = async () => {
      const { recent } = await (await fetch(`${process.env.SERVER}/console/data/samples`)).json();
      return recent.find(({ revision }) => revision >= Number(header.revision));
    };
    let sample = null;
    while (!(sample = await noted())) await new Promise((resolve) => setTimeout(resolve, 200));
    await put("app/config/limit", "30");
    const page = await tab();
    await page.clock.setFixedTime(sample.at_ms + 3_600_001);
    await open(page);
    await row(page, "app/").click();
    await row(page, "limit").click();
    await page.locator(".value pre", { hasText: "30" }).waitFor();
    await page.getByLabel("As of").selectOption({ label: "an hour ago" });
    await page.getByText("The keys as they were at revision").waitFor();
    await page.getByRole("heading", { name: "app/config/limit" }).waitFor();
    await page.locator(".value pre", { hasText: "10" }).waitFor();
    // The directory around the open key is open.
    await row(page, "limit").waitFor();
  },

  async "a time that the member does not know is said, and what it knows is offered"(tab) {
    await clear();
    await put("known", "1");
    const page = await tab();
    await open(page);
    await page.getByLabel("As of").selectOption({ label: "a day ago" });
    await page.getByText("This member does not know which revision was current").waitFor();
    same(await page.getByLabel("As of").inputValue(), "now", "the choice that did not work");
    await page.getByRole("button", { name: "the first time that it knows" }).click();
    await page.getByText("The keys as they were at revision").waitFor();
  },

  async "a newcomer finds who holds a lock"(tab) {
    await clear();
    await put("greeting", "hello");
    const lock = () => spawn(process.env.ETCDCTL, ["--endpoints", process.env.SERVER, "lock", "locks/deploy"], { stdio: "ignore" });
    const contenders = async () => (await call("kv/range", { key: base64("locks/"), range_end: base64("locks0") })).kvs ?? [];
    const clients = [];
    try {
      for (const number of [1, 2]) {
        clients.push(lock());
        while ((await contenders()).length < number) await new Promise((resolve) => setTimeout(resolve, 20));
      }
      const [holder, waiting] = (await contenders()).sort((a, b) => a.create_revision - b.create_revision).map(({ key }) => Buffer.from(key, "base64").toString());
      const page = await tab();
      await open(page);
      await row(page, "locks/").click();
      const name = (key) => key.split("/").at(-1);
      await page.locator(".row", { hasText: name(holder) }).getByText("holds the lock").waitFor();
      await page.locator(".row", { hasText: name(waiting) }).getByText("waits, number 2").click();
      await page.getByText("Number 2 in the line").waitFor();
      await page.locator(".note button.link").click();
      await page.getByText("This key holds the lock").waitFor();
      await page.getByText("One other waits for it").waitFor();
    } finally {
      for (const client of clients) client.kill("SIGKILL");
    }
  },

  async "keys that only look like those of a lock are not said to hold one"(tab) {
    await clear();
    await put("greeting", "hello");
    for (const name of ["0123456789abcdef", "fedcba9876543210"]) await put(`hashes/${name}`, "no lease");
    const page = await tab();
    await open(page);
    await row(page, "hashes/").click();
    await row(page, "fedcba9876543210").waitFor();
    same(await page.locator(".tag").count(), 0, "tags");
  },

  async "a newcomer finds how full the database is"(tab) {
    await clear();
    const { dbSize, dbSizeQuota } = await call("maintenance/status");
    const page = await tab();
    await open(page);
    await page.getByRole("link", { name: "Cluster" }).first().click();
    const tile = page.locator(".tile", { hasText: "Database" });
    await tile.getByText(/ % of /).waitFor();
    const text = await tile.innerText();
    const share = Math.round((Number(dbSize) / Number(dbSizeQuota)) * 100);
    holds(text.includes(share ? `${share} % of` : "less than 1 % of") && text.includes("GiB"), `the share of the quota, ${share} %: ${text}`);
    await page.getByRole("img", { name: "of the quota is used" }).waitFor();
  },

  async "a lease counts down and shows its keys"(tab) {
    await clear();
    const { ID } = await call("lease/grant", { TTL: "100" });
    await put("session/a", "1", { lease: ID });
    const page = await tab();
    await open(page, `#/leases?id=${ID}`);
    const left = page.locator(".facts div", { hasText: "time left" }).locator("dd");
    await left.filter({ hasText: /^1:\d\d$/ }).waitFor();
    const before = await left.innerText();
    await page.waitForFunction((before) => [...document.querySelectorAll(".facts dd")].every((dd) => dd.innerText !== before), before);
    await screenshot(page, "leases");
    await page.getByRole("button", { name: "session/a" }).click();
    await page.locator(".value pre").waitFor();
    await page.goBack();
    await page.getByRole("button", { name: "Revoke\u2026" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
    await page.waitForFunction(() => !document.querySelector(".detail article"));
    same(etcdctl("get", "session/a"), "", "its key is gone");
  },

  async "a hundred thousand keys are paged through"(tab) {
    await clear();
    await putMany(Array.from({ length: 100_000 }, (_, number) => `many/${String(number).padStart(6, "0")}`));
    const page = await tab();
    await open(page, "#/keys?shape=list&prefix=many/");
    await page.getByText("100,000 keys below many/").waitFor();
    const list = page.locator(".rows");
    const session = await page.context().newCDPSession(page);
    await session.send("Performance.enable");
    const spent = async () => (await session.send("Performance.getMetrics")).metrics.find(({ name }) => name === "TaskDuration").value;
    const begin = await spent();
    let steps = 0;
    for (let at = 0; at < 10_000; steps += 1) {
      // Scrolls down once all rows in view are there, until the first of them is a later one.
      const further = await page.waitForFunction((at) => {
        const names = [...document.querySelectorAll(".row")].map((row) => row.querySelector(".name")?.innerText);
        if (names.length === 0 || !names.every(Boolean)) return false;
        const first = Number(names[0].replace(/\D/g, ""));
        if (first <= at) document.querySelector(".rows").scrollTop += 3000;
        return first > at ? first : false;
      }, at);
      at = await further.jsonValue();
    }
    console.log(`        ${(((await spent()) - begin) / steps * 1000).toFixed(1)} ms of CPU a step of scrolling`);
    holds(await page.locator(".row").count() < 100, "only the rows in view are in the page");
    await list.evaluate((element) => (element.scrollTop = 0));
    await row(page, "000000").waitFor();
    // The tree passes over a directory with one request.
    await open(page, "#/keys");
    await row(page, "many/").waitFor();
    await clear();
  },

  async "it can be used with the keyboard alone"(tab) {
    await kubernetes();
    const page = await tab();
    await open(page);
    await row(page, "/registry/").waitFor();
    await page.locator(".rows").focus();
    const chosen = (name) => page.locator('.row[aria-selected="true"]', { hasText: name }).waitFor();
    await chosen("/registry/");
    for (const name of ["pods/", "default/", "web-0"]) {
      await page.keyboard.press("ArrowRight");
      await row(page, name).waitFor();
      await page.keyboard.press("j");
      await chosen(name);
    }
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "/registry/pods/default/web-0" }).waitFor();
    await page.keyboard.press("/");
    await page.keyboard.type("config/");
    await page.keyboard.press("Enter");
    await page.getByText("1 key below config/").waitFor();
    await page.locator("body").click({ position: { x: 900, y: 700 } });
    await page.keyboard.press("4");
    await page.getByText("One member, and it serves").waitFor();
    await page.keyboard.press("?");
    await page.getByRole("dialog").getByText("new key").waitFor();
  },

  async "every view is open to everybody, in light and dark, wide and narrow"(tab) {
    await kubernetes();
    const { ID } = await call("lease/grant", { TTL: "300" });
    await put("session/a", "1", { lease: ID });
    for (const options of [{ scheme: "light" }, { scheme: "dark" }, { width: 400, scheme: "light" }]) {
      const page = await tab(options);
      for (const address of ["#/keys", "#/keys?key=config/features", `#/leases?id=${ID}`, "#/live", "#/cluster", "#/users"]) {
        await open(page, address);
        await page.locator(READY[address.slice(2).split("?")[0]]).first().waitFor({ state: "attached" });
        same(await barriers(page), [], `${address} ${JSON.stringify(options)}`);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        holds(overflow <= 0, `${address} is ${overflow} pixels too wide for ${JSON.stringify(options)}`);
      }
    }
  },

  async "what the server refuses is said in its words"(tab) {
    const page = await tab();
    await open(page, "#/keys?rev=99999999");
    await page.getByText("etcdserver: mvcc: required revision is a future revision").waitFor();
  },

  async "the views as they are in the documentation"(tab) {
    await kubernetes();
    const page = await tab();
    await open(page);
    for (const name of ["/registry/", "pods/", "shop/"]) await row(page, name).click();
    await row(page, "web-1").waitFor();
    await page.locator(".row", { hasText: "web-1" }).last().click();
    await page.getByText("created at revision").waitFor();
    await page.getByRole("button", { name: "Compare with the one before" }).click();
    await screenshot(page, "keys");
    const narrow = await tab({ width: 400, height: 700, scheme: "dark" });
    await open(narrow, "#/keys?key=config/features");
    await narrow.locator(".value pre").waitFor();
    await screenshot(narrow, "narrow");
  },
});
