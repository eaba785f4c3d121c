"""The runs that the server shows: found by name, opened when somebody looks, closed when others are looked at."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from selfplay.run_folder import CONVERSATIONS, SOURCES, TOKENIZERS, TOKENS, is_run
from selfplay.run_lock import LOCK
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
READ_NAMES = (*READ_FOLDERS, LOCK)
PATIENCE_SECONDS = 2.0  # what is new in most runs is indexed long before; who asks for others sees what there is so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look for new lines, in a thread of its own."""

    number: int
    started: float = field(default_factory=time.monotonic)
    done: Future[None] = field(default_factory=Future)


class OpenRun:
    """One run folder with its index, for many threads."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._index: TranscriptIndex | None = None
        self._opening = threading.Lock()
        self._look: Look | None = None  # the newest
        self._looking = threading.Lock()
        self._reader = RunReader(folder)  # not for two threads at once
        self._lock = threading.Lock()

    @property
    def index(self) -> TranscriptIndex:
        """Its index, opened once somebody asks for it: that waits for a process that writes the file."""
        with self._opening:
            if self._index is None:
                self._index = TranscriptIndex(self.folder)
            return self._index

    @property
    def is_indexing(self) -> bool:
        """Whether lines are being read for so long that nobody waits for them any more."""
        look = self._look
        return look is not None and not look.done.done() and time.monotonic() >= look.started + PATIENCE_SECONDS

    def refresh(self, *, waits: bool = False) -> bool:
        """Read what is new; return whether the index knows all that was there when this was asked.

        Where that takes long, it goes on without who asked, unless that one waits.
        """
        wanted: int | None = None
        while True:
            look, is_own = self._newest_look()
            if wanted is None:
                # One that began earlier may have passed by the newest lines.
                wanted = look.number if is_own else look.number + 1
            left = None if waits else max(0.0, look.started + PATIENCE_SECONDS - time.monotonic())
            wait([look.done], left)
            if not look.done.done():
                return False
            look.done.result()
            if look.number >= wanted:
                return True

    def _newest_look(self) -> tuple[Look, bool]:
        """Return the look that goes on, or a new one, and whether it is new."""
        with self._looking:
            if self._look is not None and not self._look.done.done():
                return self._look, False
            self._look = Look(number=self._look.number + 1 if self._look else 0)
            # The server's end does not wait for it: what it has not written yet is read at the next start.
            threading.Thread(target=self._read_new_lines, args=(self._look,), daemon=True).start()
            return self._look, True

    def _read_new_lines(self, look: Look) -> None:
        try:
            self.index.refresh()
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            look.done.set_exception(error)
        else:
            look.done.set_result(None)

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
        folders = {name: folder for name, folder in self.folders().items() if why_not_shown(folder) is None}
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
        problem = why_not_shown(folder)
        if problem is not None:
            raise RequestError(f"run {name!r} is not shown: its {problem}", status=403)
        return folder

    def open(self, name: str) -> OpenRun:
        """Return a run, whatever its index knows: raises RequestError as `folder` does, or if it cannot be read."""
        return self._opened(name, self.folder(name))

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


def why_not_shown(folder: Path) -> str | None:
    """Return which file a reader would follow out of the run, or wait at for ever, in words; None: there is none."""
    inside = folder.resolve()
    entries = [entry for entry in entries_of(folder) if entry.name.endswith(READ_ENDINGS) or entry.name in READ_NAMES]
    for name in READ_FOLDERS:
        entries += entries_of(folder / name)
    for entry in entries:
        name = os.path.relpath(entry.path, folder)
        if entry.is_symlink() and not is_inside(Path(entry.path), inside):
            return f"{name} is a link that leads outside of it"
        if not _is_file_or_folder(entry):
            return f"{name} is neither a file nor a folder"
    return None


def _is_file_or_folder(entry: os.DirEntry[str]) -> bool:
    try:
        mode = entry.stat().st_mode
    except OSError:
        # It was removed meanwhile, or cannot be opened either.
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


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
