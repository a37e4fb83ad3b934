// Leases, the time that each has left, and the keys that go with it.

import { fromBase64, show } from "./bytes.js";
import { confirm, fill, h, trouble } from "./dom.js";
import { counted, hexId, seconds } from "./format.js";
import { Rows } from "./rows.js";
import * as server from "./server.js";

/** A lease that is in view is asked for again after this time; in between the page counts down. */
const FRESH_MS = 5000;
const ASKED_AT_ONCE = 8;

export class LeasesView {
  #ids = [];
  /** By id: `{ ttl, granted, keys, asked }`. */
  #known = new Map();
  #asking = new Set();
  #view = [0, 0];
  #abort = new AbortController();

  constructor(params, go) {
    this.go = go;
    this.status = h("p.status", { role: "status" });
    this.rows = new Rows("Leases", {
      row: (index) => this.#row(index),
      seen: (first, last) => {
        this.#view = [first, last];
        this.#ask();
      },
      open: (index) => this.#open(this.#ids[index]),
    });
    this.side = h("section.detail", { "aria-label": "Lease" });
    this.element = h("div.split", {}, h("section.browse", { "aria-label": "Leases" }, h("div.row-head.lease", {}, h("span.id", {}, "lease"), h("span.name", {}, "keys"), h("span.rev", {}, "time left")), this.rows.frame, this.status), this.side);
    this.#list().then(() => params.id && this.#open(params.id));
    this.ticking = setInterval(() => (this.rows.draw(), this.#drawSide()), 1000);
    this.listing = setInterval(() => document.hidden || this.#list(), 10_000);
    fill(this.side, h("div.hint", {}, h("p", {}, "Choose a lease to see its keys. A lease that is not renewed in time is revoked, and its keys are deleted.")));
  }

  close() {
    this.#abort.abort();
    clearInterval(this.ticking);
    clearInterval(this.listing);
  }

  async #list() {
    try {
      const found = await server.call("lease/leases", {}, this.#abort.signal);
      this.#ids = (found.leases ?? []).map((lease) => lease.ID);
      this.rows.count = this.#ids.length;
      fill(this.status, counted(this.#ids.length, "lease"));
      this.rows.whenEmpty = [h("p", {}, "There are no leases. Locks, elections and whatever else is to vanish with its owner have one.")];
    } catch (error) {
      if (!this.#abort.signal.aborted) fill(this.status, trouble(error));
    }
  }

  /** Asks for the leases in view whose time is not known, or not lately. */
  #ask() {
    const now = Date.now();
    for (const id of this.#ids.slice(...this.#view)) {
      const known = this.#known.get(id);
      if (this.#asking.size >= ASKED_AT_ONCE) return;
      if (!this.#asking.has(id) && !(known && now - known.asked < FRESH_MS)) this.#one(id);
    }
  }

  async #one(id) {
    this.#asking.add(id);
    try {
      const found = await server.call("lease/timetolive", { ID: id, keys: true }, this.#abort.signal);
      const now = Date.now();
      this.#known.set(id, { ends: now + Number(found.TTL ?? 0) * 1000, isGone: Number(found.TTL ?? 0) < 0, granted: Number(found.grantedTTL ?? 0), keys: (found.keys ?? []).map(fromBase64), asked: now });
    } catch (error) {
      if (this.#abort.signal.aborted) return;
      this.#known.set(id, { problem: error, keys: [], asked: Date.now() });
    } finally {
      this.#asking.delete(id);
    }
    this.rows.draw();
    this.#drawSide();
  }

  #left(known) {
    if (!known) return "\u2026";
    if (known.problem) return "?";
    return known.isGone ? "expired" : seconds((known.ends - Date.now()) / 1000);
  }

  #row(index) {
    const id = this.#ids[index];
    const known = this.#known.get(id);
    return h("div.lease", { class: id === this.id ? "open" : "" }, h("span.id", {}, hexId(id)), h("span.name", {}, known ? keysOf(known) : ""), h("span.rev", {}, this.#left(known)));
  }

  #open(id) {
    this.id = id;
    this.element.classList.add("has-detail");
    this.go.silently("leases", { id });
    this.#one(id);
    this.#drawSide();
    this.rows.draw();
  }

  #drawSide() {
    if (!this.id || this.side.contains(document.activeElement)) return;
    const known = this.#known.get(this.id);
    const back = () => {
      this.id = null;
      this.element.classList.remove("has-detail");
    };
    fill(
      this.side,
      h(
        "article",
        {},
        h("header", {}, h("button.back", { onclick: back, "aria-label": "Back to the list" }, "\u2190"), h("h2.key", {}, hexId(this.id))),
        known?.problem ? trouble(known.problem) : null,
        known && !known.problem ? h("dl.facts", {}, h("div", {}, h("dt", {}, "time left"), h("dd", {}, this.#left(known))), h("div", {}, h("dt", {}, "granted"), h("dd", {}, seconds(known.granted))), h("div", {}, h("dt", {}, "keys"), h("dd", {}, String(known.keys.length)))) : null,
        h("div.actions", {}, h("button.danger", { onclick: () => this.#revoke(this.id) }, "Revoke\u2026")),
        h("ul.plain", {}, (known?.keys ?? []).map((key) => h("li", {}, h("button.link", { onclick: () => this.go("keys", { key: show(key), prefix: show(key.slice(0, key.lastIndexOf("/") + 1)) }) }, show(key))))),
      ),
    );
  }

  async #revoke(id) {
    const keys = this.#known.get(id)?.keys.length ?? 0;
    if (!(await confirm(`Revoke lease ${hexId(id)}?`, `Its ${counted(keys, "key")} will be deleted at once.`, "Revoke"))) return;
    try {
      await server.call("lease/revoke", { ID: id });
      this.#known.delete(id);
      this.id = null;
      this.element.classList.remove("has-detail");
      fill(this.side);
      await this.#list();
    } catch (error) {
      fill(this.status, trouble(error));
    }
  }
}

/** The first key, and how many there are beside it. */
const keysOf = ({ keys }) => (keys.length === 0 ? "no keys" : `${show(keys[0])}${keys.length > 1 ? ` and ${keys.length - 1} more` : ""}`);
