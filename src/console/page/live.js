// Events as they come: a watch of a prefix or of one key.

import { fromBase64, parse, prefixEnd, show, toBase64 } from "./bytes.js";
import { fill, h, trouble } from "./dom.js";
import { clock, count, figure } from "./format.js";
import { Rows } from "./rows.js";
import * as server from "./server.js";

/** Events that are kept; older ones are dropped. */
const EVENTS_KEPT = 2000;
/** Of a value only this much is kept, in base64. */
const PREVIEW = 400;
const RATE_WINDOW_MS = 2000;
/** The list is drawn at most this often: nobody reads faster, and drawing costs more than receiving. */
const DRAW_MS = 200;

export class LiveView {
  #abort = null;
  /** A ring: the event number n is at n % EVENTS_KEPT. */
  #events = [];
  #total = 0;
  #isPaused = false;
  #recent = [];
  #drawn = 0;
  #drawnAt = -Infinity;

  constructor(params, go) {
    this.go = go;
    this.input = h("input", { type: "search", value: params.prefix ?? "", placeholder: "prefix; empty for all keys", "aria-label": "Prefix to watch", spellcheck: "false" });
    this.exact = h("input", { type: "checkbox" });
    this.exact.checked = params.exact === "1";
    this.pause = h("button", { type: "button", onclick: () => this.#pause() }, "Pause");
    this.status = h("p.status", { role: "status" });
    this.rows = new Rows("Events", { row: (index) => this.#row(index), open: (index) => this.#open(index) });
    const submit = (event) => {
      event.preventDefault();
      go.silently("live", { prefix: this.input.value, ...(this.exact.checked && { exact: "1" }) });
      this.#start();
    };
    this.element = h(
      "section.column",
      { "aria-label": "Live" },
      h("form.tools", { role: "search", onsubmit: submit }, this.input, h("label.check", {}, this.exact, "this key only"), h("button.primary", {}, "Watch"), this.pause, h("button", { type: "button", onclick: () => this.#clear() }, "Clear")),
      this.status,
      h("div.row-head.event", {}, h("span.time", {}, "received"), h("span.rev", {}, "revision"), h("span.kind", {}, "what"), h("span.name", {}, "key"), h("span.preview", {}, "value")),
      this.rows.frame,
    );
    this.#start();
    this.ticking = setInterval(() => this.#drawStatus(), 500);
  }

  close() {
    this.#abort?.abort();
    clearInterval(this.ticking);
    clearTimeout(this.drawing);
  }

  search() {
    this.input.select();
  }

  command(key) {
    if (key !== "p") return false;
    this.#pause();
    return true;
  }

  async #start() {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    this.#clear();
    const prefix = parse(this.input.value);
    this.rows.whenEmpty = [h("p", {}, "Changes of ", prefix ? [this.exact.checked ? "the key " : "keys below ", h("code", {}, show(prefix))] : "any key", " appear here as they are made, the newest first.")];
    const end = this.exact.checked ? {} : { range_end: toBase64(prefixEnd(prefix)) };
    let next = null;
    // A watch that ends is resumed behind the last event, so that none is lost.
    for (let pause = 0; !abort.signal.aborted; ) {
      try {
        const create_request = { key: toBase64(prefix || "\0"), ...end, prev_kv: false, ...(next && { start_revision: String(next) }) };
        for await (const message of server.stream("watch", { create_request }, abort.signal)) {
          pause = 0;
          if (message.created) this.problem = null;
          if (message.canceled) {
            this.problem = new Error(message.cancel_reason ?? "The watch was canceled by the member.");
            if (message.compact_revision) next = Number(message.compact_revision);
            break;
          }
          if (message.events) this.#take(message.events);
          next = Number(message.header.revision) + 1;
        }
        this.problem ??= new Error("The watch has ended; it is begun again.");
      } catch (error) {
        if (abort.signal.aborted) return;
        this.problem = error;
        if (error.asksForLogin) return;
      }
      this.#drawStatus();
      pause = Math.min(5000, pause * 2 || 250);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  #take(events) {
    this.#recent.push([performance.now(), events.length]);
    const at = Date.now();
    for (const event of events) {
      this.#events[this.#total % EVENTS_KEPT] = { isDelete: event.type === "DELETE", key: event.kv.key, value: event.kv.value?.slice(0, PREVIEW) ?? "", revision: event.kv.mod_revision, at };
      this.#total += 1;
    }
    this.#drawSoon();
  }

  /** Draws the newest events, now or when the last drawing is long enough ago. */
  #drawSoon() {
    if (this.drawing) return;
    const wait = this.#drawnAt + DRAW_MS - performance.now();
    this.drawing = setTimeout(
      () => {
        this.drawing = null;
        if (!this.#isPaused) this.#draw();
      },
      Math.max(0, wait),
    );
  }

  #draw() {
    this.#drawnAt = performance.now();
    this.#drawn = this.#total;
    this.rows.count = Math.min(this.#drawn, EVENTS_KEPT);
    this.#drawStatus();
  }

  #clear() {
    [this.#events, this.#total, this.#drawn, this.#recent] = [[], 0, 0, []];
    this.rows.count = 0;
  }

  #pause() {
    this.#isPaused = !this.#isPaused;
    fill(this.pause, this.#isPaused ? "Go on" : "Pause");
    if (this.#isPaused) {
      this.frozen = this.#events.slice();
    } else {
      this.frozen = null;
      this.#draw();
    }
  }

  /** The event of a row: the newest is the first. */
  #event(index) {
    return (this.frozen ?? this.#events)[(this.#drawn - 1 - index) % EVENTS_KEPT];
  }

  #row(index) {
    const event = this.#event(index);
    return h("div.event", {}, h("span.time", {}, clock(event.at)), h("span.rev", {}, count(event.revision)), h("span.kind", { class: event.isDelete ? "delete" : "put" }, event.isDelete ? "delete" : "put"), h("span.name", {}, show(fromBase64(event.key))), h("span.preview", {}, show(preview(event.value))));
  }

  #open(index) {
    const event = this.#event(index);
    this.go("keys", { key: show(fromBase64(event.key)), prefix: this.input.value, ...(event.isDelete && { rev: String(Number(event.revision) - 1) }) });
  }

  #drawStatus() {
    const now = performance.now();
    this.#recent = this.#recent.filter(([at]) => now - at < RATE_WINDOW_MS);
    const rate = this.#recent.reduce((sum, [, events]) => sum + events, 0) / (RATE_WINDOW_MS / 1000);
    const kept = this.#total > EVENTS_KEPT ? `, the newest ${count(EVENTS_KEPT)} are kept` : "";
    fill(this.status, this.problem ? trouble(this.problem) : `${count(this.#total)} events${kept}; ${figure(rate)} a second${this.#isPaused ? "; paused" : ""}`);
  }
}

/** What a cut of base64 stands for: a group that was cut through is left out. */
const preview = (base64) => fromBase64(base64.slice(0, base64.length - (base64.length % 4)));
