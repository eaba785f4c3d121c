"""Alarms for reward hacking: what in a run's metrics says that its reward is being gamed.

Everything here is a function of the lines of metrics.jsonl, so a run that goes on has the alarms it would have had.
Steps are noisy: a mean over the newest `alarms.window` steps is compared with one over the first.  The first steps, not
the evaluation of the base, are what is compared with: they are measured in the same way on as many conversations of
the same split, every run has them, and so few updates change little.  Nothing is said before there are two windows.

An alarm begins beyond its bound and ends when three quarters of the way there: it is said at those two steps only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfplay.alarms_curves import Line, Past
from selfplay.alarms_finders import FINDERS
from selfplay.alarms_reading import Reading, Watch
from selfplay.errors import UserError
from selfplay.line_files import LineFile, line_from_json
from selfplay.records_json import ALARM_SCHEMA
from selfplay.whole_files import reason

METRIC = "alarm/"  # alarm/NAME: 1 while it is on, 0 while it is not, absent while it cannot be told


def read_alarms(lines: Sequence[Line], watch: Watch) -> list[Reading]:
    """Return every alarm that can be told at the newest line; the lines before it hold what was on until then."""
    if not lines or not watch.settings.watch:
        return []
    past = Past(lines)
    found = [
        max(candidates, key=lambda one: (one.can_begin, one.level))
        for name, find in FINDERS.items()
        if name not in watch.settings.ignore and (candidates := list(find(past, watch)))
    ]
    # A step that an alarm could not be told at leaves it as it was.
    before = Past(lines[:-1])
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
