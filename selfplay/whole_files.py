"""Files and folders that are there whole or not at all, also after the power failed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from selfplay.errors import UserError

__all__ = ["is_of_the_system", "reason", "sync", "write_whole"]

# How libraries that write files by themselves report what the system refused: safetensors, then torch.
SYSTEM_ERRORS = ("os error", "I/O error", "inline_container")


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


def is_of_the_system(error: BaseException) -> bool:
    """Whether the disk is at fault: full, unwritable, gone."""
    by_library = isinstance(error, Exception) and any(sign in str(error) for sign in SYSTEM_ERRORS)
    return isinstance(error, OSError) or (by_library and not isinstance(error, UserError))


def reason(error: BaseException) -> str:
    """Return what went wrong, without the path: messages here name it themselves."""
    if "inline_container" in str(error):  # torch's file writer says where in its code it failed, and not why
        return "the disk is full, or cannot be written"
    return str(getattr(error, "strerror", None) or error).rstrip(".")
