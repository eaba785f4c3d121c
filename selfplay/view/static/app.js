// The frame around every page: routes, header, keyboard, live status.
import { clear, h, ago } from "./dom.js";
import { get, isOffline, link, listen, runPath } from "./api.js";
import { show as showOverview } from "./overview.js";
import { show as showList } from "./list.js";
import { show as showConversation } from "./conversation.js";
import { show as showCompare } from "./compare.js";
import { show as showLabel } from "./label.js";
import { show as showMetrics } from "./metrics.js";

const SECTIONS = [
  ["overview", "Overview", "O", (run) => runPath(run)],
  ["list", "List", "L", (run) => runPath(run, "/list")],
  ["compare", "Compare", "C", (run) => `/cmp?a=${encodeURIComponent(run)}@0&b=${encodeURIComponent(run)}`],
  ["label", "Label", "B", (run) => runPath(run, "/label")],
  ["metrics", "Metrics", "M", (run) => runPath(run, "/metrics")],
];
const PAGES = { runs: showOverview, overview: showOverview, list: showList, conversation: showConversation, compare: showCompare, label: showLabel, metrics: showMetrics };
const state = { keys: new Map(), leave: [], change: [], run: null, stop: null, listening: null, number: 0, status: null };

function routeOf(url) {
  const { pathname, searchParams, hash } = new URL(url, "http://page");
  const words = pathname.split("/").filter(Boolean).map(decodeWord);
  const route = { name: "missing", run: null, id: null, params: searchParams, hash: hash.slice(1), path: pathname };
  if (!words.length) return { ...route, name: "runs" };
  if (words[0] === "cmp") return { ...route, name: "compare", run: (searchParams.get("a") ?? "").replace(/@\d*$/, "") || null };
  if (words[0] !== "r" || !words[1]) return route;
  const name = { undefined: "overview", list: "list", c: "conversation", label: "label", metrics: "metrics" }[words[2]];
  return { ...route, name: name ?? "missing", run: words[1], id: words[3] ?? null };
}

function decodeWord(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

function currentUrl() {
  if (!isOffline) return location.pathname + location.search + location.hash;
  return location.hash.slice(1) || "/";
}

export function go(url, { replace = false } = {}) {
  if (url !== currentUrl()) history[replace ? "replaceState" : "pushState"]({}, "", link(url));
  return navigate();
}

async function navigate() {
  const route = routeOf(currentUrl());
  const number = ++state.number;
  for (const leave of state.leave.splice(0)) leave();
  state.keys.clear();
  state.change.length = 0;
  const main = h("main", { id: "main", tabIndex: -1, class: `page-${route.name}` });
  document.querySelector("main")?.replaceWith(main);
  try {
    const run = route.run ? await get(`/api/r/${encodeURIComponent(route.run)}`) : null;
    if (number !== state.number) return;
    state.run = run;
    showHeader(route, run);
    follow(run?.run ?? null);
    const show = PAGES[route.name];
    if (!show) throw new Error(`There is no page ${route.path}.`);
    await show(main, route, pageOf(route, run));
  } catch (error) {
    if (number === state.number && error.name !== "AbortError") showError(main, error);
  }
}

function pageOf(route, run) {
  const number = state.number;
  const isHere = () => number === state.number;
  return {
    go,
    run,
    setTitle: (text) => isHere() && (document.title = text ? `${text} · selfplay` : "selfplay"),
    onKey: (map) => isHere() && Object.entries(map).forEach(([key, [words, fn]]) => state.keys.set(key, [words, fn])),
    onLeave: (fn) => (isHere() ? state.leave.push(fn) : fn()),
    onChange: (fn) => {
      if (!isHere()) return;
      state.change.push(fn);
    },
    // Writes the page's own state into the address, without showing the page anew.
    setQuery: (params) => {
      if (!isHere()) return;
      const words = params.toString();
      history.replaceState({}, "", link(routeOf(currentUrl()).path + (words ? `?${words}` : "")));
    },
    isHere,
  };
}

function showError(main, error) {
  console.warn(error);
  clear(main).append(
    h("section", { class: "notice bad", role: "alert" }, h("h1", {}, "This cannot be shown"), h("p", { text: error.message }), h("p", {}, h("a", { href: link("/") }, "All runs"))),
  );
}

// ----- header -----

function showHeader(route, run) {
  const header = document.querySelector("body > header");
  const status = h("span", { id: "status", role: "status" });
  clear(header).append(
    h("a", { class: "skip", href: "#main", onclick: (event) => (event.preventDefault(), document.querySelector("main").focus()) }, "Skip to content"),
    h("a", { class: "brand", href: link("/"), title: "All runs" }, h("span", { class: "mark", "aria-hidden": "true" }), "selfplay"),
  );
  if (run) {
    header.append(runPicker(run), status, h("nav", { "aria-label": "Sections" }, ...SECTIONS.map((section) => sectionLink(section, route, run))));
    showStatus(run);
  }
  header.append(
    h("span", { class: "tools" }, h("button", { type: "button", class: "quiet", title: "Light or dark", "aria-label": "Light or dark", onclick: switchTheme }, "◐"), h("button", { type: "button", class: "quiet", title: "Keys (?)", "aria-label": "Keys", onclick: showKeys }, "?")),
  );
}

function sectionLink([name, words, key, urlOf], route, run) {
  if (isOffline && name === "label") return null;
  const isCurrent = route.name === name || (name === "list" && route.name === "conversation");
  return h("a", { href: link(urlOf(run.run)), title: `${words} (${key})`, "aria-current": isCurrent ? "page" : null }, words);
}

function runPicker(run) {
  const select = h("select", { "aria-label": "Run", class: "runs", onchange: () => go(runPath(select.value)) }, h("option", { value: run.run, selected: true, text: run.run }));
  if (isOffline) return h("strong", { class: "runs", text: run.run });
  // The other runs are asked for when somebody wants to choose.
  const fill = async () => {
    select.removeEventListener("focus", fill);
    select.removeEventListener("pointerdown", fill);
    const { runs } = await get("/api/runs");
    const others = runs.filter((one) => one.run !== run.run).map((one) => h("option", { value: one.run, text: one.run }));
    select.append(...others);
  };
  select.addEventListener("focus", fill);
  select.addEventListener("pointerdown", fill);
  return select;
}

function showStatus({ status, is_live: isLive, since, step = null, steps = null }) {
  const place = document.getElementById("status");
  if (!place) return;
  const goal = steps ?? state.run?.steps;
  const progress = step !== null && step !== undefined && goal ? ` · step ${step}/${goal}` : "";
  place.className = isLive ? "live" : "";
  place.title = since ? `newest line ${since}` : "";
  const ended = status === "gone" ? "the run is no longer there" : `${status || "unknown"} · last line ${ago(since)}`;
  place.textContent = isOffline ? "exported" : isLive ? `live${progress}` : ended;
}

// ----- what the run does meanwhile -----

function follow(run) {
  if (state.listening === run) return;
  state.stop?.();
  state.listening = run;
  state.stop = run ? listen(run, changed) : null;
}

function changed(news) {
  const isFirst = state.status === null || state.status.run !== state.listening;
  state.status = { ...news, run: state.listening };
  showStatus(news);
  if (isFirst || news.status === "gone") return;
  for (const fn of [...state.change]) fn(news);
}

// ----- keyboard and theme -----

function typedIn(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) && !/^(checkbox|radio|button)$/.test(target.type ?? "");
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (typedIn(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  const own = state.keys.get(event.key);
  const section = SECTIONS.find(([, , key]) => key === event.key);
  if (own) own[1](event);
  else if (event.key === "?") showKeys();
  else if (section && state.run && !(isOffline && section[0] === "label")) go(section[3](state.run.run));
  else return;
  event.preventDefault();
}

function showKeys() {
  const rows = [...[...state.keys].map(([key, [words]]) => [key, words]), ...SECTIONS.map(([, words, key]) => [key, words]), ["?", "this list"]];
  const names = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space" };
  const dialog = h("dialog", { class: "keys", onclose: () => dialog.remove() }, h("h2", {}, "Keys"), h("dl", {}, ...rows.filter(([, words]) => words).map(([key, words]) => [h("dt", {}, h("kbd", { text: names[key] ?? key })), h("dd", { text: words })])), h("form", { method: "dialog" }, h("button", {}, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

function remembered(name, value) {
  // A page without storage, such as one opened from disk, forgets.
  try {
    if (value === undefined) return localStorage.getItem(name);
    localStorage.setItem(name, value);
  } catch {
    return null;
  }
  return value;
}

function switchTheme() {
  const isDark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
  remembered("theme", document.documentElement.dataset.theme);
  document.dispatchEvent(new Event("themechange"));
}

function clicked(event) {
  const anchor = event.target instanceof Element ? event.target.closest("a[href]") : null;
  const href = anchor?.getAttribute("href") ?? "";
  const isOther = !href.startsWith("/") || href.startsWith("/api/") || href.startsWith("/static/") || anchor.target || anchor.hasAttribute("download");
  if (isOther || isOffline || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(href);
  scrollTo(0, 0);
}

function start() {
  const theme = remembered("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  document.body.append(h("header"), h("main", { id: "main" }));
  document.addEventListener("keydown", pressed);
  document.addEventListener("click", clicked);
  addEventListener("popstate", navigate);
  setInterval(() => state.status && showStatus(state.status), 10000);
  navigate();
}

start();
