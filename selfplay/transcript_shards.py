"""The files of lines in a run folder, as an index sees them."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from selfplay.preferences import PREFERENCES
from selfplay.run_folder import ANNOTATIONS, CONVERSATIONS, TOKENS

__all__ = ["SEALED", "Lines", "Shard", "open_lines", "shards"]

MOST_UNPACKED_BYTES = 64_000_000
SEALED = b"\0sealed "


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A file of lines that there is now."""

    name: str  # within the run's folder
    inode: int
    size: int
    modified: int  # nanoseconds

    @property
    def kind(self) -> str:
        """Whose lines it holds: CONVERSATIONS, TOKENS, ANNOTATIONS or PREFERENCES."""
        folder = self.name.partition("/")[0]
        return folder if "/" in self.name else (PREFERENCES if folder == PREFERENCES else ANNOTATIONS)

    @property
    def is_packed(self) -> bool:
        """Whether it is compressed, and therefore does not grow."""
        return self.name.endswith(".gz")

    @property
    def seal(self) -> bytes:
        """What tells a packed file that was read to its end from one that replaced it."""
        return SEALED + f"{self.size} {self.modified}".encode()


def shards(folder: Path) -> list[Shard]:
    """Return the files that an index reads: conversations first, for the rest is about them."""
    found = []
    for place in (CONVERSATIONS, TOKENS, ""):
        try:
            entries = sorted(os.scandir(folder / place), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if not (_is_shard(entry.name) if place else _is_file_of_the_run(entry.name)):
                continue
            with contextlib.suppress(OSError):
                is_ = entry.stat()
                if not stat.S_ISREG(is_.st_mode):
                    continue  # whoever opens a pipe waits for ever
                name = f"{place}/{entry.name}" if place else entry.name
                found.append(Shard(name=name, inode=is_.st_ino, size=is_.st_size, modified=is_.st_mtime_ns))
    return found


def open_lines(path: Path) -> BinaryIO:
    """Open a file of lines, packed or not; its offsets are those of the unpacked file."""
    return cast("BinaryIO", gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


class Lines:
    """Lines of a run's files by their places, for any number of threads.

    The packed file that was read last stays unpacked, unless it is large: to unpack it for each line takes seconds.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unpacked: tuple[object, bytes] = (None, b"")  # which file, and what is in it

    def read(self, name: str, offsets: Iterable[int]) -> Iterator[bytes]:
        """Yield the lines at ascending offsets of one file; raises what reading a damaged file does."""
        with self._open(self._folder / name) as file:
            for offset in offsets:
                file.seek(offset)
                yield file.readline()

    def _open(self, path: Path) -> BinaryIO:
        if path.suffix != ".gz":
            return open_lines(path)
        found = path.stat()
        known = (path.name, path.parent.name, found.st_ino, found.st_size, found.st_mtime_ns)
        # One look: another thread may replace both at any time.
        which, content = self._unpacked
        if which != known:
            with open_lines(path) as file:
                content = file.read(MOST_UNPACKED_BYTES + 1)
            if len(content) > MOST_UNPACKED_BYTES:
                return open_lines(path)
            self._unpacked = (known, content)
        return io.BytesIO(content)


def _is_shard(name: str) -> bool:
    return name.endswith((".jsonl", ".jsonl.gz")) and not name.startswith(".")


def _is_file_of_the_run(name: str) -> bool:
    return name in (f"{ANNOTATIONS}.jsonl", f"{ANNOTATIONS}.jsonl.gz", PREFERENCES)
