"""From conversations to scored ones: every reward's numbers a turn, weighted and summed; nothing is discounted here.

Legend: K turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfplay.dialog import Conversation, Outcome, ScoredConversation, Scores
from selfplay.errors import UserError
from selfplay.interfaces import Reward


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedReward:
    """A reward and what it counts for; weight 0: it is measured only."""

    reward: Reward
    weight: float = 1.0


def score(conversations: Sequence[Conversation], rewards: Sequence[WeightedReward]) -> list[ScoredConversation]:
    """Return the conversations with their rewards, in order.

    A failed conversation is not scored.  Where a reward raises, or returns numbers that are infinite or not one a turn,
    that conversation comes back as failed ("reward_error") with the error recorded; the others are scored all the same.
    Raises UserError if two rewards have one name.
    """
    names = [weighted.reward.name for weighted in rewards]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two rewards are called {twice!r}; parts are recorded by name, so give one of them another")
    playable = [i for i, conversation in enumerate(conversations) if not _has_failed(conversation)]
    parts: list[dict[str, Scores]] = [{} for _ in conversations]
    errors: dict[int, str] = {}
    for weighted in rewards:
        for i, scores in _score_each(weighted.reward, conversations, playable, errors).items():
            parts[i][weighted.reward.name] = scores
    weights = {weighted.reward.name: weighted.weight for weighted in rewards}
    return [
        _total(_fail(conversation, errors[i]) if i in errors else conversation, parts[i], weights)
        for i, conversation in enumerate(conversations)
    ]


def _score_each(
    reward: Reward, conversations: Sequence[Conversation], playable: Sequence[int], errors: dict[int, str]
) -> dict[int, Scores]:
    try:
        scores = reward.score([conversations[i] for i in playable])
        if len(scores) == len(playable):
            return {
                i: s for i, s in zip(playable, scores, strict=True) if _is_right(reward, s, conversations, i, errors)
            }
    except Exception:  # noqa: BLE001, S110 (a reward may raise anything; who is at fault shows one by one)
        pass
    found = {}
    for i in playable:
        try:
            [scores_of_one] = reward.score([conversations[i]])
        except Exception as error:  # noqa: BLE001 (as above)
            errors[i] = f"reward {reward.name!r} raised {type(error).__name__}: {error}"
            continue
        if _is_right(reward, scores_of_one, conversations, i, errors):
            found[i] = scores_of_one
    return found


def _is_right(
    reward: Reward, scores: Scores, conversations: Sequence[Conversation], i: int, errors: dict[int, str]
) -> bool:
    num_turns = conversations[i].num_turns
    if scores.values.shape != (num_turns,):
        errors[i] = f"reward {reward.name!r} returned shape {scores.values.shape} for {num_turns} turns"
    elif bool(np.isinf(scores.values).any()):
        errors[i] = f"reward {reward.name!r} returned an infinite number"
    return i not in errors


def _total(conversation: Conversation, parts: Mapping[str, Scores], weights: Mapping[str, float]) -> ScoredConversation:
    total = np.zeros(conversation.num_turns, dtype=np.float32)  # [K]
    for name, scores in parts.items():
        # NaN says "does not apply": it adds nothing.
        total += weights[name] * np.nan_to_num(scores.values, nan=0.0)
    return ScoredConversation(conversation=conversation, rewards=total, parts=dict(parts))


def _has_failed(conversation: Conversation) -> bool:
    return conversation.outcome is not None and conversation.outcome.status == "failed"


def _fail(conversation: Conversation, error: str) -> Conversation:
    line = " ".join(error.split())
    return replace(
        conversation,
        outcome=Outcome(status="failed", reason="reward_error"),
        error=f"reward_error: {line} (seed {conversation.scenario.seed})",
    )
