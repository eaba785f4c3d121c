"""What a run folder tells at a glance, while it is written: how far it is, and when its newest line was written."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from selfplay.line_files import RecordError, json_from_line
from selfplay.run_folder import ALARMS, ANNOTATIONS, CONVERSATIONS, METRICS, TOKENS, is_run
from selfplay.run_reader import RunReader

__all__ = ["RunState", "StateReader", "entries_of", "signature_of"]

Signature = tuple[tuple[str, int, int], ...]
Found = TypeVar("Found")

END_BYTES = 256 * 1024  # read at the beginning and at the end of metrics.jsonl: more than a line
NUM_NEWEST = 20  # lines of metrics.jsonl; one of them can be read
LARGEST = 1e300  # a reward beyond is no number to show
REWARD = "reward/per_conversation"
CHUNK_BYTES = 1 << 20
LINES, PACKED = ".jsonl", ".jsonl.gz"
BY_PEOPLE = (ANNOTATIONS, "preferences")  # what people add later is no sign of life


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What changes while a run goes on."""

    status: str  # as `RunReader.status` says
    since: str | None  # when its newest line was written, UTC in ISO 8601; None: it has no files
    conversations: int
    step: int  # updates made
    reward: tuple[float, float] | None = None  # mean reward of a conversation: at the first step, and the newest
    alarms: int = 0  # that began

    @property
    def is_live(self) -> bool:
        """Whether a living process writes the run."""
        return self.status == "running"


class StateReader:
    """Reads the states of runs, for many threads; lines that were counted once are not counted again."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[int, int, int]] = {}  # file -> inode, bytes counted, lines in them
        self._metrics: dict[str, tuple[tuple[int, int], _Metrics]] = {}  # run -> inode and size, and what they say
        self._alarms: dict[str, tuple[tuple[int, int], int]] = {}
        self._lock = threading.Lock()

    def read(self, folder: Path) -> RunState:
        """Return what a run's folder says now."""
        reader = RunReader(folder)
        status, counts = reader.status, reader.manifest.get("counts")
        known = counts.get("conversations") if isinstance(counts, dict) else None
        # The counts of a run that goes on, or was killed, are old.
        is_known = isinstance(known, int) and status not in ("running", "killed")
        metrics = _once(self._metrics, folder / f"{METRICS}{LINES}", _metrics_of) or _Metrics()
        return RunState(
            status=status,
            since=_newest_change(folder),
            conversations=int(known or 0) if is_known else self._count_lines(folder / CONVERSATIONS),
            step=metrics.steps,
            reward=metrics.reward,
            alarms=_once(self._alarms, folder / f"{ALARMS}{LINES}", _alarms_begun) or 0,
        )

    def _count_lines(self, folder: Path) -> int:
        paths = [entry.path for entry in entries_of(folder) if entry.name.endswith((LINES, PACKED))]
        with self._lock:
            return sum(self._count_lines_of(path) for path in paths)

    def _count_lines_of(self, path: str) -> int:
        try:
            status = os.stat(path)
            inode, done, lines = self._counted.get(path, (status.st_ino, 0, 0))
            if inode == status.st_ino and done == status.st_size:
                return lines
            # A packed file is counted whole; one that was replaced too.
            if inode != status.st_ino or done > status.st_size or path.endswith(PACKED):
                done = lines = 0
            lines += _num_lines(path, start=done, end=status.st_size)
        except (OSError, EOFError, zlib.error):
            return 0
        self._counted[path] = (status.st_ino, status.st_size, lines)
        return lines


def signature_of(folder: Path) -> Signature:
    """Return what differs once a run's files have changed, without reading them; empty if the run is gone."""
    if not is_run(folder):
        return ()
    return tuple(sorted((entry.path, found.st_ino, found.st_size) for entry, found in _line_files(folder)))


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _line_files(folder: Path) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """Yield the files of a run that hold what it says, and not what readers derived from them."""
    tops = [entry for entry in entries_of(folder) if entry.name.endswith((".json", ".yaml", LINES, PACKED))]
    for entry in (*tops, *entries_of(folder / CONVERSATIONS), *entries_of(folder / TOKENS)):
        if not entry.name.startswith("."):
            with contextlib.suppress(OSError):
                yield entry, entry.stat()


def _newest_change(folder: Path) -> str | None:
    times = [found.st_mtime for entry, found in _line_files(folder) if not entry.name.startswith(BY_PEOPLE)]
    if not times:
        return None
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metrics:
    """What the first and the newest lines of metrics.jsonl say."""

    steps: int = 0  # updates made
    reward: tuple[float, float] | None = None


def _once(
    known: dict[str, tuple[tuple[int, int], Found]], path: Path, read: Callable[[BinaryIO, int], Found]
) -> Found | None:
    """Return what a file says, given its size; None: it cannot be read.  It is read anew once it has changed."""
    try:
        if not path.is_file():  # a pipe would never end
            return None
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            state = status.st_ino, status.st_size
            if known.get(str(path), (None,))[0] != state:
                known[str(path)] = state, read(file, status.st_size)
    except OSError:
        return None
    return known[str(path)][1]


def _metrics_of(file: BinaryIO, size: int) -> _Metrics:
    first = next(
        (reward for line in _records(_whole_lines(file.read(END_BYTES))) if (reward := _reward(line)) is not None), None
    )
    file.seek(max(0, size - END_BYTES))
    newest = list(itertools.islice(_records(reversed(_whole_lines(file.read(END_BYTES)))), NUM_NEWEST))
    steps = next((line["step"] + 1 for line in newest if type(line.get("step")) is int), 0)
    last = next((reward for line in newest if (reward := _reward(line)) is not None), None)
    return _Metrics(steps=steps, reward=None if first is None or last is None else (first, last))


def _alarms_begun(file: BinaryIO, size: int) -> int:
    return sum(line.get("state") == "began" for line in _records(_whole_lines(file.read(size))))


def _whole_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def _records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the records of the lines that can be read."""
    for line in lines:
        with contextlib.suppress(RecordError):
            yield json_from_line(line)


def _reward(line: dict[str, Any]) -> float | None:
    value = line.get(REWARD)
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > LARGEST:
        return None
    return float(value)


def _num_lines(path: str, *, start: int, end: int) -> int:
    """Count line breaks from a place in a file to another, or in all that a packed one holds."""
    if path.endswith(PACKED):
        with gzip.open(path) as packed:
            return sum(1 for _ in packed)
    lines = 0
    with open(path, "rb") as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(CHUNK_BYTES, end - start))):
            lines += chunk.count(b"\n")
            start += len(chunk)
    return lines
