"""What people prefer: one line for each choice between two conversations of a run, in its preferences.jsonl.

    {"schema": "selfplay.preference/1", "id": "9f2c40d1a7be", "at": "2026-11-23T09:02:11.000Z",
     "left": "000420-g05-2", "right": "000400-g01-0", "focus": "giver",
     "question": "Who would you rather keep talking to?", "choice": "left", "strength": "much",
     "probability_left": 1.0, "why": ["clear"], "by": "person:anon-3f", "principle": null, "swap_of": null,
     "sampler": "uniform-same-scenario", "seconds": 14.2}

The file only grows.  A line with "withdraws", an id, takes an earlier line back; one with "skips", left and right,
says that a person passed a pair over.  Readers fold them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from selfplay.errors import UserError
from selfplay.line_files import LineFile, RecordError, json_from_line, line_from_json
from selfplay.records_json import check_schema, plain_json
from selfplay.whole_files import reason

__all__ = [
    "PREFERENCES",
    "Choice",
    "Entry",
    "Preference",
    "PreferenceLines",
    "Skip",
    "Strength",
    "append_entry",
    "preference_from_json",
    "preference_to_json",
    "read_preferences",
    "withdraw",
]

PREFERENCE_SCHEMA = "selfplay.preference/1"
PREFERENCES = "preferences.jsonl"

Choice = Literal["left", "right", "tie", "both_bad"]
Strength = Literal["much"]

# How likely the left one is to be preferred; of two bad ones nothing is said.
PROBABILITY_LEFT: Mapping[Choice, float | None] = {"left": 1.0, "right": 0.0, "tie": 0.5, "both_bad": None}
ID_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One person's choice between two conversations.

    Example: ``Preference(at="2026-11-23T09:02:11.000Z", left="000420-g05-2", right="000400-g01-0", focus="giver",
    question="Who would you rather keep talking to?", choice="left", by="person:anon-3f")``
    """

    at: str  # UTC, ISO 8601
    left: str  # id of the conversation that was shown on the left
    right: str
    focus: str  # the role that was asked about
    question: str
    choice: Choice  # both_bad is not a tie: neither is worth having
    by: str  # "person:anon-3f"
    strength: Strength | None = None  # "much": clearly; None: just so
    why: tuple[str, ...] = ()  # words the person ticked
    principle: str | None = None  # what they were told to judge by; None: nothing
    swap_of: str | None = None  # id of the preference that this one repeats with sides swapped
    sampler: str = ""  # how the pair was drawn
    seconds: float | None = None  # from showing the pair to the choice
    stored_id: str = ""  # as its line says; "": the line says nothing

    @property
    def id(self) -> str:
        """What a line that withdraws it, or a swapped repeat, calls it."""
        return self.stored_id or _digest(self.at, self.left, self.right, self.by)

    @property
    def probability_left(self) -> float | None:
        """How likely the left one is preferred, as a model of preferences learns it; None: it should not learn it."""
        return PROBABILITY_LEFT[self.choice]

    @property
    def chosen(self) -> str | None:
        """Return the id of the conversation chosen; None: neither."""
        return {"left": self.left, "right": self.right}.get(self.choice)


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


Entry = Preference | Skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceLines:
    """What a run's preferences.jsonl says."""

    entries: tuple[Entry, ...] = ()  # that stand, in the order of their lines
    reopened: Mapping[str, Entry] = field(default_factory=dict)  # by -> what that person's last line took back
    problems: tuple[str, ...] = ()  # lines that could not be read, with their numbers

    @property
    def preferences(self) -> list[Preference]:
        """The choices that stand."""
        return [entry for entry in self.entries if isinstance(entry, Preference)]


def preference_to_json(preference: Preference) -> dict[str, Any]:
    """Return the record of a preference."""
    return {
        "schema": PREFERENCE_SCHEMA,
        "id": preference.id,
        "at": preference.at,
        "left": preference.left,
        "right": preference.right,
        "focus": preference.focus,
        "question": preference.question,
        "choice": preference.choice,
        **({} if preference.strength is None else {"strength": preference.strength}),
        "probability_left": preference.probability_left,
        "why": list(preference.why),
        "by": preference.by,
        "principle": preference.principle,
        "swap_of": preference.swap_of,
        "sampler": preference.sampler,
        "seconds": plain_json(preference.seconds),
    }


def preference_from_json(record: Mapping[str, Any]) -> Preference:
    """Return the preference of a record; unknown fields are ignored.

    Raises RecordError if the schema is another one, or a field is missing or of the wrong kind.
    """
    check_schema(record, PREFERENCE_SCHEMA)
    choice: Any = record.get("choice")
    strength, why = record.get("strength"), record.get("why")
    if choice not in get_args(Choice):
        raise RecordError(f"choice {choice!r} is none of {', '.join(get_args(Choice))}")
    return Preference(
        **_pair_of(record),
        question=_text(record, "question"),
        choice=choice,
        strength=strength if strength in get_args(Strength) else None,
        why=tuple(str(word) for word in why) if isinstance(why, list) else (),
        principle=_text_or_none(record, "principle"),
        sampler=_text_or_none(record, "sampler") or "",
        seconds=_number_or_none(record.get("seconds")),
    )


def skip_to_json(skip: Skip) -> dict[str, Any]:
    """Return the record of a pair that was passed over."""
    return {
        "schema": PREFERENCE_SCHEMA,
        "id": skip.id,
        "at": skip.at,
        "skips": [skip.left, skip.right],
        "focus": skip.focus,
        "by": skip.by,
        "swap_of": skip.swap_of,
    }


def append_entry(folder: Path, entry: Entry) -> None:
    """Add a choice, or a pair passed over, to a run; UserError: it cannot be written, and nothing is added."""
    _append(folder, preference_to_json(entry) if isinstance(entry, Preference) else skip_to_json(entry))


def withdraw(folder: Path, entry: Entry, *, at: str) -> None:
    """Take an entry back: raises UserError if that cannot be written."""
    _append(folder, {"schema": PREFERENCE_SCHEMA, "at": at, "by": entry.by, "withdraws": entry.id})


def read_preferences(folder: Path) -> PreferenceLines:
    """Read what a run's people said; lines that cannot be read are skipped and reported."""
    try:
        lines = (folder / PREFERENCES).read_bytes().split(b"\n")
    except FileNotFoundError:
        return PreferenceLines()
    except OSError as error:
        return PreferenceLines(problems=(f"{PREFERENCES}: {reason(error)}",))
    reading = _Reading()
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                reading.take(json_from_line(line))
        except RecordError as error:
            reading.problems.append(f"{PREFERENCES}:{number}: {error}, skipped")
    return PreferenceLines(
        entries=tuple(reading.entries.values()), reopened=reading.reopened, problems=tuple(reading.problems)
    )


class _Reading:
    """The lines read so far, folded."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}  # by id
        self.reopened: dict[str, Entry] = {}
        self.problems: list[str] = []

    def take(self, record: Mapping[str, Any]) -> None:
        check_schema(record, PREFERENCE_SCHEMA)
        if "withdraws" in record:
            self._withdraw(record["withdraws"])
            return
        entry = _skip_from_json(record) if "skips" in record else preference_from_json(record)
        self.entries[entry.id] = entry
        self.reopened.pop(entry.by, None)

    def _withdraw(self, id: object) -> None:
        entry = self.entries.pop(id, None) if isinstance(id, str) else None
        if entry is None:
            raise RecordError(f"there is no line {id!r} before it to withdraw")
        self.reopened[entry.by] = entry


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


def _append(folder: Path, record: Mapping[str, Any]) -> None:
    path = folder / PREFERENCES
    try:
        start = b"" if _ends_whole(path) else b"\n"
        file = LineFile(path)
        try:
            file.append(start + line_from_json(record))
        finally:
            file.close()
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; nothing was added") from error


def _ends_whole(path: Path) -> bool:
    """Whether a file ends with a whole line; half of one, as after a crash, would swallow the next."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return True
