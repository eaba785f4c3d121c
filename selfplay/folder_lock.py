"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from selfplay.errors import UserError

__all__ = ["alone_in"]


@contextmanager
def alone_in(folder: Path, *, what: str) -> Iterator[None]:
    """Hold a folder, made if need be; what: what it holds, for the message, such as "this study".

    Raises UserError if another process holds it.  The system lets go when the holder dies, however it dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(f"out={folder}: another process works on {what}") from error
    try:
        yield
    finally:
        lock.release()
