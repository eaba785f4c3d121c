"""Where examples come from: labelled runs, files of preferences, rated chats."""

from __future__ import annotations

import gzip
import importlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from selfplay.errors import UserError
from selfplay.line_files import RecordError, json_from_line
from selfplay.preferences import PREFERENCES
from selfplay.reward_model.examples import Example, Split
from selfplay.reward_model.labelled_run import run_examples
from selfplay.reward_model.loaded import Loaded, check_teaches, counted, is_clear, joined, stop_if_bad
from selfplay.reward_model.pair_files import example_of_line
from selfplay.reward_model.rated_chats import CHATS, rated_examples
from selfplay.reward_model.settings import FitSettings
from selfplay.run_folder import is_run
from selfplay.run_reader import find_run
from selfplay.whole_files import reason

__all__ = [
    "SUFFIXES",
    "Loaded",
    "check_overlap",
    "file_examples",
    "file_records",
    "read_data",
    "run_examples",
    "without_overlap",
]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
# Beside other files, one that is called so holds what is not trained on.
HELD_OUT_NAMES = ("test", "held_out", "heldout", "validation", "valid", "val", "eval")
MOST_JOINED = 0.5  # of a file's examples: a key that more of them share, such as one opening, says nothing
LFS_POINTER = b"version https://git-lfs"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_data(words: Sequence[str], settings: FitSettings) -> Loaded:
    """Return the examples of all that was named: runs, files, folders of files, "chitchat".

    Files called test, validation or the like, beside others, are held out.
    Raises UserError for what is not there, what has over 5% of bad lines, or if nothing is preferred to anything.
    """
    if not words:
        raise UserError(f"name what to learn from: a labelled run, a file ({', '.join(SUFFIXES)}), or {CHATS}")
    named = list(dict.fromkeys(part for word in words for part in _named(word, settings)))
    files = [part for part in named if isinstance(part, Path) and not is_run(part)]
    splits = _splits(files, is_alone=len(files) == len(named))
    loaded = joined([_read(part, settings, splits) for part in named])
    check_teaches(loaded)
    return loaded


def _named(word: str, settings: FitSettings) -> list[Path | str]:
    """Return the run, the files, or "chitchat", that a word names."""
    path = Path(word)
    if word == CHATS:
        return [CHATS]
    if path.is_file():
        return [path.parent if path.name == PREFERENCES and is_run(path.parent) else path]
    if path.is_dir() and not is_run(path):
        files = sorted(file for file in path.iterdir() if _is_data(file))
        if not files:
            raise UserError(f"folder {path} holds neither a run nor data ({', '.join(SUFFIXES)})")
        return [*files]
    if word.endswith(SUFFIXES):
        raise UserError(f"there is no file {word}")
    return [find_run(word, settings.runs)]


def _is_data(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _splits(files: Sequence[Path], *, is_alone: bool) -> dict[Path, Split]:
    """Return the sides of files, where some are called as what is held out; none otherwise."""
    held_out = [path for path in files if _says_held_out(path)]
    if not held_out or (is_alone and len(held_out) == len(files)):
        return {}
    return {path: "held_out" if path in held_out else "train" for path in files}


def _says_held_out(path: Path) -> bool:
    stem = path.name.partition(".")[0].lower().replace("-", "_")
    return any(stem == name or stem.startswith(f"{name}_") or stem.endswith(f"_{name}") for name in HELD_OUT_NAMES)


def _read(part: Path | str, settings: FitSettings, splits: dict[Path, Split]) -> Loaded:
    if not isinstance(part, Path):
        return rated_examples(settings)
    if is_run(part):
        return run_examples(part, by=settings.by)
    return file_examples(part, split=splits.get(part))


# ----- files -----


def file_examples(path: Path, *, split: Split | None = None) -> Loaded:
    """Return the examples of a file of preferences; split: the side they are on, None: not decided.

    Raises UserError if it cannot be read, or over 5% of its lines are bad.
    """
    examples: list[Example] = []
    problems: list[str] = []
    notes: Counter[str] = Counter()
    num_lines = 0
    source = path.name.removesuffix(".gz").rpartition(".")[0]
    for number, record in file_records(path):
        num_lines += 1
        where = f"{path.name}:{number}"
        try:
            if isinstance(record, RecordError):
                raise record
            example = example_of_line(record, source=source, split=split, where=where)
        except RecordError as error:
            problems.append(f"{where}: {error}")
            continue
        if example is None:
            notes[f"pairs of {path.name} left out, for the two sides are the same"] += 1
        else:
            examples.append(example)
    notes["ties"] += sum(one.kind == "pair" and not is_clear(one) for one in examples)
    if split == "held_out":
        notes[f"examples of {path.name} held out, as its name says"] += len(examples)
    kept = tuple(_without_common_keys(examples))
    joins = sum(one.keys != other.keys for one, other in zip(examples, kept, strict=True))
    notes[f"examples of {path.name} share a prompt or beginning with most others, and so may be on both sides"] += joins
    found = Loaded(
        examples=kept,
        num_lines=num_lines,
        problems=tuple(problems),
        notes=tuple(counted(notes)) if num_lines else (f"{path} has no lines",),
    )
    return stop_if_bad(found, str(path), place=path.name)


def _without_common_keys(examples: Sequence[Example]) -> Iterator[Example]:
    """Yield examples without the keys that would join most of them to one group."""
    counts = Counter(key for example in examples for key in example.keys)
    common = {key for key, num in counts.items() if num > max(1, MOST_JOINED * len(examples))}
    for example in examples:
        kept = tuple(key for key in example.keys if key not in common)
        yield example if len(kept) == len(example.keys) else replace(example, keys=kept)


def file_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | RecordError]]:
    """Yield the records of a file with their numbers, from 1; empty lines are left out.

    Raises UserError if it cannot be read.
    """
    try:
        if path.name.endswith(".parquet"):
            yield from enumerate(_rows(path), start=1)
        elif _holds_list(path):
            yield from enumerate(_items(path), start=1)
        elif path.name.endswith(SUFFIXES):
            yield from _lines(path)
        else:
            raise UserError(f"{path} is none of the files that can be read: {', '.join(SUFFIXES)}")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        start = raw.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise UserError(f"{path} only points to its data, which git did not fetch; `git lfs pull` does")
        raw.seek(len(BYTE_ORDER_MARK) if start.startswith(BYTE_ORDER_MARK) else 0)
        if path.suffix != ".gz":
            yield raw
            return
        with gzip.open(raw) as file:
            yield cast(BinaryIO, file)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | RecordError]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _record(line)


def _record(line: bytes) -> dict[str, Any] | RecordError:
    try:
        return json_from_line(line)
    except RecordError as error:
        return error


def _holds_list(path: Path) -> bool:
    """Whether a .json file is one list; else it holds lines, as many tools write it."""
    if path.suffix != ".json":
        return False
    with _opened(path) as file:
        return next((line.lstrip()[:1] for line in file if line.strip()), b"") == b"["


def _items(path: Path) -> Iterator[dict[str, Any] | RecordError]:
    with _opened(path) as file:
        try:
            items = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON: {error}") from error
    for item in items:
        yield item if isinstance(item, dict) else RecordError("not a JSON object")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        pa: Any = importlib.import_module("pyarrow")
        pq: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        message = f"{path}: the package pyarrow is not installed; pip install 'selfplay-dialog[export]'"
        raise UserError(message) from error
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0].rstrip('.')}") from error


# ----- both sides of a split -----


def check_overlap(train: Sequence[Example], held_out: Sequence[Example]) -> list[str]:
    """Return a line for each held-out example that has a dialog of the training examples."""
    return without_overlap(train, held_out)[1]


def without_overlap(train: Sequence[Example], held_out: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """Return the held-out examples that share no dialog with the training examples, and a line for each other one."""
    known = {dialog.key: example.where for example in train for dialog in example.dialogs}
    kept: list[Example] = []
    lines: list[str] = []
    for example in held_out:
        twin = next((known[dialog.key] for dialog in example.dialogs if dialog.key in known), None)
        if twin is None:
            kept.append(example)
        else:
            lines.append(
                f"{example.where or 'a held-out example'} is left out: {twin or 'training'} has the same dialog"
            )
    return kept, lines
