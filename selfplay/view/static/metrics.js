// The metrics page: panels of curves under one cursor, and a table of all numbers.
import { clear, debounce, div, h, panel, span } from "./dom.js";
import { get, runPath } from "./api.js";
import { brief, newest, plot, table } from "./chart.js";

const COLOURS = [0, 5, 2, 3, 1, 4, 7, 6];
// In words; which way is good for every run; the sort key and the filter that find what shows it.
const METRICS = {
  "reward/per_conversation": ["reward of a conversation", 1, "reward"],
  "reward/total": ["weighted total", 1],
  "game/payoff": ["payoff", 1, "payoff"],
  "game/opponent_payoff": ["opponent's payoff"],
  "game/win": ["won", 1],
  "game/success": ["success", 1, "newest", "success=false"],
  "game/protocol_ok": ["form kept", 1, "newest", "protocol=false"],
  "game/fault": ["form broken by the policy", -1, "newest", "protocol=false"],
  "game/opponent_fault": ["form broken by the opponent", 0, "newest", "protocol=false"],
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
  "play/repeat_rate": ["turns repeating an earlier one", -1, "newest", "flag=repeats"],
  "play/cut_share": ["turns cut at the limit", -1, "newest", "flag=cut"],
  "play/tokens_per_second": ["playing"],
  "learn/tokens_per_second": ["learning"],
};
const TITLES = {
  kl: "how much likelier its words are to the policy than to the base: how far it has moved",
  nll: "how unlikely its words are to the base: less is more generic or repetitive, more is further from its language",
  "play/distinct_2": "distinct pairs of neighbouring words over all, at equal numbers of words: less is more repetitive",
};
// Title, what it tells, names on the left axis, names on the right one.
const PANELS = [
  ["Reward of a conversation", "Without deviation there is nothing left to learn from.", ["reward/per_conversation", "reward/per_conversation/deviation"]],
  ["Payoff", "What the game paid the policy, and what it paid it in each role.", ["game/payoff", "PAYOFFS", "game/opponent_payoff"]],
  ["Success and form", "Shares of conversations that the policy won, that reached the aim, and that kept the game's form.", ["game/win", "game/success", "game/protocol_ok", "game/fault", "game/opponent_fault"]],
  ["Parts of the reward", "Each before its weight; means over trained turns.", ["reward/total", "PARTS"]],
  ["KL to the base", "How far the policy has moved, and what pulls it back.", ["kl/per_token_nats", "target"], ["kl/coefficient"]],
  ["Entropy and likelihood", "Near 0 the policy says the same again and again, and repetition is likely even to the base.", ["entropy/per_token_nats", "learn/reference_nll_per_token"]],
  ["Lengths", "Words of a trained turn, tokens of a step.", ["play/words_per_turn"], ["play/said_tokens"]],
  ["Variety", "Shares of word pairs and of trained turns.", ["play/distinct_2", "play/question_rate", "play/repeat_rate", "play/cut_share"]],
  ["Throughput", "Tokens a second.", ["play/tokens_per_second", "learn/tokens_per_second"]],
];

// A reward may have the name of what the game itself says: "payoff".
const TAKEN = new Set(Object.values(METRICS).map(([words]) => words));
const PAYOFF_OF = /^game\/payoff\/(.+)$/;

export function metricOf(name) {
  const [, part] = /^reward\/([^/]*)$/.exec(name) ?? [];
  const [, role] = PAYOFF_OF.exec(name) ?? [];
  const [words, way = 0, sort, filter] = METRICS[name] ?? (part ? [TAKEN.has(part) ? `${part}, a turn` : part, 0, `reward.${part}`] : role ? [`payoff as ${role}`, 1, `payoff.${role}`] : [name.split("/").at(-1).replaceAll("_", " ")]);
  return { words, way, sort, filter, title: TITLES[sort ?? name] };
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
    this.unfitting = news.unfitting;
    this.alarms = (news.alarms ?? []).filter((alarm) => alarm.state === "began");
  }

  values(name) {
    return name === "target" ? this.steps.map(() => this.target) : this.series[name];
  }

  has(name) {
    return newest(this.values(name)) !== null;
  }

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
  const all = h("details", { class: "others", ontoggle: fillTable }, h("summary", {}, "All numbers"));
  let [shown, charts] = ["", []];
  main.append(div("row", h("h1", {}, "Metrics"), told), grid, all);
  const leave = () => charts.forEach((chart) => chart.destroy());
  page.onLeave(leave);
  await refresh();
  page.onChange(debounce((news) => refresh(news).catch(console.warn), 300));

  async function refresh(news) {
    await curves.more(news);
    if (!page.isHere()) return;
    const wanted = panelsOf(curves);
    told.textContent = curves.words;
    const names = String(wanted.map((one) => one.names));
    if (names === shown) charts.forEach((chart) => chart.update());
    else {
      leave();
      clear(grid);
      charts = wanted.map((one) => drawPanel(grid, one, curves));
    }
    shown = names;
    if (!names) clear(grid).append(h("p", "notice", "This run has no metrics: only training measures them, step by step."));
    all.hidden = !names;
    fillTable();
  }

  function fillTable() {
    const names = all.open ? Object.keys(curves.series).filter((name) => curves.has(name)).sort() : [];
    all.replaceChildren(all.firstChild, table(["number", "#first", "#newest"], names.map((name) => [name, ...curves.ends(name)])));
  }
}

function panelsOf(curves) {
  const several = { PARTS: (curves.run.rewards ?? []).map((reward) => `reward/${reward.label}`), PAYOFFS: Object.keys(curves.series).filter((name) => PAYOFF_OF.test(name)) };
  // What is 0 throughout needs no axis of its own.
  const namesOf = (left, right) => [...left.flatMap((name) => several[name] ?? name).filter((name) => curves.has(name)), ...right.filter((name) => curves.values(name)?.some(Boolean))];
  return PANELS.map(([title, what, left, right = []]) => ({ title, what, right, names: namesOf(left, right) })).filter(({ names }) => names.some((name) => name !== "target"));
}

function drawPanel(grid, { title, what, names, right }, curves) {
  const place = div("plot");
  grid.append(panel(title, h("p", "dim", what), place));
  const lines = names.map((name, at) => ({ label: metricOf(name).words, colour: name === "target" ? "--dim" : `--part${COLOURS[at % 8]}`, isRight: right.includes(name), isDashed: name === "target" }));
  const chart = plot(place, lines, () => [curves.steps, ...names.map((name) => curves.values(name))], () => curves.alarms).catch((error) => {
    console.warn(error);
    place.append(h("p", "dim", "The curve cannot be drawn here; its numbers are below."));
  });
  return { update: () => chart.then((made) => made?.update()), destroy: () => chart.then((made) => made?.destroy()) };
}
