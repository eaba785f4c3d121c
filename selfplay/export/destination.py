"""Where an export goes: there whole or not at all, and never over something else."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selfplay.errors import UserError
from selfplay.whole_files import reason

__all__ = ["new_file", "new_folder"]


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Lend a draft that becomes the file when all went well; raises UserError if that exists, or cannot be written."""
    with _draft(path) as draft:
        yield draft


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As `new_file`, of a folder, which is lent empty."""
    with _draft(path) as draft:
        draft.mkdir()
        yield draft


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    _check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))
        try:
            draft = place / path.name
            yield draft
            # Somebody else may have written it meanwhile.
            _check_free(path)
            draft.replace(path)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; nothing was written") from error


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"{path} exists already; remove it, or choose another: out=PATH")
