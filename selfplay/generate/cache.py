"""Keys and values of many streams of different lengths, and the attention that reads them.

All new tokens of a step, whichever streams they belong to, go through the model as one flat row; only attention
needs to know whose token is whose, and it asks the step's `Layout`.

Legend: N tokens of the step, R rows (one a stream), H query heads, G query heads per key head, D head size.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

# What a cache begins with; rows and positions then double.  Room is no memory until it is written to, see `_zeros`.
FIRST_ROWS, FIRST_POSITIONS = 8, 256
# On a GPU room is memory at once, so positions grow by this instead.
GPU_POSITIONS_PER_GROWTH = 64


class RaggedCache:
    """Keys and values of many streams, a row a stream, each row filled to its own length and written in place.

    One tensor a layer for keys and one for values, [R, key heads, positions, D].  They grow a layer at a time, so
    growing needs memory for one layer twice, not for all of them.
    """

    def __init__(self, *, num_layers: int) -> None:
        self.num_layers = num_layers
        self._clear()

    def _clear(self) -> None:
        self.keys: list[Tensor | None] = [None] * self.num_layers
        self.values: list[Tensor | None] = [None] * self.num_layers
        self.num_rows = 0
        self.num_positions = 0
        self.bytes_per_token = 0  # over all layers, once they are written to
        self._free: list[int] = []
        self._filled: dict[int, int] = {}  # row -> positions that hold something

    def take_row(self) -> int:
        """Return a row nobody uses: the lowest, so that rows in use stay together."""
        if not self._free:
            more = max(FIRST_ROWS, self.num_rows)
            self._free = list(range(self.num_rows, self.num_rows + more))
            self.num_rows += more
        row = min(self._free)
        self._free.remove(row)
        return row

    def give_back(self, row: int, *, is_broken: bool = False) -> None:
        """Let another stream use the row; the last one out gives the memory back.

        is_broken: the row may hold NaN, and a masked position times 0 must be 0 for whoever comes next.
        """
        if is_broken:
            for store in (*self.keys, *self.values):
                if store is not None and row < store.shape[0]:
                    store[row] = 0
        self._filled.pop(row, None)
        self._free.append(row)
        if len(self._free) == self.num_rows:
            self._clear()

    def reserve(self, num_positions: int) -> None:
        """Make room for `num_positions` in every row; rows keep what they hold.  Layers follow at their next write."""
        if num_positions <= self.num_positions:
            return
        on_gpu = self.keys[0] is not None and self.keys[0].is_cuda
        if on_gpu:
            self.num_positions = -(-num_positions // GPU_POSITIONS_PER_GROWTH) * GPU_POSITIONS_PER_GROWTH
        else:
            self.num_positions = max(FIRST_POSITIONS, 1 << (num_positions - 1).bit_length())

    def write(self, layer: int, keys: Tensor, values: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Write the step's keys and values [1, key heads, N, D]; return all of the layer's [R, key heads, P, D]."""
        kept = self._fit(self.keys, layer, keys), self._fit(self.values, layer, values)
        if layer == 0:
            self._filled.update(layout.ends)
        for store, new in zip(kept, (keys, values), strict=True):
            store[layout.rows, :, layout.positions] = new[0].transpose(0, 1)
        return kept

    def copy_prefix(self, *, source: int, target: int, length: int) -> None:
        """Give the target row the first `length` positions of the source row."""
        for store in (*self.keys, *self.values):
            if store is not None:
                if target >= store.shape[0]:
                    raise AssertionError("reserve rows before copying into them")
                store[target, :, :length] = store[source, :, :length]
        self._filled[target] = length

    def fit_all(self) -> None:
        """Grow every layer now; needed before a prefix is copied into a new row."""
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):
                if store is not None:
                    self._fit(stores, layer, store)

    def _fit(self, stores: list[Tensor | None], layer: int, like: Tensor) -> Tensor:
        store = stores[layer]
        if store is not None and store.shape[0] >= self.num_rows and store.shape[2] >= self.num_positions:
            return store
        grown = _zeros((self.num_rows, like.shape[1], self.num_positions, like.shape[3]), like)
        if store is None:
            self.bytes_per_token += like.shape[1] * like.shape[3] * like.element_size()
        else:
            # Only what is filled, so that room which nobody has written to stays none.
            for row, length in self._filled.items():
                if row < store.shape[0]:
                    grown[row, :, : min(length, store.shape[2])] = store[row, :, :length]
        stores[layer] = grown
        return grown


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return zeros: masked positions are multiplied by 0, and 0 times what fresh memory may hold is NaN.

    On the CPU they are pages of the operating system, which become memory when they are first written to and are
    given back when the tensor goes.  The allocator's own memory would do neither: it keeps what it once had.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive new tokens of one stream: positions start..end of its row."""

    row: int
    start: int
    end: int
    adapter: int = 0  # what tells the adapter that speaks in this stream from others; 0: none does

    @property
    def num_tokens(self) -> int:
        """Tokens that are new."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Neighbouring rows that each get one token: one batched product serves them all."""

    first_token: int
    first_row: int
    num_rows: int
    longest: int
    mask: Tensor | None  # [num_rows, 1, 1, longest], 0 or -inf; None: all rows are equally long


class Layout:
    """Whose token is whose in one step.

    The tokens of one adapter lie together; within them segments of one token come first, in row order, and longer
    ones follow.  `order` says where each segment of the argument went; `last` is where its last token lies in the flat
    row; `parts` are the (adapter, first token, end) of the adapters that are there.
    """

    def __init__(self, segments: Sequence[Segment], *, cache: RaggedCache, device: torch.device) -> None:
        self.cache = cache
        self.order = sorted(range(len(segments)), key=lambda i: (segments[i].adapter, *_by_length(segments[i])))
        ordered = [segments[i] for i in self.order]
        self.rows = _index((s.row for s in ordered for _ in range(s.num_tokens)), device)  # [N]
        self.positions = _index((p for s in ordered for p in range(s.start, s.end)), device)  # [N]
        ends, total = [], 0
        for segment in ordered:
            total += segment.num_tokens
            ends.append(total - 1)
        self.last = ends  # in `order`
        self.ends = {segment.row: segment.end for segment in segments}  # row -> positions it holds after the step
        self.parts = _parts(ordered)
        # Attention wants the neighbours of the cache beside each other, whichever adapter they have.
        attended = sorted(ordered, key=_by_length)
        self._turned = _between(ordered, attended, device) if attended != ordered else None
        singles = [s for s in attended if s.num_tokens == 1]
        self._runs = _runs(singles, device)
        self._spans, first = [], len(singles)
        for span in attended[len(singles) :]:
            self._spans.append((first, span, _causal_mask(span, device)))
            first += span.num_tokens

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, *, scale: float, softcap: float | None) -> Tensor:
        """Return attention [1, N, H, D] of query [1, H, N, D] over the rows' keys and values [R, key heads, P, D]."""
        by_token = query[0].transpose(0, 1) * scale  # [N, H, D]
        if self._turned is not None:
            by_token = by_token[self._turned[0]]
        output = torch.empty(*by_token.shape[:2], values.shape[-1], dtype=query.dtype, device=query.device)
        for run in self._runs:
            tokens = slice(run.first_token, run.first_token + run.num_rows)
            output[tokens] = _attend_run(by_token[tokens], keys, values, run, softcap)
        for first, segment, mask in self._spans:
            tokens = slice(first, first + segment.num_tokens)
            output[tokens] = _attend_span(by_token[tokens], keys, values, segment, mask, softcap)
        return (output if self._turned is None else output[self._turned[1]])[None]


def ragged_attention(  # noqa: PLR0913 (the signature is transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    layout: Layout,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: store the new keys and values, then let every token read its own row.

    query [1, H, N, D], key and value [1, key heads, N, D].  Returns [1, N, H, D].
    """
    layer: int = module.layer_idx  # type: ignore[assignment]  # an int on every attention module of transformers
    keys, values = layout.cache.write(layer, key, value, layout)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(query, keys, values, scale=scale, softcap=softcap), None


def _attend_run(query: Tensor, keys: Tensor, values: Tensor, run: _Run, softcap: float | None) -> Tensor:
    """One token a row: query [n, H, D] -> [n, H, D]."""
    rows = slice(run.first_row, run.first_row + run.num_rows)
    key_heads = keys.shape[1]
    # The query heads that share a key head are the rows of one small matrix, so nothing is repeated.
    folded = query.reshape(run.num_rows * key_heads, -1, query.shape[-1])  # [n * key heads, G, D]
    scores = torch.bmm(folded, keys[rows].flatten(0, 1)[:, : run.longest].transpose(1, 2))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if run.mask is not None:
        scores.view(run.num_rows, key_heads, -1, run.longest).add_(run.mask)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
    return torch.bmm(weights, values[rows].flatten(0, 1)[:, : run.longest]).view(*query.shape[:2], -1)


def _attend_span(
    query: Tensor, keys: Tensor, values: Tensor, segment: Segment, mask: Tensor, softcap: float | None
) -> Tensor:
    """Several tokens of one row: query [t, H, D] -> [t, H, D]."""
    num_tokens, num_heads, _ = query.shape
    key_heads = keys.shape[1]
    key, value = keys[segment.row, :, : segment.end], values[segment.row, :, : segment.end]
    group = num_heads // key_heads
    folded = query.view(num_tokens, key_heads, group, -1).permute(1, 2, 0, 3).reshape(key_heads, group * num_tokens, -1)
    folded_mask = mask.repeat(group, 1)  # [G * t, end]
    if softcap is None:
        output = scaled_dot_product_attention(folded[None], key[None], value[None], attn_mask=folded_mask, scale=1.0)[0]
    else:
        scores = torch.tanh(folded @ key.transpose(1, 2) / softcap) * softcap
        output = scores.masked_fill(~folded_mask, -torch.inf).softmax(dim=-1) @ value
    return output.view(key_heads, group, num_tokens, -1).permute(2, 0, 1, 3).reshape(num_tokens, num_heads, -1)


def _by_length(segment: Segment) -> tuple[bool, int]:
    return segment.num_tokens > 1, segment.row


def _parts(ordered: Sequence[Segment]) -> list[tuple[int, int, int]]:
    """Return (adapter, first token, end) of each adapter's tokens in the flat row."""
    parts, end = [], 0
    for adapter, group in groupby(ordered, key=lambda segment: segment.adapter):
        start, end = end, end + sum(segment.num_tokens for segment in group)
        if adapter:
            parts.append((adapter, start, end))
    return parts


def _between(ordered: Sequence[Segment], wanted: Sequence[Segment], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where each token of the wanted order lies in the flat row, and the way back: [N] each."""
    firsts = accumulate((segment.num_tokens for segment in ordered), initial=0)
    first = {segment.row: start for segment, start in zip(ordered, firsts, strict=False)}
    gather = _index((first[s.row] + offset for s in wanted for offset in range(s.num_tokens)), device)
    return gather, gather.argsort()


def _runs(singles: Sequence[Segment], device: torch.device) -> list[_Run]:
    """Cut segments of one token, in row order, where rows are not neighbours."""
    runs, first = [], 0
    for i in range(1, len(singles) + 1):
        if i == len(singles) or singles[i].row != singles[i - 1].row + 1:
            runs.append(_run(singles[first:i], first, device))
            first = i
    return runs


def _run(members: Sequence[Segment], first_token: int, device: torch.device) -> _Run:
    lengths = torch.tensor([member.end for member in members], device=device)
    longest = max(member.end for member in members)
    mask = None
    if any(member.end != longest for member in members):
        beyond = torch.arange(longest, device=device) >= lengths[:, None]
        mask = torch.zeros(beyond.shape, device=device).masked_fill_(beyond, -torch.inf)[:, None, None]
    return _Run(first_token=first_token, first_row=members[0].row, num_rows=len(members), longest=longest, mask=mask)


def _causal_mask(segment: Segment, device: torch.device) -> Tensor:
    """True where a new token may look: [t, end]."""
    own = torch.arange(segment.start, segment.end, device=device)[:, None]
    return torch.arange(segment.end, device=device) <= own


def _index(numbers: Any, device: torch.device) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int64, device=device)
