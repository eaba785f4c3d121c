"""What best-of-N would give for every N, from one pool of conversations on each scenario: nothing is drawn again.

Legend: S scenarios, M conversations of a scenario, L sizes N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["best_of_curves", "chances_of_being_best", "order_accuracy"]

Numbers = npt.NDArray[np.floating[Any]]


def chances_of_being_best(values: Sequence[float], n: int) -> Numbers:
    """Return how likely each of M values is the highest of n drawn without replacement [M]; equal ones share.

    The expectation under these chances is unbiased for the best of n independent draws: it is the mean over all
    subsets of n (Hoeffding's U-statistic).  Raises ValueError if there are fewer than n values.
    """
    num = len(values)
    if not 1 <= n <= num:
        raise ValueError(f"n={n}: the best of 1 to {num} values can be taken")
    numbers = np.asarray(values, dtype=np.float64)
    order = np.argsort(numbers, kind="stable")
    # The i-th smallest, from 0, is the highest of a subset that takes n - 1 of the i below it.
    subsets = math.comb(num, n)
    chances = np.empty(num)
    chances[order] = [math.comb(i, n - 1) / subsets for i in range(num)]
    _, group = np.unique(numbers, return_inverse=True)
    shared: Numbers = (np.bincount(group, weights=chances) / np.bincount(group))[group]
    return shared


def best_of_curves(
    chosen_by: Sequence[Sequence[float]], values: Sequence[Sequence[float]], sizes: Sequence[int]
) -> Numbers:
    """Return the expected value of the best of n by another number, for each scenario and size [S, L].

    chosen_by, values: each scenario's M numbers, of the same conversations in the same order.
    """
    return np.array(
        [
            [float(chances_of_being_best(by, n) @ np.asarray(own, dtype=np.float64)) for n in sizes]
            for by, own in zip(chosen_by, values, strict=True)
        ]
    )


def order_accuracy(proxy: Sequence[float], gold: Sequence[float]) -> float:
    """Return the share of pairs of one scenario that both numbers order alike; NaN if gold tells none apart.

    A pair that the proxy cannot tell apart counts a half.
    """
    first, second = np.triu_indices(len(gold), k=1)
    golds, proxies = (np.asarray(numbers, dtype=np.float64) for numbers in (gold, proxy))
    apart = np.sign(golds[first] - golds[second])
    guessed = np.sign(proxies[first] - proxies[second])
    is_clear = apart != 0
    if not is_clear.any():
        return math.nan
    return float((0.5 + 0.5 * apart[is_clear] * guessed[is_clear]).mean())
