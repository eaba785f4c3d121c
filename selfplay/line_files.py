"""Files of JSON lines: they grow by whole lines, and an index knows where the last good line of each id stands.

A line is bytes up to a line break and nothing else separates lines, so text may hold any other separator.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from selfplay.errors import UserError

__all__ = ["LineFile", "LineIndex", "RecordError", "json_from_line", "line_from_json"]

# What is left of a line without its digits: a positive exponent is " e " or "-e ".
EXPONENTS, ZEROS = bytes.maketrans(b"E,:[]{}\t\r\n", b"e" + b" " * 9), bytes.maketrans(b"123456789", b"0" * 9)
MANY_DIGITS = b"0" * 300


class RecordError(UserError):
    """A stored record, or a value that should be stored, is not what its schema says."""


def line_from_json(record: Mapping[str, Any]) -> bytes:
    """Return a record as one line of ASCII, its line break included."""
    return json.dumps(record, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


def json_from_line(line: bytes) -> dict[str, Any]:
    """Return the record of one line; NaN and infinity, which other writers may use, become null, as does 1e999.

    Raises RecordError if the line is not a JSON object.
    """
    try:
        parse_float = _finite if _may_overflow(line) else None
        record = json.loads(line.decode("utf-8"), parse_constant=lambda _: None, parse_float=parse_float)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise RecordError("not a JSON object")
    return record


def _may_overflow(line: bytes) -> bool:
    """Whether a number may be too large for a float; to look at each as it is parsed takes twice as long as parsing."""
    bare = line.translate(EXPONENTS, b"0123456789.+")
    has_many_digits = len(line) - len(bare) >= len(MANY_DIGITS) and MANY_DIGITS in line.translate(ZEROS)
    return has_many_digits or b" e " in bare or b"-e " in bare


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


class LineFile:
    """A file that grows by whole lines."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def append(self, line: bytes) -> None:
        """Add one line; after an OSError, such as a full disk, the file is as it was."""
        start = os.fstat(self._file.fileno()).st_size
        rest = line
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            # Half a line would swallow the next one.
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a line stands."""

    path: Path
    number: int  # of the line, from 1
    offset: int  # in bytes, of the unpacked file


class LineIndex:
    """Where the last good line of each id stands, over the .jsonl and .jsonl.gz files of a folder.

    `refresh` reads only what was added since the last time, so a file may grow meanwhile.  One that was replaced, as
    when a run goes back to a checkpoint, makes it read everything anew.
    """

    def __init__(self, folder: Path, *, identify: Callable[[dict[str, Any]], str], stem: str = "*") -> None:
        self.places: dict[str, Place] = {}  # id -> its last good line
        self._folder = folder
        self._identify = identify  # record -> id; RecordError: not a good line
        self._stem = stem  # pattern of the files' names, without the suffix
        self._identities: dict[Path, int] = {}  # file -> what tells it from one that replaced it
        self._next: dict[Path, Place] = {}  # file -> where the next line begins
        self._skipped: dict[str, None] = {}  # problems that stay, each once, in order
        self._unfinished: list[str] = []  # problems that may be gone at the next look
        self._unpacked: tuple[Path, bytes] = (Path(), b"")  # the compressed file read last

    @property
    def problems(self) -> list[str]:
        """One line for each thing skipped, with file and line number."""
        return [*self._skipped, *self._unfinished]

    def report(self, problem: str) -> None:
        """Add a problem; saying it twice adds nothing."""
        self._skipped[problem] = None

    def refresh(self) -> None:
        """Index the lines that are new."""
        self._unfinished.clear()
        paths = sorted((*self._folder.glob(f"{self._stem}.jsonl"), *self._folder.glob(f"{self._stem}.jsonl.gz")))
        self._forget_replaced(paths)
        for path in paths:
            # A compressed file is sealed: it does not grow.
            if path.suffix == ".jsonl" or path not in self._next:
                self._read_new_lines(path)

    def load(self, id: str) -> dict[str, Any] | None:
        """Return the record of an id; None: there is none, or it can no longer be read."""
        place = self.places.get(id)
        if place is None:
            return None
        try:
            with self._open(place.path) as file:
                file.seek(place.offset)
                return json_from_line(file.readline())
        except (OSError, EOFError, zlib.error, RecordError) as error:
            self.report(f"{self._label(place)}: {error}")
            return None

    def _forget_replaced(self, paths: Sequence[Path]) -> None:
        identities: dict[Path, int] = {}
        for path in paths:
            with contextlib.suppress(OSError):
                identities[path] = path.stat().st_ino
        if any(identities.get(path, known) != known for path, known in self._identities.items()):
            for seen in (self.places, self._next, self._skipped):
                seen.clear()
            self._unpacked = (Path(), b"")
        self._identities |= identities

    def _read_new_lines(self, path: Path) -> None:
        here = self._next.get(path, Place(path=path, number=1, offset=0))
        try:
            with self._open(path) as file:
                file.seek(here.offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        self._unfinished.append(f"{self._label(here)}: the last line is incomplete, skipped")
                        break
                    self._read_line(line, here)
                    here = Place(path=path, number=here.number + 1, offset=here.offset + len(line))
        except (OSError, EOFError, zlib.error) as error:
            self._unfinished.append(f"{self._folder.name}/{path.name}: {error}, skipped")
            return
        self._next[path] = here

    def _read_line(self, line: bytes, place: Place) -> None:
        if not line.strip():
            return
        try:
            id = self._identify(json_from_line(line))
        except RecordError as error:
            self.report(f"{self._label(place)}: {error}, skipped")
            return
        known = self.places.get(id)
        # Of several files the last one counts, whichever of them grew last.
        if known is None or known.path <= place.path:
            self.places[id] = place

    def _open(self, path: Path) -> BinaryIO:
        if path.suffix != ".gz":
            return path.open("rb")
        if self._unpacked[0] != path:
            self._unpacked = (path, gzip.decompress(path.read_bytes()))
        return io.BytesIO(self._unpacked[1])

    def _label(self, place: Place) -> str:
        return f"{self._folder.name}/{place.path.name}:{place.number}"
