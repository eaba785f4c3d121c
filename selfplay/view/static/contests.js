// What a tournament found and how a league stands.  Only pages of runs that have one load this file and its style sheet.
import { anchor, append, button, clear, count, debounce, div, h, number, panel, plural, signed, span, svg } from "./dom.js";
import { conversationPath, get, isOffline, runPath } from "./api.js";
import { brief, dim, intervalBar, isClear, newest, table } from "./chart.js";

const KINDS = [["mirror", "itself", 0], ["frozen", "before training", 1], ["scripted", "the script", 3], ["past", "its past", 5]];
const MOST_BINS = 40; // points of a curve, and columns of shares
const SPREAD = 2; // standard deviations that a rating is shown with
const STYLE = "/static/contests.css";

// Shows everything in a place, and again whenever the run grows.
export async function show(place, page, curves) {
  await styled();
  const state = { role: "", path: (rest) => runPath(page.run.run, rest), talk: (id) => conversationPath(page.run.run, id), curves };
  let shown = "";
  const read = async () => {
    const answer = await get(`/api${runPath(page.run.run, "/contests")}`);
    if (!page.isHere()) return;
    // What did not change keeps its place, its scrolling and what has the focus.
    const now = JSON.stringify([answer, curves.steps.length]);
    if (now !== shown) append(clear(place), panels(answer, state));
    shown = now;
  };
  await read();
  page.onChange(debounce(async (news) => {
    await curves.more(news).catch(console.warn);
    await read().catch(console.warn);
  }, 600));
}

function styled() {
  if (isOffline || document.querySelector(`link[href="${STYLE}"]`)) return null;
  return new Promise((done) => document.head.append(h("link", { rel: "stylesheet", href: STYLE, onload: done, onerror: done })));
}

function panels({ tournament, elo, league, problems }, state) {
  const notices = problems.map((text) => h("p", "notice", text));
  return [notices, tournament && [standings(tournament, state), matrix(tournament, state)], elo && points(elo, state), league && leaguePanels(league, state)];
}

function listOf(state, filter, words, attributes) {
  return anchor(state.path(`/list?${new URLSearchParams({ q: filter, sort: "oldest" })}`), words, attributes);
}

function percent(confidence) {
  return `${Math.round(100 * confidence)}%`;
}

function interval({ low, high }, words = number) {
  return Number.isFinite(low) && Number.isFinite(high) ? `${words(low)} to ${words(high)}` : "–";
}

function skill({ mu, sigma }) {
  return [number(mu, 1), dim(` ± ${number(SPREAD * sigma, 1)}`)];
}

// Bars on one scale, whose middle is that of all.
function barsOf(rows) {
  const known = rows.filter(({ low, high }) => Number.isFinite(low) && Number.isFinite(high));
  const [low, high] = [Math.min(...known.map((row) => row.low)), Math.max(...known.map((row) => row.high))];
  const middle = (low + high) / 2;
  return (row) => known.includes(row) && intervalBar({ difference: row.value - middle, low: row.low - middle, high: row.high - middle }, "moved", (high - low) / 2);
}

function leftOut(num) {
  return num > 0 && ` ${count(num)} more not shown.`;
}

// ----- a tournament -----

function standings(found, state) {
  const { standings: rows, roles, contest, env, confidence } = found;
  const spreads = rows.map(({ rating: { mu, sigma } }) => ({ value: mu, low: mu - SPREAD * sigma, high: mu + SPREAD * sigma }));
  const barOf = barsOf(spreads);
  const hasSkills = contest !== "none";
  const heads = ["entry", ...(hasSkills ? ["#rating", "", ...roles.map((role) => `#as ${role}`)] : []), "#payoff", `#${percent(confidence)} interval`, ...(hasSkills ? ["#won", "#tied", "#lost"] : [])];
  const row = (one, at) => {
    const skills = [h("b", {}, skill(one.rating)), barOf(spreads[at]), ...roles.map((role) => one.role_ratings[role] && skill(one.role_ratings[role]))];
    const results = [one.wins, one.ties, one.losses].map(count);
    const paid = [signed(one.payoff?.value), dim(interval(one.payoff ?? {}, signed))];
    return [listOf(state, one.filter, one.name), ...(hasSkills ? skills : []), ...paid, ...(hasSkills ? results : [])];
  };
  const told = hasSkills ? `Ratings with ± ${SPREAD} standard deviations: 4.1 more win two games of three; each role has a scale of its own. Payoffs against all others.` : "All roles were always paid the same, so nobody wins and ratings say nothing.";
  return panel(`Ratings at ${env}`, table(heads, rows.map(row), "standings"), h("p", "dim", told, leftOut(found.num_left_out)));
}

function matrix(found, state) {
  const place = div("matrix-place");
  const draw = (role) => {
    state.role = role;
    append(clear(place), [choices(found.roles, role, draw), matrixTable(found, role, state)]);
    place.querySelector("[aria-pressed=true]").focus({ preventScroll: true });
  };
  append(place, [choices(found.roles, state.role, draw), matrixTable(found, state.role, state)]);
  const told = `What a row was paid against a column, and the ${percent(found.confidence)} interval over scenarios; bold: it excludes 0. On the diagonal an entry meets itself. A click shows the conversations.`;
  const key = h("p", { class: "row key" }, span("side gain", "+ more than 0"), span("side loss", "− less than 0"));
  return panel("Payoffs", h("p", "dim", told), place, key);
}

function choices(roles, chosen, draw) {
  const choice = (role) => button(role ? `as ${role}` : "mean of the roles", () => draw(role), { "aria-pressed": String(role === chosen) });
  return div("row choices", ["", ...roles].map(choice));
}

function matrixTable({ standings: rows, matrix: cells }, role, state) {
  const paid = (cell) => cell && (role ? cell.roles[role]?.payoff : cell.payoff);
  const extent = Math.max(1e-9, ...cells.flat().map((cell) => Math.abs(paid(cell)?.value ?? 0)));
  const head = (name, scope) => h("th", { scope, title: name }, h("span", { text: name }));
  const line = (row, at) => h("tr", {}, head(row.name, "row"), rows.map((column, to) => matrixCell(cells[at][to], { row, column, role, paid, extent, state })));
  const corner = h("td", "corner", dim("against →"));
  return h("div", { class: "scroll-x", tabIndex: 0, role: "region", "aria-label": "Payoff matrix" }, h("table", "matrix", h("thead", {}, h("tr", {}, corner, rows.map(({ name }) => head(name, "col")))), h("tbody", {}, rows.map(line))));
}

function matrixCell(cell, { row, column, role, paid, extent, state }) {
  const own = row === column && "own";
  if (!cell) return h("td", { class: own }, dim("–"));
  const [mean, filter] = [paid(cell), role ? cell.roles[role]?.filter : cell.filter];
  const value = mean?.value ?? null;
  const side = value > 0 ? "gain" : value < 0 ? "loss" : "";
  const results = `${cell.wins} won, ${cell.ties} tied, ${cell.losses} lost${role ? " over all roles" : ""}`;
  const missing = [[cell.num_failed, "failed"], [cell.num_unpaid, "without a payoff"]].filter(([num]) => num).map(([num, what]) => `, ${num} ${what}`).join("");
  const title = `${row.name} against ${row === column ? "itself" : column.name}${role && ` as ${role}`}: ${signed(value)}, ${interval(mean ?? {}, signed)}; ${results}; ${plural(cell.num_conversations, "conversation")} on ${plural(cell.num_scenarios, "scenario")}${missing}`;
  const content = [h(mean && isClear(mean) ? "b" : "span", {}, value === 0 ? number(0) : signed(value)), h("small", {}, interval(mean ?? {}))];
  const attributes = { class: `side ${side}`, title, "aria-label": title, vars: { share: Math.min(1, Math.abs(value ?? 0) / extent) } };
  return h("td", { class: own }, filter === undefined ? span("side", content) : listOf(state, filter, content, attributes));
}

// ----- points of preferences -----

function points(found, state) {
  const barOf = barsOf(found.entries.map((one) => Object.assign(one, { value: one.elo })));
  const whole = (value) => signed(value, 0);
  const share = (value) => (value === null ? "–" : `${Math.round(100 * value)}%`);
  const row = (one) => [listOf(state, one.filter, one.name), h("b", {}, number(one.elo, 0)), dim(one.name === found.anchor ? "the anchor" : interval(one, whole)), barOf(one), share(one.win_share), share(one.tie_share), count(one.num)];
  const heads = ["entry", "#Elo", `#${percent(found.confidence)} interval`, "", "#preferred", "#ties", "#comparisons"];
  const place = h("div", { class: "judged", tabIndex: -1 });
  const open = (one) => append(clear(place), judged(one, found, state)).focus();
  const results = (one) => `${brief(one.first_won)} / ${brief(one.tied)} / ${brief(one.second_won)}`;
  const why = (one) => one.num_judged > 0 && button(plural(one.num_judged, "comparison"), () => open(one), { "aria-label": `${plural(one.num_judged, "comparison")} of ${one.first} and ${one.second}` });
  const pair = (one) => [listOf(state, one.filter, `${one.first} – ${one.second}`), whole(one.difference), span(isClear(one) ? "" : "dim", interval(one, whole)), results(one), why(one)];
  const pairs = h("details", {}, h("summary", {}, "Every two compared"), table(["entries", "#difference", "#interval", "#preferred / ties / less", "#one by one"], found.pairs.map(pair)), place);
  const zero = found.anchor ? `${found.anchor} has 0 points` : "the mean of all is 0";
  const told = [`Compared by ${found.by}, ${plural(found.num, "comparison")} on ${plural(found.num_scenarios, "scenario")}${found.num_same ? `, of which ${found.num_same} of equal texts` : ""}; ${zero}. 100 points more are preferred in 64% of what is no tie.`, leftOut(found.num_left_out)];
  return panel("Elo of preferences", table(heads, found.entries.map(row), "standings elo"), h("p", "dim", told), found.pairs.length > 0 && pairs);
}

// What was said of the conversations of two entries, one by one.
function judged({ first, second, judged: shown, num_judged: num }, { by, question }, { talk }) {
  const share = (value) => `${number(100 * value, 1)}%`;
  const row = ({ ids, role, probability, orders, principle, is_same: isSame }) => {
    const lead = Math.abs(probability - 0.5) < 1e-6 ? 0 : probability - 0.5;
    const links = ids.map((id, at) => anchor(talk(id), (at ? -lead : lead) > 0 ? h("b", {}, id) : id, { class: "mono" }));
    const likely = lead ? `${lead > 0 ? first : second}, ${share(0.5 + Math.abs(lead))}` : isSame ? "tie: both read the same" : "tie";
    const asked = orders.every(Number.isFinite) && `: ${share(orders[0])} for the first as (A), ${share(orders[1])} as (B)`;
    return [role, ...links, likely, dim([principle, asked])];
  };
  const told = [`As ${by} said`, question && `, asked “${question}”`, ". Bold: preferred, and how likely.", leftOut(num - shown.length)];
  return [h("h3", {}, `${first} – ${second}`), h("p", "dim", told), table(["role", `#${first}`, `#${second}`, "preferred", "judged by"], shown.map(row))];
}

// ----- a league -----

function leaguePanels(found, state) {
  return [panel("League: ratings and opponents", div("charts", leagueCharts(found, state.curves))), panel("The policy against each opponent", ...pool(found, state))];
}

function leagueCharts({ roles, nobody_wins: nobodyWins }, { steps, series }) {
  const of = (name) => series[`league/${name}`];
  const bins = binsOf(steps.length);
  const places = bins.map((bin) => steps[bin.at(-1)]);
  const means = (values) => bins.map((bin) => meanOf(bin.map((at) => values[at])));
  const ratings = roles.filter((role) => !nobodyWins && of(`rating/${role}`)).map((role, at) => {
    const [mu, sigma] = [of(`rating/${role}`), of(`rating_sigma/${role}`) ?? []];
    const edge = (sign) => mu.map((value, k) => (value === null || !Number.isFinite(sigma[k]) ? null : value + sign * SPREAD * sigma[k]));
    return { label: role, colour: `--role${at % 5}`, isDashed: at % 2 === 1, values: mu, low: edge(-1), high: edge(1), told: newest(mu) !== null && skill({ mu: newest(mu), sigma: newest(sigma) }) };
  });
  const rates = [["win_rate", "all others", 0], ["win_rate/past", "its past", 5]].filter(([name]) => of(name)).map(([name, label, colour], at) => {
    const values = means(of(name));
    return { label, colour: `--part${colour}`, isDashed: at === 1, values, told: `${brief(newest(values))} now` };
  });
  const many = bins[0]?.length > 1 ? `, means over ${bins[0].length} steps` : "";
  return [
    ratings.length > 0 && chart("Rating of the policy in each role", `± ${SPREAD} standard deviations`, steps, ratings),
    rates.length > 0 && chart("Points a game against others", `a tie is a half; dotted line: one half${many}`, places, rates, { low: 0, high: 1, level: 0.5 }),
    shares(places, bins, of, many),
    !steps.length && dim("No step has been made yet."),
  ];
}

function binsOf(num) {
  const size = Math.ceil(num / MOST_BINS);
  return Array.from({ length: num ? Math.ceil(num / size) : 0 }, (_, bin) => Array.from({ length: Math.min(size, num - bin * size) }, (_, at) => bin * size + at));
}

function meanOf(values) {
  const known = values.filter((value) => Number.isFinite(value));
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function legend(lines) {
  return h("p", "legend", lines.map(({ label, colour, isDashed, isBlock, told }) => span("", h("i", { class: isBlock ? "block" : isDashed ? "dashed" : "", vars: { line: `var(${colour})` } }), h("span", { text: label }), " ", told)));
}

function frame(title, what, steps, edges, picture, lines) {
  const ends = steps.length > 1 ? [`step ${steps[0]}`, `step ${steps.at(-1)}`] : [`step ${steps[0] ?? "–"}`];
  return h("figure", {}, h("figcaption", {}, h("b", {}, title)), h("p", "dim what", what), div("frame", div("edges", edges.map((words) => span("", words))), picture), div("ends", ends.map((words) => span("", words))), legend(lines));
}

// Lines over the steps, with what lies around them.
function chart(title, what, steps, lines, { low, high, level } = {}) {
  const all = lines.flatMap((line) => [line.values, line.low ?? [], line.high ?? []].flat()).filter((value) => Number.isFinite(value));
  const [from, to] = [low ?? Math.min(...all), high ?? Math.max(...all)];
  const x = (at) => (100 * (steps[at] - steps[0])) / (steps.at(-1) - steps[0] || 1);
  const y = (value) => 98 - (96 * (value - from)) / (to - from || 1);
  const known = (values) => values.flatMap((value, at) => (Number.isFinite(value) ? [[x(at), y(value)]] : []));
  const drawn = lines.flatMap((line) => {
    const [own, vars] = [known(line.values), { line: `var(${line.colour})` }];
    const around = line.low && [...known(line.high), ...known(line.low).reverse()];
    return [
      around?.length > 2 && svg("path", { class: "band", d: `M${around.map(String).join("L")}Z`, vars }),
      svg("path", { class: line.isDashed ? "line dashed" : "line", d: own.length ? `M${own.map(String).join("L")}` : "", vars }),
      own.length > 0 && svg("path", { class: "end", d: `M${own.at(-1)}h0`, vars }),
    ];
  });
  const middle = level !== undefined && svg("path", { class: "level", d: `M0 ${y(level)}H100` });
  const label = `${title}: ${lines.map((line) => `${line.label} ${brief(line.values.find(Number.isFinite))} at first, ${brief(newest(line.values))} now`).join("; ")}`;
  return frame(title, what, steps, [to, from].map((value) => (Number.isInteger(value) ? String(value) : brief(value))), svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": label }, middle, drawn), lines);
}

function shares(steps, bins, of, many) {
  const found = KINDS.map(([name, label, colour]) => ({ label, colour: `--part${colour}`, isBlock: true, all: of(`${name}_share`) ?? [] })).filter(({ all }) => all.some((value) => value > 0));
  if (!found.length) return null;
  const width = 100 / bins.length;
  const column = (bin, at) => {
    let top = 100;
    return found.map(({ all, colour }) => {
      const height = 100 * (meanOf(bin.map((k) => all[k])) ?? 0);
      top -= height;
      return svg("rect", { x: at * width, y: top, width: width * 0.9, height, vars: { line: `var(${colour})` } });
    });
  };
  const lines = found.map((line) => ({ ...line, told: `${Math.round(100 * meanOf(line.all))}%` }));
  const label = `Whom the policy met: ${lines.map((line) => `${line.label} ${line.told}`).join(", ")}`;
  return frame("Whom the policy met", `shares of the conversations${many}`, steps, ["1", "0"], svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": label }, bins.map(column)), lines);
}

function pool({ players, roles, nobody_wins: nobodyWins, num_snapshots: num, num_left_out: hidden }, state) {
  const inPool = newest(state.curves.series["league/pool"]);
  const told = [plural(num, "snapshot"), inPool !== null && `, of which ${count(inPool)} may be met`, ". Training conversations with payoffs, since the run began.", nobodyWins && " All roles were always paid the same, so nobody wins and there are no ratings.", leftOut(hidden)];
  const cellsOf = ({ results, ratings }, role) => {
    const result = results[role];
    const played = result && result.wins + result.ties + result.losses;
    const games = played > 0 && listOf(state, result.filter, `${result.wins} / ${result.ties} / ${result.losses}`, { title: `${plural(played, "conversation")}: won, tied, lost` });
    return [games || dim("–"), signed(result?.payoff), signed(result?.opponent_payoff), ratings[role] && !nobodyWins ? skill(ratings[role]) : dim("–")];
  };
  const row = (player, role, at) => h("tr", { class: at === 0 && "first" }, at === 0 && h("th", { scope: "row", rowspan: roles.length, text: wordsOf(player.name) }), h("td", {}, role), cellsOf(player, role).map((cell) => h("td", "n", cell)));
  const heads = ["opponent", "role", "#won / tied / lost", "#payoff", "#the opponent's", "#opponent's rating"];
  const head = heads.map((words) => h("th", { scope: "col", class: words.startsWith("#") && "n", text: words.replace("#", "") }));
  const rows = players.flatMap((player) => roles.map((role, at) => row(player, role, at)));
  return [h("p", "dim", told), div("scroll-x pool", h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows)))];
}

function wordsOf(name) {
  return { learner: "itself", frozen: "itself before training", scripted: "the script" }[name] ?? name.replace(/^past:/, "version ");
}
