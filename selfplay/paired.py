"""Two versions compared scenario by scenario, from what is stored: which won, by how much, and what moved.

Legend: N scenarios, R resamples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import numpy as np

from selfplay.dialog import Split
from selfplay.errors import UserError
from selfplay.resampling import CONFIDENCE, NUM_RESAMPLES, Matrix, divide, draw_resamples, percentile_interval
from selfplay.rewarded_for import RewardedFor, Weight, rewarded_for, why_incomparable, why_part_incomparable
from selfplay.transcript_index import Row, TranscriptIndex
from selfplay.written import nearest

__all__ = [
    "PairedComparison",
    "PairedDifference",
    "PairedMeasure",
    "PairedScenario",
    "Result",
    "Side",
    "StoredVersion",
    "compare_versions",
    "split_reference",
    "versions_of",
]

TIE = 1e-9  # reward units: what differs by less is equal
PAGE_ROWS = 500  # read from the index at once
MOST_DRAWS = 4_000_000  # scenarios times resamples: of very many scenarios fewer resamples say as much
REWARD = "reward"  # the difference of this name is that of the whole reward
NUM_RECORDS = 4  # of each side, read for what they were rewarded for

Result = Literal["win", "tie", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One version of one run.  Example: ``Side(run="chat", index=TranscriptIndex(folder), version=20)``."""

    run: str  # its name, for people
    index: TranscriptIndex
    version: int | None = None  # None: the newest that played


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersion:
    """How much a version of a run has played.

    Example: ``StoredVersion(version=20, conversations=64, scenarios=32)``
    """

    version: int
    conversations: int
    scenarios: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """One number of both sides, a mean over scenarios; NaN: there was nothing to measure."""

    name: str  # a part of the reward, or "reward"
    a: float
    b: float
    difference: float  # b minus a, over the scenarios where both have it
    low: float  # bounds of the difference's interval; NaN with fewer than two scenarios
    high: float
    value: float = math.nan  # what the difference is worth: by how much the part moved the reward
    weights: tuple[Weight, Weight] = (None, None)  # of the part on each side; None: it has no such part

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedMeasure:
    """One number of both sides that is no part of the reward, and shows what the reward was bought with."""

    words: str  # what it is, for people
    way: Literal[-1, 0, 1]  # 1: more is better, -1: less is, 0: that depends
    difference: PairedDifference


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedScenario:
    """One scenario that both sides played to an end."""

    scenario: str  # env/seed
    about: str
    a: tuple[str, ...]  # ids of the conversations of each side
    b: tuple[str, ...]
    reward_a: float  # mean over those conversations: of the reward, or of the part compared by; NaN: unknown
    reward_b: float
    is_comparable: bool = True  # whether both numbers are in the same unit

    @property
    def difference(self) -> float:
        """What b has more than a; NaN: one of them is unknown, or they are in different units."""
        return self.reward_b - self.reward_a if self.is_comparable else math.nan

    @property
    def result(self) -> Result | None:
        """How b did; None: unknown."""
        if not math.isfinite(self.difference):
            return None
        if abs(self.difference) < TIE:
            return "tie"
        return "win" if self.difference > 0 else "loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """What b does differently from a on the same scenarios."""

    a: Side  # with its version found
    b: Side
    split: Split  # whose scenarios these are
    part: str  # by which scenarios are compared; "": by the whole reward
    scenarios: tuple[PairedScenario, ...]  # those where b lost most first, unknown ones last
    difference: PairedDifference
    parts: tuple[PairedDifference, ...]  # raw, those that moved the reward most first
    measures: tuple[PairedMeasure, ...]
    num_failed: int  # scenarios left out because a conversation of either side failed
    num_unpaired: int  # scenarios left out because only one side played them
    why_not: str = ""  # a sentence that says why the rewards of both sides cannot be compared; "": they can
    confidence: float = CONFIDENCE  # of the intervals

    @property
    def is_comparable(self) -> bool:
        """Whether both sides' numbers by which scenarios are won and lost are in the same unit."""
        return not self.why_not

    def count(self, result: Result) -> int:
        """Return how many scenarios b won, tied or lost."""
        return sum(scenario.result == result for scenario in self.scenarios)


def split_reference(reference: str) -> tuple[str, int | None]:
    """Return run and version of RUN@VERSION; nothing after the @, or no @ at all: None, the newest."""
    found = re.fullmatch(r"(.*)@([0-9]{0,12})", reference, re.DOTALL)
    if found is None:
        return reference, None
    return found[1], int(found[2]) if found[2] else None


def versions_of(index: TranscriptIndex, *, split: Split = "held_out") -> list[StoredVersion]:
    """Return the versions that played scenarios of a split, in order."""
    seen: dict[int, list[str]] = {}
    for row in _rows(index, f"split={split}"):
        if row.version is not None:
            seen.setdefault(row.version, []).append(row.scenario)
    return [
        StoredVersion(version=version, conversations=len(scenarios), scenarios=len(set(scenarios)))
        for version, scenarios in sorted(seen.items())
    ]


def compare_versions(
    a: Side, b: Side, *, split: Split | None = None, part: str = "", seed: int = 0
) -> PairedComparison:
    """Compare two versions, of one run or of two, on the scenarios that both played to an end.

    - A scenario is the same if env, split and seed are.  It counts once, with the mean over a side's conversations of
      it, so `reward` is `reward/per_conversation` of `selfplay.evaluate` where both sides played each scenario equally
      often.  A part's number is the mean of its raw means of conversations; `reward/PART` there is over turns.
    - A scenario where a conversation of either side failed is left out on both.
    - Intervals come from resampling scenarios, the same ones on both sides, as in `selfplay.evaluate`.
    - Sides that were rewarded for different things have no common unit: nobody wins or loses, and `parts` are those
      that both have.  A part that both have can still be compared by.
    - `measures` are of the same scenarios, of what the trained roles said: means over scenarios of the means over their
      conversations, where `selfplay.evaluate` divides sums.

    split: None is held_out, or train if both sides have training scenarios in common and no held-out ones.
    part: a part of the reward by which scenarios are won and lost; "": the whole reward.
    Raises UserError if a version never played, nothing is in common, or no side has such a part.
    """
    for chosen in ("held_out", "train") if split is None else (split,):
        sides = (_by_scenario(a, chosen), _by_scenario(b, chosen))
        if sides[0].rows.keys() & sides[1].rows.keys():
            return _compare(sides[0], sides[1], split=chosen, part=part, seed=seed)
    raise UserError(_nothing_in_common(a, b, split))


# ----- what each side played -----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Played:
    """What one version of a run played, by scenario."""

    side: Side
    rows: Mapping[str, Sequence[Row]]

    def raw(self, scenario: str, part: str) -> float:
        """Return a part's mean over the scenario's conversations in which it applies; NaN: it never does."""
        known = [value for row in self.rows[scenario] if (value := row.raw.get(part)) is not None]
        return fmean(known) if known else math.nan

    def value(self, scenario: str, part: str) -> float:
        """Return what a part added to the reward, on average; where it never applies that is nothing."""
        return fmean(row.parts.get(part) or 0.0 for row in self.rows[scenario])

    def reward(self, scenario: str) -> float:
        """Return the mean reward of a scenario's conversations; NaN: one has none, so that the mean says nothing."""
        rewards = [math.nan if row.reward is None else row.reward for row in self.rows[scenario]]
        return fmean(rewards)

    def measure(self, scenario: str, measured: Callable[[Row], float | None]) -> float:
        """Return a number's mean over the scenario's conversations that have it; NaN: none has."""
        known = [value for row in self.rows[scenario] if (value := measured(row)) is not None]
        return fmean(known) if known else math.nan

    def has(self, part: str, scenarios: Sequence[str]) -> bool:
        """Whether a part applies anywhere in these scenarios."""
        return any(row.raw.get(part) is not None for scenario in scenarios for row in self.rows[scenario])


def _by_scenario(side: Side, split: Split) -> _Played:
    version = side.version if side.version is not None else _newest(side, split)
    rows: dict[str, list[Row]] = {}
    if version is not None:
        for row in _rows(side.index, f"split={split} & version={version}"):
            rows.setdefault(row.scenario, []).append(row)
    return _Played(side=Side(run=side.run, index=side.index, version=version), rows=rows)


def _newest(side: Side, split: Split) -> int | None:
    rows = side.index.page(f"split={split}", sort="version", limit=1).rows
    return rows[0].version if rows else None


def _rows(index: TranscriptIndex, query: str) -> Iterator[Row]:
    offset, total = 0, 1
    while offset < total:
        page = index.page(query, sort="oldest", offset=offset, limit=PAGE_ROWS)
        yield from page.rows
        # A file that is replaced meanwhile may leave a page empty.
        if not page.rows:
            return
        offset, total = offset + len(page.rows), page.total


def _nothing_in_common(a: Side, b: Side, split: Split | None) -> str:
    named = "held-out" if split in (None, "held_out") else "training"
    for side in (a, b):
        versions = [version.version for version in versions_of(side.index, split=split or "held_out")]
        if not versions:
            return f"run {side.run} stores no {named} conversations with a version; eval out=FOLDER stores some"
        if side.version is not None and side.version not in versions:
            shown = ", ".join(map(str, versions[-12:]))
            more = "..., " if len(versions) > 12 else ""
            return f"run {side.run} has no {named} conversations of version {side.version}; it has {more}{shown}"
    return (
        f"{_name(a)} and {_name(b)} have no scenario in common; runs share scenarios if their env and seed are the same"
    )


def _name(side: Side) -> str:
    return side.run if side.version is None else f"{side.run}@{side.version}"


# ----- what differs -----


def _compare(a: _Played, b: _Played, *, split: Split, part: str, seed: int) -> PairedComparison:
    shared = [scenario for scenario in a.rows if scenario in b.rows]
    kept = [name for name in shared if not any(row.status == "failed" for side in (a, b) for row in side.rows[name])]
    names = list(
        dict.fromkeys(name for side in (a, b) for scenario in kept for row in side.rows[scenario] for name in row.raw)
    )
    if part and part not in names:
        raise UserError(f"part={part}: these conversations have no such part of the reward{nearest(part, names)}")
    draws = draw_resamples(len(kept), seed=seed, num_resamples=_num_resamples(len(kept)))
    rewarded = _rewarded_for(a, kept), _rewarded_for(b, kept)
    applying = [{name for name in names if side.has(name, kept)} for side in (a, b)]
    why_not = why_incomparable(*rewarded, names=applying[0] | applying[1])
    if why_not:
        names = [name for name in names if name in applying[0] & applying[1]]
    parts = [_part(a, b, name, kept=kept, draws=draws) for name in names]
    parts = [_with_weights(one, rewarded, is_same=not why_not) for one in parts]
    if part and why_not:
        owners = part in applying[0], part in applying[1]
        why_not = why_part_incomparable(*rewarded, part=part, owners=owners)
    scenarios = [_scenario(a, b, scenario, part, is_comparable=not why_not) for scenario in kept]
    return PairedComparison(
        a=a.side,
        b=b.side,
        split=split,
        part=part,
        scenarios=tuple(sorted(scenarios, key=_worst_first)),
        difference=_whole(scenarios, draws, part or REWARD, is_comparable=not why_not),
        parts=tuple(sorted(parts, key=_most_moved_first)),
        measures=tuple(_measures(a, b, kept=kept, draws=draws)),
        num_failed=len(shared) - len(kept),
        num_unpaired=len(a.rows.keys() ^ b.rows.keys()),
        why_not=why_not,
    )


def _num_resamples(num_scenarios: int) -> int:
    return min(NUM_RESAMPLES, MOST_DRAWS // max(1, num_scenarios))


def _scenario(a: _Played, b: _Played, scenario: str, part: str, *, is_comparable: bool) -> PairedScenario:
    reward_a, reward_b = (side.raw(scenario, part) if part else side.reward(scenario) for side in (a, b))
    return PairedScenario(
        scenario=scenario,
        about=a.rows[scenario][0].about,
        a=tuple(row.id for row in a.rows[scenario]),
        b=tuple(row.id for row in b.rows[scenario]),
        reward_a=reward_a,
        reward_b=reward_b,
        is_comparable=is_comparable,
    )


def _part(a: _Played, b: _Played, name: str, *, kept: Sequence[str], draws: Matrix) -> PairedDifference:
    raw = [[side.raw(scenario, name) for side in (a, b)] for scenario in kept]
    moved = [b.value(scenario, name) - a.value(scenario, name) for scenario in kept]
    value = fmean(moved) if moved else math.nan
    return _difference(name, raw, draws, value=value)


def _rewarded_for(side: _Played, kept: Sequence[str]) -> RewardedFor:
    index = side.side.index
    records = [index.record(side.rows[scenario][0].id) for scenario in kept[:NUM_RECORDS]]
    return rewarded_for([record for record in records if record is not None], index.info().weights)


def _with_weights(
    part: PairedDifference, rewarded: tuple[RewardedFor, RewardedFor], *, is_same: bool
) -> PairedDifference:
    weights = rewarded[0].weights.get(part.name), rewarded[1].weights.get(part.name)
    # By how much it moved two different rewards says nothing.
    return replace(part, weights=weights, value=part.value if is_same else math.nan)


def _whole(scenarios: Sequence[PairedScenario], draws: Matrix, name: str, *, is_comparable: bool) -> PairedDifference:
    found = _difference(name, [[one.reward_a, one.reward_b] for one in scenarios], draws)
    return found if is_comparable else replace(found, difference=math.nan, low=math.nan, high=math.nan)


# ----- what it was bought with -----


def _per_turn(name: str) -> Callable[[Row], float | None]:
    def measured(row: Row) -> float | None:
        turns = row.said["turns"]
        return row.said[name] / turns if turns else None

    return measured


def _tokens_per_turn(row: Row) -> float | None:
    # No turn ends without a token: none at all were not counted.
    return _per_turn("tokens")(row) or None


# Name, words, way, and the number of a conversation.
MEASURES: Sequence[tuple[str, str, Literal[-1, 0, 1], Callable[[Row], float | None]]] = (
    ("kl", "KL from the base, nats a token", 0, lambda row: row.kl),
    ("nll", "NLL by the base, nats a token", 0, lambda row: row.nll),
    ("words_per_turn", "words a turn", 0, _per_turn("words")),
    ("tokens_per_turn", "tokens a turn", 0, _tokens_per_turn),
    ("cut", "share of turns cut", -1, _per_turn("cut")),
    ("repeats", "share of repeated turns", -1, _per_turn("repeated")),
)


def _measures(a: _Played, b: _Played, *, kept: Sequence[str], draws: Matrix) -> Iterator[PairedMeasure]:
    """Yield what was measured on both sides."""
    for name, words, way, measured in MEASURES:
        numbers = [[side.measure(scenario, measured) for side in (a, b)] for scenario in kept]
        found = _difference(name, numbers, draws)
        if math.isfinite(found.difference):
            yield PairedMeasure(words=words, way=way, difference=found)


def _difference(
    name: str, numbers: Sequence[Sequence[float]], draws: Matrix, *, value: float = math.nan
) -> PairedDifference:
    """Return one number's difference from [N, 2 sides] what each scenario has, over those where both have it."""
    table = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    is_known = np.all(np.isfinite(table), axis=1, keepdims=True).astype(np.float64)  # [N, 1]
    known = np.nan_to_num(table) * is_known
    a, b = divide(known.sum(axis=0), np.repeat(is_known.sum(), 2)).tolist()
    low = high = math.nan
    # All resamples of the one scenario that both have are the same, and say nothing about another.
    if is_known.sum() > 1:
        resampled = divide(draws @ (known[:, 1] - known[:, 0]), draws @ is_known[:, 0])  # [R]
        low, high = percentile_interval(resampled)
    return PairedDifference(name=name, a=a, b=b, difference=b - a, low=low, high=high, value=value)


def _worst_first(scenario: PairedScenario) -> tuple[bool, float]:
    known = math.isfinite(scenario.difference)
    return not known, scenario.difference if known else 0.0


def _most_moved_first(part: PairedDifference) -> tuple[float, float]:
    # Parts of no weight move nothing; among them the raw numbers decide.
    return -abs(np.nan_to_num(part.value)), -abs(np.nan_to_num(part.difference))
