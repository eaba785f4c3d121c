"""From scored conversations to what a learner reads: one trajectory a stream, then padded batches.

Legend: B trajectories, T tokens, K turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from selfplay.dialog import Floats, ScoredConversation, Tokens, Turn

if TYPE_CHECKING:
    import torch

NO_TURN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One stream as one policy saw it.

    Example, two turns of one role: ``tokens = heard0 said0 heard1 said1``, ``acted`` True on said0 and said1,
    ``rewards`` 0 but on the last token of each.
    """

    conversation: str  # id
    group: str  # id of the conversations that share its scenario
    version: int  # policy version that acted
    truncated: bool  # cut by a limit of the engine: the value after its last token is not 0
    roles: tuple[str, ...]  # what role_index counts
    tokens: Tokens  # [T] heard and said, in the order the model saw them
    acted: npt.NDArray[np.bool_]  # [T] sampled by a policy that is trained
    role_index: npt.NDArray[np.int8]  # [T] whose turn the token belongs to, heard tokens included
    turn: npt.NDArray[np.int32]  # [T] number of that turn in the conversation
    logprobs: Floats  # [T] nats when sampled; 0 where not acted
    rewards: Floats  # [T] the turn's reward on its last acted token; 0 elsewhere

    @property
    def num_tokens(self) -> int:
        """Length."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Trajectories padded on the right to one length; True in a mask means "counts"."""

    tokens: torch.Tensor  # [B, T] int64, 0 where padded
    exists: torch.Tensor  # [B, T] bool: not padding
    acted: torch.Tensor  # [B, T] bool
    role_index: torch.Tensor  # [B, T] int64
    turn: torch.Tensor  # [B, T] int64, NO_TURN where padded
    logprobs: torch.Tensor  # [B, T] float32 nats, sampled
    rewards: torch.Tensor  # [B, T] float32
    truncated: torch.Tensor  # [B] bool
    version: torch.Tensor  # [B] int64
    group: torch.Tensor  # [B] int64 labels: rows of one label share their scenario
    num_acted: int  # acted tokens of the whole batch this is a part of: what losses are divided by
    num_conversations: int  # of the whole batch; one conversation may give a trajectory for each role
    # Filled in by the learner and by `Algorithm.prepare`; None until then.
    reference: torch.Tensor | None = None  # [B, T] float32 nats, under the frozen reference
    values: torch.Tensor | None = None  # [B, T] float32, in reward units
    advantages: torch.Tensor | None = None  # [B, T] float32, in units of the algorithm
    kl_coefficient: float = 0.0  # what a divergence in the loss is multiplied by


def trace(scored: ScoredConversation) -> list[Trajectory]:
    """Return a trajectory for every stream in which a trained player spoke.

    A failed conversation gives none: it is stored, and never trained on.  Rewards that do not apply (NaN) count as 0.
    """
    conversation = scored.conversation
    if conversation.outcome is None or conversation.outcome.status == "failed":
        return []
    trained = {player.label for player in conversation.players.values() if player.trained}
    turns = [(k, turn) for k, turn in enumerate(conversation.turns) if turn.player in trained and len(turn.said)]
    turns.sort(key=lambda item: (item[1].stream, item[1].player))
    rewards = np.nan_to_num(scored.rewards, nan=0.0)
    return [
        _trajectory(scored, list(group), rewards)
        for _, group in groupby(turns, key=lambda item: (item[1].stream, item[1].player))
    ]


def _trajectory(scored: ScoredConversation, turns: Sequence[tuple[int, Turn]], rewards: Floats) -> Trajectory:
    conversation, outcome = scored.conversation, scored.conversation.outcome
    assert outcome is not None
    roles = conversation.scenario.roles
    runs = [(k, turn, tokens, tokens is turn.said) for k, turn in turns for tokens in (turn.heard, turn.said)]
    sizes = [len(tokens) for _, _, tokens, _ in runs]
    acted = np.repeat([is_said and conversation.players[turn.role].trained for _, turn, _, is_said in runs], sizes)
    logprobs = [turn.logprobs if is_said else np.zeros(len(tokens)) for _, turn, tokens, is_said in runs]
    reward = np.zeros(sum(sizes), dtype=np.float32)
    # The said runs are every second one; their last tokens carry the turns' rewards.
    for (k, turn), end in zip(turns, np.cumsum(sizes)[1::2], strict=True):
        reward[end - 1] = rewards[k] if conversation.players[turn.role].trained else 0.0
    return Trajectory(
        conversation=conversation.id,
        group=conversation.group,
        version=conversation.players[turns[0][1].role].version,
        truncated=outcome.status == "truncated",
        roles=roles,
        tokens=np.concatenate([tokens for _, _, tokens, _ in runs]).astype(np.int32),
        acted=acted.astype(np.bool_),
        role_index=np.repeat([roles.index(turn.role) for _, turn, _, _ in runs], sizes).astype(np.int8),
        turn=np.repeat([k for k, _, _, _ in runs], sizes).astype(np.int32),
        logprobs=np.where(acted, np.concatenate(logprobs), 0.0).astype(np.float32),
        rewards=reward,
    )


def pad(trajectories: Sequence[Trajectory], *, to_multiple: int = 1) -> Batch:
    """Return trajectories padded on the right to the longest one's length, rounded up to a multiple.

    Raises ValueError if there are none.
    """
    import torch

    if not trajectories:
        raise ValueError("there is no trajectory to pad")
    longest = max(trajectory.num_tokens for trajectory in trajectories)
    length = -(-longest // to_multiple) * to_multiple

    def column(name: str, filler: float, dtype: torch.dtype) -> torch.Tensor:
        rows = torch.full((len(trajectories), length), filler, dtype=dtype)
        for row, trajectory in zip(rows, trajectories, strict=True):
            row[: trajectory.num_tokens] = torch.from_numpy(getattr(trajectory, name)).to(dtype)
        return rows

    sizes = torch.tensor([trajectory.num_tokens for trajectory in trajectories])
    return Batch(
        tokens=column("tokens", 0, torch.int64),
        exists=torch.arange(length) < sizes[:, None],
        acted=column("acted", 0, torch.bool),
        role_index=column("role_index", 0, torch.int64),
        turn=column("turn", NO_TURN, torch.int64),
        logprobs=column("logprobs", 0.0, torch.float32),
        rewards=column("rewards", 0.0, torch.float32),
        truncated=torch.tensor([trajectory.truncated for trajectory in trajectories]),
        version=torch.tensor([trajectory.version for trajectory in trajectories]),
        group=torch.tensor(_labels([trajectory.group for trajectory in trajectories])),
        num_acted=int(sum(trajectory.acted.sum() for trajectory in trajectories)),
        num_conversations=len({trajectory.conversation for trajectory in trajectories}),
    )


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some rows of a batch as a micro-batch of it: its counts stay those of the whole."""
    import torch

    chosen = torch.tensor(list(rows), dtype=torch.int64)
    tensors = {
        field.name: getattr(batch, field.name)[chosen]
        for field in fields(batch)
        if isinstance(getattr(batch, field.name), torch.Tensor)
    }
    return replace(batch, **tensors)


def _labels(names: Sequence[str]) -> list[int]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def by_length(trajectories: Iterable[Trajectory], *, max_tokens: int) -> Iterator[list[Trajectory]]:
    """Yield micro-batches of similar length, padded at most `max_tokens` large; a longer trajectory comes alone."""
    waiting: list[Trajectory] = []
    for trajectory in sorted(trajectories, key=lambda t: (t.num_tokens, t.conversation)):
        # The newest is the longest, so it sets the padded length.
        if waiting and (len(waiting) + 1) * trajectory.num_tokens > max_tokens:
            yield waiting
            waiting = []
        waiting.append(trajectory)
    if waiting:
        yield waiting
