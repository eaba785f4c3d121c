"""What somebody or something said of conversations, and the lines that hold it: choices, rankings, ratings, skips."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from selfplay.line_files import RecordError
from selfplay.records_json import check_schema, plain_json

__all__ = [
    "PREFERENCE_SCHEMA",
    "Choice",
    "Entry",
    "PairEntry",
    "Preference",
    "Ranking",
    "Rating",
    "Skip",
    "Strength",
    "entry_from_json",
    "entry_to_json",
    "preference_from_json",
    "preference_to_json",
]

PREFERENCE_SCHEMA = "selfplay.preference/1"

Choice = Literal["left", "right", "tie", "both_bad"]
Strength = Literal["much"]

# How likely the left one is to be preferred; of two bad ones nothing is said.
PROBABILITY_LEFT: Mapping[Choice, float | None] = {"left": 1.0, "right": 0.0, "tie": 0.5, "both_bad": None}
ID_DIGITS = 12
DECIMALS = 6  # of a soft label, and of what a judge measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One choice between two conversations, or between a turn of each.

    Example: ``Preference(at="2026-11-23T09:02:11.000Z", left="000420-g05-2", right="000400-g01-0", focus="giver",
    question="Who would you rather keep talking to?", choice="left", by="person:anon-3f")``
    """

    at: str  # UTC, ISO 8601
    left: str  # id of the conversation that was shown on the left
    right: str
    focus: str  # the role that was asked about
    question: str
    choice: Choice  # both_bad is not a tie: neither is worth having
    by: str  # "person:anon-3f", "judge:smollm2-135m", "gold:question"
    strength: Strength | None = None  # "much": clearly; None: just so
    probability: float | None = None  # a soft label: how likely left is preferred; None: what the choice means
    turns: tuple[int, int] | None = None  # which turn of left and of right, in all its turns; None: all that was said
    why: tuple[str, ...] = ()  # words the person ticked
    principle: str | None = None  # what they were told to judge by; None: nothing
    swap_of: str | None = None  # id of the preference that this one repeats with sides swapped
    sampler: str = ""  # how the pair was drawn
    seconds: float | None = None  # from showing the pair to the choice
    detail: Mapping[str, Any] = field(default_factory=dict, hash=False)  # JSON values: what a judge measured
    stored_id: str = ""  # as its line says; "": the line says nothing

    @property
    def id(self) -> str:
        """What a line that withdraws it, or a swapped repeat, calls it."""
        turns = () if self.turns is None else (self.focus, str(self.turns))
        return self.stored_id or _digest(self.at, self.left, self.right, self.by, *turns)

    @property
    def probability_left(self) -> float | None:
        """How likely the left one is preferred, as a model of preferences learns it; None: it should not learn it."""
        meant = PROBABILITY_LEFT[self.choice]
        return meant if meant is None or self.probability is None else self.probability

    @property
    def chosen(self) -> str | None:
        """Return the id of the conversation chosen; None: neither."""
        return {"left": self.left, "right": self.right}.get(self.choice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Several conversations in order, the best first or not: the ranks tell.

    Example: ``Ranking(at="2026-11-23T09:02:11.000Z", ids=("000420-g05-0", "000420-g05-1", "000420-g05-2"),
    ranks=(2, 1, 2), focus="giver", question="Who would you rather keep talking to?", by="person:anon-3f")``
    """

    at: str
    ids: tuple[str, ...]  # [K]
    ranks: tuple[int, ...]  # [K] 1 is the best; equal ranks are ties
    focus: str
    question: str
    by: str
    principle: str | None = None
    sampler: str = ""
    seconds: float | None = None
    stored_id: str = ""

    @property
    def id(self) -> str:
        """What a line that withdraws it calls it."""
        return self.stored_id or _digest("ranking", self.at, self.focus, self.by, *self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A number for one conversation.

    Example: ``Rating(at="2026-11-23T09:02:11.000Z", conversation="000420-g05-0", focus="giver",
    question="How interesting was it?", value=7.0, low=1.0, high=10.0, by="person:anon-3f")``
    """

    at: str
    conversation: str
    focus: str
    question: str
    value: float  # from low, the worst, to high
    low: float
    high: float
    by: str
    principle: str | None = None
    seconds: float | None = None
    stored_id: str = ""

    @property
    def id(self) -> str:
        """What a line that withdraws it calls it."""
        return self.stored_id or _digest("rating", self.at, self.conversation, self.focus, self.question, self.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A pair that a person passed over."""

    at: str
    left: str
    right: str
    focus: str
    by: str
    swap_of: str | None = None
    stored_id: str = ""

    @property
    def id(self) -> str:
        """What a line that withdraws it calls it."""
        return self.stored_id or _digest(self.at, self.left, self.right, self.by)


PairEntry = Preference | Skip
Entry = Preference | Ranking | Rating | Skip


# ----- as JSON -----


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """Return the record of an entry; raises RecordError for detail that JSON cannot hold."""
    match entry:
        case Preference():
            return preference_to_json(entry)
        case Ranking():
            return _ranking_to_json(entry)
        case Rating():
            return _rating_to_json(entry)
        case Skip():
            return _skip_to_json(entry)


def entry_from_json(record: Mapping[str, Any]) -> Entry:
    """Return the entry of a record, as `preference_from_json` does that of a choice."""
    check_schema(record, PREFERENCE_SCHEMA)
    if "skips" in record:
        return _skip_from_json(record)
    if "ranks" in record:
        return _ranking_from_json(record)
    return _rating_from_json(record) if "conversation" in record else preference_from_json(record)


def preference_to_json(preference: Preference) -> dict[str, Any]:
    """Return the record of a preference; raises RecordError for detail that JSON cannot hold."""
    record = {
        "schema": PREFERENCE_SCHEMA,
        "id": preference.id,
        "at": preference.at,
        "left": preference.left,
        "right": preference.right,
        "focus": preference.focus,
        "question": preference.question,
        "choice": preference.choice,
        **({} if preference.strength is None else {"strength": preference.strength}),
        "probability_left": plain_json(preference.probability_left, decimals=DECIMALS),
        **({} if preference.turns is None else {"turns": list(preference.turns)}),
        "why": list(preference.why),
        "by": preference.by,
        "principle": preference.principle,
        "swap_of": preference.swap_of,
        "sampler": preference.sampler,
        "seconds": plain_json(preference.seconds),
    }
    try:
        detail = plain_json(preference.detail, decimals=DECIMALS)
    except TypeError as error:
        raise RecordError(f"what {preference.by} measured cannot be stored: {error}") from error
    return {**record, "detail": detail} if detail else record


def preference_from_json(record: Mapping[str, Any]) -> Preference:
    """Return the preference of a record; unknown fields are ignored.

    Raises RecordError if the schema is another one, or a field is missing or of the wrong kind.
    """
    check_schema(record, PREFERENCE_SCHEMA)
    choice: Any = record.get("choice")
    strength, why, detail = record.get("strength"), record.get("why"), record.get("detail")
    if choice not in get_args(Choice):
        raise RecordError(f"choice {choice!r} is none of {', '.join(get_args(Choice))}")
    return Preference(
        **_pair_of(record),
        question=_text(record, "question"),
        choice=choice,
        strength=strength if strength in get_args(Strength) else None,
        probability=_probability(record, choice),
        turns=_turns(record),
        why=tuple(str(word) for word in why) if isinstance(why, list) else (),
        principle=_text_or_none(record, "principle"),
        sampler=_text_or_none(record, "sampler") or "",
        seconds=_number_or_none(record.get("seconds")),
        detail=detail if isinstance(detail, dict) else {},
    )


def _probability(record: Mapping[str, Any], choice: Choice) -> float | None:
    """Return a soft label; None: the record says what the choice means, or nothing."""
    value, meant = record.get("probability_left"), PROBABILITY_LEFT[choice]
    if value is None or meant is None:
        return None
    number = _number_or_none(value)
    if number is None or not 0.0 <= number <= 1.0:
        raise RecordError(f"probability_left {value!r} is not between 0 and 1")
    return None if number == meant else number


def _turns(record: Mapping[str, Any]) -> tuple[int, int] | None:
    turns = record.get("turns")
    if turns is None:
        return None
    if not isinstance(turns, list) or len(turns) != 2 or not all(type(turn) is int and turn >= 0 for turn in turns):
        raise RecordError("turns should be the numbers of two turns")
    return turns[0], turns[1]


def _ranking_to_json(ranking: Ranking) -> dict[str, Any]:
    return {
        "schema": PREFERENCE_SCHEMA,
        "id": ranking.id,
        "at": ranking.at,
        "ids": list(ranking.ids),
        "ranks": list(ranking.ranks),
        "focus": ranking.focus,
        "question": ranking.question,
        "by": ranking.by,
        "principle": ranking.principle,
        "sampler": ranking.sampler,
        "seconds": plain_json(ranking.seconds),
    }


def _ranking_from_json(record: Mapping[str, Any]) -> Ranking:
    ids, ranks = record.get("ids"), record["ranks"]
    if not isinstance(ids, list) or len(ids) < 2 or not all(isinstance(id, str) for id in ids):
        raise RecordError("ids should be those of two conversations or more")
    if len(set(ids)) < len(ids):
        raise RecordError("ids name a conversation twice")
    if not isinstance(ranks, list) or len(ranks) != len(ids) or not all(type(one) is int and one > 0 for one in ranks):
        raise RecordError("ranks should be a whole number for each id, 1 the best")
    return Ranking(
        **_said(record),
        ids=tuple(ids),
        ranks=tuple(ranks),
        sampler=_text_or_none(record, "sampler") or "",
    )


def _rating_to_json(rating: Rating) -> dict[str, Any]:
    return {
        "schema": PREFERENCE_SCHEMA,
        "id": rating.id,
        "at": rating.at,
        "conversation": rating.conversation,
        "focus": rating.focus,
        "question": rating.question,
        "value": plain_json(rating.value, decimals=DECIMALS),
        "low": plain_json(rating.low, decimals=DECIMALS),
        "high": plain_json(rating.high, decimals=DECIMALS),
        "by": rating.by,
        "principle": rating.principle,
        "seconds": plain_json(rating.seconds),
    }


def _rating_from_json(record: Mapping[str, Any]) -> Rating:
    value, low, high = (_number_or_none(record.get(name)) for name in ("value", "low", "high"))
    if value is None or low is None or high is None or not low <= value <= high or low == high:
        raise RecordError("a rating needs a value, and a low and a high that it lies between")
    return Rating(**_said(record), conversation=_text(record, "conversation"), value=value, low=low, high=high)


def _said(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what rankings and ratings have in common."""
    known: dict[str, Any] = {name: _text(record, name) for name in ("at", "focus", "question", "by")}
    return known | {
        "principle": _text_or_none(record, "principle"),
        "seconds": _number_or_none(record.get("seconds")),
        "stored_id": _text_or_none(record, "id") or "",
    }


def _skip_to_json(skip: Skip) -> dict[str, Any]:
    return {
        "schema": PREFERENCE_SCHEMA,
        "id": skip.id,
        "at": skip.at,
        "skips": [skip.left, skip.right],
        "focus": skip.focus,
        "by": skip.by,
        "swap_of": skip.swap_of,
    }


def _skip_from_json(record: Mapping[str, Any]) -> Skip:
    pair = record["skips"]
    if not isinstance(pair, list) or len(pair) != 2:
        raise RecordError("skips should be two ids")
    return Skip(**_pair_of({**record, "left": pair[0], "right": pair[1]}))


def _pair_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what choices and skips have in common."""
    known: dict[str, Any] = {name: _text(record, name) for name in ("at", "left", "right", "focus", "by")}
    return known | {"swap_of": _text_or_none(record, "swap_of"), "stored_id": _text_or_none(record, "id") or ""}


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise RecordError(f"{name!r} should be text, but is {'missing' if value is None else type(value).__name__}")
    return value


def _text_or_none(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) else None


def _number_or_none(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]  # mypy does not follow is_number


def _digest(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode("ascii")).hexdigest()[:ID_DIGITS]
