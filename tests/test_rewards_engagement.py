"""Engagement by hand: words elicited, lengths, stopping."""

from __future__ import annotations

import numpy as np
import pytest

from rewards.engagement import ConversationLength, OwnLength, Stopping, WordsElicited
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Finish, Scenario, Turn
from selfplay.errors import UserError

NAN = np.nan


def talk(*texts: str, roles: str, finish: Finish = "text") -> Conversation:
    turns = [
        Turn(role=role, text=text, heard_text="", player="scripted", finish=finish)
        for role, text in zip(roles, texts, strict=True)
    ]
    scenario = Scenario(env="test", seed=0, split="train", roles=("a", "b"))
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))


def values(reward, conversation: Conversation) -> list[float]:
    [scores] = reward.score([conversation])
    return scores.values.tolist()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (WordsElicited, "words_elicited"),
        (ConversationLength, "conversation_length"),
        (OwnLength, "own_length"),
        (Stopping, "stopping"),
    ],
)
def test_reward_keeps_its_contract(kind, name: str):
    assert (kind.name, kind.range) == (name, (0.0, 1.0))
    check_reward(kind())


def test_words_elicited_is_what_the_next_message_has_up_to_thirty():
    conversation = talk("Hello?", "It's three words.", "w " * 45, "...", roles="abab")
    # 3 of 30; 45 are cut to 30; "..." has none; nobody answers the last.
    np.testing.assert_allclose(values(WordsElicited(), conversation), [0.1, 1.0, 0.0, NAN], atol=1e-7)


def test_words_elicited_goes_to_every_turn_that_was_answered():
    conversation = talk("One.", "Two.", "one two three four five six", roles="aab")
    np.testing.assert_allclose(values(WordsElicited(), conversation), [0.2, 0.2, NAN], atol=1e-7)


def test_conversation_length_is_discounted_back_over_each_roles_turns():
    conversation = talk(*["x"] * 5, roles="ababa")
    # 5 turns of 10 are a half: on a's last turn and b's last; 0.8 and 0.64 of it before.
    found = values(ConversationLength(target=10, discount=0.8), conversation)
    np.testing.assert_allclose(found, [0.32, 0.4, 0.4, 0.5, 0.5], atol=1e-7)


def test_conversation_length_has_a_target_of_20_and_a_discount_of_095():
    long = values(ConversationLength(), talk(*["x"] * 24, roles="ab" * 12))
    assert long[-2:] == [1.0, 1.0]
    assert long[-4:-2] == pytest.approx([0.95, 0.95])
    assert values(ConversationLength(), talk("x", roles="a")) == pytest.approx([0.05])


def test_conversation_length_without_carrying_back_is_on_the_last_turns_alone():
    found = values(ConversationLength(target=4, discount=0.0), talk(*["x"] * 4, roles="abba"))
    assert found == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("num_words", "expected"),
    [(0, 0.0), (1, 0.2), (4, 0.8), (5, 1.0), (25, 1.0), (30, 0.8), (49, 0.04), (50, 0), (90, 0)],
)
def test_own_length_rises_to_five_words_and_falls_from_twenty_five(num_words: int, expected: float):
    assert values(OwnLength(), talk("w " * num_words, roles="a")) == pytest.approx([expected])


def test_own_length_of_one_length_only_is_a_peak():
    conversation = talk("w", "w w", "w w w", "w w w w", "", roles="ababa")
    assert values(OwnLength(low=2, high=2), conversation) == [0.5, 1.0, 0.5, 0.0, 0.0]
    assert values(OwnLength(low=0, high=1), conversation) == [1.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("stop", 1.0), ("length", 0.0), ("context_full", 0.0), ("token_limit", 0.0), ("text", NAN)],
)
def test_stopping_asks_who_ended_the_turn(finish: Finish, expected: float):
    np.testing.assert_array_equal(values(Stopping(), talk("Well then", roles="a", finish=finish)), [expected])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ConversationLength, {"target": 0}, "target=0 must be at least 1"),
        (ConversationLength, {"discount": 1.5}, "discount=1.5 must be from 0 to 1"),
        (OwnLength, {"low": -1}, "low=-1 must be at least 0"),
        (OwnLength, {"low": 9, "high": 8}, "high=8 must be at least 9"),
        (OwnLength, {"low": 0, "high": 0}, "high=0 must be at least 1"),
    ],
)
def test_settings_without_a_meaning_are_refused(kind, settings, message: str):
    with pytest.raises(UserError, match=message):
        kind(**settings)
