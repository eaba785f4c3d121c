"""Rewards that read how a conversation ended.  Legend: K turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from selfplay.dialog import Conversation, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Payoff:
    """What the environment says a role won.

    Definition: the role's payoff in the outcome, on the last turn that the role spoke.  It does not apply on other
    turns, to roles without a payoff, in environments without ground truth, and in conversations that failed or have no
    outcome yet.
    Range: the environment's units, without bounds: nothing is clipped.
    Source: the environment; its docstring defines it.
    Exploit: whatever the rules reward but do not mean; where a role need not speak well to win, it stops doing so.
    Guard: KL control, well_formed.
    """

    name: ClassVar[str] = "payoff"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return the payoffs in the environment's units."""
        return [_payoffs(conversation) for conversation in conversations]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPayoff:
    """What the environment says the roles won, as if they shared it.

    Definition: the mean over the roles' payoffs in the outcome, on the last turn of each role that spoke.  It does not
    apply on other turns, where no role has a payoff, and in conversations that failed or have no outcome yet.
    Range: the environment's units, without bounds; 0 throughout in a zero-sum game.
    Source: prosocial learners, Peysakhovich and Lerer 2018 (arXiv:1709.02865), with equal weights.
    Exploit: one role gives everything away where that makes the sum no smaller; what a rule rewards but does not mean.
    Guard: payoff (measure each role's own), KL control.
    """

    name: ClassVar[str] = "shared_payoff"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return the mean payoffs in the environment's units."""
        return [_payoffs(conversation, is_shared=True) for conversation in conversations]


def _payoffs(conversation: Conversation, *, is_shared: bool = False) -> Scores:
    values = np.full(conversation.num_turns, np.nan, dtype=np.float32)  # [K]
    why = [""] * conversation.num_turns
    outcome = conversation.outcome
    if outcome is None or outcome.status == "failed":
        return Scores(values=values, why=tuple(why))
    last_turns = {turn.role: index for index, turn in enumerate(conversation.turns)}
    paid = dict(outcome.payoff)
    if is_shared and paid:
        paid = dict.fromkeys(last_turns, math.fsum(paid.values()) / len(paid))
    for role, index in last_turns.items():
        if role in paid:
            values[index] = paid[role]
            why[index] = outcome.reason
    return Scores(values=values, why=tuple(why))
