// The list of conversations: 50,000 rows of which the page holds fifty.
import { clear, count, h, number, plural, signed } from "./dom.js";
import { conversationPath, get, isOffline, link, runPath } from "./api.js";
import { filterBox } from "./filterbox.js";

const WINDOW = 100; // rows asked for at once
const OVERSCAN = 8; // rows kept above and below what is seen
const PLACE = "selfplay.list"; // where in which list we were: the conversation page's neighbours, and the way back
const SORTS = ["newest", "oldest", "reward", "advantage", "kl", "nll", "turns", "tokens", "seconds", "surprise", "disagreement", "step"];
const NEEDS = { reward: "rewards", bar: "rewards", per_role: "rewards", advantage: "advantage", kl: "kl", nll: "nll", disagreement: "disagreement", surprise: "groups" };
const FLAG_KINDS = { failed: "bad", "invalid part": "bad", protocol: "warn", truncated: "warn", labelled: "good" };

// key, heading, width, rank: the highest goes first when there is no room.
const COLUMNS = [
  ["step", "step", 50, 0], ["about", "scenario", 260, 0], ["players", "players", 140, 8], ["turns", "turns", 50, 3], ["tokens", "tokens", 60, 7], ["bar", "reward by part", 150, 2],
  ["reward", "reward", 62, 0], ["per_role", "", 104, 6], ["advantage", "adv.", 58, 4], ["kl", "KL", 56, 4], ["surprise", "surprise", 72, 9], ["disagreement", "disagr.", 66, 9], ["reason", "ended", 96, 5], ["flags", "flags", 118, 3],
].map(([key, label, width, rank]) => ({ key, label, width, rank, sort: ["about", "players", "per_role", "reason", "flags", "bar"].includes(key) ? null : key }));

const div = (kind, ...children) => h("div", { class: kind }, children);
const words = (text) => (text ?? "").replaceAll("_", " ");
const scenarioOf = (row) => row && `${row.split} ${row.scenario}`;
const groupOf = (row) => row?.id.slice(0, row.id.lastIndexOf("-")); // the id without its index

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return value > 0 ? power * [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) : 0;
}

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(PLACE));
  } catch {
    return null;
  }
}

function remember(place) {
  try {
    sessionStorage.setItem(PLACE, JSON.stringify(place));
  } catch {
    // A page without storage begins at the top.
  }
}

export async function show(main, route, page) {
  const { run } = route;
  const { info = {}, rewards: terms = [] } = page.run;
  const { parts = [], roles = [] } = info;
  const api = `/api/r/${encodeURIComponent(run)}`;
  const has = (key) => !NEEDS[key] || !info.has || info.has.includes(NEEDS[key]);
  const partClass = (name) => `part${Math.max(0, parts.indexOf(name)) % 8}`;
  const ask = { q: route.params.get("q") ?? "", sort: route.params.get("sort") ?? "newest", order: route.params.get("order"), group: route.params.get("group") === "1" };
  const selected = new Map(); // id -> row
  let windows, pending, shown; // number of a window -> items, its request; key of an item -> element
  let [total, of, cursor, most, least, returnTo] = [0, 0, 0, 0, 0, null];
  let [isStale, isFollowing, isNarrow, headers, rowHeight, columns, frame, timer] = [true, false, false, 0, 0, [], 0, 0];

  const filter = filterBox({ info, query: ask.q, change: (q) => q !== ask.q && restart({ q }) });
  const counter = h("span", { class: "counter dim", role: "status" });
  const pill = h("button", { type: "button", class: "primary pill", hidden: true, onclick: () => restart({}) });
  const bar = div("row list-bar");
  const head = h("div", { class: "list-head", role: "row" });
  const canvas = h("div", { class: "canvas", role: "rowgroup" });
  const empty = h("div", { class: "empty", hidden: true });
  const choice = h("div", { class: "row choice", hidden: true, role: "status" });
  const scroller = h("div", { class: "scroller", tabIndex: 0, role: "grid", "aria-label": "Conversations", "aria-multiselectable": "true", onscroll: schedule }, h("div", { role: "rowgroup", class: "head-group" }, head), canvas, empty);

  // ----- what is asked for -----

  function params() {
    const found = new URLSearchParams();
    for (const [key, value] of Object.entries(ask)) if (value && value !== "newest") found.set(key, value === true ? "1" : value);
    return found;
  }

  function apiParams() {
    const found = params();
    found.delete("group");
    if (ask.group) found.set("by_scenario", "1");
    return found;
  }

  function forget() {
    for (const controller of pending?.values() ?? []) controller.abort();
    [windows, pending, shown, headers, isStale] = [new Map(), new Map(), shown ?? new Map(), ask.group ? 0.3 : 0, true];
  }

  async function restart(changes, { isQuiet = false } = {}) {
    Object.assign(ask, changes);
    forget();
    pill.hidden = true;
    if (!isQuiet) [cursor, returnTo] = [0, 0];
    page.setQuery(params());
    filter.refresh();
    showBar();
    fit();
    scroller.classList.add("stale"); // old rows stay, faintly, until the new ones are here
    await load(Math.floor(cursor / WINDOW));
  }

  async function load(w) {
    if (windows.has(w) || pending.has(w)) return;
    const controller = new AbortController();
    pending.set(w, controller);
    const isCurrent = () => pending.get(w) === controller && page.isHere();
    const before = ask.group && w ? 1 : 0; // one row more in front tells whether the first one begins a group
    const query = apiParams();
    query.set("offset", w * WINDOW - before);
    query.set("limit", WINDOW + before);
    try {
      const found = await get(`${api}/conversations?${query}`, { signal: controller.signal });
      if (isCurrent()) take(w, found, before);
      filter.showError("");
    } catch (error) {
      if (isCurrent()) filter.showError(error.message);
    }
    if (pending.get(w) === controller) pending.delete(w);
    scroller.classList.remove("stale");
  }

  function take(w, found, before) {
    const rows = found.rows.map((cells) => Object.fromEntries(found.columns.map((name, k) => [name, cells[k]])));
    if (isStale) clear(canvas), shown.clear();
    [total, of] = [found.total, found.of];
    const [top, height] = [topOf(w), heightOf(w)];
    windows.set(w, itemsOf(rows, w * WINDOW - before).filter(({ index }) => index >= w * WINDOW));
    const all = [...windows.values()].flat();
    if (ask.group) headers = all.filter(({ isHeader }) => isHeader).length / (all.length || 1);
    rescale(rows);
    counter.textContent = total === of ? plural(of, "conversation") : `${count(total)} of ${count(of)}`;
    empty.hidden = total > 0;
    clear(empty).append(of ? "No conversation fits this filter. " : "No conversations yet.", ask.q ? h("button", { type: "button", onclick: () => (filter.set(""), restart({ q: "" })) }, "Clear the filter") : "");
    canvas.style.height = `${topOf(Math.ceil(total / WINDOW))}px`;
    if (isStale && returnTo !== null) scroller.scrollTop = returnTo;
    else if (!isStale && top + height < scroller.scrollTop) scroller.scrollTop += heightOf(w) - height;
    [isStale, returnTo] = [false, null];
    draw();
  }

  function itemsOf(rows, first) {
    return rows.flatMap((row, k) => {
      const index = first + k;
      const item = { key: index, row, index };
      const hasSiblings = [rows[k - 1], rows[k + 1]].some((other) => groupOf(other) === groupOf(row));
      const begins = scenarioOf(rows[k - 1]) !== scenarioOf(row) || (hasSiblings && groupOf(rows[k - 1]) !== groupOf(row));
      return ask.group && begins ? [{ key: `h${index}`, row, index, isHeader: true, hasSiblings }, item] : [item];
    });
  }

  // The scale of the bars only grows while one list is shown.
  function rescale(rows) {
    const sum = (row, sign) => row.values.reduce((all, value) => all + Math.max(0, sign * (value ?? 0)), 0);
    const [gain, loss] = [1, -1].map((sign) => roundUp(Math.max(sign > 0 ? most : least, ...rows.map((row) => sum(row, sign)))));
    if (gain !== most || loss !== least) redraw();
    [most, least] = [gain, loss];
  }

  // ----- where things stand -----

  function heightOf(w) {
    const rows = Math.max(0, Math.min(WINDOW, total - w * WINDOW));
    return rowHeight * (windows.get(w)?.length ?? Math.round(rows / (1 - headers)));
  }

  function topOf(w) {
    let top = 0;
    for (let before = 0; before < w; before += 1) top += heightOf(before);
    return top;
  }

  function schedule() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (page.isHere()) draw();
    });
  }

  function redraw() {
    if (isStale) return;
    for (const element of shown.values()) element.remove();
    shown.clear();
  }

  function draw() {
    if (isStale) return;
    canvas.style.height = `${topOf(Math.ceil(total / WINDOW))}px`;
    const from = scroller.scrollTop - OVERSCAN * rowHeight;
    const to = scroller.scrollTop + scroller.clientHeight + OVERSCAN * rowHeight;
    const [wanted, missing] = [new Set(), []];
    for (let w = 0, top = 0; w * WINDOW < total && top < to; top += heightOf(w), w += 1) {
      if (top + heightOf(w) < from) continue;
      if (!windows.has(w)) missing.push(w);
      windows.get(w)?.forEach((item, k) => {
        const y = top + k * rowHeight;
        if (y + rowHeight >= from && y <= to) place(item, y, wanted);
      });
    }
    for (const [key, element] of shown) if (!wanted.has(key)) element.remove(), shown.delete(key);
    for (const [w, controller] of pending) if (!missing.includes(w)) controller.abort(), pending.delete(w);
    clearTimeout(timer);
    // A moment's wait: who drags the bar passes by many windows.
    if (missing.length) timer = setTimeout(() => missing.forEach(load), 50);
    scroller.setAttribute("aria-rowcount", total + 1);
  }

  function place(item, y, wanted) {
    wanted.add(item.key);
    if (!shown.has(item.key)) {
      shown.set(item.key, item.isHeader ? headerRow(item) : rowElement(item));
      canvas.append(shown.get(item.key));
    }
    shown.get(item.key).style.top = `${y}px`;
  }

  // ----- rows -----

  const CELLS = {
    about: (row) => h("a", { class: "open", href: link(conversationPath(run, row.id)), tabIndex: -1 }, ask.group ? null : h("bdi", { class: "about", text: row.about || row.scenario }), h("bdi", { class: ask.group ? "words" : "words dim", text: row.first_words })),
    players: (row) => h("bdi", { text: row.players }),
    tokens: (row) => count(row.tokens),
    bar: rewardBar,
    reward: (row) => h("b", { class: row.reward < 0 ? "bad" : null, text: number(row.reward) }),
    per_role: (row) => row.per_role.map((value) => number(value)).join(" / "),
    advantage: (row) => signed(row.advantage),
    kl: (row) => number(row.kl, 3),
    surprise: (row) => number(row.surprise),
    disagreement: (row) => number(row.disagreement),
    reason: (row) => h("span", { class: { failed: "bad", truncated: "warn" }[row.status] ?? "dim", text: words(row.reason) }),
    flags: (row) => row.flags.map((flag) => h("span", { class: `chip ${FLAG_KINDS[flag] ?? "dim"}`, title: flag, text: flag.replace(/^tagged:/, "# ") })),
    facts: (row) => [[`step ${row.step}`, plural(row.turns, "turn"), words(row.reason)].join(" · "), " ", CELLS.flags(row)],
  };

  function rowElement({ row, index }) {
    const isOn = selected.has(row.id);
    const keys = isNarrow ? ["about", "reward", "facts", ...(has("reward") ? ["bar"] : [])] : columns.map(({ key }) => key);
    const cells = keys.map((key) => h("div", { role: "gridcell", class: `c-${key}${isNumber(key) ? " n" : ""}` }, key in CELLS ? CELLS[key](row) : key in row ? row[key] : signed(row.values[parts.indexOf(key)])));
    return h("div", { class: `list-row ${isNarrow ? "card" : "line"}${index === cursor ? " cursor" : ""}`, id: `row-${index}`, role: "row", "aria-rowindex": index + 2, "aria-selected": String(isOn), dataset: { index }, title: row.id },
      h("div", { role: "gridcell", class: "c-select" }, h("input", { type: "checkbox", tabIndex: -1, checked: isOn, "aria-label": `select ${row.id}` })), cells);
  }

  function headerRow({ row, hasSiblings }) {
    return h("div", { class: "list-row group-row", role: "row" }, h("div", { role: "gridcell" }, h("bdi", { class: "about", text: row.about || row.scenario }), h("span", { class: "dim", text: `${hasSiblings ? `step ${row.step} · ` : ""}${words(row.split)} · ${row.scenario}` }), hasSiblings ? h("span", {}, "group mean ", h("b", { text: number(row.group_mean) })) : null));
  }

  function isNumber(key) {
    return !["about", "players", "bar", "reason", "flags", "facts"].includes(key);
  }

  // Parts stacked from the zero line: what was gained to the right, what was lost to the left.
  function rewardBar(row) {
    const scale = 100 / (most + least || 1);
    const piece = (kind, from, width) => {
      const element = h("i", { class: kind });
      element.style.left = `${from * scale}%`;
      if (width) element.style.width = `${width * scale}%`;
      return element;
    };
    let [left, right] = [least, least];
    const pieces = row.values.map((value, k) => {
      if (!value) return null;
      if (value < 0) return piece(partClass(parts[k]), (left += value), -value);
      right += value;
      return piece(partClass(parts[k]), right - value, value);
    });
    const title = row.values.map((value, k) => (value ? `${parts[k]} ${signed(value)}` : "")).filter(Boolean).join(" · ");
    return h("span", { class: "part-bar", title: title || "nothing" }, pieces, piece("zero", least));
  }

  // ----- the frame -----

  function showBar() {
    const option = (value, text = words(value)) => h("option", { value, text, selected: value === ask.sort });
    const keys = SORTS.filter((key) => has(key) || key === ask.sort);
    const ofParts = parts.flatMap((name) => [[`reward.${name}`, `${name}, raw`], [`value.${name}`, `${name}, added`]]);
    const isOther = ![...keys, ...ofParts.map(([key]) => key)].includes(ask.sort);
    const sort = h("select", { "aria-label": "Sort by", onchange: () => restart({ sort: sort.value, order: null }) }, keys.map((key) => option(key)), isOther ? option(ask.sort) : null, parts.length ? h("optgroup", { label: "parts of the reward" }, ofParts.map(([key, text]) => option(key, text))) : null);
    const isUp = ask.order === "asc";
    const toggle = (text, isOn, title, onclick) => h("button", { type: "button", "aria-pressed": String(isOn), title, onclick }, text);
    const counted = new Set(terms.filter((term) => term.weight).map((term) => term.label));
    const legend = parts.filter((name) => has("reward") && (!terms.length || counted.has(name))).map((name) => h("button", { type: "button", class: "quiet", title: `Sort by what ${name} added`, onclick: () => restart(turned(`value.${name}`)) }, h("span", { class: `dot ${partClass(name)}` }), name));
    const to = (kind, text) => h("a", { href: `${api}/export?${new URLSearchParams({ to: kind, q: ask.q })}`, download: "", text });
    clear(bar).append(
      h("label", { class: "row" }, h("span", { class: "dim sort-word" }, "sort"), sort),
      ["newest", "oldest"].includes(ask.sort) ? "" : h("button", { type: "button", title: "Turn the order round", onclick: () => restart({ order: isUp ? null : "asc" }) }, isUp ? "↑ low first" : "↓ high first"),
      toggle("by scenario", ask.group, "Conversations of one scenario together: what the advantage is computed from (s)", () => restart({ group: !ask.group })),
      page.run.is_live ? toggle("follow latest", isFollowing, "Show new conversations as they come", () => ((isFollowing = !isFollowing), isFollowing ? restart({ sort: "newest", order: null }) : showBar())) : "",
      pill, h("span", { class: "row list-legend grow" }, legend), counter,
      isOffline ? "" : h("details", { class: "menu" }, h("summary", { class: "button" }, "export"), div("panel", to("csv", "CSV, a row each"), to("json", "JSON records"), to("html", "HTML page that opens from disk"))));
  }

  const turned = (key) => ({ sort: key, order: ask.sort === key && ask.order !== "asc" ? "asc" : null });

  // Columns that have data and fit; the one it is sorted by always does.
  function fit() {
    const wide = scroller.clientWidth;
    const part = /^(?:value|reward)\.(.+)$/.exec(ask.sort)?.[1];
    isNarrow = wide < 640;
    rowHeight = isNarrow ? (ask.group ? 64 : 84) : ask.group ? 34 : 46;
    columns = COLUMNS.filter(({ key }) => has(key) && (key !== "per_role" || (roles.length > 1 && roles.length < 4)));
    if (parts.includes(part)) columns.splice(columns.findIndex(({ key }) => key === "reward") + 1, 0, { key: part, label: part, width: 84, rank: 0, sort: ask.sort });
    const isKept = ({ rank, sort }) => rank === 0 || (sort && sort === ask.sort);
    while (columns.reduce((sum, { width }) => sum + width + 12, 40) > wide && !columns.every(isKept)) {
      const rank = Math.max(...columns.filter((column) => !isKept(column)).map((column) => column.rank));
      columns.splice(columns.findLastIndex((column) => column.rank === rank && !isKept(column)), 1);
    }
    scroller.classList.toggle("cards", isNarrow);
    scroller.classList.toggle("grouped", ask.group);
    scroller.style.setProperty("--row", `${rowHeight}px`);
    scroller.style.setProperty("--columns", `26px ${columns.map(({ key, width }) => (key === "about" ? `minmax(${width}px, 1fr)` : `${width}px`)).join(" ")}`);
    clear(head).append(h("div", { role: "columnheader", "aria-label": "selected" }), ...columns.map(({ key, label, sort }) => {
      const text = key === "per_role" ? roles.join(" / ") : label;
      const isUp = ask.order === "asc";
      const isSorted = sort && sort === ask.sort;
      const content = sort ? h("button", { type: "button", class: "quiet", onclick: () => restart(turned(sort)) }, text, isSorted ? (isUp ? " ↑" : " ↓") : "") : text;
      return h("div", { role: "columnheader", class: isNumber(key) ? "n" : null, title: text, "aria-sort": isSorted ? (isUp ? "ascending" : "descending") : null }, content);
    }));
    redraw();
    draw();
  }

  // ----- choosing -----

  const rowAt = (index) => windows.get(Math.floor(index / WINDOW))?.find((item) => item.index === index)?.row;

  function setCursor(index) {
    for (const element of canvas.querySelectorAll(".cursor")) element.classList.remove("cursor");
    cursor = index;
    shown.get(index)?.classList.add("cursor");
    scroller.setAttribute("aria-activedescendant", `row-${index}`);
  }

  function moveTo(index) {
    if (!total) return;
    const next = Math.max(0, Math.min(total - 1, index));
    const w = Math.floor(next / WINDOW);
    const within = windows.get(w)?.findIndex((item) => item.key === next) ?? (next % WINDOW) / (1 - headers);
    const y = topOf(w) + within * rowHeight;
    const height = scroller.clientHeight - (isNarrow ? 0 : head.offsetHeight);
    if (y - rowHeight < scroller.scrollTop) scroller.scrollTop = y - rowHeight;
    else if (y + 2 * rowHeight > scroller.scrollTop + height) scroller.scrollTop = y + 2 * rowHeight - height;
    draw();
    setCursor(next);
    // Where a row stands is a guess until its window is here.
    if (!windows.has(w)) load(w).then(() => windows.has(w) && cursor === next && page.isHere() && moveTo(next));
    if (!main.contains(document.activeElement) || document.activeElement === main) scroller.focus({ preventScroll: true });
  }

  function openCursor() {
    const focused = document.activeElement;
    if (focused?.matches("button, a, summary")) focused.click();
    else if (rowAt(cursor)) page.go(conversationPath(run, rowAt(cursor).id));
  }

  canvas.addEventListener("click", (event) => {
    const element = event.target.closest(".list-row[data-index]");
    if (!element) return;
    setCursor(Number(element.dataset.index));
    if (event.target.closest(".c-select")) select(cursor);
    else if (!event.target.closest("a") && !getSelection().toString()) element.querySelector("a").dispatchEvent(new MouseEvent("click", event));
  });

  function select(index) {
    const row = rowAt(index);
    if (!row) return;
    if (!selected.delete(row.id)) selected.set(row.id, row);
    const isOn = selected.has(row.id);
    shown.get(index)?.setAttribute("aria-selected", String(isOn));
    if (shown.has(index)) shown.get(index).querySelector("input").checked = isOn;
    choice.hidden = !selected.size;
    clear(choice).append(`${selected.size} selected`, h("button", { type: "button", class: "primary", disabled: selected.size !== 2, onclick: compare }, "compare two"), h("button", { type: "button", onclick: () => (selected.clear(), (choice.hidden = true), redraw(), draw()) }, "clear"));
  }

  // Versions on one scenario go to the page that compares; any other two open as two tabs.
  function compare() {
    if (selected.size !== 2) return;
    const [a, b] = [...selected.values()].sort((left, right) => (left.version ?? 0) - (right.version ?? 0));
    if (scenarioOf(a) === scenarioOf(b) && (a.version ?? null) !== null && (b.version ?? a.version) !== a.version) {
      page.go(`/cmp?${new URLSearchParams({ a: `${run}@${a.version}`, b: `${run}@${b.version}`, scenario: a.scenario })}`);
    } else {
      open(link(conversationPath(run, b.id)), "_blank", "noopener");
      page.go(conversationPath(run, a.id));
    }
  }

  // ----- begin -----

  const by = (step) => () => moveTo(cursor + step());
  const rowsSeen = () => Math.max(1, Math.floor(scroller.clientHeight / rowHeight) - 2);
  const [down, up, toFirst, toLast] = [by(() => 1), by(() => -1), () => moveTo(0), () => moveTo(total - 1)];
  page.onKey({
    j: ["next conversation", down], ArrowDown: ["", down], k: ["conversation before", up], ArrowUp: ["", up], PageDown: ["", by(rowsSeen)], PageUp: ["", by(() => -rowsSeen())],
    g: ["first", toFirst], Home: ["", toFirst], G: ["last", toLast], End: ["", toLast], Enter: ["open", openCursor], "/": ["filter", () => filter.input.focus()],
    x: ["select", () => select(cursor)], c: ["compare the two selected", compare], s: ["by scenario, or one by one", () => restart({ group: !ask.group })],
    ...(isOffline ? {} : { l: ["label pairs", () => page.go(runPath(run, "/label"))] }),
  });
  page.onChange((news) => {
    const fresh = (news.conversations ?? 0) - of;
    if (fresh <= 0) return;
    if (isFollowing) restart({}, { isQuiet: true });
    pill.hidden = isFollowing;
    pill.textContent = `${count(fresh)} new`;
  });
  const watcher = new ResizeObserver(fit);
  page.onLeave(() => {
    remember({ run, query: params().toString(), api: apiParams().toString(), index: cursor, top: scroller.scrollTop });
    watcher.disconnect();
    clearTimeout(timer);
    forget();
  });
  const back = remembered();
  if (back?.run === run && back.query === params().toString()) [cursor, returnTo] = [back.index ?? 0, back.top ?? 0];
  page.setTitle(`List · ${run}`);
  main.append(h("h1", { class: "visually-hidden" }, "Conversations"), filter.element, bar, scroller, choice);
  forget();
  showBar();
  fit();
  watcher.observe(scroller);
  await load(Math.floor(cursor / WINDOW));
}
