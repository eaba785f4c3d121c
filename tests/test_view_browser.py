"""The transcript page as people use it, in a real browser: no window may complain or ask anybody but its server."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, unquote

import pytest
from six_conversations import IDS
from strange_runs import (
    ENDS_BLOCKS,
    EVIL,
    FAILED_ID,
    GUEST,
    HOSTILE,
    HOSTILE_IDS,
    LONG,
    NEW_ID,
    REVERSED,
    SECRETS,
    SKIPPED,
    write_damaged,
    write_hostile,
)
from view_pages import open_browser, serving, watching

from benchmarks.stored_run import SOURCE, StoredRun, write_run
from selfplay import transcript_indexing
from selfplay.dialog import Action, Conversation, Outcome, PlayerInfo, Scenario, Turn
from selfplay.export import Request, export
from selfplay.paired import Side, compare_versions
from selfplay.preferences import read_preferences
from selfplay.run_reader import RunReader
from selfplay.store import RunWriter
from selfplay.transcript_index import TranscriptIndex
from selfplay.transcript_indexing import Indexing
from selfplay.view import runs as view_runs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NUM, STEPS = 200, 10  # conversations of the generated run, and its updates
# This person's seventh pair is an earlier one with sides swapped: what is drawn depends on the person and the number.
PERSON = "anon-0"
MINUS = "\u2212"
MARKUP = "script, img, iframe, object, [onerror], [onload], [onclick], [onmouseover]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "chat", conversations=NUM, steps=STEPS, turns=6, tokens="all")
    shutil.copytree(folder / "chat", folder / "written")
    write_hostile(folder / HOSTILE)
    write_game(folder / "game")
    write_damaged(folder / "damaged")
    return folder


GAME_IDS = ("000000-g00-0", "000001-g00-0")


def write_game(folder):
    """Write a game that reached its aim, and one that the buyer broke off by a refused move after the seller's talk."""
    ends = (
        Outcome(
            status="terminated", reason="agreement", payoff={"seller": 0.75, "buyer": 0.25}, facts={"success": True}
        ),
        Outcome(
            status="terminated",
            reason="rule_violation",
            by="buyer",
            protocol_ok=False,
            payoff={"seller": 0.0, "buyer": -1.0},
            facts={"success": False},
        ),
    )
    actions = (
        (Action(kind="offer", value=120), Action(kind="accept")),
        (None, Action(kind="offer", value=900, legal=False)),
    )
    with RunWriter.create(folder, {"kind": "train", "env": "haggle"}, "steps: 2\n") as writer:
        for step, (id, outcome) in enumerate(zip(GAME_IDS, ends, strict=True)):
            roles = ("seller", "buyer")
            turns = [
                Turn(role=role, text=f"{role} speaks", heard_text="", player="scripted", action=action)
                for role, action in zip(roles, actions[step], strict=True)
            ]
            scenario = Scenario(env="haggle", seed=step, split="train", roles=roles)
            players = {role: PlayerInfo(policy="scripted") for role in roles}
            writer.append(Conversation(id=id, scenario=scenario, players=players, turns=tuple(turns), outcome=outcome))
            paid = {f"game/payoff/{role}": value for role, value in outcome.payoff.items()}
            success, kept = float(outcome.facts["success"]), float(outcome.protocol_ok)
            paid |= {"game/payoff": sum(outcome.payoff.values()) / 2, "game/success": success}
            writer.log_metrics(step, {**paid, "game/protocol_ok": kept})
    return folder


@pytest.fixture(scope="module")
def records(runs):
    return {record["id"]: record for record in RunReader(runs / "chat").records()}


@pytest.fixture(scope="module")
def index(runs, tmp_path_factory):
    found = TranscriptIndex(runs / "chat", file=tmp_path_factory.mktemp("index") / "own.sqlite")
    found.refresh()
    yield found
    found.close()


@pytest.fixture(scope="module")
def talk(records):
    """A conversation that has everything: six whole turns, one of which asks something back."""
    return next(record for record in records.values() if record["step"] > 2 and _is_rich(record))


@pytest.fixture(scope="module")
def address(runs):
    with serving(runs) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.fixture
def window(browser, address):
    """Open windows, with settings of Playwright's; at the end none may have complained or asked anybody else."""
    with contextlib.ExitStack() as stack:
        opened = []

        def open_window(place=address, **settings):
            opened.append(stack.enter_context(watching(browser, place, **settings)))
            return opened[-1]

        yield open_window
        assert [watched.complaints for watched in opened] == [[]] * len(opened)
        assert [watched.asked_elsewhere for watched in opened] == [[]] * len(opened)


@pytest.fixture
def visit(window):
    """Open a path in a fresh window."""
    return lambda path, **settings: window(**settings).open(path)


def _is_rich(record):
    whole = len(record["turns"]) == 6 and all(turn["finish"] == "stop" for turn in record["turns"])
    return whole and record["scenario"]["split"] == "train" and _asks_back(record) is not None


def _asks_back(record):
    """Return the turn that ends with a question, by the run's own reward; None: no turn does."""
    parts = (record["rewards"] or {}).get("parts", [])
    asked = (part["turn"] for part in parts if part["name"] == "asks_back" and part["raw"] == 1)
    return next(asked, None)


def conversation(record, rest="", run="chat"):
    return f"/r/{quote(run, safe='')}/c/{record if isinstance(record, str) else record['id']}{rest}"


def until(read, wanted, seconds=10.0):
    """Read until that is as wanted: pages answer in their own time."""
    deadline = time.monotonic() + seconds
    while (found := read()) != wanted and time.monotonic() < deadline:
        time.sleep(0.03)
    assert found == wanted


def rows_in(page):
    """Return the list's rows as they stand: place in the list (from 0) -> id of the conversation."""
    script = """() => [...document.querySelectorAll("[role=grid] [role=row][aria-rowindex]")].map(
      (row) => [Number(row.getAttribute("aria-rowindex")) - 2, row.querySelector("a[href]").getAttribute("href")])"""
    return {place: unquote(href.rsplit("/", 1)[1]) for place, href in sorted(page.evaluate(script))}


def first_rows(page, num=10):
    return list(rows_in(page).values())[:num]


def see(page, text, **settings):
    page.get_by_text(text, **{"exact": True, **settings}).first.wait_for()


def shown_number(value, digits=2, *, has_sign=False):
    text = f"{value:+.{digits}f}" if has_sign else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ----- overview -----


def test_overview_shows_what_was_rewarded_what_changed_and_the_alarms(visit, runs):
    page = visit("/r/chat")
    see(page, "What was rewarded")
    weights = {"question": "+1", "sentiment": "+0.50", "conversation_repetition": "only measured"}
    for name, weight in weights.items():
        assert weight in row_of(page, name).first.inner_text()
    source = row_of(page, "asks_back").first.get_by_role("link", name="source").get_attribute("href")
    assert page.request.get(page.url.partition("/r/")[0] + source).text() == SOURCE

    metrics = json.loads((runs / "chat" / "evaluation.json").read_text())["metrics"]
    reward = metrics["reward/per_conversation"]
    told = row_of(page, "reward of a conversation").inner_text()
    assert [f"{reward[side]:.2f}" in told for side in ("base", "trained", "low", "high")] == [True] * 4

    alarms = lines(runs / "chat" / "alarms.jsonl")
    see(page, f"{len(alarms)} alarms")
    for alarm in alarms:
        card = page.get_by_role("listitem").filter(has_text=f"step {alarm['step']}").filter(has_text="show me")
        assert "look_at" in alarm
        assert card.get_by_role("link", name=alarm["look_at"][0]).get_attribute("href").endswith(alarm["look_at"][0])
    assert page.get_by_role("status").first.inner_text().startswith("finished · last line")


def row_of(page, name):
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=True))


def test_list_of_runs_leads_to_each_run_and_an_unknown_one_is_told(window):
    watched = window()
    page = watched.open("/")
    page.get_by_role("link", name="written", exact=True).click()
    see(page, "What was rewarded")
    assert unquote(page.url).endswith("/r/written")
    page = watched.open("/r/nowhere")
    assert "there is no run 'nowhere'" in page.get_by_role("alert").inner_text()
    assert [text for text in watched.complaints if "404" not in text] == []
    watched.complaints.clear()  # the browser itself counts a 404 as an error


def test_damaged_run_opens_with_a_notice_of_what_was_skipped(visit):
    page = visit("/r/damaged")
    see(page, "What was rewarded" if page.get_by_text("What was rewarded").count() else "Read these")
    told = page.locator("main").inner_text()
    assert [text for text in SKIPPED if text not in told] == []
    page.goto(page.url + "/list")
    see(page, "7 conversations")
    assert sorted(rows_in(page).values()) == sorted([*IDS, NEW_ID])
    page.goto(page.url.replace("/list", f"/c/{NEW_ID}"))
    see(page, "What do you like?")
    assert page.get_by_role("button", name="exact tokens").count() == 0


# ----- list -----


def filter_box(page):
    box = page.get_by_role("combobox", name="Filter")
    box.wait_for()
    return box


def test_filter_is_applied_while_it_is_typed(visit, records):
    wanted = {id for id, record in records.items() if record["outcome"]["reason"] == "leaving"}
    assert 0 < len(wanted) < 40
    page = visit("/r/chat/list")
    see(page, f"{NUM} conversations")
    filter_box(page).press_sequentially("reason=leaving")
    see(page, f"{len(wanted)} of {NUM}")
    assert set(rows_in(page).values()) == wanted


def test_filter_that_is_none_is_told_and_the_rows_stay(window, index):
    watched = window()
    page = watched.open("/r/chat/list")
    until(lambda: first_rows(page), index.ids(sort="newest")[:10])
    box = filter_box(page)
    box.fill("rewrd<1")
    box.press("Enter")
    until(lambda: "rewrd" in page.get_by_role("alert").inner_text(), wanted=True)
    assert "reward" in page.get_by_role("alert").inner_text()
    assert first_rows(page) == index.ids(sort="newest")[:10]
    box.fill("turns=6")
    box.press("Enter")
    see(page, f"{index.page('turns=6').total} of {NUM}")
    page.get_by_role("alert").wait_for(state="hidden")
    assert [text for text in watched.complaints if "400" not in text] == []
    watched.complaints.clear()  # the browser itself counts a 400 as an error


def test_filter_box_completes_fields_and_their_values(visit, records):
    wanted = sum(record["outcome"]["reason"] == "context_full" for record in records.values())
    page = visit("/r/chat/list")
    box = filter_box(page)
    box.press_sequentially("reas")
    page.get_by_role("option", name="reason").wait_for()
    box.press("ArrowDown")
    box.press("Enter")
    page.get_by_role("option", name="context_full").click()
    assert box.input_value() == "reason=context_full"
    see(page, f"{wanted} of {NUM}")


def test_search_finds_words_anywhere_in_what_was_said(visit, records):
    wanted = {id for id, record in records.items() if any("TORN MAP" in t["text"].upper() for t in record["turns"])}
    assert 0 < len(wanted) < NUM
    page = visit("/r/chat/list")
    box = filter_box(page)
    box.fill('"torn map"')
    box.press("Enter")
    see(page, f"{len(wanted)} of {NUM}")
    assert wanted >= set(rows_in(page).values()) > set()


@pytest.mark.parametrize("key", ["reward.question", "value.sentiment", "surprise", "oldest"])
def test_list_is_sorted_as_the_index_sorts(key, visit, index):
    page = visit("/r/chat/list")
    page.get_by_label("Sort by").select_option(key)
    until(lambda: first_rows(page), index.ids(sort=key)[:10])
    if key != "oldest":
        page.get_by_role("button", name="high first").click()
        until(lambda: first_rows(page), index.ids(sort=key, descending=False)[:10])


def test_address_holds_the_state_of_the_list(visit, index):
    query = "turns>3 & split=train"
    page = visit("/r/chat/list")
    page.get_by_label("Sort by").select_option("value.question")
    filter_box(page).fill(query)
    page.get_by_role("button", name="by scenario").click()  # at once, while the filter waits to be applied
    see(page, f"{index.page(query).total} of {NUM}")
    page.get_by_text("group mean").first.wait_for()
    before = rows_in(page)
    assert before
    page.reload()
    until(lambda: rows_in(page), before)
    assert filter_box(page).input_value() == query
    assert page.get_by_label("Sort by").input_value() == "value.question"
    assert page.get_by_role("button", name="by scenario").get_attribute("aria-pressed") == "true"


def test_list_keeps_few_rows_however_far_it_is_scrolled(visit, index):
    ids = index.ids(sort="newest")
    page = visit("/r/chat/list")
    until(lambda: first_rows(page), ids[:10])
    for key, place in (("G", NUM - 1), ("g", 0), ("G", NUM - 1)):
        page.keyboard.press(key)
        until(lambda place=place: rows_in(page).get(place), ids[place])
        found = rows_in(page)
        assert len(found) < 60
        assert found == {place: ids[place] for place in found}
    page.get_by_role("grid").evaluate("(grid) => (grid.scrollTop = grid.scrollHeight / 2)")
    until(lambda: rows_in(page).get(NUM // 2), ids[NUM // 2])
    assert rows_in(page) == {place: ids[place] for place in rows_in(page)}


def test_conversations_open_by_key_and_back_returns_to_the_row(visit, index):
    ids = index.ids(sort="reward")
    page = visit("/r/chat/list?sort=reward")
    until(lambda: first_rows(page), ids[:10])
    for _ in range(40):
        page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{conversation(ids[39])}")
    page.go_back()
    until(lambda: rows_in(page).get(39), ids[39])
    link = page.get_by_role("row").filter(has=page.locator(f'a[href$="{ids[39]}"]'))
    assert link.evaluate("(row) => row.getBoundingClientRect().bottom < innerHeight && row.offsetTop > 0")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{conversation(ids[39])}")


def test_conversation_opens_by_click_anywhere_on_its_row(visit, index):
    ids = index.ids(sort="newest")
    page = visit("/r/chat/list")
    until(lambda: first_rows(page), ids[:10])
    page.get_by_role("row").nth(4).get_by_role("gridcell").nth(4).click()
    page.wait_for_url(f"**{conversation(ids[3])}")
    page.get_by_role("article").first.wait_for()


# ----- conversation -----


def turn_of(page, record, number):
    return page.get_by_role("article", name=f"turn {number}, {record['turns'][number]['role']}", exact=True)


def test_part_of_a_reward_says_why_when_it_is_clicked(visit, talk):
    turn = turn_of(visit(conversation(talk)), talk, _asks_back(talk))
    chip = turn.get_by_role("button", name=re.compile("^asks_back"))
    chip.click()
    see(turn, "ends with a question")
    assert "weight 0: measured, not rewarded" in turn.inner_text()
    chip.click()
    turn.get_by_text("ends with a question", exact=True).wait_for(state="hidden")


def test_every_turn_is_shown_as_it_was_said(visit, talk):
    page = visit(conversation(talk))
    for number, turn in enumerate(talk["turns"]):
        article = turn_of(page, talk, number)
        article.wait_for()
        assert turn["text"] in article.inner_text()
        total = shown_number(talk["rewards"]["per_turn"][number], has_sign=True)
        assert total.lstrip("+") in article.inner_text()


def tokens_in(page):
    """Return [turn, position, text, background] of each token that was said."""
    script = """() => [...document.querySelectorAll("article [data-k]")].map((token) => [
      Number(token.closest("article").id.slice(1)), Number(token.dataset.k), token.textContent,
      getComputedStyle(token).backgroundColor])"""
    return page.evaluate(script)


def test_colours_of_tokens_follow_the_chosen_quantity(visit, talk, runs):
    kl = {turn["turn"]: turn["kl"] for turn in RunReader(runs / "chat").tokens_record(talk["id"])["turns"]}
    page = visit(conversation(talk))
    page.get_by_label("colour tokens by").select_option(label="KL to reference")
    found = tokens_in(page)
    said = {number: "".join(text for turn, _, text, _ in found if turn == number) for number in range(6)}
    assert said == {number: turn["text"] + "<|im_end|>" for number, turn in enumerate(talk["turns"])}
    ranked = sorted((kl[turn][k], colour) for turn, k, _, colour in found)
    nothing = min(ranked, key=lambda pair: abs(pair[0]))[1]
    assert len({ranked[0][1], ranked[-1][1], nothing}) == 3
    page.get_by_label("colour tokens by").select_option(label="entropy")
    assert [row[3] for row in tokens_in(page)] != [row[3] for row in found]
    page.get_by_label("colour tokens by").select_option(label="nothing")
    assert tokens_in(page) == []


def test_scale_of_colours_is_the_same_for_all_conversations_of_a_run(visit, talk, index):
    quantiles = index.heat_scale()["kl"]
    most = shown_number(max(abs(quantiles[0]), abs(quantiles[-1])))
    told = []
    for id in (talk["id"], index.siblings(talk["id"])[-1].id, index.ids("split=train & status=terminated")[0]):
        page = visit(conversation(id, "?colour=kl"))
        scale = page.get_by_text("one scale for the whole run").locator("xpath=..")
        told.append(scale.inner_text())
    assert len(set(told)) == 1
    assert f"{MINUS}{most}" in told[0]
    assert told[0].count(most) == 2


def test_exact_tokens_show_what_was_heard_and_said(visit, talk):
    page = visit(conversation(talk))
    page.get_by_role("button", name="exact tokens").click()
    article = turn_of(page, talk, 1)
    turn = talk["turns"][1]
    see(article, f"heard {turn['num_heard_tokens']}")
    see(article, f"said {turn['num_tokens']}")
    text = article.inner_text()
    assert f"user\n{turn['heard_text']}<|im_end|>" in text
    assert f"{turn['text']}<|im_end|>" in text
    page.reload()  # the address says so too
    see(turn_of(page, talk, 1), f"heard {turn['num_heard_tokens']}")


def test_view_as_one_role_hides_what_the_other_alone_was_told(visit):
    page = visit(conversation(HOSTILE_IDS[0], run=HOSTILE))
    page.get_by_role("article").first.wait_for()
    told = page.locator("main").text_content()
    assert [secret in told for secret in SECRETS.values()] == [True, True]
    for role, other in ((GUEST, "the host"), ("host<b>", "the guest")):
        page.get_by_role("group", name="View as").get_by_role("button", name=role, exact=True).click()
        told = page.locator("main").text_content()
        own = "the guest" if other == "the host" else "the host"
        assert f"what only {own} is told" in told
        assert f"what only {other} is told" not in told


def test_link_to_a_turn_shows_that_turn(visit, talk):
    page = visit(conversation(talk, "#t5"), viewport={"width": 1280, "height": 380})
    page.get_by_text("turn=5").wait_for()
    until(lambda: is_seen(turn_of(page, talk, 5)), wanted=True)
    assert not is_seen(turn_of(page, talk, 0))


def is_seen(locator):
    script = "(element) => { const box = element.getBoundingClientRect(); return [box.top, box.bottom, innerHeight]; }"
    top, bottom, height = locator.evaluate(script)
    return top < height - 20 and bottom > 20


def test_link_to_a_token_shows_that_token(visit, talk):
    page = visit(conversation(talk, "#t3.k2"))
    page.get_by_text("turn 3, token 2", exact=True).wait_for()
    token = next(text for turn, k, text, _ in tokens_in(page) if (turn, k) == (3, 2))
    told = page.get_by_role("status").filter(has_text="turn 3, token 2").inner_text()
    assert json.dumps(token) in told
    page.get_by_text("turn=3").wait_for()
    turn_of(page, talk, 3).locator("[data-k='3']").click()
    page.get_by_text("turn 3, token 3", exact=True).wait_for()
    assert page.url.endswith("#t3.k3")


def test_next_and_previous_follow_the_list_or_else_the_ids(visit, index):
    ids = index.ids(sort="reward")
    page = visit("/r/chat/list?sort=reward")
    until(lambda: first_rows(page), ids[:10])
    page.locator(f'a[href$="{ids[2]}"]').click()
    see(page, f"3 of {NUM}")
    page.get_by_role("link", name="next").click()
    page.wait_for_url(f"**{conversation(ids[3])}")
    see(page, f"4 of {NUM}")
    page.keyboard.press("[")
    page.wait_for_url(f"**{conversation(ids[2])}")

    previous, following = index.neighbours(ids[2])
    page = visit(conversation(ids[2]))
    assert page.get_by_role("link", name="next").get_attribute("href").endswith(following)
    assert page.get_by_role("link", name="previous").get_attribute("href").endswith(previous)


def test_tags_are_added_and_taken_back_in_the_run(visit, talk, runs):
    path = runs / "written" / "annotations.jsonl"
    before = len(lines(path))
    page = visit(conversation(talk, "#t2", run="written"))
    page.get_by_text("turn=2").wait_for()
    page.get_by_label("New tag").fill("<b>odd</b>")
    page.get_by_role("button", name="Add").click()
    remove = page.get_by_role("button", name="remove tag <b>odd</b>")
    remove.wait_for()
    remove.click()
    remove.wait_for(state="detached")
    page.get_by_label("New tag").fill("to keep")
    page.get_by_label("New tag").press("Enter")
    page.get_by_role("button", name="remove tag to keep").wait_for()
    added = lines(path)[before:]
    assert {(line["conversation"], line["kind"]) for line in added} == {(talk["id"], "tag")}
    assert [(line["data"]["tag"], line["data"]["remove"], line["turn"]) for line in added] == [
        ("<b>odd</b>", False, None),
        ("<b>odd</b>", True, None),
        ("to keep", False, None),
    ]
    page.goto(page.url.partition("/c/")[0] + '/list?q=tag%3D"to keep"')
    see(page, f"1 of {NUM}")
    assert first_rows(page) == [talk["id"]]


def test_command_that_plays_on_is_copied(window, talk, runs):
    page = window(permissions=["clipboard-read", "clipboard-write"]).open(conversation(talk, "#t4"))
    page.get_by_role("button", name="copy the command").click()
    wanted = f"play from={runs / 'chat'}/{talk['id']} turn=4"
    until(lambda: page.evaluate("navigator.clipboard.readText()").partition(" play ")[2], wanted.partition(" ")[2])


# ----- compare -----


def compared(index, part=""):
    base, trained = (Side(run="chat", index=index, version=version) for version in (0, STEPS))
    return compare_versions(base, trained, part=part)


@pytest.mark.parametrize("part", ["", "sentiment"])
def test_comparison_counts_what_was_won_and_lost(part, visit, index):
    wanted = compared(index, part)
    page = visit(f"/cmp?a=chat@0&b=chat@{STEPS}&part={part}")
    see(page, shown_number(wanted.difference.difference, has_sign=True))
    told = page.locator("main").inner_text()
    for result, word in (("win", "better"), ("tie", "equal"), ("loss", "worse")):
        num = wanted.count(result)
        assert (f"{num} {word}" in told) == (num > 0)
    low, high = (shown_number(value, has_sign=True) for value in (wanted.difference.low, wanted.difference.high))
    assert f"95% interval {low} to {high}, {len(wanted.scenarios)} scenarios" in told
    about = page.get_by_role("list", name=re.compile("^Scenarios")).get_by_role("listitem").all_inner_texts()
    assert [text.partition("\n")[0] for text in about] == [scenario.about for scenario in wanted.scenarios]


def test_only_regressions_leaves_what_fell_and_keys_move(visit, index):
    scenarios = compared(index, "sentiment").scenarios
    fell = [scenario for scenario in scenarios if scenario.difference < 0]
    assert 1 < len(fell) < len(scenarios)
    page = visit(f"/cmp?a=chat@0&b=chat@{STEPS}&part=sentiment")
    items = page.get_by_role("list", name=re.compile("^Scenarios")).get_by_role("listitem")
    page.get_by_role("heading", name=scenarios[0].about).wait_for()
    assert items.count() == len(scenarios)
    page.get_by_role("button", name="Only regressions").click()
    assert items.count() == len(fell)
    page.keyboard.press("j")
    page.get_by_role("heading", name=fell[1].about).wait_for()
    for id in (fell[1].a[0], fell[1].b[0]):
        page.get_by_role("link", name=id).wait_for()
    assert quote(fell[1].scenario, safe="") in page.url
    page.keyboard.press("r")
    assert items.count() == len(scenarios)


def test_swapped_sides_turn_the_difference_round(visit, index):
    value = compared(index).difference.difference
    page = visit(f"/cmp?a=chat@0&b=chat@{STEPS}")
    see(page, shown_number(value, has_sign=True))
    page.keyboard.press("s")
    see(page, shown_number(-value, has_sign=True))


# ----- label -----


def said_in(page, name):
    """Return what one side's conversation says, turn by turn."""
    found = page.get_by_role("region", name=f"Conversation {name}").get_by_role("article").all_inner_texts()
    return [text.partition("\n")[2].strip() for text in found]


def texts_of(record):
    return [turn["text"].strip() for turn in record["turns"]]


def open_pairs(window, person):
    watched = window()
    watched.page.add_init_script(f"localStorage.setItem('person', JSON.stringify('{person}'))")
    page = watched.open("/r/written/label")
    page.get_by_role("region", name="Conversation b").wait_for()
    return page


def choices_of(runs, person):
    return [one for one in read_preferences(runs / "written").preferences if one.by == f"person:{person}"]


def vote(page, key, runs, person):
    """Choose by key, and return what was stored."""
    before = len(choices_of(runs, person))
    page.wait_for_timeout(400)  # a vote that comes sooner is a slip
    page.keyboard.press(key)
    until(lambda: len(choices_of(runs, person)), before + 1)
    page.get_by_text(f"{before + 1} / ").wait_for()
    return choices_of(runs, person)[-1]


def test_votes_are_stored_as_chosen_whichever_side_it_was(window, runs, records):
    person = "anon-v"
    page = open_pairs(window, person)
    wanted = {"1": ("left", "much"), "2": ("left", None), "3": ("tie", None), "4": ("right", None)}
    wanted |= {"5": ("right", "much"), "0": ("both_bad", None)}
    for key, choice in wanted.items():
        seen = said_in(page, "a"), said_in(page, "b")
        stored = vote(page, key, runs, person)
        assert (stored.choice, stored.strength) == choice
        assert seen == (texts_of(records[stored.left]), texts_of(records[stored.right]))


def test_undo_takes_the_last_vote_back_and_shows_its_pair_again(window, runs):
    person = "anon-u"
    page = open_pairs(window, person)
    vote(page, "1", runs, person)
    seen = said_in(page, "a"), said_in(page, "b")
    stored = vote(page, "4", runs, person)
    page.keyboard.press("u")
    until(lambda: len(choices_of(runs, person)), 1)
    assert lines(runs / "written" / "preferences.jsonl")[-1]["withdraws"] == stored.id
    until(lambda: (said_in(page, "a"), said_in(page, "b")), seen)


def test_page_tells_nothing_of_who_played_before_the_vote(window, runs, records):
    page = open_pairs(window, "anon-b")
    shown = page.locator("html").inner_html()
    assert re.search(r"\d{6}-[ge]\d\d|learner@|version \d|smollm", shown) is None
    stored = vote(page, "2", runs, "anon-b")
    told = page.get_by_role("status").filter(has_text="The pair before").inner_text()
    for id in (stored.left, stored.right):
        assert id in told
        assert f"version {records[id]['players']['host']['version']}" in told


def test_pairs_come_back_swapped_and_show_whether_one_agrees_with_oneself(window, runs):
    page = open_pairs(window, PERSON)
    for _ in range(30):
        # Always the longer one, so that the same is said of a pair whichever way it stands.
        sizes = [len("".join(said_in(page, name))) for name in "ab"]
        if (stored := vote(page, "2" if sizes[0] > sizes[1] else "4", runs, PERSON)).swap_of:
            break
    first = next(one for one in choices_of(runs, PERSON) if one.id == stored.swap_of)
    assert (stored.left, stored.right) == (first.right, first.left)
    assert stored.chosen == first.chosen
    see(page, "self-agreement 100%", exact=False)


# ----- while a run is indexed, and while it is written -----


@pytest.fixture
def batches(monkeypatch):
    """Return the semaphore that each batch of lines waits for: of it, whoever tests releases so many."""
    allowed, read_batch = threading.Semaphore(0), Indexing._read_batch

    def wait_and_read(self, found):
        allowed.acquire(timeout=20)
        return read_batch(self, found)

    monkeypatch.setattr(Indexing, "_read_batch", wait_and_read)
    monkeypatch.setattr(transcript_indexing, "BATCH_BYTES", 100_000)
    monkeypatch.setattr(view_runs, "PATIENCE_SECONDS", 0.1)
    yield allowed
    allowed.release(1000)


@pytest.mark.parametrize("part", ["", "/list"])
def test_page_shows_how_far_the_index_is_until_it_is_whole(part, window, runs, batches, tmp_path):
    shutil.copytree(runs / "written", tmp_path / "runs" / "big", ignore=shutil.ignore_patterns("index.sqlite*"))
    with serving(tmp_path / "runs") as address:
        page = window(address).open(f"/r/big{part}")
        page.get_by_text("indexing, 0 conversations so far").wait_for()
        batches.release()
        page.get_by_text(re.compile("indexing, [1-9][0-9]* conversations so far")).wait_for()
        assert page.get_by_text(f"{NUM} conversations").count() == 0
        if part:
            page.get_by_role("columnheader", name="reward", exact=True).wait_for()
            until(lambda: len(rows_in(page)) > 0, True)
        batches.release(1000)
        page.get_by_text(re.compile(rf"(^|· ){NUM} conversations")).wait_for()
        assert page.get_by_text("indexing").count() == 0


def test_page_follows_a_run_that_is_written(window, runs):
    made = StoredRun.create(runs / "live", conversations=40, steps=5, turns=4, seed=1, tokens="none")
    steps = made.steps()
    next(steps)
    page = window(reduced_motion="reduce").open("/r/live")
    page.evaluate("window.isFirstPage = true")
    see(page, "live · step 1/5")
    assert page.get_by_role("heading", name="alarm").count() == 0
    next(steps)
    see(page, "live · step 2/5")
    page.get_by_text("steps 0 to 1").wait_for()
    reader = RunReader(made.writer.folder)
    page.get_by_role("region", name="Live").get_by_role("link", name=reader.ids()[-1]).wait_for()
    next(steps)
    page.get_by_role("heading", name="1 alarm", exact=True).wait_for()

    page.keyboard.press("L")
    before = len(reader.ids())
    see(page, f"{before} conversations")
    next(steps)
    page.get_by_role("button", name="4 new").click()
    see(page, f"{before + 4} conversations")
    page.keyboard.press("M")
    page.get_by_text("steps 0 to 3").wait_for()
    next(steps)
    page.get_by_text("steps 0 to 4").wait_for()
    made.leave()
    page.get_by_text(re.compile("^killed · last line")).first.wait_for()
    assert page.evaluate("window.isFirstPage")


def test_metrics_page_draws_curves_and_shows_their_numbers(visit, runs):
    page = visit("/r/chat/metrics")
    page.locator("canvas").first.wait_for()
    page.get_by_text("All numbers", exact=True).click()
    last = lines(runs / "chat" / "metrics.jsonl")[-1]
    assert f"{last['reward/per_conversation']:.2f}" in row_of(page, "reward/per_conversation").inner_text()


# ----- a game -----


def test_metrics_page_of_a_game_draws_payoff_of_each_role_success_and_form(visit):
    page = visit("/r/game/metrics")
    see(page, "Payoff")
    page.locator("canvas").nth(1).wait_for()
    told = "".join(page.locator(".panels").inner_text().split("\n"))
    for words in ("payoff as seller0.000", f"payoff as buyer{MINUS}1.00", "success0.000", "form kept0.000"):
        assert words in told


def test_overview_of_a_game_that_is_rewarded_by_its_payoff_has_no_name_twice(window, runs, tmp_path):
    folder = shutil.copytree(runs / "game", tmp_path / "runs" / "paid")
    row = {"base": 0.25, "trained": 0.5, "difference": 0.25, "low": 0.125, "high": 0.375}
    names = ("game/payoff", "game/payoff/buyer", "game/win", "game/success", "reward/payoff", "reward/question")
    comparison = {"schema": "selfplay.comparison/1", "num_scenarios": 8, "num_dropped": 0, "confidence": 0.95}
    evaluation = {**comparison, "version": 2, "metrics": dict.fromkeys(names, row)}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    with serving(folder.parent) as address:
        page = window(address).open("/r/paid")
        see(page, "payoff as buyer")
        panel = page.locator(".panel", has_text="What was gained, what was lost")
        told = panel.locator("tbody tr > :first-child").all_inner_texts()
    assert sorted(told) == ["payoff", "payoff as buyer", "payoff, a turn", "question", "success", "won"]


def test_overview_of_a_zero_sum_game_against_others_draws_won_and_no_success(window, runs, tmp_path):
    folder = shutil.copytree(runs / "game", tmp_path / "runs" / "contest")
    paid = {"game/payoff": 0.5, "game/opponent_payoff": -0.5, "game/win": 0.75, "game/success": 0.25}
    shared = {**paid, "game/opponent_payoff": 0.25}
    captions = []
    for numbers in (paid, shared):
        stored = [{**line, **numbers} for line in lines(folder / "metrics.jsonl")]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stored))
        with serving(folder.parent) as address:
            page = window(address).open("/r/contest")
            see(page, "form kept")
            captions.append(page.locator(".curves figcaption .grow").all_inner_texts())
    assert captions == [["payoff", "won", "form kept"], ["payoff", "won", "success", "form kept"]]


def test_conversation_of_a_game_shows_payoff_success_fault_and_what_was_understood(visit):
    page = visit(f"/r/game/c/{GAME_IDS[1]}")
    see(page, "terminated: rule violation by buyer")
    for text in ("no success", "form not kept", "no move", "offer = 900"):
        see(page, text)
    see(page, "✗ against the rules", exact=False)
    outcome = " ".join(page.get_by_role("complementary").inner_text().split())
    assert "payoff seller 0 payoff buyer -1 form kept false fault buyer success false" in outcome
    page = visit(f"/r/game/c/{GAME_IDS[0]}")
    see(page, "✓ success")
    see(page, "offer = 120")
    assert page.get_by_text("fault", exact=True).count() == 0
    assert page.get_by_text("no move").count() == 0


def test_filter_and_order_of_the_list_know_payoff_and_success(visit):
    page = visit("/r/game/list?sort=payoff.buyer")
    until(lambda: first_rows(page), list(GAME_IDS))
    box = filter_box(page)
    box.press_sequentially("succ")
    page.get_by_role("option", name="success").wait_for()
    box.press("ArrowDown")
    box.press("Enter")
    page.get_by_role("option", name="false").click()
    until(lambda: first_rows(page), [GAME_IDS[1]])


def test_exported_page_of_a_game_filters_by_payoff_and_success(window, runs, tmp_path):
    page = window(exported(runs / "game", tmp_path / "game.html"), offline=True).open("")
    page.get_by_role("link", name="game", exact=True).click()
    page.get_by_role("navigation").get_by_role("link", name="List").click()
    see(page, "2 conversations")
    fitting = {"payoff=0.5": GAME_IDS[:1], "success=false": GAME_IDS[1:], "payoff.buyer<0": GAME_IDS[1:]}
    for query, ids in fitting.items():
        box = filter_box(page)
        box.fill(query)
        box.press("Enter")
        until(lambda: first_rows(page), list(ids))


# ----- a run that attacks the page -----

HOSTILE_PATH = f"/r/{quote(HOSTILE, safe='')}"
NAME = quote(HOSTILE, safe="")
HOSTILE_PAGES = {
    "runs": "/",
    "overview": HOSTILE_PATH,
    "list": f"{HOSTILE_PATH}/list",
    "by scenario": f"{HOSTILE_PATH}/list?group=1&sort=reward.{quote('praise<img src=x>')}",
    "conversation": conversation(HOSTILE_IDS[0], run=HOSTILE),
    "exact tokens": conversation(HOSTILE_IDS[0], "?view=exact", run=HOSTILE),
    "one role": conversation(HOSTILE_IDS[0], f"?view={quote(GUEST)}", run=HOSTILE),
    "failed": conversation(FAILED_ID, run=HOSTILE),
    "compare": f"/cmp?a={NAME}@0&b={NAME}@1",
    "label": f"{HOSTILE_PATH}/label",
    "metrics": f"{HOSTILE_PATH}/metrics",
}
SPEAKING = ("conversation", "one role", "failed", "compare", "label")
WITHOUT_A_RUN = ("runs",)


def settle(page):
    """Wait until a page has been still for a moment."""
    page.locator("main h1, main table, main article").first.wait_for(state="attached")
    page.evaluate("""() => new Promise((done) => {
      let timer = setTimeout(done, 120);
      const again = () => (clearTimeout(timer), (timer = setTimeout(done, 120)));
      new MutationObserver(again).observe(document.body, { subtree: true, childList: true, characterData: true });
    })""")


def press_everything(page):
    """Open whatever opens, so that all texts are on the page."""
    for what in ("main details:not([open]) > summary", "main article button[aria-expanded=false]:first-of-type"):
        while (closed := page.locator(what).locator("visible=true")).count():
            closed.first.click()


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_text_of_a_hostile_run_stays_text(name, visit):
    page = visit(HOSTILE_PAGES[name])
    settle(page)
    if name in SPEAKING:
        until(lambda: EVIL in page.locator("main").text_content(), wanted=True)
    press_everything(page)
    assert page.locator("main").locator(MARKUP).count() == 0
    assert page.title() != "owned"
    if name not in WITHOUT_A_RUN:
        assert HOSTILE in page.locator("body").text_content() + str(page.get_by_label("Run").all_inner_texts())


def test_message_of_a_hostile_run_is_shown_to_the_letter(visit):
    page = visit(HOSTILE_PAGES["conversation"])
    articles = page.get_by_role("article")
    articles.nth(3).wait_for()
    assert f"{EVIL} {REVERSED} {HOSTILE_IDS[0]}" in articles.nth(0).text_content()
    assert f"{ENDS_BLOCKS} {HOSTILE_IDS[0]}" in articles.nth(2).text_content()


def test_huge_message_is_folded_and_the_page_stays_quick(visit):
    page = visit(HOSTILE_PAGES["conversation"])
    article = page.get_by_role("article").nth(1)
    more = article.get_by_role("button", name="show all 100,000 characters")
    more.wait_for()
    assert len(article.text_content()) < 10_000
    started = time.monotonic()
    more.click()
    assert LONG in article.text_content()
    page.keyboard.press("j")
    page.get_by_text("turn=2").wait_for()
    assert time.monotonic() - started < 5


CHAT_PAGES = ("/r/chat", "/r/chat/list", "/r/chat/list?group=1", f"/cmp?a=chat@0&b=chat@{STEPS}")
CHAT_PAGES += ("/r/chat/label", "/r/chat/metrics")


def test_no_page_is_wider_than_a_phone(window, talk):
    watched = window(viewport={"width": 390, "height": 800})
    widths = {}
    for path in (*CHAT_PAGES, conversation(talk, "?colour=kl"), *HOSTILE_PAGES.values()):
        page = watched.open(path)
        settle(page)
        widths[unquote(path)] = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert {path: width for path, width in widths.items() if width != [390, 390]} == {}


# ----- a page in one file -----


def exported(folder, out):
    request = Request(to="html", out=out, has_tokens=True)
    # It has a loop of its own, as the browser's has in this thread.
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(export, folder, request).result(timeout=60).num > 0
    return out.as_uri()


def test_exported_page_opens_from_disk_filters_and_shows_a_conversation(window, runs, talk, index, tmp_path):
    place = exported(runs / "chat", tmp_path / "chat.html")
    watched = window(place, offline=True)
    page = watched.open("")
    page.get_by_role("link", name="chat", exact=True).click()
    see(page, "What was rewarded")
    page.get_by_role("navigation").get_by_role("link", name="List").click()
    box = filter_box(page)
    query = f'turns=6 & id~"{talk["group"]}"'
    box.fill(query)
    box.press("Enter")
    see(page, f"{index.page(query).total} of {NUM}")
    page.locator(f'a[href$="{talk["id"]}"]').click()
    turn_of(page, talk, 5).wait_for()
    page.get_by_label("colour tokens by").select_option(label="KL to reference")
    assert len({colour for *_, colour in tokens_in(page)}) > 2
    page.keyboard.press("M")
    page.locator("canvas").first.wait_for()
    assert {url.partition("#")[0] for url in watched.asked if not url.startswith(("data:", "blob:"))} == {place}


def test_exported_hostile_run_stays_text(window, runs, tmp_path):
    page = window(exported(runs / HOSTILE, tmp_path / "odd.html"), offline=True).open(
        f"#{HOSTILE_PAGES['conversation']}"
    )
    page.get_by_role("article").nth(3).wait_for()
    press_everything(page)
    assert page.locator("main").locator(MARKUP).count() == 0
    assert page.title() != "owned"
    assert EVIL in page.get_by_role("article").first.text_content()


# ----- everywhere -----


def test_theme_is_switched_and_remembered(visit):
    page = visit("/r/chat", color_scheme="light")
    light = background(page)
    page.get_by_role("button", name="Light or dark").click()
    dark = background(page)
    assert min(light) > 200
    assert max(dark) < 60
    page.reload()
    see(page, "What was rewarded")
    assert background(page) == dark
    page.get_by_role("button", name="Light or dark").click()
    assert background(page) == light


def background(page):
    found = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return tuple(int(number) for number in re.findall(r"\d+", found))


def test_keys_are_listed_and_lead_from_page_to_page(visit):
    page = visit("/r/chat/list")
    see(page, f"{NUM} conversations")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert "next conversation" in dialog.inner_text()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    for key, heading in (("M", "Metrics"), ("B", "Who would you rather"), ("C", "Compare"), ("O", "chat")):
        page.keyboard.press(key)
        page.get_by_role("heading", name=heading).first.wait_for()
