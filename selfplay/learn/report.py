"""What people see of an update: metrics by path, and what it says of each conversation.

Legend: B trajectories, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from selfplay.experience import Batch, Trajectory

Numbers = npt.NDArray[np.float64]


@dataclass(slots=True)
class Tally:
    """Numbers that gather while micro-batches go by."""

    sums: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    smallest: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add to a sum."""
        self.sums[name] = self.sums.get(name, 0.0) + value

    def raise_to(self, name: str, value: float) -> None:
        """Keep the largest."""
        self.largest[name] = max(self.largest.get(name, value), value)

    def lower_to(self, name: str, value: float) -> None:
        """Keep the smallest."""
        self.smallest[name] = min(self.smallest.get(name, value), value)


def divergence_metrics(batch: Batch, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the divergence from the reference per token, per turn and per role, and the reference's own measure.

    The estimate is k1, unbiased for tokens that this policy sampled; trajectories are the batch's rows.
    """
    assert batch.reference is not None
    reference = batch.reference.numpy().astype(np.float64)
    nats, counts = [], []  # a trajectory's divergence and number of acted tokens by role
    nll, num_turns = 0.0, 0
    for row, trajectory in enumerate(trajectories):
        acted, theirs = trajectory.acted, reference[row, : trajectory.num_tokens]
        nats.append(_by_role(trajectory, trajectory.logprobs - theirs))
        counts.append(_by_role(trajectory, np.ones(trajectory.num_tokens)))
        nll -= float(theirs[acted].sum())
        num_turns += len(np.unique(trajectory.turn[acted]))
    roles = sorted({role for by_role in counts for role in by_role})
    sums = {role: (_sum_of(nats, role), _sum_of(counts, role)) for role in roles}
    total, num_acted = sum(one for one, _ in sums.values()), sum(number for _, number in sums.values())
    return {
        "kl/per_token_nats": total / max(num_acted, 1),
        "kl/per_turn_nats": total / max(num_turns, 1),
        **{f"kl/{role}/per_token_nats": one / max(number, 1) for role, (one, number) in sums.items()},
        "learn/reference_nll_per_token": nll / max(num_acted, 1),
    }


def notes(batch: Batch, trajectories: Sequence[Trajectory]) -> dict[str, dict[str, Any]]:
    """Return, by conversation id, each trained role's mean advantage over its tokens and the divergence per token."""
    assert batch.reference is not None
    assert batch.advantages is not None
    advantages = batch.advantages.numpy().astype(np.float64)
    reference = batch.reference.numpy().astype(np.float64)
    gathered: dict[str, list[tuple[dict[str, float], dict[str, float], float]]] = {}
    for row, trajectory in enumerate(trajectories):
        size = trajectory.num_tokens
        given = _by_role(trajectory, advantages[row, :size])
        counts = _by_role(trajectory, np.ones(size))
        nats = sum(_by_role(trajectory, trajectory.logprobs - reference[row, :size]).values())
        gathered.setdefault(trajectory.conversation, []).append((given, counts, nats))
    return {name: _note(rows) for name, rows in gathered.items()}


def _note(rows: Sequence[tuple[dict[str, float], dict[str, float], float]]) -> dict[str, Any]:
    given, counts = [row[0] for row in rows], [row[1] for row in rows]
    roles = dict.fromkeys(role for by_role in counts for role in by_role)
    num_acted = sum(sum(by_role.values()) for by_role in counts)
    return {
        "advantage": {role: _sum_of(given, role) / max(_sum_of(counts, role), 1) for role in roles},
        "kl_per_token": sum(nats for _, _, nats in rows) / max(num_acted, 1),
    }


def _by_role(trajectory: Trajectory, numbers: Numbers) -> dict[str, float]:
    """Return the sum of numbers [T] over each role's acted tokens, for the roles that acted."""
    places = trajectory.role_index[trajectory.acted]
    return {
        trajectory.roles[place]: float(numbers[trajectory.acted][places == place].sum()) for place in np.unique(places)
    }


def _sum_of(parts: Sequence[Mapping[str, float]], role: str) -> float:
    return sum(part.get(role, 0.0) for part in parts)
