// A small plot of one figure over the last minutes.

import { fill, h, svg } from "./dom.js";
import { clock } from "./format.js";

const [WIDTH, HEIGHT] = [320, 72];

/** `of(sample)` is the figure or null where it is not known; `show(figure)` writes it. */
export class Plot {
  #samples = [];

  constructor(title, of, show) {
    Object.assign(this, { of, show });
    this.now = h("output", {}, "");
    this.range = h("span.faint");
    this.line = svg("path", { class: "line" });
    this.area = svg("path", { class: "area" });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, x1: -9, x2: -9 });
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}, the last minutes` }, this.area, this.line, this.cursor);
    picture.addEventListener("pointermove", (event) => this.#point(event.offsetX / picture.clientWidth));
    picture.addEventListener("pointerleave", () => this.#point(null));
    this.element = h("figure.plot", {}, h("figcaption", {}, h("span", {}, title), this.now), picture, this.range);
  }

  update(samples) {
    this.#samples = samples;
    const figures = samples.map(this.of);
    const known = figures.filter((figure) => figure !== null);
    const top = Math.max(...known, 0) || 1;
    const x = (index) => (samples.length < 2 ? WIDTH : (index / (samples.length - 1)) * WIDTH);
    const y = (figure) => HEIGHT - 2 - (figure / top) * (HEIGHT - 6);
    let path = "";
    figures.forEach((figure, index) => {
      if (figure !== null) path += `${path && figures[index - 1] !== null ? "L" : "M"}${x(index).toFixed(1)} ${y(figure).toFixed(1)}`;
    });
    this.line.setAttribute("d", path);
    const isWhole = known.length === figures.length && known.length > 1;
    this.area.setAttribute("d", isWhole ? `${path}L${WIDTH} ${HEIGHT}L0 ${HEIGHT}Z` : "");
    const from = samples.length ? clock(samples[0].at_ms) : "";
    fill(this.range, known.length ? `${from} to now, at most ${this.show(Math.max(...known))}` : "nothing measured yet");
    this.#point(null);
  }

  #point(share) {
    const index = share === null ? this.#samples.length - 1 : Math.round(share * (this.#samples.length - 1));
    const sample = this.#samples[index];
    const x = share === null ? -9 : share * WIDTH;
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    const figure = sample ? this.of(sample) : null;
    fill(this.now, figure === null ? "" : this.show(figure), share === null || !sample ? "" : h("span.faint", {}, ` at ${clock(sample.at_ms)}`));
  }
}
