"""Going back to a checkpoint: what a run wrote after it moves into a folder of its own, nothing is lost.

runs/NAME/aside/20261122-081941-120/conversations/train-000.jsonl  metrics.jsonl  checkpoints/000040/ ...
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from selfplay import checkpoint
from selfplay.line_files import RecordError, json_from_line
from selfplay.run_folder import ALARMS, ANNOTATIONS, ASIDE, CONVERSATIONS, ID, METRICS, TOKENS, now
from selfplay.whole_files import sync

__all__ = ["set_aside"]

IsLater = Callable[[dict[str, Any]], bool]
EVALUATION = "e"  # the letter in the ids of evaluation conversations


def set_aside(folder: Path, *, version: int) -> Path | None:
    """Move what a run wrote after a version's checkpoint aside, half-written last lines too; return where it went.

    Training steps from the version on, evaluations of later versions, and all that was recorded of them.  Interrupted,
    it may leave a line in both places, never in none; doing it again finishes it.  None: there was nothing to move.
    """
    place = folder / ASIDE / now().replace("T", "-").replace(".", "-").replace(":", "").rstrip("Z")
    # First: a later checkpoint without its lines would be gone on from.
    for kind in (checkpoint.CHECKPOINTS, checkpoint.LEAGUE):
        checkpoint.set_aside(folder, version=version, folder=place / kind, place=kind)
    for path, is_later in _files(folder, version):
        _split(path, place / path.relative_to(folder), is_later)
    return place if place.exists() else None


def _files(folder: Path, version: int) -> Iterator[tuple[Path, IsLater]]:
    def later_conversation(key: str) -> IsLater:
        return lambda record: _is_later(record.get(key), version)

    def later_step(record: dict[str, Any]) -> bool:
        step = record.get("step")
        return isinstance(step, int) and step >= version

    patterns: list[tuple[str, IsLater]] = [
        (f"{CONVERSATIONS}/*.jsonl*", later_conversation("id")),
        (f"{TOKENS}/*.jsonl*", later_conversation("conversation")),
        (f"{ANNOTATIONS}.jsonl*", later_conversation("conversation")),
        (f"{METRICS}.jsonl*", later_step),
        (f"{ALARMS}.jsonl*", later_step),
    ]
    for pattern, is_later in patterns:
        for path in sorted(folder.glob(pattern)):
            yield path, is_later


def _is_later(id: object, version: int) -> bool:
    parts = ID.fullmatch(id) if isinstance(id, str) else None
    if parts is None:
        return False
    step = int(parts[1])
    return step > version if parts[2] == EVALUATION else step >= version


def _split(path: Path, aside: Path, is_later: IsLater) -> None:
    if not any(_goes(line, is_later) for line in _lines(path)):
        return
    kept = path.with_name(f".{path.name}.draft")
    aside.parent.mkdir(parents=True, exist_ok=True)
    with _open(kept, path.suffix, "wb") as staying, _open(aside, path.suffix, "wb") as going:
        for line in _lines(path):
            (going if _goes(line, is_later) else staying).write(line)
    for written in (aside, aside.parent, kept):
        sync(written)
    os.replace(kept, path)
    sync(path.parent)


def _lines(path: Path) -> Iterator[bytes]:
    with _open(path, path.suffix, "rb") as file:
        yield from file


def _goes(line: bytes, is_later: IsLater) -> bool:
    if not line.endswith(b"\n"):
        return True
    try:
        return is_later(json_from_line(line))
    except RecordError:
        return False


def _open(path: Path, suffix: str, mode: str) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, mode) if suffix == ".gz" else path.open(mode))
