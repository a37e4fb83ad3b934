// A small plot of figures over the last minutes. Time goes from left to right and always has the same length, so that
// plots beside each other can be compared, and a server that has just started does not seem busy.

import { fill, h, svg } from "./dom.js";
import { clock } from "./format.js";
import { WINDOW_MS } from "./samples.js";

const [WIDTH, HEIGHT] = [320, 84];
/** Samples further apart are not connected. */
const GAP_MS = 20_000;
const MINUTES = ["15 min ago", "10", "5", "now"];

/**
 * `series` are one or two figures: `of(sample)` is the figure, or null where it is not known; the second has a `name`.
 * `show(figure)` writes a figure. `unit` is 1024 where figures are bytes.
 */
export class Plot {
  #samples = [];

  constructor(title, series, show, unit = 1000) {
    Object.assign(this, { series, show, unit });
    this.now = h("output", {}, "");
    this.top = h("span.top");
    this.lines = series.map((_, index) => svg("path", { class: index ? "line second" : "line" }));
    this.points = svg("path", { class: "points" });
    this.area = svg("path", { class: "area" });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, x1: -9, x2: -9 });
    const grid = [
      ...[1, 2].map((third) => svg("line", { class: "grid", x1: (third * WIDTH) / 3, x2: (third * WIDTH) / 3, y1: 0, y2: HEIGHT })),
      ...[0.5, HEIGHT / 2, HEIGHT - 0.5].map((y) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y })),
    ];
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}, the last 15 minutes` }, grid, this.area, this.lines, this.points, this.cursor);
    picture.addEventListener("pointermove", (event) => this.#point(event.offsetX / picture.clientWidth));
    picture.addEventListener("pointerleave", () => this.#point(null));
    this.element = h("figure.plot", {}, h("figcaption", {}, h("span", {}, title), this.now), h("div.picture", {}, picture, this.top), h("div.axis", { "aria-hidden": "true" }, MINUTES.map((text) => h("span", {}, text))));
  }

  update(samples) {
    this.#samples = samples;
    this.until = samples.at(-1)?.at_ms ?? 0;
    const known = samples.flatMap((sample) => this.series.map(({ of }) => of(sample))).filter((figure) => figure !== null);
    const top = round(Math.max(...known, 0) * 1.05, this.unit);
    this.lines.forEach((line, index) => {
      const runs = this.#runs(this.series[index].of, top);
      line.setAttribute("d", runs.filter((run) => run.length > 1).map((run) => `M${run.join("L")}`).join(""));
      if (index > 0) return;
      // A line without length, whose ends are round.
      this.points.setAttribute("d", runs.filter((run) => run.length === 1).map((run) => `M${run[0]}h0`).join(""));
      this.area.setAttribute("d", runs.filter((run) => run.length > 1).map((run) => `M${run[0].split(" ")[0]} ${HEIGHT}L${run.join("L")}L${run.at(-1).split(" ")[0]} ${HEIGHT}Z`).join(""));
    });
    fill(this.top, known.length ? this.show(top) : "");
    this.#point(null);
  }

  /** The points of a line, in pieces where something between them is not known. */
  #runs(of, top) {
    const runs = [];
    let before = null;
    for (const sample of this.#samples) {
      const figure = of(sample);
      const x = this.#x(sample.at_ms);
      if (figure !== null && x >= 0) {
        const point = `${x.toFixed(1)} ${(HEIGHT - 1 - (figure / top) * (HEIGHT - 3)).toFixed(1)}`;
        if (before !== null && sample.at_ms - before < GAP_MS) runs.at(-1).push(point);
        else runs.push([point]);
        before = sample.at_ms;
      } else {
        before = null;
      }
    }
    return runs;
  }

  #x(ms) {
    return (1 - (this.until - ms) / WINDOW_MS) * WIDTH;
  }

  /** Says what was at a moment, or, without one, what is now. */
  #point(share) {
    const wanted = this.until - (1 - (share ?? 1)) * WINDOW_MS;
    const sample = this.#samples.length ? this.#samples.reduce((a, b) => (Math.abs(b.at_ms - wanted) < Math.abs(a.at_ms - wanted) ? b : a)) : null;
    const x = share === null || !sample ? -9 : this.#x(sample.at_ms);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    const figure = (of) => (sample && of(sample) !== null ? this.show(of(sample)) : "\u2013");
    fill(
      this.now,
      figure(this.series[0].of),
      this.series.slice(1).map(({ of, name }) => h("span.faint", {}, ` ${name} ${figure(of)}`)),
      share === null || !sample ? "" : h("span.faint", {}, ` at ${clock(sample.at_ms)}`),
    );
  }
}

/** The next of 1, 2, 5, 10, 20, 50 and so on, in thousands or in the units of bytes. */
function round(figure, unit) {
  if (figure <= 0) return 1;
  const scale = figure < unit ? 1 : unit ** Math.floor(Math.log(figure) / Math.log(unit));
  const digits = 10 ** Math.floor(Math.log10(figure / scale));
  return [1, 2, 5, 10].find((step) => step * digits * scale >= figure * 0.999) * digits * scale;
}
