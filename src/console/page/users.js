// Users and roles, and what they may do.

import { fromBase64, prefixEnd, show } from "./bytes.js";
import { fill, h, trouble } from "./dom.js";
import * as server from "./server.js";

const KINDS = { READ: "read", WRITE: "write", READWRITE: "read and write" };

export class UsersView {
  #abort = new AbortController();

  constructor() {
    this.body = h("div");
    this.element = h("section.column.wide-column", { "aria-label": "Users" }, this.body);
    this.#load();
  }

  close() {
    this.#abort.abort();
  }

  async #load() {
    const { signal } = this.#abort;
    try {
      const [status, users, roles] = await Promise.all([server.call("auth/status", {}, signal), server.call("auth/user/list", {}, signal), server.call("auth/role/list", {}, signal)]);
      const [userRoles, permissions] = await Promise.all([
        Promise.all((users.users ?? []).map(async (name) => [name, (await server.call("auth/user/get", { name }, signal)).roles ?? []])),
        Promise.all((roles.roles ?? []).map(async (role) => [role, (await server.call("auth/role/get", { role }, signal)).perm ?? []])),
      ]);
      this.#draw(Boolean(status.enabled), userRoles, permissions);
    } catch (error) {
      if (!signal.aborted) fill(this.body, trouble(error));
    }
  }

  #draw(isEnabled, users, roles) {
    const table = (titles, rows, nothing) =>
      rows.length ? h("div.scroll", { tabindex: 0, role: "region", "aria-label": titles[0] }, h("table", {}, h("thead", {}, h("tr", {}, titles.map((title) => h("th", { scope: "col" }, title)))), h("tbody", {}, rows))) : h("p.faint", {}, nothing);
    fill(
      this.body,
      h("p.verdict-line", { class: isEnabled ? "good" : "warn" }, isEnabled ? "Authentication is on: every call needs a user, and what the roles of the user permit." : "Authentication is off: whoever reaches the client port can read and change everything."),
      isEnabled ? null : h("p", {}, "To turn it on:"),
      isEnabled ? null : h("pre", {}, "etcdctl user add root\netcdctl user grant-role root root\netcdctl auth enable"),
      h("h2", {}, "Users"),
      table(["user", "roles"], users.map(([name, names]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, names.join(", ") || "none"))), "There are no users."),
      h("h2", {}, "Roles"),
      table(["role", "may", "keys"], roles.flatMap(([role, list]) => (list.length ? list : [null]).map((permission, index) => h("tr", {}, h("th", { scope: "row" }, index ? "" : role), ...allowed(role, permission)))), "There are no roles."),
    );
  }
}

function allowed(role, permission) {
  if (!permission) return [h("td", {}, role === "root" ? "everything" : "nothing"), h("td", {})];
  const [key, end] = [fromBase64(permission.key), fromBase64(permission.range_end)];
  const isAll = (key === "\0" || key === "") && end === "\0";
  const where = isAll ? "all keys" : !end ? show(key) : end === "\0" ? `${show(key)} and all behind` : prefixEnd(key) === end ? `${show(key)}\u2026` : `${show(key)} up to ${show(end)}`;
  return [h("td", {}, KINDS[permission.permType ?? "READ"]), h("td", {}, h("code", {}, where))];
}
