"""How far a judge can be trusted: what the position and the length of an option do to it, and whether gold agrees.

Legend: N pairs, G groups of pairs that are no independent evidence, such as those of one scenario, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from selfplay.judge.pairs import PairVerdict
from selfplay.resampling import NUM_RESAMPLES, divide, draw_resamples, percentile_interval
from selfplay.reward_model.accuracy import FEWEST_RESAMPLES, MOST_DRAWS
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
FEWEST = 10  # pairs: of fewer no share is shown, for its interval would mean nothing
QUANTILE = 1.959964  # of the normal distribution: 95% lie within

Column = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Groups = Sequence[Hashable]  # [N] what each pair belongs to


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

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Measures:
        """Return what `to_json` made of measures."""
        length = record["length"]
        return cls(
            num=record["num"],
            num_without=record["num_without"],
            num_truncated=record["num_truncated"],
            num_clear=record["num_clear"],
            position=_estimate_of(record["position"]),
            agreement=_estimate_of(record["agreement"]),
            agreement_one_order=_estimate_of(record["agreement_one_order"]),
            length=LengthBias(
                longer_preferred=_estimate_of(length["longer_preferred"]),
                base_rate=_estimate_of(length["base_rate"]),
                correlation=_known(length["correlation"]),
            ),
        )


def measure(
    pairs: Sequence[tuple[Dialog, Dialog]],
    verdicts: Sequence[PairVerdict | None],
    *,
    gold: Sequence[float] | None = None,
    groups: Groups | None = None,
    seed: int = 0,
) -> Measures:
    """Return what verdicts say of their judge.

    gold: how likely the first of each pair is preferred by something better; None: there is no such thing.
    groups: what each pair belongs to; intervals count what belongs together once.  None: each stands alone.
    """
    known = [number for number, verdict in enumerate(verdicts) if verdict is not None]
    whose = _numbers_of([number if groups is None else groups[number] for number in known])  # [N]
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
        position=position_bias(given, groups=whose.tolist(), seed=seed),
        length=length_bias(
            [pairs[number] for number in known], probabilities, gold=true, groups=whose.tolist(), seed=seed
        ),
        agreement=agreement(
            [probabilities[p] for p in clear], [(true or [])[p] for p in clear], groups=whose[clear].tolist(), seed=seed
        ),
        agreement_one_order=agreement(
            one_order, [(true or [])[p] for p in ordered], groups=whose[ordered].tolist(), seed=seed
        ),
        num_clear=len(clear),
    )


def position_bias(verdicts: Sequence[PairVerdict], *, groups: Groups | None = None, seed: int = 0) -> Estimate:
    """Return the mean of P(A) summed over both orders, less 1, of pairs that were asked in both.

    An even-handed judge gives (A) p in one order and 1 - p in the other: 0.  A judge that always says A has 1.
    """
    both = {
        place: verdict.first_order + verdict.second_order - 1.0
        for place, verdict in enumerate(verdicts)
        if verdict.first_order is not None and verdict.second_order is not None
    }
    whose = _numbers_of(groups or range(len(verdicts)))
    return _mean(np.array(list(both.values())), whose[list(both)], seed=seed)


def length_bias(
    pairs: Sequence[tuple[Dialog, Dialog]],
    probabilities: Sequence[float],
    *,
    gold: Sequence[float] | None = None,
    groups: Groups | None = None,
    seed: int = 0,
) -> LengthBias:
    """Return how often the longer dialog is preferred, and how the probability goes with the difference in words."""
    words = np.array([[one.num_words, other.num_words] for one, other in pairs], dtype=np.float64).reshape(-1, 2)
    difference = np.log1p(words[:, 0]) - np.log1p(words[:, 1])  # [N]
    differs = difference != 0.0
    sign = np.sign(difference[differs])
    whose = _numbers_of(groups or range(len(pairs)))[differs]
    of_first = np.array(probabilities, dtype=np.float64)[differs]
    by_gold = np.array([] if gold is None else gold, dtype=np.float64)
    by_gold = by_gold[differs] if gold is not None else by_gold
    clear = np.array([_side(value) != 0 for value in by_gold], dtype=np.bool_)
    return LengthBias(
        longer_preferred=_share(_wins(of_first, sign), whose, seed=seed),
        base_rate=_share(_wins(by_gold[clear], sign[: len(clear)][clear]), whose[: len(clear)][clear], seed=seed),
        correlation=_correlation(difference[differs], of_first),
    )


def agreement(
    probabilities: Sequence[float], gold: Sequence[float], *, groups: Groups | None = None, seed: int = 0
) -> Estimate:
    """Return the share of pairs on which both are on the same side; a judge without a preference counts half.

    Pairs on which gold has no preference are left out.
    """
    sides = np.array([_side(value) for value in gold], dtype=np.float64)
    clear = sides != 0
    whose = _numbers_of(groups or range(len(gold)))
    return _share(_wins(np.array(probabilities, dtype=np.float64)[clear], sides[clear]), whose[clear], seed=seed)


def measures_text(measures: Measures) -> list[str]:
    """Return the measures as lines for people."""
    lines = [f"{measures.num} pairs judged{_counted(measures)}", f"position: {_position_text(measures.position)}"]
    lines.append(f"length: {_length_text(measures.length)}")
    if measures.num_clear:
        lines.append(f"gold: {_agreement_text(measures.agreement, measures.agreement_one_order)}")
    return lines


def _position_text(position: Estimate) -> str:
    if not position.num:
        return "no pair was asked about in both orders"
    letter, sign = ("A", 1.0) if position.value >= 0.0 else ("B", -1.0)
    # Turned round, the lower bound is the upper one's.
    low, high = sorted((sign * position.low, sign * position.high))
    shown = _shown(Estimate(value=sign * position.value, low=low, high=high, num=position.num), ".3f")
    return f"over both orders {shown} of probability goes to the letter {letter} beyond an even share"


def _length_text(length: LengthBias) -> str:
    longer, base = length.longer_preferred, length.base_rate
    if longer.num < FEWEST:
        return f"too few pairs differ in it to say anything ({longer.num})"
    beside = f"; by gold {_shown(base, '.0%')}" if base.num >= FEWEST else "; even-handed is 50%"
    related = "" if math.isnan(length.correlation) else f"; correlation {length.correlation:+.2f}"
    return f"the longer one is preferred in {_shown(longer, '.0%')} of {longer.num}{beside}{related}"


def _agreement_text(both: Estimate, one: Estimate) -> str:
    if both.num < FEWEST:
        return f"too few pairs on which it has a preference to say anything ({both.num})"
    alone = f"; with one order only {_shown(one, '.0%')}" if one.num >= FEWEST else ""
    return f"agrees in {_shown(both, '.0%')} of {both.num} clear pairs{alone}"


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


def _numbers_of(groups: Groups) -> Numbers:
    """Return [N] the number of each pair's group, from 0."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _mean(values: Column, whose: Numbers, *, seed: int) -> Estimate:
    """Return the mean of [N] numbers; whole groups [N] are drawn again for its interval."""
    num = len(values)
    if not num:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, num=0)
    _, group = np.unique(whose, return_inverse=True)  # [N]
    sums, sizes = np.bincount(group, weights=values), np.bincount(group).astype(np.float64)  # [G]
    # Of very many groups fewer resamples say as much, and need not more memory.
    num_resamples = max(FEWEST_RESAMPLES, min(NUM_RESAMPLES, MOST_DRAWS // len(sizes)))
    drawn = draw_resamples(len(sizes), seed=seed, num_resamples=num_resamples)  # [R, G]
    low, high = percentile_interval(divide(drawn @ sums, drawn @ sizes))
    return Estimate(value=float(values.mean()), low=low, high=high, num=num)


def _share(values: Column, whose: Numbers, *, seed: int) -> Estimate:
    """Return the mean of [N] numbers from 0 to 1; where all are alike, which resampling would call certain, bounded.

    Source: Wilson's score interval for all of n groups, whose width is z^2 / (n + z^2) of what could have been.
    """
    found = _mean(values, whose, seed=seed)
    if not found.num or (np.ptp(values) and math.isfinite(found.low)):
        return found
    missed = QUANTILE**2 / (len(np.unique(whose)) + QUANTILE**2)
    return replace(found, low=found.value * (1.0 - missed), high=found.value + missed * (1.0 - found.value))


def _correlation(one: Column, other: Column) -> float:
    if len(one) < 2 or not one.std() or not other.std():
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])


def _estimate_of(record: Mapping[str, Any]) -> Estimate:
    bounds = {key: _known(record[key]) for key in ("value", "low", "high")}
    return Estimate(**bounds, num=int(record["num"]))


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
