// One key: its value in three renderings, its history back to the compaction, and changes that cannot overwrite what
// somebody else wrote meanwhile.

import { fromText, hexDump, parse, prefixEnd, show, toText } from "./bytes.js";
import { diff, LINES_MAX } from "./diff.js";
import { confirm, fill, h, trouble } from "./dom.js";
import { count, hexId, minute, moment, seconds, size } from "./format.js";
import { CONTENDER, lockOf } from "./listing.js";
import * as samples from "./samples.js";
import * as server from "./server.js";

/** How much of a value is shown before "show all". */
const SHOWN_BYTES = 64 * 1024;
/** Revisions that are asked for at a time, one request each. */
const HISTORY_STEP = 12;

const pretty = (bytes) => {
  const text = toText(bytes);
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null;
  }
};

const isObject = (bytes) => /^\s*[[{]/.test(bytes) && pretty(bytes) !== null;

/** How a value is shown at first. */
const natural = (bytes) => (isObject(bytes) ? "json" : toText(bytes) === null || bytes.includes("\0") ? "hex" : "text");

function rendered(bytes, form) {
  if (form === "hex") return hexDump(bytes);
  if (form === "json") return pretty(bytes) ?? "This value is not JSON.";
  return toText(bytes) ?? "This value is not text in UTF-8: choose Hex.";
}

function segments(label, chosen, options, choose) {
  return h(
    "div.segments",
    { role: "group", "aria-label": label },
    options.map(([name, text]) => h("button.segment", { type: "button", "aria-pressed": String(chosen === name), onclick: () => choose(name) }, text)),
  );
}

function time(revision) {
  const { from, to } = samples.when(revision);
  if (!to) return null;
  return from ? `between ${moment(from)} and ${moment(to)}` : `before ${moment(to)}`;
}

/** About when a revision was made, in few letters; empty where that is not known. */
function about(revision) {
  const { from, to } = samples.when(revision);
  return from && to ? minute(to) : "";
}

export class KeyView {
  #abort = new AbortController();
  #pair = null;
  /** Newest first; what has been asked for so far. */
  #history = [];
  #historyEnd = null;
  /** The revision that is shown, and the one it is compared with, or null. */
  #shown = null;
  #against = null;
  #form = null;
  #isWhole = false;

  /** `actions`: `back`, `changed`, `watch(key)`, `lease(id)`, `open(key)`. */
  constructor(key, revision, actions) {
    Object.assign(this, { key, revision, actions });
    this.facts = h("dl.facts");
    this.body = h("div.value");
    this.timeline = h("div.timeline", { role: "group", "aria-label": "History" });
    this.place = h("div.place");
    this.forms = h("div.actions.forms");
    this.buttons = h("div.actions");
    this.element = h(
      "article",
      {},
      h("header", {}, h("button.back", { onclick: actions.back, "aria-label": "Back to the list" }, "\u2190"), h("h2.key", {}, show(key)), this.buttons),
      this.place,
      this.facts,
      this.timeline,
      this.forms,
      this.body,
    );
    this.#load();
  }

  close() {
    this.#abort.abort();
    clearInterval(this.ticking);
  }

  command(key) {
    if (key === "e" && this.#pair && !this.revision) this.#edit();
    else if (key === "w") this.actions.watch(this.key);
    else return false;
    return true;
  }

  async #load() {
    try {
      this.#pair = await server.get(this.key, this.revision, this.#abort.signal);
    } catch (error) {
      if (!this.#abort.signal.aborted) fill(this.body, trouble(error));
      return;
    }
    this.#history = this.#pair ? [this.#pair] : [];
    this.#historyEnd = null;
    [this.#shown, this.#against] = [this.#pair, null];
    this.#form ??= natural(this.#pair?.value ?? "");
    this.#draw();
    if (this.#pair) {
      this.#line().catch(() => {});
      this.#older();
    }
  }

  #draw() {
    this.#drawFacts();
    this.#drawButtons();
    this.#drawTimeline();
    this.#drawValue();
  }

  #drawFacts() {
    const pair = this.#shown;
    if (!pair) {
      fill(this.facts, h("dd", {}, this.revision ? `There was no such key at revision ${count(this.revision)}.` : "There is no such key now. An older revision may have it: choose another time above the list."));
      return;
    }
    const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    const made = time(pair.modified);
    fill(
      this.facts,
      fact("modified", count(pair.modified), made ? h("span.faint", {}, ` ${made}`) : null),
      fact("created", count(pair.created)),
      fact("version", count(pair.version)),
      fact("size", size(pair.value.length)),
      pair.lease === "0" ? null : fact("lease", h("button.link", { onclick: () => this.actions.lease(pair.lease) }, hexId(pair.lease)), (this.remaining = h("span.faint"))),
    );
    if (pair.lease !== "0") this.#countDown(pair.lease);
  }

  async #countDown(lease) {
    clearInterval(this.ticking);
    const element = this.remaining;
    try {
      const found = await server.call("lease/timetolive", { ID: lease }, this.#abort.signal);
      const end = Date.now() + Number(found.TTL ?? 0) * 1000;
      const tick = () => fill(element, Number(found.TTL ?? -1) < 0 ? " expired" : ` ${seconds((end - Date.now()) / 1000)} left if it is not renewed`);
      tick();
      this.ticking = setInterval(tick, 1000);
    } catch {
      fill(element, "");
    }
  }

  #drawButtons() {
    const isNow = this.#pair && !this.revision && this.#shown === this.#pair;
    fill(
      this.buttons,
      isNow ? h("button", { onclick: () => this.#edit(), title: "Edit (e)" }, "Edit") : null,
      h("button", { onclick: () => this.actions.watch(this.key), title: "See its changes as they come (w)" }, "Watch"),
      isNow ? h("button", { onclick: () => this.#delete() }, "Delete\u2026") : null,
    );
    // Browsers have a clipboard for pages on this machine, or with TLS.
    const copy = (event) => {
      navigator.clipboard.writeText(toText(this.#shown.value) ?? hexDump(this.#shown.value));
      fill(event.target, "Copied");
    };
    fill(
      this.forms,
      this.#shown
        ? [
            h("h3", {}, this.#against ? "Difference" : "Value"),
            segments("Rendering", this.#form, [["text", "Text"], ["json", "JSON"], ["hex", "Hex"]], (form) => {
              this.#form = form;
              this.#draw();
            }),
            navigator.clipboard ? h("button", { onclick: copy }, "Copy") : null,
          ]
        : null,
    );
  }

  /** Asks for older revisions of this life of the key, each at the revision before the one that is known. */
  async #older() {
    try {
      for (let step = 0; step < HISTORY_STEP && !this.#historyEnd; step += 1) {
        const oldest = this.#history.at(-1);
        if (oldest.version <= 1) this.#historyEnd = `created at revision ${count(oldest.created)}`;
        else this.#history.push(await server.get(this.key, oldest.modified - 1, this.#abort.signal));
      }
    } catch (error) {
      if (this.#abort.signal.aborted) return;
      this.#historyEnd = error.isCompacted ? "older ones were compacted" : error.message;
    }
    this.#drawTimeline();
  }

  #drawTimeline() {
    if (!this.#pair) {
      fill(this.timeline);
      return;
    }
    const mark = (pair) => {
      const role = pair === this.#shown ? "shown" : pair === this.#against ? "against" : "";
      const choose = (event) => {
        if (event.shiftKey && pair !== this.#shown) this.#against = pair;
        else [this.#shown, this.#against] = [pair, null];
        this.#draw();
      };
      return h("button.mark", { class: role, "aria-pressed": String(pair === this.#shown), title: time(pair.modified) ?? "", onclick: choose }, h("span.revision", {}, count(pair.modified)), about(pair.modified) ? h("span.time", {}, about(pair.modified)) : null);
    };
    const previous = this.#history[this.#history.indexOf(this.#shown) + 1];
    const compare = (other) => {
      this.#against = this.#against === other ? null : other;
      this.#draw();
    };
    fill(
      this.timeline,
      h("span.label", {}, "History"),
      this.#history.map(mark),
      this.#historyEnd ? h("span.faint", {}, this.#historyEnd) : h("button.link", { onclick: () => this.#older() }, "older"),
      previous ? h("button.link", { "aria-pressed": String(this.#against === previous), onclick: () => compare(previous) }, "Compare with the one before") : null,
      this.#history.length > 2 ? h("span.faint.wide", {}, "Shift and click compares with any.") : null,
    );
  }

  #drawValue() {
    const pair = this.#shown;
    if (!pair) {
      fill(this.body);
      return;
    }
    if (this.#against) {
      fill(this.body, difference(this.#against, pair, this.#form));
      return;
    }
    if (pair.value === "") {
      fill(this.body, h("p.faint", {}, "The value is empty."));
      return;
    }
    const isCut = !this.#isWhole && pair.value.length > SHOWN_BYTES && this.#form !== "json";
    const bytes = isCut ? pair.value.slice(0, SHOWN_BYTES) : pair.value;
    // A cut in the middle of a character would make the text unreadable.
    const text = isCut && this.#form === "text" ? new TextDecoder().decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0))) : rendered(bytes, this.#form);
    const all = () => {
      this.#isWhole = true;
      this.#drawValue();
    };
    fill(
      this.body,
      h("pre", { tabindex: 0, "aria-label": "Value" }, text),
      isCut ? h("p", {}, `The first ${size(SHOWN_BYTES)} of ${size(pair.value.length)}. `, h("button.link", { onclick: all }, "Show all")) : null,
    );
  }

  /** Of the key of a lock or an election: says whose turn it is. */
  async #line() {
    const lock = lockOf(this.#pair);
    if (lock === null) return;
    const name = `${lock}/`;
    const found = await server.keys(name, prefixEnd(name), 500, this.revision, this.#abort.signal);
    const contenders = found.pairs.filter((pair) => CONTENDER.test(pair.key.slice(name.length))).sort((a, b) => a.created - b.created);
    const place = contenders.findIndex((pair) => pair.key === this.key);
    const holder = contenders[0];
    const since = `since revision ${count(holder.created)}${about(holder.created) ? `, about ${about(holder.created)}` : ""}`;
    const others = contenders.length - 1;
    const who = toText(this.#pair.value);
    fill(
      this.place,
      place === 0
        ? h("p.note", {}, "This key holds the lock or election ", h("code", {}, show(lock)), `, ${since}. `, others ? `${others === 1 ? "One other waits" : `${count(others)} others wait`} for it. ` : "Nobody waits for it. ", who ? ["Its holder wrote into it: ", h("code", {}, show(fromText(who.slice(0, 100))))] : null)
        : h("p.note", {}, `Number ${place + 1} in the line for the lock or election `, h("code", {}, show(lock)), ". It is held by ", h("button.link", { onclick: () => this.actions.open(holder.key) }, show(holder.key)), `, ${since}.`),
    );
  }

  #edit() {
    const text = toText(this.#pair.value);
    if (text === null) {
      fill(this.body, h("p.trouble", { role: "alert" }, "This value is not text. Change it with a program that writes it, or with etcdctl."));
      return;
    }
    const done = () => {
      this.#form = null;
      this.#load();
      this.actions.changed();
    };
    this.#against = null;
    this.#drawTimeline();
    fill(this.forms, h("h3", {}, "New value"));
    fill(this.body, editor(this.#pair, text, { done, cancel: () => this.#draw() }));
    this.body.querySelector("textarea").focus();
  }

  async #delete() {
    const pair = this.#pair;
    const sure = await confirm(`Delete ${show(this.key)}?`, `Its value of ${size(pair.value.length)} stays readable at revision ${count(pair.modified)} until the history is compacted.`, "Delete");
    if (!sure) return;
    try {
      const conflict = await server.remove(this.key, pair.modified);
      if (conflict) {
        fill(this.body, h("p.trouble", { role: "alert" }, conflict.current ? `Not deleted: the key was changed at revision ${conflict.current.modified}, after you opened it. It is shown again as it is now.` : "The key had been deleted already."));
        this.#pair = conflict.current;
        this.#shown = conflict.current;
        this.#history = conflict.current ? [conflict.current] : [];
        this.#drawFacts();
        this.#drawButtons();
        return;
      }
      await this.#load();
      this.actions.changed();
    } catch (error) {
      fill(this.body, trouble(error));
    }
  }
}

function difference(before, after, form) {
  const useJson = form === "json" || (isObject(before.value) && isObject(after.value));
  const [a, b] = [before, after].map((pair) => rendered(pair.value, useJson ? "json" : form));
  const lines = diff(a, b);
  const title = h("p.faint", {}, `From revision ${count(before.modified)} to revision ${count(after.modified)}`);
  if (!lines) return [title, h("p", {}, `The values have more than ${count(LINES_MAX)} lines, which is too many to compare here.`)];
  if (lines.every(({ kind }) => kind === "same")) return [title, h("p", {}, "The two values are the same.")];
  const sign = { same: " ", removed: "-", added: "+" };
  return [title, h("pre.diff", { tabindex: 0, "aria-label": "Difference" }, lines.map(({ kind, line }) => h("span", { class: kind }, `${sign[kind]} ${line}\n`)))];
}

/** Writes a value back, if the key is still what was read; else both versions are shown. */
function editor(pair, text, { done, cancel }) {
  const area = h("textarea", { "aria-label": "New value", rows: Math.min(30, Math.max(6, text.split("\n").length + 1)), spellcheck: "false", value: text });
  const problem = h("div.problem");
  let expected = pair;
  const save = async () => {
    save.button.disabled = true;
    try {
      const conflict = await server.put(pair.key, fromText(area.value), expected.lease, expected.modified);
      if (!conflict) return done();
      showConflict(conflict.current);
    } catch (error) {
      fill(problem, trouble(error));
    } finally {
      save.button.disabled = false;
    }
    return undefined;
  };
  const showConflict = (current) => {
    const mine = { value: fromText(area.value), modified: "yours" };
    const theirs = current ?? { key: pair.key, value: "", modified: 0, lease: "0" };
    const overwrite = () => {
      expected = theirs;
      save();
    };
    fill(
      problem,
      h(
        "div.conflict",
        { role: "alert" },
        h("p", {}, current ? `Not saved: somebody changed this key at revision ${current.modified}, after you opened it. From theirs to yours:` : "Not saved: somebody deleted this key after you opened it."),
        current ? difference(theirs, mine, "text").slice(1) : null,
        h("div.actions", {}, h("button", { onclick: done }, "Take theirs"), h("button.danger", { onclick: overwrite }, current ? "Overwrite theirs" : "Create it again")),
      ),
    );
  };
  save.button = h("button.primary", { onclick: save, title: "Save (Ctrl and Enter)" }, "Save");
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    if (event.key === "Escape") cancel();
  });
  return [area, h("div.actions", {}, save.button, h("button", { onclick: cancel }, "Cancel"), h("span.faint", {}, `Saved only if the key is still at revision ${count(pair.modified)}.`)), problem];
}

/** The form for a key that does not exist yet. */
export class NewKey {
  constructor(prefix, { back, created }) {
    const name = h("input", { value: show(prefix), "aria-label": "Name of the new key", spellcheck: "false" });
    const area = h("textarea", { "aria-label": "Value", rows: 8, spellcheck: "false" });
    const problem = h("div");
    const submit = async (event) => {
      event.preventDefault();
      const key = parse(name.value);
      try {
        const conflict = await server.put(key, fromText(area.value), "0", 0);
        if (!conflict) return created(key);
        fill(problem, h("p.trouble", { role: "alert" }, "There is a key of this name already. ", h("button.link", { type: "button", onclick: () => created(key) }, "Open it")));
      } catch (error) {
        fill(problem, trouble(error));
      }
      return undefined;
    };
    this.element = h(
      "article",
      {},
      h("header", {}, h("button.back", { onclick: back, "aria-label": "Back to the list" }, "\u2190"), h("h2", {}, "New key")),
      h("form.stack", { onsubmit: submit }, h("label", {}, "Key", name), h("label", {}, "Value", area), h("div.actions", {}, h("button.primary", {}, "Create"), h("button", { type: "button", onclick: back }, "Cancel")), problem),
    );
  }
}
