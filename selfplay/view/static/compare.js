// Two versions on the same scenarios: what the second gained and lost, and their conversations side by side.
import { anchor, button, clear, div, h, number, panel, plural, roleClass, said, signed, span } from "./dom.js";
import { conversationPath, get, runPath } from "./api.js";
import { comparison, dim, intervalBar, isClear, toneOf, verdict } from "./chart.js";
import { metricOf } from "./metrics.js";

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
  const [left, right] = sides.map((side) => picker(side, runs, (words) => page.go(url({ [side.name]: words }))));
  main.append(h("h1", "visually-hidden", "Compare"), div("row picks", left, button("⇄", swap, { title: "Swap the sides (s)", "aria-label": "Swap the sides" }), right));
  if (!sides.every((side) => side.versions.length)) return void main.append(h("p", "notice", "There are no held-out conversations to compare here: training plays them when it evaluates."));
  const part = params.get("part") ?? "";
  const found = await get(`/api/compare?${new URLSearchParams({ a, b, part })}`);
  if (!page.isHere()) return;
  const extent = Math.max(...found.scenarios.map((one) => Math.abs(one.difference)));
  const items = new Map(found.scenarios.map((one) => [one, listItem(one, extent, () => choose(one))]));
  const list = h("ol", { class: "scenarios", "aria-label": "Scenarios, biggest loss first" }, ...items.values());
  const only = button("Only regressions", toggle, { title: "r" });
  const worse = worseIn(found);
  const [none, reading] = [h("p", "dim", `No scenario fell in ${part || "reward"}.`, worse && ` ${worse}`), div("reading")];
  let [visible, current] = [[], found.scenarios.find((one) => one.scenario === params.get("scenario"))];
  main.append(summary(found, part, worse, (name) => url({ part: name })), div("pairs", h("div", {}, div("row", only, button("Random pair", () => anyPair(), { title: "x" })), list, none), reading));
  only.hidden = !found.difference;
  const anyPair = () => choose(visible[Math.floor(Math.random() * visible.length)]);
  narrow();
  page.onKey({ j: ["next scenario", () => move(1)], k: ["previous scenario", () => move(-1)], r: ["only regressions", toggle], x: ["random pair", anyPair], s: ["swap the sides", swap] });

  function toggle() {
    if (params.has("only")) params.delete("only");
    else params.set("only", "regressions");
    narrow();
  }

  function narrow() {
    const isOnly = params.has("only") && !only.hidden;
    visible = found.scenarios.filter((one) => !isOnly || one.difference < 0);
    items.forEach((item, one) => (item.hidden = !visible.includes(one)));
    none.hidden = visible.length > 0;
    only.setAttribute("aria-pressed", String(isOnly));
    choose(visible.includes(current) ? current : visible[0]);
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
    const head = (name) => div(`cell head row ${name}`, badge(name), versionWords(found[name].version), h("b", "n", number(one[`reward_${name}`])), one[name].map((id) => conversationLink(found[name].run, id)));
    const cell = (record, at, turn) => {
      const spoken = record.turns[turn];
      return div(`cell ${SIDES[at]}`, spoken && turnBox(record, spoken, spoken.finish === "length" && "cut", record.rewards?.per_turn?.[turn]));
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
  const own = versions.map((one) => h("option", { value: `${run}@${one.version}`, selected: String(one.version) === String(version) }, `${run}, ${versionWords(one.version)}`));
  const others = runs.filter((one) => one.run !== run).map((one) => h("option", { value: `${one.run}@` }, one.run));
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
export function turnBox(record, turn, note = "", reward = null, name = "") {
  const worth = reward !== null && h("span", { class: `n ${toneOf(reward)}`, title: "reward of this turn", text: signed(reward) });
  const head = div("row", span("role-name grow", turn.role), dim(note), worth);
  return h("article", `spoken ${roleClass(record.scenario.roles.indexOf(turn.role))} ${name}`, head, said(turn.text, "p"));
}

function ending({ outcome, rewards }) {
  const how = `ended: ${outcome?.reason.replaceAll("_", " ") ?? "unknown"}${outcome?.by ? `, by ${outcome.by}` : ""}`;
  return [how, ...Object.entries(rewards?.per_role ?? {}).map(([role, total]) => `${role} ${number(total)}`)].join(" · ");
}

function listItem(one, extent, choose) {
  const tone = toneOf(one.difference);
  const { difference } = one;
  const bar = difference !== null && intervalBar({ difference, low: Math.min(0, difference), high: Math.max(0, difference) }, tone, extent);
  return h("li", {}, button([said(one.about || one.scenario), span(`n ${tone}`, signed(one.difference)), bar], choose));
}

// What clearly got worse beside the reward, which may hide it.
function worseIn({ measures = [] }) {
  const names = measures.filter((one) => verdict(one, one.way) === "bad").map((one) => `${one.words} (${signed(one.difference)})`);
  return names.length > 0 && `Clearly worse: ${names.join(", ")}.`;
}

// That of its weight on the sides that reward it; null: none does, 0: they disagree.
function wayOf({ weight }) {
  const ways = [weight?.a, weight?.b].filter(Boolean).map(Math.sign);
  return ways.length ? (ways.every((way) => way === ways[0]) ? ways[0] : 0) : null;
}

function summary(found, part, worse, urlOf) {
  const { difference, num_failed: numFailed, wins, ties, losses } = found;
  const rows = [
    ...found.parts.map((one) => [anchor(urlOf(one.name === part ? "" : one.name), one.name), one, verdict(one, wayOf(one))]),
    ...(found.measures ?? []).map((one) => [h("span", { title: metricOf(one.name).title }, one.words), one, verdict(one, one.way)]),
  ];
  const interval = difference?.low != null && `95% interval ${signed(difference.low)} to ${signed(difference.high)}, `;
  const size = dim([interval, plural(found.num_scenarios, "scenario"), numFailed > 0 && `; ${numFailed} left out, where a conversation failed`]);
  const shares = [["good", wins, "better"], ["", ties, "equal"], ["bad", losses, "worse"]].filter(([, share]) => share);
  const result = difference
    ? [h("p", "row", h("b", `big ${isClear(difference) ? toneOf(difference.value) : ""}`, signed(difference.value)), size), h("p", "row", shares.map(([tone, share, words]) => span(`chip ${tone}`, `${share} ${words}`)))]
    : [h("p", "notice", found.why_not), size];
  return div("summary",
    panel(`${part || "Reward of a conversation"}, B against A`, result, worse && h("p", "bad", worse)),
    rows.length > 0 && panel("Parts of the reward, and how they talk", comparison("as measured", ["A", "B"], rows)));
}
