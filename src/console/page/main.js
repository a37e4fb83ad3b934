// The frame of the page: which view is shown, the keys of the keyboard, light and dark, and who is logged in.

import { ClusterView } from "./cluster.js";
import { fill, h, trouble } from "./dom.js";
import { count } from "./format.js";
import { judge } from "./health.js";
import { KeysView } from "./keys.js";
import { LeasesView } from "./leases.js";
import { LiveView } from "./live.js";
import * as samples from "./samples.js";
import * as server from "./server.js";
import { UsersView } from "./users.js";

const VIEWS = {
  keys: { title: "Keys", View: KeysView, key: "1" },
  live: { title: "Live", View: LiveView, key: "2" },
  leases: { title: "Leases", View: LeasesView, key: "3" },
  cluster: { title: "Cluster", View: ClusterView, key: "4" },
  users: { title: "Users", View: UsersView, key: "5" },
};

const KEYBOARD = [
  ["1 to 5", "go to Keys, Live, Leases, Cluster, Users"],
  ["/", "type a prefix"],
  ["j k \u2193 \u2191", "move in a list; Enter opens, \u2192 \u2190 open and close a directory"],
  ["n", "new key"],
  ["e", "edit the key that is open"],
  ["w", "watch the key that is open"],
  ["p", "pause the live view"],
  ["t", "light, dark, or as the system"],
  ["?", "this help"],
];

const IDENTITY_POLL_MS = 5000;

let view = null;
let shown = null;

/** What is shown is in the address, so that it can be kept and sent. */
function address() {
  const [name, query] = location.hash.slice(2).split("?");
  return { name: VIEWS[name] ? name : "keys", params: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

function url(name, params) {
  const said = Object.entries(params).filter(([, value]) => value !== undefined && value !== "" && value !== 0 && value !== "0");
  const query = new URLSearchParams(said.map(([key, value]) => [key, String(value)])).toString();
  return `#/${name}${query ? `?${query}` : ""}`;
}

function go(name, params = {}) {
  const target = url(name, params);
  if (location.hash === target) open();
  else location.hash = target;
}

/** Changes the address to fit what is shown already. */
go.silently = (name, params) => history.replaceState(null, "", url(name, params));

const main = h("main", { tabindex: -1 });
const identity = h("div.identity");
const tabs = h("nav", { "aria-label": "Views" });
const session = h("div.session");

function frame() {
  fill(
    document.body,
    h(
      "header.bar",
      {},
      h("a.brand", { href: "#/keys" }, "retcd"),
      tabs,
      identity,
      h("button.quiet", { onclick: help, title: "Keyboard (?)", "aria-label": "Keys of the keyboard" }, "?"),
      h("button.quiet", { onclick: nextTheme, title: "Light or dark (t)", "aria-label": "Light or dark" }, "\u25d0"),
      session,
    ),
    main,
  );
}

function drawTabs(current) {
  fill(tabs, Object.entries(VIEWS).map(([name, { title }]) => h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, title)));
}

function open() {
  const { name, params } = address();
  view?.close();
  drawTabs(name);
  const isOther = shown !== name;
  shown = name;
  document.title = `${VIEWS[name].title} \u00b7 retcd`;
  view = new VIEWS[name].View(params, go);
  fill(main, view.element);
  if (isOther) main.focus({ preventScroll: true });
}

/** How the cluster is, wherever somebody is on the page. */
async function identify() {
  const show = (level, short, why, revision) =>
    fill(identity, h("a.badge", { href: "#/cluster", class: level, title: why }, h("span.dot", { class: level }), short), revision === undefined ? null : h("span.faint", {}, `revision ${count(revision)}`));
  try {
    const answer = await server.ask("members");
    const { level, short, text, newest } = judge(answer);
    show(level, short, text, newest);
  } catch (error) {
    if (error.asksForLogin) return;
    // Who may not see the members can still use the keys.
    if (/permission denied/.test(error.message)) fill(identity);
    else show("bad", error instanceof TypeError ? "no connection" : "refused", error.message);
  }
}

function loginForm(message) {
  view?.close();
  view = null;
  shown = null;
  const name = h("input", { autocomplete: "username", autofocus: true, required: true });
  const password = h("input", { type: "password", autocomplete: "current-password" });
  const problem = h("div", {}, message ? h("p.trouble", { role: "alert" }, message) : null);
  const submit = async (event) => {
    event.preventDefault();
    try {
      await server.logIn(name.value, password.value);
      start();
    } catch (error) {
      fill(problem, trouble(error));
      password.select();
    }
  };
  fill(tabs);
  fill(identity);
  fill(session);
  fill(main, h("form.login.stack", { onsubmit: submit }, h("h1", {}, "Log in"), h("label", {}, "User", name), h("label", {}, "Password", password), h("button.primary", {}, "Log in"), problem, h("p.faint", {}, "The login lasts as long as this page is open.")));
  name.focus();
}

function help() {
  const dialog = h("dialog", { "aria-label": "Keyboard", onclose: () => dialog.remove() }, h("h2", {}, "Keyboard"), h("table", {}, h("tbody", {}, KEYBOARD.map(([keys, what]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, keys)), h("td", {}, what))))), h("div.actions", {}, h("button", { onclick: () => dialog.close(), autofocus: true }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

const THEMES = ["", "light", "dark"];

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("theme", name);
}

const nextTheme = () => theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length]);

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select, dialog");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const wanted = Object.entries(VIEWS).find(([, { key }]) => key === event.key);
  if (wanted && view) go(wanted[0]);
  else if (event.key === "/") view?.search?.();
  else if (event.key === "?") help();
  else if (event.key === "t") nextTheme();
  else if (!view?.command?.(event.key)) return;
  event.preventDefault();
});

/** Opens the view of the address, or asks who is there. */
async function start() {
  try {
    const { enabled } = await server.call("auth/status");
    if (enabled && !server.isLoggedIn()) return loginForm();
  } catch (error) {
    if (error.asksForLogin) return undefined;
    fill(main, trouble(error), h("p", {}, h("button", { onclick: start }, "Try again")));
    return undefined;
  }
  const leave = () => {
    server.logOut();
    loginForm();
  };
  fill(session, server.isLoggedIn() ? h("button.quiet", { onclick: leave }, "Log out") : null);
  // Views say when a revision was made, where the member knows it.
  await samples.refresh().catch(() => {});
  open();
  identify();
  return undefined;
}

server.login.listener = (refusal) => {
  if (view) loginForm(refusal.message);
};
theme(localStorage.getItem("theme") ?? "");
frame();
addEventListener("hashchange", () => view && open());
setInterval(() => view && !document.hidden && identify(), IDENTITY_POLL_MS);
start();
