// A list of any length, of which only the rows in view are in the document.

import { fill, h } from "./dom.js";

const ROW_PX = 24;
/** Rows above and below what is seen, so that scrolling does not show blanks. */
const MARGIN = 8;

/**
 * `row(index)` makes the element of a row; `seen(first, last)` is told what is in view; `open(index)` is called
 * for a row that is clicked, or chosen with Enter.
 */
export class Rows {
  #count = 0;
  #cursor = 0;
  #drawn = false;
  #body = h("div.rows-body");
  #empty = h("div.empty");

  constructor(label, { row, seen = () => {}, open = () => {}, key = () => false }) {
    this.row = row;
    this.seen = seen;
    this.element = h("div.rows", { tabindex: 0, role: "listbox", "aria-label": label }, this.#body);
    /** The list, and what is said in its place while it is empty. */
    this.frame = h("div.rows-frame", {}, this.element, this.#empty);
    this.element.addEventListener("scroll", () => this.draw(), { passive: true });
    this.element.addEventListener("click", (event) => {
      const index = event.target.closest("[data-index]")?.dataset.index;
      if (index === undefined) return;
      this.#cursor = Number(index);
      this.draw();
      open(this.#cursor);
    });
    this.element.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: this.#page(), PageUp: -this.#page() }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (step) this.move(this.#cursor + step);
      else if (event.key === "Home") this.move(0);
      else if (event.key === "End") this.move(this.#count - 1);
      else if (event.key === "Enter" && this.#count) open(this.#cursor);
      else if (!key(event.key, this.#cursor)) return;
      event.preventDefault();
    });
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  #page() {
    return Math.max(1, Math.floor(this.element.clientHeight / ROW_PX) - 1);
  }

  get cursor() {
    return this.#cursor;
  }

  set count(count) {
    this.#count = count;
    this.#cursor = Math.max(0, Math.min(this.#cursor, count - 1));
    this.#body.style.height = `${count * ROW_PX}px`;
    this.#empty.hidden = count > 0;
    this.draw();
  }

  /** What an empty list says. */
  set whenEmpty(children) {
    fill(this.#empty, children);
  }

  move(index) {
    this.#cursor = Math.max(0, Math.min(index, this.#count - 1));
    const top = this.#cursor * ROW_PX;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + ROW_PX > scrollTop + clientHeight) this.element.scrollTop = top + ROW_PX - clientHeight;
    this.draw();
  }

  /** Draws the rows in view, at most once for each picture that the browser shows. */
  draw() {
    if (this.#drawn) return;
    this.#drawn = true;
    requestAnimationFrame(() => {
      this.#drawn = false;
      const { scrollTop, clientHeight } = this.element;
      const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - MARGIN);
      const last = Math.min(this.#count, Math.ceil((scrollTop + clientHeight) / ROW_PX) + MARGIN);
      const rows = [];
      for (let index = first; index < last; index += 1) {
        const element = this.row(index);
        element.dataset.index = index;
        element.id = `${this.element.getAttribute("aria-label").replace(/\W/g, "-")}-${index}`;
        element.setAttribute("role", "option");
        element.setAttribute("aria-selected", String(index === this.#cursor));
        element.classList.add("row");
        element.style.top = `${index * ROW_PX}px`;
        rows.push(element);
      }
      fill(this.#body, rows);
      if (this.#count) this.element.setAttribute("aria-activedescendant", `${this.element.getAttribute("aria-label").replace(/\W/g, "-")}-${this.#cursor}`);
      this.seen(first, last);
    });
  }
}
