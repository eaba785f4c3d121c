"""What a run folder tells at a glance, while it is written: how far it is, and when its newest line was written."""

from __future__ import annotations

import contextlib
import gzip
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from selfplay.line_files import RecordError, json_from_line
from selfplay.run_folder import ANNOTATIONS, CONVERSATIONS, METRICS, TOKENS, is_run
from selfplay.run_reader import RunReader

__all__ = ["RunState", "StateReader", "entries_of", "signature_of"]

Signature = tuple[tuple[str, int, int], ...]

TAIL_BYTES = 256 * 1024  # of metrics.jsonl: more than its last line
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

    @property
    def is_live(self) -> bool:
        """Whether a living process writes the run."""
        return self.status == "running"


class StateReader:
    """Reads the states of runs, for many threads; lines that were counted once are not counted again."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[int, int, int]] = {}  # file -> inode, bytes counted, lines in them
        self._lock = threading.Lock()

    def read(self, folder: Path) -> RunState:
        """Return what a run's folder says now."""
        reader = RunReader(folder)
        status, counts = reader.status, reader.manifest.get("counts")
        known = counts.get("conversations") if isinstance(counts, dict) else None
        # The counts of a run that goes on, or was killed, are old.
        is_known = isinstance(known, int) and status not in ("running", "killed")
        return RunState(
            status=status,
            since=_newest_change(folder),
            conversations=int(known or 0) if is_known else self._count_lines(folder / CONVERSATIONS),
            step=_steps_made(folder),
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


def _steps_made(folder: Path) -> int:
    """Return how many updates there were when the newest line of metrics.jsonl was written."""
    try:
        with (folder / f"{METRICS}{LINES}").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(RecordError):
            step = json_from_line(line).get("step")
            if type(step) is int:
                return step + 1
    return 0


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
