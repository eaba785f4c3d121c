// One conversation: who was told what, what was said, what it earned, how sure each token was.
import { sparkline, table } from "./chart.js";
import { anchor, button, clear, copyable, count, div, h, kept, number, panel, plural, roleClass, said, signed, span } from "./dom.js";
import { conversationPath, get, isOffline, link, post, runPath } from "./api.js";
import { colouredTokens, exactTokens, heatLegend, numbersTable, offeredQuantities, readoutOf, scaleOf } from "./tokens.js";

const LONG = 3000; // characters of a message before it is folded
const PLACE = "selfplay.list"; // what the list page left: its query and where in it we are
const CUT = ["length", "context_full", "token_limit"];
const KINDS = { terminated: "good", truncated: "warn", failed: "bad" };
const VIEWS = { all: "everything", exact: "exact tokens" };

const dim = (...children) => span("dim", ...children);
const chip = (kind, ...children) => span(`chip ${kind}`, ...children);
const words = (text) => text.replaceAll("_", " ");
const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const isKnown = (value) => Number.isFinite(value);
const sumOf = (values) => values.reduce((sum, value) => sum + value, 0);

export async function show(main, route, page) {
  const path = `/api${conversationPath(route.run, route.id)}`;
  const data = await get(path);
  if (!page.isHere()) return;
  const { record } = data;
  const at = {
    data, page, record, api: `/api${runPath(route.run)}`, run: route.run, tokens: null, chosen: 0, view: route.params.get("view") ?? "all", colour: route.params.get("colour") ?? "",
    roles: record.scenario?.roles ?? [], players: record.players ?? {}, parts: page.run.info?.parts ?? [], earned: record.rewards?.parts ?? [], notes: record.annotations ?? [],
    links: span("row neighbours"), controls: div("row controls"), key: div("keys-of-colour"), body: div("turns"), replay: div(""),
    side: h("aside", { class: "about-it", "aria-label": "Outcome and rewards" }), readout: h("div", { class: "readout", role: "status", hidden: true }),
  };
  page.setTitle(`${record.id} · ${aboutOf(at)}`);
  main.append(headerOf(at), div("held", at.controls, at.key), div("conversation", at.body, at.side), at.readout);
  listenTo(at);
  showAll(at);
  showNeighbours(at);
  const [, turn, k] = (/^t(\d+)(?:\.k(\d+))?$/.exec(route.hash) ?? []).map(Number);
  const goThere = () => isKnown(turn) && choose(at, turn, true);
  goThere();
  if (!data.has_tokens) return;
  try {
    at.tokens = await get(`${path}/tokens`);
  } catch (error) {
    return void at.controls.append(dim(`tokens: ${error.message}`));
  }
  if (!page.isHere()) return;
  if (isKnown(k) && at.view !== "exact") at.colour ||= offeredQuantities(at.tokens)[0]?.name ?? "";
  showAll(at);
  goThere();
  if (isKnown(k)) chooseToken(at, turn, k);
}

function showAll(at) {
  const quantities = offeredQuantities(at.tokens);
  if (!viewsOf(at).includes(at.view)) at.view = "all";
  at.asRole = at.view in VIEWS ? null : at.view;
  at.quantity = (!at.asRole && quantities.find(({ name }) => name === at.colour)) || null;
  at.scale = at.quantity && scaleOf(at.quantity, at.page.run.heat, at.tokens);
  showControls(at, quantities);
  clear(at.body).append(briefsOf(at), ...turnsOf(at));
  clear(at.side).append(...(at.asRole ? [panel("View", "Only what ", nameOf(at, at.asRole), " could know. A word here that it was never given is a leak.")] : panelsOf(at).filter(Boolean)));
  at.readout.hidden = true;
  choose(at, at.chosen);
}

function viewsOf(at) {
  return ["all", ...at.roles, ...(at.data.has_tokens ? ["exact"] : [])];
}

function turnTokens(at, k) {
  return at.tokens?.turns.find((one) => one.turn === k && one.said.length);
}

// ----- header, controls -----

function aboutOf({ data, record: { scenario = {} } }) {
  return data.row?.about || plain(Object.values(scenario.public ?? {})[0] ?? scenario.env ?? "");
}

function headerOf(at) {
  const { scenario = {}, outcome, error, id, step } = at.record;
  const { row } = at.data;
  const facts = Object.entries(scenario.public ?? {});
  const chips = [scenario.env, words(scenario.split ?? ""), `step ${row?.step ?? step}`, isKnown(row?.version) ? `version ${row.version}` : null];
  return h("header", "conversation-head",
    div("row", anchor(listPath(at), "‹ list", { class: "dim" }), h("code", { class: "dim", text: id }), span("grow"), at.links, isOffline ? null : h("a", { class: "button", href: `${at.api}/export?to=json&q=${encodeURIComponent(`id=${id}`)}`, download: "" }, "JSON")),
    h("h1", {}, h("bdi", {}, aboutOf(at))),
    div("row", statusChip(outcome, error), chips.filter(Boolean).map((text) => chip("", text)), facts.length > 1 ? facts.map(([name, value]) => chip("", dim(name), h("bdi", {}, plain(value).slice(0, 80)))) : null, outcome?.protocol_ok === false ? chip("warn", "form not kept") : null),
    error ? h("p", "notice bad", h("bdi", {}, error)) : null);
}

function statusChip(outcome, error) {
  if (!outcome) return chip("warn", error ? "failed" : "not ended");
  return chip(KINDS[outcome.status], `${outcome.status}: ${words(outcome.reason)}`, outcome.by ? ` by ${outcome.by}` : "");
}

function showControls(at, quantities) {
  const colour = h("select", { onchange: () => change(at, { colour: colour.value }) }, h("option", { value: "" }, "nothing"), quantities.map(({ name, label }) => h("option", { value: name, selected: name === at.quantity?.name, text: label })));
  clear(at.controls).append(
    h("span", { class: "row segments", role: "group", "aria-label": "View as" }, dim("view as"), viewsOf(at).map((view) => button(VIEWS[view] ?? view, () => change(at, { view }), { "aria-pressed": String(at.view === view), class: view in VIEWS ? null : `as-role ${classOf(at, view)}` }))),
    quantities.length && !at.asRole ? h("label", "row", dim("colour tokens by"), colour) : "");
  const marks = [["heard", "heard"], ["learned", "said, learned from"], ["sampled", "said, not learned from"], ["special", "<special>"]];
  clear(at.key).append(at.view === "exact" ? div("heat-legend", marks.map(([kind, text]) => span(`tok ${kind}`, text)), at.tokens && !at.tokens.tokenizer ? dim("no tokenizer at hand: ids") : null) : "", at.quantity ? heatLegend(at.quantity, at.scale) : "");
}

function change(at, changes) {
  const focused = document.activeElement?.tagName;
  Object.assign(at, changes);
  showAll(at);
  keepAddress(at);
  at.controls.querySelector({ BUTTON: '[aria-pressed="true"]', SELECT: "select" }[focused] ?? "none")?.focus();
}

function keepAddress(at, hash = "") {
  history.replaceState({}, "", link(conversationPath(at.run, at.record.id, viewQuery(at) + hash)));
}

function viewQuery({ view, colour }) {
  const params = new URLSearchParams({ ...(view === "all" ? {} : { view }), ...(colour ? { colour } : {}) });
  return params.size ? `?${params}` : "";
}

// ----- what each role was told -----

function classOf(at, role) {
  return roleClass(at.roles.indexOf(role));
}

function nameOf(at, role) {
  return span(`role-name ${classOf(at, role)}`, role);
}

function briefsOf(at) {
  const briefs = (at.asRole ? [at.asRole] : at.roles).map((role) => {
    const text = at.players[role]?.brief;
    const facts = factList(at.record.scenario?.private?.[role]);
    return text || facts ? h("section", { class: `brief ${classOf(at, role)}` }, div("brief-name", nameOf(at, role), dim("only")), div("grow", text ? messageText(text) : null, facts)) : null;
  });
  return h("section", { class: "told", "aria-label": "What each role alone was told" }, briefs);
}

// Long messages are folded; a cut between two halves of a character would show a wrong one.
function messageText(text) {
  const place = said(text, "div");
  if (text.length <= LONG) return place;
  place.textContent = text.slice(0, LONG).replace(/[\uD800-\uDBFF]$/, "");
  const more = button(`show all ${count(text.length)} characters`, () => ((place.textContent = text), more.remove()), { class: "more" });
  return div("", place, more);
}

// ----- turns -----

// One role's view holds what it heard and said, and nothing else.
function turnsOf(at) {
  const { turns } = at.record;
  if (!turns.length) return [h("p", "dim", "Nobody spoke.")];
  return turns.map((turn, k) => (at.asRole && turn.role !== at.asRole ? "" : turnOf(at, turn, k)));
}

function turnOf(at, turn, k) {
  const heard = at.asRole ? turn.heard_text : addedByEnv(at, turn, k);
  const isRight = at.asRole || at.roles.indexOf(turn.role) % 2;
  return h("article", { id: `t${k}`, class: `turn ${classOf(at, turn.role)} ${isRight ? "right" : ""}`, "aria-label": `turn ${k}, ${turn.role}`, onclick: () => (choose(at, k), keepAddress(at, `#t${k}`)) },
    heard ? div(`heard-too${at.asRole ? " whole" : ""}`, dim(`${turn.role} heard`), messageText(heard)) : null,
    div("bubble", div("turn-head", nameOf(at, turn.role), dim(`turn ${k}`), at.asRole ? null : factsOf(turn)), at.asRole ? saidText(turn) : earnedText(at, turn, k)));
}

function factsOf({ finish, player, num_tokens: tokens, seconds }) {
  return div("turn-facts dim", CUT.includes(finish) ? chip("warn", `cut: ${words(finish)}`) : null, player, tokens ? span("", plural(tokens, "token")) : null, seconds ? span("", `${number(seconds)} s`) : null);
}

function saidText(turn) {
  return turn.text ? messageText(turn.text) : h("p", "dim", "(said nothing)");
}

function earnedText(at, turn, k) {
  const tokens = at.quantity || at.view === "exact" ? turnTokens(at, k) : null;
  const draw = at.view === "exact" ? exactTokens : colouredTokens;
  const details = h("div", { class: "part-panel", hidden: true });
  const parts = at.earned.filter((part) => part.turn === k).sort((a, b) => isMeasured(a) - isMeasured(b));
  const later = at.notes.filter((note) => note.kind === "score" && note.turn === k);
  return [
    tokens ? draw(tokens, at, at.players[turn.role]?.trained) : saidText(turn),
    div("row earned", actionChip(turn.action), parts.map((part) => partChip(at, part, details)), later.map(laterChip), h("b", { class: "n turn-total", text: signed(countedRewards(at)[k]) })), details, tokens ? numbersTable(tokens) : null];
}

// What this role heard beyond the turn before: the environment spoke, or changed the words.
function addedByEnv(at, turn, k) {
  const before = (at.record.turns[k - 1]?.text ?? "").trim();
  const heard = (turn.heard_text ?? "").trim();
  if (heard === before) return null;
  return before ? heard.replace(before, " … ").trim() : heard;
}

function actionChip(action) {
  if (!action) return null;
  const value = (action.value ?? null) === null ? "" : ` = ${plain(action.value)}`;
  const isLegal = action.legal !== false;
  return chip(isLegal ? "good" : "bad", h("bdi", {}, (action.kind + value).slice(0, 90)), isLegal ? "✓" : "✗ against the rules");
}

function laterChip({ by, at: when, data }) {
  return h("span", { class: "chip later", title: `scored later, by ${by} at ${when}` }, data.name ?? "score", h("b", {}, (data.status ?? "ok") === "ok" ? number(data.raw) : data.status));
}

function isMeasured(part) {
  return part.status === "ok" && !part.gate && !part.weight;
}

function dotOf(at, name) {
  return span(`dot part${at.parts.indexOf(name) % 8}`);
}

function partChip(at, part, details) {
  const isUnpaid = part.status !== "ok" || isMeasured(part);
  const text = part.status !== "ok" ? part.status : part.gate ? `×${number(part.value)}` : part.weight ? (part.value ? signed(part.value) : "0") : number(part.raw);
  const kind = part.status === "failed" || part.value < 0 ? "bad" : isUnpaid || part.gate || !part.value ? "dim" : "good";
  const open = () => {
    const isOpen = own.getAttribute("aria-expanded") === "true";
    for (const other of own.parentNode.querySelectorAll(".part")) other.setAttribute("aria-expanded", String(other === own && !isOpen));
    details.hidden = isOpen;
    clear(details).append(...partDetails(at, part).filter(Boolean));
  };
  const own = button([isUnpaid ? null : dotOf(at, part.name), part.name, h("b", { class: kind, text })], open, { class: `chip part${isUnpaid ? " unpaid" : ""}`, "aria-expanded": "false", title: part.why || "raw, weight, reason" });
  return own;
}

function partDetails(at, part) {
  const weight = part.gate ? "a gate: it multiplies a reward above 0" : part.weight ? `weight ${number(part.weight, 3)} · adds ${signed(part.value, 4)}` : "weight 0: measured, not rewarded";
  const low = new URLSearchParams({ sort: `reward.${part.name}`, order: "asc" });
  return [div("", h("b", {}, part.name), dim(` raw ${number(part.raw, 4)} · ${weight}`)), part.why ? said(part.why, "div") : null,
    div("row", anchor(runPath(at.run, `/list?${low}`), "conversations where it is low"), sourceLink(at, at.data.sources?.[part.name], "its source"))];
}

function sourceLink(at, digest, text) {
  return digest && !isOffline ? h("a", { href: `${at.api}/source/${digest.replace(/^sha256:/, "")}`, target: "_blank", rel: "noopener" }, text) : null;
}

// What counts is the reward of the trained roles; of all, if none is trained.
function countedRewards({ players, record: { turns, rewards } }) {
  const isAnyTrained = Object.values(players).some((player) => player.trained);
  return rewards?.per_turn?.map((value, k) => (isAnyTrained && !players[turns[k].role]?.trained ? null : value)) ?? [];
}

// ----- side panel -----

// Names and values, however deep they lie.
function pairsOf(value, name = "") {
  if (typeof value === "number") return [[name, Number.isInteger(value) ? String(value) : number(value, 3)]];
  if (!value || typeof value !== "object") return [[name, value]];
  return Object.entries(value).flatMap(([key, one]) => pairsOf(one, `${name} ${key}`));
}

function factList(facts) {
  const known = pairsOf(facts).filter(([, value]) => (value ?? "") !== "");
  return known.length ? h("dl", "fact-list", known.map(([name, value]) => [h("dt", { text: words(name) }), h("dd", {}, h("bdi", {}, String(value)))])) : null;
}

function panelsOf(at) {
  const { outcome, rewards } = at.record;
  return [
    rewards && panel("Reward", rewardTable(at, rewards), groupOf(at)),
    outcome && panel("Outcome", factList({ payoff: outcome.payoff, form_kept: outcome.protocol_ok !== false, ...outcome.facts })),
    curvesPanel(at), laterPanel(at), (at.tags ??= tagsPanel(at)),
    at.data.replay && panel("Replay", h("p", "dim", "Play on from the chosen turn:"), at.replay),
    detailsPanel(at),
  ];
}

function rewardTable(at, rewards) {
  const names = [...new Set(at.earned.map((part) => part.name))].sort((a, b) => at.parts.indexOf(a) - at.parts.indexOf(b));
  const cell = (name) => (role) => {
    const own = at.earned.filter((part) => part.name === name && [role, null].includes(part.role));
    const ok = own.filter((part) => part.status === "ok");
    if (!ok.length || ok[0].gate) return dim(ok.length ? "gate" : (own[0]?.status ?? "–"));
    if (isMeasured(ok[0])) return h("span", { class: "dim", title: "mean; measured, not rewarded" }, `(${number(sumOf(ok.map((part) => part.raw)) / ok.length)})`);
    const value = sumOf(ok.map((part) => part.value));
    return span(value < 0 ? "bad" : "", number(value));
  };
  const heads = at.roles.map((role) => `#${role}${at.players[role]?.trained ? " ●" : ""}`);
  const total = ["total", ...at.roles.map((role) => number(rewards.per_role?.[role]))];
  return table([heads.some((head) => head.endsWith("●")) ? "● trained" : "part", ...heads], [...names.map((name) => [[dotOf(at, name), name], ...at.roles.map(cell(name))]), total], "reward-table");
}

// Where this conversation stands among those of the same scenario: what the advantage is computed from.
function groupOf(at) {
  const { siblings = [], row, group_mean: mean } = at.data;
  if (siblings.length < 2) return null;
  const advantage = row?.advantage;
  return div("siblings",
    div("row", span("", "group mean ", h("b", {}, number(mean))), isKnown(advantage) ? span("", "advantage ", h("b", { class: advantage < 0 ? "bad" : "good", text: signed(advantage) })) : null),
    div("row", siblings.map(({ id, reward }) => anchor(conversationPath(at.run, id, viewQuery(at)), `${id.split("-").pop()}: ${number(reward)}`, { "aria-current": id === at.record.id ? "true" : null, title: id }))));
}

function curvesPanel(at) {
  let soFar = 0;
  const rewards = countedRewards(at).map((value) => (soFar += value ?? 0));
  const kl = offeredQuantities(at.tokens).find(({ name }) => name === "kl");
  const perTurn = at.record.turns.map((_, k) => {
    const known = (kl?.of(turnTokens(at, k) ?? {}) ?? []).filter(isKnown);
    return known.length ? sumOf(known) / known.length : null;
  });
  const curves = [["reward so far", rewards, 2], ["KL to the reference, nats a token", perTurn, 3]].filter(([, values]) => values.some(isKnown));
  const told = (values, digits) => values.map((value, k) => `turn ${k} ${number(value, digits)}`).join(", ");
  return curves.length ? panel("Turn by turn", curves.map(([title, values, digits]) => [h("h3", {}, title), sparkline([...values.keys()], values, 0, [], told(values, digits))])) : null;
}

function laterPanel(at) {
  const notes = at.notes.filter(({ kind, turn }) => kind !== "tag" && (kind !== "score" || !isKnown(turn)));
  return notes.length ? panel("Learnt later", notes.map(({ kind, by, at: when, turn, data }) => h("div", { class: "noted", title: when }, dim(`${kind} · ${by}${isKnown(turn) ? ` · turn ${turn}` : ""}`), factList(data)))) : null;
}

// Made once: what is being typed there stays when the tokens come.
function tagsPanel(at) {
  const tags = at.data.tags ?? [];
  const canWrite = !isOffline && !at.page.run.readonly;
  if (!tags.length && !canWrite) return null;
  const problem = h("p", { class: "bad", role: "alert" });
  const send = async (tag, turn, remove) => {
    try {
      at.data.tags = (await post(`${at.api}/tags`, { conversation: at.record.id, turn, tag, remove })).tags;
      section.replaceWith((at.tags = tagsPanel(at)));
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  const chips = tags.map(({ tag, turn = null }) => chip("", h("bdi", {}, tag), turn === null ? null : dim(`turn ${turn}`), canWrite ? button("×", () => send(tag, turn, true), { class: "quiet", "aria-label": `remove tag ${tag}` }) : null));
  const input = h("input", { "aria-label": "New tag", placeholder: "add a tag", maxlength: 40, size: 14, required: true });
  const onTurn = h("input", { type: "checkbox" });
  const add = (event) => (event.preventDefault(), send(input.value.trim(), onTurn.checked ? at.chosen : null, false));
  const section = panel("Tags", div("row", chips), canWrite ? h("form", { class: "row", onsubmit: add }, input, h("button", {}, "Add"), h("label", "dim", onTurn, " chosen turn only")) : null, problem);
  return section;
}

function detailsPanel(at) {
  const { scenario = {}, timing, origin, seed, group, view, schema } = at.record;
  const players = Object.entries(at.players).map(([role, { brief, ...rest }]) => [role, rest]);
  return h("details", "panel", h("summary", {}, "Seeds, sampling, timing, origin"), factList({ scenario_seed: scenario.seed, conversation_seed: seed, group, view, timing, origin, schema, ...Object.fromEntries(players) }));
}

// ----- choosing turns and tokens -----

function choose(at, k, isFar = false) {
  at.chosen = Math.max(0, Math.min(at.record.turns.length - 1, k));
  for (const turn of at.body.querySelectorAll("article")) turn.classList.toggle("chosen", turn.id === `t${at.chosen}`);
  if (at.data.replay) clear(at.replay).append(copyable(at.data.replay.replace("{turn}", at.chosen), "copy the command"));
  if (isFar) at.body.querySelector(`#t${at.chosen}`)?.scrollIntoView({ block: "center" });
}

function turnOfToken(token) {
  return Number(token.closest("article").id.slice(1));
}

function chooseToken(at, k, position) {
  const token = at.body.querySelector(`#t${k} .tok[data-k="${position}"]`);
  if (!token) return;
  at.body.querySelector(".tok.on")?.classList.remove("on");
  token.classList.add("on");
  clear(at.readout).append(...readoutOf(turnTokens(at, k), position));
  at.readout.hidden = false;
}

function stepToken(at, by) {
  const tokens = [...at.body.querySelectorAll(".tok[data-k]")];
  if (!tokens.length) return;
  const now = tokens.findIndex((token) => token.classList.contains("on"));
  const next = tokens[now < 0 ? tokens.findIndex((token) => turnOfToken(token) >= at.chosen) : now + by];
  if (!next) return;
  choose(at, turnOfToken(next));
  chooseToken(at, at.chosen, Number(next.dataset.k));
  next.scrollIntoView({ block: "nearest" });
  keepAddress(at, `#t${at.chosen}.k${next.dataset.k}`);
}

function listenTo(at) {
  const point = (event) => {
    const token = event.target.closest(".tok[data-k]");
    if (!token) return;
    chooseToken(at, turnOfToken(token), Number(token.dataset.k));
    if (event.type === "click") keepAddress(at, `#t${turnOfToken(token)}.k${token.dataset.k}`);
  };
  at.body.addEventListener("mouseover", point);
  at.body.addEventListener("click", point);
  const follow = (rel) => () => at.links.querySelector(`[rel=${rel}]`)?.click();
  at.page.onKey({
    j: ["next turn", () => choose(at, at.chosen + 1, true)],
    k: ["turn before", () => choose(at, at.chosen - 1, true)],
    "]": ["next conversation of the list", follow("next")],
    "[": ["conversation before", follow("prev")],
    ArrowRight: ["next token, where they are shown", () => stepToken(at, 1)],
    ArrowLeft: ["token before", () => stepToken(at, -1)],
    u: ["up to the list", () => at.page.go(listPath(at))],
  });
}

// ----- neighbours in the list this page was opened from -----

function listPlace(at) {
  const place = kept(PLACE);
  return place?.run === at.run ? place : null;
}

function listPath(at) {
  const query = listPlace(at)?.query;
  return runPath(at.run, `/list${query ? `?${query}` : ""}`);
}

async function showNeighbours(at) {
  const place = listPlace(at);
  let { previous, next } = at.data;
  let where = "";
  if (place) {
    const first = Math.max(0, place.index - 2);
    const found = await get(`${at.api}/conversations?${place.api}&offset=${first}&limit=5`).catch(() => ({ rows: [], columns: [] }));
    const ids = found.rows.map((row) => row[found.columns.indexOf("id")]);
    const here = ids.indexOf(at.record.id);
    if (here >= 0) {
      [previous, next, where] = [ids[here - 1], ids[here + 1], `${count(first + here + 1)} of ${count(found.total)}`];
      kept(PLACE, { ...place, index: first + here });
    }
  }
  if (!at.page.isHere()) return;
  const to = (id, rel, text) => (id ? anchor(conversationPath(at.run, id, viewQuery(at)), text, { class: "button", rel, title: id }) : button(text, null, { disabled: true }));
  clear(at.links).append(to(previous, "prev", "‹ previous"), dim(where), to(next, "next", "next ›"));
}
