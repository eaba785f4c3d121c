"""Drawing tokens so that neither batch size nor order changes a transcript.

A draw is Gumbel-max: every token's log-probability plus noise that is a hash of (stream seed, position, token), and the
highest wins.  Rounding, which differs a little with the batch, then matters only where the two highest are closer
than its error; walking down the cumulative probabilities instead would flip many draws from a flat tail.

Noise for the whole vocabulary would cost as much as a third of the model, so the head of the distribution
competes with its tail as a single candidate, and only where the tail wins its tokens compete among themselves.  That is
exact: the tail's chance is the sum of its tokens' chances, and the noises are independent.

Legend: B rows, V vocabulary, K tokens in the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from selfplay.interfaces import Sampling

HEAD = 128
# Where top-p or min-p keep more than the head, this many are looked at before the whole vocabulary is.
LONG_HEAD = 2048
# Below this logits divided by the temperature overflow, and the draw is greedy anyway.
LOWEST_TEMPERATURE = 1e-6
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One drawn token a row."""

    tokens: Tensor  # [B] int64, on the CPU
    logprobs: Tensor  # [B] float32 nats, on the CPU; NaN where a row's logits were not finite


def split_mix(seeds: Words, places: Words) -> Words:
    """Return the `places`-th output of the SplitMix64 generators seeded with `seeds`; both broadcast.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 16.
    """
    with np.errstate(over="ignore"):
        state = seeds + (places + np.uint64(1)) * GOLDEN_GAMMA
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Words = state ^ (state >> np.uint64(31))
    return mixed


def gumbels(keys: Words, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return standard Gumbel noise [B, K] for tokens [B, K] or [1, K] under keys [B]; it depends on both alone."""
    words = split_mix(keys[:, None], tokens.astype(np.uint64))
    # The 53 high bits are what a double holds; the half keeps 0 out.
    uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53
    return np.asarray(-np.log(-np.log(uniform)), dtype=np.float64)


def draw(logits: Tensor, keys: Words, sampling: Sampling) -> Draw:
    """Draw one token a row from logits [B, V]; keys [B] hold `split_mix(stream seed, position)`.

    The reported log-probability is that of the distribution after temperature, top-k, top-p and min-p, in this
    order, as transformers applies them.  At temperature 0 the likeliest token is taken and the log-probability is 0.
    """
    if sampling.temperature < LOWEST_TEMPERATURE:
        finite = logits.amax(dim=-1).isfinite().cpu()
        return Draw(tokens=logits.argmax(dim=-1).cpu(), logprobs=torch.where(finite, 0.0, torch.nan))
    scaled = logits.float() if sampling.temperature == 1.0 else logits.float() / sampling.temperature
    total = torch.logsumexp(scaled, dim=-1, keepdim=True)  # [B, 1]
    drawn = _Rows(tokens=np.zeros(len(keys), np.int64), logprobs=np.full(len(keys), np.nan))
    finite_rows = total[:, 0].isfinite().nonzero()[:, 0].cpu().numpy()
    left = finite_rows
    for width in [sampling.top_k] if sampling.top_k else (HEAD, LONG_HEAD, scaled.shape[1]):
        left = drawn.fill(left, scaled, total, keys, sampling, width=min(width, scaled.shape[1]))
    return Draw(tokens=torch.from_numpy(drawn.tokens), logprobs=torch.from_numpy(drawn.logprobs).float())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What has been drawn so far."""

    tokens: npt.NDArray[np.int64]  # [B]
    logprobs: npt.NDArray[np.float64]  # [B] nats

    def fill(
        self,
        rows: npt.NDArray[np.int64],
        scaled: Tensor,
        total: Tensor,
        keys: Words,
        sampling: Sampling,
        *,
        width: int,
    ) -> npt.NDArray[np.int64]:
        """Draw for some rows from their `width` likeliest tokens; return the rows that need all of theirs.

        scaled [B, V] logits over temperature, total [B, 1] their logsumexp.
        """
        if len(rows) == 0:
            return rows
        places = torch.from_numpy(rows).to(scaled.device)
        values, indices = (scaled if len(rows) == len(scaled) else scaled[places]).topk(width, dim=-1)
        # Top-k measures the rest on what it left, so nothing lies behind its window.
        mass = values.logsumexp(dim=-1, keepdim=True) if sampling.top_k else total[places]
        head = _Head(
            logprobs=(values - mass).double().cpu().numpy(),
            tokens=indices.cpu().numpy(),
            is_whole=sampling.top_k > 0 or width == scaled.shape[1],
        )
        kept, is_cut = head.keep(sampling)
        # Without a cut inside the head, the rest of the vocabulary is what is kept of the tail: all of it, or unknown.
        truncates = sampling.top_p < 1.0 or sampling.min_p > 0.0
        unknown = np.zeros_like(is_cut) if head.is_whole or not truncates else ~is_cut
        winner, is_behind = head.race(kept, keys[rows], tail_counts=not (head.is_whole or truncates))
        decided = ~(unknown | is_behind)
        each = np.arange(len(rows))
        self.tokens[rows[decided]] = head.tokens[each, winner][decided]
        kept_mass = np.log(np.where(kept, np.exp(head.logprobs), 0.0).sum(axis=-1))
        renormalised = head.logprobs[each, winner] - np.where(is_cut | head.is_whole, kept_mass, 0.0)
        self.logprobs[rows[decided]] = renormalised[decided]
        for row in np.flatnonzero(is_behind):
            logprobs = (scaled[rows[row]] - total[rows[row]]).double().cpu().numpy()
            self._draw_behind(int(rows[row]), logprobs, head.tokens[row], keys)
        return rows[unknown]

    def _draw_behind(
        self, row: int, logprobs: npt.NDArray[np.float64], head: npt.NDArray[np.int64], keys: Words
    ) -> None:
        """Draw among the tokens of one row, logprobs [V], that are not in its head."""
        scores = logprobs + gumbels(keys[row : row + 1], np.arange(len(logprobs))[None])[0]
        scores[head] = -np.inf
        self.tokens[row] = scores.argmax()
        self.logprobs[row] = logprobs[self.tokens[row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The likeliest tokens of some rows, in falling order."""

    logprobs: npt.NDArray[np.float64]  # [B, K]
    tokens: npt.NDArray[np.int64]  # [B, K]
    is_whole: bool  # nothing lies behind

    def keep(self, sampling: Sampling) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which tokens top-p and min-p keep [B, K], and in which rows they cut inside the head [B]."""
        probabilities = np.exp(self.logprobs)
        # The token that crosses top_p is kept, so a token counts by the mass before it.
        before = probabilities.cumsum(axis=-1) - probabilities
        kept = (before < sampling.top_p) if sampling.top_p < 1.0 else np.ones_like(before, dtype=bool)
        if sampling.min_p > 0.0:
            kept &= probabilities >= sampling.min_p * probabilities[:, :1]
        kept[:, 0] = True
        return kept, ~kept[:, -1]

    def race(
        self, kept: npt.NDArray[np.bool_], keys: Words, *, tail_counts: bool
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the place of the winning token [B], and in which rows the tail beats it [B]."""
        scores = np.where(kept, self.logprobs + gumbels(keys, self.tokens), -np.inf)
        winner = scores.argmax(axis=-1)
        if not tail_counts:
            return winner, np.zeros(len(winner), dtype=bool)
        tail = 1.0 - np.exp(self.logprobs).sum(axis=-1)
        # The tail's noise belongs to no token; a tail of rounding alone never wins.
        noise = gumbels(keys, np.full((1, 1), -1))[:, 0]
        score = np.log(np.maximum(tail, np.finfo(np.float64).tiny)) + noise
        return winner, (tail > 0.0) & (score > scores.max(axis=-1))
