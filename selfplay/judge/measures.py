"""How far a judge can be trusted: what the position and the length of an option do to it, and whether gold agrees.

Legend: N pairs, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selfplay.judge.pairs import PairVerdict
from selfplay.resampling import divide, draw_resamples, percentile_interval
from selfplay.reward_model.dialogs import Dialog

__all__ = [
    "Estimate",
    "LengthBias",
    "Measures",
    "agreement",
    "length_bias",
    "measure",
    "measures_text",
    "position_bias",
]

# Of a probability from 0.5: nearer to it nobody is preferred.
NO_PREFERENCE = 1e-9

Column = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95% interval and the count that made it; NaN: there is nothing to take it of."""

    value: float
    low: float
    high: float
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBias:
    """How a judge goes with the number of words; of pairs whose dialogs differ in it."""

    longer_preferred: Estimate  # share of pairs in which the longer one is preferred; 0.5 is even-handed
    base_rate: Estimate  # the same share by gold; no pairs: there is none
    correlation: float  # of the difference of the words' logarithms with the probability


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """All measures of one judge on some pairs."""

    num: int  # pairs with a verdict
    num_without: int  # pairs without one
    num_truncated: int
    position: Estimate  # what P(A) over both orders adds up to, beyond the 1 of an even-handed judge
    length: LengthBias
    agreement: Estimate  # share of clear gold pairs on which the judge is on gold's side; one at 0.5 counts half
    agreement_one_order: Estimate  # the same where only the order in which a pair was given counts
    num_clear: int  # pairs on which gold has a preference

    def to_json(self) -> dict[str, Any]:
        """Return the measures as JSON values; what is not known is null."""
        return {key: _finite(value) for key, value in asdict(self).items()}


def measure(
    pairs: Sequence[tuple[Dialog, Dialog]],
    verdicts: Sequence[PairVerdict | None],
    *,
    gold: Sequence[float] | None = None,
    seed: int = 0,
) -> Measures:
    """Return what verdicts say of their judge.

    gold: how likely the first of each pair is preferred by something better; None: there is no such thing.
    """
    known = [number for number, verdict in enumerate(verdicts) if verdict is not None]
    given = [verdict for verdict in verdicts if verdict is not None]
    probabilities = [verdict.probability_first for verdict in given]
    true = [gold[number] for number in known] if gold is not None else None
    clear = [] if true is None else [place for place, value in enumerate(true) if _side(value)]
    ordered = [place for place in clear if given[place].first_order is not None]
    one_order = [float(given[place].first_order or 0.0) for place in ordered]
    return Measures(
        num=len(known),
        num_without=len(verdicts) - len(known),
        num_truncated=sum(verdict.is_truncated for verdict in given),
        position=position_bias(given, seed=seed),
        length=length_bias([pairs[number] for number in known], probabilities, gold=true, seed=seed),
        agreement=agreement([probabilities[p] for p in clear], [(true or [])[p] for p in clear], seed=seed),
        agreement_one_order=agreement(one_order, [(true or [])[p] for p in ordered], seed=seed),
        num_clear=len(clear),
    )


def position_bias(verdicts: Sequence[PairVerdict], *, seed: int = 0) -> Estimate:
    """Return the mean of P(A) summed over both orders, less 1, of pairs that were asked in both.

    An even-handed judge gives (A) p in one order and 1 - p in the other: 0.  A judge that always says A has 1.
    """
    both = [
        verdict.first_order + verdict.second_order - 1.0
        for verdict in verdicts
        if verdict.first_order is not None and verdict.second_order is not None
    ]
    return _mean(np.array(both), seed=seed)


def length_bias(
    pairs: Sequence[tuple[Dialog, Dialog]],
    probabilities: Sequence[float],
    *,
    gold: Sequence[float] | None = None,
    seed: int = 0,
) -> LengthBias:
    """Return how often the longer dialog is preferred, and how the probability goes with the difference in words."""
    words = np.array([[one.num_words, other.num_words] for one, other in pairs], dtype=np.float64).reshape(-1, 2)
    difference = np.log1p(words[:, 0]) - np.log1p(words[:, 1])  # [N]
    differs = difference != 0.0
    sign = np.sign(difference[differs])
    of_first = np.array(probabilities, dtype=np.float64)[differs]
    by_gold = np.array([] if gold is None else gold, dtype=np.float64)
    by_gold = by_gold[differs] if gold is not None else by_gold
    clear = np.array([_side(value) != 0 for value in by_gold], dtype=np.bool_)
    return LengthBias(
        longer_preferred=_mean(_wins(of_first, sign), seed=seed),
        base_rate=_mean(_wins(by_gold[clear], sign[clear]) if gold is not None else by_gold, seed=seed),
        correlation=_correlation(difference[differs], of_first),
    )


def agreement(probabilities: Sequence[float], gold: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the share of pairs on which both are on the same side; a judge without a preference counts half.

    Pairs on which gold has no preference are left out.
    """
    sides = np.array([_side(value) for value in gold], dtype=np.float64)
    clear = sides != 0
    return _mean(_wins(np.array(probabilities, dtype=np.float64)[clear], sides[clear]), seed=seed)


def measures_text(measures: Measures) -> list[str]:
    """Return the measures as lines for people."""
    lines = [f"{measures.num} pairs judged" + _counted(measures)]
    lines.append(
        f"position: {_shown(measures.position, '+.3f')} of probability goes to the letter A, both orders together"
    )
    longer = measures.length.longer_preferred
    base = measures.length.base_rate
    beside = f"; by gold {_shown(base, '.0%')}" if base.num else "; even-handed is 50%"
    related = "" if math.isnan(measures.length.correlation) else f"; correlation {measures.length.correlation:+.2f}"
    lines.append(f"length: the longer one is preferred in {_shown(longer, '.0%')} of {longer.num}{beside}{related}")
    if measures.num_clear:
        both, one = measures.agreement, measures.agreement_one_order
        alone = f"; with one order only {_shown(one, '.0%')}" if one.num else ""
        lines.append(f"gold: agrees in {_shown(both, '.0%')} of {both.num} clear pairs{alone}")
    return lines


def _counted(measures: Measures) -> str:
    without = f", {measures.num_without} without a verdict" if measures.num_without else ""
    return without + (f", {measures.num_truncated} with old messages cut off" if measures.num_truncated else "")


def _shown(estimate: Estimate, form: str) -> str:
    if math.isnan(estimate.value):
        return "no share"
    if math.isnan(estimate.low):
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def _side(probability: float) -> int:
    """Return 1 where the first is preferred, -1 where the second is, 0 where neither."""
    distance = probability - 0.5
    return 0 if abs(distance) <= NO_PREFERENCE else 1 if distance > 0 else -1


def _wins(probabilities: Column, sign: Column) -> Column:
    """Return [N] 1 where a probability is on the side of the sign, 0 where on the other, 0.5 where on none."""
    sides = np.array([_side(value) for value in probabilities.tolist()], dtype=np.float64)
    return (1.0 + sides * sign) / 2.0


def _mean(values: Column, *, seed: int) -> Estimate:
    num = len(values)
    if not num:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, num=0)
    drawn = draw_resamples(num, seed=seed)
    low, high = percentile_interval(divide(drawn @ values, drawn.sum(axis=1)))
    return Estimate(value=float(values.mean()), low=low, high=high, num=num)


def _correlation(one: Column, other: Column) -> float:
    if len(one) < 2 or not one.std() or not other.std():
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
