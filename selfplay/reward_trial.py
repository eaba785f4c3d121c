"""Rewards tried on scripted conversations before a run begins: what is wrong with one is found in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfplay.contracts import play_scripted
from selfplay.contracts.reward import check_claims
from selfplay.dialog import Conversation, Turn
from selfplay.errors import UserError
from selfplay.interfaces import Env
from selfplay.score import WeightedReward, has_failed, score
from selfplay.written import nearest

# Scenarios and how many conversations each has: held-out scenarios are played once.
GROUPS = (2, 2, 2, 1, 1)
MAX_TURNS = 60
LOGPROB = -1.0


def try_rewards(
    env: Env, rewards: Sequence[WeightedReward], *, timeout_seconds: float, max_failed_share: float = 0.0
) -> None:
    """Check what rewards say of themselves, and score eight scripted conversations with those that need no model.

    Raises UserError if a role is unknown, or if more conversations fail than may: how many, and the first error.
    """
    for weighted in rewards:
        check_claims(weighted.reward)
        check_role(weighted, env.roles, where=f"env {env.name}")
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


def check_role(weighted: WeightedReward, roles: Sequence[str], *, where: str) -> None:
    """Raise UserError if a reward is about a role that nobody plays."""
    for role in filter(None, (weighted.role, getattr(weighted.reward, "role", ""))):
        if role not in roles:
            raise UserError(f"reward {weighted.name!r} is about role {role!r}; {where} has {nearest_of(role, roles)}")


def nearest_of(role: str, roles: Sequence[str]) -> str:
    """Return the roles there are, and which may be meant."""
    return f"{', '.join(roles)}{nearest(role, list(roles), is_list_shown=False)}"


def scripted_conversations(env: Env) -> list[Conversation]:
    """Return eight short conversations of an environment's own script, with made-up tokens as a model's would have."""
    return [
        with_tokens(
            play_scripted(env, env.scenario(seed, "train"), id=f"000000-g{seed:02}-{index}", max_turns=MAX_TURNS)
        )
        for seed, size in enumerate(GROUPS)
        for index in range(size)
    ]


def with_tokens(conversation: Conversation) -> Conversation:
    """Return a conversation whose turns have tokens, one a byte, as if a model had said them."""
    return replace(conversation, turns=tuple(map(_with_tokens, conversation.turns)))


def _with_tokens(turn: Turn) -> Turn:
    heard, said = (
        np.frombuffer(f"{text}\n".encode(), dtype=np.uint8).astype(np.int32) for text in (turn.heard_text, turn.text)
    )
    logprobs = np.full(len(said), LOGPROB, dtype=np.float32)
    return replace(turn, stream=turn.role, heard=heard, said=said, logprobs=logprobs, finish="stop")
