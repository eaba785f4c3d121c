// The metrics page: panels of curves under one cursor, and a table of the run's other numbers.
import { clear, debounce, div, h, panel, span } from "./dom.js";
import { get, runPath } from "./api.js";
import { brief, newest, plot, table } from "./chart.js";

const COLOURS = [0, 5, 2, 3, 1, 4, 7, 6];
// In words; which way is good, where that is the same for every run; the sort key and the filter that find what shows it.
const METRICS = {
  "reward/per_conversation": ["reward of a conversation", 1, "reward"],
  "reward/per_conversation/deviation": ["deviation"],
  "reward/total": ["weighted total", 1],
  "kl/per_token_nats": ["KL, nats a token", 0, "kl"],
  "entropy/per_token_nats": ["entropy, nats a token"],
  "reference/nll_per_token_nats": ["NLL by the base, nats a token", 0, "nll"],
  "learn/reference_nll_per_token": ["NLL by the base, nats a token"],
  "play/words_per_turn": ["words a turn"],
  "play/said_tokens_per_turn": ["tokens a turn"],
  "play/distinct_1": ["distinct words", 1],
  "play/distinct_2": ["distinct word pairs", 1],
  "play/question_rate": ["turns with a question mark"],
  "play/only_question_share": ["turns of question words only", -1],
  "play/repeat_rate": ["turns said before", -1, "newest", "flag=repeats"],
  "play/cut_share": ["turns cut at the limit", -1, "newest", "flag=cut"],
  "play/tokens_per_second": ["playing"],
  "learn/tokens_per_second": ["learning"],
};
// Title, what it tells, names on the left axis, names on the right one.
const PANELS = [
  ["Reward of a conversation", "What training raises. Without deviation there is nothing left to learn from.", ["reward/per_conversation", "reward/per_conversation/deviation"]],
  ["Parts of the reward", "Each before its weight, and their weighted total; means over trained turns.", ["reward/total", "PARTS"]],
  ["KL to the base", "How far the policy has moved, and the coefficient that pulls it back.", ["kl/per_token_nats", "target"], ["kl/coefficient"]],
  ["Entropy and likelihood", "Near 0 the policy says ever the same, and repetition is likely even to the base.", ["entropy/per_token_nats", "learn/reference_nll_per_token"]],
  ["Lengths", "Words of a trained turn; tokens of a step.", ["play/words_per_turn"], ["play/said_tokens"]],
  ["Variety", "Shares of word pairs and of trained turns.", ["play/distinct_2", "play/question_rate", "play/repeat_rate", "play/cut_share"]],
  ["Throughput", "Tokens a second.", ["play/tokens_per_second", "learn/tokens_per_second"]],
  ["Learner", "The gradient before it is clipped; what sampler and learner differ by.", ["learn/gradient_norm"], ["learn/sampler_gap_nats"]],
];

// Those of the reward's parts go by the part's name.
export function metricOf(name) {
  const [, part] = /^reward\/([^/]*)$/.exec(name) ?? [];
  const [words, way = 0, sort, filter] = METRICS[name] ?? (part ? [part, 0, `reward.${part}`] : [name.split("/").at(-1).replaceAll("_", " ")]);
  return { words, way, sort, filter };
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
    if (step !== null && step < this.steps.at(-1)) Object.assign(this, { steps: [], series: {} });
    const size = this.steps.length;
    const news = await get(`/api${runPath(this.run.run, "/metrics")}${size ? `?after=${this.steps.at(-1)}` : ""}`);
    this.steps.push(...news.steps);
    for (const [name, values] of Object.entries(news.series)) (this.series[name] ??= new Array(size).fill(null)).push(...values);
    for (const values of Object.values(this.series)) values.push(...new Array(this.steps.length - values.length).fill(null));
    this.alarms = (news.alarms ?? []).filter((alarm) => alarm.state === "began");
  }

  values(name) {
    return name === "target" ? this.steps.map(() => this.target) : this.series[name];
  }

  has(name) {
    return newest(this.values(name)) !== null;
  }

  // The first number and the newest one, in words.
  ends(name) {
    const values = this.series[name];
    return [brief(values.find((value) => value !== null)), brief(newest(values))];
  }

  get marks() {
    return this.alarms.map((alarm) => alarm.step);
  }

  get words() {
    return this.steps.length ? `steps ${this.steps[0]} to ${this.steps.at(-1)}` : "";
  }
}

export async function show(main, route, page) {
  page.setTitle(`Metrics · ${page.run.run}`);
  const curves = new Curves(page.run);
  const [told, grid] = [span("dim"), div("panels")];
  const others = h("details", { class: "others", ontoggle: fillOthers }, h("summary"));
  let [shown, panels] = [[], []];
  main.append(div("row", h("h1", {}, "Metrics"), told), grid, others);
  page.onLeave(() => panels.forEach((one) => one.destroy()));
  await refresh();
  page.onChange(debounce((news) => refresh(news).catch(console.warn), 300));

  async function refresh(news) {
    await curves.more(news);
    if (!page.isHere()) return;
    const wanted = panelsOf(curves);
    const names = wanted.flatMap((one) => one.names);
    told.textContent = [curves.words, ...curves.alarms.map((alarm) => `alarm at ${alarm.step}: ${alarm.name.replaceAll("_", " ")}`)].join(" · ");
    if (!panels.length || String(names) !== String(shown)) {
      panels.forEach((one) => one.destroy());
      clear(grid);
      panels = wanted.map((one) => drawPanel(grid, one, curves));
      if (!panels.length) grid.append(h("p", "notice", "This run has no metrics: only training measures them, step by step."));
    } else panels.forEach((one) => one.update());
    shown = names;
    fillOthers();
  }

  function fillOthers() {
    const names = Object.keys(curves.series).filter((name) => curves.has(name) && !shown.includes(name)).sort();
    others.hidden = !names.length;
    others.firstChild.textContent = `${names.length} other numbers`;
    if (others.open) others.replaceChildren(others.firstChild, table(["number", "#first", "#newest"], names.map((name) => [name, ...curves.ends(name)])));
  }
}

function panelsOf(curves) {
  const parts = (curves.run.rewards ?? []).map((reward) => `reward/${reward.label}`);
  const all = PANELS.map(([title, what, left, right = []]) => ({ title, what, right, names: [...left.flatMap((name) => (name === "PARTS" ? parts : name)), ...right].filter((name) => curves.has(name)) }));
  return all.filter(({ names }) => String(names) && String(names) !== "target");
}

function drawPanel(grid, { title, what, names, right }, curves) {
  const [place, details] = [div("plot"), h("details", { ontoggle: fillTable }, h("summary", {}, "numbers"))];
  grid.append(panel(title, h("p", "dim", what), place, details));
  const lines = names.map((name, at) => ({ label: metricOf(name).words, colour: name === "target" ? "--dim" : `--part${COLOURS[at % 8]}`, isRight: right.includes(name), isDashed: name === "target" }));
  const data = () => [curves.steps, ...names.map((name) => curves.values(name))];
  const chart = plot(place, lines, data, () => curves.marks).catch((error) => {
    console.warn(error);
    place.append(h("p", "dim", "The curve cannot be drawn here; its numbers are below."));
  });

  function fillTable() {
    if (!details.open) return;
    const rows = curves.steps.map((step, at) => [step, ...names.map((name) => brief(curves.values(name)[at]))]);
    details.replaceChildren(details.firstChild, table(["#step", ...lines.map((one) => `#${one.label}`)], rows.reverse()));
  }

  return {
    update: () => (fillTable(), chart.then((made) => made?.update())),
    destroy: () => chart.then((made) => made?.destroy()),
  };
}
