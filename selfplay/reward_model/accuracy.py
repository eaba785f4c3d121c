"""How often a score prefers what was preferred, with an interval that counts what belongs together once.

Legend: P pairs, G groups of pairs that are no independent evidence, R resamples, M members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from selfplay.resampling import NUM_RESAMPLES, Matrix, divide, draw_resamples, percentile_interval
from selfplay.reward_model.dialogs import Dialog, Judged
from selfplay.reward_model.examples import Example
from selfplay.reward_model.judged_pairs import JudgedPair, pairs_of

if TYPE_CHECKING:
    from selfplay.reward_model.model import Verdict

__all__ = [
    "CHANCE",
    "Column",
    "PairCounts",
    "Share",
    "Valuing",
    "clear_pairs",
    "measured_accuracy",
    "of_both",
    "verdicts_of",
]

CHANCE = 0.5
MOST_DRAWS = 4_000_000  # groups times resamples: of very many groups fewer resamples say as much
FEWEST_RESAMPLES = 200
QUANTILE = 1.959964  # of the normal distribution: 95% lie within

Column = npt.NDArray[np.float64]
T = TypeVar("T")


class Valuing(Protocol):
    """What is asked of a reward model."""

    def values(self, dialogs: Sequence[Dialog], *, judged: Judged = "conversation") -> list[Verdict]:
        """Return one verdict a dialog."""
        ...

    def probabilities(self, examples: Sequence[Example]) -> npt.NDArray[np.floating[Any]]:
        """Return [P, M] how likely each member thinks that the first of each pair is preferred."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of pairs, or a difference of two, with its interval; NaN where there was too little to measure."""

    value: float
    low: float
    high: float
    num_pairs: int


def measured_accuracy(model: Valuing, examples: Sequence[Example], *, seed: int = 0) -> Share:
    """Return the share of clear pairs on which a model prefers what was preferred, with a 95% interval.

    Ties are left out; rankings, best-of-K and ratings count as `pairs_of` says.
    """
    counts = PairCounts(clear_pairs(examples, seed=seed), seed=seed)
    verdicts = verdicts_of(model, counts.pairs)
    return counts.share(counts.right([one.mean for one, _ in verdicts], [other.mean for _, other in verdicts]))


def clear_pairs(examples: Sequence[Example], *, seed: int) -> list[JudgedPair]:
    """Return the pairs of which one is preferred."""
    return [pair for pair in pairs_of(examples, seed=seed) if pair.is_clear]


def verdicts_of(model: Valuing, pairs: Sequence[JudgedPair]) -> list[tuple[Verdict, Verdict]]:
    """Return what a model says of each pair's two dialogs."""

    def read(dialogs: Sequence[Dialog], judged: Judged) -> list[Verdict]:
        return model.values(dialogs, judged=judged)

    return of_both(pairs, read)


def of_both(pairs: Sequence[JudgedPair], read: Callable[[Sequence[Dialog], Judged], Sequence[T]]) -> list[tuple[T, T]]:
    """Return what is read of each pair's two dialogs; a dialog that is in several pairs is read once."""
    found: dict[tuple[Judged, str], T] = {}
    judged_kinds: tuple[Judged, ...] = ("turn", "conversation")
    for judged in judged_kinds:
        dialogs = {one.key: one for pair in pairs if pair.judged == judged for one in (pair.first, pair.second)}
        if dialogs:
            read_of_all = read(list(dialogs.values()), judged)
            found |= {(judged, key): one for key, one in zip(dialogs, read_of_all, strict=True)}
    return [(found[pair.judged, pair.first.key], found[pair.judged, pair.second.key]) for pair in pairs]


class PairCounts:
    """Clear pairs, and the resamples of their groups that every interval is made from."""

    def __init__(self, pairs: Sequence[JudgedPair], *, seed: int) -> None:
        self.pairs = pairs
        _, self._group = np.unique([pair.group for pair in pairs], return_inverse=True)  # [P]
        self.num_groups = int(self._group.max()) + 1 if len(pairs) else 0
        most = min(NUM_RESAMPLES, MOST_DRAWS // max(1, self.num_groups))
        self._seed, self._num_resamples = seed, max(FEWEST_RESAMPLES, most)
        self._draws: Matrix | None = None  # [R, G]

    def right(self, firsts: Sequence[float], seconds: Sequence[float]) -> Column:
        """Return [P] 1 where the higher score is that of the preferred dialog, else 0; equal or no scores are half."""
        labels = np.sign([pair.target - CHANCE for pair in self.pairs])
        differences = np.asarray(firsts, dtype=np.float64) - np.asarray(seconds, dtype=np.float64)
        return np.asarray((1.0 + labels * np.sign(np.nan_to_num(differences))) / 2.0, dtype=np.float64)

    def share(self, counts: Column, *, mask: npt.NDArray[np.bool_] | None = None) -> Share:
        """Return the mean of counts [P], 0 to 1, over the pairs of the mask; resampling whole groups bounds it."""
        return self._mean(counts, mask, lowest=0.0)

    def difference(self, counts: Column) -> Share:
        """Return the mean of differences [P], -1 to 1, with its interval."""
        return self._mean(counts, None, lowest=-1.0)

    def _mean(self, counts: Column, mask: npt.NDArray[np.bool_] | None, *, lowest: float) -> Share:
        chosen = np.ones(len(counts), dtype=bool) if mask is None else mask
        num = int(chosen.sum())
        if not num:
            return Share(value=math.nan, low=math.nan, high=math.nan, num_pairs=0)
        mean = float(counts[chosen].mean())
        low, high = self._resampled(counts, chosen) if np.ptp(counts[chosen]) else (math.nan, math.nan)
        if not math.isfinite(low):
            low, high = _bounds_of_alike(mean, len(np.unique(self._group[chosen])), lowest=lowest)
        return Share(value=mean, low=low, high=high, num_pairs=num)

    def _resampled(self, counts: Column, chosen: npt.NDArray[np.bool_]) -> tuple[float, float]:
        tops, bottoms = self._sums(np.where(chosen, counts, 0.0)), self._sums(chosen.astype(np.float64))  # [G]
        draws = self._resamples()
        return percentile_interval(divide(draws @ tops, draws @ bottoms))

    def shares(self, counts: Column, labels: Sequence[str], *, order: Sequence[str] = ()) -> dict[str, Share]:
        """Return the share of each label that occurs, in the order given, else sorted."""
        named, known = np.array(labels, dtype=object), set(labels)
        return {
            label: self.share(counts, mask=np.asarray(named == label, dtype=bool))
            for label in order or sorted(known)
            if label in known
        }

    def _sums(self, column: Column) -> Column:
        return np.asarray(np.bincount(self._group, weights=column, minlength=self.num_groups), dtype=np.float64)

    def _resamples(self) -> Matrix:
        if self._draws is None:
            self._draws = draw_resamples(self.num_groups, seed=self._seed, num_resamples=self._num_resamples)
        return self._draws


def _bounds_of_alike(mean: float, num_groups: int, *, lowest: float) -> tuple[float, float]:
    """Return the interval where all groups gave the same, which resampling would call certain.

    Source: Wilson's score interval for all of n, whose width is z^2 / (n + z^2) of what could have been.
    """
    missed = QUANTILE**2 / (num_groups + QUANTILE**2)
    return mean - missed * (mean - lowest), mean + missed * (1.0 - mean)
