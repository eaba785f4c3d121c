// The frame around every page: routes, header, keyboard, live status.
import { ago, anchor, button, clear, h, kept, span } from "./dom.js";
import { get, isOffline, link, listen, runPath } from "./api.js";
import { show as showOverview } from "./overview.js";
import { show as showList } from "./list.js";
import { show as showConversation } from "./conversation.js";
import { show as showCompare } from "./compare.js";
import { show as showLabel } from "./label.js";
import { show as showMetrics } from "./metrics.js";

const PAGES = { runs: showOverview, overview: showOverview, list: showList, conversation: showConversation, compare: showCompare, label: showLabel, metrics: showMetrics };
const SECTIONS = [["Overview", "O", ""], ["List", "L", "/list"], ["Compare", "C"], ["Label", "B", "/label"], ["Metrics", "M", "/metrics"]].filter(([words]) => !(isOffline && words === "Label"));
const state = { keys: new Map(), leave: [], change: [], number: 0, news: null };

function routeOf(url) {
  const { pathname: path, searchParams: params, hash } = new URL(url, "http://page");
  const [first, run, part, id] = path.split("/").filter(Boolean).map(decoded);
  const route = { run: null, id: null, params, hash: hash.slice(1), path };
  if (!first) return { ...route, name: "runs" };
  if (first === "cmp") return { ...route, name: "compare", run: (params.get("a") ?? "").replace(/@\d*$/, "") };
  if (first !== "r" || !run) return route;
  return { ...route, name: { undefined: "overview", list: "list", c: "conversation", label: "label", metrics: "metrics" }[part], run, id };
}

function decoded(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

function currentUrl() {
  return isOffline ? location.hash.slice(1) || "/" : location.pathname + location.search + location.hash;
}

export function go(url, { replace = false } = {}) {
  if (url !== currentUrl()) history[replace ? "replaceState" : "pushState"]({}, "", link(url));
  return navigate();
}

async function navigate() {
  const route = routeOf(currentUrl());
  const number = ++state.number;
  const isHere = () => number === state.number;
  for (const leave of state.leave.splice(0)) leave();
  state.keys.clear();
  state.change = [];
  const main = h("main", { id: "main", tabIndex: -1, class: `page-${route.name}` });
  document.querySelector("main").replaceWith(main);
  try {
    const run = route.run && (await get(`/api${runPath(route.run)}`));
    if (!isHere()) return;
    state.run = run;
    showHeader(route, run);
    follow(run?.run ?? null);
    if (!PAGES[route.name]) throw new Error(`There is no page ${route.path}.`);
    await PAGES[route.name](main, route, pageOf(run, isHere));
  } catch (error) {
    if (isHere()) showError(main, error);
  }
}

function pageOf(run, isHere) {
  return {
    go,
    run,
    isHere,
    setTitle: (text) => isHere() && (document.title = text ? `${text} · selfplay` : "selfplay"),
    onKey: (map) => isHere() && Object.entries(map).forEach(([key, value]) => state.keys.set(key, value)),
    onLeave: (fn) => (isHere() ? state.leave.push(fn) : fn()),
    onChange: (fn) => isHere() && state.change.push(fn),
    // Without showing the page anew.
    setQuery: (params) => {
      const words = params.toString();
      if (isHere()) history.replaceState({}, "", link(routeOf(currentUrl()).path + (words ? `?${words}` : "")));
    },
  };
}

function showError(main, error) {
  console.warn(error);
  clear(main).append(h("section", { class: "notice bad", role: "alert" }, h("h1", {}, "This cannot be shown"), h("p", {}, error.message), anchor("/", "All runs")));
}

function showHeader(route, run) {
  const current = route.name === "conversation" ? "list" : route.name;
  const sections = run && SECTIONS.map(([words, key, rest]) => anchor(sectionUrl(run.run, rest), words, { title: `${words} (${key})`, "aria-current": words.toLowerCase() === current && "page" }));
  clear(document.querySelector("body > header")).append(
    h("a", { class: "skip", href: "#main", onclick: (event) => (event.preventDefault(), document.querySelector("main").focus()) }, "Skip to content"),
    anchor("/", [span("mark"), "selfplay"], { class: "brand", title: "All runs" }),
    ...(run ? [h("strong", "runs", run.run), h("span", { id: "status", role: "status" }), h("nav", { "aria-label": "Sections" }, sections)] : []),
    span("tools", tool("◐", "Light or dark", switchTheme), tool("?", "Keys", showKeys)),
  );
  if (run) showStatus(run);
}

function sectionUrl(run, rest) {
  return rest === undefined ? `/cmp?${new URLSearchParams({ a: `${run}@0`, b: run })}` : runPath(run, rest);
}

function tool(sign, title, onclick) {
  return button(sign, onclick, { class: "quiet", title, "aria-label": title });
}

function showStatus({ status, is_live: isLive, since, step, steps }) {
  const place = document.getElementById("status");
  if (!place) return;
  const goal = steps ?? state.run?.steps;
  const ended = status === "gone" ? "the run is no longer there" : `${status || "unknown"} · last line ${ago(since)}`;
  place.className = isLive ? "live" : "";
  place.textContent = isOffline ? "exported" : isLive ? `live${goal && Number.isFinite(step) ? ` · step ${step}/${goal}` : ""}` : ended;
}

function follow(run) {
  if (state.listening === run) return;
  state.stop?.();
  state.listening = run;
  state.news = null;
  state.stop = run && listen(run, changed);
}

function changed(news) {
  // The first news are what the page has just read, unless the run grew between the two.
  const isOld = state.news === null && !state.run?.indexing && news.conversations === state.run?.info?.conversations;
  state.news = news;
  showStatus(news);
  if (!isOld && news.status !== "gone") for (const fn of [...state.change]) fn(news);
}

function isTyping(target) {
  return target.isContentEditable || (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && !/^(checkbox|radio|button)$/.test(target.type));
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const section = SECTIONS.find(([, key]) => key === event.key);
  const own = state.keys.get(event.key);
  if (own) own[1](event);
  else if (event.key === "?") showKeys();
  else if (section && state.run) go(sectionUrl(state.run.run, section[2]));
  else return;
  event.preventDefault();
}

function showKeys() {
  const rows = [...[...state.keys].map(([key, [words]]) => [words, key]), ...SECTIONS, ["this list", "?"]];
  const terms = rows.map(([words, key]) => words && [h("dt", {}, h("kbd", {}, key)), h("dd", {}, words)]);
  const dialog = h("dialog", { class: "keys", onclose: () => dialog.remove() }, h("h2", {}, "Keys"), h("dl", {}, terms), h("form", { method: "dialog" }, h("button", {}, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

function switchTheme() {
  const root = document.documentElement;
  root.dataset.theme = getComputedStyle(root).getPropertyValue("--is-dark").trim() === "1" ? "light" : "dark";
  kept("theme", root.dataset.theme, "localStorage");
  document.dispatchEvent(new Event("themechange"));
}

function clicked(event) {
  const target = event.target.closest?.("a[href]");
  const url = target?.getAttribute("href") ?? "";
  const isOwn = /^\/(?!api\/|static\/)/.test(url) && !target.target && !target.hasAttribute("download");
  if (!isOwn || isOffline || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(url);
  scrollTo(0, 0);
}

document.body.append(h("header"), h("main", { id: "main" }));
document.documentElement.dataset.theme = kept("theme", undefined, "localStorage") ?? "";
document.addEventListener("keydown", pressed);
document.addEventListener("click", clicked);
addEventListener("popstate", navigate);
setInterval(() => state.news && showStatus(state.news), 10000);
navigate();
