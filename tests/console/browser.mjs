// What every test of the console has: a browser, a page that complains about its own errors, and a way to the server.

import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";
import path from "node:path";

// LATE_MS: pages get each answer, and draw, this much later. A step that does not wait for what it needs fails then.
const { TOOLS, SERVER, SCREENSHOTS, CASES = "", LATE_MS = "0" } = process.env;
const require = createRequire(path.join(TOOLS, "package.json"));
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export const PAGE = `${SERVER}/console`;
export const base64 = (text) => Buffer.from(text).toString("base64");

/** A call of the gateway, as somebody else would make it. */
export async function call(path, body = {}) {
  const response = await fetch(`${SERVER}/v3/${path}`, { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(JSON.stringify(answer));
  return answer;
}

export const put = (key, value, more = {}) => call("kv/put", { key: base64(key), value: base64(value), ...more });

/** Puts many keys, a hundred a transaction. */
export async function putMany(keys) {
  for (let at = 0; at < keys.length; at += 100) {
    const success = keys.slice(at, at + 100).map((key) => ({ request_put: { key: base64(key), value: base64(`value of ${key}`) } }));
    await call("kv/txn", { success });
  }
}

export async function clear() {
  await call("kv/deleterange", { key: base64("\0"), range_end: base64("\0") });
}

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });

/** A tab. It remembers what the page did wrong: errors, and requests to anywhere else. */
export async function tab(browser, { width = 1280, height = 800, scheme = "light" } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme });
  // A machine that is busy with other tests is slow, not wrong.
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`error: ${error}`));
  page.on("console", (message) => {
    // A refusal of the server is an answer, which Chromium reports as a failed resource.
    if (message.type() === "error" && !/Failed to load resource/.test(message.text())) page.faults.push(message.text());
  });
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== SERVER) page.faults.push(`a request to ${request.url()}`);
  });
  if (Number(LATE_MS)) await slow(page, Number(LATE_MS));
  return page;
}

async function slow(page, late_ms) {
  await page.addInitScript((late_ms) => {
    const draw = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (then) => setTimeout(() => draw(then), late_ms);
  }, late_ms);
  await page.route("**/v3/**", async (route) => {
    await new Promise((resolve) => setTimeout(resolve, late_ms));
    await route.continue().catch(() => {});
  });
}

/** Opens a view, and waits until it shows something. */
export async function open(page, address = "") {
  await page.goto("about:blank");
  await page.goto(`${PAGE}${address}`);
  await page.locator("nav a[aria-current]").waitFor();
}

export const row = (page, text) => page.locator(".row", { hasText: text }).first();

export function same(actual, expected, what) {
  const [a, b] = [actual, expected].map((value) => JSON.stringify(value));
  if (a !== b) throw new Error(`${what}: expected ${b}, got ${a}`);
}

export function holds(condition, what) {
  if (!condition) throw new Error(what);
}

/** What axe finds that keeps people out: serious and critical findings. */
export async function barriers(page) {
  // The policy of the page forbids scripts of others, so axe comes through the debugger.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  return serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target.join(" ")).join(", ")}`);
}

export async function screenshot(page, name) {
  if (!SCREENSHOTS) return;
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: path.join(SCREENSHOTS, `console-${name}.png`) });
}

/** Runs the cases in order, or those with CASES in their name. One that fails is reported, and the others still run. */
export async function run(cases) {
  const browser = await launch();
  let failures = 0;
  for (const [name, test] of Object.entries(cases).filter(([name]) => name.includes(CASES))) {
    const pages = [];
    const make = async (options) => {
      const page = await tab(browser, options);
      pages.push(page);
      return page;
    };
    try {
      await test(make);
      const faults = pages.flatMap((page) => page.faults);
      if (faults.length) throw new Error(faults.join("; "));
      console.log(`ok      ${name}`);
    } catch (error) {
      failures += 1;
      console.log(`FAILED  ${name}: ${error.message}`);
      for (const page of pages) console.log((await page.locator("body").innerText().catch(() => "")).split("\n").map((line) => `        | ${line}`).join("\n"));
    }
    for (const page of pages) await page.context().close();
  }
  await browser.close();
  process.exit(failures ? 1 : 0);
}
