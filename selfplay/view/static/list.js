// The list of conversations: 50,000 rows of which the page holds fifty.
import { anchor, button, clear, count, div, h, kept, number, plural, signed, span } from "./dom.js";
import { conversationPath, get, isOffline, runPath } from "./api.js";
import { filterBox } from "./filterbox.js";
import { ADVANTAGE } from "./tokens.js";

const WINDOW = 100; // rows asked for at once
const OVERSCAN = 8; // rows kept above and below what is seen
const PLACE = "selfplay.list"; // for the way back, and the conversation page
const KINDS = { failed: "bad", "invalid part": "bad", protocol: "warn", truncated: "warn", labelled: "good" };
// Key, heading, what the run must have; list.css says which give way where there is no room.
const COLUMNS = [
  ["step", "step"], ["about", "scenario"], ["players", "players"], ["turns", "turns"], ["tokens", "tokens"], ["bar", "reward by part", "rewards"], ["reward", "reward", "rewards"], ["part"],
  ["per_role", "", "rewards"], ["advantage", "adv.", "advantage"], ["kl", "KL", "kl"], ["surprise", "surprise", "groups"], ["disagreement", "disagr.", "disagreement"], ["reason", "ended"], ["flags", "flags"],
];
const UNSORTED = ["about", "players", "bar", "reason", "flags", "per_role"];
const WORDS = ["step", ...UNSORTED.slice(0, -1)];

const soFar = (num) => `indexing, ${plural(num, "conversation")} so far`;
const scenarioOf = (row) => row && `${row.split} ${row.scenario}`;
const groupOf = (row) => row?.id.slice(0, row.id.lastIndexOf("-")); // the id without its index

export async function show(main, { run, params: given }, page) {
  const { info = {} } = page.run;
  const { parts = [], roles = [] } = info;
  const api = `/api${runPath(run)}`;
  const ask = { q: given.get("q") ?? "", sort: given.get("sort") ?? "newest", order: given.get("order"), group: given.get("group") === "1" };
  const [rows, shown, pending, selected] = [new Map(), new Map(), new Set(), new Map()];
  let [total, of, cursor, returnTo, gained, lost, rowHeight, round, frame, timer, isStale, isFollowing] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, true, false];

  const filter = filterBox({ info, query: ask.q, change: (q) => q !== ask.q && restart({ q }) });
  const counter = h("span", { class: "counter dim", role: "status" });
  const pill = button("", () => restart({}), { class: "primary pill", hidden: true });
  const bar = div("row list-bar");
  const head = h("div", { class: "list-head", role: "row" });
  const canvas = h("div", { class: "canvas", role: "rowgroup", onclick: clicked });
  const empty = div("empty");
  const choice = h("div", { class: "row choice", hidden: true, role: "status" });
  const scroller = h("div", { class: "scroller", tabIndex: 0, role: "grid", "aria-label": "Conversations", "aria-multiselectable": "true", onscroll: schedule }, h("div", { role: "rowgroup", class: "head-group" }, head), canvas, empty);

  function params(group = "group") {
    const words = { q: ask.q, sort: ask.sort === "newest" ? "" : ask.sort, order: ask.order, [group]: ask.group ? "1" : "" };
    return new URLSearchParams(Object.entries(words).filter(([, value]) => value));
  }

  async function restart(changes) {
    Object.assign(ask, changes);
    rows.clear();
    pending.clear();
    [round, cursor, isStale, pill.hidden] = [round + 1, 0, true, true];
    page.setQuery(params());
    filter.refresh();
    // Leaving the filter box applies it, often by pressing a button here, which must stay.
    if (!("q" in changes)) showBar();
    scroller.classList.add("stale"); // old rows stay, faintly, until the new ones are here
    await load(0);
  }

  async function load(w) {
    if (pending.has(w)) return;
    pending.add(w);
    const own = round;
    const found = await get(`${api}/conversations?${params("by_scenario")}&offset=${w * WINDOW}&limit=${WINDOW}&check=1`).catch((error) => ({ error: error.message }));
    if (own !== round) return;
    pending.delete(w);
    scroller.classList.toggle("stale", "error" in found);
    filter.showError(found.error ?? "");
    if (!found.error) take(w, found);
  }

  function take(w, { columns, rows: cells, indexing, ...found }) {
    if (isStale) redraw();
    [total, of] = [found.total, found.of];
    cells.forEach((values, k) => rows.set(w * WINDOW + k, Object.fromEntries(columns.map((name, column) => [name, values[column]]))));
    // Whether a group begins with a row, its neighbours say.
    for (const edge of [w * WINDOW - 1, (w + 1) * WINDOW]) remove(edge);
    rescale(cells.map((values) => values[columns.indexOf("values")]));
    scroller.setAttribute("aria-rowcount", total + 1);
    canvas.style.setProperty("--rows", total);
    counter.textContent = indexing ? soFar(of) : total === of ? plural(of, "conversation") : `${count(total)} of ${count(of)}`;
    empty.textContent = total ? "" : of ? "No conversation fits." : "No conversations yet.";
    if (isStale) scroller.scrollTop = returnTo;
    [isStale, returnTo] = [false, 0];
    draw();
  }

  // The scale only grows while one list is shown.
  function rescale(all) {
    const most = (sign) => Math.max(0, ...all.map((values) => values.reduce((sum, value) => sum + Math.max(0, sign * value), 0)));
    [gained, lost] = [Math.max(gained, most(1)), Math.max(lost, most(-1))];
    canvas.style.setProperty("--least", lost);
    canvas.style.setProperty("--span", gained + lost || 1);
  }

  function schedule() {
    frame ||= requestAnimationFrame(() => ((frame = 0), page.isHere() && draw()));
  }

  function remove(index) {
    shown.get(index)?.remove();
    shown.delete(index);
  }

  function redraw() {
    [...shown.keys()].forEach(remove);
    const [order, arrow] = ask.order === "asc" ? ["ascending", "↑ "] : ["descending", "↓ "];
    clear(head).append(h("div", { role: "columnheader", class: "c-select", "aria-label": "selected" }), ...columns().map(([key, label]) => {
      const text = { per_role: roles.join(" / "), part: sortedPart() }[key] ?? label;
      const isSorted = sortOf(key) === ask.sort;
      return h("div", { role: "columnheader", class: cellClass(key), title: key === "advantage" ? ADVANTAGE : text, "aria-sort": isSorted && order }, isSorted && arrow, text);
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
    timer = setTimeout(() => missing.forEach(load), 50);
  }

  const sortedPart = () => /^(?:value|reward)\.(.+)$/.exec(ask.sort)?.[1];
  const sortOf = (key) => (key === "part" ? ask.sort : UNSORTED.includes(key) ? null : key);
  const cellClass = (key) => `c-${key}${WORDS.includes(key) ? "" : " n"}${sortOf(key) === ask.sort ? " sorted" : ""}`;

  function columns() {
    const isFit = { part: parts.includes(sortedPart()), per_role: roles.length > 1 && roles.length < 4 };
    return COLUMNS.filter(([key, , need]) => (isFit[key] ?? true) && (!need || info.has?.includes(need)));
  }

  function cell(key, row, index) {
    const names = new Set(row.players.split("/"));
    const cells = {
      step: () => [row.step, h("code", "dim", row.id)],
      turns: () => row.turns,
      about: () => anchor(conversationPath(run, row.id), [topic(row, index), h("bdi", "words", row.first_words)], { class: "open", tabIndex: -1 }),
      players: () => h("bdi", {}, names.size > 1 ? row.players : [...names]),
      tokens: () => count(row.tokens),
      bar: () => rewardBar(row.values),
      reward: () => h("b", row.reward < 0 ? "bad" : "", number(row.reward)),
      part: () => signed(row.values[parts.indexOf(sortedPart())]),
      per_role: () => row.per_role.map((value) => number(value)).join(" / "),
      advantage: () => signed(row.advantage),
      reason: () => span(KINDS[row.status] ?? "dim", row.reason?.replaceAll("_", " ")),
      flags: () => row.flags.map((flag) => h("span", { class: `chip ${KINDS[flag] ?? "dim"}`, title: flag }, flag.replace(/^tagged:/, "# "))),
    };
    return h("div", { role: "gridcell", class: cellClass(key) }, cells[key]?.() ?? number(row[key], key === "kl" ? 3 : 2));
  }

  function rowElement(row, index) {
    const isOn = selected.has(row.id);
    return h("div", { class: `list-row${index === cursor ? " cursor" : ""}${ask.group && begins(row, index) ? " begins" : ""}`, id: `row-${index}`, role: "row", "aria-rowindex": index + 2, "aria-selected": String(isOn), dataset: { index }, vars: { top: index } },
      h("div", { role: "gridcell", class: "c-select" }, h("input", { type: "checkbox", tabIndex: -1, checked: isOn, "aria-label": `select ${row.id}` })), columns().map(([key]) => cell(key, row, index)));
  }

  const isWithNext = (row, index) => groupOf(rows.get(index + 1)) === groupOf(row);

  function begins(row, index) {
    const before = rows.get(index - 1);
    return scenarioOf(before) !== scenarioOf(row) || (groupOf(before) !== groupOf(row) && isWithNext(row, index));
  }

  // The first of a group tells what they all share; the advantage is computed from their mean.
  function topic(row, index) {
    const about = h("bdi", "about", row.about || row.scenario);
    if (!ask.group) return about;
    return begins(row, index) && span("", about, isWithNext(row, index) && span("dim", "group mean ", h("b", {}, number(row.group_mean))));
  }

  // Parts stacked from the zero line: what was gained to the right, what was lost to the left.
  function rewardBar(values) {
    let [left, right] = [0, 0];
    const pieces = values.map((value, k) => (value ? h("i", { class: `part${k % 8}`, vars: { from: value < 0 ? (left += value) : (right += value) - value, wide: Math.abs(value) } }) : null));
    return h("span", { class: "part-bar", title: parts.map((name, k) => `${name} ${signed(values[k])}`).join(" · ") }, pieces, h("i", { class: "zero", vars: { from: 0 } }));
  }

  function showBar() {
    const option = (value, text = value) => h("option", { value, text, selected: value === ask.sort });
    const keys = columns().map(([key]) => key).filter((key) => key !== "part" && sortOf(key));
    const ofParts = parts.flatMap((name) => [option(`reward.${name}`, `${name}, raw`), option(`value.${name}`, `${name}, added`)]);
    const sort = h("select", { "aria-label": "Sort by", title: ask.sort, onchange: () => restart({ sort: sort.value, order: null }) }, ["newest", "oldest", ...keys].map((key) => option(key)), ofParts);
    const isUp = ask.order === "asc";
    const toggle = (text, isOn, onclick) => button(text, onclick, { "aria-pressed": String(isOn) });
    const follow = () => ((isFollowing = !isFollowing) ? restart({ sort: "newest", order: null }) : showBar());
    const to = (kind) => h("a", { href: "", download: "", onclick: ({ target }) => (target.href = `${api}/export?${new URLSearchParams({ to: kind, q: ask.q })}`) }, kind);
    clear(bar).append(
      h("label", "row", span("dim sort-word", "sort"), sort),
      ["newest", "oldest"].includes(ask.sort) ? "" : button(isUp ? "↑ low first" : "↓ high first", () => restart({ order: isUp ? null : "asc" })),
      toggle("by scenario", ask.group, regroup),
      page.run.is_live ? toggle("follow latest", isFollowing, follow) : "",
      pill, span("row list-legend dim grow", parts.map((name, k) => info.weights?.[name] !== 0 && span("", span(`dot part${k % 8}`), name))), counter,
      isOffline ? "" : span("row exports", span("dim", "export"), ["csv", "json", "html"].map(to)));
  }

  const regroup = () => restart({ group: !ask.group });

  function fit() {
    rowHeight = parseFloat(getComputedStyle(canvas).getPropertyValue("--row"));
    draw();
  }

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
    const { target } = event;
    const element = target.closest(".list-row");
    if (!element) return;
    setCursor(Number(element.dataset.index));
    const isText = !getSelection().isCollapsed && getSelection().containsNode(element, true);
    if (target.closest(".c-select")) select();
    else if (!target.closest("a") && !isText) element.querySelector("a").dispatchEvent(new MouseEvent("click", event));
  }

  function select() {
    const row = rows.get(cursor);
    if (!row) return;
    const isOn = !selected.delete(row.id);
    if (isOn) selected.set(row.id, row);
    shown.get(cursor)?.setAttribute("aria-selected", String(isOn));
    main.querySelectorAll(`#row-${cursor} input`).forEach((box) => (box.checked = isOn));
    choice.hidden = !selected.size;
    clear(choice).append(`${selected.size} selected`, comparison() ? button("compare two", compare, { class: "primary" }) : "");
  }

  function comparison() {
    const [a, b, more] = [...selected.values()].sort((left, right) => left.version - right.version);
    if (!b || more || scenarioOf(a) !== scenarioOf(b) || a.version === b.version) return null;
    return `/cmp?${new URLSearchParams({ a: `${run}@${a.version}`, b: `${run}@${b.version}`, scenario: a.scenario })}`;
  }

  const compare = () => comparison() && page.go(comparison());
  const by = (num) => () => moveTo(cursor + num);
  page.onKey({
    j: ["next conversation", by(1)], k: ["conversation before", by(-1)],
    g: ["first", by(-Infinity)], G: ["last", by(Infinity)], Enter: ["open", openCursor], "/": ["filter", () => filter.input.focus()],
    x: ["select", select], c: ["compare the two selected", compare], s: ["by scenario, or one by one", regroup],
    ...(isOffline ? {} : { l: ["label pairs", () => page.go(runPath(run, "/label"))] }),
  });
  page.onChange((news) => {
    // Its parts and roles are known with the first rows, and for good at the end.
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
    kept(PLACE, { run, query: params().toString(), api: params("by_scenario").toString(), index: cursor, top: scroller.scrollTop });
    watcher.disconnect();
    clearTimeout(timer);
    round += 1;
  });
  const back = kept(PLACE);
  if (back?.run === run && back.query === params().toString()) [cursor, returnTo] = [back.index, back.top];
  page.setTitle(`List · ${run}`);
  main.append(h("h1", "visually-hidden", "Conversations"), filter.element, bar, scroller, choice);
  showBar();
  fit();
  watcher.observe(scroller);
  await load(Math.floor(cursor / WINDOW));
}
