"""Elo of entries that were compared two by two: Bradley-Terry strengths with ties, by maximum likelihood.

With strengths p and q and one tie parameter v, the first is preferred with probability ``p / (p + q + v sqrt(p q))``,
the second with ``q / (...)``, and neither with ``v sqrt(p q) / (...)``.  Elo points are ``400 log10`` of a strength, so
100 points more are preferred in 64.0% of the comparisons that are no tie.
Source: Davidson 1970, On extending the Bradley-Terry model to accommodate ties, JASA 65:317-328, equation 2.2.

What no data would bound is bounded by a weak prior: strengths are normally distributed around their mean with a
deviation of 1000 points, and the logarithm of v, where there are ties at all, likewise around 0.  It moves 64 : 36 by
0.1 points, holds an entry that won all of 10 comparisons at 850 points more, and sets entries that nothing connects
around the same mean: a difference between these is the prior's, not the data's (see `connected`).

Legend: E entries, N scenarios, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from selfplay.errors import UserError
from selfplay.resampling import CONFIDENCE, NUM_RESAMPLES, draw_resamples, percentile_interval
from selfplay.written import nearest

__all__ = [
    "POINTS_PER_NAT",
    "PRIOR_POINTS",
    "EloEntry",
    "EloPair",
    "EloTable",
    "PairResult",
    "connected",
    "fit_elo",
    "outcome_probabilities",
    "win_probability",
]

POINTS_PER_NAT = 400.0 / math.log(10.0)  # 173.7: what one unit of log-odds is worth
PRIOR_POINTS = 1000.0
PRECISION = (POINTS_PER_NAT / PRIOR_POINTS) ** 2  # of the prior, in nats
# No log-odds moves by more than 1 at once: so far the curvature is at most 2.72 times as great, and a step cannot fail.
LONGEST_STEP = 1.0 / 3.0
SHORTEST_STEP = 1e-7  # nats: below it the next would be as its square
MOST_STEPS = 500
MOST_CELLS = 200_000  # resamples times entries squared, at once
DRAW_UNSEEN = 1001  # first part of the spawn key

Column = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """What one comparison of two entries came to.

    The three shares are weights: 1, 0, 0 where the first was preferred, 0.7, 0, 0.3 where a judge finds that 70%
    likely, and their sum is what the comparison counts for.

    Example: ``PairResult(first="chat@10", second="chat@30", scenario="chitchat/7", first_won=0.3, second_won=0.7)``
    """

    first: str
    second: str
    scenario: str  # comparisons of one scenario are no independent evidence
    first_won: float = 0.0
    tied: float = 0.0
    second_won: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no comparison."""
        if self.first == self.second:
            raise ValueError(f"{self.first!r} is compared with itself")
        if not all(math.isfinite(share) and share >= 0.0 for share in (self.first_won, self.tied, self.second_won)):
            raise ValueError(f"{self}: shares must be finite and at least 0")

    @property
    def weight(self) -> float:
        """What it counts for."""
        return self.first_won + self.tied + self.second_won

    def swapped(self) -> PairResult:
        """Return the same result told from the other side."""
        return PairResult(
            first=self.second,
            second=self.first,
            scenario=self.scenario,
            first_won=self.second_won,
            tied=self.tied,
            second_won=self.first_won,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EloEntry:
    """One entry of the table.

    Example: ``EloEntry(name="chat@30", elo=41.2, low=3.5, high=80.1, win_share=0.58, tie_share=0.1, num=96)``
    """

    name: str
    elo: float  # points from the mean of all entries, or from the anchor
    low: float  # bounds of its interval; NaN with fewer than two scenarios
    high: float
    win_share: float  # of its comparisons, a tie counted as half
    tie_share: float
    num: int  # its comparisons


@dataclass(frozen=True, slots=True, kw_only=True)
class EloPair:
    """Two entries, and how they differ: an interval of this difference alone says whether one is better."""

    first: str
    second: str
    difference: float  # points, the first's minus the second's
    low: float
    high: float
    first_won: float  # weights of their own comparisons
    tied: float
    second_won: float
    num: int  # their own comparisons; 0: the difference follows from those with others

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EloTable:
    """What comparisons say of all entries."""

    entries: tuple[EloEntry, ...]  # the best first
    pairs: tuple[EloPair, ...]  # each two once, the better one first
    tie: float  # Davidson's parameter: between equals a share tie / (2 + tie) are ties
    num: int  # comparisons
    num_scenarios: int
    anchor: str = ""  # the entry at 0 points; "": the mean of all is
    confidence: float = CONFIDENCE  # of the intervals

    def entry(self, name: str) -> EloEntry:
        """Return one entry; raises KeyError if it was not compared."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"{name!r} was not compared; there is {', '.join(entry.name for entry in self.entries)}")


def win_probability(difference: float) -> float:
    """Return how likely one is preferred that has so many points more, where it is no tie: 100 points are 0.640."""
    return 0.5 + 0.5 * math.tanh(difference / POINTS_PER_NAT / 2.0)


def outcome_probabilities(difference: float, *, tie: float) -> tuple[float, float, float]:
    """Return how likely the first is preferred, neither is, the second is, of two so many points apart."""
    win, tied = _probabilities(np.array(difference / POINTS_PER_NAT), np.array(tie))
    return float(win), float(tied), float(1.0 - win - tied)


def connected(results: Iterable[PairResult]) -> list[list[str]]:
    """Return the groups of entries that comparisons connect, the largest first; one group: all can be compared."""
    group_of: dict[str, list[str]] = {}
    for result in results:
        if result.weight == 0.0:
            continue
        first = group_of.setdefault(result.first, [result.first])
        second = group_of.setdefault(result.second, [result.second])
        if first is not second:
            first += second
            group_of |= dict.fromkeys(second, first)
    groups = {id(group): sorted(group) for group in group_of.values()}
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def fit_elo(
    results: Sequence[PairResult], *, seed: int, anchor: str = "", num_resamples: int = NUM_RESAMPLES
) -> EloTable:
    """Return the points of all entries; the order of the results and who stands first in them mean nothing.

    Intervals come from drawing scenarios again, each with all its comparisons.  Where one of two won all of their
    comparisons that are no tie, drawing again would call that certain; so each resample has one more scenario of the
    two, which the other one won and whose weight is exponentially distributed.  Of n scenarios that all went one way,
    up to 3.7 / n may then go the other, as by Clopper and Pearson; how far above that is, only the prior says, and the
    estimate is the upper bound.  Two that only ever tied are even, without doubt.
    (Simulated with three entries 100 points apart that all meet: intervals of differences held the true one in 92, 90
    and 93 of 100 tries with 8, 16 and 48 scenarios.)
    Raises UserError without any result, and for an anchor that was not compared.
    """
    counted = sorted((_in_order(one) for one in results if one.weight > 0.0), key=_sort_key)
    if not counted:
        raise UserError("nothing was compared, so there is no Elo")
    counts = _Counts.of(counted)
    _check_anchor(anchor, counts.names)
    total = counts.cells.sum(axis=0)[None]  # [1, 3, E, E]
    has_ties = bool(total[:, 1].any())
    found = _maximum(total, _Point.zero(1, len(counts.names)), has_ties=has_ties)
    points = _points(found, counts.names, anchor)[0]  # [E]
    resampled = _resampled(counts, found, has_ties=has_ties, seed=seed, num=num_resamples)
    drawn = _points(resampled, counts.names, anchor)  # [R, E]
    order = sorted(range(len(points)), key=lambda e: (-points[e], counts.names[e]))
    return EloTable(
        entries=tuple(_entry(counts, e, points, drawn) for e in order),
        pairs=tuple(_pair(counts, e, f, points, drawn) for e, f in combinations(order, 2)),
        tie=float(np.exp(found.log_tie[0])) if has_ties else 0.0,
        num=len(counted),
        num_scenarios=len(counts.cells),
        anchor=anchor,
    )


# ----- counting -----


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Counts:
    """Results added up by scenario."""

    names: tuple[str, ...]  # [E] in alphabetical order
    # [N, 3, E, E] weights: e preferred to f; e and f tied, both ways round; how many comparisons, both ways round.
    cells: Column

    @classmethod
    def of(cls, results: Sequence[PairResult]) -> _Counts:
        names = sorted({name for one in results for name in (one.first, one.second)})
        places = {name: place for place, name in enumerate(names)}
        scenarios = {name: place for place, name in enumerate(sorted({one.scenario for one in results}))}
        cells = np.zeros((len(scenarios), 3, len(names), len(names)))
        for one in results:
            own, e, f = cells[scenarios[one.scenario]], places[one.first], places[one.second]
            own[0, e, f] += one.first_won
            own[0, f, e] += one.second_won
            own[1, [e, f], [f, e]] += one.tied
            own[2, [e, f], [f, e]] += 1.0
        return cls(names=tuple(names), cells=cells)


def _in_order(result: PairResult) -> PairResult:
    return result if result.first < result.second else result.swapped()


def _sort_key(result: PairResult) -> tuple[Any, ...]:
    # Sums of floats depend on their order, so that must not depend on the caller's.
    return (result.scenario, result.first, result.second, result.first_won, result.tied, result.second_won)


def _check_anchor(anchor: str, names: Sequence[str]) -> None:
    if anchor and anchor not in names:
        raise UserError(f"anchor={anchor}: no entry of that name was compared{nearest(anchor, list(names))}")


def _entry(counts: _Counts, e: int, points: Column, drawn: Column) -> EloEntry:
    won, tied, num = counts.cells.sum(axis=0)  # [E, E] each
    weight = won[e].sum() + won[:, e].sum() + tied[e].sum()
    low, high = _interval(drawn[:, e], points[e])
    return EloEntry(
        name=counts.names[e],
        elo=float(points[e]),
        low=low,
        high=high,
        win_share=float((won[e].sum() + tied[e].sum() / 2.0) / weight),
        tie_share=float(tied[e].sum() / weight),
        num=int(num[e].sum()),
    )


def _pair(counts: _Counts, e: int, f: int, points: Column, drawn: Column) -> EloPair:
    won, tied, num = counts.cells.sum(axis=0)
    low, high = _interval(drawn[:, e] - drawn[:, f], points[e] - points[f])
    return EloPair(
        first=counts.names[e],
        second=counts.names[f],
        difference=float(points[e] - points[f]),
        low=low,
        high=high,
        first_won=float(won[e, f]),
        tied=float(tied[e, f]),
        second_won=float(won[f, e]),
        num=int(num[e, f]),
    )


def _interval(drawn: Column, found: float) -> tuple[float, float]:
    """Return the bounds of an interval that holds what was found; NaN: nothing could be drawn again."""
    low, high = percentile_interval(drawn)
    return float(np.minimum(low, found)), float(np.maximum(high, found))


# ----- the maximum of the likelihood -----


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Point:
    """Parameters, for each resample."""

    strengths: Column  # [R, E] log of p, in nats; their mean is 0
    log_tie: Column  # [R] log of v; it means nothing where there are no ties

    @classmethod
    def zero(cls, num: int, num_entries: int) -> _Point:
        return cls(strengths=np.zeros((num, num_entries)), log_tie=np.zeros(num))


def _points(found: _Point, names: Sequence[str], anchor: str) -> Column:
    """Return [R, E] Elo points."""
    zero = found.strengths[:, [names.index(anchor)]] if anchor else found.strengths.mean(axis=1, keepdims=True)
    points: Column = (found.strengths - zero) * POINTS_PER_NAT
    return points


def _resampled(counts: _Counts, start: _Point, *, has_ties: bool, seed: int, num: int) -> _Point:
    """Return what the maximum is in each resample [R]."""
    size = len(counts.names)
    draws = draw_resamples(len(counts.cells), seed=seed, num_resamples=num)  # [R, N]
    unseen = _unseen(counts)  # [E, E]
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAW_UNSEEN,)))
    found = [_Point.zero(0, size)]
    for part in np.array_split(draws, max(1, -(-len(draws) * size**2 // MOST_CELLS))):
        cells = np.tensordot(part, counts.cells, axes=1)  # [R, 3, E, E]
        cells[:, 0] += unseen * generator.standard_exponential((len(part), size, size))
        begun = _Point(
            strengths=np.repeat(start.strengths, len(part), axis=0), log_tie=np.repeat(start.log_tie, len(part))
        )
        found.append(_maximum(cells, begun, has_ties=has_ties))
    return _Point(
        strengths=np.concatenate([one.strengths for one in found]), log_tie=np.concatenate([o.log_tie for o in found])
    )


def _unseen(counts: _Counts) -> Column:
    """Return [E, E] what e would win in one scenario against f, of those that f won all of."""
    won, tied, _ = counts.cells.sum(axis=0)
    num_met = ((counts.cells[:, 2] > 0).sum(axis=0)).astype(np.float64)
    weight = (won + won.T + tied) / np.maximum(num_met, 1.0)  # of a scenario
    return np.where((won == 0.0) & (won.T > 0.0), weight, 0.0)


def _maximum(cells: Column, start: _Point, *, has_ties: bool) -> _Point:
    """Return where the likelihood of [R, 3, E, E] counts, with the prior, is greatest: by Newton's method.

    The logarithm is concave, and strictly so with the prior, so there is one maximum.
    """
    won, tied = cells[:, 0], cells[:, 1]
    num = won + won.transpose(0, 2, 1) + tied  # [R, E, E], both ways round
    strengths, log_tie = start.strengths, start.log_tie
    for _ in range(MOST_STEPS):
        gradient, curvature = _derivatives(won, tied, num, strengths, log_tie, has_ties=has_ties)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]  # [R, E + 1]
        longest = np.abs(step).max(axis=1, keepdims=True, initial=0.0)
        step = step * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, LONGEST_STEP))
        strengths, log_tie = strengths + step[:, :-1], log_tie + step[:, -1]
        if not (longest > SHORTEST_STEP).any():
            return _Point(strengths=strengths, log_tie=log_tie)
    raise AssertionError("Newton's method on a concave function with bounded steps did not end")


def _derivatives(
    won: Column, tied: Column, num: Column, strengths: Column, log_tie: Column, *, has_ties: bool
) -> tuple[Column, Column]:
    """Return gradient [R, E + 1] and minus the second derivatives [R, E + 1, E + 1]; the tie parameter is last.

    In each comparison of e and f, X is 1, 1/2, 0 where e wins, ties, loses, and Y is 1 where it is a tie: what the
    logarithm is linear in.  First derivatives are their sums less what is expected, second ones their covariances.
    """
    size = strengths.shape[1]
    difference = strengths[:, :, None] - strengths[:, None, :]  # [R, E, E]
    tie = np.exp(log_tie)[:, None, None] if has_ties else np.zeros((len(log_tie), 1, 1))
    win, level = _probabilities(difference, tie)
    share = win + level / 2.0  # of X
    gradient = np.empty((len(strengths), size + 1))
    gradient[:, :-1] = (won + tied / 2.0 - num * share).sum(axis=2) - PRECISION * strengths
    gradient[:, -1] = (tied - num * level).sum(axis=(1, 2)) / 2.0 - PRECISION * log_tie
    of_x, of_both, of_y = num * (win + level / 4.0 - share**2), num * level * (0.5 - share), num * level * (1.0 - level)
    curvature = np.zeros((len(strengths), size + 1, size + 1))
    curvature[:, :-1, :-1] = -of_x
    places = np.arange(size)
    curvature[:, places, places] = of_x.sum(axis=2) - of_x[:, places, places]
    curvature[:, :-1, -1] = curvature[:, -1, :-1] = of_both.sum(axis=2)
    curvature[:, -1, -1] = of_y.sum(axis=(1, 2)) / 2.0
    return gradient, curvature + PRECISION * np.eye(size + 1)


def _probabilities(difference: Column, tie: Column) -> tuple[Column, Column]:
    """Return how likely a win and a tie are, of strengths that differ by so many nats."""
    half = difference / 2.0
    most = np.abs(half)  # taken off, so that no exponential leaves the range
    win, loss, level = np.exp(half - most), np.exp(-half - most), tie * np.exp(-most)
    total = win + loss + level
    return win / total, level / total
