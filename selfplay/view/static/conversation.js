// One conversation: who was told what, what was said, what it earned, how sure each token was.
import { clear, copyable, count, h, number, plural, roleClass, signed, svg } from "./dom.js";
import { conversationPath, get, isOffline, link, post, runPath } from "./api.js";
import { colouredTokens, exactTokens, heatLegend, numbersTable, offeredQuantities, readoutOf, scaleOf } from "./tokens.js";

const LONG = 3000; // characters of a message before it is folded
const LIST = "selfplay.list"; // what the list page left: its query and where in it we are
const CUT = { length: "cut by length", context_full: "cut: context full", token_limit: "cut: token limit" };
const KINDS = { terminated: "good", truncated: "warn", failed: "bad" };

const div = (kind, ...children) => h("div", { class: kind }, children);
const span = (kind, ...children) => h("span", { class: kind }, children);
const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const isKnown = (value) => Number.isFinite(value);
const sumOf = (values) => values.reduce((sum, value) => sum + value, 0);

export async function show(main, route, page) {
  const api = `/api/r/${encodeURIComponent(route.run)}`;
  const data = await get(`${api}/c/${encodeURIComponent(route.id)}`);
  if (!page.isHere()) return;
  const { record } = data;
  const at = {
    api, data, page, record, run: route.run, tokens: null, chosen: 0, view: route.params.get("view") ?? "all", colour: route.params.get("colour") ?? "",
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
  if (turn !== undefined) choose(at, turn, true);
  if (!data.has_tokens) return;
  try {
    at.tokens = await get(`${api}/c/${encodeURIComponent(route.id)}/tokens`);
  } catch (error) {
    at.controls.append(span("dim", `tokens: ${error.message}`));
    return;
  }
  if (!page.isHere()) return;
  if (isKnown(k) && at.view !== "exact") at.colour ||= offeredQuantities(at.tokens)[0]?.name ?? "";
  showAll(at);
  if (turn !== undefined) choose(at, turn, true);
  if (isKnown(k)) chooseToken(at, turn, k, true);
}

function showAll(at) {
  const quantities = offeredQuantities(at.tokens);
  if (!viewsOf(at).includes(at.view)) at.view = "all";
  at.asRole = at.roles.includes(at.view) ? at.view : null;
  at.quantity = (!at.asRole && quantities.find(({ name }) => name === at.colour)) || null;
  at.scale = at.quantity && scaleOf(at.quantity, at.page.run.heat, at.tokens);
  showControls(at, quantities);
  clear(at.body).append(...[briefsOf(at), at.asRole ? heardBy(at, at.asRole) : turnsOf(at)].flat());
  clear(at.side).append(...(at.asRole ? [panel("View", h("p", {}, "Only what ", nameOf(at, at.asRole), " could know: its brief, what it heard, what it said. A word here that it was never given is a leak."))] : panelsOf(at)).filter(Boolean));
  at.readout.hidden = true;
  choose(at, at.chosen);
}

function viewsOf(at) {
  return ["all", ...at.roles, ...(at.data.has_tokens ? ["exact"] : [])];
}

// ----- header, controls -----

function aboutOf({ data, record: { scenario = {} } }) {
  return data.row?.about || plain(Object.values(scenario.public ?? {})[0] ?? scenario.env ?? "");
}

function headerOf(at) {
  const { scenario = {}, outcome, error, id, step } = at.record;
  const version = at.data.row?.version ?? null;
  const facts = Object.entries(scenario.public ?? {});
  const chips = [scenario.env, scenario.split?.replace("_", " "), `step ${at.data.row?.step ?? step}`, version === null ? null : `version ${version}`];
  return h("header", { class: "conversation-head" },
    div("row", h("a", { class: "dim", href: link(listPath(at)), title: "Back to the list (u)" }, "‹ list"), h("code", { class: "dim", text: id }), span("grow"), at.links, isOffline ? null : h("a", { class: "button", href: `${at.api}/export?to=json&q=${encodeURIComponent(`id=${id}`)}`, download: "" }, "JSON")),
    h("h1", {}, h("bdi", { text: aboutOf(at) })),
    div("row", statusChip(outcome, error), chips.filter(Boolean).map((text) => span("chip", text)), facts.length > 1 ? facts.map(([name, value]) => span("chip", span("dim", name), h("bdi", { text: plain(value).slice(0, 80) }))) : null, outcome?.protocol_ok === false ? span("chip warn", "form not kept") : null),
    error ? h("p", { class: "notice bad" }, h("bdi", { text: error })) : null);
}

function statusChip(outcome, error) {
  if (!outcome) return span("chip warn", error ? "failed" : "not ended");
  return span(`chip ${KINDS[outcome.status]}`, `${outcome.status}: ${outcome.reason.replaceAll("_", " ")}`, outcome.by ? ` by ${outcome.by}` : "");
}

function showControls(at, quantities) {
  const names = { all: "everything", exact: "exact tokens" };
  const colour = h("select", { onchange: () => change(at, { colour: colour.value }) }, h("option", { value: "" }, "nothing"), quantities.map(({ name, label }) => h("option", { value: name, selected: name === at.quantity?.name, text: label })));
  clear(at.controls).append(
    h("span", { class: "row segments", role: "group", "aria-label": "View as" }, span("dim", "view as"), viewsOf(at).map((view) => h("button", { type: "button", "aria-pressed": String(at.view === view), class: view in names ? null : `as-role ${classOf(at, view)}`, onclick: () => change(at, { view }) }, names[view] ?? view))),
    quantities.length && !at.asRole ? h("label", { class: "row" }, span("dim", "colour tokens by"), colour) : "");
  const marks = [["heard", "heard"], ["learned", "said, learned from"], ["sampled", "said, not learned from"], ["special", "<special>"]];
  clear(at.key).append(at.view === "exact" ? div("heat-legend", marks.map(([kind, text]) => span(`tok ${kind}`, text)), at.tokens && !at.tokens.tokenizer ? span("dim", "no tokenizer at hand: ids") : null) : "", at.quantity ? heatLegend(at.quantity, at.scale) : "");
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
    const text = at.players[role]?.brief ?? "";
    const facts = factList(Object.entries(at.record.scenario?.private?.[role] ?? {}));
    const lock = svg("svg", { viewBox: "0 0 16 16", width: 12, height: 12, "aria-hidden": "true" }, svg("path", { d: "M4 7V5a4 4 0 0 1 8 0v2h1v8H3V7zm2 0h4V5a2 2 0 0 0-4 0z", fill: "currentColor" }));
    return text || facts ? h("section", { class: `brief ${classOf(at, role)}` }, div("brief-name", lock, nameOf(at, role), span("dim", "only")), div("grow", text ? messageText(text) : null, facts)) : null;
  });
  return h("section", { class: "told", "aria-label": "What each role alone was told" }, briefs);
}

// Long messages are folded; a cut between two halves of a character would show a wrong one.
function messageText(text) {
  const place = h("div", { class: "said", dir: "auto", text });
  if (text.length <= 1.2 * LONG) return place;
  place.textContent = text.slice(0, /[\uD800-\uDBFF]/.test(text[LONG - 1]) ? LONG - 1 : LONG);
  const more = h("button", { type: "button", class: "more", onclick: () => ((place.textContent = text), more.remove()) }, `show all ${count(text.length)} characters`);
  return div("", place, more);
}

// ----- turns -----

function turnsOf(at) {
  let sum = 0;
  // The reward so far is that of the trained roles; of all, if none is trained.
  at.totals = at.record.rewards?.per_turn?.map((value, k) => (sum += isCounted(at, at.record.turns[k].role) ? (value ?? 0) : 0));
  return at.record.turns.length ? at.record.turns.map((turn, k) => turnOf(at, turn, k)) : h("p", { class: "dim" }, "Nobody spoke.");
}

function isCounted({ players }, role) {
  return Boolean(players[role]?.trained) || !Object.values(players).some((player) => player.trained);
}

function turnOf(at, turn, k) {
  const tokens = at.tokens?.turns.find((one) => one.turn === k && one.said.length);
  const isShown = tokens && (at.quantity || at.view === "exact");
  const details = h("div", { class: "part-panel", hidden: true });
  const parts = at.earned.filter((part) => part.turn === k).sort((a, b) => isMeasured(a) - isMeasured(b)).map((part) => partChip(at, part, details));
  const later = at.notes.filter((note) => note.kind === "score" && note.turn === k).map(({ by, at: when, data }) => h("span", { class: "chip later", title: `scored later, by ${by} at ${when}` }, data.name ?? "score", h("b", { text: (data.status ?? "ok") === "ok" ? number(data.raw) : data.status })));
  const text = isShown ? (at.view === "exact" ? exactTokens : colouredTokens)(tokens, { quantity: at.quantity, scale: at.scale, isLearned: at.players[turn.role]?.trained }) : turn.text ? messageText(turn.text) : h("p", { class: "dim" }, "(said nothing)");
  return article(at, turn.role, k, addedByEnv(at, turn, k), [
    div("turn-facts dim", CUT[turn.finish] ? span("chip warn", CUT[turn.finish]) : null, turn.player, turn.num_tokens ? span("", plural(turn.num_tokens, "token")) : null, turn.seconds ? span("", `${number(turn.seconds)} s`) : null),
    text, div("row earned", actionChip(turn.action), parts, later, turnTotal(at, turn, k)), details, isShown ? numbersTable(tokens) : null]);
}

function article(at, role, k, before, [facts, ...content]) {
  const go = (event) => event.ctrlKey || event.metaKey || event.shiftKey || (event.preventDefault(), choose(at, k), keepAddress(at, `#t${k}`));
  const anchor = h("a", { class: "dim", href: link(conversationPath(at.run, at.record.id, `#t${k}`)), title: "Link to this turn", onclick: go }, `turn ${k}`);
  const isRight = at.asRole ? true : at.roles.indexOf(role) % 2;
  return h("article", { id: `t${k}`, class: `turn ${classOf(at, role)} ${isRight ? "right" : ""}`, "aria-label": `turn ${k}, ${role}`, onclick: () => choose(at, k) }, before, div("bubble", div("turn-head", nameOf(at, role), anchor, facts), content));
}

// What this role heard beyond the turn before: the environment spoke, or changed the words.
function addedByEnv(at, turn, k) {
  const before = (at.record.turns[k - 1]?.text ?? "").trim();
  const heard = (turn.heard_text ?? "").trim();
  if (!heard || heard === before) return null;
  return div("heard-too", span("dim", `${turn.role} heard`), messageText(before && heard.includes(before) ? heard.replace(before, () => " … ").trim() : heard));
}

function actionChip(action) {
  if (!action) return null;
  const value = (action.value ?? null) === null ? "" : ` = ${plain(action.value)}`;
  return h("span", { class: `chip ${action.legal === false ? "bad" : "good"}`, title: "what the environment understood" }, h("bdi", { text: (action.kind + value).slice(0, 90) }), action.legal === false ? "✗ against the rules" : "✓");
}

function isMeasured(part) {
  return part.status === "ok" && !part.gate && !part.weight;
}

function partClass(at, name) {
  return `part${Math.max(0, at.parts.indexOf(name)) % 8}`;
}

function partChip(at, part, details) {
  const isPlain = part.status !== "ok" || isMeasured(part);
  const text = part.status !== "ok" ? part.status : part.gate ? `×${number(part.value)}` : part.weight ? (part.value ? signed(part.value) : "0") : number(part.raw);
  const kind = part.status === "failed" || part.value < 0 ? "bad" : isPlain || part.gate || !part.value ? "dim" : "good";
  const chip = h("button", { type: "button", class: `chip part${isPlain ? " unpaid" : ""}`, "aria-expanded": "false", title: part.why || "raw, weight, reason" }, isPlain ? null : span(`dot ${partClass(at, part.name)}`), part.name, h("b", { class: kind, text }));
  chip.addEventListener("click", () => {
    const isOpen = chip.getAttribute("aria-expanded") === "true";
    for (const other of chip.parentNode.querySelectorAll(".part")) other.setAttribute("aria-expanded", String(other === chip && !isOpen));
    details.hidden = isOpen;
    clear(details).append(...partDetails(at, part).filter(Boolean));
  });
  return chip;
}

function partDetails(at, part) {
  const weight = part.gate ? "a gate: it multiplies a reward above 0" : part.weight ? `weight ${number(part.weight, 3)} · adds ${signed(part.value, 4)}` : "weight 0: measured, not rewarded";
  const field = `reward.${/[\s&|()!=<>~,"]/.test(part.name) ? JSON.stringify(part.name) : part.name}`;
  const mean = at.data.row?.raw?.[part.name]; // what filters call reward.NAME
  const low = new URLSearchParams({ ...(isKnown(mean) ? { q: `${field}<=${mean}` } : {}), sort: `reward.${part.name}`, order: "asc" });
  return [h("div", {}, h("b", { text: part.name }), span("dim", ` raw ${number(part.raw, 4)} · ${weight}`)), part.why ? h("div", { class: "said", dir: "auto", text: part.why }) : null,
    div("row", h("a", { href: link(runPath(at.run, `/list?${low}`)) }, "conversations where it is this low"), sourceLink(at, at.data.sources?.[part.name], "its source"))];
}

function sourceLink(at, digest, text) {
  return digest && !isOffline ? h("a", { href: `${at.api}/source/${digest.replace(/^sha256:/, "")}`, target: "_blank", rel: "noopener" }, text) : null;
}

function turnTotal({ totals, record, ...at }, turn, k) {
  if (!totals) return null;
  const [low, high] = [Math.min(0, ...totals), Math.max(0, ...totals)];
  const x = (i) => (64 * i) / Math.max(1, totals.length - 1);
  const y = (value) => 15 - (14 * (value - low)) / (high - low || 1);
  const line = (kind, until) => svg("polyline", { class: kind, points: totals.slice(0, until).map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join(" ") });
  const own = record.rewards.per_turn[k];
  return h("span", { class: "turn-total", title: `this turn ${signed(own)}, so far ${number(totals[k])}` },
    svg("svg", { viewBox: "-3 -2 70 20", width: 70, height: 20, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 64, y1: y(0), y2: y(0), class: "zero" }), line("ahead"), line("so-far", k + 1), svg("circle", { cx: x(k), cy: y(totals[k]), r: 2.5 })),
    h("b", { class: "n", text: isCounted(at, turn.role) ? signed(own) : "–" }));
}

// ----- one role's view: what it heard and said, nothing else -----

function heardBy(at, role) {
  const own = at.record.turns.map((turn, k) => [turn, k]).filter(([turn]) => turn.role === role);
  const unheard = at.record.turns.length - 1 - (own.at(-1)?.[1] ?? -1);
  return [...own.flatMap(([turn, k]) => [turn.heard_text ? div("turn", div("bubble", div("turn-head dim", "heard"), messageText(turn.heard_text))) : "", article(at, role, k, null, [null, messageText(turn.text)])]), unheard ? h("p", { class: "dim" }, `${plural(unheard, "later turn")} never reached ${role}.`) : ""];
}

// ----- side panel -----

function panel(title, ...children) {
  return h("section", { class: "panel" }, h("h2", { text: title }), children);
}

function factList(pairs) {
  const known = pairs.filter(([, value]) => (value ?? "") !== "");
  return known.length ? h("dl", { class: "fact-list" }, known.map(([name, value]) => [h("dt", { text: name.replaceAll("_", " ") }), h("dd", {}, value instanceof Node ? value : h("bdi", { text: plain(value) }))])) : null;
}

function panelsOf(at) {
  const { outcome, rewards } = at.record;
  const payoff = Object.entries(outcome?.payoff ?? {}).map(([role, value]) => [`payoff of ${role}`, number(value)]);
  return [
    rewards && panel("Reward", rewardTable(at, rewards), siblingsOf(at)),
    outcome && panel("Outcome", h("p", {}, statusChip(outcome, at.record.error)), factList([...payoff, ["form kept", outcome.protocol_ok === false ? "no" : "yes"], ...Object.entries(outcome.facts ?? {})])),
    curvesPanel(at), laterPanel(at), tagsPanel(at), labelsPanel(at),
    at.data.replay && panel("Replay", h("p", { class: "dim" }, "Play on from the chosen turn:"), at.replay),
    detailsPanel(at),
  ];
}

function rewardTable(at, rewards) {
  const names = [...new Set(at.earned.map((part) => part.name))].sort((a, b) => at.parts.indexOf(a) - at.parts.indexOf(b));
  const cell = (name, role) => {
    const own = at.earned.filter((part) => part.name === name && [role, null].includes(part.role));
    const ok = own.filter((part) => part.status === "ok");
    if (!ok.length || ok[0].gate) return h("td", { class: "n dim", title: own[0]?.why }, ok.length ? "gate" : (own[0]?.status ?? "–"));
    if (isMeasured(ok[0])) return h("td", { class: "n dim", title: "mean; measured, not rewarded" }, `(${number(sumOf(ok.map((part) => part.raw)) / ok.length)})`);
    const value = sumOf(ok.map((part) => part.value));
    return h("td", { class: `n ${value < 0 ? "bad" : ""}`, text: number(value) });
  };
  const isTrained = (role) => at.players[role]?.trained;
  return h("table", { class: "reward-table" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, at.roles.some(isTrained) ? "● trained" : "part"), at.roles.map((role) => h("th", { scope: "col", class: "n" }, nameOf(at, role), isTrained(role) ? " ●" : "")))),
    h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row" }, span(`dot ${partClass(at, name)}`), ` ${name}`), at.roles.map((role) => cell(name, role))))),
    h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "total"), at.roles.map((role) => h("td", { class: "n" }, h("b", { text: number(rewards.per_role?.[role]) }))))));
}

// Where this conversation stands among those of the same scenario: what the advantage is computed from.
function siblingsOf(at) {
  const { siblings = [], row, group_mean: mean } = at.data;
  const known = siblings.filter((one) => isKnown(one.reward));
  if (known.length < 2) return null;
  const values = known.map((one) => one.reward);
  const low = Math.min(...values);
  const x = (value) => 8 + (284 * (value - low)) / (Math.max(...values) - low || 1);
  const isHere = ({ id }) => id === at.record.id;
  return div("siblings",
    div("row", span("", "group mean ", h("b", { text: number(mean) })), isKnown(row?.advantage) ? span("", "advantage ", h("b", { class: row.advantage < 0 ? "bad" : "good", text: signed(row.advantage) })) : null),
    svg("svg", { viewBox: "0 0 300 24", role: "img", "aria-label": `rewards of the group: ${values.map((value) => number(value)).join(", ")}` }, svg("line", { x1: 8, x2: 292, y1: 12, y2: 12, class: "zero" }), isKnown(mean) ? svg("line", { x1: x(mean), x2: x(mean), y1: 2, y2: 22, class: "mean" }) : null, known.map((one) => svg("circle", { cx: x(one.reward), cy: 12, r: isHere(one) ? 6 : 4, class: isHere(one) ? "own" : "" }))),
    div("row", siblings.map((one) => h("a", { href: link(conversationPath(at.run, one.id, viewQuery(at))), "aria-current": isHere(one) ? "true" : null, title: one.id }, `${one.id.split("-").pop()}: ${number(one.reward)}`))));
}

function curvesPanel(at) {
  const rewards = at.record.rewards?.per_turn ?? [];
  const kl = offeredQuantities(at.tokens).find(({ name }) => name === "kl");
  const perTurn = at.record.turns.map((_, k) => {
    const turn = at.tokens?.turns.find((one) => one.turn === k);
    const known = ((turn && kl?.of(turn)) ?? []).filter(isKnown);
    return known.length ? sumOf(known) / known.length : null;
  });
  const curves = [["reward", rewards, 2], ["KL to the reference, nats a token", perTurn, 3]].filter(([, values]) => values.some(isKnown));
  return curves.length ? panel("Turn by turn", curves.map(([title, values, digits]) => [h("h3", { text: title }), bars(at, values, digits)])) : null;
}

function bars(at, values, digits) {
  const known = values.filter(isKnown);
  const [low, high] = [Math.min(0, ...known), Math.max(0, ...known)];
  const y = (value) => 4 + (56 * (high - value)) / (high - low || 1);
  const wide = 296 / values.length;
  const shapes = values.map((value, k) => isKnown(value) ? svg("rect", { x: 3 + k * wide, width: Math.max(1, wide - 2), y: Math.min(y(0), y(value)), height: Math.max(1, Math.abs(y(value) - y(0))), class: classOf(at, at.record.turns[k].role), "data-turn": k }, svg("title", {}, `turn ${k}: ${number(value, digits)}`)) : null);
  const plot = svg("svg", { viewBox: "0 0 300 64", role: "img", "aria-label": values.map((value, k) => `turn ${k} ${number(value, digits)}`).join(", "), preserveAspectRatio: "none" }, svg("line", { x1: 0, x2: 300, y1: y(0), y2: y(0), class: "zero" }), shapes);
  plot.addEventListener("click", ({ target }) => target.dataset.turn && choose(at, Number(target.dataset.turn), true));
  return div("turn-bars dim", plot, span("", number(high, digits)), span("", number(low, digits)));
}

function laterPanel(at) {
  const notes = at.notes.filter(({ kind, turn }) => kind !== "tag" && (kind !== "score" || (turn ?? null) === null));
  const pairs = ([name, value]) => (typeof value === "number" ? [[name, number(value, Math.abs(value) >= 100 ? 1 : 3)]] : value && typeof value === "object" ? Object.entries(value).flatMap(([key, one]) => pairs([`${name} ${key}`, one])) : [[name, value]]);
  return notes.length ? panel("Learnt later", notes.map(({ kind, by, at: when, turn, data }) => h("div", { class: "noted", title: when }, span("dim", `${kind} · ${by}${(turn ?? null) === null ? "" : ` · turn ${turn}`}`), factList(Object.entries(data ?? {}).flatMap(pairs))))) : null;
}

function tagsPanel(at) {
  const tags = at.data.tags ?? [];
  const canWrite = !isOffline && !at.page.run.readonly;
  if (!tags.length && !canWrite) return null;
  const problem = h("p", { class: "bad", role: "alert" });
  const send = async (tag, turn, remove) => {
    try {
      at.data.tags = (await post(`${at.api}/tags`, { conversation: at.record.id, turn, tag, remove })).tags;
      section.replaceWith(tagsPanel(at));
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  const chips = tags.map((one) => {
    const { tag, turn = null } = typeof one === "string" ? { tag: one } : one;
    return span("chip", h("bdi", { text: tag }), turn === null ? null : span("dim", `turn ${turn}`), canWrite ? h("button", { type: "button", class: "quiet", "aria-label": `remove tag ${tag}`, onclick: () => send(tag, turn, true) }, "×") : null);
  });
  const input = h("input", { "aria-label": "New tag", placeholder: "add a tag", maxlength: 40, size: 14 });
  const onTurn = h("input", { type: "checkbox" });
  const add = (event) => (event.preventDefault(), input.value.trim() && send(input.value.trim(), onTurn.checked ? at.chosen : null, false));
  const section = panel("Tags", div("row", chips), canWrite ? h("form", { class: "row", onsubmit: add }, input, h("button", {}, "Add"), h("label", { class: "dim" }, onTurn, " chosen turn only")) : null, problem);
  return section;
}

function labelsPanel(at) {
  const labels = at.data.labels ?? [];
  return labels.length ? panel("Labels", labels.map(({ left, right, choice, by }) => {
    const isLeft = left === at.record.id;
    const other = isLeft ? right : left;
    const verdict = { tie: "as good as", both_bad: "as bad as", skip: "skipped beside" }[choice] ?? (choice.startsWith("left") === isLeft ? "preferred to" : "less liked than");
    return div("noted", `${verdict} `, h("a", { href: link(conversationPath(at.run, other)) }, other), span("dim", ` by ${by}`));
  })) : null;
}

function detailsPanel(at) {
  const { scenario = {}, timing = {}, origin = {}, seed, group, view, rewards, schema } = at.record;
  const sources = Object.entries(at.data.sources ?? {}).map(([name, digest]) => [name, sourceLink(at, digest, digest.slice(0, 19)) ?? digest]);
  const players = Object.entries(at.players).map(([role, { policy, version, model, trained, sampling }]) => div("noted", nameOf(at, role), factList([["policy", model ? `${policy}@${version}` : policy], ["model", model], ["trained", trained ? "yes" : "no"], ...Object.entries(sampling ?? {})])));
  return h("details", { class: "panel" }, h("summary", {}, "Seeds, sampling, timing, origin"), factList([["scenario seed", scenario.seed], ["conversation seed", seed], ["group", group], ["view", view], ...Object.entries(timing), ...Object.entries(origin), ["reward set", rewards?.set], ["schema", schema], ...sources]), players);
}

// ----- choosing turns and tokens -----

function choose(at, k, isFar = false) {
  at.chosen = Math.max(0, Math.min(at.record.turns.length - 1, k));
  for (const turn of at.body.querySelectorAll("article")) turn.classList.toggle("chosen", turn.id === `t${at.chosen}`);
  for (const bar of at.side.querySelectorAll("rect")) bar.classList.toggle("chosen", Number(bar.dataset.turn) === at.chosen);
  if (at.data.replay) clear(at.replay).append(copyable(at.data.replay.replace("{turn}", at.chosen), "copy the command"));
  if (isFar) at.body.querySelector(`#t${at.chosen}`)?.scrollIntoView({ block: "center" });
}

function turnOfToken(token) {
  return Number(token.closest("article").id.slice(1));
}

function chooseToken(at, k, position, isFar = false) {
  const token = at.body.querySelector(`#t${k} .tok[data-k="${position}"]`);
  if (!token) return;
  at.body.querySelector(".tok.on")?.classList.remove("on");
  token.classList.add("on");
  clear(at.readout).append(...readoutOf(at.tokens.turns.find((one) => one.turn === k), position));
  at.readout.hidden = false;
  if (isFar) token.scrollIntoView({ block: "nearest" });
}

function stepToken(at, by) {
  const tokens = [...at.body.querySelectorAll(".tok[data-k]")];
  if (!tokens.length) return;
  const now = tokens.findIndex((token) => token.classList.contains("on"));
  const next = now < 0 ? tokens.find((token) => turnOfToken(token) >= at.chosen) ?? tokens[0] : tokens[Math.max(0, Math.min(tokens.length - 1, now + by))];
  choose(at, turnOfToken(next));
  chooseToken(at, at.chosen, Number(next.dataset.k), true);
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
  const after = (list, now) => list[(list.indexOf(now) + 1) % list.length];
  const follow = (rel) => () => at.links.querySelector(`[rel=${rel}]`)?.click();
  at.page.onKey({
    j: ["next turn", () => choose(at, at.chosen + 1, true)],
    k: ["turn before", () => choose(at, at.chosen - 1, true)],
    "]": ["next conversation of the list", follow("next")],
    "[": ["conversation before", follow("prev")],
    v: ["view as the next role", () => change(at, { view: after(viewsOf(at), at.view) })],
    h: ["colour tokens by the next quantity", () => change(at, { colour: after(["", ...offeredQuantities(at.tokens).map(({ name }) => name)], at.colour) })],
    ArrowRight: ["next token, where they are shown", () => stepToken(at, 1)],
    ArrowLeft: ["token before", () => stepToken(at, -1)],
    u: ["up to the list", () => at.page.go(listPath(at))],
  });
}

// ----- neighbours in the list this page was opened from -----

function listPlace(run) {
  try {
    const place = JSON.parse(sessionStorage.getItem(LIST));
    return place?.run === run ? place : null;
  } catch {
    return null;
  }
}

function listPath(at) {
  const query = listPlace(at.run)?.query;
  return runPath(at.run, `/list${query ? `?${query}` : ""}`);
}

async function showNeighbours(at) {
  const place = listPlace(at.run);
  let { previous, next } = at.data;
  let where = "";
  if (place) {
    const first = Math.max(0, place.index - 2);
    const found = await get(`${at.api}/conversations?${place.api}${place.api ? "&" : ""}offset=${first}&limit=5`).catch(() => ({ rows: [], columns: [] }));
    const ids = found.rows.map((row) => row[found.columns.indexOf("id")]);
    const here = ids.indexOf(at.record.id);
    if (here >= 0) {
      [previous, next, where] = [ids[here - 1], ids[here + 1], `${count(first + here + 1)} of ${count(found.total)}`];
      sessionStorage.setItem(LIST, JSON.stringify({ ...place, index: first + here }));
    }
  }
  if (!at.page.isHere()) return;
  const to = (id, rel, text) => (id ? h("a", { class: "button", rel, href: link(conversationPath(at.run, id, viewQuery(at))), title: id }, text) : h("button", { type: "button", disabled: true }, text));
  clear(at.links).append(to(previous, "prev", "‹ previous"), span("dim n", where), to(next, "next", "next ›"));
}
