"""Rewards are tried on scripted conversations before anything starts."""

import time

import pytest

from envs.chitchat import ChitChat
from selfplay.errors import UserError
from selfplay.function_reward import reward
from selfplay.reward_trial import scripted_conversations, try_rewards
from selfplay.score import WeightedReward


def test_eight_conversations_of_four_scenarios_are_played_by_the_script():
    played = scripted_conversations(ChitChat(max_turns=3))
    assert len(played) == 8
    assert len({one.scenario.seed for one in played}) == len({one.group for one in played}) == 4
    assert {one.num_turns for one in played} == {3}


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
