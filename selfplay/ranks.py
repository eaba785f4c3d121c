"""Rank correlation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.floating]


def average_ranks(values: npt.ArrayLike) -> Column:
    """Return each value's rank from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2.0)[place]


def spearman(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return the rank correlation of two columns over rows where both are finite; NaN: one of them never varies."""
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    if known.sum() < 2:
        return math.nan
    ranks = [average_ranks(column[known]) for column in (first, second)]
    spreads = [column.std() for column in ranks]
    if not all(spreads):
        return math.nan
    centred = [column - column.mean() for column in ranks]
    return float((centred[0] * centred[1]).mean() / (spreads[0] * spreads[1]))
