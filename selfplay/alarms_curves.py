"""What is read from the lines of metrics.jsonl: curves, their windows, and how far noise alone moves them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

NUM_STANDARD_ERRORS = 4.0  # what noise alone may do to a difference of two means

Line = Mapping[str, Any]  # one of metrics.jsonl, or a step's metrics with "step"


class Past:
    """Metrics by step; NaN: a step has none."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def of(self, name: str) -> list[float]:
        """Return one metric of every step."""
        values = [line.get(name) for line in self._lines]
        return [math.nan if value is None else float(value) for value in values]

    def newest(self, name: str) -> float:
        """Return a metric of the newest step that has it; NaN: none has."""
        values = (line.get(name) for line in reversed(self._lines))
        return next((float(value) for value in values if value is not None), math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Where a metric began and where it is."""

    first: float  # mean over the first window
    last: float  # mean over the newest
    noise: float  # how far apart noise alone may put them


def ends_of(values: Sequence[float], window: int) -> Ends | None:
    """Return a metric's first and newest means over the steps that have it; None: too few have, or no recent one."""
    known = finite(values)
    if len(known) < 2 * window or not finite(values[-window:]):
        return None
    return Ends(first=mean(known[:window]), last=mean(known[-window:]), noise=noise_of(known, window))


def noise_of(values: Sequence[float], window: int) -> float:
    """Return how far noise may put two means of `window` steps apart.

    The step-to-step variance is half the mean squared difference of successive steps, which a trend hardly changes.
    Source: von Neumann et al. 1941, The mean square successive difference, eq. 1.
    """
    variance = mean([(later - earlier) ** 2 for earlier, later in pairwise(values)]) / 2
    return NUM_STANDARD_ERRORS * math.sqrt(2 * variance / window)


def window_sizes(num_steps: int, *, smallest: int, blocks: int) -> Iterator[int]:
    """Yield sizes that double, as long as so many blocks of them fit: what comes slowly needs longer ones."""
    size = smallest
    while blocks * size <= num_steps:
        yield size
        size *= 2


def block_means(values: Sequence[float], size: int, number: int) -> list[float]:
    """Return the means of the newest blocks of so many steps, the oldest first."""
    starts = [len(values) - size * back for back in range(number, 0, -1)]
    return [mean(values[start : start + size]) for start in starts]


def finite(values: Iterable[float]) -> list[float]:
    """Return the numbers that a step has, without NaN and infinity."""
    return [value for value in values if math.isfinite(value)]


def mean(values: Sequence[float]) -> float:
    """Return the mean of one number or more."""
    return math.fsum(values) / len(values)
