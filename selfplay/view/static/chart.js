// Numbers drawn: tables, small curves, intervals, and charts by uPlot, which only the metrics page loads.
import { count, div, h, number, signed, span, svg } from "./dom.js";

export function brief(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return count(Math.round(value)).replace("-", "−");
  if (size >= 1e-6 && size < 0.0005) return value.toExponential(1).replaceAll("-", "−");
  return number(value, size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

export function dim(words) {
  return span("dim", words);
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

// way: the good one, 1 or -1; 0: neither; null: only watched, which may be lost, and is not gained.
export function verdict(row, way) {
  if (!isClear(row)) return "";
  return toneOf(way === null ? Math.min(row.difference, 0) : row.difference * way) || "moved";
}

// A head that begins with # is of numbers; each row begins with what it is about.
export function table(heads, rows, name = null) {
  const kind = (at) => (heads[at].startsWith("#") ? "n" : null);
  const head = heads.map((words, at) => h("th", { class: kind(at), scope: "col", text: words.replace("#", "") }));
  const cells = (row) => row.map((cell, at) => h(at ? "td" : "th", { class: kind(at), scope: at ? null : "row" }, cell));
  return div("scroll-x", h("table", { class: name }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map((row) => h("tr", {}, cells(row))))));
}

// A curve without axes: the target is dashed, marks (steps) are dotted.
export function sparkline(steps, values, target, marks, label) {
  const all = [...values, target].filter((value) => value !== null);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (step) => (100 * (step - steps[0])) / (steps.at(-1) - steps[0] || 1);
  const y = (value) => 37 - (34 * (value - low)) / (high - low || 1);
  const points = values.map((value, at) => (value === null ? null : `${x(steps[at])} ${y(value)}`));
  const curve = points.map((point, at) => (point ? (points[at - 1] ? "L" : "M") + point : "")).join("");
  const path = (name, d) => svg("path", { d, class: name, "vector-effect": "non-scaling-stroke" });
  const dotted = marks.filter((step) => steps.includes(step)).map((step) => path("mark", `M${x(step)} 0V40`));
  const lines = [dotted, target !== null && path("target", `M0 ${y(target)}H100`), path("curve", curve), path("end", `M${newest(points)}h0`)];
  return svg("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label }, lines);
}

// rows: [what, {a, b, difference, low, high}, tone, what is told, more]
export function comparison(what, sides, rows) {
  const cells = ([head, row, tone, told = { good: "gained", bad: "lost" }[tone] ?? tone, more]) => {
    const words = (value) => signed(value, Math.abs(row.difference) < 0.1 ? 3 : 2);
    const interval = row.low !== null && `${words(row.low)} to ${words(row.high)}`;
    return [head, h("b", tone, told), brief(row.a), brief(row.b), span(tone, words(row.difference)), dim(interval), intervalBar(row, tone), more];
  };
  return table([what, "", ...sides.map((side) => `#${side}`), "#difference", "#95% interval", "", ""], rows.map(cells), "comparison");
}

// Around 0; half the width stands for `extent`.
export function intervalBar({ difference, low, high }, tone, extent = Math.max(...[difference, low, high].map(Math.abs))) {
  const [value, from, to] = [difference, low ?? difference, high ?? difference].map((number) => number / (extent || 1));
  return h("i", { class: `interval ${tone}`, vars: { value, from, to } });
}

function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Draws lines, {label, colour (a CSS variable), isRight, isDashed}, over data(): the steps, then each line's values.
export async function plot(place, lines, data, alarms) {
  const Plot = globalThis.uPlot ?? (await import("./vendor/uPlot.esm.js")).default;
  const size = () => ({ width: Math.max(200, place.clientWidth), height: 190 });
  const value = (chart, under, at, index) => (index === null ? newest(chart.data[at]) : under);
  const series = ({ label, colour, isRight, isDashed }) => ({
    label: isRight ? `${label} (right)` : label, scale: isRight ? "right" : "y", stroke: () => colourOf(colour), width: 2, dash: isDashed ? [6, 4] : null, points: isDashed ? { show: false } : { size: 4 }, value: (...at) => brief(value(...at)),
  });
  const options = {
    ...size(), padding: [10, null, 0, null], scales: { x: { time: false } }, axes: axesOf(lines), series: [{ label: "step", value }, ...lines.map(series)],
    legend: { markers: { width: 0, fill: (_, at) => `var(${lines[at - 1].colour})` } },
    cursor: { sync: { key: "steps", setSeries: false } }, hooks: { draw: [(chart) => drawMarks(chart, alarms())] },
  };
  const chart = new Plot(options, data(), place);
  const [sizes, gone] = [new ResizeObserver(() => chart.setSize(size())), new AbortController()];
  sizes.observe(place);
  document.addEventListener("themechange", () => chart.redraw(), { signal: gone.signal });
  return { update: () => chart.setData(data()), destroy: () => (gone.abort(), sizes.disconnect(), chart.destroy()) };
}

function axesOf(lines) {
  const all = { font: `11px ${colourOf("--sans")}`, stroke: () => colourOf("--dim"), grid: { stroke: () => colourOf("--line"), width: 1 }, ticks: { show: false } };
  const left = { ...all, size: 48, values: (_, splits) => splits.map(tick) };
  const right = { ...left, grid: { show: false }, scale: "right", side: 1 };
  return [{ ...all, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000], size: 26 }, left, ...(lines.some((one) => one.isRight) ? [right] : [])];
}

function tick(value) {
  return value && Math.abs(value) < 1e-4 ? value.toExponential().replaceAll("-", "−") : value.toLocaleString("en-US", { maximumSignificantDigits: 6 });
}

// A line where each alarm began, with its name along it.
function drawMarks({ ctx, bbox, data, valToPos }, alarms) {
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.fillStyle = colourOf("--warn");
  ctx.font = `${10 * ratio}px ${colourOf("--sans")}`;
  ctx.textAlign = "left";
  for (const { step, name } of alarms.filter((alarm) => data[0].includes(alarm.step))) {
    const x = Math.round(valToPos(step, "x", true));
    ctx.fillRect(x, bbox.top, ratio, bbox.height);
    ctx.setTransform(0, 1, -1, 0, x + 5 * ratio, bbox.top + 4 * ratio);
    ctx.fillText(name.replaceAll("_", " "), 0, 0);
    ctx.setTransform(1, 0, 0, 1, 0, 0);
  }
  ctx.restore();
}
