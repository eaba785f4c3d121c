"""What finished games with the same kind of players came to, in numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfplay.dialog import Conversation

__all__ = ["Measured", "measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The mean numbers of some games."""

    games: int
    mean: float  # env units, payoff over roles and games; NaN: the env has no payoffs
    error: float  # env units, the mean's standard error; NaN as well
    by_role: Mapping[str, float]  # role -> its mean payoff; empty: the env has no payoffs
    success: float  # share of games whose facts say so
    protocol: float  # share of games whose form was kept
    turns: float  # mean number
    ends: Mapping[str, int]  # reason -> number of games


def measure(conversations: Sequence[Conversation]) -> Measured:
    """Return the means of at least one finished game; the games are taken to be independent of one another."""
    outcomes = [one.outcome for one in conversations if one.outcome is not None]
    roles = conversations[0].scenario.roles if outcomes[0].payoff else ()
    payoffs = np.array([[outcome.payoff[role] for role in roles] for outcome in outcomes], dtype=np.float64)  # [N, R]
    means = payoffs.mean(axis=1) if roles else np.full(len(outcomes), math.nan)
    spread = means.std(ddof=1) if len(means) > 1 else 0.0
    return Measured(
        games=len(outcomes),
        mean=float(means.mean()),
        error=float(spread / math.sqrt(len(means))),
        by_role=dict(zip(roles, payoffs.mean(axis=0).tolist(), strict=True)) if roles else {},
        success=float(np.mean([bool(outcome.facts.get("success")) for outcome in outcomes])),
        protocol=float(np.mean([outcome.protocol_ok for outcome in outcomes])),
        turns=float(np.mean([one.num_turns for one in conversations])),
        ends=dict(Counter(outcome.reason for outcome in outcomes).most_common()),
    )
