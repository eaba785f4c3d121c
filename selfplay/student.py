"""Student's t: how wide an interval must be when the spread is itself estimated."""

from __future__ import annotations

import math

TOLERANCE = 1e-9


def t_quantile(probability: float, degrees: int) -> float:
    """Return the value that Student's t with so many degrees of freedom stays below with a probability above one half.

    Raises ValueError outside 0.5 to 1, or without a degree of freedom.
    """
    if not 0.5 <= probability < 1.0 or degrees < 1:
        raise ValueError(f"probability={probability} must be in [0.5, 1) and degrees={degrees} at least 1")
    low, high = 0.0, 1.0
    while _central(high, degrees) < 2.0 * probability - 1.0:
        low, high = high, 2.0 * high
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if _central(middle, degrees) < 2.0 * probability - 1.0 else (low, middle)
    return (low + high) / 2.0


def _central(t: float, degrees: int) -> float:
    """Return the probability of |T| < t: Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term, total = (sine * cosine, 0.0) if is_odd else (sine, 0.0)
    for k in range(1 + is_odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2.0 / math.pi * (angle + total) if is_odd else total
