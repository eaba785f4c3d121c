"""Weighted rewards: sums by hand, and rewards that fail."""

import re
from dataclasses import dataclass

import numpy as np
import pytest

from selfplay.dialog import Conversation, Outcome, Scenario, Scores, Turn
from selfplay.errors import UserError
from selfplay.score import WeightedReward, score


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
    assert scored[1].conversation.outcome == Outcome(status="failed", reason="reward_error")
    assert re.search(error, str(scored[1].conversation.error))


def test_failed_conversation_is_not_scored():
    [scored] = score([chat("bad", status="failed")], [WeightedReward(reward=Picky())])
    assert scored.parts == {}
    assert scored.conversation.outcome is not None
    assert scored.conversation.outcome.reason == "empty_reply"


def test_two_rewards_of_one_name_are_refused():
    with pytest.raises(UserError, match="two rewards are called 'length'"):
        score([], [WeightedReward(reward=Length()), WeightedReward(reward=Length())])
