"""The file of a run's index, opened: replaced where it is broken, elsewhere where the run cannot be written."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from selfplay.errors import UserError
from selfplay.transcript_indexing import Indexing
from selfplay.transcript_shards import shards
from selfplay.transcript_tables import FILE, connect, create, identity, is_current, remove, transaction
from selfplay.whole_files import reason

__all__ = ["IndexFile"]

T = TypeVar("T")


class IndexFile:
    """An index that any number of threads may ask, while one of them reads new lines into it."""

    def __init__(self, folder: Path, *, file: Path) -> None:
        self.notes: dict[str, None] = {}  # what went wrong with the file itself
        self._folder = folder
        self._file = file
        self._temporary: Callable[[], object] | None = None  # removes the folder of a temporary file
        self._reading, self._writing = threading.RLock(), threading.RLock()  # taken in the order: writing, reading
        self._seen: object = None  # the files as they were last time
        self._num_opened = 0
        self._open()

    @property
    def unfinished(self) -> list[str]:
        """Problems of lines that may be gone at the next look."""
        return list(self._indexing.unfinished)

    def close(self) -> None:
        """Close the file; nothing can be asked afterwards."""
        with self._writing, self._reading:
            self._close()
            if self._temporary is not None:
                self._temporary()

    def refresh(self) -> bool:
        """Read new lines; return whether anything has changed.  Where nothing has, it only looks at the files."""
        with self._writing:
            found, now = shards(self._folder), identity(self._file)
            if (found, now) == self._seen:
                return False
            if now != self._identity:
                self._reopen()
            is_changed = self._read()
            # What could not be read, as when the disk is full, is tried again.
            self._seen = None if is_changed is None else (found, self._identity)
            return bool(is_changed) or now != self._identity

    def ask(self, read: Callable[[], T]) -> T:
        """Return what is read, by `rows`, from one state of the index; a broken file is built again first."""
        try:
            return self._ask(read)
        except sqlite3.DatabaseError as error:
            if not _is_broken(error):
                raise UserError(f"the index of {self._folder} cannot be read: {error}") from error
        self._replace()
        return self._ask(read)

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """Return the rows of a query, within `ask`."""
        return self._reader.execute(sql, parameters).fetchall()

    def version(self) -> tuple[int, int]:
        """Return what changes whenever anybody writes, within `ask`."""
        # The first look at a table takes the state that the transaction stays with.
        self.rows("SELECT 1 FROM files LIMIT 1")
        return self._num_opened, int(self.rows("PRAGMA data_version")[0][0])

    def _ask(self, read: Callable[[], T]) -> T:
        with self._reading:
            is_outer = not self._reader.in_transaction
            if is_outer:
                self._reader.execute("BEGIN")
            try:
                return read()
            finally:
                if is_outer:
                    with contextlib.suppress(sqlite3.Error):
                        self._reader.execute("COMMIT")

    def _open(self) -> None:
        try:
            self._open_file()
        except (sqlite3.Error, OSError) as error:
            if self._temporary is not None:
                raise UserError(f"no index of {self._folder} can be made: {reason(error)}") from error
            self.notes[f"{self._file.name} cannot be used: {reason(error)}; the index lies in a temporary file"] = None
            folder = Path(tempfile.mkdtemp(prefix="selfplay-index-"))
            self._temporary = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._file = folder / FILE
            self._open_file()

    def _open_file(self) -> None:
        """Open the file twice, for pages are read while lines are indexed."""
        try:
            self._writer = _connect_current(self._file)
        except sqlite3.DatabaseError as error:
            if not _is_broken(error):
                raise
            remove(self._file)
            self._writer = _connect_current(self._file)
        self._reader = connect(self._file)
        self._reader.execute("PRAGMA query_only = ON")
        self._identity = identity(self._file)
        self._indexing = Indexing(self._folder, self._writer)
        self._num_opened += 1

    def _close(self) -> None:
        for connection in (self._writer, self._reader):
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _reopen(self) -> None:
        """Open the file that has taken this one's place, or a new one."""
        with self._reading:
            self._close()
            if identity(self._file) is None:
                remove(self._file)  # what SQLite kept beside it
            self._open()

    def _replace(self) -> None:
        """Build the index again, for its file is broken."""
        with self._writing:
            with self._reading:
                self._close()
                remove(self._file)
                self._open()
            self._seen = None
            self.refresh()

    def _read(self) -> bool | None:
        """Return whether there was anything new; None: it could not be written."""
        try:
            return self._indexing.read()
        except sqlite3.DatabaseError as error:
            if not _is_broken(error):
                self.notes[f"{self._file.name}: {error}"] = None
                return None
        with self._reading:
            self._close()
            remove(self._file)
            self._open()
        self._indexing.read()
        return True


def _connect_current(file: Path) -> sqlite3.Connection:
    connection = connect(file)
    try:
        # Also where there is nothing to make: this shows whether the file can be written.
        with transaction(connection):
            if not is_current(connection):
                create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_broken(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, or no index at all; subclasses say that something else went wrong."""
    return type(error) is sqlite3.DatabaseError
