// Two versions on the same scenarios: what the second gained and lost, and their conversations side by side.
import { clear, h, number, plural, roleClass, signed } from "./dom.js";
import { conversationPath, get, link, runPath } from "./api.js";
import { brief, dim, intervalBar, isClear, table, toneOf } from "./chart.js";

const LONG = 3000; // characters of a turn that are shown at once
const MOST = 400; // scenarios in the list
const SIDES = ["a", "b"];

export async function show(main, route, page) {
  const { params } = route;
  page.setTitle("Compare");
  const sides = SIDES.map((name) => {
    const [, run, version = ""] = /^(.*?)(?:@(\d*))?$/.exec(params.get(name) ?? "");
    return { run: run || page.run?.run, version };
  });
  const [{ runs }, ...stored] = await Promise.all([get("/api/runs").catch(() => ({ runs: [] })), ...sides.map((side) => get(`/api${runPath(side.run, "/versions")}`))]);
  const versions = stored.map((one) => one.versions);
  sides.forEach((side, at) => {
    if (!versions[at].some((one) => String(one.version) === side.version)) side.version = String(versions[at].at(at ? -1 : 0)?.version ?? "");
  });
  main.append(h("h1", { class: "visually-hidden" }, "Compare"), h("div", { class: "row picks" }, picker(0), h("button", { type: "button", title: "Swap the sides (s)", "aria-label": "Swap the sides", onclick: swap }, "⇄"), picker(1)));
  if (!versions.every((all) => all.length)) return void main.append(h("p", { class: "notice" }, "There are no held-out conversations to compare here: training plays them when it evaluates."));
  const part = params.get("part");
  const found = await get(`/api/compare?${new URLSearchParams({ ...names(sides), ...(part ? { part } : {}) })}`);
  if (!page.isHere()) return;
  const [records, isOnly] = [new Map(), () => params.get("only") === "regressions"];
  const [list, reading] = [h("ol", { class: "scenarios", "aria-label": "Scenarios, biggest loss first" }), h("div", { class: "reading" })];
  const only = h("button", { type: "button", title: "Only what fell (r)", onclick: toggle }, "Only regressions");
  let [current, chosen] = [params.get("scenario"), [0, 0]];
  main.append(summary(found, part, (name) => open(sides, name)), h("div", { class: "pairs" }, h("div", {}, h("div", { class: "row" }, only, h("button", { type: "button", title: "Any of them (x)", onclick: anyPair }, "Random pair")), list), reading));
  drawList();
  choose(visible().find((one) => one.scenario === current) ?? visible()[0]);
  page.onKey({ j: ["next scenario", () => move(1)], k: ["previous scenario", () => move(-1)], r: ["only regressions", toggle], x: ["random pair", anyPair], s: ["swap the sides", swap] });

  function names([a, b]) {
    return { a: a.version ? `${a.run}@${a.version}` : a.run, b: b.version ? `${b.run}@${b.version}` : b.run };
  }

  function open(newSides, newPart = params.get("part")) {
    const words = new URLSearchParams(params);
    for (const [name, value] of Object.entries({ ...names(newSides), part: newPart })) value ? words.set(name, value) : words.delete(name);
    page.go(`/cmp?${words}`);
  }

  function swap() {
    open([...sides].reverse());
  }

  function picker(at) {
    const [side, name] = [sides[at], "AB"[at]];
    const change = (edit) => open(sides.map((one, place) => (place === at ? { ...one, ...edit } : one)));
    const choices = (label, options, edit) => h("select", { "aria-label": `${label} of ${name}`, onchange: (event) => change(edit(event.target.value)) }, options.map(([value, text, selected]) => h("option", { value, text, selected })));
    const all = [...new Set([side.run, ...runs.map((one) => one.run)])].map((run) => [run, run, run === side.run]);
    const played = versions[at].map((one) => [one.version, `${versionWords(one.version)} (${plural(one.scenarios, "scenario")})`, String(one.version) === side.version]);
    return h("span", { class: "pick" }, badge(at), choices("Run", all, (run) => ({ run, version: "" })), choices("Version", played, (version) => ({ version })));
  }

  function visible() {
    return found.scenarios.filter((one) => !isOnly() || one.difference < 0);
  }

  function toggle() {
    if (isOnly()) params.delete("only");
    else params.set("only", "regressions");
    drawList();
    choose(visible().find((one) => one.scenario === current) ?? visible()[0]);
  }

  function anyPair() {
    const all = visible();
    choose(all[Math.floor(Math.random() * all.length)]);
  }

  function move(by) {
    const all = visible();
    choose(all[Math.max(0, Math.min(all.length - 1, all.findIndex((one) => one.scenario === current) + by))]);
  }

  function drawList() {
    const all = visible();
    only.setAttribute("aria-pressed", String(isOnly()));
    const extent = Math.max(...found.scenarios.map((one) => Math.abs(one.difference ?? 0)));
    const item = (one) => h("li", {}, h("button", { type: "button", dataset: { scenario: one.scenario }, onclick: () => choose(one) }, h("span", { class: "said", dir: "auto", text: one.about || one.scenario }), h("span", { class: `n ${toneOf(one.difference)}`, text: signed(one.difference) }), intervalBar({ ...one, low: one.difference === null ? null : 0, high: one.difference }, extent, toneOf(one.difference))));
    clear(list).append(...all.slice(0, MOST).map(item));
    if (all.length > MOST || !all.length) list.append(h("li", { class: "dim" }, all.length ? `and ${all.length - MOST} more` : "No scenario fell."));
  }

  function choose(one) {
    current = one?.scenario ?? null;
    chosen = [0, 0];
    if (current) params.set("scenario", current);
    page.setQuery(params);
    for (const button of list.querySelectorAll("button")) {
      const isCurrent = button.dataset.scenario === current;
      button.setAttribute("aria-current", String(isCurrent));
      if (isCurrent) list.scrollTop = button.offsetTop - list.clientHeight / 2;
    }
    read(one);
  }

  async function read(one) {
    if (!one) return void clear(reading);
    try {
      const both = await Promise.all(SIDES.map((name, at) => recordOf(found[name].run, one[name][chosen[at]])));
      if (page.isHere() && one.scenario === current) drawPair(one, both);
    } catch (error) {
      clear(reading).append(h("p", { class: "notice bad", text: error.message }));
    }
  }

  async function recordOf(run, id) {
    const path = `/api${runPath(run, `/c/${encodeURIComponent(id)}`)}`;
    if (!records.has(path)) records.set(path, await get(path));
    return records.get(path).record;
  }

  function drawPair(one, both) {
    const head = (record, at) => {
      const [side, num] = [found[SIDES[at]], one[SIDES[at]].length];
      const next = num > 1 ? h("button", { type: "button", title: "Another conversation on this scenario", onclick: () => ((chosen[at] = (chosen[at] + 1) % num), read(one)) }, `${chosen[at] + 1} of ${num}`) : null;
      return h("div", { class: `cell head row ${SIDES[at]}` }, badge(at), versionWords(side.version), h("b", { class: "n", title: "mean of its conversations on this scenario", text: number(one[`reward_${SIDES[at]}`]) }), conversationLink(side.run, record.id), next);
    };
    const cell = (record, at, turn) => {
      const said = record.turns[turn];
      if (!said) return h("div", { class: "cell none" });
      return h("div", { class: `cell ${SIDES[at]}` }, turnBox(record, said, { reward: record.rewards?.per_turn?.[turn] ?? null, isSame: at === 1 && both[0].turns[turn]?.text === said.text }));
    };
    const rows = Array.from({ length: Math.max(...both.map((record) => record.turns.length)) }, (_, turn) => both.map((record, at) => cell(record, at, turn)));
    clear(reading).append(h("h2", { class: "said", dir: "auto", text: one.about || one.scenario }), told(both[1]), h("div", { class: "pair" }, both.map(head), rows, both.map((record, at) => h("div", { class: `cell end dim ${SIDES[at]}` }, ending(record)))));
  }
}

function badge(at) {
  return h("b", { class: `badge ${SIDES[at]}`, text: "AB"[at] });
}

function versionWords(version) {
  return version ? `version ${version}` : "version 0, the base";
}

export function conversationLink(run, id) {
  return h("a", { class: "mono", href: link(conversationPath(run, id)), text: id });
}

// One turn: who, what, and if it is known what it was worth.
export function turnBox(record, turn, { reward = null, isSame = false, isAside = false } = {}) {
  const notes = [isSame ? "the same words" : "", turn.finish === "length" ? "cut" : ""].filter(Boolean).join(", ");
  const worth = reward === null ? null : h("span", { class: `n ${toneOf(reward)}`, title: "reward of this turn", text: signed(reward) });
  const words = h("p", { class: turn.text ? "said" : "dim", dir: "auto", text: turn.text.slice(0, LONG) || "(nothing)" });
  const more = turn.text.length > LONG ? h("button", { type: "button", onclick: () => ((words.textContent = turn.text), more.remove()) }, `show all ${turn.text.length} characters`) : null;
  return h("article", { class: `spoken ${roleClass(record.scenario.roles.indexOf(turn.role))}${isAside ? " aside" : ""}` }, h("div", { class: "row" }, h("span", { class: "role-name grow", text: turn.role }), dim(notes), worth), words, more);
}

function ending({ outcome, rewards }) {
  const totals = Object.entries(rewards?.per_role ?? {}).map(([role, total]) => `${role} ${number(total)}`);
  return ["ended: ", outcome ? outcome.reason.replaceAll("_", " ") : "unknown", outcome?.by ? `, by ${outcome.by}` : "", totals.length ? ` · ${totals.join(" · ")}` : ""];
}

function told(record) {
  const briefs = Object.entries(record.players).filter(([, player]) => player.brief);
  const line = ([role, player]) => h("p", { class: roleClass(record.scenario.roles.indexOf(role)) }, h("span", { class: "role-name", text: role }), " ", h("span", { class: "said", dir: "auto", text: player.brief }));
  return briefs.length ? h("details", {}, h("summary", {}, "What each role alone was told"), briefs.map(line)) : "";
}

function summary(found, part, choosePart) {
  const { difference, parts, num_scenarios: num, num_failed: numFailed } = found;
  const share = (words, size, tone) => {
    const piece = h("span", { class: tone, hidden: !size, text: `${size} ${words}` });
    piece.style.flexGrow = size;
    return piece;
  };
  // What is only measured may be lost, and is not gained.
  const toneOfPart = (one) => (isClear(one) ? toneOf(one.value || Math.min(one.difference, 0)) : "");
  const fell = parts.filter((one) => toneOfPart(one) === "bad");
  const extent = Math.max(...parts.flatMap((one) => [one.difference, one.low, one.high].map((value) => Math.abs(value ?? 0))));
  const row = (one) => [h("button", { type: "button", class: "plain", "aria-pressed": String(one.name === part), title: "Win and lose scenarios by this part, or by the reward again", onclick: () => choosePart(one.name === part ? "" : one.name), text: one.name }), brief(one.a), brief(one.b), h("span", { class: toneOfPart(one), text: signed(one.difference) }), intervalBar(one, extent, toneOfPart(one))];
  const interval = difference.low === null ? "" : `95% interval ${signed(difference.low)} to ${signed(difference.high)}, `;
  return h("div", { class: "summary" },
    h("section", { class: "panel" }, h("h2", {}, `${part || "Reward of a conversation"}, B against A`),
      h("p", { class: "big" }, h("b", { class: isClear(difference) ? toneOf(difference.value) : "", text: signed(difference.value) }), h("span", { class: "dim", text: `${interval}${plural(num, "scenario")}${numFailed ? `; ${numFailed} left out, where a conversation failed` : ""}` })),
      h("div", { class: "shares" }, share("better", found.wins, "good"), share("equal", found.ties, ""), share("worse", found.losses, "bad")),
      fell.length ? h("p", { class: "notice" }, `⚠ Worse: ${fell.map((one) => `${one.name} ${signed(one.difference)}`).join(", ")}.`) : null),
    parts.length ? h("section", { class: "panel" }, h("h2", {}, "Parts that moved the reward most"), table(["as measured", "#A", "#B", "#difference", ""], parts.map(row))) : null,
  );
}
