"""Weighted rewards: sums by hand, and rewards that fail."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from selfplay.dialog import Conversation, Outcome, Scenario, ScoredConversation, Scores, Turn
from selfplay.errors import UserError
from selfplay.score import WeightedReward, as_played, check_failures, failed_share, merged, parts_of, score, total


def chat(*texts: str, id: str = "000000-g00-0", status: str = "terminated") -> Conversation:
    turns = [Turn(role="ab"[k % 2], text=text, heard_text="", player="scripted") for k, text in enumerate(texts)]
    outcome = Outcome(status=status, reason="turn_limit" if status == "terminated" else "empty_reply")
    scenario = Scenario(env="test", seed=7, split="train", roles=("a", "b"))
    return Conversation(id=id, scenario=scenario, turns=tuple(turns), outcome=outcome)


@dataclass(frozen=True)
class Length:
    name: str = "length"

    def score(self, conversations):
        return [Scores(values=np.array([len(t.text) for t in c.turns], np.float32)) for c in conversations]


@dataclass(frozen=True)
class FirstTurnOnly:
    name: str = "first"

    def score(self, conversations):
        return [Scores(values=np.array([1.0] + [np.nan] * (c.num_turns - 1), np.float32)) for c in conversations]


@dataclass(frozen=True)
class Picky:
    name: str = "picky"

    def score(self, conversations):
        for conversation in conversations:
            if "bad" in conversation.turns[0].text:
                raise KeyError("bad word")
        scores = [np.full(c.num_turns, np.inf if "huge" in c.turns[0].text else 1.0) for c in conversations]
        return [
            Scores(values=s[:1] if "short" in c.turns[0].text else s)
            for s, c in zip(scores, conversations, strict=True)
        ]


def test_rewards_are_weighted_and_summed_and_what_does_not_apply_adds_nothing():
    [scored] = score(
        [chat("abc", "de")],
        [WeightedReward(reward=Length(), weight=0.5), WeightedReward(reward=FirstTurnOnly(), weight=2.0)],
    )
    # 3 * .5 + 1 * 2, and 2 * .5.
    assert scored.rewards.tolist() == [3.5, 1.0]
    assert scored.parts["length"].values.tolist() == [3, 2]


@dataclass(frozen=True)
class IsShort:
    """A gate: 1 up to two letters, a half for three, closed beyond; it does not apply to an empty message."""

    name: str = "short"

    def score(self, conversations):
        marks = {0: np.nan, 1: 1.0, 2: 1.0, 3: 0.5}
        return [
            Scores(values=np.array([marks.get(len(t.text), -1.0) for t in c.turns], np.float32)) for c in conversations
        ]


def test_gate_multiplies_a_positive_sum_and_never_forgives_a_negative_one():
    conversation = chat("ab", "abc", "abcdef", "")
    rewards = [WeightedReward(reward=Length(), weight=1.0), WeightedReward(reward=IsShort(), is_gate=True)]
    # 2 * 1, 3 * .5, 6 * 0 (-1 is cut to 0), and 0 where the gate does not apply.
    assert score([conversation], rewards)[0].rewards.tolist() == [2.0, 1.5, 0.0, 0.0]
    rewards[0] = WeightedReward(reward=Length(), weight=-1.0)
    assert score([conversation], rewards)[0].rewards.tolist() == [-2.0, -3.0, -6.0, 0.0]


@dataclass(frozen=True)
class Minus:
    """A penalty: minus the letters of a message, at most 4, quartered."""

    name: str = "minus"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)

    def score(self, conversations):
        return [Scores(values=np.array([-len(t.text) / 4 for t in c.turns], np.float32)) for c in conversations]


def test_penalty_as_a_gate_is_open_where_it_finds_nothing():
    rewards = [WeightedReward(reward=FirstTurnOnly(), weight=8.0), WeightedReward(reward=Minus(), is_gate=True)]
    # 8 x (1 - 0), 8 x (1 - 1/4), 8 x (1 - 1): the raw -1.5 is cut to -1.
    found = [score([chat(text)], rewards)[0].rewards.tolist() for text in ("", "a", "abcdef")]
    assert found == [[8.0], [6.0], [0.0]]


def test_conversation_that_failed_in_scoring_knows_how_it_was_played():
    played = chat("bad word")
    [scored] = score([played], [WeightedReward(reward=Picky())])
    assert scored.conversation.outcome.status == "failed"
    assert as_played(scored.conversation) == played
    assert as_played(played) is played


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, SystemExit])
def test_whatever_a_reward_raises_fails_its_conversation(error: type[BaseException]):
    @dataclass(frozen=True)
    class Raises:
        name: str = "raises"

        def score(self, conversations):
            raise error

    [scored] = score([chat("a")], [WeightedReward(reward=Raises())])
    assert f"raised {error.__name__}" in scored.conversation.error


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"why": ("a",)}, "returned 1 reasons for 2 turns"),
        ({"why": None}, "returned why=None instead of a tuple of texts"),
        ({"why": (1, 2)}, r"returned why=\(1, 2\) instead of a tuple of texts"),
        ({"parts": None}, "returned NoneType instead of a mapping of parts"),
        ({"parts": {"x": np.zeros(1, np.float32)}}, "returned a part 'x' that is no array of 2 floats"),
        ({"parts": {"x": np.full(2, np.inf)}}, "returned an infinite number in its part 'x'"),
        ({"values": np.full(2, 1e39)}, "returned an infinite number"),
    ],
)
def test_scores_that_cannot_be_stored_fail_their_conversation(claims: dict[str, object], error: str):
    @dataclass(frozen=True)
    class Odd:
        name: str = "odd"

        def score(self, conversations):
            return [Scores(**{"values": np.zeros(2, np.float32), **claims})]

    [scored] = score([chat("a", "b")], [WeightedReward(reward=Odd(), role="a")])
    assert re.search(error, scored.conversation.error)


@pytest.mark.parametrize("name", ["total", "per_conversation"])
def test_name_of_the_sum_is_refused(name: str):
    with pytest.raises(UserError, match=f"no reward can be called '{name}'"):
        score([chat("a")], [WeightedReward(reward=Length(), label=name)])


def test_reward_of_one_role_says_nothing_of_the_others_turns():
    [scored] = score([chat("abc", "de", "f")], [WeightedReward(reward=Length(), role="b")])
    assert scored.rewards.tolist() == [0.0, 2.0, 0.0]
    np.testing.assert_array_equal(scored.parts["length"].values, [np.nan, 2.0, np.nan])


def test_reward_of_weight_0_is_measured_only():
    [scored] = score([chat("abc")], [WeightedReward(reward=Length(), weight=0.0)])
    assert (scored.rewards.tolist(), scored.parts["length"].values.tolist()) == ([0.0], [3.0])


@pytest.mark.parametrize(
    ("text", "error"),
    [("bad", "raised KeyError: 'bad word'"), ("huge", "an infinite number"), ("short", r"shape \(1,\) for 2 turns")],
)
def test_reward_that_fails_fails_its_own_conversation_only(text: str, error: str):
    scored = score([chat("fine", "x"), chat(text, "x")], [WeightedReward(reward=Picky())])
    assert scored[0].rewards.tolist() == [1.0, 1.0]
    facts = {"ended": "turn_limit"}
    assert scored[1].conversation.outcome == Outcome(status="failed", reason="reward_error", facts=facts)
    assert re.search(error, str(scored[1].conversation.error))


def test_failed_conversation_is_not_scored():
    [scored] = score([chat("bad", status="failed")], [WeightedReward(reward=Picky())])
    assert scored.parts == {}
    assert scored.conversation.outcome is not None
    assert scored.conversation.outcome.reason == "empty_reply"


def test_two_rewards_of_one_name_are_refused():
    with pytest.raises(UserError, match="two rewards are called 'length'"):
        score([], [WeightedReward(reward=Length()), WeightedReward(reward=Length())])


@dataclass(frozen=True)
class Hangs:
    """Hangs where the first turn says so; counts how often it is asked."""

    how: Callable[[], None]
    asked: list[str]
    name: str = "hangs"
    is_slow: bool = False

    def score(self, conversations):
        for conversation in conversations:
            self.asked.append(conversation.id)
            if conversation.turns[0].text == "hang":
                self.how()
        return [Scores(values=np.ones(c.num_turns, np.float32)) for c in conversations]


@dataclass(frozen=True)
class GroupMean:
    name: str = "group_mean"
    scope: ClassVar[str] = "group"

    def score(self, conversations):
        if any(c.turns[0].text == "bad" for c in conversations):
            raise KeyError("bad")
        mean = np.mean([len(c.turns) for c in conversations])
        return [Scores(values=np.full(c.num_turns, mean, np.float32)) for c in conversations]


@dataclass(frozen=True)
class Bounded(Length):
    range: ClassVar[tuple[float, float]] = (0.0, 2.0)


def outcome_of(scored: ScoredConversation) -> Outcome:
    assert scored.conversation.outcome is not None
    return scored.conversation.outcome


def test_numbers_are_clipped_to_the_range_in_the_sum_and_kept_raw_in_the_parts():
    [scored] = score([chat("abc", "d")], [WeightedReward(reward=Bounded(), weight=0.5)])
    # min(3, 2) * .5 and 1 * .5.
    assert scored.rewards.tolist() == [1.0, 0.5]
    assert scored.parts["length"].values.tolist() == [3, 1]


def test_failed_conversation_has_no_rewards_rather_than_zeros():
    [scored] = score([chat("bad", "x")], [WeightedReward(reward=Picky()), WeightedReward(reward=Length())])
    assert np.isnan(scored.rewards).tolist() == [True, True]
    assert scored.parts["length"].values.tolist() == [3, 1]


def test_reward_that_hangs_fails_its_own_conversation_and_is_not_asked_again():
    reward = Hangs(how=lambda: time.sleep(60), asked=[])
    chats = [chat("hang", id="000000-g00-0"), chat("fine", id="000000-g01-0")]
    started = time.monotonic()
    scored = score(chats, [WeightedReward(reward=reward)], timeout_seconds=0.1)
    assert time.monotonic() - started < 5
    assert [outcome_of(one).reason for one in scored] == ["timeout", "turn_limit"]
    assert "reward 'hangs' took longer than 0.1 seconds (seed 7)" in str(scored[0].conversation.error)
    assert reward.asked == ["000000-g00-0", "000000-g01-0"]


def test_reward_that_hangs_twice_is_not_asked_about_the_rest():
    reward = Hangs(how=lambda: time.sleep(60), asked=[])
    scored = score([chat("hang")] * 4, [WeightedReward(reward=reward)], timeout_seconds=0.05)
    assert len(reward.asked) == 2
    assert [outcome_of(one).reason for one in scored] == ["timeout"] * 4
    assert "was not asked: it took too long 2 times before" in str(scored[3].conversation.error)


def test_slow_reward_that_hangs_fails_all_that_it_was_asked_about():
    reward = Hangs(how=lambda: time.sleep(60), asked=[], is_slow=True)
    scored = score([chat("fine"), chat("hang")], [WeightedReward(reward=reward)], timeout_seconds=0.05)
    assert [outcome_of(one).reason for one in scored] == ["timeout", "timeout"]
    assert len(reward.asked) == 2


def test_error_of_a_group_reward_fails_its_group_only():
    chats = [chat("bad", id="000000-g00-0"), chat("a", id="000000-g00-1"), chat("a", "b", id="000000-g01-0")]
    scored = score(chats, [WeightedReward(reward=GroupMean())])
    assert [outcome_of(one).reason for one in scored] == ["reward_error", "reward_error", "turn_limit"]
    assert scored[2].rewards.tolist() == [2.0, 2.0]


def test_group_reward_is_given_whole_groups_in_whatever_order_they_come():
    chats = [chat("a", id="000000-g00-0"), chat("a", "b", id="000000-g01-0"), chat("a", "b", "c", id="000000-g00-1")]
    scored = score(chats, [WeightedReward(reward=GroupMean())])
    # Group 0 has 1 and 3 turns, group 1 has 2.
    assert [one.rewards[0] for one in scored] == [2.0, 2.0, 2.0]
    assert [len(one.rewards) for one in scored] == [1, 2, 3]


def test_parts_found_in_two_places_sum_up_as_in_one():
    chats = [chat("fine", "x"), chat("bad", "x"), chat("x", status="failed"), chat("huge", "y", id="000000-g01-0")]
    rewards = [WeightedReward(reward=GroupMean(), weight=2.0), WeightedReward(reward=Picky(), weight=0.5)]
    here = parts_of(chats, [weighted for weighted in rewards if weighted.is_cheap])
    there = parts_of(chats, [weighted for weighted in rewards if not weighted.is_cheap])
    together = total(chats, merged(here, there), rewards)
    for one, other in zip(together, score(chats, rewards), strict=True):
        assert one.conversation == other.conversation
        np.testing.assert_array_equal(one.rewards, other.rewards)
        assert list(one.parts) == list(other.parts)


def test_share_of_failed_conversations_counts_play_and_scoring():
    scored = score([chat("fine"), chat("bad"), chat("x", status="failed")], [WeightedReward(reward=Picky())])
    assert failed_share(scored) == pytest.approx(2 / 3)
    assert failed_share([]) == 0
    check_failures(scored, 0.7)
    message = "^2 of 3 conversations failed, more than max_failed_share=0.05; the first, 000000-g00-0: .* 'bad word'"
    with pytest.raises(UserError, match=message):
        check_failures(scored, 0.05)


@pytest.mark.parametrize(
    ("returned", "error"),
    [(None, "returned NoneType for 1"), ([1.0], "float instead of Scores"), ([], "returned 0 for 1")],
)
def test_reward_that_returns_no_scores_fails_its_conversation(returned: object, error: str):
    @dataclass(frozen=True)
    class Wrong:
        name: str = "wrong"

        def score(self, conversations):
            return returned

    [scored] = score([chat("a")], [WeightedReward(reward=Wrong())])
    assert error in str(scored.conversation.error)
