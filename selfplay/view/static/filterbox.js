// The filter box: the query language with completion, and chips that edit the query.
import { clear, debounce, h } from "./dom.js";

const FIELDS = {
  reward: "sum over the trained roles", turns: "how many", tokens: "how many were said", seconds: "of play", step: "of training", version: "of the trained policy", advantage: "of the update", kl: "to the reference, nats a token",
  nll: "under the reference, nats a token", surprise: "distance from its group's mean", disagreement: "learned against verifiable reward", cut: "share of turns cut", repeats: "share of turns said before", reason: "why it ended",
  status: "terminated, truncated, failed", by: "the role that ended it", split: "train or held_out", flag: "cut, repeats, labelled …", tag: "given by people", role: "name of a role", player: "who filled a role", model: "name", env: "environment", seed: "of the scenario",
  scenario: "ENV/SEED", group: "id of the group", id: "of the conversation", about: "topic", text: "what was said", brief: "what a role was told", protocol: "form kept: true or false", error: "why it failed", labelled: "true or false",
};
const TEXT = new Set(["text", "brief", "about", "error", "player", "model", "id"]);
const FLAGS = ["cut", "repeats", "failed", "truncated", "labelled"];

// Cuts a query at & | ( ) and a lone !, but not inside quotes: [{start, end, text, mark}], mark = what stands before.
function piecesOf(query) {
  const pieces = [];
  let [start, isQuoted, mark] = [0, false, ""];
  for (let k = 0; k <= query.length; k += 1) {
    const letter = query[k];
    if (letter === "\\" && isQuoted) k += 1;
    else if (letter === '"') isQuoted = !isQuoted;
    else if (letter === undefined || (!isQuoted && (/[&|()]/.test(letter) || (letter === "!" && !/[=~]/.test(query[k + 1] ?? ""))))) {
      pieces.push({ start, end: Math.min(k, query.length), text: query.slice(start, k), mark });
      [start, mark] = [k + 1, letter];
    }
  }
  return pieces;
}

// The query without, or with, `field=value`; another value of the field makes room.
export function toggled(query, field, value) {
  const atom = `${field}=${/^[\w.:-]+$/.test(value) ? value : JSON.stringify(value)}`;
  if (piecesOf(query).some(({ mark }) => /[|()!]/.test(mark))) return query.trim() ? `(${query.trim()}) & ${atom}` : atom;
  const atoms = piecesOf(query).map(({ text }) => text.trim()).filter(Boolean);
  const isOn = atoms.some((text) => text.replace(/\s/g, "") === atom);
  const others = atoms.filter((text) => field === "flag" ? text.replace(/\s/g, "") !== atom : !text.replace(/\s/g, "").startsWith(`${field}=`));
  return [...others, ...(isOn ? [] : [atom])].join(" & ");
}

function has(query, field, value) {
  return piecesOf(query).some(({ text, mark }) => mark !== "!" && text.replace(/[\s"]/g, "") === `${field}=${value}`.replace(/[\s"]/g, ""));
}

function valuesOf(info, field) {
  const truth = ["true", "false"];
  const known = { reason: info.reasons, split: info.splits, env: info.envs, role: info.roles, by: info.roles, tag: info.tags, flag: FLAGS, status: ["terminated", "truncated", "failed"], protocol: truth, labelled: truth, version: info.versions };
  return (known[field] ?? []).map(String);
}

function fieldsOf(info) {
  const parts = (info.parts ?? []).flatMap((name) => [[`reward.${name}`, "mean raw number"], [`value.${name}`, "what it added"]]);
  return [...Object.entries(FIELDS), ...parts, ...(info.roles ?? []).map((role) => [`role.${role}`, "total of the role"])];
}

// What may follow at the caret: [{insert, text, about, from}], from = where the replaced words begin.
function completions(info, query, caret) {
  const piece = piecesOf(query).find(({ start, end }) => start <= caret && caret <= end);
  if (!piece) return [];
  const typed = query.slice(piece.start, caret);
  const field = /^\s*([^\s=!<>~"]*)$/.exec(typed);
  if (field) {
    const word = field[1].toLowerCase();
    const fits = fieldsOf(info).filter(([name]) => name.toLowerCase().includes(word) && name.toLowerCase() !== word);
    fits.sort(([a], [b]) => b.toLowerCase().startsWith(word) - a.toLowerCase().startsWith(word));
    return fits.slice(0, 9).map(([name, about]) => ({ text: name, about, insert: name + (TEXT.has(name) ? "~" : valuesOf(info, name).length ? "=" : ""), from: caret - word.length }));
  }
  const value = /^\s*([^\s=!<>~"]+)\s*(?:!=|<=|>=|!~|=|<|>|~)\s*(?:[^,]*,)*\s*([^,"]*)$/.exec(typed);
  if (!value) return [];
  const word = value[2].toLowerCase();
  return valuesOf(info, value[1]).filter((one) => one.toLowerCase().includes(word) && one.toLowerCase() !== word).slice(0, 9).map((one) => ({ text: one, about: "", insert: one, from: caret - word.length }));
}

export function filterBox({ info, query, change }) {
  const input = h("input", { type: "search", class: "filter-input mono", value: query, placeholder: 'filter: reward<0 & text~"sorry"   ( / )', role: "combobox", "aria-label": "Filter", "aria-expanded": "false", "aria-controls": "filter-options", "aria-autocomplete": "list", "aria-describedby": "filter-error", autocomplete: "off", spellcheck: "false" });
  const options = h("ul", { id: "filter-options", role: "listbox", class: "filter-options", hidden: true });
  const error = h("p", { id: "filter-error", class: "bad filter-error", role: "alert" });
  const chips = h("div", { class: "filter-chips", role: "group", "aria-label": "Quick filters" });
  let offers = [];
  let active = -1;
  // Half a field's name is no word to search for: while something is offered, Enter or leaving the box decides.
  const later = debounce(() => offers.length || change(input.value), 300);

  function offer() {
    offers = document.activeElement === input ? completions(info, input.value, input.selectionStart) : [];
    active = -1;
    options.hidden = !offers.length;
    input.setAttribute("aria-expanded", String(offers.length > 0));
    input.removeAttribute("aria-activedescendant");
    clear(options).append(...offers.map((one, k) => h("li", { id: `filter-option-${k}`, role: "option", "aria-selected": "false", onmousedown: (event) => (event.preventDefault(), take(k)) }, h("span", { class: "mono", text: one.text }), h("span", { class: "dim", text: one.about }))));
  }
  function move(by) {
    active = (active + by + offers.length) % offers.length;
    [...options.children].forEach((option, k) => option.setAttribute("aria-selected", String(k === active)));
    options.children[active].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", `filter-option-${active}`);
  }
  function take(k) {
    const { insert, from } = offers[k];
    const rest = input.value.slice(input.selectionStart);
    input.value = input.value.slice(0, from) + insert + rest;
    input.setSelectionRange(from + insert.length, from + insert.length);
    offer();
    later();
  }
  function close() {
    change(input.value);
    offers = [];
    options.hidden = true;
    input.setAttribute("aria-expanded", "false");
  }
  function set(text) {
    input.value = text;
    showChips();
  }
  function showChips() {
    const chip = (field, value, text = value) => h("button", { type: "button", class: "chip", "aria-pressed": String(has(input.value, field, value)), onclick: () => (set(toggled(input.value, field, value)), change(input.value)) }, text.replaceAll("_", " "));
    const groups = [(info.splits ?? []).length > 1 ? info.splits.map((split) => chip("split", split)) : [], (info.reasons ?? []).length > 1 ? info.reasons.slice(0, 7).map((reason) => chip("reason", reason)) : [], FLAGS.slice(0, 2).concat("labelled").map((flag) => chip("flag", flag))];
    clear(chips).append(...groups.filter((group) => group.length).map((group) => h("span", { class: "chip-group" }, group)));
  }

  input.addEventListener("input", () => (offer(), later()));
  input.addEventListener("click", offer);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if ((event.key === "Escape" && offers.length) || (event.key === "Enter" && active < 0)) close();
    else if (offers.length && (event.key === "ArrowDown" || event.key === "ArrowUp")) move(event.key === "ArrowDown" ? 1 : -1);
    else if (offers.length && (event.key === "Enter" || (event.key === "Tab" && active >= 0))) take(active);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  showChips();
  return { element: h("div", { class: "filter" }, h("div", { class: "filter-field" }, input, options), error, chips), input, set, refresh: showChips, showError: (text) => (error.textContent = text) };
}
