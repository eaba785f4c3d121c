"""How good a reward model is on judgements that it was not trained on, and whether something simpler is as good.

Legend: P pairs, M members.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from selfplay.reward_model.accuracy import CHANCE, Column, PairCounts, Share, Valuing, verdicts_of
from selfplay.reward_model.baselines import Baseline, Choice, Heuristic, baselines_of, choose_baselines, length_gap
from selfplay.reward_model.examples import Example
from selfplay.reward_model.judged_pairs import JudgedPair, pairs_of

if TYPE_CHECKING:
    from selfplay.reward_model.model import Verdict

__all__ = ["Agreement", "Bin", "Calibration", "Report", "choice_from_json", "report_on", "report_to_json"]

REPORT_SCHEMA = "selfplay.reward_model_report/1"
SURE = 1e-6  # probabilities stay so far from 0 and 1 in the log loss
BIN_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FEWEST_GROUPS = 30  # with fewer, an interval itself is uncertain
TOO_FEW_GROUPS, TOO_FEW_PAIRS = 10, 20  # with fewer of either, nothing is said
# By how much longer the preferred one is, as a share of the longer one's words: the upper bound of each bucket.
LENGTHS: Mapping[str, float] = {
    "preferred under half as long": -0.5,
    "preferred shorter": -0.1,
    "about as long": 0.1,
    "preferred longer": 0.5,
    "preferred over twice as long": math.inf,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs of which a model was about equally sure."""

    low: float  # bounds of the probability that it gave to the dialog it prefers
    high: float
    num_pairs: int
    predicted: float  # mean of that probability
    observed: float  # how often that dialog was preferred; soft labels count as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Whether a model is right as often as it says.  Ties and soft labels count as they are; NaN: there is no pair."""

    bins: tuple[Bin, ...]  # those that hold a pair
    error: float  # expected calibration error: mean over pairs of |predicted - observed| of their bin
    log_loss: float  # nats a pair; one that always says one half has ln 2
    num_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How much the members of an ensemble agree on clear pairs."""

    num_members: int
    share: float  # of pairs on which two members prefer the same, mean over pairs of members
    accuracies: tuple[float, ...]  # of each member
    when_unanimous: Share  # the ensemble's accuracy where all members prefer the same
    when_divided: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `report_on` found."""

    num_examples: int
    num_ties: int  # pairs without a clear label: only the calibration counts them
    num_groups: int  # of clear pairs that belong together
    accuracy: Share  # over clear pairs
    by_length: Mapping[str, Share]
    by_source: Mapping[str, Share]
    calibration: Calibration
    agreement: Agreement | None  # None: there is one member
    baselines: tuple[Baseline, ...]
    choice: Choice
    verdicts: tuple[str, ...]  # a sentence for each baseline: which is better; none where there is too little to say
    findings: tuple[str, ...]  # sentences: what a reader must not miss

    @property
    def has_too_few(self) -> bool:
        """Whether there is too little to say anything: chance alone would give any accuracy."""
        return _has_too_few(self.accuracy.num_pairs, self.num_groups)


def report_on(
    model: Valuing,
    held_out: Sequence[Example],
    train: Sequence[Example],
    heuristics: Mapping[str, Heuristic],
    *,
    choice: Choice | None = None,
    seed: int = 0,
) -> Report:
    """Return how a model does on held-out examples, beside length alone and the best single heuristic.

    train: what the two are chosen and signed on, unless `choice` says it already.
    """
    pairs = pairs_of(held_out, seed=seed)
    counts = PairCounts([pair for pair in pairs if pair.is_clear], seed=seed)
    choice = choice or choose_baselines(train, heuristics, seed=seed)
    verdicts = verdicts_of(model, counts.pairs)
    right = counts.right([one.mean for one, _ in verdicts], [other.mean for _, other in verdicts])
    accuracy, baselines = counts.share(right), tuple(baselines_of(counts, right, choice, heuristics))
    has_too_few = _has_too_few(accuracy.num_pairs, counts.num_groups)
    return Report(
        num_examples=len(held_out),
        num_ties=len(pairs) - len(counts.pairs),
        num_groups=counts.num_groups,
        accuracy=accuracy,
        by_length=counts.shares(right, [_bucket(pair) for pair in counts.pairs], order=list(LENGTHS)),
        by_source=counts.shares(right, [pair.source or "unknown" for pair in counts.pairs]),
        calibration=_calibration(model, pairs),
        agreement=_agreement(counts, right, verdicts),
        baselines=baselines,
        choice=choice,
        verdicts=() if has_too_few else tuple(_verdict(accuracy, baseline) for baseline in baselines),
        findings=tuple(_findings(accuracy, num_groups=counts.num_groups)),
    )


def report_to_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values; what could not be measured is None."""
    record: dict[str, Any] = _finite({"schema": REPORT_SCHEMA, **asdict(report)})
    return record


def choice_from_json(record: Mapping[str, Any]) -> Choice | None:
    """Return the choice that a report records; None: it records none."""
    written = record.get("choice")
    if record.get("schema") != REPORT_SCHEMA or not isinstance(written, Mapping):
        return None
    signs = {key: written.get(key) for key in ("length_sign", "heuristic_sign")}
    if not all(sign in (-1, 1) for sign in signs.values()):
        return None
    return Choice(
        length_sign=int(written["length_sign"]),
        heuristic=str(written.get("heuristic", "")),
        heuristic_sign=int(written["heuristic_sign"]),
        chosen_on=str(written.get("chosen_on", "")),
    )


def _has_too_few(num_pairs: int, num_groups: int) -> bool:
    return num_pairs < TOO_FEW_PAIRS or num_groups < TOO_FEW_GROUPS


def _bucket(pair: JudgedPair) -> str:
    gap = length_gap(pair)
    return next(label for label, bound in LENGTHS.items() if gap < bound)


def _calibration(model: Valuing, pairs: Sequence[JudgedPair]) -> Calibration:
    if not pairs:
        return Calibration(bins=(), error=math.nan, log_loss=math.nan, num_pairs=0)
    members = np.asarray(model.probabilities([pair.example for pair in pairs]), dtype=np.float64)  # [P, M]
    first = members.mean(axis=1)  # [P]
    target = np.array([pair.target for pair in pairs])  # [P]
    bounded = np.clip(first, SURE, 1.0 - SURE)
    log_loss = -(target * np.log(bounded) + (1.0 - target) * np.log1p(-bounded)).mean()
    # Which of the two is called the first means nothing, so both count as how sure the model is of the one it prefers.
    prefers_first = first >= CHANCE
    predicted, observed = np.where(prefers_first, first, 1.0 - first), np.where(prefers_first, target, 1.0 - target)
    bins = tuple(_bins(predicted, observed))
    error = sum(one.num_pairs * abs(one.predicted - one.observed) for one in bins) / len(pairs)
    return Calibration(bins=bins, error=error, log_loss=float(log_loss), num_pairs=len(pairs))


def _bins(predicted: Column, observed: Column) -> Iterator[Bin]:
    which = np.clip(np.searchsorted(BIN_EDGES, predicted, side="right") - 1, 0, len(BIN_EDGES) - 2)
    for number, (low, high) in enumerate(pairwise(BIN_EDGES)):
        its = which == number
        if its.any():
            yield Bin(
                low=low,
                high=high,
                num_pairs=int(its.sum()),
                predicted=float(predicted[its].mean()),
                observed=float(observed[its].mean()),
            )


def _agreement(counts: PairCounts, right: Column, verdicts: Sequence[tuple[Verdict, Verdict]]) -> Agreement | None:
    if not verdicts or len(verdicts[0][0].members) < 2:
        return None
    members = [
        counts.right([one.members[number] for one, _ in verdicts], [other.members[number] for _, other in verdicts])
        for number in range(len(verdicts[0][0].members))
    ]
    is_unanimous = np.all([member == members[0] for member in members], axis=0)
    return Agreement(
        num_members=len(members),
        share=float(np.mean([(one == other).mean() for one, other in combinations(members, 2)])),
        accuracies=tuple(float(member.mean()) for member in members),
        when_unanimous=counts.share(right, mask=is_unanimous),
        when_divided=counts.share(right, mask=~is_unanimous),
    )


def _findings(accuracy: Share, *, num_groups: int) -> Iterator[str]:
    if _has_too_few(accuracy.num_pairs, num_groups):
        yield _too_few(accuracy.num_pairs, num_groups)
        return
    if not accuracy.low > CHANCE:
        yield f"Nothing shows that it is better than a coin: {_per_cent(accuracy.value)} right{_interval(accuracy)}."
    if num_groups < FEWEST_GROUPS:
        yield f"The held-out pairs are of {num_groups} independent groups only: take every interval as too narrow."


def _too_few(num_pairs: int, num_groups: int) -> str:
    if not num_pairs:
        return "No held-out pair has a clear label, so there is no accuracy."
    pairs, groups = (f"{num} {noun}{'s' * (num != 1)}" for num, noun in ((num_pairs, "pair"), (num_groups, "group")))
    return (
        f"There are too few held-out pairs to say anything: {pairs} with a clear label, from {groups}; it takes "
        f"{TOO_FEW_PAIRS} from {TOO_FEW_GROUPS}."
    )


def _verdict(accuracy: Share, baseline: Baseline) -> str:
    name = baseline.name if baseline.sign > 0 else f"{baseline.name} (the less, the better)"
    one, other, difference = accuracy.value, baseline.accuracy.value, baseline.difference
    value, low, high = (f"{100 * number:+.1f}" for number in (difference.value, difference.low, difference.high))
    points = f"{value} points, 95% interval {low} to {high}"
    if baseline.standing == "alike":
        return (
            f"The model and {name} cannot be told apart on {accuracy.num_pairs:,} pairs: {_per_cent(one)} and "
            f"{_per_cent(other)} right (model minus baseline {points})."
        )
    if baseline.standing == "model":
        return f"The model is better than {name}: {_per_cent(one)} against {_per_cent(other)} right ({points})."
    return (
        f"The baseline {name} is better than the model: {_per_cent(other)} against {_per_cent(one)} right ({points})."
    )


def _interval(share: Share) -> str:
    if not math.isfinite(share.low):
        return ", and there is too little for an interval"
    return f" (95% interval {_per_cent(share.low)} to {_per_cent(share.high)})"


def _per_cent(value: float) -> str:
    return f"{100 * value:.1f}%" if math.isfinite(value) else "-"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
