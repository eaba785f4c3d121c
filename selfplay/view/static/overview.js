// All runs, and the page of one: what was rewarded, gained and lost, and which conversations show it.
import { ago, clear, copyable, count, debounce, h, number, plural, roleClass, signed } from "./dom.js";
import { get, isOffline, link, runPath } from "./api.js";
import { brief, dim, intervalBar, isClear, newest, sparkline, table } from "./chart.js";
import { conversationLink } from "./compare.js";
import { Curves, metricWords } from "./metrics.js";

const SMALL = ["reward/per_conversation", "kl/per_token_nats", "play/distinct_2", "play/words_per_turn", "entropy/per_token_nats"];
// Which way is good, where it is the same for every run; parts of the reward go by their weights.
const GOOD = { "reward/per_conversation": 1, "reward/total": 1, "play/distinct_1": 1, "play/distinct_2": 1, "play/repeat_rate": -1, "play/only_question_share": -1, "play/cut_share": -1 };
// The filter and the sort key that find conversations which show a number.
const SHOWN_BY = { "play/repeat_rate": ["flag=repeats", "newest"], "play/cut_share": ["flag=cut", "newest"], "kl/per_token_nats": ["", "kl"], "reward/per_conversation": ["", "reward"] };
const TURN_MS = 900;

export async function show(main, route, page) {
  const { run } = page;
  if (!run) return showRuns(main, page);
  page.setTitle(run.run);
  const [curves, small, reading] = [new Curves(run), h("div", { class: "curves" }), h("div", { class: "reading" })];
  await curves.more();
  if (!page.isHere()) return;
  const rows = verdicts(run);
  main.append(heading(run));
  for (const text of run.problems ?? []) main.append(h("p", { class: "notice", text }));
  if (run.is_live) main.append(liveStrip(page));
  const left = [rewarded(run), changed(run, rows), alarms(run), comparison(rows)].filter(Boolean);
  const right = [panel("Curves", small, h("a", { href: link(runPath(run.run, "/metrics")) }, "all metrics")), facts(run), configuration(run)];
  // Wherever there is more room.
  if (rows.length) right.splice(1, 0, panel("Read these", reading));
  else left.push(panel("Read these", reading));
  main.append(h("div", { class: "overview" }, h("div", { class: "column" }, left), h("div", { class: "column" }, right)));
  const draw = () => {
    main.querySelector(".sparks")?.replaceChildren(...SMALL.slice(0, 2).filter((name) => curves.has(name)).map((name) => smallCurve(curves, name)));
    clear(small).append(...SMALL.filter((name) => curves.has(name)).map((name) => smallCurve(curves, name)));
    small.parentNode.hidden = !small.childElementCount;
    if (curves.steps.length) small.append(h("p", { class: "dim", text: `steps ${curves.steps[0]} to ${curves.steps.at(-1)}${curves.marks.length ? "; dotted: an alarm began" : ""}${curves.target ? "; dashed: the target" : ""}` }));
  };
  draw();
  readThese(reading, run).catch((error) => reading.append(h("p", { class: "dim", text: error.message })));
  const numAlarms = (run.alarms ?? []).length;
  page.onChange(debounce(async (news) => {
    if (!page.isHere()) return;
    if (news.is_live !== run.is_live || news.alarms !== numAlarms) return void page.go(runPath(run.run), { replace: true });
    await curves.more(news).catch(console.warn);
    draw();
  }, 300));
}

function panel(title, content, aside = null) {
  return h("section", { class: "panel" }, h("div", { class: "row" }, h("h2", { class: "grow", text: title }), aside), content);
}

// ----- all runs -----

async function showRuns(main, page) {
  page.setTitle("Runs");
  const { runs } = await get("/api/runs");
  const row = (run) => [h("a", { href: link(runPath(run.run)), text: run.run, title: run.path }), chipOf(run), run.env ?? "–", run.model ?? "–", count(run.conversations), run.step === null ? "–" : run.steps ? `${run.step} / ${run.steps}` : run.step, h("span", { title: run.since }, ago(run.since))];
  const none = h("p", { class: "notice" }, "There are no runs here yet. ", h("code", {}, "python run.py train"), " makes one, ", h("code", {}, "python run.py play"), " a small one.");
  main.append(h("h1", {}, "Runs"), runs.length ? h("div", { class: "panel" }, table(["run", "status", "env", "model", "#conversations", "#step", "#last line"], runs.map(row))) : none);
}

function chipOf(run) {
  const tone = run.is_live ? "good" : /fail|kill|interrupt/.test(run.status) ? "warn" : "";
  return h("span", { class: `chip ${tone}`, text: run.is_live ? "live" : run.status || "unknown" });
}

// ----- what the run was, and what it was rewarded for -----

function heading(run) {
  const words = [run.env, run.model, run.view && `${run.view} view`, plural(run.info.conversations, "conversation"), run.steps && plural(run.steps, "step")];
  return h("div", { class: "heading" }, h("h1", { text: run.run }), h("p", { class: "row dim" }, chipOf(run), h("span", { title: run.since, text: [`last line ${ago(run.since)}`, ...words].filter(Boolean).join(" · ") })));
}

function rewarded(run) {
  const { kl, rewards } = run;
  if (!rewards?.length) return null;
  const row = (reward) => {
    const digest = isOffline ? null : run.sources?.[`reward ${reward.label}`];
    const source = digest && h("a", { href: `/api${runPath(run.run, `/source/${digest.replace("sha256:", "")}`)}`, target: "_blank", rel: "noopener" }, " source");
    const weight = reward.gate ? "gate" : reward.weight ? signed(reward.weight, Number.isInteger(reward.weight) ? 0 : 2) : "only measured";
    return [reward.label, h("b", { text: weight }), [reward.summary ?? "", source, reward.role ? ` (${reward.role})` : ""]];
  };
  const pull = kl?.controller ? `KL to the base: ${kl.controller}${kl.coefficient === null || kl.coefficient === undefined ? "" : `, coefficient ${brief(kl.coefficient)} at first`}${kl.target ? `, target ${brief(kl.target)} nats a token` : ""}.` : "";
  return panel("What was rewarded", [table(["reward", "#weight", "what it reads"], rewards.map(row), { class: "rewards-table" }), h("p", { class: "dim", text: pull })]);
}

// ----- what training changed -----

// The stored evaluation, each number with a tone: good, bad, or none where it is neither or not clear.
function verdicts(run) {
  const weights = Object.fromEntries((run.rewards ?? []).map((reward) => [`reward/${reward.label}`, reward.weight]));
  const target = run.kl?.target;
  return Object.entries(run.evaluation?.metrics ?? {}).filter(([, row]) => row.base !== null && row.trained !== null).map(([name, row]) => {
    const isWatched = weights[name] === 0; // what is only measured may be lost, and is not gained
    const way = isClear(row) ? Math.sign((isWatched ? 1 : GOOD[name] ?? weights[name] ?? 0) * row.difference) : 0;
    const isOver = name === "kl/per_token_nats" && target && row.trained > target;
    return { ...row, name, over: isOver ? target : null, tone: isOver || way < 0 ? "bad" : way > 0 && !isWatched ? "good" : "" };
  });
}

function changed(run, rows) {
  if (!rows.length) return null;
  const version = run.evaluation.version ?? run.info.versions?.at(-1) ?? null;
  const checks = (run.evaluation.checks ?? []).map((check) => h("li", { class: check.is_met ? "met" : "unmet" }, h("span", { class: "visually-hidden" }, check.is_met ? "met: " : "not met: "), check.what));
  const side = (title, tone) => {
    const found = rows.filter((row) => row.tone === tone && row.name !== "reward/total");
    return h("div", { class: `half ${tone}` }, h("h3", { text: title }), found.length ? h("ul", {}, found.map((row) => h("li", {}, sentence(row), showMe(run, row, version)))) : h("p", { class: "dim" }, "Nothing clearly."));
  };
  const base = encodeURIComponent(run.run);
  const compare = h("a", { href: link(`/cmp?a=${base}@0&b=${base}${version === null ? "" : `@${version}`}`) }, "compare side by side");
  return panel("What was gained, what was lost", [h("ul", { class: "checks" }, checks), h("div", { class: "halves" }, side("Gained", "good"), side("Lost", "bad"))], compare);
}

function sentence(row) {
  const how = row.over ? `over its target ${brief(row.over)}` : `${signed(row.difference, digits(row))} (${signed(row.low, digits(row))} to ${signed(row.high, digits(row))})`;
  return [h("strong", { text: metricWords(row.name) }), ` ${brief(row.base)} → ${brief(row.trained)}, `, dim(`${how} `)];
}

function showMe(run, row, version) {
  const part = (run.rewards ?? []).find((reward) => `reward/${reward.label}` === row.name);
  const [filter, sort] = part ? ["", `reward.${part.label}`] : SHOWN_BY[row.name] ?? [];
  const q = ["split=held_out", version === null ? "" : `version=${version}`, filter].filter(Boolean).join(" & ");
  return sort ? h("a", { href: listLink(run, q, sort, row.difference < 0 ? "asc" : "desc") }, "show me") : null;
}

function listLink(run, q, sort, order) {
  return link(runPath(run.run, `/list?${new URLSearchParams({ q, sort, order })}`));
}

function digits(row) {
  return Math.abs(row.difference) < 0.1 ? 3 : 2;
}

function comparison(rows) {
  if (!rows.length) return null;
  const line = (row) => {
    const extent = 1.05 * Math.max(...[row.low, row.high, row.difference].map((value) => Math.abs(value ?? 0)));
    const interval = row.low === null ? "" : `${signed(row.low, digits(row))} to ${signed(row.high, digits(row))}`;
    return [h("span", { text: metricWords(row.name), title: row.name }), brief(row.base), brief(row.trained), h("span", { class: row.tone, text: signed(row.difference, digits(row)) }), dim(interval), intervalBar(row, extent, row.tone || (isClear(row) ? "clear" : ""))];
  };
  return panel("Base against trained, on held-out scenarios", table(["", "#base", "#trained", "#difference", "#95% interval", ""], rows.map(line), { class: "comparison" }));
}

function alarms(run) {
  const begun = (run.alarms ?? []).filter((alarm) => alarm.state === "began").reverse();
  const card = (alarm) => {
    const end = run.alarms.find((other) => other.state === "ended" && other.name === alarm.name && other.step > alarm.step);
    const links = (alarm.look_at ?? []).map((id) => conversationLink(run.run, id));
    const all = h("a", { href: listLink(run, `step=${alarm.step} & split=train`, "reward", "desc") }, `all of step ${alarm.step}`);
    const text = alarm.text.replace(/^alarm \w+: /, "").replace(/; see `show [^`]*`$/, "");
    return h("li", { class: end ? "alarm over" : "alarm" }, h("strong", { text: alarm.name.replaceAll("_", " ") }), h("span", { class: "dim", text: ` step ${alarm.step}${end ? `, over at step ${end.step}` : ""}` }), h("p", { text }), h("div", { class: "row" }, dim("show me"), links, all));
  };
  return begun.length ? panel(plural(begun.length, "alarm"), h("ul", { class: "alarms" }, begun.map(card))) : null;
}

// ----- curves, reading, facts -----

function smallCurve(curves, name) {
  const values = curves.series[name];
  const [first, now, target] = [values.find((value) => value !== null), newest(values), name.startsWith("kl/") ? curves.target : null];
  const words = h("figcaption", {}, h("span", { class: "grow", text: metricWords(name) }), dim(`${brief(first)} →`), h("b", { text: brief(now) }), target === null ? null : dim(`of ${brief(target)}`));
  return h("figure", {}, words, sparkline(curves.steps, values, { target, marks: curves.marks, label: `${metricWords(name)}: ${brief(first)} at first, ${brief(now)} now` }));
}

async function readThese(place, run) {
  const version = run.evaluation?.version ?? null;
  const trained = version === null ? "" : `split=held_out & version=${version}`;
  const groups = [["Best rewarded", trained, "reward", "desc"], ["Worst rewarded", trained, "reward", "asc"], ["Most surprising in their group", "", "surprise", "desc"]];
  if (version !== null) groups.push(["Before training, best rewarded", "split=held_out & version=0", "reward", "desc"]);
  if (!run.info.parts?.length) groups.splice(0, groups.length, ["Newest", "", "newest", "desc"]);
  for (const [title, q, sort, order] of groups) {
    const { columns, rows } = await get(`/api${runPath(run.run, "/conversations")}?${new URLSearchParams({ q, sort, order, limit: 3 })}`);
    const item = (row) => {
      const cell = (name) => row[columns.indexOf(name)];
      return h("li", {}, conversationLink(run.run, cell("id")), h("b", { class: "n", text: number(cell("reward")) }), h("span", { class: "said", dir: "auto", text: cell("first_words") }));
    };
    if (rows.length) place.append(h("div", {}, h("div", { class: "row" }, h("h3", { class: "grow", text: title }), h("a", { href: listLink(run, q, sort, order) }, "list")), h("ul", {}, rows.map(item))));
  }
  place.parentNode.hidden = !place.childElementCount;
}

function facts(run) {
  const seconds = (Date.parse(run.ended_at) - Date.parse(run.created_at)) / 1000;
  const all = [
    ["started", run.created_at && `${run.created_at.slice(0, 16).replace("T", " ")} UTC`], ["took", seconds > 0 && (seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`)],
    ["resumed", run.resumed?.length && plural(run.resumed.length, "time")], ["seed", run.seed === null || run.seed === undefined ? null : String(run.seed)], ["package", [run.package, run.git?.slice(0, 10)].filter(Boolean).join(", ")], ["roles", run.info.roles?.join(", ")],
    ["checkpoints", run.checkpoints?.join(", ")], ["labels", run.num_preferences && h("a", { href: link(runPath(run.run, "/label")) }, plural(run.num_preferences, "preference"))], ["command", run.command && copyable(run.command)],
  ];
  return panel("The run", h("dl", {}, all.filter(([, value]) => value).map(([name, value]) => [h("dt", { text: name }), h("dd", {}, value)])));
}

function configuration(run) {
  return run.config ? h("section", { class: "panel" }, h("details", {}, h("summary", {}, "Configuration"), h("pre", { text: run.config }))) : null;
}

// ----- live -----

// What a run that is being written does: how far it is, and its newest conversation, turn by turn.
export function liveStrip(page) {
  const { run } = page;
  const bar = h("progress", { max: run.steps ?? 1, value: 0, "aria-label": "Progress" });
  const [place, words] = [h("div", { class: "talk" }), dim("")];
  let [waiting, shown, timer] = [null, null, 0];

  function update(news) {
    words.textContent = `step ${news.step ?? "–"}${run.steps ? ` of ${run.steps}` : ""} · ${plural(news.conversations, "conversation")} · last line ${ago(news.since)}`;
    bar.value = news.step ?? 0;
    waiting = news.newest ?? waiting;
    if (!timer) talk();
  }

  async function talk() {
    timer = 0;
    if (!waiting || waiting === shown || !page.isHere()) return;
    [timer, shown] = [1, waiting];
    try {
      const { record } = await get(`/api${runPath(run.run, `/c/${encodeURIComponent(shown)}`)}`);
      clear(place).append(conversationLink(run.run, shown));
      say(record, 0);
    } catch {
      timer = 0; // The run may have been written anew meanwhile; the next change tries again.
    }
  }

  function say(record, at) {
    const turn = record.turns[at];
    if (!turn || !page.isHere()) return void talk();
    place.append(h("p", { class: roleClass(record.scenario.roles.indexOf(turn.role)) }, h("span", { class: "role-name", text: turn.role }), " ", h("span", { class: "said", dir: "auto", text: turn.text.slice(0, 300) })));
    place.scrollTop = place.scrollHeight;
    timer = setTimeout(say, matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : TURN_MS, record, at + 1);
  }

  page.onChange(update);
  page.onLeave(() => clearTimeout(timer));
  update({ step: run.step, conversations: run.info.conversations, since: run.since });
  get(`/api${runPath(run.run, "/conversations")}?sort=newest&limit=1`).then(({ columns, rows }) => ((waiting ??= rows[0]?.[columns.indexOf("id")]), timer || talk())).catch(console.warn);
  return h("section", { class: "panel live-strip", "aria-label": "Live" }, h("div", {}, h("div", { class: "row" }, h("strong", { class: "good" }, "Live"), words), bar, h("div", { class: "sparks" })), h("div", {}, h("h3", {}, "Now talking"), place));
}
