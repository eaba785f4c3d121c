"""The runs that the server shows: found by name, opened when somebody looks, closed when others are looked at."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from selfplay.run_folder import CONVERSATIONS, SOURCES, TOKENIZERS, TOKENS, is_run
from selfplay.run_reader import RunReader
from selfplay.transcript_index import TranscriptIndex
from selfplay.view.run_state import entries_of
from selfplay.view.safety import RequestError
from selfplay.whole_files import reason

__all__ = ["OpenRun", "Runs"]

MOST_OPEN = 4  # runs whose indexes are kept open
# What a reader follows inside a run: top-level files by their endings, and folders one level deep.
READ_ENDINGS = (".json", ".jsonl", ".jsonl.gz", ".yaml", ".sqlite", ".sqlite-wal", ".sqlite-shm")
READ_FOLDERS = (CONVERSATIONS, TOKENS, SOURCES, TOKENIZERS)


class OpenRun:
    """One run folder with its index, for many threads."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.index = TranscriptIndex(folder)
        self._reader = RunReader(folder)  # not for two threads at once
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def reading(self) -> Iterator[RunReader]:
        """Lend the run's reader to one thread."""
        with self._lock:
            yield self._reader


class Runs:
    """Every run folder of the runs folder, and those that were named besides.

    A run is found by comparing its name with those that are there: what a request says is never made part of a path.
    """

    def __init__(self, runs: Path, folders: Sequence[Path] = ()) -> None:
        self._runs = runs
        self._named = [folder.absolute() for folder in folders]
        self._found: dict[str, Path] = {}  # as `folders` said last
        self._open: OrderedDict[tuple[str, int, int], OpenRun] = OrderedDict()
        self._lock = threading.Lock()

    def folders(self) -> dict[str, Path]:
        """Return name -> folder: first those that were named, then the runs folder's, in the order of their names."""
        found: dict[str, Path] = {}
        seen: set[Path] = set()
        for folder in (*self._named, *self._listed()):
            place = folder.resolve()
            if place not in seen and is_run(folder):
                seen.add(place)
                found[_new_name(_shown_name(place.name), found)] = folder
        return found

    def shown(self) -> dict[str, Path]:
        """Return name -> folder as people look for them: first those that were named, then the newest first."""
        folders = {name: folder for name, folder in self.folders().items() if link_outside(folder) is None}
        named = [name for name, folder in folders.items() if folder in self._named]
        others = sorted(folders.keys() - named, key=lambda name: (_created_at(folders[name]), name), reverse=True)
        return {name: folders[name] for name in (*named, *others)}

    def newest(self) -> str | None:
        """Return the run to open with: the first that was named, else the one created last; None: there is none."""
        return next(iter(self.shown()), None)

    def folder(self, name: str) -> Path:
        """Return the folder of a run: raises RequestError if there is none of that name, or it may not be served."""
        folder = self._find(name)
        if folder is None:
            raise RequestError(f"there is no run {name!r} here", status=404)
        link = link_outside(folder)
        if link is not None:
            raise RequestError(f"run {name!r} is not shown: its {link} is a link that leads outside of it", status=403)
        return folder

    def open(self, name: str) -> OpenRun:
        """Return a run with what is new in it: raises RequestError as `folder` does, or if it cannot be read."""
        folder = self.folder(name)
        run = self._opened(name, folder)
        run.index.refresh()
        return run

    def _find(self, name: str) -> Path | None:
        folder = self._found.get(name)
        # Looking at all the others takes long where there are very many.
        if folder is not None and is_run(folder) and (folder in self._named or is_inside(folder, folder.parent)):
            return folder
        self._found = self.folders()
        return self._found.get(name)

    def _opened(self, name: str, folder: Path) -> OpenRun:
        try:
            status = folder.stat()
        except OSError as error:
            raise RequestError(f"run {name!r} cannot be read: {reason(error)}", status=404) from error
        # A folder that was replaced is another run.
        key = (name, status.st_dev, status.st_ino)
        with self._lock:
            if key not in self._open:
                self._open[key] = OpenRun(name, folder)
            self._open.move_to_end(key)
            while len(self._open) > MOST_OPEN:
                # Who still uses it keeps it alive.
                self._open.popitem(last=False)
            return self._open[key]

    def _listed(self) -> list[Path]:
        try:
            inside = self._runs.resolve(strict=True)
            names = sorted(os.listdir(inside))
        except OSError:
            return []
        return [folder for folder in (inside / name for name in names) if is_inside(folder, inside)]


def link_outside(folder: Path) -> str | None:
    """Return the name of a file that a reader would follow out of the run; None: there is none."""
    inside = folder.resolve()
    entries = [entry for entry in entries_of(folder) if entry.name.endswith(READ_ENDINGS) or entry.name in READ_FOLDERS]
    for name in READ_FOLDERS:
        entries += entries_of(folder / name)
    for entry in entries:
        if entry.is_symlink() and not is_inside(Path(entry.path), inside):
            return os.path.relpath(entry.path, folder)
    return None


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder once all links are followed; the folder has none itself."""
    try:
        return path.resolve(strict=True).is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):
        return False


def _shown_name(name: str) -> str:
    """Return a folder's name as an address can hold it."""
    return name.encode("utf-8", "replace").decode("utf-8") or "run"


def _new_name(name: str, taken: Container[str]) -> str:
    candidates = itertools.chain([name], (f"{name}~{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _created_at(folder: Path) -> str:
    return str(RunReader(folder).manifest.get("created_at") or "")
