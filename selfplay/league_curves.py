"""Curves of a policy in a league: its ratings with what is not known of them, and whom it met.

Nothing is drawn here, so every number of a picture can be checked by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from selfplay.curves import Band, BandKind, Group

__all__ = ["OPPONENTS", "RATING", "RATING_SPREAD", "rating_band", "so_far"]

RATING, RATING_SIGMA = "league/rating/", "league/rating_sigma/"
RATING_SPREAD = 2.0  # standard deviations around the rating of one run
# Of whom a policy in a league met; metric -> what its line is called.
OPPONENTS: Mapping[str, str] = {
    "league/mirror_share": "itself",
    "league/frozen_share": "before training",
    "league/scripted_share": "the script",
    "league/past_share": "its past",
}


def rating_band(group: Group, metric: str, *, smooth: int = 1, kind: BandKind = "range") -> Band | None:
    """Return a rating over the updates; of one run, with two of its standard deviations around; None: it has none."""
    band = group.band(metric, smooth=smooth, kind=kind)
    sigma = group.band(RATING_SIGMA + metric.removeprefix(RATING), smooth=smooth)
    if band is None or sigma is None or len(group.runs) > 1:
        return band
    spreads = dict(zip(sigma.steps, sigma.mean, strict=True))
    around = [RATING_SPREAD * spreads.get(step, math.nan) for step in band.steps]
    low = tuple(mean - spread for mean, spread in zip(band.mean, around, strict=True))
    high = tuple(mean + spread for mean, spread in zip(band.mean, around, strict=True))
    return replace(band, low=low, high=high)


def so_far(band: Band) -> Band:
    """Return the mean of all values up to each update, without a spread; a draw of one update says little."""
    means: list[float] = []
    known: list[float] = []
    for value in band.mean:
        known += [value] if math.isfinite(value) else []
        means.append(math.fsum(known) / len(known) if known else math.nan)
    return replace(band, mean=tuple(means), low=tuple(means), high=tuple(means))
