// The metrics page: panels of curves under one cursor, and every other number of the run to pick from.
import { clear, debounce, h } from "./dom.js";
import { get, runPath } from "./api.js";
import { brief, newest, plot, table } from "./chart.js";

const SMOOTHING = 5;
const COLOURS = ["--part0", "--part5", "--part2", "--part3", "--part1", "--part4", "--part7", "--part6"];
const WORDS = {
  "reward/per_conversation": "reward of a conversation", "reward/per_conversation/deviation": "deviation", "reward/total": "weighted total",
  "kl/per_token_nats": "KL, nats a token", "entropy/per_token_nats": "entropy, nats a token", "learn/sampler_gap_nats": "gap, nats",
  "reference/nll_per_token_nats": "NLL by the base, nats a token", "learn/reference_nll_per_token": "NLL by the base, nats a token",
  "play/words_per_turn": "words a turn", "play/said_tokens_per_turn": "tokens a turn", "play/distinct_1": "distinct words", "play/distinct_2": "distinct word pairs",
  "play/question_rate": "turns with a question mark", "play/only_question_share": "turns of question words only", "play/repeat_rate": "turns said before",
  "play/cut_share": "turns cut at the limit", "play/tokens_per_second": "playing", "learn/tokens_per_second": "learning",
};
// Title, what it tells, names on the left axis, names on the right one.
const PANELS = [
  ["Reward of a conversation", "What training raises. Without deviation there is nothing left to learn from.", ["reward/per_conversation", "reward/per_conversation/deviation"]],
  ["Parts of the reward", "Means over trained turns: each part before its weight, and the weighted total.", ["reward/total", "PARTS"]],
  ["KL to the base", "How far the policy has moved, and the coefficient that pulls it back.", ["kl/per_token_nats", "TARGET"], ["kl/coefficient"]],
  ["Entropy", "How open the next token is. Near 0 the policy says ever the same.", ["entropy/per_token_nats"]],
  ["Lengths", "Words of a trained turn; all said tokens of a step on the right.", ["play/words_per_turn"], ["play/said_tokens"]],
  ["Variety", "Shares of word pairs and of trained turns.", ["play/distinct_2", "play/question_rate", "play/repeat_rate", "play/only_question_share"]],
  ["Cut and failed", "Share of turns that the token limit ended; conversations on the right.", ["play/cut_share"], ["play/failed", "play/truncated"]],
  ["Throughput", "Tokens a second.", ["play/tokens_per_second", "learn/tokens_per_second"]],
  ["Size of an update", "The gradient's norm before it is clipped.", ["learn/gradient_norm"], ["learn/learning_rate"]],
  ["Sampler against learner", "What both give a token: 1 is agreement.", ["learn/ratio_max", "learn/ratio_min"], ["learn/sampler_gap_nats"]],
  ["Likelihood by the base", "It also improves (falls) where language is lost: repetition is predictable.", ["learn/reference_nll_per_token"]],
];

export function metricWords(name) {
  return WORDS[name] ?? (name.startsWith("reward/") ? name.slice(7) : name.split("/").at(-1).replaceAll("_", " "));
}

// What a run has measured so far; `more` asks for the steps since.
export class Curves {
  constructor(run) {
    Object.assign(this, { run, steps: [], series: {}, alarms: [], target: run.kl?.target ?? null, asked: Promise.resolve() });
  }

  // One request at a time, for each begins where the last one ended.
  more(news = {}) {
    this.asked = this.asked.catch(() => {}).then(() => this.ask(news));
    return this.asked;
  }

  async ask({ step = null }) {
    // A resumed run goes back to its checkpoint: its curves begin anew.
    if (step !== null && step < this.steps.at(-1)) [this.steps, this.series] = [[], {}];
    const size = this.steps.length;
    const news = await get(`/api${runPath(this.run.run, "/metrics")}${size ? `?after=${this.steps.at(-1)}` : ""}`);
    this.steps.push(...news.steps);
    for (const [name, values] of Object.entries(news.series)) (this.series[name] ??= new Array(size).fill(null)).push(...values);
    for (const values of Object.values(this.series)) values.push(...new Array(this.steps.length - values.length).fill(null));
    this.alarms = news.alarms ?? [];
  }

  has(name) {
    return newest(this.series[name]) !== null;
  }

  get marks() {
    return this.alarms.filter((alarm) => alarm.state === "began").map((alarm) => alarm.step);
  }
}

export async function show(main, route, page) {
  const { params } = route;
  page.setTitle(`Metrics · ${page.run.run}`);
  const curves = new Curves(page.run);
  await curves.more();
  if (!page.isHere()) return;
  let [more, panels] = [new Set((params.get("more") ?? "").split(",").filter(Boolean)), []];
  const isSmooth = () => params.get("smooth") === "1";
  const smoothing = h("button", { type: "button", title: `Means of ${SMOOTHING} steps (s)`, onclick: smooth }, "Smooth");
  const [span, alarms, grid, picker] = [h("span", { class: "dim grow" }), h("div", { class: "row" }), h("div", { class: "panels" }), h("details", { class: "picker", open: more.size > 0 })];
  main.append(h("div", { class: "row" }, h("h1", {}, "Metrics"), span, smoothing), alarms, grid, picker);
  draw();

  function smooth() {
    remember("smooth", isSmooth() ? "" : "1");
  }

  function choose(name, isChosen) {
    more[isChosen ? "add" : "delete"](name);
    remember("more", [...more].join(","));
  }

  function remember(name, value) {
    if (value) params.set(name, value);
    else params.delete(name);
    page.setQuery(params);
    draw();
  }

  function draw() {
    panels.forEach((panel) => panel.destroy());
    smoothing.setAttribute("aria-pressed", String(isSmooth()));
    const { steps } = curves;
    span.textContent = steps.length ? `steps ${steps[0]} to ${steps.at(-1)}` : "";
    clear(alarms).append(...curves.alarms.filter((alarm) => alarm.state === "began").slice(-12).map((alarm) => h("span", { class: "chip warn", title: alarm.text }, `step ${alarm.step}: ${alarm.name.replaceAll("_", " ")}`)));
    const chosen = panelsOf(curves, more);
    clear(grid);
    panels = chosen.map((panel) => drawPanel(grid, panel, curves, isSmooth()));
    if (!chosen.length) grid.append(h("p", { class: "notice" }, "This run has no metrics: only training measures them, step by step."));
    const shown = new Set(chosen.filter((panel) => !panel.picked).flatMap((panel) => panel.names));
    fillPicker(picker, curves, Object.keys(curves.series).filter((name) => curves.has(name) && !shown.has(name)).sort(), more, choose);
  }

  async function refresh(news) {
    const state = () => [Object.keys(curves.series).length, curves.marks.length, Math.sign(curves.steps.length)].join();
    const [before, size] = [state(), curves.steps.length];
    await curves.more(news);
    if (!page.isHere()) return;
    if (state() !== before || curves.steps.length < size) return void draw();
    panels.forEach((panel) => panel.update());
    span.textContent = `steps ${curves.steps[0]} to ${curves.steps.at(-1)}`;
  }
  page.onChange(debounce((news) => refresh(news).catch(console.warn), 300));
  page.onKey({ s: ["smooth curves", smooth], "/": ["find a number", () => ((picker.open = true), picker.querySelector("input")?.focus())] });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  document.addEventListener("themechange", draw);
  scheme.addEventListener("change", draw);
  page.onLeave(() => {
    document.removeEventListener("themechange", draw);
    scheme.removeEventListener("change", draw);
    panels.forEach((panel) => panel.destroy());
  });
}

function panelsOf(curves, more) {
  const parts = (curves.run.rewards ?? []).map((reward) => `reward/${reward.label}`);
  const known = PANELS.map(([title, what, left, right = []]) => {
    const names = [...left.flatMap((name) => (name === "PARTS" ? parts : [name])), ...right].filter((name) => curves.has(name));
    return { title, what, names, right, target: left.includes("TARGET") ? curves.target : null };
  });
  const picked = [...more].filter((name) => curves.has(name)).map((name) => ({ title: name, what: "", names: [name], right: [], target: null, picked: name }));
  return [...known, ...picked].filter((panel) => panel.names.length);
}

// The mean of the newest numbers at each place; a gap stays a gap.
function smoothed(values) {
  return values.map((value, at) => {
    const known = values.slice(Math.max(0, at - SMOOTHING + 1), at + 1).filter((one) => one !== null);
    return value === null ? null : known.reduce((sum, one) => sum + one, 0) / known.length;
  });
}

function seriesOfPanel({ names, right, target }, curves, isSmooth) {
  const lines = names.map((name, at) => ({ label: metricWords(name), values: curves.series[name], colour: COLOURS[at % COLOURS.length], isRight: right.includes(name) }));
  const goal = target === null ? [] : [{ label: "target", values: curves.steps.map(() => target), colour: "--dim", isDashed: true }];
  if (!isSmooth) return [...lines, ...goal];
  return [...lines.map((one) => ({ ...one, isFaint: true })), ...lines.map((one) => ({ ...one, values: smoothed(one.values) })), ...goal];
}

function drawPanel(grid, panel, curves, isSmooth) {
  const [place, details] = [h("div", {}), h("details", { ontoggle: fillTable }, h("summary", {}, "numbers"))];
  grid.append(h("section", { class: "panel" }, h("h2", { text: panel.title }), h("p", { class: "dim", text: panel.what }), place, details));
  const series = () => seriesOfPanel(panel, curves, isSmooth);
  let [chart, isGone] = [null, false];
  plot(place, { steps: curves.steps, series: series(), marks: () => curves.marks }).then(
    (made) => (isGone ? made.destroy() : (chart = made)),
    (error) => (console.warn(error), place.append(h("p", { class: "dim" }, "The curve cannot be drawn here; its numbers are below."))),
  );

  function fillTable() {
    if (!details.open) return;
    const columns = seriesOfPanel(panel, curves, false);
    const rows = curves.steps.map((step, at) => [step, ...columns.map((one) => brief(one.values[at]))]).reverse();
    details.querySelector("div")?.remove();
    details.append(table(["#step", ...columns.map((one) => `#${one.label}`)], rows));
  }

  return {
    update: () => (chart?.update([curves.steps, ...series().map((one) => one.values)]), fillTable()),
    destroy: () => ((isGone = true), chart?.destroy()),
  };
}

function fillPicker(picker, curves, names, more, choose) {
  const filter = h("input", { type: "search", placeholder: "find a number…", "aria-label": "Find a number", value: picker.querySelector("input")?.value ?? "", oninput: narrow });
  const items = names.map((name) => h("label", {}, h("input", { type: "checkbox", checked: more.has(name), onchange: (event) => choose(name, event.target.checked) }), h("span", { text: name }), h("span", { class: "n dim", text: brief(newest(curves.series[name])) })));
  picker.hidden = !names.length;
  clear(picker).append(h("summary", {}, `${names.length} other numbers`), filter, h("div", { class: "names" }, items));
  narrow();

  function narrow() {
    items.forEach((item, at) => (item.hidden = !names[at].includes(filter.value.trim().toLowerCase())));
  }
}
