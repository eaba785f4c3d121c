"""Files and folders that are there whole or not at all, also after the power failed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from selfplay.errors import UserError

__all__ = ["reason", "sync", "write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a reader sees the old content or the new; UserError: it cannot be written."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {reason(error)}") from error
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on the disk; OSError: it never will be."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: BaseException) -> str:
    """Return what went wrong, without the path: messages here name it themselves."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")
