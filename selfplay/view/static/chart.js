// Numbers drawn: small curves and interval bars in SVG, tables, and panels of uPlot, which only the metrics page loads.
import { h, number, svg } from "./dom.js";

const STEP_SIZES = [1, 10, 100, 1000, 10000].flatMap((power) => [power, 2 * power, 5 * power]);

// A number in three or four digits, whatever its size.
export function brief(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US").replace("-", "−");
  if (size > 0 && size < 0.0005) return value.toExponential(1).replaceAll("-", "−");
  return number(value, size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

export function dim(words) {
  return h("span", { class: "dim", text: words });
}

export function newest(values) {
  return values?.findLast((value) => value !== null) ?? null;
}

export function toneOf(value) {
  return value > 1e-9 ? "good" : value < -1e-9 ? "bad" : "";
}

export function isClear({ low, high }) {
  return low !== null && (low > 0 || high < 0);
}

// A head that begins with # is of numbers; each row begins with what it is about.
export function table(heads, rows, attributes = {}) {
  const kind = (at) => (heads[at].startsWith("#") ? "n" : null);
  const cells = (row) => row.map((cell, at) => h(at ? "td" : "th", { class: kind(at), scope: at ? null : "row" }, cell));
  const head = heads.map((words, at) => h("th", { class: kind(at), scope: "col", text: words.replace("#", "") }));
  return h("div", { class: "scroll-x" }, h("table", attributes, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map((row) => h("tr", {}, cells(row))))));
}

// ----- small drawings -----

function line(d, name) {
  return svg("path", { d, class: name, "vector-effect": "non-scaling-stroke" });
}

// A curve without axes: the target is dashed, marks are steps, dotted.
export function sparkline(steps, values, { target = null, marks = [], label = "" } = {}) {
  const all = [...values, target].filter((value) => value !== null);
  const [low, high, first, last] = [Math.min(...all), Math.max(...all), steps[0], steps.at(-1)];
  const x = (step) => (last > first ? (100 * (step - first)) / (last - first) : 50).toFixed(2);
  const y = (value) => (high > low ? 37 - (34 * (value - low)) / (high - low) : 20).toFixed(2);
  const points = values.map((value, at) => (value === null ? null : `${x(steps[at])} ${y(value)}`));
  const path = points.map((point, at) => point && `${points[at - 1] ? "L" : "M"}${point}`).filter(Boolean).join("");
  return svg(
    "svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label },
    marks.filter((step) => step >= first && step <= last).map((step) => line(`M${x(step)} 0V40`, "mark")),
    target === null ? null : line(`M0 ${y(target)}H100`, "target"),
    line(path, "curve"),
    newest(points) ? line(`M${newest(points)}h0`, "end") : null,
  );
}

// A difference and its interval around nothing; half the width stands for `extent`.
export function intervalBar({ difference, low, high }, extent, tone = "") {
  const x = (value) => 50 + 47 * Math.max(-1, Math.min(1, value / (extent || 1)));
  return svg(
    "svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none", class: `interval ${tone}`, "aria-hidden": "true" },
    line("M50 0V16", "origin"),
    low === null || low === undefined ? null : line(`M${x(low)} 8H${x(high)}`, "range"),
    difference === null ? null : line(`M${x(difference)} 8h0`, "value"),
  );
}

// ----- panels -----

function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Draws series over steps: {label, values, colour (a CSS variable), isRight, isDashed, isFaint}; marks() are steps.
export async function plot(place, { steps, series, marks, height = 190 }) {
  const Plot = globalThis.uPlot ?? (await import("./vendor/uPlot.esm.js")).default;
  const [canvas, step, buttons] = [h("div", { class: "plot" }), h("span", { class: "dim" }), series.map(entryOf)];
  place.append(canvas, h("div", { class: "entries" }, step, buttons));
  const size = () => ({ width: Math.max(200, canvas.clientWidth), height });
  const showValues = ({ data, cursor }) => {
    const at = cursor.idx ?? data[0].length - 1;
    step.textContent = `step ${data[0][at] ?? "–"}`;
    buttons.forEach((button, number) => button && (button.lastChild.textContent = brief(data[number + 1][at])));
  };
  const chart = new Plot(
    {
      ...size(), legend: { show: false }, padding: [10, null, 0, null], scales: { x: { time: false } }, axes: axesOf(series), series: [{}, ...series.map(seriesOf)],
      cursor: { sync: { key: "steps", setSeries: false }, points: { size: 7 } }, hooks: { draw: [(drawn) => drawMarks(drawn, marks())], setCursor: [showValues], setData: [showValues] },
    },
    [steps, ...series.map((one) => one.values)], canvas,
  );
  buttons.forEach((button, at) => button?.addEventListener("click", () => {
    const show = button.getAttribute("aria-pressed") === "false";
    series.forEach((one, other) => one.label === series[at].label && chart.setSeries(other + 1, { show }));
    button.setAttribute("aria-pressed", String(show));
  }));
  const sizes = new ResizeObserver(() => chart.setSize(size()));
  sizes.observe(canvas);
  return { update: (data) => chart.setData(data), destroy: () => (sizes.disconnect(), chart.destroy()) };
}

function entryOf(one) {
  if (one.isFaint) return null;
  const swatch = h("i", { class: one.isDashed ? "swatch dashed" : "swatch" });
  swatch.style.borderColor = `var(${one.colour})`;
  return h("button", { type: "button", class: "entry", "aria-pressed": "true", title: "Show or hide" }, swatch, one.label, one.isRight ? " (right)" : "", h("b", {}));
}

function seriesOf(one) {
  const points = one.isDashed || one.isFaint ? { show: false } : { size: 4 };
  return { scale: one.isRight ? "right" : "y", stroke: () => colourOf(one.colour), width: one.isFaint ? 1 : 2, alpha: one.isFaint ? 0.35 : 1, dash: one.isDashed ? [6, 4] : null, points };
}

function axesOf(series) {
  const all = { font: `11px ${colourOf("--sans")}`, stroke: () => colourOf("--dim"), grid: { stroke: () => colourOf("--line"), width: 1 }, ticks: { show: false }, gap: 4 };
  const left = { ...all, size: 48, values: (_, splits) => splits.map((value) => (Math.abs(value) >= 10000 ? `${value / 1000}k` : String(Number(value.toPrecision(6))).replace("-", "−"))) };
  const right = { ...left, grid: { show: false }, scale: "right", side: 1 };
  return [{ ...all, incrs: STEP_SIZES, size: 26 }, left, ...(series.some((one) => one.isRight) ? [right] : [])];
}

function drawMarks({ ctx, bbox, valToPos }, marks) {
  ctx.save();
  ctx.strokeStyle = colourOf("--warn");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const step of marks) {
    const x = Math.round(valToPos(step, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}
