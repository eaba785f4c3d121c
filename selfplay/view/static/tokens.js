// Tokens of turns: coloured text, exact tokens, the numbers of one token.
import { dim, table } from "./chart.js";
import { button, div, h, number, signed, span } from "./dom.js";

const MOST_TOKENS = 1200; // shown at once of one turn
const SPECIAL = /^<[^\s<>]+>$/;

export const ADVANTAGE = "mean over tokens, in the learner's units: reward minus baseline, scaled";

// The palest is 0 where `usual` is "zero", else that end of the scale.
const QUANTITIES = [
  { name: "logprobs", label: "log-prob", of: (turn) => turn.logprobs, usual: "high", low: "less likely", high: "more likely" },
  { name: "kl", label: "KL to reference", of: (turn) => turn.kl ?? minus(turn.logprobs, turn.logprobs_reference), usual: "zero", low: "reference likes it more", high: "policy likes it more" },
  { name: "entropy", label: "entropy", of: (turn) => turn.entropy, usual: "low", low: "sure", high: "open choice" },
  { name: "advantage", label: "advantage", of: (turn) => turn.advantage, usual: "zero", low: "made less likely", high: "made more likely" },
  { name: "gap", label: "sampler − learner", of: (turn) => minus(turn.logprobs, turn.logprobs_learner), usual: "zero", low: "learner likes it more", high: "sampler likes it more" },
];

export const isKnown = (value) => Number.isFinite(value);

export function meanOf(values) {
  const known = values?.filter(isKnown) ?? [];
  return known.length ? known.reduce((sum, value) => sum + value) / known.length : null;
}

function minus(left, right) {
  return left && right ? left.map((value, k) => (isKnown(value) && isKnown(right[k]) ? value - right[k] : null)) : null;
}

export function offeredQuantities(tokens) {
  return QUANTITIES.filter((quantity) => tokens?.turns.some((turn) => quantity.of(turn)?.some(isKnown)));
}

// The run's, so that two conversations compare; this conversation's own if it has none.
export function scaleOf({ name, of, usual }, heat, tokens) {
  const isOfRun = heat?.[name]?.length > 0;
  const values = isOfRun ? heat[name] : tokens.turns.flatMap((turn) => of(turn) ?? []).filter(isKnown).sort((a, b) => a - b);
  const [low, high] = [values[0], values.at(-1)];
  const most = Math.max(Math.abs(low), Math.abs(high));
  return usual === "zero" ? { usual, isOfRun, low: -most, high: most } : { usual, isOfRun, low, high };
}

export function heatLegend(quantity, { low, high, isOfRun }) {
  const end = (value, text) => span("", h("b", { text: number(value) }), ` ${text}`);
  return div("heat-legend", end(low, quantity.low), h("span", { class: `shades usual-${quantity.usual}`, "aria-hidden": "true" }), end(high, quantity.high),
    dim(`${quantity.name === "advantage" ? "" : "nats · "}${isOfRun ? "one scale for the whole run" : "the scale is this conversation's own"}`));
}

// Blue below a middle of 0, orange elsewhere; how strong is the token's --heat, from 0 to 1.
function tokenSpan([id, text], k, mark, value, scale) {
  const shown = text ?? `‹${id}›`;
  const isSpecial = text === null || SPECIAL.test(shown);
  const token = h("span", { class: `tok ${mark}${isSpecial ? " special" : ""}`, text: shown || "∅", dataset: k === null ? {} : { k } });
  if (!scale || !isKnown(value)) return token;
  const isCold = scale.usual === "zero" && value < 0;
  const [palest, strongest] = { zero: [0, isCold ? scale.low : scale.high], low: [scale.low, scale.high], high: [scale.high, scale.low] }[scale.usual];
  token.classList.add(isCold ? "cold" : "hot");
  token.style.setProperty("--heat", Math.max(0, Math.min(1, (value - palest) / (strongest - palest || 1))).toFixed(2));
  return token;
}

// Thousands of spans take seconds to lay out.
function inPortions(spans) {
  if (spans.length <= MOST_TOKENS) return spans;
  const rest = spans.slice(MOST_TOKENS);
  const more = button(`${rest.length} more tokens`, () => more.replaceWith(...inPortions(rest)), { class: "more" });
  return [...spans.slice(0, MOST_TOKENS), more];
}

const saidSpans = (turn, { quantity, scale }, mark, values = quantity?.of(turn)) => turn.said.map((token, k) => tokenSpan(token, k, mark, values?.[k], scale));

export function colouredTokens(turn, shades) {
  return h("div", { class: "said tokens", dir: "auto" }, inPortions(saidSpans(turn, shades, "")));
}

// As the model had them, scaffold included.
export function exactTokens(turn, shades, isLearned) {
  const stretch = (name, tokens, spans) => {
    spans.forEach((token, k) => (token.title = `${name} · id ${tokens[k][0]}`));
    return div("exact-part", span("exact-name", `${name} ${tokens.length}`), div("said tokens", inPortions(spans)));
  };
  return div("exact", stretch("heard", turn.heard, turn.heard.map((token) => tokenSpan(token, null, "heard"))), stretch("said", turn.said, saidSpans(turn, shades, isLearned ? "learned" : "sampled")));
}

const chance = (logprob) => (isKnown(logprob) ? Math.exp(logprob).toPrecision(2) : "–");

function numbersOf(turn, k) {
  const at = (name) => QUANTITIES.find((quantity) => quantity.name === name).of(turn)?.[k];
  return [
    ["id", String(turn.said[k][0])], ["p", chance(turn.logprobs?.[k])], ["ref p", chance(turn.logprobs_reference?.[k])], ["KL", signed(at("kl"), 3)],
    ["entropy", number(at("entropy"))], ["advantage", signed(at("advantage"))], ["sampler − learner", signed(at("gap"), 4)], ["value", signed(turn.value?.[k])],
  ];
}

export function readoutOf(turn, k) {
  const known = numbersOf(turn, k).filter(([, text]) => text !== "–");
  return [h("b", { class: "readout-text", dir: "auto" }, JSON.stringify(turn.said[k][1] ?? "")), dim(`turn ${turn.turn}, token ${k}`), ...known.map(([label, text]) => span("", dim(`${label} `), text))];
}

export function numbersTable(turn) {
  const fill = ({ target }) => {
    if (!target.open || target.children.length > 1) return;
    const rows = turn.said.slice(0, MOST_TOKENS).map((token, k) => [h("bdi", "mono", JSON.stringify(token[1] ?? "")), ...numbersOf(turn, k).map(([, text]) => text)]);
    target.append(table(["token", ...numbersOf(turn, 0).map(([label]) => `#${label}`)], rows, "numbers"));
  };
  return h("details", { class: "numbers-of", ontoggle: fill }, h("summary", {}, "numbers of the tokens"));
}
