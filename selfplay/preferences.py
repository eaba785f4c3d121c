"""What is preferred: one line for each thing that was said of conversations of a run, in its preferences.jsonl.

    {"schema": "selfplay.preference/1", "id": "9f2c40d1a7be", "at": "2026-11-23T09:02:11.000Z",
     "left": "000420-g05-2", "right": "000400-g01-0", "focus": "giver",
     "question": "Who would you rather keep talking to?", "choice": "left", "strength": "much",
     "probability_left": 1.0, "why": ["clear"], "by": "person:anon-3f", "principle": null, "swap_of": null,
     "sampler": "uniform-same-scenario", "seconds": 14.2}

A judge that is no person may say how likely it is, in "probability_left", may mean a turn of each in "turns", and keeps
what it measured in "detail".  Other lines put several conversations in order, or rate one:

    {"schema": "selfplay.preference/1", ..., "ids": ["000420-g05-0", "000420-g05-1"], "ranks": [2, 1], ...}
    {"schema": "selfplay.preference/1", ..., "conversation": "000420-g05-0", "value": 7, "low": 1, "high": 10, ...}

The file only grows.  A line with "withdraws", an id, takes an earlier line back; one with "skips", left and right,
says that a person passed a pair over.  Readers fold them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfplay.errors import UserError
from selfplay.line_files import LineFile, RecordError, json_from_line, line_from_json
from selfplay.preference_records import (
    PREFERENCE_SCHEMA,
    Choice,
    Entry,
    PairEntry,
    Preference,
    Ranking,
    Rating,
    Skip,
    Strength,
    entry_from_json,
    entry_to_json,
    preference_from_json,
    preference_to_json,
)
from selfplay.records_json import check_schema
from selfplay.whole_files import reason

__all__ = [
    "PREFERENCES",
    "Choice",
    "Entry",
    "PairEntry",
    "Preference",
    "PreferenceLines",
    "Ranking",
    "Rating",
    "Skip",
    "Strength",
    "append_entries",
    "append_entry",
    "preference_from_json",
    "preference_to_json",
    "read_preferences",
    "withdraw",
]

PREFERENCES = "preferences.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceLines:
    """What a run's preferences.jsonl says."""

    entries: tuple[Entry, ...] = ()  # that stand, in the order of their lines
    numbers: Mapping[str, int] = field(default_factory=dict)  # id -> number of the entry's line, from 1
    reopened: Mapping[str, Entry] = field(default_factory=dict)  # by -> what that person's last line took back
    problems: tuple[str, ...] = ()  # lines that could not be read, with their numbers

    @property
    def preferences(self) -> list[Preference]:
        """The choices that stand."""
        return [entry for entry in self.entries if isinstance(entry, Preference)]

    @property
    def rankings(self) -> list[Ranking]:
        """The rankings that stand."""
        return [entry for entry in self.entries if isinstance(entry, Ranking)]

    @property
    def ratings(self) -> list[Rating]:
        """The ratings that stand."""
        return [entry for entry in self.entries if isinstance(entry, Rating)]


def append_entry(folder: Path, entry: Entry) -> None:
    """Add what somebody said to a run; UserError: it cannot be written, and nothing is added."""
    _append(folder, [entry_to_json(entry)])


def append_entries(folder: Path, entries: Sequence[Entry]) -> None:
    """Add several entries in one go: all, or with a UserError none."""
    _append(folder, [entry_to_json(entry) for entry in entries])


def withdraw(folder: Path, entry: Entry, *, at: str) -> None:
    """Take an entry back: raises UserError if that cannot be written."""
    _append(folder, [{"schema": PREFERENCE_SCHEMA, "at": at, "by": entry.by, "withdraws": entry.id}])


def read_preferences(folder: Path) -> PreferenceLines:
    """Read what was said of a run; lines that cannot be read are skipped and reported."""
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
                reading.take(json_from_line(line), number)
        except RecordError as error:
            reading.problems.append(f"{PREFERENCES}:{number}: {error}, skipped")
    return PreferenceLines(
        entries=tuple(reading.entries.values()),
        numbers=reading.numbers,
        reopened=reading.reopened,
        problems=tuple(reading.problems),
    )


class _Reading:
    """The lines read so far, folded."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}  # by id
        self.numbers: dict[str, int] = {}
        self.reopened: dict[str, Entry] = {}
        self.problems: list[str] = []

    def take(self, record: Mapping[str, Any], number: int) -> None:
        check_schema(record, PREFERENCE_SCHEMA)
        if "withdraws" in record:
            self._withdraw(record["withdraws"])
            return
        entry = entry_from_json(record)
        self.entries[entry.id] = entry
        self.numbers[entry.id] = number
        self.reopened.pop(entry.by, None)

    def _withdraw(self, id: object) -> None:
        entry = self.entries.pop(id, None) if isinstance(id, str) else None
        if entry is None:
            raise RecordError(f"there is no line {id!r} before it to withdraw")
        del self.numbers[entry.id]
        self.reopened[entry.by] = entry


def _append(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path = folder / PREFERENCES
    if not records:
        return
    try:
        start = b"" if _ends_whole(path) else b"\n"
        file = LineFile(path)
        try:
            file.append(start + b"".join(line_from_json(record) for record in records))
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
