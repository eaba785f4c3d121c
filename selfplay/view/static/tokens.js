// Tokens of turns: coloured text, exact tokens, the numbers of one token.
import { clear, h, number, signed } from "./dom.js";

const LEVELS = 5; // shades on either side of the middle
const MOST_TOKENS = 1200; // shown at once of one turn
const MOST_ROWS = 400; // of the table of numbers
const SPECIAL = /^<[^\s<>]+>$/;

// What tokens can be coloured by.  `isSigned`: the middle of the scale is 0, else the run's median.
export const QUANTITIES = [
  { name: "logprobs", label: "log-prob", of: (turn) => turn.logprobs, isFlipped: true, low: "less likely", high: "more likely", is: "log-probability while sampling, nats" },
  { name: "kl", label: "KL to reference", of: (turn) => turn.kl ?? minus(turn.logprobs, turn.logprobs_reference), isSigned: true, low: "reference likes it more", high: "policy likes it more", is: "nats" },
  { name: "entropy", label: "entropy", of: (turn) => turn.entropy, low: "sure", high: "open choice", is: "nats" },
  { name: "advantage", label: "advantage", of: (turn) => turn.advantage, isSigned: true, low: "made less likely", high: "made more likely", is: "of the update" },
  { name: "gap", label: "sampler − learner", of: (turn) => minus(turn.logprobs, turn.logprobs_learner), isSigned: true, low: "learner likes it more", high: "sampler likes it more", is: "difference of log-probabilities, nats" },
];

function minus(left, right) {
  return left && right ? left.map((value, k) => (value === null || right[k] === null || right[k] === undefined ? null : value - right[k])) : null;
}

function isKnown(value) {
  return value !== null && value !== undefined && Number.isFinite(value);
}

export function offeredQuantities(tokens) {
  return QUANTITIES.filter((quantity) => tokens?.turns.some((turn) => quantity.of(turn)?.some(isKnown)));
}

// Low, middle, high: of the run's quantiles, so that two conversations compare; of this conversation if it has none.
export function scaleOf(quantity, heat, tokens) {
  let quantiles = heat?.[quantity.name];
  const isOfRun = Array.isArray(quantiles) && quantiles.length === 5 && quantiles.every(isKnown);
  if (!isOfRun) {
    const values = tokens.turns.flatMap((turn) => quantity.of(turn) ?? []).filter(isKnown).sort((a, b) => a - b);
    quantiles = [0.02, 0.25, 0.5, 0.75, 0.98].map((share) => values[Math.round(share * (values.length - 1))]);
  }
  const [low, , median, , high] = quantiles;
  if (!quantity.isSigned) return { low, middle: median, high, isOfRun, isFlipped: quantity.isFlipped, coldest: 2 };
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  return { low: -most, middle: 0, high: most, isOfRun };
}

// Blue on one side of the middle, orange on the other; what is merely usual (a likely token) stays pale.
export function heatClass(value, scale) {
  if (!isKnown(value) || !scale) return "";
  const isHigh = value >= scale.middle;
  const side = isHigh ? scale.high - scale.middle : scale.middle - scale.low;
  const kind = isHigh === !scale.isFlipped ? "hot" : "cold";
  const most = kind === "cold" ? (scale.coldest ?? LEVELS) : LEVELS;
  const level = Math.round(most * Math.min(1, Math.abs(value - scale.middle) / (side || 1)));
  return level ? kind + level : "";
}

export function heatLegend(quantity, scale) {
  const { low, middle, high } = scale;
  const shades = [-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5].map((k) => h("span", { class: `shade ${heatClass(middle + (k / 5) * (k < 0 ? middle - low : high - middle), scale)}` }));
  return h("div", { class: "heat-legend" }, h("span", {}, h("b", { text: number(low) }), ` ${quantity.low}`), h("span", { class: "shades", "aria-hidden": "true" }, shades), h("span", {}, h("b", { text: number(high) }), ` ${quantity.high}`),
    h("span", { class: "dim", text: `middle ${number(middle)} · ${quantity.is} · ${scale.isOfRun ? "one scale for the whole run" : "the scale is this conversation's own"}` }));
}

function tokenSpan([id, text], k, kind) {
  const shown = text ?? `‹${id}›`;
  const isSpecial = text === null || SPECIAL.test(shown);
  const span = h("span", { class: `tok ${kind}${isSpecial ? " special" : ""}`, text: shown === "" ? "∅" : shown });
  if (k !== null) span.dataset.k = k;
  return span;
}

// Thousands of spans take the browser seconds to lay out, so they come in portions.
function inPortions(spans, noun) {
  if (spans.length <= MOST_TOKENS) return spans;
  const rest = spans.slice(MOST_TOKENS);
  const more = h("button", { type: "button", class: "more", onclick: () => more.replaceWith(...inPortions(rest, noun)) }, `${rest.length} more ${noun}`);
  return [...spans.slice(0, MOST_TOKENS), more];
}

// The said tokens as text in shades; every span carries its position as data-k.
export function colouredTokens(turn, { quantity, scale }) {
  const values = quantity?.of(turn);
  const spans = turn.said.map((token, k) => tokenSpan(token, k, heatClass(values?.[k], scale)));
  return h("div", { class: "said tokens", dir: "auto" }, inPortions(spans, "tokens"));
}

// Heard and said as the model had them: scaffold included, said tokens of a trained role underlined as learned from.
export function exactTokens(turn, { isLearned, quantity, scale }) {
  const values = quantity?.of(turn);
  const mark = isLearned ? "learned" : "sampled";
  const heard = turn.heard.map((token) => tokenSpan(token, null, "heard"));
  heard.forEach((span, k) => (span.title = `heard · id ${turn.heard[k][0]}`));
  const said = turn.said.map((token, k) => tokenSpan(token, k, `${mark} ${heatClass(values?.[k], scale)}`));
  said.forEach((span, k) => (span.title = `said · id ${turn.said[k][0]}`));
  return h("div", { class: "exact" },
    h("div", { class: "exact-part" }, h("span", { class: "exact-name", text: `heard ${heard.length}` }), h("div", { class: "said tokens" }, inPortions(heard, "heard tokens"))),
    h("div", { class: "exact-part" }, h("span", { class: "exact-name", text: `said ${said.length}` }), h("div", { class: "said tokens" }, inPortions(said, "said tokens"))));
}

function chance(logprob) {
  if (!isKnown(logprob)) return "–";
  const p = Math.exp(logprob);
  return p < 0.001 ? p.toExponential(1) : p.toFixed(3);
}

// [label, text] of everything known of one said token.
export function numbersOf(turn, k) {
  const at = (name) => QUANTITIES.find((quantity) => quantity.name === name).of(turn)?.[k];
  return [
    ["id", String(turn.said[k][0])], ["p", chance(turn.logprobs?.[k])], ["ref p", chance(turn.logprobs_reference?.[k])], ["KL", signed(at("kl"), 3)],
    ["entropy", number(at("entropy"), 2)], ["advantage", signed(at("advantage"), 2)], ["sampler − learner", signed(at("gap"), 4)], ["value", signed(turn.value?.[k], 2)],
  ];
}

export function readoutOf(turn, k) {
  const known = numbersOf(turn, k).filter(([, text]) => text !== "–");
  return [h("b", { class: "readout-text", dir: "auto", text: JSON.stringify(turn.said[k][1] ?? "") }), h("span", { class: "dim", text: `turn ${turn.turn}, token ${k}` }),
    ...known.map(([label, text]) => h("span", {}, h("span", { class: "dim", text: `${label} ` }), text))];
}

// The same numbers as a table, filled when it is opened.
export function numbersTable(turn) {
  const place = h("div", { class: "scroll-x" });
  const fill = (event) => {
    if (!event.target.open || place.firstChild) return;
    const rows = turn.said.slice(0, MOST_ROWS).map((token, k) => [token[1] ?? "", numbersOf(turn, k)]);
    if (!rows.length) return place.append("no tokens");
    const shown = rows[0][1].map((_, column) => rows.some(([, cells]) => cells[column][1] !== "–"));
    const pick = (cells) => cells.filter((_, column) => shown[column]);
    clear(place).append(h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "token"), pick(rows[0][1]).map(([label]) => h("th", { scope: "col", class: "n", text: label })))),
      h("tbody", {}, rows.map(([text, cells]) => h("tr", {}, h("th", { scope: "row", class: "mono" }, h("bdi", { text: JSON.stringify(text) })), pick(cells).map(([, value]) => h("td", { class: "n", text: value })))))));
    if (turn.said.length > MOST_ROWS) place.append(h("p", { class: "dim", text: `the first ${MOST_ROWS} of ${turn.said.length} tokens` }));
  };
  return h("details", { class: "numbers-of", ontoggle: fill }, h("summary", {}, "numbers of the tokens"), place);
}
