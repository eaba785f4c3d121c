// Blind pairs: which of two conversations is better.  Votes that cannot be sent are kept, and sent later.
import { clear, h, number, percent, plural } from "./dom.js";
import { get, post, runPath } from "./api.js";
import { dim } from "./chart.js";
import { badge, conversationLink, turnBox } from "./compare.js";

const CHOICES = [["1", "left_much", "A, much"], ["2", "left", "A"], ["3", "tie", "as good"], ["4", "right", "B"], ["5", "right_much", "B, much"], ["0", "both_bad", "both bad"], ["s", "skip", "skip"]];
const WHY = ["clear", "kind", "true", "on task"];
const TOO_SOON_MS = 350; // a key pressed twice is no second vote

export async function show(main, route, page) {
  const { run, readonly } = page.run;
  page.setTitle(`Label · ${run}`);
  const path = (rest) => `/api${runPath(run, rest)}`;
  const person = kept("person") || (await get("/api/runs")).label_person;
  kept("person", person);
  const votes = JSON.parse(kept(`votes:${run}`) || "[]");
  const [head, both, news] = [h("div", { class: "question" }), h("div", { class: "both" }), h("div", { class: "news", role: "status" })];
  const why = WHY.map((value) => h("input", { type: "checkbox", value }));
  const buttons = CHOICES.map(([key, choice, words]) => h("button", { onclick: () => vote(choice) }, h("kbd", { text: key }), words));
  const bar = h("div", { class: "votes" },
    h("div", { class: "row", role: "group", "aria-label": "Your choice" }, buttons, h("button", { class: "quiet", onclick: undo }, h("kbd", {}, "u"), "undo")),
    h("div", { class: "row dim" }, "why, if you like:", why.map((box) => h("label", {}, box, ` ${box.value}`))));
  main.append(head, both, bar, news);
  let [pair, shownAt, isBusy] = [null, 0, false];
  page.onKey({ ...Object.fromEntries(CHOICES.map(([key, choice, words]) => [key, [words, () => vote(choice)]])), u: ["undo the last", undo] });
  const resend = () => busy(async () => (await send(), clear(news)));
  addEventListener("online", resend);
  page.onLeave(() => removeEventListener("online", resend));
  if (readonly) tell(h("p", { class: "notice" }, "This run's folder cannot be written to: labels would be lost."));
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
      tell(h("p", { class: "notice bad" }, error.message, safe, h("button", { onclick: resend }, "Go on")));
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
    const none = "A pair needs two conversations on the same scenario: siblings of a group, or two versions on held-out ones.";
    const focus = pair?.focus && ["Attend to the ", h("b", { text: pair.focus }), pair.about && " · "];
    const agreed = agreement !== null && h("span", { title: "of the pairs that came back swapped, where you chose the same one" }, `self-agreement ${percent(agreement)}`);
    clear(head).append(
      h("div", { class: "grow" }, h("h1", { text: pair?.question ?? "Nothing left to label" }), h("p", { class: "dim" }, focus, h("span", { class: "said", dir: "auto", text: pair ? pair.about : none }))),
      h("p", { class: "row dim" }, `${done} / ${of}`, h("progress", { max: of || 1, value: done, "aria-label": "Labelled" }), agreed, `as ${person}`));
    clear(both).append(...(pair ? [column("a", pair.left), column("b", pair.right)] : []));
  }

  function column(name, record) {
    const turns = record.turns.map((turn) => turnBox(record, turn, [], null, pair.focus && turn.role !== pair.focus ? "aside" : ""));
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
      try {
        answer = await post(path("/label"), votes[0]);
      } catch (error) {
        if (error.status >= 400 && error.status < 500) votes.shift();
        keepVotes();
        throw error;
      }
      votes.shift();
      keepVotes();
    }
    return answer;
  }

  function keepVotes() {
    kept(`votes:${run}`, JSON.stringify(votes));
  }

  function undo() {
    busy(async () => {
      const isUndone = votes.pop() || (await post(path("/undo"), { person })).undone;
      keepVotes();
      tell(h("p", { class: "dim", text: isUndone ? "Your last vote is taken back." : "There is no vote of yours to take back." }));
    });
  }

  function revealed({ left, right }, choice) {
    const side = (name, one) => one && h("span", { class: "row" }, badge(name), `version ${one.version ?? "–"}, reward ${number(one.reward)}`, conversationLink(run, one.id));
    return h("p", { class: "panel row" }, dim(`The pair before, “${CHOICES.find(([, name]) => name === choice)[2]}”:`), side("a", left), side("b", right));
  }
}

// A browser without storage keeps votes for as long as the page is open.
function kept(name, value) {
  try {
    if (value !== undefined) localStorage.setItem(name, value);
    return localStorage.getItem(name);
  } catch (error) {
    console.warn(error);
    return null;
  }
}
