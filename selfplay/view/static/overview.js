// All runs, and the page of one: what was rewarded, gained and lost, and which conversations show it.
import { ago, anchor, append, clear, copyable, count, debounce, div, h, number, panel, plural, said, signed, span } from "./dom.js";
import { conversationPath, get, isOffline, runPath } from "./api.js";
import { brief, differenceCells, dim, isClear, sparkline, table } from "./chart.js";
import { conversationLink, turnBox } from "./compare.js";
import { Curves, metricOf } from "./metrics.js";

const SMALL = ["reward/per_conversation", "kl/per_token_nats", "play/distinct_2", "play/words_per_turn", "entropy/per_token_nats"];
const ASIDE = { class: "aside" };
const FEW = 3; // steps at either end of a run that nobody has evaluated yet

export async function show(main, route, page) {
  const { run } = page;
  if (!run) return showRuns(main, page);
  page.setTitle(run.run);
  const [curves, small, gained, reading] = [new Curves(run), div("curves"), h("div"), panel("Read these")];
  await curves.more();
  if (!page.isHere()) return;
  const left = div("column", rewarded(run), gained, alarms(run));
  const right = div("column", panel("Curves", anchor(runPath(run.run, "/metrics"), "all metrics", ASIDE), small), facts(run));
  let head = heading(run);
  append(main, [head, run.problems.map((text) => h("p", "notice", text)), run.is_live && liveStrip(page), div("overview", left, right)]);
  const draw = () => {
    const legend = [curves.words, curves.marks.length && "upright: an alarm began", curves.target && "dashed: the target"].filter(Boolean).join("; ");
    append(clear(small), [SMALL.filter((name) => curves.has(name)).map((name) => smallCurve(curves, name)), legend && dim(legend)]);
    append(clear(gained), [changed(run, curves)]);
  };
  draw();
  // Wherever there is more room.
  (run.evaluation ? right : left).append(reading);
  readThese(reading, run).catch((error) => reading.append(dim(error.message)));
  page.onChange(debounce(async (news) => {
    if (!page.isHere()) return;
    if (news.is_live !== run.is_live || news.alarms !== run.alarms.length || (run.indexing && !news.indexing)) return void page.go(runPath(run.run), { replace: true });
    if (news.indexing) head.replaceWith((head = heading({ ...run, ...news, info: news })));
    await curves.more(news).catch(console.warn);
    draw();
  }, 300));
}

// ----- all runs -----

async function showRuns(main, page) {
  page.setTitle("Runs");
  const { runs } = await get("/api/runs");
  const step = (run) => (run.steps ? `${run.step ?? "–"} / ${run.steps}` : run.step ?? "–");
  const row = (run) => [anchor(runPath(run.run), run.run), chipOf(run), run.env ?? "–", run.model ?? "–", count(run.conversations), step(run), ago(run.since)];
  const none = h("p", "notice", "There are no runs here yet: ", h("code", {}, "python run.py train"), " makes one.");
  main.append(h("h1", {}, "Runs"), runs.length ? div("panel", table(["run", "status", "env", "model", "#conversations", "#step", "#last line"], runs.map(row))) : none);
}

function chipOf(run) {
  const tone = run.is_live ? "good" : /fail|kill|interrupt/.test(run.status) ? "warn" : "";
  return span(`chip ${tone}`, run.is_live ? "live" : run.status || "unknown");
}

// ----- what the run was, and what it was rewarded for -----

function heading(run) {
  const words = [`last line ${ago(run.since)}`, run.env, run.model, run.view && `${run.view} view`, run.indexing ? `indexing, ${plural(run.info.conversations, "conversation")} so far` : plural(run.info.conversations, "conversation"), run.steps && plural(run.steps, "step")];
  return div("heading", h("h1", {}, run.run), h("p", "row", chipOf(run), dim(words.filter(Boolean).join(" · "))));
}

function rewarded({ run, kl, rewards, sources }) {
  if (!rewards?.length) return null;
  const row = ({ label, weight, gate, summary, role }) => {
    const digest = Object.entries(sources).find(([name]) => name.replace(/^rewards?[ .]/, "") === label)?.[1];
    const source = digest && !isOffline && h("a", { href: `/api${runPath(run, `/source/${digest.replace("sha256:", "")}`)}`, target: "_blank" }, " source");
    const counts = gate ? "gate" : weight ? signed(weight, Number.isInteger(weight) ? 0 : 2) : "only measured";
    return [label, h("b", {}, counts), [summary, source, role && ` (${role})`]];
  };
  const target = kl?.target ? `, target ${brief(kl.target)} nats a token` : "";
  const pull = kl?.controller === "off" ? "KL from the base is measured, and nothing holds it." : kl?.controller && `KL to the base: ${kl.controller}, coefficient ${brief(kl.coefficient)} at first${target}.`;
  return panel("What was rewarded", table(["reward", "#weight", "what it reads"], rewards.map(row), "rewards-table"), h("p", "dim", pull));
}

// ----- what training changed -----

function changed(run, curves) {
  const { evaluation } = run;
  const [title, base] = ["What was gained, what was lost", encodeURIComponent(run.run)];
  if (evaluation) {
    const checks = evaluation.checks.map(({ is_met: isMet, what }) => h("li", {}, h("b", isMet ? "good" : "bad", isMet ? "✓ " : "✗ "), what));
    const rows = differences(run, evaluation.metrics, `split=held_out & version=${evaluation.version}`);
    return panel(title, anchor(`/cmp?a=${base}@0&b=${base}@${evaluation.version}`, "compare side by side", ASIDE), h("ul", "checks", checks), table(["on held-out scenarios", "", "#base", "#trained", "#difference", "#95% interval", "", ""], rows, "comparison"));
  }
  const { steps } = curves;
  if (steps.length < 2 * FEW) return steps.length > 0 && panel(title, dim(`Too early to tell: there is no evaluation yet, and fewer than ${2 * FEW} steps.`));
  const words = `No evaluation yet: means of the first and of the newest ${FEW} steps; gained or lost where all of these lie beyond all of those.`;
  return panel(title, h("p", "dim", words), table(["", "", "#first", "#newest", "#difference", "#range", "", ""], differences(run, drift(curves), `split=train & step>=${steps.at(-FEW)}`), "comparison"));
}

// Each number before and after, with a tone: good, bad, or none where it is neither or not clear.
function differences(run, measured, where) {
  const weights = Object.fromEntries(run.rewards.map((reward) => [`reward/${reward.label}`, reward.weight]));
  const known = Object.entries(measured).filter(([, row]) => row.difference !== null);
  const rows = known.map(([name, row]) => {
    const isWatched = weights[name] === 0; // what is only measured may be lost, and is not gained
    const { words, way, sort, filter } = metricOf(name);
    const change = isClear(row) ? row.difference * (isWatched ? 1 : weights[name] ?? way) : 0;
    const isOver = name === "kl/per_token_nats" && run.kl?.target && row.trained > run.kl.target;
    const tone = isOver || change < 0 ? "bad" : change > 0 && !isWatched ? "good" : "";
    const showMe = sort && anchor(listUrl(run, [where, filter].filter(Boolean).join(" & "), sort, row.difference < 0 ? "asc" : "desc"), "show me");
    return [words, ...differenceCells(row.base, row.trained, row, tone, isOver ? "over target" : undefined), showMe];
  });
  return ["good", "bad", ""].flatMap((tone) => rows.filter((row) => row[1].className === tone));
}

// The interval holds every difference between one of the newest steps and one of the first.
function drift({ series }) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const names = Object.keys(series).filter((name) => metricOf(name).way || metricOf(name).sort);
  const ends = names.map((name) => [name, series[name].slice(0, FEW), series[name].slice(-FEW)]).filter(([, ...both]) => !both.flat().includes(null));
  return Object.fromEntries(ends.map(([name, first, last]) => {
    const [base, trained] = [mean(first), mean(last)];
    return [name, { base, trained, difference: trained - base, low: Math.min(...last) - Math.max(...first), high: Math.max(...last) - Math.min(...first) }];
  }));
}

function alarms({ run, alarms: all }) {
  const begun = all.filter((alarm) => alarm.state === "began").reverse();
  const card = ({ name, step, text, look_at: ids }) => {
    const end = all.find((other) => other.state === "ended" && other.name === name && other.step > step);
    const links = [(ids ?? []).map((id) => conversationLink(run, id)), anchor(listUrl({ run }, `step=${step} & split=train`, "reward", "desc"), `all of step ${step}`)];
    const told = text.replace(/^alarm \w+: |; see `show [^`]*`$/g, "");
    return h("li", end ? "alarm over" : "alarm", h("strong", {}, name.replaceAll("_", " ")), dim(` step ${step}${end ? `, over at step ${end.step}` : ""}`), h("p", {}, told), div("row", dim("show me"), links));
  };
  return begun.length > 0 && panel(plural(begun.length, "alarm"), h("ul", "alarms", begun.map(card)));
}

// ----- curves, reading, facts -----

function smallCurve(curves, name) {
  const [words, [first, now], target] = [metricOf(name).words, curves.ends(name), name.startsWith("kl/") ? curves.target : null];
  const caption = h("figcaption", {}, span("grow", words), dim(`${first} →`), h("b", {}, now), target !== null && dim(`of ${brief(target)}`));
  return h("figure", {}, caption, sparkline(curves.steps, curves.series[name], target, curves.marks, `${words}: ${first} at first, ${now} now`));
}

function listUrl({ run }, q, sort, order) {
  return runPath(run, `/list?${new URLSearchParams({ q, sort, order })}`);
}

async function readThese(place, run) {
  const heldOut = run.evaluation ? `split=held_out & version=${run.evaluation.version}` : "";
  const groups = [["Best rewarded", heldOut, "reward", "desc"], ["Worst rewarded", heldOut, "reward", "asc"], ["Most surprising in their group", "", "surprise", "desc"]];
  if (heldOut) groups.push(["Before training, best rewarded", "split=held_out & version=0", "reward", "desc"]);
  for (const [title, q, sort, order] of run.info.parts.length ? groups : [["Newest", "", "newest", "desc"]]) {
    const { columns, rows } = await get(`/api${runPath(run.run, "/conversations")}?${new URLSearchParams({ q, sort, order, limit: 3 })}`);
    const [id, reward, words] = ["id", "reward", "first_words"].map((name) => columns.indexOf(name));
    const items = rows.map((row) => h("li", {}, conversationLink(run.run, row[id]), h("b", "n", number(row[reward])), said(row[words])));
    if (rows.length) place.append(h("h3", {}, title, anchor(listUrl(run, q, sort, order), "list")), h("ul", "reading", items));
  }
}

function facts(run) {
  const time = (iso) => iso && `${iso.slice(0, 16).replace("T", " ")} UTC`;
  const all = {
    started: time(run.created_at),
    ended: time(run.ended_at),
    resumed: run.resumed.length && plural(run.resumed.length, "time"),
    seed: run.seed?.toString(),
    package: [run.package, run.git?.slice(0, 10)].filter(Boolean).join(", "),
    roles: run.info.roles.join(", "),
    checkpoints: run.checkpoints.join(", "),
    labels: run.num_preferences && anchor(runPath(run.run, "/label"), plural(run.num_preferences, "preference")),
    command: run.command && copyable(run.command),
  };
  const list = Object.entries(all).filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  return panel("The run", h("dl", {}, list), run.config && h("details", {}, h("summary", {}, "Configuration"), h("pre", {}, run.config)));
}

// ----- live -----

// The newest conversation of a run that is being written, turn by turn; the style sheet shows one after another.
function liveStrip(page) {
  const { run } = page.run;
  const place = div("talk");
  const talk = async ({ newest }) => {
    if (!newest || place.dataset.id === newest || place.getAnimations({ subtree: true }).length) return;
    place.dataset.id = newest;
    const { record } = await get(`/api${conversationPath(run, newest)}`);
    const turns = record.turns.map((turn) => turnBox(record, turn));
    turns.forEach((turn, at) => (turn.style.animationDelay = `${at}s`));
    clear(place).append(conversationLink(run, newest), ...turns);
  };
  const update = (news) => talk(news).catch(console.warn);
  page.onChange(update);
  update(page.run.info);
  return h("section", { class: "panel", "aria-label": "Live" }, h("h2", {}, "Now talking"), place);
}
