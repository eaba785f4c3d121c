import io
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from selfplay.commands.terminal import (
    first_words,
    one_line,
    open_console,
    print_conversation,
    print_turn,
    printable,
    role_style,
    share,
)
from selfplay.dialog import Action, Conversation, Outcome, PlayerInfo, Scenario, Turn
from selfplay.records_json import TokenCounts

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\rline\x08\x7f\u202ereversed\u2066\u200f\u2028[bold red]x[/] :smile: \ud800"
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # what rich itself writes for colours


def conversation(**changes):
    spoken = (
        Turn(
            role="buyer",
            text="I offer 120.",
            heard_text="The lamp is for sale.",
            player="learner@3",
            heard=np.arange(14, dtype=np.int32),
            said=np.arange(5, dtype=np.int32),
            logprobs=np.array([-1, -2, -3, -2, -2], dtype=np.float32),
            finish="length",
            action=Action(kind="offer", value=120),
            seconds=0.5,
        ),
        Turn(role="seller", text="No.", heard_text="I offer 120.", player="scripted", action=Action(kind="reject")),
    )
    base = Conversation(
        id="000003-g01-0",
        scenario=Scenario(
            env="lamp",
            seed=7,
            split="held_out",
            roles=("buyer", "seller"),
            public={"item": "lamp", "size": {"cm": 40}},
            private={"seller": {"floor": 90}},
        ),
        players={
            "buyer": PlayerInfo(policy="learner", version=3, model="smollm2-135m", trained=True, brief="Buy low."),
            "seller": PlayerInfo(policy="scripted", brief="Sell high."),
        },
        turns=spoken,
        outcome=Outcome(status="terminated", reason="no_deal", by="seller", payoff={"buyer": 0.0, "seller": -0.5}),
        started_at="2026-11-22T05:10:11.120Z",
        seconds=2.25,
    )
    return replace(base, **changes)


def shown(conversation, *, width=80, is_terminal=False, **settings):
    colours = "standard" if is_terminal else None
    console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=colours)
    print_conversation(console, conversation, **settings)
    return console.file.getvalue()


def test_printable_makes_what_steers_a_terminal_visible():
    assert printable("a\x1b[31m\x00\r\x7f\x9b") == "a␛[31m␀␍␡\\u009b"
    assert printable("\u202e\u2066\u200e\u061c\u2028\ud800") == "\\u202e\\u2066\\u200e\\u061c\\u2028\\ud800"


def test_printable_keeps_ordinary_text():
    text = "Wie schön!\n\t雨 🌧️ [b] \\n é"
    assert printable(text) == text


@given(st.text(st.one_of(st.characters(), st.sampled_from(HOSTILE))))
def test_printable_text_can_be_encoded_and_holds_no_control_characters(text):
    result = printable(text)
    result.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029]", result)


def test_one_line_shows_line_breaks_and_tabs():
    assert one_line("a\nb\tc") == "a␤b␉c"


def test_first_words_are_one_line_of_at_most_the_length():
    assert first_words(" What \n\n do\tyou think?", length=12) == "What do you…"
    assert first_words("What do you", length=11) == "What do you"


def test_conversation_is_printed_as_people_read_it():
    lines = [line.rstrip() for line in shown(conversation()).splitlines()]
    assert lines == [
        "000003-g01-0",
        "lamp · seed 7 · held_out · step 3 · perspective · 2026-11-22 05:10",
        'item: lamp · size: {"cm": 40}',
        "",
        "buyer · learner@3 · smollm2-135m · trained",
        "  only buyer sees: Buy low.",
        "",
        "seller · scripted",
        "  only seller sees: Sell high.",
        "  only seller sees: floor: 90",
        "",
        "0 buyer",
        "  heard: The lamp is for sale.",
        "  I offer 120.",
        # 5 tokens in 0.5 s; (1 + 2 + 3 + 2 + 2) / 5 = 2
        "  cut at its limit · offer 120 · heard 14, said 5 tokens · 0.50 s · 10 tokens/s",
        "  · mean log-prob -2.00",
        "",
        "1 seller",
        "  No.",
        "  reject",
        "",
        "no deal by seller · payoff buyer +0, seller -0.5",
        "2 turns · 50% cut · 14 tokens heard, 5 said · 2.2 s",
    ]


@pytest.mark.parametrize(
    ("finish", "where"),
    [("length", "its limit"), ("context_full", "the end of its context"), ("token_limit", "its stream's limit")],
)
def test_cut_turn_says_what_cut_it(finish, where):
    turn = Turn(role="buyer", text="I", heard_text="", player="learner@3", finish=finish)
    assert f"cut at {where}" in shown(replace(conversation(), turns=(turn,)))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_hostile_text_never_reaches_the_terminal(is_terminal):
    turn = Turn(role=HOSTILE, text=HOSTILE, heard_text=HOSTILE, player=HOSTILE, action=Action(kind=HOSTILE))
    scenario = Scenario(
        env=HOSTILE,
        seed=0,
        split="train",
        roles=(HOSTILE,),
        public={HOSTILE: HOSTILE, "list": [HOSTILE]},
        private={HOSTILE: {"secret": HOSTILE}},
    )
    outcome = Outcome(status="failed", reason="player_error", by=HOSTILE, payoff={HOSTILE: 1}, facts={"fact": HOSTILE})
    player = PlayerInfo(policy=HOSTILE, model=HOSTILE, brief=HOSTILE)
    output = shown(
        Conversation(
            id=HOSTILE,
            scenario=scenario,
            players={HOSTILE: player},
            turns=(turn,),
            outcome=outcome,
            error=HOSTILE,
            started_at=HOSTILE,
        ),
        width=1000,
        is_terminal=is_terminal,
    )
    plain = STYLE.sub("", output) if is_terminal else output
    assert plain == printable(plain)
    # The id, the brief, what was heard and the text are four of the places where it is shown as it stands.
    assert plain.count("[bold red]x[/] :smile: \\ud800") > 10
    output.encode("utf-8")


def test_role_named_by_its_place_has_a_colour_of_its_own():
    assert role_style("a", ("a", "b")) != role_style("b", ("a", "b"))
    assert role_style("stranger", ("a", "b")) == "bold"


def test_print_turn_shows_the_last_turn_by_default():
    console = Console(file=io.StringIO(), width=80)
    print_turn(console, conversation())
    assert [line.strip() for line in console.file.getvalue().splitlines()] == ["", "1 seller", "No.", "reject"]


def test_heard_text_is_shown_only_where_it_is_not_the_turn_before():
    first, second = conversation().turns
    announced = replace(second, heard_text="I offer 120. It is getting late.")
    assert "heard: I offer" not in shown(conversation())
    assert "heard: I offer 120. It is getting late." in shown(conversation(turns=(first, announced)))


def test_turn_without_text_and_illegal_action_say_so():
    turn = Turn(role="buyer", text="", heard_text="", player="human", action=Action(kind="offer", legal=False))
    output = shown(conversation(turns=(turn,)))
    assert "(nothing)" in output
    assert "offer (not legal)" in output


def test_counts_of_tokens_that_were_not_stored_can_be_given():
    counts = [TokenCounts(heard=3, said=1), TokenCounts(heard=4, said=2)]
    output = shown(conversation(), token_counts=counts)
    assert "heard 3, said 1 token " in output
    assert "7 tokens heard, 3 said" in output


def test_conversation_that_did_not_end_by_the_rules_says_how():
    failed = Outcome(status="failed", reason="player_error", by="buyer", protocol_ok=False)
    output = shown(conversation(outcome=failed, error="the human left"))
    assert "failed: player error by buyer · form not kept" in output
    assert "error: the human left" in output
    assert "unfinished" in shown(conversation(outcome=None, turns=()))


def test_share_of_nothing_is_a_dash():
    assert (share(1, 4), share(0, 0)) == ("25%", "-")


def test_console_shows_what_its_encoding_lacks(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    open_console().print("雨")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u96e8\n"
