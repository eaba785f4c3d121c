// Blind pairs: which of two conversations is better.  Votes that cannot be sent are kept, and sent later.
import { button, clear, div, h, kept, number, plural, said, span } from "./dom.js";
import { get, post, runPath } from "./api.js";
import { dim } from "./chart.js";
import { badge, conversationLink, turnBox } from "./compare.js";

const CHOICES = [["1", "left_much", "A, much"], ["2", "left", "A"], ["3", "tie", "as good"], ["4", "right", "B"], ["5", "right_much", "B, much"], ["0", "both_bad", "both bad"], ["s", "skip", "skip"]];
const WHY = ["clear", "kind", "true", "on task"];
const TOO_SOON_MS = 350; // a key pressed twice is no second vote

export async function show(main, route, page) {
  const { run } = page.run;
  page.setTitle(`Label · ${run}`);
  const path = (rest) => `/api${runPath(run, rest)}`;
  const remembered = (name, value) => kept(name, value, "localStorage");
  const person = remembered("person") || (await get("/api/runs")).label_person;
  remembered("person", person);
  const votes = remembered(`votes:${run}`) ?? [];
  const [head, both, news] = [div("question"), div("both"), h("div", { class: "news", role: "status" })];
  const why = WHY.map((value) => h("input", { type: "checkbox", value }));
  const buttons = CHOICES.map(([key, choice, words]) => button([h("kbd", {}, key), words], () => vote(choice)));
  const bar = div("votes",
    h("div", { class: "row", role: "group", "aria-label": "Your choice" }, buttons, button([h("kbd", {}, "u"), "undo"], undo, { class: "quiet" })),
    div("row dim", "why, if you like:", why.map((box) => h("label", {}, box, ` ${box.value}`))));
  main.append(head, both, bar, news);
  let [pair, shownAt, isBusy] = [null, 0, false];
  page.onKey({ ...Object.fromEntries(CHOICES.map(([key, choice, words]) => [key, [words, () => vote(choice)]])), u: ["undo the last", undo] });
  const resend = () => busy(async () => (await send(), clear(news)));
  addEventListener("online", resend);
  page.onLeave(() => removeEventListener("online", resend));
  await busy(send);

  // One thing at a time, and then the next pair.  A failure is told; the votes are safe.
  async function busy(work) {
    if (isBusy) return;
    isBusy = true;
    try {
      await work();
      await next();
    } catch (error) {
      const safe = votes.length ? ` ${plural(votes.length, "vote")} kept here until it does. ` : " ";
      tell(h("p", "notice bad", error.message, safe, button("Go on", resend)));
    }
    isBusy = false;
  }

  function tell(node) {
    clear(news).append(node);
  }

  async function next() {
    const { done, of, agreement, pair: found } = await get(`${path("/pair")}?${new URLSearchParams({ person })}`);
    if (!page.isHere()) return;
    [pair, shownAt] = [found, performance.now()];
    why.forEach((box) => (box.checked = false));
    buttons.forEach((button) => (button.disabled = !pair));
    const focus = pair?.focus && ["Attend to the ", h("b", {}, pair.focus), pair.about && " · "];
    clear(head).append(
      div("grow", h("h1", {}, pair?.question ?? "Nothing left to label"), h("p", "dim", focus, said(pair ? pair.about : "A pair needs two conversations on the same scenario."))),
      h("p", "dim", `${done} / ${of}`, agreement !== null && ` · self-agreement ${number(100 * agreement, 0)}%`, ` · as ${person}`));
    clear(both).append(...(pair ? [column("a", pair.left), column("b", pair.right)] : []));
  }

  function column(name, record) {
    const turns = record.turns.map((turn) => turnBox(record, turn, "", null, pair.focus && turn.role !== pair.focus ? "aside" : ""));
    return h("section", { class: "panel", "aria-label": `Conversation ${name}` }, h("h2", {}, badge(name)), turns);
  }

  function vote(choice) {
    const ms = performance.now() - shownAt;
    if (!pair || isBusy || ms < TOO_SOON_MS) return;
    votes.push({ token: pair.token, choice, why: why.filter((box) => box.checked).map((box) => box.value), seconds: Math.round(ms / 100) / 10, person });
    pair = null; // one vote a pair, even while none can be sent
    busy(async () => {
      const answer = await send();
      if (answer?.reveal) tell(revealed(answer.reveal, choice));
      scrollTo(0, 0);
    });
  }

  // Oldest first.  What the server refuses is dropped, for it would refuse it again.
  async function send() {
    let answer = null;
    keepVotes();
    while (votes.length) {
      const isRefused = (error) => error.status >= 400 && error.status < 500;
      answer = await post(path("/label"), votes[0]).catch((error) => (isRefused(error) && dropVote(), Promise.reject(error)));
      dropVote();
    }
    return answer;
  }

  function dropVote() {
    votes.shift();
    keepVotes();
  }

  function keepVotes() {
    remembered(`votes:${run}`, votes);
  }

  function undo() {
    busy(async () => {
      const isUndone = votes.pop() || (await post(path("/undo"), { person })).undone;
      keepVotes();
      tell(h("p", "dim", isUndone ? "Your last vote is taken back." : "There is no vote of yours to take back."));
    });
  }

  function revealed({ left, right }, choice) {
    const side = (name, one) => one && span("row", badge(name), `version ${one.version ?? "–"}, reward ${number(one.reward)}`, conversationLink(run, one.id));
    return h("p", "panel row", dim(`The pair before, “${CHOICES.find(([, name]) => name === choice)[2]}”:`), side("a", left), side("b", right));
  }
}
