"""Drawing tokens so that neither batch size nor order changes a transcript.

A draw is one uniform number, a hash of (stream seed, position), walked down the probabilities in falling order.
Rounding differs a little with the batch; in falling order the boundaries that can flip are few.  Only a
short head of the distribution is sorted; the rare draw that falls behind it sorts the row.

Legend: B rows, V vocabulary, K sorted window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from selfplay.interfaces import Sampling

# Windows of the sorted head that are tried in turn; the last resort is the whole row.
WINDOWS = (128, 4096)
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One drawn token a row."""

    tokens: Tensor  # [B] int64, on the CPU
    logprobs: Tensor  # [B] float32 nats, on the CPU; NaN where a row's logits were not finite


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return the `positions[b]`-th output of a SplitMix64 generator seeded with `seeds[b]`, as [B] in [0, 1).

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 16.
    """
    with np.errstate(over="ignore"):
        state = seeds + (positions + np.uint64(1)) * GOLDEN_GAMMA
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    # The 53 high bits are what a double holds.
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(logits: Tensor, uniform: npt.NDArray[np.float64], sampling: Sampling) -> Draw:
    """Draw one token a row from logits [B, V] with the numbers uniform [B] in [0, 1).

    The reported log-probability is that of the distribution after temperature, top-k, top-p and min-p, in this
    order, as transformers applies them.  At temperature 0 the likeliest token is taken and the log-probability is 0.
    """
    if sampling.temperature == 0.0:
        best = logits.argmax(dim=-1).cpu()
        finite = logits.amax(dim=-1).isfinite().cpu()
        return Draw(tokens=best, logprobs=torch.where(finite, 0.0, torch.nan))
    scaled = logits.float() / sampling.temperature
    tokens = torch.zeros(scaled.shape[0], dtype=torch.int64)
    logprobs = torch.full((scaled.shape[0],), torch.nan)
    total = torch.logsumexp(scaled, dim=-1, keepdim=True)  # [B, 1]
    open_rows = total[:, 0].isfinite().nonzero()[:, 0].cpu()
    u = torch.from_numpy(uniform)
    for width in _widths(scaled.shape[1], sampling.top_k):
        whole = width == scaled.shape[1] or sampling.top_k > 0
        every_row = len(open_rows) == scaled.shape[0]
        values, indices = (scaled if every_row else scaled[open_rows.to(scaled.device)]).topk(width, dim=-1)
        # After top-k the rest is measured on what top-k left.
        mass = values.logsumexp(dim=-1, keepdim=True) if sampling.top_k else total[open_rows.to(scaled.device)]
        head = (values - mass).double().cpu()  # [B, K] falling
        place, logprob, decided = _walk(head, u[open_rows], sampling, whole=whole)
        rows = open_rows[decided]
        tokens[rows] = indices.cpu()[decided].gather(1, place[decided, None])[:, 0]
        logprobs[rows] = logprob[decided].float()
        open_rows = open_rows[~decided]
        if len(open_rows) == 0:
            break
    return Draw(tokens=tokens, logprobs=logprobs)


def _widths(vocabulary: int, top_k: int) -> list[int]:
    if top_k:
        return [min(top_k, vocabulary)]
    return [width for width in WINDOWS if width < vocabulary] + [vocabulary]


def _walk(head: Tensor, u: Tensor, sampling: Sampling, *, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Walk down falling log-probabilities [B, K]; return place [B], log-probability [B] and whether it is certain [B].

    `whole` says that nothing lies behind the window; otherwise a row is certain only if the draw, and the set that
    top-p and min-p keep, end inside it.
    """
    probabilities = head.exp()
    reached = probabilities.cumsum(dim=-1)
    # The token that crosses top_p is kept, so a token counts by the mass before it.
    kept = (reached - probabilities) < sampling.top_p
    if sampling.min_p > 0.0:
        kept &= probabilities >= sampling.min_p * probabilities[:, :1]
    kept[:, 0] = True
    last = kept.sum(dim=-1, keepdim=True) - 1  # [B, 1]
    is_cut = last[:, 0] < head.shape[1] - 1
    # Without a cut the distribution is as it was: its mass is 1, the part behind the window included.
    mass = torch.where(is_cut | whole, reached.gather(1, last)[:, 0], torch.ones_like(u))
    target = u * mass
    place = torch.searchsorted(reached, target[:, None], right=True)[:, 0]
    inside = place <= last[:, 0]
    # Rounding can put the target a hair above the last boundary of a whole row.
    place = torch.minimum(place, last[:, 0])
    logprob = head.gather(1, place[:, None])[:, 0] - mass.log()
    truncates = sampling.top_p < 1.0 or sampling.min_p > 0.0
    decided = torch.ones_like(inside) if whole else (is_cut if truncates else inside)
    return place, logprob, decided
