// The key browser: a tree or a flat list of what is below a prefix, now or at an older revision, and beside it one key.

import { parse, show } from "./bytes.js";
import { fill, h, trouble } from "./dom.js";
import { count, moment } from "./format.js";
import { Flat, TREE_ROWS_MAX, Tree } from "./listing.js";
import { Rows } from "./rows.js";
import * as samples from "./samples.js";
import { KeyView, NewKey } from "./value.js";

const AGES = [
  ["5 minutes ago", 5],
  ["15 minutes ago", 15],
  ["an hour ago", 60],
  ["6 hours ago", 6 * 60],
  ["a day ago", 24 * 60],
];

export class KeysView {
  #listing;
  #abort = new AbortController();
  #detail = null;

  constructor(params, go) {
    this.go = go;
    this.params = { prefix: "", shape: "tree", rev: 0, ...params };
    this.params.rev = Number(this.params.rev);
    this.prefix = parse(this.params.prefix);
    this.status = h("p.status", { role: "status" });
    this.rows = new Rows("Keys", {
      row: (index) => this.#row(index),
      seen: (first, last) => this.#want(first, last),
      open: (index) => this.#open(index),
      key: (key, index) => this.#step(key, index),
    });
    this.notice = h("div.notice");
    this.side = h("section.detail", { "aria-label": "Key" });
    this.element = h(
      "div.split",
      {},
      h("section.browse", { "aria-label": "Keys" }, this.#tools(), this.notice, this.#past(), h("div.row-head", {}, h("span.name", {}, "key"), h("span.rev", {}, "changed at revision")), this.rows.frame, this.status),
      this.side,
    );
    this.#list();
    this.#show(this.params.key === undefined ? null : parse(this.params.key));
  }

  close() {
    this.#abort.abort();
    this.#detail?.close?.();
  }

  /** Puts the cursor where the prefix is typed. */
  search() {
    this.input.select();
  }

  command(key) {
    if (key === "n") this.#create();
    else return this.#detail?.command?.(key) ?? false;
    return true;
  }

  #tools() {
    this.input = h("input", {
      type: "search",
      value: this.params.prefix,
      placeholder: "prefix, for example /registry/",
      "aria-label": "Prefix of keys",
      spellcheck: "false",
      autocapitalize: "off",
    });
    const shape = (name, label) =>
      h("button.segment", { type: "button", "aria-pressed": String(this.params.shape === name), onclick: () => this.#to({ shape: name }) }, label);
    const submit = (event) => {
      event.preventDefault();
      this.#to({ prefix: this.input.value, key: undefined });
    };
    return h(
      "form.tools",
      { role: "search", onsubmit: submit },
      this.input,
      this.#when(),
      h("div.segments", { role: "group", "aria-label": "Shape of the list" }, shape("tree", "Tree"), shape("list", "List")),
      h("button.last", { type: "button", onclick: () => this.#create(), title: "New key (n)" }, "New key"),
    );
  }

  /** The choice of the time or revision that is shown. */
  #when() {
    const select = h(
      "select",
      { "aria-label": "As of", onchange: () => this.#at(select.value) },
      h("option", { value: "now" }, "now"),
      AGES.map(([label, minutes]) => h("option", { value: String(minutes) }, label)),
      h("option", { value: "revision" }, "a time or revision\u2026"),
      this.params.rev ? h("option", { value: "keep", selected: true }, `revision ${count(this.params.rev)}`) : null,
    );
    return h("div.as-of", {}, h("span", { "aria-hidden": "true" }, "As of"), select);
  }

  async #at(choice) {
    if (choice === "now") return this.#to({ rev: 0 });
    if (choice === "revision") return this.#ask();
    await samples.refresh().catch(() => {});
    const wanted = Date.now() - Number(choice) * 60_000;
    const sample = samples.at(wanted);
    if (sample) return this.#to({ rev: sample.revision });
    this.#reset();
    const oldest = samples.oldest();
    return fill(
      this.notice,
      h("p.past", { role: "alert" }, `This member does not know which revision was current at ${moment(wanted)}, because it notes that only while it runs. `, oldest ? h("button.link", { type: "button", onclick: () => this.#to({ rev: oldest.revision }) }, `Show the keys as they were at ${moment(oldest.at_ms)}, the first time that it knows`) : null),
    );
  }

  #ask() {
    const input = h("input", { placeholder: "14:30, or a revision such as 1200", "aria-label": "Time or revision", autofocus: true });
    const problem = h("p.trouble", { role: "alert" });
    const submit = (event) => {
      event.preventDefault();
      const revision = /^\d+$/.test(input.value.trim()) ? Number(input.value) : this.#revisionAt(input.value.trim());
      if (revision) {
        dialog.remove();
        this.#to({ rev: revision });
      } else {
        fill(problem, `Enter a time${samples.oldest() ? ` since ${moment(samples.oldest().at_ms)}` : ""}, as 14:30, 14:30:15 or 2026-01-31 14:30, or the number of a revision.`);
      }
    };
    const dialog = h(
      "dialog",
      { "aria-label": "Show the keys as they were", onclose: () => (dialog.remove(), this.#reset()) },
      h("form", { onsubmit: submit }, h("h2", {}, "Show the keys as they were"), input, problem, h("div.actions", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), h("button.primary", {}, "Show"))),
    );
    document.body.append(dialog);
    dialog.showModal();
  }

  #revisionAt(text) {
    const today = new Date().toLocaleDateString("en-CA");
    const ms = Date.parse(/^\d?\d:\d\d(:\d\d)?$/.test(text) ? `${today}T${text.padStart(5, "0")}` : text.replace(" ", "T"));
    return Number.isNaN(ms) ? null : samples.at(ms)?.revision;
  }

  #reset() {
    this.element.querySelector("select").value = this.params.rev ? "keep" : "now";
  }

  #past() {
    if (!this.params.rev) return null;
    const { from, to } = samples.when(this.params.rev);
    const time = to ? `, made ${from ? `between ${moment(from)} and` : "before"} ${moment(to)}` : "";
    return h("p.past", {}, `The keys as they were at revision ${count(this.params.rev)}${time}. `, h("button.link", { onclick: () => this.#to({ rev: 0 }) }, "Back to now"));
  }

  #to(change) {
    this.go("keys", { ...this.params, ...change });
  }

  #list() {
    const Listing = this.params.shape === "list" ? Flat : Tree;
    this.#listing = new Listing(this.prefix, this.params.rev, () => this.#changed(), this.params.key === undefined ? null : parse(this.params.key));
    this.rows.count = this.#listing.length;
  }

  #changed() {
    const listing = this.#listing;
    this.rows.count = listing.length;
    const nothing = listing.length === 0 || (listing.length === 1 && listing.row(0).kind === "gone");
    const where = this.prefix ? ` below ${show(this.prefix)}` : "";
    if (nothing || listing.count === 0) {
      fill(this.status, `No keys${where}${this.params.rev ? ` at revision ${count(this.params.rev)}` : ""}.`);
      this.rows.whenEmpty = this.prefix || this.params.rev ? [] : [h("p", {}, "Nothing is stored yet. Make a key here with \u201cNew key\u201d, or in a shell with:"), h("pre", {}, "etcdctl put greeting hello")];
    }
    else if (listing.count !== null) fill(this.status, `${count(listing.count)} key${listing.count === 1 ? "" : "s"}${where}`);
  }

  async #want(first, last) {
    try {
      await this.#listing.want(first, last, this.#abort.signal);
    } catch (error) {
      if (!this.#abort.signal.aborted) fill(this.status, trouble(error));
    }
  }

  #row(index) {
    const row = this.#listing.row(index);
    const indent = { class: `depth-${Math.min(row.depth ?? 0, 9)}` };
    switch (row.kind) {
      case "key": {
        const isOpen = row.pair.key === this.key;
        return h("div", { class: `${indent.class} ${isOpen ? "open" : ""}`, title: show(row.pair.key) }, this.params.shape === "tree" ? h("span.twist") : null, h("span.name", {}, show(row.label) || "(the prefix itself)"), tag(row), h("span.rev", {}, count(row.pair.modified)));
      }
      case "directory":
        return h("div.directory", { ...indent, title: show(row.path) }, h("span.twist", { "aria-hidden": "true" }, row.isOpen ? "\u25be" : "\u25b8"), h("span.name", {}, show(row.label)));
      case "gone":
        return h("div.faint", {}, "(deleted meanwhile)");
      default:
        return h("div.faint", indent, row.isFull ? `More than ${count(TREE_ROWS_MAX)} rows: type a longer prefix, or choose List` : "\u2026");
    }
  }

  #open(index) {
    const row = this.#listing.row(index);
    if (row.kind === "directory") this.#listing.toggle(index);
    else if (row.kind === "key") this.#show(row.pair.key);
  }

  /** Left and right close and open directories. */
  #step(key, index) {
    const row = this.#listing.row(index);
    const isStep = row?.kind === "directory" && { ArrowRight: !row.isOpen, ArrowLeft: row.isOpen }[key];
    if (isStep) this.#listing.toggle(index);
    return Boolean(isStep);
  }

  #replace(detail) {
    this.#detail?.close?.();
    this.#detail = detail;
    this.element.classList.toggle("has-detail", detail !== null);
  }

  #show(key) {
    this.key = key;
    this.params.key = key === null ? undefined : show(key);
    if (key === null) {
      this.#replace(null);
      fill(this.side, hint());
      return;
    }
    const actions = {
      back: () => this.#show(null),
      changed: () => this.#list(),
      watch: (of) => this.go("live", { prefix: show(of), exact: "1" }),
      lease: (id) => this.go("leases", { id }),
      // Opens another key beside the same list.
      open: (other) => this.#show(other),
    };
    this.#replace(new KeyView(key, this.params.rev, actions));
    fill(this.side, this.#detail.element);
    this.go.silently("keys", this.params);
    this.rows.draw();
  }

  #create() {
    this.#replace(new NewKey(this.prefix, { back: () => this.#show(null), created: (key) => (this.#list(), this.#show(key)) }));
    fill(this.side, this.#detail.element);
    this.#detail.element.querySelector("input").focus();
  }
}

/** The turn of a key in a lock or an election. */
function tag({ turn }) {
  if (turn === 1) return h("span.tag.holds", { title: "the first in the line holds the lock, or is elected" }, "holds the lock");
  return turn ? h("span.tag", { title: "this key waits for the lock, or to be elected" }, `waits, number ${turn}`) : null;
}

const hint = () =>
  h(
    "dl.hint",
    {},
    [
      ["A value and its history", "Choose a key."],
      ["How everything was an hour ago", "Choose another time beside \u201cAs of\u201d. A key that is open stays open."],
      ["Who holds a lock", "Open the directory with the name of the lock. The key that holds it says so."],
      ["How healthy the cluster is, and how full", ["Open ", h("a", { href: "#/cluster" }, "Cluster"), "."]],
      ["All this from the keyboard", ["Press ", h("kbd", {}, "?"), "."]],
    ].map(([question, answer]) => h("div", {}, h("dt", {}, question), h("dd", {}, answer))),
  );
