"""Intervals of means by drawing scenarios again, with replacement: the paired cluster bootstrap.

What several sides share is drawn together, so a difference between sides is taken on the same scenarios.
Legend: N scenarios, R resamples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CONFIDENCE", "NUM_RESAMPLES", "Matrix", "divide", "draw_resamples", "percentile_interval"]

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
# First part of the spawn key: resampling draws nothing that playing draws.
DRAW_RESAMPLES = 1000

Matrix = npt.NDArray[np.floating[Any]]


def draw_resamples(num: int, *, seed: int, num_resamples: int = NUM_RESAMPLES) -> Matrix:
    """Return [R, N] how often each scenario is drawn; one scenario alone says nothing of others: no resample."""
    if num < 2:
        return np.zeros((0, num))
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAW_RESAMPLES,)))
    return generator.multinomial(num, [1.0 / num] * num, size=num_resamples).astype(np.float64)


def percentile_interval(resampled: Matrix) -> tuple[float, float]:
    """Return the bounds of the interval from [R] what each resample gave; NaN is passed over, alone it has none."""
    known = resampled[np.isfinite(resampled)]
    if not known.size:
        return math.nan, math.nan
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(known, [tail, 1.0 - tail]).tolist()
    return low, high


def divide(tops: Matrix, bottoms: Matrix) -> Matrix:
    """Return quotients, NaN where there is nothing to divide by."""
    quotients: Matrix = np.full(tops.shape, np.nan)
    np.divide(tops, bottoms, out=quotients, where=bottoms > 0)
    return quotients
