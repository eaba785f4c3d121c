// All runs, and the page of one: what was rewarded, gained and lost, and which conversations show it.
import { ago, append, clear, copyable, count, debounce, h, number, panel, plural, signed } from "./dom.js";
import { conversationPath, get, isOffline, runPath } from "./api.js";
import { brief, dim, intervalBar, isClear, newest, sparkline, table } from "./chart.js";
import { conversationLink, linkTo, turnBox } from "./compare.js";
import { Curves, metricWords } from "./metrics.js";

const SMALL = ["reward/per_conversation", "kl/per_token_nats", "play/distinct_2", "play/words_per_turn", "entropy/per_token_nats"];
// Which way is good, where it is the same for every run; parts of the reward go by their weights.
const GOOD = { "reward/per_conversation": 1, "reward/total": 1, "play/distinct_1": 1, "play/distinct_2": 1, "play/repeat_rate": -1, "play/only_question_share": -1, "play/cut_share": -1 };
// The sort key and the filter that find conversations which show a number.
const SHOWN_BY = { "play/repeat_rate": ["newest", "flag=repeats"], "play/cut_share": ["newest", "flag=cut"], "kl/per_token_nats": ["kl"], "reference/nll_per_token_nats": ["nll"], "reward/per_conversation": ["reward"] };
const FEW = 3; // steps at either end of a run that nobody has evaluated yet
const TURN_MS = 900;

export async function show(main, route, page) {
  const { run } = page;
  if (!run) return showRuns(main, page);
  page.setTitle(run.run);
  const [curves, small, gained, reading] = [new Curves(run), h("div", { class: "curves" }), h("div"), panel("Read these")];
  await curves.more();
  if (!page.isHere()) return;
  append(main, [
    h("div", { class: "heading" }, h("h1", { text: run.run }), h("p", { class: "row dim" }, chipOf(run), h("span", { title: run.since, text: headline(run) }))),
    run.problems.map((text) => h("p", { class: "notice", text })),
    run.is_live && liveStrip(page),
    h("div", { class: "overview" },
      h("div", { class: "column" }, rewarded(run), gained, alarms(run), comparison(run), !run.evaluation && reading),
      h("div", { class: "column" }, panel("Curves", linkTo(runPath(run.run, "/metrics"), "all metrics", "aside"), small), run.evaluation && reading, facts(run))),
  ]);
  const draw = () => {
    const known = SMALL.filter((name) => curves.has(name)).map((name) => smallCurve(curves, name));
    const legend = [curves.words, curves.marks.length && "dotted: an alarm began", curves.target && "dashed: the target"].filter(Boolean).join("; ");
    append(clear(small), [known, legend && h("p", { class: "dim", text: legend })]);
    append(clear(gained), [changed(run, curves)]);
  };
  draw();
  readThese(reading, run).catch((error) => reading.append(h("p", { class: "dim", text: error.message })));
  page.onChange(debounce(async (news) => {
    if (!page.isHere()) return;
    if (news.is_live !== run.is_live || news.alarms !== run.alarms.length) return void page.go(runPath(run.run), { replace: true });
    await curves.more(news).catch(console.warn);
    draw();
  }, 300));
}

// ----- all runs -----

async function showRuns(main, page) {
  page.setTitle("Runs");
  const { runs } = await get("/api/runs");
  const step = (run) => (run.step === null ? "–" : run.steps ? `${run.step} / ${run.steps}` : run.step);
  const row = (run) => [linkTo(runPath(run.run), run.run), chipOf(run), run.env ?? "–", run.model ?? "–", count(run.conversations), step(run), h("span", { title: run.since }, ago(run.since))];
  const none = h("p", { class: "notice" }, "There are no runs here yet. ", h("code", {}, "python run.py train"), " makes one, ", h("code", {}, "python run.py play"), " a small one.");
  main.append(h("h1", {}, "Runs"), runs.length ? h("div", { class: "panel" }, table(["run", "status", "env", "model", "#conversations", "#step", "#last line"], runs.map(row))) : none);
}

function chipOf(run) {
  const tone = run.is_live ? "good" : /fail|kill|interrupt/.test(run.status) ? "warn" : "";
  return h("span", { class: `chip ${tone}`, text: run.is_live ? "live" : run.status || "unknown" });
}

// ----- what the run was, and what it was rewarded for -----

function headline(run) {
  return [`last line ${ago(run.since)}`, run.env, run.model, run.view && `${run.view} view`, plural(run.info.conversations, "conversation"), run.steps && plural(run.steps, "step")].filter(Boolean).join(" · ");
}

function rewarded({ run, kl, rewards, sources }) {
  if (!rewards?.length) return null;
  const row = ({ label, weight, gate, summary, role }) => {
    const digest = Object.entries(sources).find(([name]) => name.replace(/^rewards?[ .]/, "") === label)?.[1];
    const source = digest && !isOffline && h("a", { href: `/api${runPath(run, `/source/${digest.replace("sha256:", "")}`)}`, target: "_blank", rel: "noopener" }, " source");
    const counts = gate ? "gate" : weight ? signed(weight, Number.isInteger(weight) ? 0 : 2) : "only measured";
    return [label, h("b", { text: counts }), [summary, source, role && ` (${role})`]];
  };
  const pull = kl?.controller === "off" ? "KL from the base is measured, and nothing holds it."
    : kl?.controller && `KL to the base: ${kl.controller}, coefficient ${brief(kl.coefficient)} at first${kl.target ? `, target ${brief(kl.target)} nats a token` : ""}.`;
  return panel("What was rewarded", table(["reward", "#weight", "what it reads"], rewards.map(row), "rewards-table"), h("p", { class: "dim", text: pull }));
}

// ----- what training changed -----

// Each number before and after with a tone: good, bad, or none where it is neither or not clear.
function verdicts(run, measured, where) {
  const weights = Object.fromEntries(run.rewards.map((reward) => [`reward/${reward.label}`, reward.weight]));
  return Object.entries(measured).filter(([, row]) => row.base !== null && row.trained !== null).map(([name, row]) => {
    const isWatched = weights[name] === 0; // what is only measured may be lost, and is not gained
    const way = isClear(row) ? Math.sign((isWatched ? 1 : GOOD[name] ?? weights[name] ?? 0) * row.difference) : 0;
    const isOver = name === "kl/per_token_nats" && run.kl?.target && row.trained > run.kl.target;
    const [sort, filter] = name in weights ? [name.replace("/", ".")] : SHOWN_BY[name] ?? [];
    const url = sort && listUrl(run, [where, filter].filter(Boolean).join(" & "), sort, row.difference < 0 ? "asc" : "desc");
    const amount = (value) => signed(value, Math.abs(row.difference) < 0.1 ? 3 : 2);
    const interval = row.low === null ? "" : `${amount(row.low)} to ${amount(row.high)}`;
    return { ...row, name, url, isOver, interval, amount: amount(row.difference), tone: isOver || way < 0 ? "bad" : way > 0 && !isWatched ? "good" : "" };
  });
}

function evaluated(run) {
  const { metrics, version } = run.evaluation;
  return verdicts(run, metrics, `split=held_out & version=${version}`);
}

// Before an evaluation: the first steps against the newest.  The interval holds all differences between their numbers.
function drifted(run, { steps, series }) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const ends = Object.entries(series).map(([name, values]) => [name, values.slice(0, FEW), values.slice(-FEW)]).filter(([, ...both]) => !both.flat().includes(null));
  const measured = ends.map(([name, first, last]) => {
    const [base, trained] = [mean(first), mean(last)];
    return [name, { base, trained, difference: trained - base, low: Math.min(...last) - Math.max(...first), high: Math.max(...last) - Math.min(...first) }];
  });
  return verdicts(run, Object.fromEntries(measured), `split=train & step>=${steps.at(-FEW)}`);
}

function changed(run, curves) {
  const title = "What was gained, what was lost";
  const { evaluation } = run;
  if (!evaluation && !curves.steps.length) return null;
  if (!evaluation && curves.steps.length < 2 * FEW) return panel(title, h("p", { class: "dim" }, `Too early to tell: there is no evaluation yet, and ${plural(curves.steps.length, "step")} of the ${2 * FEW} that can be compared.`));
  const rows = evaluation ? evaluated(run) : drifted(run, curves);
  const item = (row) => h("li", {}, h("strong", { text: metricWords(row.name) }), ` ${brief(row.base)} → ${brief(row.trained)}, `, dim(row.isOver ? `over its target ${brief(run.kl.target)} ` : `${row.amount} (${row.interval}) `), row.url && linkTo(row.url, "show me"));
  const half = (words, tone) => {
    const found = rows.filter((row) => row.tone === tone && row.name !== "reward/total");
    return h("div", { class: `half ${tone}` }, h("h3", { text: words }), found.length ? h("ul", {}, found.map(item)) : h("p", { class: "dim" }, "Nothing clearly."));
  };
  const base = encodeURIComponent(run.run);
  const how = evaluation
    ? [linkTo(`/cmp?a=${base}@0&b=${base}@${evaluation.version}`, "compare side by side", "aside"), h("ul", { class: "checks" }, evaluation.checks.map((check) => h("li", { class: check.is_met ? "met" : "unmet" }, h("span", { class: "visually-hidden" }, check.is_met ? "met: " : "not met: "), check.what)))]
    : h("p", { class: "dim" }, `There is no evaluation yet: this is the mean of the first ${FEW} steps against that of the newest ${FEW}, where all of these are on one side of all of those.`);
  return panel(title, how, h("div", { class: "halves" }, half("Gained", "good"), half("Lost", "bad")));
}

function comparison(run) {
  if (!run.evaluation) return null;
  const line = (row) => {
    const [words, extent] = [metricWords(row.name), 1.05 * Math.max(...[row.low, row.high, row.difference].map(Math.abs))];
    return [row.url ? linkTo(row.url, words) : words, brief(row.base), brief(row.trained), h("span", { class: row.tone, text: row.amount }), dim(row.interval), intervalBar(row, extent, row.tone || (isClear(row) ? "clear" : ""))];
  };
  return panel("Base against trained, on held-out scenarios", table(["", "#base", "#trained", "#difference", "#95% interval", ""], evaluated(run).map(line), "comparison"));
}

function alarms(run) {
  const begun = run.alarms.filter((alarm) => alarm.state === "began").reverse();
  const card = ({ name, step, text, look_at: ids }) => {
    const end = run.alarms.find((other) => other.state === "ended" && other.name === name && other.step > step);
    const when = ` step ${step}${end ? `, over at step ${end.step}` : ""}`;
    const links = [(ids ?? []).map((id) => conversationLink(run.run, id)), linkTo(listUrl(run, `step=${step} & split=train`, "reward", "desc"), `all of step ${step}`)];
    const told = text.replace(/^alarm \w+: |; see `show [^`]*`$/g, "");
    return h("li", { class: end ? "alarm over" : "alarm" }, h("strong", { text: name.replaceAll("_", " ") }), dim(when), h("p", { text: told }), h("div", { class: "row" }, dim("show me"), links));
  };
  return begun.length > 0 && panel(plural(begun.length, "alarm"), h("ul", { class: "alarms" }, begun.map(card)));
}

// ----- curves, reading, facts -----

function smallCurve(curves, name) {
  const [values, words] = [curves.series[name], metricWords(name)];
  const [first, now, target] = [brief(values.find((value) => value !== null)), brief(newest(values)), name.startsWith("kl/") ? curves.target : null];
  const caption = h("figcaption", {}, h("span", { class: "grow", text: words }), dim(`${first} →`), h("b", { text: now }), target !== null && dim(`of ${brief(target)}`));
  return h("figure", {}, caption, sparkline(curves.steps, values, target, curves.marks, `${words}: ${first} at first, ${now} now`));
}

function listUrl(run, q, sort, order) {
  return runPath(run.run, `/list?${new URLSearchParams({ q, sort, order })}`);
}

async function readThese(place, run) {
  const heldOut = (version) => `split=held_out & version=${version}`;
  const { version = null } = run.evaluation ?? {};
  const trained = version === null ? "" : heldOut(version);
  const best = [["Best rewarded", trained, "reward", "desc"], ["Worst rewarded", trained, "reward", "asc"], ["Most surprising in their group", "", "surprise", "desc"]];
  if (trained) best.push(["Before training, best rewarded", heldOut(0), "reward", "desc"]);
  for (const [title, q, sort, order] of run.info.parts.length ? best : [["Newest", "", "newest", "desc"]]) {
    const { columns, rows } = await get(`/api${runPath(run.run, "/conversations")}?${new URLSearchParams({ q, sort, order, limit: 3 })}`);
    const [id, reward, words] = ["id", "reward", "first_words"].map((name) => columns.indexOf(name));
    const items = rows.map((row) => h("li", {}, conversationLink(run.run, row[id]), h("b", { class: "n", text: number(row[reward]) }), h("span", { class: "said", dir: "auto", text: row[words] })));
    if (rows.length) place.append(h("div", { class: "reading" }, h("h3", { text: title }), linkTo(listUrl(run, q, sort, order), "list", "aside"), h("ul", {}, items)));
  }
}

function facts(run) {
  const seconds = (Date.parse(run.ended_at) - Date.parse(run.created_at)) / 1000;
  const all = {
    started: run.created_at && `${run.created_at.slice(0, 16).replace("T", " ")} UTC`,
    took: seconds > 0 && (seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`),
    resumed: run.resumed?.length && plural(run.resumed.length, "time"),
    seed: run.seed?.toString(),
    package: [run.package, run.git?.slice(0, 10)].filter(Boolean).join(", "),
    roles: run.info.roles.join(", "),
    checkpoints: run.checkpoints.join(", "),
    labels: run.num_preferences && linkTo(runPath(run.run, "/label"), plural(run.num_preferences, "preference")),
    command: run.command && copyable(run.command),
  };
  const list = Object.entries(all).filter(([, value]) => value).map(([name, value]) => [h("dt", { text: name }), h("dd", {}, value)]);
  return panel("The run", h("dl", {}, list), run.config && h("details", {}, h("summary", {}, "Configuration"), h("pre", { text: run.config })));
}

// ----- live -----

// What a run that is being written does: how far it is, and its newest conversation, turn by turn.
export function liveStrip(page) {
  const { run } = page;
  const [bar, place, words] = [h("progress", { max: run.steps ?? 1, value: 0, "aria-label": "Progress" }), h("div", { class: "talk" }), dim("")];
  let [newestId, isTalking] = [run.info.newest, false];

  function update({ step, conversations, since, newest: id }) {
    words.textContent = `step ${step ?? "–"}${run.steps ? ` of ${run.steps}` : ""} · ${plural(conversations, "conversation")} · last line ${ago(since)}`;
    bar.value = step ?? 0;
    newestId = id ?? newestId;
    if (isTalking) return;
    isTalking = true;
    // The run may be written anew meanwhile; the next change tries again.
    talk().catch(console.warn).finally(() => (isTalking = false));
  }

  async function talk() {
    const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : TURN_MS;
    for (let shown = place.dataset.id; newestId && shown !== newestId; ) {
      shown = place.dataset.id = newestId;
      const { record } = await get(`/api${conversationPath(run.run, shown)}`);
      clear(place).append(conversationLink(run.run, shown));
      for (const turn of record.turns) {
        if (!page.isHere()) return;
        place.append(turnBox(record, turn));
        place.scrollTop = place.scrollHeight;
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }
  }

  page.onChange(update);
  update({ step: run.step, conversations: run.info.conversations, since: run.since });
  return h("section", { class: "panel live-strip", "aria-label": "Live" }, h("div", {}, h("strong", { class: "good" }, "Live "), words, bar), h("div", {}, h("h3", {}, "Now talking"), place));
}
