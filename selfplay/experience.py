"""From scored conversations to what a learner reads: one trajectory a stream, then padded batches.

Legend: B trajectories, T tokens, K turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

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
    parts: Mapping[str, Floats] = field(default_factory=dict)  # reward name -> [T] its raw numbers, placed as rewards
    weights: Mapping[str, float] = field(default_factory=dict)  # reward name -> what its part counts for

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
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)  # reward name -> [B, T] float32 raw numbers
    weights: Mapping[str, float] = field(default_factory=dict)  # reward name -> what its part counts for
    # Filled in by the learner and by `Algorithm.prepare`; None until then.
    stale: torch.Tensor | None = None  # [B] bool: an older version acted; None: nobody's
    has_moved: bool = False  # whether the policy has taken a step since the batch came: a later minibatch or pass
    reference: torch.Tensor | None = None  # [B, T] float32 nats, under the frozen reference
    values: torch.Tensor | None = None  # [B, T] float32, in reward units: of the state before each acted token
    last_values: torch.Tensor | None = None  # [B] float32, in reward units: of the state after the last token
    advantages: torch.Tensor | None = None  # [B, T] float32, in units of the algorithm
    returns: torch.Tensor | None = None  # [B, T] float32, in reward units: what values learn
    kl_coefficient: float = 0.0  # what a divergence in the loss is multiplied by


def trace(
    scored: ScoredConversation,
    *,
    weights: Mapping[str, float] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> list[Trajectory]:
    """Return a trajectory for every stream in which a trained player spoke.

    weights: reward name -> weight; their parts go along with the rewards, for returns that are normalised by part,
    clipped to the bounds in `ranges` as the total's are.
    A failed conversation gives none: it is stored, and never trained on.  Rewards that do not apply (NaN) count as 0.
    """
    conversation = scored.conversation
    if conversation.outcome is None or conversation.outcome.status == "failed":
        return []
    trained = {player.label for player in conversation.players.values() if player.trained}
    turns = [(k, turn) for k, turn in enumerate(conversation.turns) if turn.player in trained and len(turn.said)]
    turns.sort(key=lambda item: (item[1].stream, item[1].player))
    bounds = ranges or {}
    parts = {
        name: np.clip(scored.parts[name].values, *bounds.get(name, (-np.inf, np.inf)))
        for name in weights or {}
        if name in scored.parts
    }
    rows = {name: np.nan_to_num(values, nan=0.0) for name, values in {"": scored.rewards, **parts}.items()}
    return [
        replace(_trajectory(scored, list(group), rows), weights=dict(weights or {}))
        for _, group in groupby(turns, key=lambda item: (item[1].stream, item[1].player))
    ]


def _trajectory(
    scored: ScoredConversation, turns: Sequence[tuple[int, Turn]], rows: Mapping[str, Floats]
) -> Trajectory:
    """Return one stream; rows hold numbers a turn [K] by reward name, and the total under no name."""
    conversation, outcome = scored.conversation, scored.conversation.outcome
    assert outcome is not None
    roles = conversation.scenario.roles
    runs = [(k, turn, tokens, tokens is turn.said) for k, turn in turns for tokens in (turn.heard, turn.said)]
    sizes = [len(tokens) for _, _, tokens, _ in runs]
    acted = np.repeat([is_said and conversation.players[turn.role].trained for _, turn, _, is_said in runs], sizes)
    logprobs = [turn.logprobs if is_said else np.zeros(len(tokens)) for _, turn, tokens, is_said in runs]
    # The said runs are every second one; their last tokens carry the turns' rewards.
    ends = np.cumsum(sizes)[1::2] - 1
    counts = np.array([conversation.players[turn.role].trained for _, turn in turns])
    numbers = {name: np.zeros(sum(sizes), dtype=np.float32) for name in rows}
    for name, values in rows.items():
        numbers[name][ends] = values[[k for k, _ in turns]] * counts
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
        rewards=numbers.pop(""),
        parts=numbers,
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

    def fill(arrays: Iterable[npt.NDArray[Any]], filler: float, dtype: torch.dtype) -> torch.Tensor:
        rows = torch.full((len(trajectories), length), filler, dtype=dtype)
        for row, array in zip(rows, arrays, strict=True):
            row[: len(array)] = torch.from_numpy(array).to(dtype)
        return rows

    def column(name: str, filler: float, dtype: torch.dtype) -> torch.Tensor:
        return fill((getattr(trajectory, name) for trajectory in trajectories), filler, dtype)

    names = sorted({name for trajectory in trajectories for name in trajectory.parts})
    nothing = np.zeros(0, dtype=np.float32)
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
        parts={name: fill((t.parts.get(name, nothing) for t in trajectories), 0.0, torch.float32) for name in names},
        weights=trajectories[0].weights,
    )


def rows_of(batch: Batch, rows: Sequence[int], *, trimmed: bool = False) -> Batch:
    """Return some rows of a batch as a micro-batch of it: its counts stay those of the whole.

    trimmed: without the columns that are padding in all of them.
    """
    import torch

    chosen = torch.tensor(list(rows), dtype=torch.int64)
    length = int(batch.exists[chosen].sum(dim=1).max()) if trimmed and len(rows) else batch.tokens.shape[1]

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[chosen] if tensor.dim() == 1 else tensor[chosen, :length]

    return map_tensors(batch, cut)


def map_tensors(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    """Return a batch with every tensor changed, parts included."""
    import torch

    tensors: dict[str, Any] = {
        field.name: change(value)
        for field in fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor)
    }
    return replace(batch, **tensors, parts={name: change(part) for name, part in batch.parts.items()})


def _labels(names: Sequence[str]) -> list[int]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def by_length(trajectories: Iterable[Trajectory], *, max_tokens: int) -> Iterator[list[Trajectory]]:
    """Yield micro-batches of similar length, padded at most `max_tokens` large; a longer trajectory comes alone."""
    kept = sorted(trajectories, key=lambda t: (t.num_tokens, t.conversation))
    for rows in _fill(range(len(kept)), [trajectory.num_tokens for trajectory in kept], max_tokens):
        yield [kept[row] for row in rows]


def padded_rows(trajectories: Sequence[Trajectory], *, num_minibatches: int, max_tokens: int) -> list[list[list[int]]]:
    """Return minibatches of micro-batches of row numbers.

    Every minibatch gets rows of all lengths; in a micro-batch they are of similar length, and padded at most
    `max_tokens` large unless it is one row.  There are at most as many minibatches as rows.
    """
    sizes = [trajectory.num_tokens for trajectory in trajectories]
    order = sorted(range(len(sizes)), key=lambda row: (sizes[row], row))
    num = min(num_minibatches, len(order))
    return [_fill(order[part::num], sizes, max_tokens) for part in range(num)]


def _fill(rows: Sequence[int], sizes: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return rows, the shortest first, in lists of at most so many padded tokens."""
    filled: list[list[int]] = []
    for row in rows:
        # The newest is the longest, so it sets the padded length.
        if filled and (len(filled[-1]) + 1) * sizes[row] <= max_tokens:
            filled[-1].append(row)
        else:
            filled.append([row])
    return filled
