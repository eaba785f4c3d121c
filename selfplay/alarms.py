"""Alarms for reward hacking: what in a run's metrics says that its reward is being gamed.

Everything here is a function of the lines of metrics.jsonl, so a run that goes on has the alarms it would have had.
Steps are noisy: a mean over the newest `alarms.window` steps is compared with one over the first.  The first steps, not
the evaluation of the base, are what is compared with: they are measured in the same way on as many conversations of
the same split, every run has them, and so few updates change little.  Nothing is said before there are two windows.

An alarm begins beyond its bound and ends when three quarters of the way there: it is said at those two steps only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from selfplay.config import Settings
from selfplay.dialog import ScoredConversation
from selfplay.errors import UserError
from selfplay.line_files import LineFile, line_from_json
from selfplay.records_json import ALARM_SCHEMA
from selfplay.score import has_failed
from selfplay.spoken_words import words_of
from selfplay.whole_files import reason

GAP = "gap"  # reward/NAME.gap: how far a reward model is above its twin
METRIC = "alarm/"  # alarm/NAME: 1 while it is on, 0 while it is not, absent while it cannot be told
ENDS_AT = 0.75  # of the way from the reference to the bound
NUM_STANDARD_ERRORS = 4.0  # what noise alone may do to a difference of two means
PART_RISE = 0.15  # of the variance; a part that made nearly all of it from the start was chosen to
GROWTH = 1.5  # of KL, window over window, and of that growth
LENGTH_CORRECTION = 4.0  # at most, either way; a handful of words says little about variety
NUM_TO_READ = 3

AlarmName = Literal[
    "one_part",
    "length_drift",
    "repetition_drift",
    "variance_collapse",
    "entropy_collapse",
    "kl_accelerating",
    "distinct_falling",
    "verifiable_falling",
    "watched_falling",
    "proxy_gap",
]
# Which conversations show it best.
Look = Literal["rewarded", "part_high", "part_low", "short", "long", "repetitive", "far"]
Line = Mapping[str, Any]  # one of metrics.jsonl, or a step's metrics with "step"


class AlarmsGroup(Settings):
    """When a run says that its reward may be gamed."""

    watch: bool = True  # false: no alarms
    ignore: tuple[AlarmName, ...] = ()  # alarms that are not raised
    stop_on: tuple[AlarmName, ...] = ()  # alarms that end the run, with a checkpoint, when they begin
    window: int = Field(default=3, ge=2)  # steps whose mean is compared with that of as many first ones
    part_share: float = Field(default=0.8, gt=0, le=1)  # one_part: of the reward's variance
    length_band: float = Field(default=1.6, gt=1)  # length_drift: factor of the first words a turn, either way
    repetition_margin: float = Field(default=0.1, gt=0, le=1)  # repetition_drift: more than the first share by
    deviation_share: float = Field(default=0.1, gt=0, lt=1)  # variance_collapse: of the first deviation
    entropy_share: float = Field(default=0.4, gt=0, lt=1)  # entropy_collapse: of the first entropy
    kl_factor: float = Field(default=3.0, gt=1)  # kl_accelerating: of the target, where the controller has one
    kl_nats: float = Field(default=0.3, gt=0)  # kl_accelerating, without a target: a token, where it grows ever faster
    distinct_share: float = Field(default=0.75, gt=0, lt=1)  # distinct_falling: of the first distinct-2
    fall: float = Field(default=0.25, gt=0)  # verifiable_falling, watched_falling: of what the part was, beyond noise
    verifiable: tuple[str, ...] = ("payoff",)  # rewards that cannot be gamed
    gap: float = Field(default=0.3, gt=0)  # proxy_gap: a reward model above its twin, in deviations, more than at first

    @model_validator(mode="after")
    def _check(self) -> AlarmsGroup:
        if self.stop_on and not self.watch:
            raise UserError("alarms.stop_on needs alarms.watch=true")
        both = [name for name in self.stop_on if name in self.ignore]
        if both:
            raise UserError(f"alarms.stop_on and alarms.ignore both name {both[0]}; leave it out of one")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a run's alarms depend on besides its metrics."""

    settings: AlarmsGroup
    weights: Mapping[str, float]  # reward -> weight
    kl_target: float | None = None  # nats a token; None: nothing steers to one


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One alarm at one step, on or off.

    Example: ``Reading(name="entropy_collapse", value=1.14, reference=3.1, bound=1.24, what="the entropy is 1.14 ...",
    meaning="the policy says the same again and again", look="rewarded", was_on=False)`` has begun.
    """

    name: AlarmName
    value: float
    reference: float  # what the value is compared with
    bound: float  # on the one side of the reference or the other
    what: str  # the numbers in words
    meaning: str  # what they say if the alarm is on
    look: Look
    part: str = ""  # the reward it is about, if it is about one
    can_begin: bool = True  # whether all else that the alarm asks for is there
    was_on: bool = False  # at the step before

    @property
    def level(self) -> float:
        """How far the value is on the way from the reference to the bound; 1 is there."""
        way = self.bound - self.reference
        return (self.value - self.reference) / way if way else 0.0

    @property
    def is_on(self) -> bool:
        """Whether the alarm is on at this step."""
        return self.level > ENDS_AT if self.was_on else self.can_begin and self.level > 1.0

    @property
    def has_begun(self) -> bool:
        """Whether the alarm came on at this step."""
        return self.is_on and not self.was_on

    @property
    def has_ended(self) -> bool:
        """Whether the alarm went off at this step."""
        return self.was_on and not self.is_on

    def text(self, *, run: str, look_at: Sequence[str]) -> str:
        """Return what a person should know: what, how much, and which conversations of the run to read."""
        if not self.is_on:
            return f"alarm {self.name} is over: {self.what}"
        see = "".join(f"; see `show {run} {id}`" for id in look_at[:1])
        return f"alarm {self.name}: {self.what} (bound {self.bound:.3g}): {self.meaning}{see}"


def read_alarms(lines: Sequence[Line], watch: Watch) -> list[Reading]:
    """Return every alarm that can be told at the newest line; the lines before it hold what was on until then."""
    if not lines or not watch.settings.watch:
        return []
    past = _Past(lines)
    found = [
        max(candidates, key=lambda one: (one.can_begin, one.level))
        for name, find in _FINDERS.items()
        if name not in watch.settings.ignore and (candidates := list(find(past, watch)))
    ]
    # A step that an alarm could not be told at leaves it as it was.
    before = _Past(lines[:-1])
    return [replace(one, was_on=before.newest(METRIC + one.name) == 1.0) for one in found]


def alarm_metrics(readings: Iterable[Reading]) -> dict[str, float]:
    """Return the metrics by which the next step will know what was on."""
    return {METRIC + reading.name: float(reading.is_on) for reading in readings}


def replay(lines: Sequence[Line], watch: Watch) -> list[tuple[int, Reading]]:
    """Return (step, alarm) for each alarm that begins or ends as a run's lines come in, whatever they say of alarms."""
    seen: list[Line] = []
    changes = []
    for line in lines:
        seen.append({name: value for name, value in line.items() if not name.startswith(METRIC)})
        readings = read_alarms(seen, watch)
        seen[-1] = {**seen[-1], **alarm_metrics(readings)}
        changes += [(int(line["step"]), reading) for reading in readings if reading.has_begun or reading.has_ended]
    return changes


def conversations_to_read(
    reading: Reading, scored: Sequence[ScoredConversation], notes: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the ids of the step's conversations that show an alarm best, at most three.

    notes: what the learner says of each conversation, by id.
    """
    score = _scores_of(reading, notes)
    played = [one for one in scored if one.conversation.turns and not has_failed(one.conversation)]
    telling = [(score(one), one.conversation.id) for one in played]
    best = sorted((pair for pair in telling if math.isfinite(pair[0])), key=lambda pair: -pair[0])
    return [id for _, id in best[:NUM_TO_READ]]


def alarm_to_json(reading: Reading, *, step: int, at: str, run: str, look_at: Sequence[str]) -> dict[str, Any]:
    """Return the record of an alarm that begins or ends."""
    return {
        "schema": ALARM_SCHEMA,
        "at": at,
        "step": step,
        "name": reading.name,
        "state": "began" if reading.is_on else "ended",
        "value": reading.value,
        "bound": reading.bound,
        "text": reading.text(run=run, look_at=look_at),
        "look_at": list(look_at),
    }


def append_alarms(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add records to the alarms of a run; none leaves no file.  Raises UserError if they cannot be written."""
    if not records:
        return
    try:
        file = LineFile(path)
        try:
            for record in records:
                file.append(line_from_json(record))
        finally:
            file.close()
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error


# ----- what is read from the lines -----


class _Past:
    """Metrics by step; NaN: a step has none."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def of(self, name: str) -> list[float]:
        """Return one metric of every step."""
        values = [line.get(name) for line in self._lines]
        return [math.nan if value is None else float(value) for value in values]

    def newest(self, name: str) -> float:
        """Return a metric of the newest step that has it; NaN: none has."""
        values = (line.get(name) for line in reversed(self._lines))
        return next((float(value) for value in values if value is not None), math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """Where a metric began and where it is."""

    first: float  # mean over the first window
    last: float  # mean over the newest
    noise: float  # how far apart noise alone may put them


def _ends_of(values: Sequence[float], window: int) -> _Ends | None:
    """Return a metric's first and newest means over the steps that have it; None: too few have, or no recent one."""
    finite = _finite(values)
    if len(finite) < 2 * window or not _finite(values[-window:]):
        return None
    return _Ends(first=_mean(finite[:window]), last=_mean(finite[-window:]), noise=_noise(finite, window))


def _noise(values: Sequence[float], window: int) -> float:
    """Return how far noise may put two means of `window` steps apart.

    The step-to-step variance is half the mean squared difference of successive steps, which a trend hardly changes.
    Source: von Neumann et al. 1941, The mean square successive difference, eq. 1.
    """
    variance = _mean([(later - earlier) ** 2 for earlier, later in pairwise(values)]) / 2
    return NUM_STANDARD_ERRORS * math.sqrt(2 * variance / window)


def _window_sizes(num_steps: int, *, smallest: int, blocks: int) -> Iterator[int]:
    """Yield sizes that double, as long as so many blocks of them fit: what comes slowly needs longer ones."""
    size = smallest
    while blocks * size <= num_steps:
        yield size
        size *= 2


def _blocks(values: Sequence[float], size: int, number: int) -> list[float]:
    """Return the means of the newest blocks of so many steps, the oldest first."""
    starts = [len(values) - size * back for back in range(number, 0, -1)]
    return [_mean(values[start : start + size]) for start in starts]


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


# ----- the alarms -----


def _one_part(past: _Past, watch: Watch) -> Iterator[Reading]:
    """A part's share of the variance of conversations' rewards, where it was not meant to be so large."""
    parts = [name for name, weight in watch.weights.items() if weight]
    for part in parts if len(parts) > 1 else ():
        # A part that others work against makes more than everything; that is no more than all of it.
        shares = [min(share, 1.0) for share in past.of(f"reward/{part}/variance_share")]
        ends = _ends_of(shares, watch.settings.window)
        if ends is not None:
            yield Reading(
                name="one_part",
                value=ends.last,
                reference=ends.first,
                bound=max(watch.settings.part_share, ends.first + PART_RISE),
                what=f"{part} makes {ends.last:.0%} of the reward's variance, {ends.first:.0%} at first",
                meaning="the other parts hardly count",
                look="part_high",
                part=part,
            )


def _length_drift(past: _Past, watch: Watch) -> Iterator[Reading]:
    ends = _ends_of(past.of("play/words_per_turn"), watch.settings.window)
    if ends is None:
        return
    is_longer = ends.last > ends.first
    yield Reading(
        name="length_drift",
        value=ends.last,
        reference=ends.first,
        bound=ends.first * watch.settings.length_band if is_longer else ends.first / watch.settings.length_band,
        what=f"{ends.last:.1f} words a turn, {ends.first:.1f} at first",
        meaning=f"{'long' if is_longer else 'short'} turns may be what pays",
        look="long" if is_longer else "short",
    )


def _repetition_drift(past: _Past, watch: Watch) -> Iterator[Reading]:
    measures = {
        "play/repeat_rate": "of the turns were said before in their conversation",
        "play/repeated_pairs": "of the word pairs repeat within a turn",
    }
    for metric, words in measures.items():
        ends = _ends_of(past.of(metric), watch.settings.window)
        if ends is not None:
            yield Reading(
                name="repetition_drift",
                value=ends.last,
                reference=ends.first,
                bound=ends.first + max(watch.settings.repetition_margin, ends.noise),
                what=f"{ends.last:.0%} {words}, {ends.first:.0%} at first",
                meaning="the same words may be what pays",
                look="repetitive",
            )


def _variance_collapse(past: _Past, watch: Watch) -> Iterator[Reading]:
    ends = _ends_of(past.of("reward/per_conversation/deviation"), watch.settings.window)
    if ends is not None:
        yield Reading(
            name="variance_collapse",
            value=ends.last,
            reference=ends.first,
            bound=ends.first * watch.settings.deviation_share,
            what=f"the rewards of conversations deviate by {ends.last:.3g}, {ends.first:.3g} at first",
            meaning="nothing is left to learn from",
            look="rewarded",
        )


def _entropy_collapse(past: _Past, watch: Watch) -> Iterator[Reading]:
    ends = _ends_of(past.of("entropy/per_token_nats"), watch.settings.window)
    if ends is not None:
        yield Reading(
            name="entropy_collapse",
            value=ends.last,
            reference=ends.first,
            bound=ends.first * watch.settings.entropy_share,
            what=f"the entropy is {ends.last:.2f} nats a token, {ends.first:.2f} at first",
            meaning="the policy says the same again and again",
            look="rewarded",
        )


def _kl_accelerating(past: _Past, watch: Watch) -> Iterator[Reading]:
    """KL far above its target; without one, above a bound and growing ever faster.

    "Ever faster" over three windows in a row: KL has grown to at least 1.5 times what it was, and by 1.5 times what it
    grew by before.  A straight line grows by as much; windows of 3, 6, 12 ... steps see slow growth too.  Once begun it
    lasts while KL is high: growth that ends far out is no return.
    """
    window, target = watch.settings.window, watch.kl_target
    values = _finite(past.of("kl/per_token_nats"))
    if len(values) < 2 * window:
        return
    value = _mean(values[-window:])
    steered = f", {value / target:.1f} times its target" if target else ""
    yield Reading(
        name="kl_accelerating",
        value=value,
        reference=target or 0.0,
        bound=target * watch.settings.kl_factor if target else watch.settings.kl_nats,
        what=f"KL is {value:.3f} nats a token{steered}",
        meaning="the controller does not hold it" if target else "it grows ever faster, and language may go",
        look="far",
        can_begin=bool(target) or _grows_ever_faster(values, window),
    )


def _grows_ever_faster(values: Sequence[float], window: int) -> bool:
    for size in _window_sizes(len(values), smallest=window, blocks=3):
        oldest, older, newest = _blocks(values, size, 3)
        if newest > GROWTH * older and newest - older > GROWTH * (older - oldest):
            return True
    return False


def _distinct_falling(past: _Past, watch: Watch) -> Iterator[Reading]:
    ends = _ends_of(_distinct_at_first_length(past, watch.settings.window), watch.settings.window)
    if ends is not None:
        yield Reading(
            name="distinct_falling",
            value=ends.last,
            reference=ends.first,
            bound=ends.first * watch.settings.distinct_share,
            what=f"{ends.last:.2f} of the word pairs are distinct at equal length, {ends.first:.2f} at first",
            meaning="conversations become much the same",
            look="repetitive",
        )


def _distinct_at_first_length(past: _Past, window: int) -> list[float]:
    """Return distinct-2 of every step as if it had said as many words as the first ones.

    The share of pairs that repeat an earlier one grows with the number of pairs, about in proportion while it is small.
    Uncorrected, a policy that falls silent hides that it repeats itself: three words a turn hardly can.
    """
    counts = [1.0 if math.isnan(count) else count for count in past.of("reward/total/count")]
    lengths = past.of("play/words_per_turn")
    num_words = [count * length for count, length in zip(counts, lengths, strict=True)]
    first = _finite(num_words)[:window]
    if not first:
        return []
    pairs = zip(past.of("play/distinct_2"), num_words, strict=True)
    return [_corrected(distinct, _mean(first) / words if words > 0 else math.nan) for distinct, words in pairs]


def _corrected(distinct: float, times: float) -> float:
    if not math.isfinite(distinct * times):
        return math.nan
    return max(0.0, 1.0 - (1.0 - distinct) * min(max(times, 1 / LENGTH_CORRECTION), LENGTH_CORRECTION))


def _verifiable_falling(past: _Past, watch: Watch) -> Iterator[Reading]:
    """A part that cannot be gamed falls between two windows in a row, of any size, while the total rises."""
    for part in watch.settings.verifiable:
        lines = zip(past.of(f"reward/{part}"), past.of("reward/total"), strict=True)
        both = [(value, total) for value, total in lines if math.isfinite(value) and math.isfinite(total)]
        values, totals = [value for value, _ in both], [total for _, total in both]
        for size in _window_sizes(len(both), smallest=watch.settings.window, blocks=2):
            (before, now), (total_before, total_now) = _blocks(values, size, 2), _blocks(totals, size, 2)
            yield Reading(
                name="verifiable_falling",
                value=now,
                reference=before,
                bound=before - max(watch.settings.fall * abs(before), _noise(values, size)),
                what=f"{part} went from {before:.3g} to {now:.3g} and the whole reward from {total_before:.3g} to "
                f"{total_now:.3g} in {2 * size} steps",
                meaning="what is rewarded is not what counts",
                look="part_low",
                part=part,
                can_begin=total_now - total_before > _noise(totals, size),
            )


def _watched_falling(past: _Past, watch: Watch) -> Iterator[Reading]:
    """A reward that is measured only is lower over the newest steps than over as many first ones, of any number."""
    for part in (name for name, weight in watch.weights.items() if not weight):
        values = past.of(f"reward/{part}")
        for size in _window_sizes(len(_finite(values)), smallest=watch.settings.window, blocks=2):
            ends = _ends_of(values, size)
            if ends is not None:
                yield Reading(
                    name="watched_falling",
                    value=ends.last,
                    reference=ends.first,
                    bound=ends.first - max(watch.settings.fall * abs(ends.first), ends.noise),
                    what=f"{part}, which has no weight, is {ends.last:.3g}, {ends.first:.3g} at first",
                    meaning="the reward is bought with it",
                    look="part_low",
                    part=part,
                )


def _proxy_gap(past: _Past, watch: Watch) -> Iterator[Reading]:
    """A reward model that is trained against says more and more above its twin, which has seen other labels.

    Source: Bai et al. 2022, arXiv:2204.05862, section 4.2: models of disjoint halves agree until a policy finds what
    one of them happens to like.
    """
    for part in (name for name, weight in watch.weights.items() if weight > 0):
        ends = _ends_of(past.of(f"reward/{part}.{GAP}"), watch.settings.window)
        if ends is not None:
            yield Reading(
                name="proxy_gap",
                value=ends.last,
                reference=ends.first,
                bound=ends.first + max(watch.settings.gap, ends.noise),
                what=f"{part} is {ends.last:.2f} deviations above its held-out twin, {ends.first:.2f} at first",
                meaning="the policy finds what this reward model happens to like, and others do not",
                look="part_high",
                part=f"{part}.{GAP}",
            )


_FINDERS: Mapping[AlarmName, Callable[[_Past, Watch], Iterator[Reading]]] = {
    "one_part": _one_part,
    "length_drift": _length_drift,
    "repetition_drift": _repetition_drift,
    "variance_collapse": _variance_collapse,
    "entropy_collapse": _entropy_collapse,
    "kl_accelerating": _kl_accelerating,
    "distinct_falling": _distinct_falling,
    "verifiable_falling": _verifiable_falling,
    "watched_falling": _watched_falling,
    "proxy_gap": _proxy_gap,
}
assert tuple(_FINDERS) == get_args(AlarmName)


# ----- which conversations to read -----


def _scores_of(reading: Reading, notes: Mapping[str, Mapping[str, Any]]) -> Callable[[ScoredConversation], float]:
    """Return what is highest where an alarm shows best; NaN: it cannot show there."""
    choices: Mapping[Look, Callable[[ScoredConversation], float]] = {
        "rewarded": lambda one: _sum(one.rewards.tolist()),
        "part_high": lambda one: _part(one, reading.part),
        "part_low": lambda one: -_part(one, reading.part),
        "short": lambda one: -_words_per_turn(one),
        "long": _words_per_turn,
        "repetitive": _repetition,
        "far": lambda one: float(notes.get(one.conversation.id, {}).get("kl_per_token", math.nan)),
    }
    return choices[reading.look]


def _part(one: ScoredConversation, name: str) -> float:
    return _sum(one.parts[name].values.tolist()) if name in one.parts else math.nan


def _sum(values: Sequence[float]) -> float:
    finite = _finite(values)
    return math.fsum(finite) if finite else math.nan


def _words_per_turn(one: ScoredConversation) -> float:
    return _mean([len(words_of(turn.text)) for turn in _turns(one)] or [math.nan])


def _repetition(one: ScoredConversation) -> float:
    """Return the share of a conversation's word pairs that it has had before."""
    pairs = [pair for turn in _turns(one) for pair in pairwise(words_of(turn.text))]
    return 1 - len(set(pairs)) / len(pairs) if pairs else math.nan


def _turns(one: ScoredConversation) -> list[Any]:
    players = one.conversation.players
    return [turn for turn in one.conversation.turns if turn.role in players and players[turn.role].trained]
