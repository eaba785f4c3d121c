"""A micro-batch without padding, in which streams that begin alike share their beginning.

All tokens of a micro-batch go through the model as one flat row.  What several streams heard first, such as the brief
of a scenario's conversations, is in it once; only attention puts each stream together again.  In a step of chit-chat
with four conversations a scenario this saves a fifth of the work (measured: 25% fewer tokens in streams of 120, 13% in
streams of 270).

Legend: B streams, T tokens of the longest, N tokens of the flat row, H query heads, D head size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from selfplay.experience import Trajectory

logger = logging.getLogger(__name__)

ATTENTION = "selfplay_packed"
# A shorter common beginning is not worth a piece of its own.
SHORTEST_SHARED = 8
# What the flat row computes must agree with the model's own pass, relative to the spread of its numbers.
SELF_TEST_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}

Row = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How streams are laid out as one flat row of pieces.

    Example: two streams ``a b c`` and ``a b d e`` with a shared piece are the row ``a b c d e``, sizes ``[2, 1, 2]``,
    paths ``[[0, 1], [0, 2]]``.
    """

    tokens: Tensor  # [1, N] int64
    sizes: list[int]  # tokens of each piece
    paths: list[list[int]]  # [B] the pieces each stream is made of, in order
    positions: Tensor  # [1, N] int64, of each token in its stream
    place: Tensor  # [B, T] int64, of each stream's token in the flat row; 0 where padded


@dataclass(slots=True)
class _Pieces:
    """Pieces of streams, as they are found: which stream each was cut from, and where."""

    cuts: list[tuple[int, int, int]] = field(default_factory=list)  # stream, first token, the one after the last
    paths: dict[int, list[int]] = field(default_factory=dict)

    def add(self, row: int, start: int, end: int) -> int:
        self.cuts.append((row, start, end))
        return len(self.cuts) - 1


def lay_out(tokens: Tensor, exists: Tensor, acted: Tensor) -> Layout:
    """Return the layout of a right-padded batch [B, T]; nothing is shared from a stream's first acted token on."""
    sizes = exists.sum(dim=1).tolist()
    rows = [row[:size] for row, size in zip(tokens.cpu().numpy(), sizes, strict=True)]
    limits = [_first(row) for row in acted.cpu().numpy()]
    pieces = _Pieces()
    _share(pieces, rows, limits, list(range(len(rows))), start=0, path=[])
    lengths = [end - start for _, start, end in pieces.cuts]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    place = np.zeros(tokens.shape, dtype=np.int64)
    for row, path in pieces.paths.items():
        place[row, : sizes[row]] = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in path])
    positions = np.concatenate([np.arange(start, end) for _, start, end in pieces.cuts])
    flat = np.concatenate([rows[row][start:end] for row, start, end in pieces.cuts])
    return Layout(
        tokens=torch.from_numpy(flat)[None].to(tokens.device),
        sizes=lengths,
        paths=[pieces.paths[row] for row in range(len(rows))],
        positions=torch.from_numpy(positions)[None].to(tokens.device),
        place=torch.from_numpy(place).to(tokens.device),
    )


def packed_rows(trajectories: Sequence[Trajectory], *, num_minibatches: int, max_tokens: int) -> list[list[list[int]]]:
    """Return minibatches of micro-batches of row numbers: streams that begin alike stand together.

    A micro-batch is at most `max_tokens` long as a flat row, unless it is one stream; minibatches are of about equal
    length, and there are at most as many as streams.
    """
    limits = [_first(trajectory.acted) for trajectory in trajectories]
    keys = [t.tokens[:limit].tolist() for t, limit in zip(trajectories, limits, strict=True)]
    order = sorted(range(len(trajectories)), key=lambda row: (keys[row], row))
    shared = [0, *(_common(keys[one], keys[other]) for one, other in pairwise(order))]
    new = {row: trajectories[row].num_tokens - size for row, size in zip(order, shared, strict=True)}
    return [
        _fill(part, [trajectories[row].num_tokens for row in part], [new[row] for row in part], max_tokens)
        for part in _parts(order, [new[row] for row in order], num_minibatches)
    ]


def pack_attention(model: PreTrainedModel) -> bool:
    """Make a model take flat rows, and return whether it can: if not, it stays as it was.

    A family whose attention needs more than keys, values and a causal order would compute something else.
    """
    config: Any = model.config
    before = config._attn_implementation
    problem = ""
    try:
        model.set_attn_implementation(ATTENTION)
        difference = _self_test(model, before)
        # Written so that NaN, which compares as False, is refused.
        if not difference <= SELF_TEST_TOLERANCE[model.dtype]:
            problem = "it would compute something else"
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        problem = str(error)
    if problem:
        logger.info("streams are padded: models of the family %r cannot be packed: %s", config.model_type, problem)
        model.set_attn_implementation(before)
    return not problem


def is_packed(model: PreTrainedModel) -> bool:
    """Whether a model takes flat rows."""
    config: Any = model.config
    return bool(config._attn_implementation == ATTENTION)


def packed_states(model: PreTrainedModel, layout: Layout) -> Tensor:
    """Return the last hidden states of the flat row [N, width], before the head."""
    trunk: Any = model.base_model
    output = trunk(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout)
    return cast(Tensor, output.last_hidden_state)[0]


def packed_attention(  # noqa: PLR0913 (the signature is transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    layout: Layout | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: every stream reads itself, put together from its pieces.

    query [1, H, N, D], key and value [1, key heads, N, D].  Returns [1, N, H, D].
    Without a layout it is ordinary causal attention.
    """
    if layout is None:
        if attention_mask is not None:
            raise ValueError("a model that takes flat rows takes no attention mask")
        output, _ = sdpa_attention_forward(module, query, key, value, None, scaling=scaling, **options)
        return output, None
    split = [torch.split(tensor, layout.sizes, dim=2) for tensor in (query, key, value)]
    outputs: dict[int, Tensor] = {}
    for path in layout.paths:
        whole = (torch.cat([pieces[i] for i in path], dim=2) for pieces in split)
        attended = torch.split(_attend(*whole, scale=scaling, softcap=softcap), [layout.sizes[i] for i in path], dim=2)
        # A shared piece attends to itself alone, so every stream has the same of it: the first one's is taken.
        for piece, part in zip(path, attended, strict=True):
            outputs.setdefault(piece, part)
    return torch.cat([outputs[i] for i in range(len(layout.sizes))], dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, packed_attention)


def _attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None, softcap: float | None) -> Tensor:
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = (query @ key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    capped = (torch.tanh(scores / softcap) * softcap).masked_fill(later, -torch.inf)
    return capped.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


@torch.no_grad()
def _self_test(model: PreTrainedModel, before: str) -> float:
    """Return how far two streams with a shared beginning are, packed, from the model's own pass over each."""
    beginning = (torch.arange(1, SHORTEST_SHARED + 2) % int(model.config.get_text_config().vocab_size)).tolist()
    tokens = torch.tensor([[*beginning, 3, 4, 5], [*beginning, 6, 1, 2]], device=model.device)
    acted = torch.zeros_like(tokens, dtype=torch.bool)
    acted[:, -2:] = True
    layout = lay_out(tokens, torch.ones_like(acted), acted)
    ours = packed_states(model, layout)[layout.place].float()
    model.set_attn_implementation(before)
    trunk: Any = model.base_model
    theirs = cast(Tensor, trunk(input_ids=tokens, use_cache=False).last_hidden_state).float()
    model.set_attn_implementation(ATTENTION)
    return float((ours - theirs).abs().max() / theirs.std().clamp_min(1e-6))


def _share(
    pieces: _Pieces, rows: Sequence[Row], limits: Sequence[int], members: list[int], *, start: int, path: list[int]
) -> None:
    """Cut streams that are equal up to `start` into pieces from there on."""
    if len(members) == 1:
        [row] = members
        pieces.paths[row] = [*path, pieces.add(row, start, len(rows[row]))]
        return
    end = min(limits[row] for row in members)
    first = rows[members[0]][start:end]
    end = start + min(_common(first, rows[row][start:end]) for row in members)
    if end - start >= SHORTEST_SHARED:
        path, start = [*path, pieces.add(members[0], start, end)], end
    branches: dict[int, list[int]] = {}
    for row in members:
        # A stream whose own acting begins here shares no more: it goes alone, under a key that is no token.
        branches.setdefault(-1 - row if limits[row] == end else int(rows[row][end]), []).append(row)
    for branch in branches.values():
        _share(pieces, rows, limits, branch, start=start, path=path)


def _common(one: Sequence[int] | Row, other: Sequence[int] | Row) -> int:
    """Return how many first tokens two streams have in common."""
    size = min(len(one), len(other))
    different = np.flatnonzero(np.asarray(one[:size]) != np.asarray(other[:size]))
    return int(different[0]) if len(different) else size


def _first(acted: Row) -> int:
    """Return the place of a stream's first acted token."""
    places = np.flatnonzero(acted)
    return int(places[0]) if len(places) else len(acted)


def _parts(order: list[int], sizes: Sequence[int], num: int) -> Iterator[list[int]]:
    """Yield rows in `num` parts of about equal size, none empty."""
    num = min(num, len(order))
    middles = np.cumsum(sizes) - np.array(sizes) / 2
    numbers = np.minimum((middles / sum(sizes) * num).astype(int), num - 1)
    parts = [[row for row, number in zip(order, numbers, strict=True) if number == part] for part in range(num)]
    yield from (part for part in parts if part)


def _fill(rows: Sequence[int], whole: Sequence[int], new: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return rows in lists of at most so many tokens: the first of a list counts whole, the others what they add."""
    filled: list[list[int]] = []
    size = 0
    for row, alone, added in zip(rows, whole, new, strict=True):
        if filled and size + added <= max_tokens:
            filled[-1].append(row)
            size += added
        else:
            filled.append([row])
            size = alone
    return filled
