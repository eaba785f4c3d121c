"""Open questions by hand: what counts, what is closed, what is no question."""

from __future__ import annotations

import pytest

from rewards.asking import OpenQuestion
from rewards.words import count_question_words, words_of
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Turn


def asked(text: str) -> float:
    turn = Turn(role="host", text=text, heard_text="", player="scripted")
    scenario = Scenario(env="test", seed=0, split="train", roles=("host", "guest"))
    [scores] = OpenQuestion().score([Conversation(id="000000-g00-0", scenario=scenario, turns=(turn,))])
    return scores.values.item()


def test_open_question_keeps_its_contract():
    assert (OpenQuestion.name, OpenQuestion.range) == ("open_question", (0.0, 1.0))
    check_reward(OpenQuestion())


@pytest.mark.parametrize(
    "text",
    [
        "What do you like about rain?",
        "Why is that?",
        "HOW DID IT GO?!",
        "What's it like? I never went.",
        "What\u2019re you reading?",
        "I like tea. And how about you?",
        "Oh, and what made you leave?",
        "Well, why do you ask?",
        "Nice!\nHow was the garden?",
        "Tell me about your dog.",
        "So tell me more!",
        "Could you please tell me about it?",
        '"What do you think?" she said.',
        "How many? And why so many?",
    ],
)
def test_open_question_counts_where_a_sentence_opens_with_one(text: str):
    assert asked(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "???",
        "What?",
        "So what?",
        "Well, why not?",
        "Do you like rain?",
        "Who are you then?",
        "Where do you live?",
        "How many books do you have?",
        "How old are you?",
        "And what time is it?",
        "What's your name?",
        "What a lovely day, isn't it?",
        "What I like is rain.",
        "How was the garden",
        "I know what you like. Really?",
        "I wonder, do you know how it works?",
    ],
)
def test_open_question_leaves_out_what_is_closed_short_or_no_question(text: str):
    assert asked(text) == 0.0


def test_open_question_does_not_find_its_words_inside_others():
    # The originals find "how" in "show" and "what" in "whatever".
    assert [asked(text) for text in ("Show me the hat?", "However did you go?", "Whatever you like, right?")] == [
        0,
        0,
        0,
    ]


def test_open_question_takes_two_lead_ins_at_most():
    assert asked("So, well, what do you think?") == 1.0
    assert asked("So, well, okay, what do you think?") == 0.0


def test_remembered_words_cannot_be_changed_by_who_asked():
    words_of("what a day").clear()
    assert words_of("what a day") == ["what", "a", "day"]
    assert [count_question_words("What? Show how!") for _ in range(2)] == [2, 2]
