"""The files of lines in a run folder, as an index sees them."""

from __future__ import annotations

import contextlib
import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from selfplay.preferences import PREFERENCES
from selfplay.run_folder import ANNOTATIONS, CONVERSATIONS, TOKENS

__all__ = ["SEALED", "Shard", "open_lines", "shards"]

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
                name = f"{place}/{entry.name}" if place else entry.name
                found.append(Shard(name=name, inode=is_.st_ino, size=is_.st_size, modified=is_.st_mtime_ns))
    return found


def open_lines(path: Path) -> BinaryIO:
    """Open a file of lines, packed or not; its offsets are those of the unpacked file."""
    return cast("BinaryIO", gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def _is_shard(name: str) -> bool:
    return name.endswith((".jsonl", ".jsonl.gz")) and not name.startswith(".")


def _is_file_of_the_run(name: str) -> bool:
    return name in (f"{ANNOTATIONS}.jsonl", f"{ANNOTATIONS}.jsonl.gz", PREFERENCES)
