// Two versions on the same scenarios: what the second gained and lost, and their conversations side by side.
import { clear, h, number, panel, plural, roleClass, said, signed } from "./dom.js";
import { conversationPath, get, link, runPath } from "./api.js";
import { differenceCells, dim, intervalBar, isClear, table, toneOf } from "./chart.js";

const SIDES = ["a", "b"];

export async function show(main, route, page) {
  const { params } = route;
  page.setTitle("Compare");
  const sides = SIDES.map((name) => {
    const [, run, version] = /^(.*?)(?:@(\d*))?$/.exec(params.get(name) ?? "");
    return { name, run: run || page.run?.run, version };
  });
  const [{ runs }, ...stored] = await Promise.all([get("/api/runs").catch(() => ({ runs: [] })), ...sides.map((side) => get(`/api${runPath(side.run, "/versions")}`))]);
  sides.forEach((side, at) => {
    side.versions = stored[at].versions;
    if (!side.versions.some((one) => String(one.version) === side.version)) side.version = side.versions.at(-at)?.version;
  });
  const [a, b] = sides.map(wordsOf);
  const url = (changes) => `/cmp?${new URLSearchParams({ ...Object.fromEntries(params), ...changes })}`;
  const swap = () => page.go(url({ a: b, b: a }));
  const pickers = sides.map((side) => picker(side, runs, (words) => page.go(url({ [side.name]: words }))));
  main.append(h("h1", { class: "visually-hidden" }, "Compare"), h("div", { class: "row picks" }, pickers[0], h("button", { title: "Swap the sides (s)", "aria-label": "Swap the sides", onclick: swap }, "⇄"), pickers[1]));
  if (!sides.every((side) => side.versions.length)) return void main.append(h("p", { class: "notice" }, "There are no held-out conversations to compare here: training plays them when it evaluates."));
  const part = params.get("part") ?? "";
  const found = await get(`/api/compare?${new URLSearchParams({ a, b, part })}`);
  if (!page.isHere()) return;
  const extent = Math.max(...found.scenarios.map((one) => Math.abs(one.difference)));
  const items = new Map(found.scenarios.map((one) => [one, listItem(one, extent, () => choose(one))]));
  const list = h("ol", { class: "scenarios", "aria-label": "Scenarios, biggest loss first" }, ...items.values());
  const only = h("button", { title: "Only what fell (r)", onclick: toggle }, "Only regressions");
  const [none, reading] = [h("p", { class: "dim" }, "No scenario fell."), h("div", { class: "reading" })];
  let [visible, current] = [[], found.scenarios.find((one) => one.scenario === params.get("scenario"))];
  main.append(summary(found, part, (name) => url({ part: name })), h("div", { class: "pairs" }, h("div", {}, h("div", { class: "row" }, only, h("button", { title: "Any of them (x)", onclick: anyPair }, "Random pair")), list, none), reading));
  narrow();
  page.onKey({ j: ["next scenario", () => move(1)], k: ["previous scenario", () => move(-1)], r: ["only regressions", toggle], x: ["random pair", anyPair], s: ["swap the sides", swap] });

  function toggle() {
    if (params.has("only")) params.delete("only");
    else params.set("only", "regressions");
    narrow();
  }

  function narrow() {
    const isOnly = params.has("only");
    visible = found.scenarios.filter((one) => !isOnly || one.difference < 0);
    items.forEach((item, one) => (item.hidden = !visible.includes(one)));
    none.hidden = visible.length > 0;
    only.setAttribute("aria-pressed", String(isOnly));
    choose(visible.includes(current) ? current : visible[0]);
  }

  function anyPair() {
    choose(visible[Math.floor(Math.random() * visible.length)]);
  }

  function move(by) {
    choose(visible[visible.indexOf(current) + by] ?? current);
  }

  function choose(one) {
    current = one;
    clear(reading);
    items.forEach((item, other) => item.firstChild.setAttribute("aria-current", String(other === one)));
    if (!one) return;
    params.set("scenario", one.scenario);
    page.setQuery(params);
    list.scrollTop = items.get(one).offsetTop - list.clientHeight / 2;
    read(one).catch((error) => reading.append(h("p", { class: "notice bad", text: error.message })));
  }

  // Of several conversations of a side the first is shown, and the others are links.
  async function read(one) {
    const answers = await Promise.all(SIDES.map((name) => get(`/api${conversationPath(found[name].run, one[name][0])}`)));
    if (!page.isHere() || one !== current) return;
    const records = answers.map((answer) => answer.record);
    const head = (name) => h("div", { class: `cell head row ${name}` }, badge(name), versionWords(found[name].version), h("b", { class: "n", title: "mean of its conversations on this scenario", text: number(one[`reward_${name}`]) }), one[name].map((id) => conversationLink(found[name].run, id)));
    const cell = (record, at, turn) => {
      const spoken = record.turns[turn];
      const isSame = at && records[0].turns[turn]?.text === spoken?.text;
      return h("div", { class: `cell ${SIDES[at]}` }, spoken && turnBox(record, spoken, [isSame && "the same words", spoken.finish === "length" && "cut"], record.rewards?.per_turn?.[turn]));
    };
    const rows = Array.from({ length: Math.max(...records.map((record) => record.turns.length)) }, (_, turn) => records.map((record, at) => cell(record, at, turn)));
    const ends = records.map((record) => h("div", { class: "cell end dim", text: ending(record) }));
    clear(reading).append(said(one.about || one.scenario, "h2"), h("div", { class: "pair" }, SIDES.map(head), rows, ends));
  }
}

function wordsOf({ run, version = "" }) {
  return `${run}@${version}`;
}

function versionWords(version) {
  return version ? `version ${version}` : "version 0, the base";
}

function picker({ name, run, version, versions }, runs, choose) {
  const choices = (label, options, wanted) => h("select", { "aria-label": `${label} of ${name.toUpperCase()}`, onchange: (event) => choose(wordsOf(wanted(event.target.value))) }, options);
  const all = [...new Set([run, ...runs.map((one) => one.run)])].map((value) => h("option", { value, text: value }));
  const played = versions.map((one) => h("option", { value: one.version, selected: String(one.version) === String(version), text: `${versionWords(one.version)} (${plural(one.scenarios, "scenario")})` }));
  return h("span", { class: "pick" }, badge(name), choices("Run", all, (other) => ({ run: other })), choices("Version", played, (other) => ({ run, version: other })));
}

export function badge(name) {
  return h("b", { class: `badge ${name}`, text: name.toUpperCase() });
}

export function linkTo(url, words, name = null) {
  return h("a", { href: link(url), class: name }, words);
}

export function conversationLink(run, id) {
  return linkTo(conversationPath(run, id), id, "mono");
}

// One turn: who, what, and if it is known what it was worth.
export function turnBox(record, turn, notes = [], reward = null, name = "") {
  const worth = reward !== null && h("span", { class: `n ${toneOf(reward)}`, title: "reward of this turn", text: signed(reward) });
  const head = h("div", { class: "row" }, h("span", { class: "role-name grow", text: turn.role }), dim(notes.filter(Boolean).join(", ")), worth);
  return h("article", { class: `spoken ${roleClass(record.scenario.roles.indexOf(turn.role))} ${name}` }, head, said(turn.text, "p"));
}

function ending({ outcome, rewards }) {
  const how = `ended: ${outcome?.reason.replaceAll("_", " ") ?? "unknown"}${outcome?.by ? `, by ${outcome.by}` : ""}`;
  return [how, ...Object.entries(rewards?.per_role ?? {}).map(([role, total]) => `${role} ${number(total)}`)].join(" · ");
}

function listItem(one, extent, choose) {
  const tone = toneOf(one.difference);
  const bar = one.difference !== null && intervalBar({ difference: one.difference, low: 0, high: one.difference }, tone, extent);
  return h("li", {}, h("button", { onclick: choose }, said(one.about || one.scenario), h("span", { class: `n ${tone}`, text: signed(one.difference) }), bar));
}

function summary({ difference, parts, num_scenarios: num, num_failed: numFailed, wins, ties, losses }, part, urlOf) {
  // What is only measured may be lost, and is not gained.
  const toneOfPart = (one) => (isClear(one) ? toneOf(one.value || Math.min(one.difference, 0)) : "");
  const fell = parts.filter((one) => toneOfPart(one) === "bad").map((one) => `${one.name} ${signed(one.difference)}`);
  const row = (one) => [linkTo(urlOf(one.name === part ? "" : one.name), one.name), ...differenceCells(one.a, one.b, one, toneOfPart(one))];
  const interval = difference.low === null ? "" : `95% interval ${signed(difference.low)} to ${signed(difference.high)}, `;
  const leftOut = numFailed ? `; ${numFailed} left out, where a conversation failed` : "";
  const shares = [["good", wins, "better"], ["", ties, "equal"], ["bad", losses, "worse"]].filter(([, size]) => size);
  return h("div", { class: "summary" },
    panel(`${part || "Reward of a conversation"}, B against A`,
      h("p", { class: "row" }, h("b", { class: `big ${isClear(difference) ? toneOf(difference.value) : ""}`, text: signed(difference.value) }), dim(`${interval}${plural(num, "scenario")}${leftOut}`)),
      h("p", { class: "row" }, shares.map(([tone, size, words]) => h("span", { class: `chip ${tone}`, text: `${size} ${words}` }))),
      fell.length > 0 && h("p", { class: "notice" }, `⚠ Worse: ${fell.join(", ")}.`)),
    parts.length > 0 && panel("Parts that moved the reward most", h("p", { class: "dim" }, "Choose one to win and lose scenarios by it."), table(["as measured", "#A", "#B", "#difference", "#95% interval", ""], parts.map(row))));
}
