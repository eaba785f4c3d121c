"""Checkpoints of a run: folders that are there whole or not at all, and a pointer to the newest.

    runs/NAME/checkpoints/000030/  checkpoint.json  (what fill wrote: model.safetensors, training.pt, ...)
                          latest.json
              league/000010/       the same for a policy that others meet: without what going on needs

A folder's name is its version, the number of updates made.  A checkpoint is filled under a name that begins with a dot
and renamed in one step, so whatever interrupts it, the one before still loads.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selfplay import __version__
from selfplay.errors import UserError
from selfplay.line_files import RecordError, json_from_line
from selfplay.whole_files import is_of_the_system, reason, sync, write_whole

__all__ = ["Checkpoint", "check", "find", "name_of", "newest", "set_aside", "version_of", "versions", "write"]

logger = logging.getLogger(__name__)

CHECKPOINT_SCHEMA = "selfplay.checkpoint/1"
LATEST_SCHEMA = "selfplay.latest/1"
CHECKPOINTS, RECORD, LATEST = "checkpoints", "checkpoint.json", "latest.json"
LEAGUE = "league"  # the folder of a run's past policies, which others meet and nobody goes on from
UNFINISHED, REPLACED, REMOVED = "unfinished", "replaced", "removed"  # the endings of names that begin with a dot
NAME = re.compile(rf"([0-9]{{6,12}})|\.([0-9]{{6,12}})\.{REPLACED}")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says of itself.

    Example: ``Checkpoint(folder=Path("runs/a/checkpoints/000030"), version=30, run="a", info={"method": "lora"})``
    """

    folder: Path
    version: int  # updates made before it
    run: str  # name of the run that wrote it
    info: Mapping[str, Any] = field(default_factory=dict)  # JSON values of whoever wrote it


# ----- writing -----


def write(
    run: Path,
    version: int,
    fill: Callable[[Path], None],
    *,
    info: Mapping[str, Any] | None = None,
    keep: int | None = 2,
    place: str = CHECKPOINTS,
) -> Path:
    """Write a checkpoint of a run's folder, point to it, remove all but the `keep` newest; return its folder.

    fill: writes its files into an empty folder; info: JSON values to keep beside them; keep: None removes none;
    place: CHECKPOINTS, or LEAGUE.
    Raises UserError if the disk is full or cannot be written: the checkpoint before, and the pointer, stay.
    """
    home = run / place
    draft = _hidden(home, version, UNFINISHED)
    try:
        home.mkdir(exist_ok=True)
        _clean(home)
        draft.mkdir()
        fill(draft)
        _sync_lines(run)
        _seal(draft, run=run, version=version, info=info or {})
        target = _put_in_place(draft, home / name_of(version))
        _point_to(home, version)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not is_of_the_system(error):
            raise
        kept = newest(run, place=place)
        rest = "there is none before it" if kept is None else f"checkpoint {kept.name} is kept"
        raise UserError(
            f"checkpoint {name_of(version)} cannot be written to {home}: {reason(error)}; {rest}"
        ) from error
    if keep is not None:
        _prune(home, keep=keep, version=version)
    return target


def name_of(version: int) -> str:
    """Return the name of a version's folder: "000030"."""
    return f"{version:06d}"


def version_of(folder: Path) -> int:
    """Return the version that a checkpoint's folder is named after; ValueError: it has no such name."""
    match = NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder} is not named as a checkpoint, such as {name_of(30)}")
    return int(match[1] or match[2])


def _hidden(place: Path, version: int, ending: str) -> Path:
    return place / f".{name_of(version)}.{ending}"


def _sync_lines(run: Path) -> None:
    """What a run recorded before a checkpoint is on the disk when the checkpoint is."""
    for path in (*run.glob("*.jsonl"), *run.glob("*/*.jsonl")):
        sync(path)


def _seal(folder: Path, *, run: Path, version: int, info: Mapping[str, Any]) -> None:
    """Write what a checkpoint says of itself, and wait until all of it is on the disk."""
    files = {path.relative_to(folder).as_posix(): _measure(path) for path in _files(folder)}
    record = {
        "schema": CHECKPOINT_SCHEMA,
        "version": version,
        "run": run.resolve().name,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "package": __version__,
        "info": dict(info),
        "files": files,
    }
    write_whole(folder / RECORD, json.dumps(record, indent=2, allow_nan=False).encode("ascii") + b"\n")
    mode = (folder / RECORD).stat().st_mode
    for path in _files(folder):
        # Some libraries write private files; who may read the one may read the others.
        path.chmod(mode)
        sync(path)
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync(path)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _measure(path: Path) -> dict[str, Any]:
    size, checksum = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return {"bytes": size, "crc32": f"{checksum:08x}"}


def _put_in_place(draft: Path, target: Path) -> Path:
    replaced = _hidden(target.parent, int(target.name), REPLACED)
    if target.exists():
        target.rename(replaced)
    draft.rename(target)
    sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return target


def _point_to(place: Path, version: int) -> None:
    record = {"schema": LATEST_SCHEMA, "version": version, "folder": name_of(version)}
    write_whole(place / LATEST, json.dumps(record).encode("ascii") + b"\n")


def _prune(place: Path, *, keep: int, version: int) -> None:
    older = [other for other in sorted(_folders(place)) if other != version]
    for other in older[: max(0, len(older) + 1 - keep)]:
        # What is half removed must not look like a checkpoint.
        removed = _hidden(place, other, REMOVED)
        try:
            (place / name_of(other)).rename(removed)
        except OSError as error:
            logger.warning("checkpoint %s cannot be removed: %s", place / name_of(other), reason(error))
            continue
        shutil.rmtree(removed, ignore_errors=True)


def _clean(place: Path) -> None:
    """Remove what interrupted writes left; a checkpoint moved away for one that then never came is brought back."""
    for replaced in place.glob(f".*.{REPLACED}"):
        target = place / replaced.name.split(".")[1]
        if not target.exists():
            replaced.rename(target)
    for ending in (UNFINISHED, REPLACED, REMOVED):
        for leftover in place.glob(f".*.{ending}"):
            shutil.rmtree(leftover)


# ----- finding -----


def versions(run: Path, *, place: str = CHECKPOINTS) -> list[int]:
    """Return the versions of which a run has checkpoints, in order; whether they are whole is for `check` to say."""
    return sorted(_folders(run / place))


def _folders(place: Path) -> dict[int, Path]:
    """Return version -> its folder."""
    try:
        names = sorted(os.listdir(place))
    except OSError:
        return {}
    # What begins with a dot comes first: a folder that was moved away counts only while nothing stands in its place.
    folders = {version_of(place / name): place / name for name in names if NAME.fullmatch(name)}
    return {version: folder for version, folder in folders.items() if (folder / RECORD).is_file()}


def newest(run: Path, *, place: str = CHECKPOINTS) -> Path | None:
    """Return the folder of a run's latest checkpoint; None: it has none."""
    folders = _folders(run / place)
    if not folders:
        return None
    try:
        latest = json_from_line((run / place / LATEST).read_bytes()).get("version")
    except (OSError, RecordError):
        latest = None
    return folders[latest if latest in folders else max(folders)]


def find(run: Path, version: int | None = None) -> Path:
    """Return the folder of a version's checkpoint; None: of the latest.

    Raises UserError, with the versions there are, if there is none.
    """
    folders = _folders(run / CHECKPOINTS)
    folder = newest(run) if version is None else folders.get(version)
    if folder is not None:
        return folder
    if not folders:
        raise UserError(f"run {run} has no checkpoints; `train` writes one every checkpoints.save_every updates")
    raise UserError(f"run {run} has no checkpoint {version}; it has {', '.join(map(str, sorted(folders)))}")


def check(folder: Path, *, unread: Collection[str] = ()) -> Checkpoint:
    """Return what a checkpoint says of itself, after reading every file of it once.

    unread: large files that the caller has no use for; only their sizes are compared.
    Raises UserError, with the file's name, if it is partial, changed since, or no checkpoint.
    """
    record = _record(folder)
    files = record.get("files")
    version, info = record.get("version"), record.get("info")
    if not isinstance(files, dict) or type(version) is not int or not isinstance(info, dict):
        raise UserError(f"{folder} is no whole checkpoint: {RECORD} does not say which files belong to it")
    for name, expected in files.items():
        _check_file(folder, name, expected, is_read=name not in unread)
    return Checkpoint(folder=folder, version=version, run=str(record.get("run", "")), info=info)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json_from_line((folder / RECORD).read_bytes())
    except FileNotFoundError as error:
        what = "there is no such folder" if not folder.is_dir() else f"it has no {RECORD}"
        raise UserError(f"{folder} is no checkpoint: {what}") from error
    except (OSError, RecordError) as error:
        raise UserError(f"{folder} is no whole checkpoint: {RECORD} cannot be read: {reason(error)}") from error
    if record.get("schema") != CHECKPOINT_SCHEMA:
        raise UserError(
            f"{folder} is no checkpoint that this selfplay reads: its schema is {record.get('schema')!r}, "
            f"not {CHECKPOINT_SCHEMA!r}"
        )
    return record


def _check_file(folder: Path, name: str, expected: object, *, is_read: bool) -> None:
    says = expected if isinstance(expected, dict) else {}
    try:
        size = (folder / name).stat().st_size
        is_same = not is_read or _measure(folder / name) == expected
    except OSError as error:
        raise UserError(f"{folder} is no whole checkpoint: its file {name} cannot be read: {reason(error)}") from error
    if size != says.get("bytes") or not is_same:
        sizes = f"{size} bytes, {says.get('bytes')} were written"
        how = sizes if size != says.get("bytes") else "its checksum is another one"
        raise UserError(f"{folder} is no whole checkpoint: its file {name} was changed since ({how})")


# ----- going back -----


def set_aside(run: Path, *, version: int, folder: Path, place: str = CHECKPOINTS) -> None:
    """Move a run's checkpoints above a version into a folder, and point to that version if it has a checkpoint."""
    home = run / place
    if not home.is_dir():
        return
    _clean(home)
    folders = _folders(home)
    later = [other for other in sorted(folders) if other > version]
    for other in later:
        folder.mkdir(parents=True, exist_ok=True)
        folders[other].rename(folder / name_of(other))
    if later and version in folders:
        _point_to(home, version)
