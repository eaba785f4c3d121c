"""Rewards tried on scripted conversations before a run begins: what is wrong with one is found in a second."""

from __future__ import annotations

from collections.abc import Sequence

from selfplay.contracts import play_scripted
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.interfaces import Env
from selfplay.score import WeightedReward, has_failed, score

NUM_SCENARIOS, NUM_EACH = 4, 2
MAX_TURNS = 60


def try_rewards(
    env: Env, rewards: Sequence[WeightedReward], *, timeout_seconds: float, max_failed_share: float = 0.0
) -> None:
    """Score eight scripted conversations with every reward that needs no model of its own.

    Raises UserError if more of them fail than may: how many, and the first error with its line.
    """
    # A reward that has to load a model is as sure to be asked soon, in the process that loads it.
    light = [weighted for weighted in rewards if not hasattr(weighted.reward, "prepare")]
    conversations = scripted_conversations(env)
    scored = score(conversations, light, timeout_seconds=timeout_seconds) if light else []
    failed = [one.conversation for one in scored if has_failed(one.conversation)]
    if len(failed) > max_failed_share * len(scored):
        raise UserError(
            f"{len(failed)} of {len(scored)} scripted conversations could not be scored, so nothing was started; "
            f"the first: {failed[0].error}"
        )


def scripted_conversations(env: Env) -> list[Conversation]:
    """Return eight short conversations of an environment's own script: four scenarios, twice each."""
    return [
        play_scripted(env, env.scenario(seed, "train"), id=f"000000-g{seed:02}-{index}", max_turns=MAX_TURNS)
        for seed in range(NUM_SCENARIOS)
        for index in range(NUM_EACH)
    ]
