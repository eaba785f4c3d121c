// The filter box: the query language with completion, and chips that edit the query.
import { clear, debounce, h } from "./dom.js";

const FIELDS = {
  reward: "of the trained roles", turns: "how many", tokens: "how many were said", seconds: "of play", step: "of training", version: "of the trained policy", advantage: "of the update", kl: "to the reference, nats a token",
  nll: "under the reference, nats a token", surprise: "distance from its group's mean", disagreement: "learned against verifiable reward", cut: "share of turns cut", repeats: "share of turns said before", reason: "why it ended",
  status: "how it ended", by: "the role that ended it", split: "train or held_out", flag: "cut, repeats, labelled …", tag: "given by people", role: "name of a role", player: "who filled a role", model: "name", env: "environment", seed: "of the scenario",
  scenario: "ENV/SEED", group: "id of the group", id: "of the conversation", about: "topic", text: "what was said", brief: "what a role was told", protocol: "form kept", error: "why it failed", labelled: "by people",
};
const TEXTS = ["text", "brief", "about", "error", "player", "model", "id"];
const FLAGS = ["cut", "repeats", "labelled", "failed", "truncated"];
const MOST = 9; // completions
const PIECE = /(?:"(?:[^"\\]|\\.)*"?|!(?=[=~])|[^"&|()!])+/g; // what stands between & | ( ) and a lone !, quoted or not
const TYPED = /^\s*([^\s=!<>~"]*)(?:\s*(?:!=|<=|>=|!~|=|<|>|~)\s*(?:[^,]*,)*\s*([^,"]*))?$/; // field, and the last of its values

function atomOf(field, value) {
  return `${field}=${/^[\w.:-]+$/.test(value) ? value : JSON.stringify(value)}`;
}

function piecesOf(query) {
  return [...query.matchAll(PIECE)].map((found) => ({ text: found[0].trim().replace(/\s*=\s*/, "="), start: found.index, end: found.index + found[0].length }));
}

function has(query, atom) {
  return piecesOf(query).some(({ text, start }) => text === atom && query[start - 1] !== "!");
}

// The query without, or with, `field=value`; another value of the field makes room, but a conversation has many flags.
export function toggled(query, field, value) {
  const atom = atomOf(field, value);
  if (/[|()!]/.test(query.replace(PIECE, ""))) return `(${query.trim()}) & ${atom}`;
  const atoms = piecesOf(query).map(({ text }) => text).filter(Boolean);
  const others = atoms.filter((text) => (field === "flag" ? text !== atom : !text.startsWith(`${field}=`)));
  return [...others, ...(atoms.includes(atom) ? [] : [atom])].join(" & ");
}

function valuesOf(info, field) {
  const truth = ["true", "false"];
  const known = { reason: info.reasons, split: info.splits, env: info.envs, role: info.roles, by: info.roles, tag: info.tags, flag: FLAGS, status: ["terminated", "truncated", "failed"], protocol: truth, labelled: truth, version: info.versions };
  return (known[field] ?? []).map(String);
}

function fieldsOf({ parts = [], roles = [] }) {
  const ofParts = parts.flatMap((name) => [[`reward.${name}`, "mean raw number"], [`value.${name}`, "what it added"]]);
  return [...Object.entries(FIELDS), ...ofParts, ...roles.map((role) => [`role.${role}`, "total of the role"])];
}

// What may follow at the caret: [{text, about, insert, from}], from = where the replaced words begin.
function completions(info, query, caret) {
  const start = piecesOf(query).find((piece) => piece.start <= caret && caret <= piece.end)?.start ?? caret;
  const [, field, value] = TYPED.exec(query.slice(start, caret)) ?? [];
  if (field === undefined) return [];
  const isField = value === undefined;
  const word = (value ?? field).toLowerCase();
  const ending = (name) => (isField ? (TEXTS.includes(name) ? "~" : valuesOf(info, name).length ? "=" : "") : "");
  const all = isField ? fieldsOf(info) : valuesOf(info, field).map((name) => [name, ""]);
  const fitting = all.filter(([name]) => name.toLowerCase().includes(word) && name.toLowerCase() !== word);
  fitting.sort(([a], [b]) => b.toLowerCase().startsWith(word) - a.toLowerCase().startsWith(word));
  return fitting.slice(0, MOST).map(([text, about]) => ({ text, about, insert: text + ending(text), from: caret - word.length }));
}

export function filterBox({ info, query, change }) {
  const options = h("ul", { id: "filter-options", role: "listbox", class: "filter-options", hidden: true });
  const error = h("p", { id: "filter-error", class: "bad filter-error", role: "alert" });
  const chips = h("div", { class: "filter-chips", role: "group", "aria-label": "Quick filters" });
  const input = h("input", {
    type: "search", class: "filter-input mono", value: query, placeholder: 'filter: reward<0 & text~"sorry"   ( / )', role: "combobox", "aria-label": "Filter", "aria-expanded": "false", "aria-controls": options.id, "aria-autocomplete": "list",
    "aria-describedby": error.id, autocomplete: "off", spellcheck: "false", oninput: () => (offer(), later()), onclick: offer, onblur: close, onkeydown: pressed,
  });
  let [offers, active] = [[], -1];
  // Half a field's name is no word to search for: while something is offered, Enter or leaving the box decides.
  const later = debounce(() => offers.length || change(input.value), 300);

  function offer() {
    show(document.activeElement === input ? completions(info, input.value, input.selectionStart) : []);
  }

  function show(found) {
    [offers, active] = [found, -1];
    options.hidden = !offers.length;
    input.setAttribute("aria-expanded", String(offers.length > 0));
    input.removeAttribute("aria-activedescendant");
    clear(options).append(...offers.map((one, k) => h("li", { id: `filter-option-${k}`, role: "option", "aria-selected": "false", onmousedown: (event) => (event.preventDefault(), take(k)) }, h("span", { class: "mono", text: one.text }), h("span", { class: "dim", text: one.about }))));
  }

  function move(by) {
    active = (active + by + offers.length) % offers.length;
    [...options.children].forEach((option, k) => option.setAttribute("aria-selected", String(k === active)));
    options.children[active].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", options.children[active].id);
  }

  function take(k) {
    const { insert, from } = offers[k];
    input.setRangeText(insert, from, input.selectionStart, "end");
    offer();
    later();
  }

  function close() {
    show([]);
    change(input.value);
  }

  function pressed(event) {
    const { key } = event;
    const by = { ArrowDown: 1, ArrowUp: -1 }[key];
    if (offers.length && by) move(by);
    else if (active >= 0 && (key === "Enter" || key === "Tab")) take(active);
    else if (key === "Enter" || (key === "Escape" && offers.length)) close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function set(text) {
    input.value = text;
    change(text);
  }

  function refresh() {
    const chip = (field) => (value) => h("button", { type: "button", class: "chip", "aria-pressed": String(has(input.value, atomOf(field, value))), onclick: () => set(toggled(input.value, field, value)) }, value.replaceAll("_", " "));
    const groups = { split: info.splits, reason: info.reasons?.slice(0, 7), flag: FLAGS.slice(0, 3) };
    clear(chips).append(...Object.entries(groups).filter(([, values]) => values?.length > 1).map(([field, values]) => h("span", { class: "chip-group" }, values.map(chip(field)))));
  }

  refresh();
  return { element: h("div", { class: "filter" }, h("div", { class: "filter-field" }, input, options), error, chips), input, set, refresh, showError: (text) => (error.textContent = text) };
}
