"""Who writes a run folder: a lock that the system drops when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import weakref
from pathlib import Path

from selfplay.errors import UserError

try:
    import fcntl
except ImportError:  # no POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

__all__ = ["RunLock", "is_being_written"]

LOCK = "writer.lock"
NUM_TRIES, TRY_SECONDS = 10, 0.02  # a reader that looks holds the lock for an instant


class RunLock:
    """The right to write a run folder; `take` gets it, `release` gives it back."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        # Who forgets to release it gives it back with the object.
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def take(cls, folder: Path) -> RunLock:
        """Take the lock: raises UserError if a living process holds it, OSError if the folder cannot be written."""
        path = folder / LOCK
        for _ in range(NUM_TRIES):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if _try_lock(descriptor) and _is_at(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode("ascii"))
                return cls(path, descriptor)
            os.close(descriptor)
            time.sleep(TRY_SECONDS)
        raise UserError(f"run {folder} is being written by {_holder(path)}; wait for it, or stop it")

    def release(self) -> None:
        """Give the lock back; doing it again does nothing."""
        if self._close.alive:
            # While it is held: afterwards the file may be another's.
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._close()


def is_being_written(folder: Path) -> bool:
    """Whether a living process writes this run folder; True too where that cannot be found out."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not _try_lock(descriptor, is_shared=True)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Whether the lock could be had; a file system without locks gives it to everybody."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at the path, and not one that its last holder removed."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        record = json.loads(path.read_bytes())
        return f"process {int(record['pid'])} on {record['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
