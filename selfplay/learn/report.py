"""What people see of an update: metrics by path, and what it says of each conversation and of its tokens.

Legend: B trajectories, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from selfplay.experience import Batch, Trajectory
from selfplay.interfaces import Outputs, TokenNumbers

if TYPE_CHECKING:
    from torch import Tensor

Numbers = npt.NDArray[np.float64]
Column = npt.NDArray[np.float32]


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


@dataclass(slots=True, kw_only=True)
class FirstPass:
    """What the policy says of a batch's tokens, [B, T] each, when a micro-batch meets them for the first time.

    NaN: not met yet; of log-probabilities also where the policy had taken a step by then.
    """

    logprobs: Column  # nats
    entropy: Column  # nats
    divergence: Column  # nats, exact; NaN where the algorithm does without
    is_met: npt.NDArray[np.bool_]  # [B]

    @classmethod
    def of(cls, batch: Batch) -> FirstPass:
        """Return the record of a batch of which no micro-batch was taken yet."""
        shape = tuple(batch.tokens.shape)
        logprobs, entropy, divergence = (np.full(shape, np.nan, dtype=np.float32) for _ in range(3))
        return cls(logprobs=logprobs, entropy=entropy, divergence=divergence, is_met=np.zeros(shape[0], dtype=np.bool_))

    def meet(self, rows: Sequence[int], outputs: Outputs, *, has_moved: bool) -> None:
        """Take what the policy says of the rows of a micro-batch; what later passes say of them is passed over."""
        if self.is_met[rows[0]]:
            return
        self.is_met[list(rows)] = True
        _put(self.entropy, rows, outputs.entropy)
        if not has_moved:
            _put(self.logprobs, rows, outputs.logprobs)
        if outputs.divergence is not None:
            _put(self.divergence, rows, outputs.divergence)


def token_numbers(
    batch: Batch, trajectories: Sequence[Trajectory], first: FirstPass
) -> dict[str, dict[int, TokenNumbers]]:
    """Return, by conversation id and turn, what is known of a prepared batch's acted tokens.

    trajectories are the batch's rows.  The divergence is the exact one where the algorithm computes it, else k1.
    """
    assert batch.reference is not None
    assert batch.advantages is not None
    reference, advantages = batch.reference.numpy(), batch.advantages.numpy()
    values = None if batch.values is None else batch.values.numpy()
    found: dict[str, dict[int, TokenNumbers]] = {}
    for row, trajectory in enumerate(trajectories):
        size = trajectory.num_tokens
        exact, k1 = first.divergence[row, :size], trajectory.logprobs - reference[row, :size]
        columns = {
            "logprobs_learner": first.logprobs[row, :size],
            "logprobs_reference": reference[row, :size],
            "kl": np.where(np.isnan(exact), k1, exact),
            "entropy": first.entropy[row, :size],
            "advantage": advantages[row, :size],
            **({} if values is None else {"value": values[row, :size]}),
        }
        found.setdefault(trajectory.conversation, {}).update(by_turn(trajectory, columns))
    return found


def by_turn(trajectory: Trajectory, columns: Mapping[str, Column]) -> dict[int, TokenNumbers]:
    """Return, by number of the turn, what columns [T] say of its acted tokens; NaN throughout is "not known"."""
    places = np.flatnonzero(trajectory.acted)
    turns = trajectory.turn[places]
    starts = np.flatnonzero(np.diff(turns, prepend=-1))  # the acted tokens of a turn stand together
    pieces = {name: np.split(column[places], starts[1:]) for name, column in columns.items()}
    return {
        int(turns[start]): TokenNumbers(**{name: _known(piece[number]) for name, piece in pieces.items()})
        for number, start in enumerate(starts)
    }


def _known(numbers: Column) -> Column | None:
    return None if np.isnan(numbers).all() else numbers


def _put(column: Column, rows: Sequence[int], values: Tensor) -> None:
    column[list(rows), : values.shape[1]] = values.detach().cpu().numpy()


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
