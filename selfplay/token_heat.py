"""What colours the tokens of a run: quantiles over many of its conversations, so that two of them can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["NUM_LINES", "heat_scale"]

QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
ARRAYS = ("logprobs", "kl", "entropy", "advantage", "value")  # of a tokens line
NUM_LINES, NUM_VALUES = 300, 200  # how many tokens lines are enough, and numbers of each


def heat_scale(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the quantiles of each quantity of a token: those of a tokens line, and "gap".

    The gap is the sampler's log-probability minus the learner's.  What no line has is left out.
    """
    values: dict[str, list[float]] = {}
    for line in lines:
        for name, numbers in _numbers_of(line).items():
            values.setdefault(name, []).extend(numbers[:: max(1, len(numbers) // NUM_VALUES)])
    return {name: np.quantile(numbers, QUANTILES).tolist() for name, numbers in values.items() if numbers}


def _numbers_of(line: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the finite numbers of a tokens line by quantity."""
    found: dict[str, list[float]] = {}
    turns = line.get("turns")
    for turn in turns if isinstance(turns, list) else []:
        if not isinstance(turn, dict):
            continue
        for name in ARRAYS:
            found.setdefault(name, []).extend(value for value in _list(turn, name) if _is_finite(value))
        pairs = zip(_list(turn, "logprobs"), _list(turn, "logprobs_learner"), strict=False)
        gaps = [sampled - learner for sampled, learner in pairs if _is_finite(sampled) and _is_finite(learner)]
        found.setdefault("gap", []).extend(gaps)
    return found


def _list(turn: Mapping[str, Any], name: str) -> list[Any]:
    value = turn.get(name)
    return value if isinstance(value, list) else []


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
