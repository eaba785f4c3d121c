"""Rewards written as functions."""

import math

import numpy as np
import pytest

from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.function_reward import reward_function
from selfplay.interfaces import Reward
from selfplay.plugins import PluginSpec, build_plugin
from selfplay.score import WeightedReward, score


def chat(*texts: str) -> Conversation:
    turns = [Turn(role="ab"[k % 2], text=text, heard_text="", player="scripted") for k, text in enumerate(texts)]
    scenario = Scenario(env="test", seed=7, split="train", roles=("a", "b"))
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))


@reward_function(range=(0, 5))
def length(conversation):
    return [len(turn.text) if turn.text else None for turn in conversation.turns]


def test_function_becomes_a_reward_of_its_name():
    check_reward(length)
    assert isinstance(length, Reward)
    assert length.name == "length"


def test_none_of_a_function_means_that_it_does_not_apply():
    [scored] = score([chat("abc", "", "abcdefgh")], [WeightedReward(reward=length, weight=2.0)])
    np.testing.assert_array_equal(scored.parts["length"].values, np.array([3, np.nan, 8], np.float32))
    # The last is cut to 5.
    assert scored.rewards.tolist() == [6, 0, 10]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nan_of_a_function_fails_its_conversation(number: float):
    @reward_function()
    def broken(conversation):
        return [1.0, number]

    [scored] = score([chat("a", "b")], [WeightedReward(reward=broken)])
    assert scored.conversation.outcome is not None
    assert scored.conversation.outcome.reason == "reward_error"
    assert f"broken returned {number} for turn 1; where it does not apply" in str(scored.conversation.error)


def test_function_in_a_file_is_found_by_its_path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from selfplay.function_reward import reward_function\n\n"
        "@reward_function()\ndef two(conversation):\n    return [2.0] * conversation.num_turns\n"
    )
    reward = build_plugin(PluginSpec(name=f"{file}:two"), {}, "reward")
    assert isinstance(reward, Reward)
    [scores] = reward.score([chat("a", "b")])
    assert scores.values.tolist() == [2.0, 2.0]
