// The list of conversations: 50,000 rows of which the page holds fifty.
import { anchor, button, clear, count, div, h, kept, number, plural, signed, span } from "./dom.js";
import { conversationPath, get, isOffline, runPath } from "./api.js";
import { filterBox } from "./filterbox.js";

const WINDOW = 100; // rows asked for at once
const OVERSCAN = 8; // rows kept above and below what is seen
const PLACE = "selfplay.list"; // where in which list we were: the conversation page's neighbours, and the way back
const FLAG_KINDS = { failed: "bad", "invalid part": "bad", protocol: "warn", truncated: "warn", labelled: "good" };
// Key, heading, what the run must have; how wide they are, and which give way where there is no room, list.css says.
const COLUMNS = [
  ["step", "step"], ["about", "scenario"], ["players", "players"], ["turns", "turns"], ["tokens", "tokens"], ["seconds", "seconds"], ["bar", "reward by part", "rewards"], ["reward", "reward", "rewards"], ["part"],
  ["per_role", "", "rewards"], ["advantage", "adv.", "advantage"], ["kl", "KL", "kl"], ["nll", "NLL", "nll"], ["surprise", "surprise", "groups"], ["disagreement", "disagr.", "disagreement"], ["reason", "ended"], ["flags", "flags"],
];
const WORDS = ["about", "players", "bar", "reason", "flags"]; // columns that hold no number

const words = (text) => (text ?? "").replaceAll("_", " ");
const scenarioOf = (row) => row && `${row.split} ${row.scenario}`;
const groupOf = (row) => row?.id.slice(0, row.id.lastIndexOf("-")); // the id without its index

export async function show(main, route, page) {
  const { run } = route;
  const { info = {}, rewards: terms = [] } = page.run;
  const { parts = [], roles = [] } = info;
  const api = `/api${runPath(run)}`;
  const ask = { q: route.params.get("q") ?? "", sort: route.params.get("sort") ?? "newest", order: route.params.get("order"), group: route.params.get("group") === "1" };
  const [rows, shown, pending, selected] = [new Map(), new Map(), new Set(), new Map()]; // rows and elements by place; windows asked for; rows by id
  let [total, of, cursor, returnTo, most, least, rowHeight, round, frame, timer] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
  let [isStale, isFollowing] = [true, false];

  const filter = filterBox({ info, query: ask.q, change: (q) => q !== ask.q && restart({ q }) });
  const counter = h("span", { class: "counter dim", role: "status" });
  const pill = button("", () => restart({}), { class: "primary pill", hidden: true });
  const bar = div("row list-bar");
  const head = h("div", { class: "list-head", role: "row" });
  const canvas = h("div", { class: "canvas", role: "rowgroup", onclick: clicked });
  const empty = div("empty");
  const choice = h("div", { class: "row choice", hidden: true, role: "status" });
  const scroller = h("div", { class: "scroller", tabIndex: 0, role: "grid", "aria-label": "Conversations", "aria-multiselectable": "true", onscroll: schedule }, h("div", { role: "rowgroup", class: "head-group" }, head), canvas, empty);

  // ----- what is asked for -----

  function params() {
    const given = Object.entries(ask).filter(([, value]) => value && value !== "newest");
    return new URLSearchParams(given.map(([key, value]) => [key, value === true ? "1" : value]));
  }

  function apiParams() {
    const found = params();
    if (ask.group) found.set("by_scenario", "1");
    found.delete("group");
    return found;
  }

  function forget() {
    rows.clear();
    pending.clear();
    round += 1;
    isStale = true;
  }

  async function restart(changes) {
    Object.assign(ask, changes);
    forget();
    cursor = 0;
    pill.hidden = true;
    page.setQuery(params());
    filter.refresh();
    // Leaving the filter box applies it, often by pressing a button here: that button must stay until it is released.
    if (!("q" in changes)) showBar();
    scroller.classList.add("stale"); // old rows stay, faintly, until the new ones are here
    await load(0);
  }

  async function load(w) {
    if (pending.has(w)) return;
    pending.add(w);
    const own = round;
    const query = apiParams();
    for (const [key, value] of [["offset", w * WINDOW], ["limit", WINDOW], ["check", 1]]) query.set(key, value);
    const found = await get(`${api}/conversations?${query}`).catch((error) => ({ error: error.message }));
    if (own !== round) return;
    pending.delete(w);
    scroller.classList.remove("stale");
    filter.showError(found.error ?? "");
    if (!found.error) take(w, found);
  }

  function take(w, found) {
    if (isStale) redraw();
    [total, of] = [found.total, found.of];
    found.rows.forEach((cells, k) => rows.set(w * WINDOW + k, Object.fromEntries(found.columns.map((name, column) => [name, cells[column]]))));
    // Whether a group begins with a row, its neighbours say.
    for (const edge of [w * WINDOW - 1, (w + 1) * WINDOW]) remove(edge);
    rescale(found.rows.map((cells) => cells[found.columns.indexOf("values")]));
    scroller.setAttribute("aria-rowcount", total + 1);
    canvas.style.height = `${total * rowHeight}px`;
    counter.textContent = found.indexing ? soFar(of) : total === of ? plural(of, "conversation") : `${count(total)} of ${count(of)}`;
    empty.textContent = total ? "" : of ? "No conversation fits this filter." : "No conversations yet.";
    if (isStale) scroller.scrollTop = returnTo;
    [isStale, returnTo] = [false, 0];
    draw();
  }

  function soFar(num) {
    return `indexing, ${plural(num, "conversation")} so far`;
  }

  // The scale of the bars only grows while one list is shown.
  function rescale(all) {
    const sum = (values, sign) => values.reduce((gained, value) => gained + Math.max(0, sign * value), 0);
    most = Math.max(most, ...all.map((values) => sum(values, 1)));
    least = Math.max(least, ...all.map((values) => sum(values, -1)));
    canvas.style.setProperty("--least", least);
    canvas.style.setProperty("--span", most + least || 1);
  }

  // ----- rows -----

  function schedule() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (page.isHere()) draw();
    });
  }

  function remove(index) {
    shown.get(index)?.remove();
    shown.delete(index);
  }

  function redraw() {
    [...shown.keys()].forEach(remove);
    const isUp = ask.order === "asc";
    clear(head).append(h("div", { role: "columnheader", class: "c-select", "aria-label": "selected" }), ...COLUMNS.filter(isShown).map(([key, label]) => {
      const text = { per_role: roles.join(" / "), part: sortedPart() }[key] ?? label;
      const isSorted = sortOf(key) === ask.sort;
      const content = sortOf(key) ? button([text, isSorted ? (isUp ? " ↑" : " ↓") : ""], () => restart({ sort: sortOf(key), order: isSorted && !isUp ? "asc" : null }), { class: "quiet" }) : text;
      return h("div", { role: "columnheader", class: cellClass(key), title: text, "aria-sort": isSorted ? (isUp ? "ascending" : "descending") : null }, content);
    }));
  }

  function draw() {
    if (isStale) return;
    const first = Math.max(0, Math.floor(scroller.scrollTop / rowHeight) - OVERSCAN);
    const last = Math.min(total, Math.ceil((scroller.scrollTop + scroller.clientHeight) / rowHeight) + OVERSCAN);
    const missing = new Set();
    for (const index of [...shown.keys()]) if (index < first || index >= last) remove(index);
    for (let index = first; index < last; index += 1) {
      if (!rows.has(index)) missing.add(Math.floor(index / WINDOW));
      else if (!shown.has(index)) shown.set(index, canvas.appendChild(rowElement(rows.get(index), index)));
    }
    clearTimeout(timer);
    // A moment's wait: who drags the bar passes by many windows.
    if (missing.size) timer = setTimeout(() => missing.forEach(load), 50);
  }

  function isShown([key, , need]) {
    if (key === "part") return parts.includes(sortedPart());
    return (!need || info.has?.includes(need)) && (key !== "per_role" || (roles.length > 1 && roles.length < 4));
  }

  function sortedPart() {
    return /^(?:value|reward)\.(.+)$/.exec(ask.sort)?.[1];
  }

  function sortOf(key) {
    return key === "part" ? ask.sort : key === "per_role" || WORDS.includes(key) ? null : key;
  }

  function cellClass(key) {
    return `c-${key}${WORDS.includes(key) ? "" : " n"}${sortOf(key) === ask.sort ? " sorted" : ""}`;
  }

  function partClass(name) {
    return `part${parts.indexOf(name) % 8}`;
  }

  function cell(key, row, index) {
    const cells = {
      step: () => row.step,
      turns: () => row.turns,
      about: () => anchor(conversationPath(run, row.id), [ask.group ? groupHead(row, index) : topic(row), h("bdi", { class: "words", text: row.first_words })], { class: "open", tabIndex: -1 }),
      players: () => h("bdi", {}, row.players),
      tokens: () => count(row.tokens),
      bar: () => rewardBar(row),
      reward: () => h("b", { class: row.reward < 0 ? "bad" : null, text: number(row.reward) }),
      part: () => signed(row.values[parts.indexOf(sortedPart())]),
      per_role: () => row.per_role.map((value) => number(value)).join(" / "),
      advantage: () => signed(row.advantage),
      reason: () => span({ failed: "bad", truncated: "warn" }[row.status] ?? "dim", words(row.reason)),
      flags: () => row.flags.map((flag) => h("span", { class: `chip ${FLAG_KINDS[flag] ?? "dim"}`, title: flag, text: flag.replace(/^tagged:/, "# ") })),
    };
    return h("div", { role: "gridcell", class: cellClass(key) }, cells[key]?.() ?? number(row[key], key === "kl" ? 3 : 2));
  }

  function rowElement(row, index) {
    const isOn = selected.has(row.id);
    return h("div", { class: `list-row${index === cursor ? " cursor" : ""}${ask.group && begins(row, index) ? " begins" : ""}`, id: `row-${index}`, role: "row", "aria-rowindex": index + 2, "aria-selected": String(isOn), dataset: { index }, title: row.id, vars: { top: index } },
      h("div", { role: "gridcell", class: "c-select" }, h("input", { type: "checkbox", tabIndex: -1, checked: isOn, "aria-label": `select ${row.id}` })), COLUMNS.filter(isShown).map(([key]) => cell(key, row, index)));
  }

  function begins(row, index) {
    const before = rows.get(index - 1);
    return scenarioOf(before) !== scenarioOf(row) || (groupOf(before) !== groupOf(row) && isWithNext(row, index));
  }

  function isWithNext(row, index) {
    return groupOf(rows.get(index + 1)) === groupOf(row);
  }

  function topic(row) {
    return h("bdi", { class: "about", text: row.about || row.scenario });
  }

  // The first of a group tells what they all share; the advantage is computed from their mean.
  function groupHead(row, index) {
    if (!begins(row, index)) return null;
    return span("", topic(row), isWithNext(row, index) ? span("dim", "group mean ", h("b", {}, number(row.group_mean))) : null);
  }

  // Parts stacked from the zero line: what was gained to the right, what was lost to the left.
  function rewardBar(row) {
    let [left, right] = [0, 0];
    const pieces = row.values.map((value, k) => {
      if (!value) return null;
      const from = value < 0 ? (left += value) : (right += value) - value;
      return h("i", { class: partClass(parts[k]), vars: { from, wide: Math.abs(value) } });
    });
    const title = parts.map((name, k) => `${name} ${signed(row.values[k])}`).join(" · ");
    return h("span", { class: "part-bar", title }, pieces, h("i", { class: "zero", vars: { from: 0 } }));
  }

  // ----- the frame -----

  function showBar() {
    const option = (value, text = words(value)) => h("option", { value, text, selected: value === ask.sort });
    const ofParts = parts.flatMap((name) => [option(`reward.${name}`, `${name}, raw`), option(`value.${name}`, `${name}, added`)]);
    const sort = h("select", { "aria-label": "Sort by", onchange: () => restart({ sort: sort.value, order: null }) }, ["newest", "oldest", ...COLUMNS.filter(isShown).map(([key]) => key).filter((key) => key !== "part" && sortOf(key))].map((key) => option(key)), h("optgroup", { label: "parts of the reward" }, ofParts));
    const isUp = ask.order === "asc";
    const toggle = (text, isOn, onclick) => button(text, onclick, { "aria-pressed": String(isOn) });
    const follow = () => ((isFollowing = !isFollowing), isFollowing ? restart({ sort: "newest", order: null }) : showBar());
    const unpaid = new Set(terms.filter((term) => !term.weight).map((term) => term.label));
    const to = (kind) => h("a", { href: "", download: "", text: kind, onclick: ({ target }) => (target.href = `${api}/export?${new URLSearchParams({ to: kind, q: ask.q })}`) });
    clear(bar).append(
      h("label", "row", span("dim sort-word", "sort"), sort),
      ["newest", "oldest"].includes(ask.sort) ? "" : button(isUp ? "↑ low first" : "↓ high first", () => restart({ order: isUp ? null : "asc" })),
      toggle("by scenario", ask.group, () => restart({ group: !ask.group })),
      page.run.is_live ? toggle("follow latest", isFollowing, follow) : "",
      pill,
      span("row list-legend dim grow", parts.filter((name) => !unpaid.has(name)).map((name) => span("", span(`dot ${partClass(name)}`), name))),
      counter,
      isOffline ? "" : span("row", span("dim", "export"), to("csv"), to("json"), to("html")));
  }

  function fit() {
    rowHeight = parseFloat(getComputedStyle(canvas).getPropertyValue("--row"));
    canvas.style.height = `${total * rowHeight}px`;
    draw();
  }

  // ----- choosing -----

  function setCursor(index) {
    shown.get(cursor)?.classList.remove("cursor");
    cursor = index;
    shown.get(index)?.classList.add("cursor");
    scroller.setAttribute("aria-activedescendant", `row-${index}`);
  }

  function moveTo(index) {
    if (!total) return;
    setCursor(Math.max(0, Math.min(total - 1, index)));
    const room = scroller.clientHeight - head.offsetHeight;
    scroller.scrollTop = Math.min((cursor - 1) * rowHeight, Math.max(scroller.scrollTop, (cursor + 2) * rowHeight - room));
    draw();
    if (!main.contains(document.activeElement) || document.activeElement === main) scroller.focus({ preventScroll: true });
  }

  function openCursor() {
    const focused = document.activeElement;
    if (focused?.matches("button, a, summary")) focused.click();
    else if (rows.has(cursor)) page.go(conversationPath(run, rows.get(cursor).id));
  }

  function clicked(event) {
    const element = event.target.closest(".list-row");
    if (!element) return;
    setCursor(Number(element.dataset.index));
    if (event.target.closest(".c-select")) select();
    else if (!event.target.closest("a") && !getSelection().toString()) element.querySelector("a").dispatchEvent(new MouseEvent("click", event));
  }

  function select() {
    const row = rows.get(cursor);
    if (!row) return;
    if (!selected.delete(row.id)) selected.set(row.id, row);
    showChoice();
  }

  function showChoice() {
    for (const [index, element] of shown) {
      const isOn = selected.has(rows.get(index)?.id);
      element.setAttribute("aria-selected", String(isOn));
      element.querySelector("input").checked = isOn;
    }
    choice.hidden = !selected.size;
    clear(choice).append(`${selected.size} selected`, button("compare two", compare, { class: "primary", title: "two versions on one scenario", disabled: !comparison() }));
  }

  // Versions on one scenario can be compared.
  function comparison() {
    const [a, b, more] = [...selected.values()].sort((left, right) => left.version - right.version);
    const isFit = b && !more && scenarioOf(a) === scenarioOf(b) && a.version !== b.version;
    return isFit ? `/cmp?${new URLSearchParams({ a: `${run}@${a.version}`, b: `${run}@${b.version}`, scenario: a.scenario })}` : null;
  }

  function compare() {
    if (comparison()) page.go(comparison());
  }

  // ----- begin -----

  const by = (num) => () => moveTo(cursor + num);
  page.onKey({
    j: ["next conversation", by(1)], ArrowDown: ["", by(1)], k: ["conversation before", by(-1)], ArrowUp: ["", by(-1)],
    g: ["first", by(-Infinity)], G: ["last", by(Infinity)], Enter: ["open", openCursor], "/": ["filter", () => filter.input.focus()],
    x: ["select", select], c: ["compare the two selected", compare], s: ["by scenario, or one by one", () => restart({ group: !ask.group })],
    ...(isOffline ? {} : { l: ["label pairs", () => page.go(runPath(run, "/label"))] }),
  });
  page.onChange((news) => {
    // Which parts and roles there are is known with the first rows, and for good at the end.
    if (page.run.indexing && (!news.indexing || (!of && news.conversations))) return void page.go(runPath(run, `/list?${params()}`), { replace: true });
    if (news.indexing) counter.textContent = soFar(news.conversations);
    const fresh = (news.conversations ?? 0) - of;
    if (fresh <= 0) return;
    pill.textContent = `${count(fresh)} new`;
    pill.hidden = isFollowing;
    if (isFollowing) restart({});
  });
  const watcher = new ResizeObserver(fit);
  page.onLeave(() => {
    kept(PLACE, { run, query: params().toString(), api: apiParams().toString(), index: cursor, top: scroller.scrollTop });
    watcher.disconnect();
    clearTimeout(timer);
    forget();
  });
  const back = kept(PLACE);
  if (back?.run === run && back.query === params().toString()) [cursor, returnTo] = [back.index, back.top];
  page.setTitle(`List · ${run}`);
  main.append(h("h1", { class: "visually-hidden" }, "Conversations"), filter.element, bar, scroller, choice);
  showBar();
  fit();
  watcher.observe(scroller);
  await load(Math.floor(cursor / WINDOW));
}
