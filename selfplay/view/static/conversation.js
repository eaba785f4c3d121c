// One conversation: who was told what, what was said, what it earned, how sure each token was.
import { brief, dim, sparkline, table } from "./chart.js";
import { anchor, button, clear, copyable, count, div, h, kept, number, panel, plural, roleClass, said, signed, span } from "./dom.js";
import { conversationPath, get, isOffline, link, post, runPath } from "./api.js";
import { ADVANTAGE, colouredTokens, exactTokens, heatLegend, isKnown, meanOf, numbersTable, offeredQuantities, readoutOf, scaleOf } from "./tokens.js";

const LONG = 3000; // characters of a message before it is folded
const PLACE = "selfplay.list"; // what the list page left
const CUT = ["length", "context_full", "token_limit"];
const VIEWS = { all: "everything", exact: "exact tokens" };
const MARKS = { heard: "heard", learned: "said, learned from", sampled: "said, not learned from", special: "<special>" };

const chip = (kind, ...children) => span(`chip ${kind}`, ...children);
const words = (text) => text.replaceAll("_", " ");
const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));

export async function show(main, route, page) {
  const { run, id, params, hash } = route;
  const path = `/api${conversationPath(run, id)}`;
  const data = await get(path);
  if (!page.isHere()) return;
  const { record } = data;
  const at = {
    data, page, record, run, api: `/api${runPath(run)}`, tokens: null, chosen: 0, view: params.get("view") ?? "all", colour: params.get("colour") ?? "",
    scenario: record.scenario ?? {}, roles: record.scenario?.roles ?? [], players: record.players ?? {}, parts: page.run.info?.parts ?? [], earned: record.rewards?.parts ?? [],
    links: span("row neighbours"), controls: div("row controls"), key: div("keys-of-colour"), body: div("turns"), replay: div(""),
    side: h("aside", { class: "about-it", "aria-label": "Outcome and rewards" }), readout: h("div", { class: "readout", role: "status", hidden: true }),
  };
  main.append(headerOf(at), div("held", at.controls, at.key), div("conversation", at.body, at.side), at.readout);
  listenTo(at);
  showNeighbours(at);
  const [, turn, k] = (/^t(\d+)(?:\.k(\d+))?$/.exec(hash) ?? []).map(Number);
  const showThere = () => (showAll(at), isKnown(turn) && choose(at, turn, true));
  showThere();
  if (!data.has_tokens) return;
  try {
    at.tokens = await get(`${path}/tokens`);
  } catch (error) {
    return void at.controls.append(dim(`tokens: ${error.message}`));
  }
  if (!page.isHere()) return;
  if (isKnown(k) && at.view !== "exact") at.colour ||= offeredQuantities(at.tokens)[0]?.name ?? "";
  showThere();
  if (isKnown(k)) chooseToken(at, turn, k);
}

function showAll(at) {
  const quantities = offeredQuantities(at.tokens);
  const views = at.data.has_tokens ? ["all", ...at.roles, "exact"] : ["all", ...at.roles];
  if (!views.includes(at.view)) at.view = "all";
  at.asRole = at.view in VIEWS ? null : at.view;
  at.quantity = (!at.asRole && quantities.find(({ name }) => name === at.colour)) || null;
  at.scale = at.quantity && scaleOf(at.quantity, at.page.run.heat, at.tokens);
  showControls(at, views, quantities);
  clear(at.body).append(briefsOf(at), ...turnsOf(at, (turn, k) => turnOf(at, turn, k)));
  clear(at.side).append(...(at.asRole ? [] : panelsOf(at).filter(Boolean)));
  at.readout.hidden = true;
  choose(at, at.chosen);
}

const isBreach = ({ reason }) => reason === "rule_violation";
const turnTokens = (at, k) => at.tokens?.turns.find((one) => one.turn === k && one.said.length);

function headerOf({ scenario, data: { row }, record: { outcome, error, id, step }, page, api, run, links }) {
  const facts = Object.entries(scenario.public ?? {});
  const about = row?.about || plain(facts[0]?.[1] ?? scenario.env ?? "");
  page.setTitle(`${id} · ${about}`);
  const success = outcome?.facts?.success;
  const chips = [scenario.env, words(scenario.split ?? ""), `step ${row?.step ?? step}`, isKnown(row?.version) && `version ${row.version}`].filter(Boolean);
  const ended = outcome ? chip(isBreach(outcome) ? "bad" : { truncated: "warn", failed: "bad" }[outcome.status] ?? "", `${outcome.status}: ${words(outcome.reason)}`, outcome.by && ` by ${outcome.by}`) : chip("warn", error ? "failed" : "not ended");
  return h("header", "conversation-head",
    div("row", anchor(listPath(run), "‹ list", { class: "dim" }), h("code", "dim", id), span("grow"), links, !isOffline && h("a", { class: "button", href: `${api}/export?to=json&q=${encodeURIComponent(`id=${id}`)}`, download: "" }, "JSON")),
    h("h1", {}, h("bdi", {}, about)),
    div("row", ended, chips.map((text) => chip("", text)), facts.length > 1 && facts.map(([name, value]) => chip("", dim(name), h("bdi", {}, plain(value).slice(0, 80)))), typeof success === "boolean" && chip(success ? "good" : "", success ? "✓ success" : "no success"), outcome?.protocol_ok === false && chip("warn", "form not kept")),
    error && h("p", "notice bad", h("bdi", {}, error)));
}

function showControls(at, views, quantities) {
  const { controls, key, view, quantity } = at;
  const colour = h("select", { onchange: () => change(at, { colour: colour.value }) }, h("option", { value: "" }, "nothing"), quantities.map(({ name, label }) => h("option", { value: name, selected: name === quantity?.name, text: label })));
  const viewButton = (name) => button(VIEWS[name] ?? name, () => change(at, { view: name }), { "aria-pressed": String(view === name), class: name in VIEWS ? null : `as-role ${classOf(at, name)}` });
  clear(controls).append(h("span", { class: "row segments", role: "group", "aria-label": "View as" }, dim("view as"), views.map(viewButton)), quantities.length && !at.asRole ? h("label", "row", dim("colour tokens by"), colour) : "", dim(missingOf(at, quantities)));
  clear(key).append(view === "exact" ? div("heat-legend", Object.entries(MARKS).map(([kind, text]) => span(`tok ${kind}`, text))) : "", quantity ? heatLegend(quantity, at.scale) : "");
}

function missingOf({ tokens, data }, quantities) {
  if (tokens) return quantities.some(({ name }) => name === "advantage") ? "" : "entropy and advantage exist for conversations that were learned from";
  return data.has_tokens ? "" : `this ${isOffline ? "file holds" : "run stores"} no tokens ${isOffline ? "of it" : "(transcripts.tokens=none)"}`;
}

function change(at, changes) {
  const focused = document.activeElement?.tagName;
  Object.assign(at, changes);
  showAll(at);
  keepAddress(at);
  at.controls.querySelector(focused === "SELECT" ? "select" : '[aria-pressed="true"]').focus();
}

const keepAddress = (at, hash = "") => history.replaceState({}, "", link(conversationPath(at.run, at.record.id, viewQuery(at) + hash)));

function viewQuery({ view, colour }) {
  const chosen = Object.entries({ view: view === "all" ? "" : view, colour }).filter(([, value]) => value);
  return chosen.length ? `?${new URLSearchParams(chosen)}` : "";
}

const classOf = (at, role) => roleClass(at.roles.indexOf(role));
const nameOf = (at, role) => span(`role-name ${classOf(at, role)}`, role);

function briefsOf(at) {
  const briefs = (at.asRole ? [at.asRole] : at.roles).map((role) => {
    const told = [at.players[role]?.brief, factList(at.scenario.private?.[role])];
    return told.some(Boolean) && h("section", `brief ${classOf(at, role)}`, div("brief-name", nameOf(at, role), dim("only")), div("grow", told[0] && messageText(told[0]), told[1]));
  });
  return h("section", { class: "told", "aria-label": "What each role alone was told" }, briefs);
}

// Folded where long; a cut between two halves of a character would show a wrong one.
function messageText(text) {
  const place = said(text, "div");
  if (text.length <= LONG) return place;
  place.textContent = text.slice(0, LONG).replace(/[\uD800-\uDBFF]$/, "");
  const more = button(`show all ${count(text.length)} characters`, () => ((place.textContent = text), more.remove()), { class: "more" });
  return div("", place, more);
}

function turnsOf({ asRole, record: { turns } }, draw) {
  return turns.length ? turns.map((turn, k) => (asRole && turn.role !== asRole ? "" : draw(turn, k))) : [h("p", "dim", "Nobody spoke.")];
}

function turnOf(at, turn, k) {
  const { asRole } = at;
  const { role, finish, player, num_tokens: tokens, seconds } = turn;
  const heard = asRole ? turn.heard_text : addedByEnv(at, turn, k);
  const facts = div("turn-facts dim", CUT.includes(finish) && chip("warn", `cut: ${words(finish)}`), player, tokens > 0 && span("", plural(tokens, "token")), seconds > 0 && span("", `${number(seconds)} s`));
  const side = asRole || at.roles.indexOf(role) % 2 ? "right" : "";
  return h("article", { id: `t${k}`, class: `turn ${classOf(at, role)} ${side}`, "aria-label": `turn ${k}, ${role}`, onclick: () => (choose(at, k), keepAddress(at, `#t${k}`)) },
    heard && div(`heard-too${asRole ? " whole" : ""}`, dim(`${role} heard`), messageText(heard)),
    div("bubble", div("turn-head", nameOf(at, role), dim(`turn ${k}`), !asRole && facts), asRole ? saidText(turn) : earnedText(at, turn, k)));
}

const saidText = ({ text }) => (text ? messageText(text) : h("p", "dim", "(said nothing)"));

function earnedText(at, turn, k) {
  const isExact = at.view === "exact";
  const tokens = at.quantity || isExact ? turnTokens(at, k) : null;
  const details = h("div", { class: "part-panel", hidden: true });
  const parts = at.earned.filter((part) => part.turn === k).sort((a, b) => isMeasured(a) - isMeasured(b));
  return [
    tokens ? (isExact ? exactTokens : colouredTokens)(tokens, at, at.players[turn.role]?.trained) : saidText(turn),
    div("row earned", turn.action ? actionChip(turn.action) : at.record.turns.some((one) => one.action) && chip("dim", "no move"), parts.map((part) => partChip(at, part, details)), h("b", "n turn-total", signed(countedRewards(at)[k]))), details, tokens && numbersTable(tokens)];
}

// The environment spoke, or changed the words of the turn before.
function addedByEnv(at, turn, k) {
  const before = (at.record.turns[k - 1]?.text ?? "").trim();
  const heard = (turn.heard_text ?? "").trim();
  return heard === before ? null : before ? heard.replace(before, " … ").trim() : heard;
}

function actionChip({ kind, value, legal }) {
  const text = kind + ((value ?? null) === null ? "" : ` = ${plain(value)}`);
  return chip(legal === false ? "bad" : "good", h("bdi", {}, text.slice(0, 90)), legal === false ? "✗ against the rules" : "✓");
}

const isMeasured = ({ status, gate, weight }) => status === "ok" && !gate && !weight;

const dotOf = (at, name) => span(`dot part${at.parts.indexOf(name) % 8}`);

function partChip(at, part, details) {
  const { name, status, gate, value, raw, why } = part;
  const isUnpaid = status !== "ok" || isMeasured(part);
  const text = status !== "ok" ? status : gate ? `×${number(value)}` : isUnpaid ? number(raw) : value ? signed(value) : "0";
  const kind = status === "failed" || value < 0 ? "bad" : isUnpaid || gate || !value ? "dim" : "good";
  const open = () => {
    details.hidden = own.getAttribute("aria-expanded") === "true";
    for (const other of own.parentNode.querySelectorAll(".part")) other.setAttribute("aria-expanded", String(other === own && !details.hidden));
    clear(details).append(...partDetails(at, part));
  };
  const own = button([!isUnpaid && dotOf(at, name), name, h("b", kind, text)], open, { class: `chip part${isUnpaid ? " unpaid" : ""}`, "aria-expanded": "false", title: why });
  return own;
}

function partDetails(at, { name, status, raw, weight, gate, value, why }) {
  const by = gate ? "a gate: it multiplies a reward above 0" : weight ? `weight ${number(weight, 3)}` : "weight 0: measured, not rewarded";
  const digest = at.data.sources?.[name]?.replace(/^sha256:/, "");
  return [div("", h("b", {}, name), dim(` ${status === "ok" ? "" : `${status} · `}raw ${number(raw, 4)} · ${by} · value ${(gate ? number : signed)(value, 4)}`)), why ? said(why, "div") : dim("no reason given"),
    div("row", anchor(runPath(at.run, `/list?order=asc&sort=${encodeURIComponent(`reward.${name}`)}`), "conversations where it is low"), digest && !isOffline && h("a", { href: `${at.api}/source/${digest}` }, "its source"))];
}

// Of the trained roles; of all, if none is trained.
function countedRewards({ players, record: { turns, rewards } }) {
  const isAnyTrained = Object.values(players).some((player) => player.trained);
  return rewards?.per_turn?.map((value, k) => (isAnyTrained && !players[turns[k].role]?.trained ? null : value)) ?? [];
}

function pairsOf(value, name = "") {
  if (typeof value === "number") return [[name, Number.isInteger(value) ? String(value) : brief(value)]];
  if (!value || typeof value !== "object") return [[name, value]];
  return Object.entries(value).flatMap(([key, one]) => pairsOf(one, `${name} ${key}`));
}

function factList(facts) {
  const known = pairsOf(facts).filter(([, value]) => (value ?? "") !== "");
  return known.length ? h("dl", "fact-list", known.map(([name, value]) => [h("dt", {}, words(name)), h("dd", {}, h("bdi", {}, String(value)))])) : null;
}

function panelsOf(at) {
  const { outcome, rewards, annotations = [], timing, origin, seed, group, view, schema } = at.record;
  const notes = annotations.filter(({ kind }) => kind !== "tag");
  const players = Object.entries(at.players).map(([role, player]) => [role, { ...player, brief: null }]);
  const details = { scenario_seed: at.scenario.seed, conversation_seed: seed, group, view, timing, origin, schema, ...Object.fromEntries(players) };
  return [
    rewards && panel("Reward", rewardTable(at, rewards), groupOf(at)),
    outcome && panel("Outcome", factList({ payoff: outcome.payoff, form_kept: outcome.protocol_ok !== false, fault: isBreach(outcome) ? outcome.by : null, ...outcome.facts })),
    curvesPanel(at), notes.length > 0 && panel("Learnt later", notes.map(noteOf)), (at.tags ??= tagsPanel(at)),
    at.data.replay && panel("Replay", h("p", "dim", "Play on from the chosen turn:"), at.replay),
    h("details", "panel", h("summary", {}, "Seeds, sampling, timing, origin"), factList(details)),
  ];
}

function rewardTable(at, { per_role: totals }) {
  const names = [...new Set(at.earned.map((part) => part.name))].sort((a, b) => at.parts.indexOf(a) - at.parts.indexOf(b));
  const cell = (name) => (role) => {
    const own = at.earned.filter((part) => part.name === name && [role, null].includes(part.role));
    const ok = own.filter((part) => part.status === "ok");
    if (!ok.length || ok[0].gate) return dim(ok[0] ? "gate" : (own[0]?.status ?? "–"));
    if (isMeasured(ok[0])) return dim(`(${number(meanOf(ok.map((part) => part.raw)))})`);
    const value = ok.reduce((sum, part) => sum + part.value, 0);
    return span(value < 0 ? "bad" : "", number(value));
  };
  const heads = at.roles.map((role) => `#${role}${at.players[role]?.trained ? " ●" : ""}`);
  return table(["● trained", ...heads], [...names.map((name) => [[dotOf(at, name), name], ...at.roles.map(cell(name))]), ["total", ...at.roles.map((role) => number(totals?.[role]))]], "reward-table");
}

function groupOf(at) {
  const { siblings = [], row, group_mean: mean } = at.data;
  const sibling = ({ id, reward }) => anchor(conversationPath(at.run, id, viewQuery(at)), `${id.split("-").pop()}: ${number(reward)}`, { "aria-current": id === at.record.id && "true", title: id });
  return siblings.length > 1 && div("siblings",
    div("row", span("", "group mean ", h("b", {}, number(mean))), isKnown(row?.advantage) && h("span", { title: ADVANTAGE }, "advantage ", h("b", {}, signed(row.advantage)))),
    div("row", siblings.map(sibling)));
}

function curvesPanel(at) {
  let soFar = 0;
  const rewards = countedRewards(at).map((value) => (soFar += value ?? 0));
  const kl = offeredQuantities(at.tokens).find(({ name }) => name === "kl");
  const perTurn = at.record.turns.map((_, k) => meanOf(kl?.of(turnTokens(at, k) ?? {})));
  const curves = Object.entries({ "reward so far": rewards, "KL to the reference, nats a token": perTurn }).filter(([, values]) => values.some(isKnown));
  return curves.length > 0 && panel("Turn by turn", curves.map(([title, values]) => [h("h3", {}, title), sparkline([...values.keys()], values, 0, [], `${title}: ${values.map(brief).join(", ")}`)]));
}

const noteOf = ({ kind, by, at: when, turn, data }) => h("div", { class: "noted", title: when }, dim(`${kind} · ${by}${isKnown(turn) ? ` · turn ${turn}` : ""}`), factList(kind === "likelihood" ? perToken(data) : data));

// A likelihood's numbers are sums.
function perToken({ num_tokens: tokens, kl, nll, ...rest }) {
  const mean = (sum) => (isKnown(sum) ? sum / tokens : null);
  return { tokens, "KL, nats a token": mean(kl), "NLL, nats a token": mean(nll), ...rest };
}

// Made once: what is being typed stays when the tokens come.
function tagsPanel(at) {
  const tags = at.data.tags ?? [];
  const canWrite = !isOffline && !at.page.run.readonly;
  if (!tags.length && !canWrite) return null;
  const problem = h("p", { class: "bad", role: "alert" });
  const show = (found) => section.replaceWith((at.tags = tagsPanel(Object.assign(at, { data: { ...at.data, ...found } }))));
  const send = (tag, turn, remove) => post(`${at.api}/tags`, { conversation: at.record.id, turn, tag, remove }).then(show, ({ message }) => (problem.textContent = message));
  const chips = tags.map(({ tag, turn = null }) => chip("", h("bdi", {}, tag), turn !== null && dim(`turn ${turn}`), canWrite && button("×", () => send(tag, turn, true), { class: "quiet", "aria-label": `remove tag ${tag}` })));
  const input = h("input", { "aria-label": "New tag", placeholder: "add a tag", maxlength: 40, size: 14, required: true });
  const add = (event) => (event.preventDefault(), send(input.value.trim(), null, false));
  const section = panel("Tags", div("row", chips), canWrite && h("form", { class: "row", onsubmit: add }, input, h("button", {}, "Add")), problem);
  return section;
}

function choose(at, k, isFar = false) {
  at.chosen = Math.max(0, Math.min(at.record.turns.length - 1, k));
  for (const turn of at.body.querySelectorAll("article")) turn.classList.toggle("chosen", turn.id === `t${at.chosen}`);
  if (at.data.replay) clear(at.replay).append(copyable(at.data.replay.replace("{turn}", at.chosen), "copy the command"));
  if (isFar) at.body.querySelector(`#t${at.chosen}`)?.scrollIntoView({ block: "center" });
}

function chooseToken(at, k, position) {
  const token = at.body.querySelector(`#t${k} .tok[data-k="${position}"]`);
  if (!token) return;
  at.body.querySelector(".tok.on")?.classList.remove("on");
  token.classList.add("on");
  clear(at.readout).append(...readoutOf(turnTokens(at, k), position));
  at.readout.hidden = false;
}

function listenTo(at) {
  const point = ({ target, type }) => {
    const token = target.closest(".tok[data-k]");
    if (!token) return;
    const [k, position] = [Number(token.closest("article").id.slice(1)), Number(token.dataset.k)];
    chooseToken(at, k, position);
    if (type === "click") keepAddress(at, `#t${k}.k${position}`);
  };
  at.body.addEventListener("mouseover", point);
  at.body.addEventListener("click", point);
  const follow = (rel) => () => at.links.querySelector(`[rel=${rel}]`)?.click();
  at.page.onKey({
    j: ["next turn", () => choose(at, at.chosen + 1, true)], k: ["turn before", () => choose(at, at.chosen - 1, true)],
    "]": ["next conversation of the list", follow("next")], "[": ["conversation before", follow("prev")],
  });
}

function listPlace(run) {
  const place = kept(PLACE);
  return place?.run === run ? place : null;
}

const listPath = (run) => runPath(run, `/list?${listPlace(run)?.query ?? ""}`);

async function showNeighbours(at) {
  const place = listPlace(at.run);
  let { previous, next } = at.data;
  let where = "";
  if (place) {
    const first = Math.max(0, place.index - 2);
    const { rows, columns, total } = await get(`${at.api}/conversations?${place.api}&offset=${first}&limit=5`).catch(() => ({ rows: [] }));
    const ids = rows.map((row) => row[columns.indexOf("id")]);
    const here = ids.indexOf(at.record.id);
    if (here >= 0) {
      [previous, next, where] = [ids[here - 1], ids[here + 1], `${count(first + here + 1)} of ${count(total)}`];
      kept(PLACE, { ...place, index: first + here });
    }
  }
  if (!at.page.isHere()) return;
  const to = (id, rel, text) => (id ? anchor(conversationPath(at.run, id, viewQuery(at)), text, { class: "button", rel, title: id }) : button(text, null, { disabled: true }));
  clear(at.links).append(to(previous, "prev", "‹ previous"), dim(where), to(next, "next", "next ›"));
}
