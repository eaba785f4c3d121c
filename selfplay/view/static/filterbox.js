// The filter box: the query language with completion, and chips that edit the query.
import { button, clear, debounce, div, h, span } from "./dom.js";

const FIELDS = "reward payoff success turns tokens seconds step version advantage kl nll surprise disagreement cut repeats reason status by split flag tag role player model env seed scenario group id about text brief protocol error labelled".split(" ");
const TEXTS = ["text", "brief", "about", "error", "player", "model", "id"];
const MOST = 9; // completions
const TYPED = /([^\s=!<>~"&|()]*)(?:\s*(?:!=|<=|>=|!~|[=<>~])\s*(?:[^\s,&|()"]*,)*([^\s,&|()"]*))?$/; // field, and the last of its values

const atomOf = (field, value) => `${field}=${/^[\w.:-]+$/.test(value) ? value : JSON.stringify(value)}`;
const atomsOf = (query) => query.split("&").map((atom) => atom.trim()).filter(Boolean);

// The query without, or with, `field=value` in place of another; but a conversation has many flags.
function toggled(query, field, value) {
  const [atom, atoms] = [atomOf(field, value), atomsOf(query)];
  if (atoms.includes(atom)) return atoms.filter((one) => one !== atom).join(" & ");
  if (query.includes("|")) return `(${query}) & ${atom}`;
  return [...atoms.filter((one) => field === "flag" || !one.startsWith(`${field}=`)), atom].join(" & ");
}

function valuesOf(info, field) {
  const truth = ["true", "false"];
  const known = { by: info.roles, status: info.statuses, protocol: truth, success: truth, labelled: truth, step: [] };
  return (known[field] ?? info[`${field}s`] ?? []).map(String);
}

// What may follow at the caret: [{text, insert, from}], from = where the replaced words begin.
function completions(info, query, caret) {
  const before = query.slice(0, caret);
  if (before.split('"').length % 2 === 0) return []; // in quotes: text of its own
  const [, field, value] = TYPED.exec(before);
  const isField = value === undefined;
  const word = (value ?? field).toLowerCase();
  const ending = (name) => (isField ? (TEXTS.includes(name) ? "~" : valuesOf(info, name).length ? "=" : "") : "");
  const { parts = [], roles = [] } = info;
  const all = isField ? [...FIELDS, ...parts.flatMap((name) => [`reward.${name}`, `value.${name}`]), ...roles.flatMap((role) => [`role.${role}`, `payoff.${role}`, `player.${role}`])] : valuesOf(info, field);
  const fitting = all.filter((name) => name.toLowerCase().includes(word) && name.toLowerCase() !== word);
  fitting.sort((a, b) => b.toLowerCase().startsWith(word) - a.toLowerCase().startsWith(word));
  return fitting.slice(0, MOST).map((text) => ({ text, insert: text + ending(text), from: caret - word.length }));
}

export function filterBox({ info, query, change }) {
  const options = h("ul", { id: "filter-options", role: "listbox", class: "filter-options mono", hidden: true });
  const error = h("p", { id: "filter-error", class: "bad filter-error", role: "alert" });
  // Left by a click: what is clicked must not be drawn anew before the button is up.
  const input = h("input", {
    type: "search", class: "filter-input mono", value: query, placeholder: 'filter: reward<0 & text~"sorry"   ( / )', role: "combobox", "aria-label": "Filter", "aria-expanded": "false", "aria-controls": options.id, "aria-autocomplete": "list",
    "aria-describedby": error.id, autocomplete: "off", spellcheck: "false", oninput: typed, onblur: debounce(close, 200), onkeydown: pressed,
  });
  let [offers, active] = [[], -1];
  // Half a field's name is no word to search for.
  const later = debounce(() => offers.length || change(input.value), 300);

  function typed() {
    offer(document.activeElement === input ? completions(info, input.value, input.selectionStart) : []);
    later();
  }

  function offer(found) {
    [offers, active] = [found, -1];
    options.hidden = !offers.length;
    input.setAttribute("aria-expanded", offers.length > 0);
    input.removeAttribute("aria-activedescendant");
    clear(options).append(...offers.map(({ text }, k) => h("li", { id: `filter-option-${k}`, role: "option", "aria-selected": "false", text, onmousedown: (event) => (event.preventDefault(), take(k)) })));
  }

  function move(by) {
    active = (active + by + offers.length) % offers.length;
    [...options.children].forEach((option, k) => option.setAttribute("aria-selected", k === active));
    options.children[active].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", options.children[active].id);
  }

  function take(k) {
    input.setRangeText(offers[k].insert, offers[k].from, input.selectionStart, "end");
    typed();
  }

  function close() {
    offer([]);
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

  const toggle = (field, value) => ((input.value = toggled(input.value, field, value)), change(input.value));
  const groups = Object.entries({ split: info.splits, reason: info.reasons?.slice(0, 7), flag: info.flags }).filter(([field, values]) => values?.length > (field !== "flag"));
  const chips = groups.map(([field, values]) => values.map((value) => button(value.replaceAll("_", " "), () => toggle(field, value), { class: "chip", dataset: { atom: atomOf(field, value) } })));

  function refresh() {
    for (const chip of chips.flat()) chip.setAttribute("aria-pressed", atomsOf(input.value).includes(chip.dataset.atom));
  }

  refresh();
  const quick = h("div", { class: "filter-chips", role: "group", "aria-label": "Quick filters" }, chips.map((group) => span("chip-group", group)));
  // Which fields there are, completion says.
  const showError = (text) => (error.textContent = text.replace(/; there are .*/s, ""));
  return { element: div("filter", div("filter-field", input, options), error, quick), input, refresh, showError };
}
