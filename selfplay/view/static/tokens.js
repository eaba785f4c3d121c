// Tokens of turns: coloured text, exact tokens, the numbers of one token.
import { table } from "./chart.js";
import { button, div, h, number, signed, span } from "./dom.js";

const MOST_TOKENS = 1200; // shown at once of one turn
const MOST_ROWS = 400; // of the table of numbers
const SPECIAL = /^<[^\s<>]+>$/;

// What tokens can be coloured by.  The palest is 0 where `usual` is "zero", else the low or the high end of the scale.
const QUANTITIES = [
  { name: "logprobs", label: "log-prob", of: (turn) => turn.logprobs, usual: "high", low: "less likely", high: "more likely", unit: "nats" },
  { name: "kl", label: "KL to reference", of: (turn) => turn.kl ?? minus(turn.logprobs, turn.logprobs_reference), usual: "zero", low: "reference likes it more", high: "policy likes it more", unit: "nats" },
  { name: "entropy", label: "entropy", of: (turn) => turn.entropy, usual: "low", low: "sure", high: "open choice", unit: "nats" },
  { name: "advantage", label: "advantage", of: (turn) => turn.advantage, usual: "zero", low: "made less likely", high: "made more likely", unit: "" },
  { name: "gap", label: "sampler − learner", of: (turn) => minus(turn.logprobs, turn.logprobs_learner), usual: "zero", low: "learner likes it more", high: "sampler likes it more", unit: "nats" },
];

function minus(left, right) {
  return left && right ? left.map((value, k) => (isKnown(value) && isKnown(right[k]) ? value - right[k] : null)) : null;
}

const isKnown = (value) => Number.isFinite(value);

export function offeredQuantities(tokens) {
  return QUANTITIES.filter((quantity) => tokens?.turns.some((turn) => quantity.of(turn)?.some(isKnown)));
}

// From low to high: of the run's quantiles, so that two conversations compare; of this conversation if it has none.
export function scaleOf({ name, of, usual }, heat, tokens) {
  const values = tokens.turns.flatMap((turn) => of(turn) ?? []).filter(isKnown).sort((a, b) => a - b);
  const own = [0.02, 0.98].map((share) => values[Math.round(share * (values.length - 1))]);
  const isOfRun = Boolean(heat?.[name]?.length);
  const [low, high] = isOfRun ? [heat[name][0], heat[name].at(-1)] : own;
  const most = Math.max(Math.abs(low), Math.abs(high));
  return usual === "zero" ? { usual, isOfRun, low: -most, high: most } : { usual, isOfRun, low, high };
}

export function heatLegend(quantity, { low, high, isOfRun }) {
  const end = (value, text) => span("", h("b", { text: number(value) }), ` ${text}`);
  return div("heat-legend", end(low, quantity.low), h("span", { class: `shades usual-${quantity.usual}`, "aria-hidden": "true" }), end(high, quantity.high),
    span("dim", `${quantity.unit} · `, isOfRun ? "one scale for the whole run" : "the scale is this conversation's own"));
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

// Thousands of spans take the browser seconds to lay out, so they come in portions.
function inPortions(spans, noun) {
  if (spans.length <= MOST_TOKENS) return spans;
  const rest = spans.slice(MOST_TOKENS);
  const more = button(`${rest.length} more ${noun}`, () => more.replaceWith(...inPortions(rest, noun)), { class: "more" });
  return [...spans.slice(0, MOST_TOKENS), more];
}

function saidSpans(turn, { quantity, scale }, mark) {
  const values = quantity?.of(turn);
  return turn.said.map((token, k) => tokenSpan(token, k, mark, values?.[k], scale));
}

// The said tokens as text in shades; every span carries its position as data-k.
export function colouredTokens(turn, shades) {
  return h("div", { class: "said tokens", dir: "auto" }, inPortions(saidSpans(turn, shades, ""), "tokens"));
}

// Heard and said as the model had them: scaffold included, said tokens of a trained role underlined as learned from.
export function exactTokens(turn, shades, isLearned) {
  const stretch = (name, tokens, spans) => {
    spans.forEach((token, k) => (token.title = `${name} · id ${tokens[k][0]}`));
    return div("exact-part", span("exact-name", `${name} ${tokens.length}`), div("said tokens", inPortions(spans, `${name} tokens`)));
  };
  return div("exact", stretch("heard", turn.heard, turn.heard.map((token) => tokenSpan(token, null, "heard"))), stretch("said", turn.said, saidSpans(turn, shades, isLearned ? "learned" : "sampled")));
}

function chance(logprob) {
  return isKnown(logprob) ? Math.exp(logprob).toPrecision(2) : "–";
}

// [label, text] of everything known of one said token.
function numbersOf(turn, k) {
  const at = (name) => QUANTITIES.find((quantity) => quantity.name === name).of(turn)?.[k];
  return [
    ["id", String(turn.said[k][0])], ["p", chance(turn.logprobs?.[k])], ["ref p", chance(turn.logprobs_reference?.[k])], ["KL", signed(at("kl"), 3)],
    ["entropy", number(at("entropy"))], ["advantage", signed(at("advantage"))], ["sampler − learner", signed(at("gap"), 4)], ["value", signed(turn.value?.[k])],
  ];
}

export function readoutOf(turn, k) {
  const known = numbersOf(turn, k).filter(([, text]) => text !== "–");
  return [h("b", { class: "readout-text", dir: "auto", text: JSON.stringify(turn.said[k][1] ?? "") }), span("dim", `turn ${turn.turn}, token ${k}`),
    ...known.map(([label, text]) => span("", span("dim", `${label} `), text))];
}

// The same numbers as a table, filled when it is opened.
export function numbersTable(turn) {
  const fill = ({ target }) => {
    if (!target.open || target.children.length > 1) return;
    const rows = turn.said.slice(0, MOST_ROWS).map((token, k) => [h("bdi", { class: "mono", text: JSON.stringify(token[1] ?? "") }), ...numbersOf(turn, k).map(([, text]) => text)]);
    target.append(table(["token", ...numbersOf(turn, 0).map(([label]) => `#${label}`)], rows, "numbers"));
    if (turn.said.length > MOST_ROWS) target.append(h("p", { class: "dim", text: `the first ${MOST_ROWS} of ${turn.said.length} tokens` }));
  };
  return h("details", { class: "numbers-of", ontoggle: fill }, h("summary", {}, "numbers of the tokens"));
}
