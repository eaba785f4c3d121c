// Two versions on the same scenarios: what the second gained and lost, and their conversations side by side.
import { anchor, button, clear, div, h, number, panel, plural, roleClass, said, signed, span } from "./dom.js";
import { conversationPath, get, runPath } from "./api.js";
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
  const [a, b] = sides.map(({ run, version = "" }) => `${run}@${version}`);
  const url = (changes) => `/cmp?${new URLSearchParams({ ...Object.fromEntries(params), ...changes })}`;
  const swap = () => page.go(url({ a: b, b: a }));
  const pickers = sides.map((side) => picker(side, runs, (words) => page.go(url({ [side.name]: words }))));
  main.append(h("h1", "visually-hidden", "Compare"), div("row picks", pickers[0], button("⇄", swap, { title: "Swap the sides (s)", "aria-label": "Swap the sides" }), pickers[1]));
  if (!sides.every((side) => side.versions.length)) return void main.append(h("p", "notice", "There are no held-out conversations to compare here: training plays them when it evaluates."));
  const part = params.get("part") ?? "";
  const found = await get(`/api/compare?${new URLSearchParams({ a, b, part })}`);
  if (!page.isHere()) return;
  const extent = Math.max(...found.scenarios.map((one) => Math.abs(one.difference)));
  const items = new Map(found.scenarios.map((one) => [one, listItem(one, extent, () => choose(one))]));
  const list = h("ol", { class: "scenarios", "aria-label": "Scenarios, biggest loss first" }, ...items.values());
  const only = button("Only regressions", toggle, { title: "Only what fell (r)" });
  const [none, reading] = [h("p", "dim", "No scenario fell."), div("reading")];
  let [visible, current] = [[], found.scenarios.find((one) => one.scenario === params.get("scenario"))];
  main.append(summary(found, part, (name) => url({ part: name })), div("pairs", h("div", {}, div("row", only, button("Random pair", anyPair, { title: "Any of them (x)" })), list, none), reading));
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
    read(one).catch((error) => reading.append(h("p", "notice bad", error.message)));
  }

  // Of several conversations of a side the first is shown, and the others are links.
  async function read(one) {
    const answers = await Promise.all(SIDES.map((name) => get(`/api${conversationPath(found[name].run, one[name][0])}`)));
    if (!page.isHere() || one !== current) return;
    const records = answers.map((answer) => answer.record);
    const head = (name) => div(`cell head row ${name}`, badge(name), versionWords(found[name].version), h("b", { class: "n", title: "mean of its conversations on this scenario", text: number(one[`reward_${name}`]) }), one[name].map((id) => conversationLink(found[name].run, id)));
    const cell = (record, at, turn) => {
      const spoken = record.turns[turn];
      const isSame = at && records[0].turns[turn]?.text === spoken?.text;
      return div(`cell ${SIDES[at]}`, spoken && turnBox(record, spoken, [isSame && "the same words", spoken.finish === "length" && "cut"], record.rewards?.per_turn?.[turn]));
    };
    const rows = Array.from({ length: Math.max(...records.map((record) => record.turns.length)) }, (_, turn) => records.map((record, at) => cell(record, at, turn)));
    const ends = records.map((record) => div("cell end dim", ending(record)));
    clear(reading).append(said(one.about || one.scenario, "h2"), div("pair", SIDES.map(head), rows, ends));
  }
}

function versionWords(version) {
  return version ? `version ${version}` : "version 0, the base";
}

function picker({ name, run, version, versions }, runs, choose) {
  const own = versions.map((one) => h("option", { value: `${run}@${one.version}`, selected: String(one.version) === String(version), text: `${run}, ${versionWords(one.version)}` }));
  const others = runs.filter((one) => one.run !== run).map((one) => h("option", { value: `${one.run}@`, text: one.run }));
  const select = h("select", { "aria-label": `Run and version of ${name.toUpperCase()}`, onchange: () => choose(select.value) }, own.length ? own : h("option", {}, run), others);
  return span("pick", badge(name), select);
}

export function badge(name) {
  return h("b", `badge ${name}`, name.toUpperCase());
}

export function conversationLink(run, id) {
  return anchor(conversationPath(run, id), id, { class: "mono" });
}

// One turn: who, what, and if it is known what it was worth.
export function turnBox(record, turn, notes = [], reward = null, name = "") {
  const worth = reward !== null && h("span", { class: `n ${toneOf(reward)}`, title: "reward of this turn", text: signed(reward) });
  const head = div("row", span("role-name grow", turn.role), dim(notes.filter(Boolean).join(", ")), worth);
  return h("article", `spoken ${roleClass(record.scenario.roles.indexOf(turn.role))} ${name}`, head, said(turn.text, "p"));
}

function ending({ outcome, rewards }) {
  const how = `ended: ${outcome?.reason.replaceAll("_", " ") ?? "unknown"}${outcome?.by ? `, by ${outcome.by}` : ""}`;
  return [how, ...Object.entries(rewards?.per_role ?? {}).map(([role, total]) => `${role} ${number(total)}`)].join(" · ");
}

function listItem(one, extent, choose) {
  const tone = toneOf(one.difference);
  const bar = intervalBar({ difference: one.difference, low: Math.min(0, one.difference), high: Math.max(0, one.difference) }, tone, extent);
  return h("li", {}, button([said(one.about || one.scenario), span(`n ${tone}`, signed(one.difference)), bar], choose));
}

function summary({ difference, parts, num_scenarios: num, num_failed: numFailed, wins, ties, losses }, part, urlOf) {
  // What is only measured may be lost, and is not gained.
  const toneOfPart = (one) => (isClear(one) ? toneOf(one.value || Math.min(one.difference, 0)) : "");
  const row = (one) => [anchor(urlOf(one.name === part ? "" : one.name), one.name), ...differenceCells(one.a, one.b, one, toneOfPart(one))];
  const interval = difference.low === null ? "" : `95% interval ${signed(difference.low)} to ${signed(difference.high)}, `;
  const leftOut = numFailed ? `; ${numFailed} left out, where a conversation failed` : "";
  const shares = [["good", wins, "better"], ["", ties, "equal"], ["bad", losses, "worse"]].filter(([, size]) => size);
  return div("summary",
    panel(`${part || "Reward of a conversation"}, B against A`,
      h("p", "row", h("b", `big ${isClear(difference) ? toneOf(difference.value) : ""}`, signed(difference.value)), dim(`${interval}${plural(num, "scenario")}${leftOut}`)),
      h("p", "row", shares.map(([tone, size, words]) => span(`chip ${tone}`, `${size} ${words}`)))),
    parts.length > 0 && panel("Parts that moved the reward most", table(["part, as measured", "", "#A", "#B", "#difference", "#95% interval", ""], parts.map(row))));
}
