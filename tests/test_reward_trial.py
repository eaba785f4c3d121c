"""Rewards are tried on scripted conversations before anything starts."""

import time

import pytest

from envs.chitchat import ChitChat
from rewards.asking import Question
from selfplay.errors import UserError
from selfplay.function_reward import reward
from selfplay.interfaces import PluginError
from selfplay.reward_trial import scripted_conversations, try_rewards
from selfplay.score import WeightedReward


def test_eight_conversations_of_five_scenarios_are_played_by_the_script():
    played = scripted_conversations(ChitChat(max_turns=3))
    assert [len([one for one in played if one.scenario.seed == seed]) for seed in range(5)] == [2, 2, 2, 1, 1]
    assert {one.num_turns for one in played} == {3}
    # As a model's: a token for each byte, and one that ends the turn.
    turn = played[0].turns[0]
    assert (len(turn.said), len(turn.logprobs)) == (len(turn.text.encode()) + 1,) * 2


def test_role_that_nobody_plays_is_refused_with_the_nearest():
    with pytest.raises(
        UserError, match=r"reward 'question' is about role 'gest'; env chitchat has host, guest; did you mean guest\?"
    ):
        try_rewards(ChitChat(), [WeightedReward(reward=Question(), role="gest")], timeout_seconds=5)


def test_claim_that_means_nothing_is_refused():
    class Upside(Question):
        range = (1.0, 0.0)

    with pytest.raises(PluginError, match="two numbers, the lower bound first"):
        try_rewards(ChitChat(), [WeightedReward(reward=Upside())], timeout_seconds=5)


def test_reward_that_raises_is_found_with_its_line():
    @reward
    def broken(turn):
        return 1 / 0

    with pytest.raises(
        UserError, match=r"8 of 8 scripted conversations .*ZeroDivisionError.*\(test_reward_trial.py, line"
    ):
        try_rewards(ChitChat(), [WeightedReward(reward=broken)], timeout_seconds=5)


def test_reward_that_hangs_is_found():
    @reward
    def hangs(turn):
        time.sleep(60)

    started = time.monotonic()
    with pytest.raises(UserError, match=r"8 of 8 scripted conversations .*took longer than 0\.1 seconds"):
        try_rewards(ChitChat(), [WeightedReward(reward=hangs)], timeout_seconds=0.1)
    assert time.monotonic() - started < 10


def test_reward_that_may_fail_sometimes_may_do_so_here():
    @reward
    def picky(conversation):
        if conversation.id.endswith("g00-0"):
            raise KeyError("this one")
        return 1

    try_rewards(ChitChat(), [WeightedReward(reward=picky)], timeout_seconds=5, max_failed_share=0.2)
    with pytest.raises(UserError, match="1 of 8 scripted conversations"):
        try_rewards(ChitChat(), [WeightedReward(reward=picky)], timeout_seconds=5, max_failed_share=0.1)


def test_reward_that_loads_a_model_is_not_tried():
    class Heavy:
        name = "heavy"

        def prepare(self):
            raise AssertionError("loaded in the wrong process")

        score = prepare

    try_rewards(ChitChat(), [WeightedReward(reward=Heavy())], timeout_seconds=5)
