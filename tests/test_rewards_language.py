"""Rewards for language that is still language, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rewards.language import (
    VOCABULARY,
    CutReply,
    DistinctWords,
    EmptyReply,
    OnlyQuestionWords,
    TooLong,
    UnknownWords,
    WellFormed,
)
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.errors import UserError

ROLES = ("host", "guest")
SCENARIO = Scenario(env="test", seed=0, split="train", roles=ROLES)
REWARDS = [DistinctWords, EmptyReply, CutReply, OnlyQuestionWords, UnknownWords, WellFormed, TooLong]


def chat(*texts: str) -> Conversation:
    turns = [Turn(role=ROLES[k % 2], text=text, heard_text="", player="scripted") for k, text in enumerate(texts)]
    return Conversation(id="000000-g00-0", scenario=SCENARIO, turns=tuple(turns))


def values(reward, *texts: str) -> list[float]:
    [scores] = reward.score([chat(*texts)])
    return [round(value, 4) for value in scores.values.tolist()]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda one: one.name)
def test_reward_keeps_its_contract(reward):
    check_reward(reward())


def test_distinct_words_is_the_share_of_pairs_that_are_new_to_the_role():
    texts = ["I like tea, I like tea", "I like tea", "I like cake"]
    # host: "i like", "like tea", "tea i" are new, "i like", "like tea" are not: 3/5; then "i like" is old: 1/2
    assert values(DistinctWords(), *texts) == [0.6, 1, 0.5]


def test_distinct_words_of_a_role_average_by_length_to_its_distinct_n():
    texts = ["rain rain sun", "-", "sun and moon and rain"]
    by_turn = values(DistinctWords(n=1), *texts)
    # 4 words of 8 tokens differ; "-" has none
    assert (3 * by_turn[0] + 5 * by_turn[2]) / 8 == pytest.approx(0.5, abs=1e-4)
    assert np.isnan(by_turn[1])


def test_distinct_words_does_not_apply_to_messages_shorter_than_n():
    assert np.isnan(values(DistinctWords(), "Hello", "")).all()
    with pytest.raises(UserError, match="n=0 must be at least 1"):
        DistinctWords(n=0)


def test_empty_is_a_message_without_a_word():
    assert values(EmptyReply(), "", " \n", "...", "?!", "\N{GRINNING FACE}", "ok", "7") == [-1, -1, -1, -1, -1, 0, 0]


def test_cut_tells_limits_from_speakers_and_leaves_out_who_has_no_tokens():
    finishes = ("stop", "length", "context_full", "token_limit", "text")
    turns = [Turn(role="host", text="x", heard_text="", player="learner@0", finish=finish) for finish in finishes]
    [scores] = CutReply().score([Conversation(id="000000-g00-0", scenario=SCENARIO, turns=tuple(turns))])
    np.testing.assert_array_equal(scores.values, np.array([0, -1, -1, -1, np.nan], dtype=np.float32))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("What? Where?", 1.0),
        ("???", 1.0),
        ("Why not?", 0.0),
        ("How are you? When?", 0.25),
        ("what where why i like tea", 0.5),
        ("Show me that shown show", 0.0),
        ("So what? I know what I do", 0.0),
        ("I like tea ????", 0.0),
        ("...", 0.0),
        ("", 0.0),
    ],
)
def test_only_question_words_counts_bare_ones(text: str, share: float):
    assert values(OnlyQuestionWords(), text) == [-share]


def test_unknown_words_counts_what_nobody_writes():
    texts = [
        "I do not like rainy days",
        "blorf zzxq day",
        "It's 1999, the 90's, isn't it?",
        "What\u2019s the doctor\u2019s name",
        "",
    ]
    assert values(UnknownWords(), *texts) == [0, -0.6667, 0, 0, 0]


def test_unknown_words_says_which():
    [scores] = UnknownWords().score([chat("blorf zzxq day")])
    assert scores.why == ("unknown: blorf, zzxq",)


def test_unknown_words_reads_a_vocabulary_of_ones_own(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# blorf is none\nDrachen fliegen\nhoch\n", encoding="utf-8")
    assert values(UnknownWords(vocabulary=str(file)), "Drachen fliegen hoch", "blorf hoch") == [0, -0.5]


def test_unknown_words_refuses_a_vocabulary_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt cannot be read as text"):
        UnknownWords(vocabulary=str(tmp_path / "gone.txt"))
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="has no words"):
        UnknownWords(vocabulary=str(tmp_path / "empty.txt"))


def test_vocabulary_of_the_package_is_small_and_names_its_source():
    text = VOCABULARY.read_text(encoding="utf-8")
    assert len(text) < 150_000
    assert "chitchat-dataset" in text.split("\na ")[0]


@pytest.mark.parametrize(
    "text",
    [
        "Hmm, I don't know... it's 9:30 (or 10%)!",
        "The catchphrase has rhythm, and strength; caf\u00e9 na\u00efve \u2013 \u201cwell\u201d.",
        "Sooo psst HTML TV",
        "",
        "  \n ",
    ],
)
def test_well_formed_text_costs_nothing(text: str):
    assert values(WellFormed(), text) == [0]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("A" * 5000, 1.0),
        ("\N{GRINNING FACE}\N{GRINNING FACE}", 1.0),
        ("\u041f\u0440\u0438\u0432\u0435\u0442", 1.0),
        ("<|im_end|><|im_start|>", 1.0),
        ("Hello</s>", 4 / 9),
        ("[INST] hello", 6 / 11),
        ("hello sdfgh", 0.5),
        ("hello aghrtklmnpu", 11 / 16),
        ("haaaa yes", 5 / 8),
        # four marks in a row count, the other six do not
        ("??????????", 0.6),
        ("ok | ok", 0.2),
        ("\x00\x1bhi", 0.5),
        ("1234567890123456", 1.0),
    ],
)
def test_well_formed_counts_the_characters_that_are_no_text(text: str, share: float):
    assert values(WellFormed(), text) == [pytest.approx(-share, abs=1e-4)]


def test_too_long_falls_from_60_words_to_150():
    texts = ["yes " * count for count in (0, 60, 105, 150, 400)]
    assert values(TooLong(), *texts) == [0, 0, -0.5, -1, -1]


def test_too_long_refuses_a_line_that_does_not_fall():
    with pytest.raises(UserError, match="free=60 must be at least 0 and below words=60"):
        TooLong(words=60)
