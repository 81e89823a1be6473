// Charts as SVG. Each can be read with the mouse, a finger, the arrow keys, or as a table; the line above it says what is under the cursor.

import { el, say, svg } from "./page.js";

const HEIGHT = 176;
const MARGIN = { top: 10, right: 6, bottom: 24, left: 52 };

/** Return 3 to 5 round numbers from 0 (or below) to what covers the highest. */
function ticks(low, high) {
  if (!(high > low)) return [low, low + 1];
  const raw = (high - low) / 4;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * unit >= raw) * unit;
  const first = Math.floor(low / step);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/**
 * A chart of places side by side (times or bins), of columns on each other or of a line.
 *
 * host: an empty <figure>. draw(spec) draws, again and again, keeping the cursor. A spec has
 *   label: what a screen reader calls it; places: how many; series: [{name, color, values (null: nothing)}];
 *   isLine, isPartial (the last place is not over yet), hasLegend (unless false), top (fixed top of the axis), tick(value), below: [[place, text]], place(i): its name, summary: said without a cursor,
 *   value(value): in words.
 */
export class Chart {
  constructor(host) {
    this.cursor = null;
    this.readout = el("p", { class: "readout" });
    this.svg = svg("svg", { class: "chart", role: "img", tabindex: "0" });
    this.legend = el("ul", { class: "legend" });
    this.live = el("p", { class: "unseen", "aria-live": "polite" });
    this.table = el("details", { class: "as-table" }, el("summary", {}, "Show as a table"));
    host.append(this.readout, this.svg, this.legend, this.live, this.table);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerdown", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.move(null));
    this.svg.addEventListener("blur", () => this.move(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.table.addEventListener("toggle", () => this.tabulate());
    new ResizeObserver(() => this.spec && this.paint()).observe(host);
  }

  draw(spec) {
    this.spec = spec;
    if (this.cursor !== null && this.cursor >= spec.places) this.cursor = null;
    this.paint();
    this.tabulate();
  }

  paint() {
    const { spec } = this;
    const width = Math.max(this.svg.parentElement.clientWidth, 200);
    const values = spec.series.flatMap((one) => one.values).filter((value) => value !== null);
    const totals = spec.isLine ? values : this.stacks().map((stack) => stack.at(-1)?.to ?? 0);
    const low = spec.isLine ? Math.min(...values, Infinity) : 0;
    const high = spec.top ?? Math.max(...totals, spec.isLine ? -Infinity : 0);
    const marks = Number.isFinite(low) && Number.isFinite(high) ? ticks(spec.isLine ? low : 0, high || 1) : [0, 1];
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const y = (value) => MARGIN.top + inner.height * (1 - (value - marks[0]) / (marks.at(-1) - marks[0] || 1));
    const step = inner.width / spec.places;
    const x = (i) => MARGIN.left + i * step;
    this.scale = { x, step };

    const grid = marks.map((mark) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(mark), y2: y(mark) }),
      svg("text", { class: "tick", x: MARGIN.left - 8, y: y(mark) + 4, "text-anchor": "end" }, spec.tick(mark)),
    ]);
    const gap = step > 4 ? Math.min(2, step / 5) : 0;
    const drawn = spec.isLine ? this.lines(x, y, step) : this.columns(x, y, step, gap);
    const every = Math.max(1, Math.ceil((spec.below.length * 58) / inner.width));
    const below = spec.below.filter((_, i) => i % every === 0).map(([place, text]) => {
      const at = Math.min(Math.max(x(place), MARGIN.left), width - MARGIN.right);
      const anchor = at > width - 30 ? "end" : at < MARGIN.left + 12 ? "start" : "middle";
      return svg("text", { class: "tick", x: at, y: HEIGHT - 6, "text-anchor": anchor }, text);
    });
    this.mark = svg("rect", { class: "cursor", y: MARGIN.top, height: inner.height, width: Math.max(step, 2), x: 0, visibility: "hidden" });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("height", String(HEIGHT));
    this.svg.setAttribute("aria-label", `${spec.label}. ${spec.summary}. Arrow keys read single values.`);
    this.svg.replaceChildren(...grid.flat(), this.mark, ...drawn, ...below);
    const legend = spec.series.length > 1 && spec.hasLegend !== false ? spec.series : [];
    this.legend.replaceChildren(...legend.map((one) => el("li", {}, el("span", { class: `dot fill-${one.color}` }), one.name)));
    this.legend.hidden = !legend.length;
    this.tell();
  }

  stacks() {
    return Array.from({ length: this.spec.places }, (_, i) => {
      let from = 0;
      return this.spec.series.map(({ values, color }) => {
        const to = from + (values[i] ?? 0);
        const part = { from, to, color };
        from = to;
        return part;
      });
    });
  }

  columns(x, y, step, gap) {
    return this.stacks().flatMap((stack, i) => stack.filter(({ from, to }) => to > from).map(({ from, to, color }) => {
      const height = Math.max(y(from) - y(to), 1);
      const isOpen = this.spec.isPartial && i === this.spec.places - 1;
      return svg("rect", { class: `fill-${color}${isOpen ? " partial" : ""}`, x: x(i) + gap / 2, y: y(to), width: Math.max(step - gap, 0.6), height });
    }));
  }

  lines(x, y, step) {
    return this.spec.series.flatMap(({ values, color }) => {
      let path = "";
      const dots = [];
      values.forEach((value, i) => {
        if (value === null) return;
        const before = i > 0 && values[i - 1] !== null;
        path += `${before ? "L" : "M"}${x(i) + step / 2} ${y(value)}`;
        if (!before && (i + 1 >= values.length || values[i + 1] === null)) {
          dots.push(svg("circle", { class: `fill-${color}`, cx: x(i) + step / 2, cy: y(value), r: 2.5 }));
        }
      });
      return [svg("path", { class: `line stroke-${color}`, d: path || "M0 0" }), ...dots];
    });
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const at = Math.floor((event.clientX - box.left - MARGIN.left) / this.scale.step);
    this.move(at >= 0 && at < this.spec.places ? at : null);
  }

  key(event) {
    const last = this.spec.places - 1;
    const at = this.cursor ?? (event.key === "ArrowLeft" ? last + 1 : -1);
    const to = { ArrowLeft: Math.max(at - 1, 0), ArrowRight: Math.min(at + 1, last), Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.move(to);
    say(this.live, this.readout.textContent);
  }

  move(to) {
    if (to === this.cursor) return;
    this.cursor = to;
    this.tell();
  }

  /** Say what is under the cursor, or the summary. */
  tell() {
    const { spec, cursor } = this;
    if (cursor === null) {
      this.mark.setAttribute("visibility", "hidden");
      say(this.readout, spec.summary);
      return;
    }
    this.mark.setAttribute("visibility", "visible");
    this.mark.setAttribute("x", String(this.scale.x(cursor)));
    const said = spec.series
      .filter(({ values }) => values[cursor] !== null && (values[cursor] !== 0 || spec.series.length === 1))
      .map(({ name, values }) => (spec.series.length > 1 ? `${name} ${spec.value(values[cursor])}` : spec.value(values[cursor])));
    say(this.readout, `${spec.place(cursor)}: ${said.join(", ") || "nothing"}`);
  }

  tabulate() {
    if (!this.table.open) return;
    const { spec } = this;
    const names = spec.series.map(({ name }) => el("th", { scope: "col", class: "n" }, name));
    const rows = Array.from({ length: spec.places }, (_, i) => i)
      .filter((i) => spec.series.some(({ values }) => values[i] !== null && values[i] !== 0))
      .map((i) => el("tr", {}, el("th", { scope: "row" }, spec.place(i)),
        spec.series.map(({ values }) => el("td", { class: "n" }, values[i] === null ? "–" : spec.value(values[i])))));
    const table = el("table", {}, el("caption", { class: "unseen" }, spec.label),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, spec.placeName), names)), el("tbody", {}, rows));
    const scroll = el("div", { class: "scroll rows", role: "region", "aria-label": `${spec.label} as a table`, tabindex: "0" }, table);
    const at = this.table.querySelector(".scroll")?.scrollTop ?? 0;
    this.table.querySelector(".scroll")?.remove();
    this.table.append(rows.length ? scroll : el("p", { class: "scroll note" }, "Nothing in this window."));
    scroll.scrollTop = at;
  }
}

/** Return a bar of parts: [{name, value, color}]; what it says stands beside it as text. */
export function shareBar(parts, label) {
  const total = parts.reduce((sum, { value }) => sum + value, 0) || 1;
  let at = 0;
  const drawn = parts.filter(({ value }) => value > 0).map(({ value, color }) => {
    const part = svg("rect", { class: `fill-${color}`, x: (100 * at) / total, y: 0, width: (100 * value) / total, height: 10 });
    at += value;
    return part;
  });
  return svg("svg", { class: "share", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label }, ...drawn);
}

/** Return a small line without axes; it decorates a figure that stands beside it. */
export function spark(values, color) {
  const known = values.filter((value) => value !== null);
  const low = Math.min(...known);
  const spread = Math.max(...known) - low || 1;
  const step = 96 / Math.max(values.length - 1, 1);
  let path = "";
  values.forEach((value, i) => {
    if (value !== null) path += `${i > 0 && values[i - 1] !== null ? "L" : "M"}${i * step} ${21 - (18 * (value - low)) / spread}`;
  });
  return svg("svg", { class: "spark", viewBox: "0 0 96 24", "aria-hidden": "true" }, svg("path", { class: `line stroke-${color}`, d: path || "M0 0" }));
}
