// All runs, and the page of one: what was rewarded, gained and lost, and which conversations show it.
import { ago, anchor, append, clear, copyable, count, debounce, div, h, number, panel, plural, said, signed, span } from "./dom.js";
import { get, isOffline, runPath } from "./api.js";
import { brief, comparison, dim, sparkline, table, verdict } from "./chart.js";
import { conversationLink } from "./compare.js";
import { Curves, metricOf } from "./metrics.js";

const SMALL = ["reward/per_conversation", "game/payoff", "game/win", "game/success", "game/protocol_ok", "kl/per_token_nats", "play/distinct_2", "play/words_per_turn", "entropy/per_token_nats"];
const SURPRISE = "surprise: how far a reward lies from the mean of its group, the conversations on the same scenario in one step";
const ASIDE = { class: "aside" };

export async function show(main, route, page) {
  const { run } = page;
  if (!run) return showRuns(main, page);
  page.setTitle(run.run);
  const [curves, small] = [new Curves(run), div("curves")];
  let reading = panel("Read these");
  const [live] = await Promise.all([run.is_live && import("./live.js"), curves.more()]);
  if (!page.isHere()) return;
  const contests = run.has_contests && div("column");
  const left = div("column", rewarded(run), alarms(run), changed(run), contests);
  const right = div("column", panel("Curves", anchor(runPath(run.run, "/metrics"), "all metrics", ASIDE), small), facts(run));
  let head = heading(run);
  append(main, [head, run.problems.map((text) => h("p", "notice", text)), live && live.liveStrip(page), div("overview", left, right)]);
  const draw = () => {
    const legend = [curves.words, curves.alarms.length > 0 && "; orange lines: an alarm began", curves.target && "; dashed: the target"];
    append(clear(small), [SMALL.filter((name) => curves.has(name) && !curves.unfitting.includes(name)).map((name) => smallCurve(curves, name)), curves.words && dim(legend)]);
  };
  draw();
  if (contests) showContests(contests, page, curves).catch(console.warn);
  (run.evaluation ? right : left).append(reading);
  let numRead = 0;
  const read = async (size) => {
    numRead = size;
    const next = panel("Read these");
    await readThese(next, run).catch((error) => next.append(dim(error.message)));
    reading.replaceWith((reading = next));
  };
  read(run.info.conversations);
  page.onChange(debounce(async (news) => {
    if (!page.isHere()) return;
    const isNew = news.is_live !== run.is_live || news.alarms !== run.alarms.length || (run.indexing && !news.indexing) || (!run.info.conversations && news.conversations);
    if (isNew) return void page.go(runPath(run.run), { replace: true });
    head.replaceWith((head = heading({ ...run, ...news, info: news })));
    if (news.conversations > 1.1 * numRead) read(news.conversations);
    await curves.more(news).catch(console.warn);
    draw();
  }, 300));
}

async function showContests(...all) {
  const { show: showThem } = globalThis.selfplayContests ?? (await import("./contests.js"));
  await showThem(...all);
}

async function showRuns(main, page) {
  page.setTitle("Runs");
  const { runs } = await get("/api/runs");
  const step = (run) => [run.step ?? "–", run.steps && ` / ${run.steps}`];
  const reward = (run) => run.reward?.map((value) => number(value)).join(" → ");
  const row = (run) => [anchor(runPath(run.run), run.run), chipOf(run), span(run.alarms > 0 && "warn", run.alarms ?? "not watched"), reward(run), run.env, run.model, count(run.conversations), step(run), ago(run.since)];
  const none = h("p", "notice", "There are no runs here yet: ", h("code", {}, "python run.py train"), " makes one.");
  const heads = ["run", "status", "#alarms", "#reward of a conversation", "env", "model", "#conversations", "#step", "#last line"];
  main.append(h("h1", {}, "Runs"), runs.length ? div("panel", table(heads, runs.map(row))) : none);
}

function chipOf(run) {
  const tone = run.is_live ? "good" : /fail|kill|interrupt/.test(run.status) ? "warn" : "";
  return span(`chip ${tone}`, run.is_live ? "live" : run.status || "unknown");
}

function heading(run) {
  const size = `${run.indexing ? "indexing, " : ""}${plural(run.info.conversations, "conversation")}${run.indexing ? " so far" : ""}`;
  const words = [`last line ${ago(run.since)}`, run.env, run.model, run.view && `${run.view} view`, size, run.steps && plural(run.steps, "step")];
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
  const target = kl?.target && `, target ${brief(kl.target)} nats a token`;
  const pull = kl?.controller === "off" ? "KL from the base is measured, and nothing holds it." : kl?.controller && [`KL to the base: ${kl.controller}, coefficient ${brief(kl.coefficient)} at first`, target, "."];
  return panel("What was rewarded", table(["reward", "#weight", "what it reads"], rewards.map(row), "rewards-table"), h("p", "dim", pull));
}

function changed(run) {
  const { evaluation } = run;
  const title = "What was gained, what was lost";
  if (!evaluation) return run.kind !== "tournament" && panel(title, dim("No evaluation yet; the curves tell what changed so far."));
  const [base, { version, metrics }] = [encodeURIComponent(run.run), evaluation];
  const nll = metrics["reference/nll_per_token_nats"]?.difference;
  const why = nll < 0 ? ": likelier to the base, so more generic or repetitive" : ": less likely to the base, further from its language";
  const checks = evaluation.checks.map(({ is_met: isMet, what }) => h("li", {}, h("b", isMet ? "good" : "bad", isMet ? "✓ " : "✗ "), what, !isMet && what.startsWith("NLL") && why));
  const rows = differences(run, metrics, `split=held_out & version=${version}`);
  return panel(title, anchor(`/cmp?a=${base}@0&b=${base}@${version}`, "compare side by side", ASIDE), h("ul", "checks", checks), comparison(`on ${plural(evaluation.num_scenarios, "held-out scenario")}`, ["base", "trained"], rows));
}

function differences(run, measured, where) {
  const weights = Object.fromEntries(run.rewards.map((reward) => [`reward/${reward.label}`, reward.weight]));
  const known = Object.entries(measured).filter(([, row]) => row.difference !== null);
  const rows = known.map(([name, row]) => {
    const { words, way, sort, filter, title } = metricOf(name);
    const isOver = name === "kl/per_token_nats" && run.kl?.target && row.trained > run.kl.target;
    const tone = isOver ? "bad" : verdict(row, weights[name] === 0 ? null : weights[name] ?? way);
    const showMe = sort && anchor(listUrl(run, [where, filter].filter(Boolean).join(" & "), sort, row.difference < 0 ? "asc" : "desc"), "show me");
    return [h("span", { title }, words), { ...row, a: row.base, b: row.trained }, tone, isOver ? "over target" : undefined, showMe];
  });
  return ["good", "bad", "moved", ""].flatMap((tone) => rows.filter((row) => row[2] === tone));
}

function alarms(run) {
  const begun = run.alarms.filter((alarm) => alarm.state === "began");
  const card = ({ name, step, text, look_at: ids }) => {
    const end = run.alarms.find((other) => other.state === "ended" && other.name === name && other.step > step);
    const links = [(ids ?? []).map((id) => conversationLink(run.run, id)), anchor(listUrl(run, `step=${step} & split=train`, "reward", "desc"), `all of step ${step}`)];
    const told = text.replace(/^alarm \w+: |; see `show [^`]*`$/g, "");
    return h("li", end ? "alarm over" : "alarm", h("strong", {}, name.replaceAll("_", " ")), dim(` step ${step}${end ? `, over at step ${end.step}` : ""}`), h("p", {}, told), div("row", dim("show me"), links));
  };
  if (!begun.length) return run.alarms_window && h("p", "panel dim", "No alarms.");
  const means = `Their numbers are means of the newest ${run.alarms_window ? plural(run.alarms_window, "step") : "steps"}.`;
  return panel(plural(begun.length, "alarm"), h("p", "dim", means), h("ul", "alarms", begun.map(card)));
}

function smallCurve(curves, name) {
  const [{ words, title }, [first, now], target] = [metricOf(name), curves.ends(name), name.startsWith("kl/") ? curves.target : null];
  const caption = h("figcaption", { title }, span("grow", words), dim(`${first} →`), h("b", {}, now), target !== null && dim(`of ${brief(target)}`));
  return h("figure", {}, caption, sparkline(curves.steps, curves.series[name], target, curves.marks, `${words}: ${first} at first, ${now} now`));
}

function listUrl({ run }, q, sort, order) {
  return runPath(run, `/list?${new URLSearchParams({ q, sort, order })}`);
}

async function readThese(place, run) {
  const heldOut = run.evaluation ? `split=held_out & version=${run.evaluation.version}` : "";
  const groups = [["Best rewarded", heldOut, "reward", "desc"], ["Worst rewarded", heldOut, "reward", "asc"], ["Most surprising in their group", "", "surprise", "desc"]];
  if (heldOut) groups.push(["Before training, best rewarded", "split=held_out & version=0", "reward", "desc"]);
  let best = null;
  for (const [title, q, sort, order] of run.info.parts.length ? groups : [["Newest", "", "newest", "desc"]]) {
    const { columns, rows } = await get(`/api${runPath(run.run, "/conversations")}?${new URLSearchParams({ q, sort, order, limit: 3 })}`);
    const [id, reward, words] = ["id", "reward", "first_words"].map((name) => columns.indexOf(name));
    best ??= rows[0]?.[reward];
    const isAlike = order === "asc" && rows.every((row) => row[reward] === best);
    const items = rows.map((row) => h("li", {}, conversationLink(run.run, row[id]), h("b", "n", number(row[reward])), said(row[words])));
    if (rows.length) place.append(h("h3", { title: sort === "surprise" && SURPRISE }, title, anchor(listUrl(run, q, sort, order), "list")), isAlike ? h("p", "dim", "all alike") : h("ul", "reading", items));
  }
}

function facts(run) {
  const all = {
    started: run.created_at && `${run.created_at.slice(0, 16).replace("T", " ")} UTC`,
    checkpoints: run.checkpoints.join(", "),
    command: run.command && copyable(run.command),
  };
  const list = Object.entries(all).filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  return panel("The run", h("dl", {}, list), run.config && h("details", {}, h("summary", {}, "Configuration"), h("pre", {}, run.config)));
}
