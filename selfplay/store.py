"""The run folder: append-only transcripts and tokens, readable while a run writes.

One writer, any number of readers.  A line is written in one piece and never changed; a conversation that is played
again keeps its id, and readers keep the last line of an id.  Lines that cannot be read are reported and skipped.

    runs/NAME/run.json  config.yaml  conversations/train-000.jsonl  conversations/evaluation-000.jsonl  tokens/000.jsonl
              sources/HASH.py (of an env that was a file of its own; nothing imports it)
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import subprocess
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from selfplay import __version__
from selfplay.dialog import Conversation, Split
from selfplay.errors import UserError
from selfplay.line_files import LineFile, LineIndex, RecordError, json_from_line, line_from_json
from selfplay.records_json import (
    COUNTS,
    DECIMALS,
    TOKENS_DECIMALS,
    TOKENS_SCHEMA,
    check_schema,
    conversation_from_json,
    conversation_to_json,
    record_counts,
    tokens_to_json,
    total_counts,
)

RunStatus = Literal["running", "finished", "interrupted", "failed"]

RUN_SCHEMA = "selfplay.run/1"
RUNS = Path("runs")
PACKAGE_FOLDER = Path(__file__).parent
MANIFEST, CONFIG, CONVERSATIONS, TOKENS = "run.json", "config.yaml", "conversations", "tokens"
STEM_OF_SPLIT: Mapping[Split, str] = {"train": "train-000", "held_out": "evaluation-000"}
TOKENS_STEM = "000"
SOURCES = "sources"
TOKENS_RULE = "must be all, evaluation, none or sample:SHARE with a share from 0 to 1, e.g. sample:0.1"
ID = re.compile(r"([0-9]{1,12})-([a-z]+)([0-9]{1,12})-([0-9]{1,12})")
NUM_NEAREST = 3  # ids or names that an error suggests


def keeps_tokens(policy: str, *, conversation_id: str, split: Split) -> bool:
    """Whether `transcripts.tokens=policy` stores the tokens of a conversation.

    The policy is all, evaluation, none or sample:SHARE; a sample depends on the conversation's id alone.
    Raises UserError for anything else.
    """
    share = sampled_share(policy)
    if share is not None:
        return zlib.crc32(conversation_id.encode("utf-8", "surrogatepass")) < share * 2**32
    return policy == "all" or (policy == "evaluation" and split == "held_out")


def sampled_share(policy: str) -> float | None:
    """Return the share that `transcripts.tokens=policy` samples, None if it samples none; UserError: no such policy."""
    if policy in ("all", "evaluation", "none"):
        return None
    share = re.fullmatch(r"sample:([0-9]*\.?[0-9]+)", policy)
    if share is None or float(share[1]) > 1:
        raise UserError(f"transcripts.tokens={policy}: {TOKENS_RULE}")
    return float(share[1])


class RunExistsError(UserError):
    """The folder of a new run holds a run already."""


class RunWriter:
    """Writes one run folder; `create` makes it, `close` says how the run ended.

    As a context manager it closes with "finished", with "interrupted" after Ctrl-C, with "failed" after an error.
    """

    def __init__(self, *, folder: Path, manifest: dict[str, Any], tokens: str) -> None:
        self.folder = folder
        self._manifest = manifest
        self._tokens = tokens  # which conversations' tokens are stored, as `keeps_tokens` reads it
        self._is_new_folder = False  # whether `create` made the folder, or found it
        self._files: dict[Path, LineFile] = {}
        self._counts: dict[str, dict[str, int]] = {}  # conversation id -> what it adds to the run's counts

    @classmethod
    def create(
        cls, folder: Path | str, manifest: Mapping[str, Any], config_yaml: str, *, tokens: str = "all"
    ) -> RunWriter:
        """Make the run folder with its manifest and configuration; cheap, so call it before anything heavy loads.

        The manifest gives what the caller knows (seed, env, model, view, tokenizers by model name, command).
        Raises RunExistsError if the folder holds a run already, UserError if it cannot be written.
        """
        folder = Path(folder)
        sampled_share(tokens)
        is_new_folder = _claim(folder)
        writer = cls(folder=folder, manifest={**_new_manifest(folder), **manifest}, tokens=tokens)
        writer._is_new_folder = is_new_folder
        _write_whole(folder / CONFIG, config_yaml.encode("utf-8", "backslashreplace"))
        writer._write_manifest()
        return writer

    def add_to_manifest(self, values: Mapping[str, Any]) -> None:
        """Record what was not known when the run was created, such as the tokenizers' hashes."""
        self._manifest.update(values)
        self._write_manifest()

    def keep_source(self, name: str, text: bytes) -> None:
        """Keep the source of a plug-in beside the run, under its hash, for people to read; nothing imports it."""
        digest = hashlib.sha256(text).hexdigest()[:16]
        try:
            (self.folder / SOURCES).mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to folder {self.folder}: {_reason(error)}") from error
        _write_whole(self.folder / SOURCES / f"{digest}.py", text)
        self.add_to_manifest({"sources": {**self._manifest["sources"], name: f"sha256:{digest}"}})

    def append(self, conversation: Conversation) -> None:
        """Store a conversation that has ended, its tokens first: who can read the one can read the other.

        Raises UserError if it cannot be written; everything appended before stays readable.
        """
        record = conversation_to_json(conversation, run=self._manifest["name"], git=self._manifest["git"])
        split = conversation.scenario.split
        if keeps_tokens(self._tokens, conversation_id=conversation.id, split=split):
            tokens_record = tokens_to_json(conversation, tokenizer=self._tokenizer(conversation))
            if tokens_record is not None:
                self._append_line(Path(TOKENS, f"{TOKENS_STEM}.jsonl"), tokens_record)
        self._append_line(Path(CONVERSATIONS, f"{STEM_OF_SPLIT[split]}.jsonl"), record)
        self._counts[conversation.id] = record_counts(record)

    def close(self, status: RunStatus = "finished") -> None:
        """Write how the run ended and close its files; closing again does nothing."""
        if self._manifest["status"] != "running":
            return
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._manifest.update(status=status, ended_at=_now())
        self._write_manifest()

    def discard(self) -> None:
        """Take back a run in which nothing was stored: what `create` made goes, anything else stays."""
        if self._counts:
            return
        self.close("failed")
        kept = [f"{SOURCES}/{digest.removeprefix('sha256:')}.py" for digest in self._manifest["sources"].values()]
        for name in (MANIFEST, CONFIG, *kept):
            (self.folder / name).unlink(missing_ok=True)
        folders = [self.folder / CONVERSATIONS, *([self.folder / SOURCES] if kept else [])]
        # What is not empty is not ours, and neither is a folder that was there before.
        with contextlib.suppress(OSError):
            for folder in (*folders, *([self.folder] if self._is_new_folder else [])):
                folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close("finished")
            return
        # A disk that is full fails here once more, and would hide the error that says so.
        with contextlib.suppress(UserError):
            self.close("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")

    def _append_line(self, name: Path, record: Mapping[str, Any]) -> None:
        path = self.folder / name
        if self._manifest["status"] != "running":
            raise ValueError(f"run {self.folder} is closed; {record['schema']} cannot be appended")
        try:
            if path not in self._files:
                self._files[path] = LineFile(path)
            self._files[path].append(line_from_json(record))
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {_reason(error)}; the {len(self._counts)} conversations before it are kept"
            ) from error

    def _tokenizer(self, conversation: Conversation) -> str | None:
        """Return the hash of the only tokenizer of a conversation; None: unknown, or its models' differ."""
        known = self._manifest.get("tokenizers") or {}
        hashes = {known.get(player.model) for player in conversation.players.values() if player.model}
        return hashes.pop() if len(hashes) == 1 else None

    def _write_manifest(self) -> None:
        self._manifest["counts"] = total_counts(self._counts.values())
        text = json.dumps(self._manifest, indent=2, allow_nan=False)
        _write_whole(self.folder / MANIFEST, text.encode("ascii") + b"\n")


def _claim(folder: Path) -> bool:
    """Take a folder for a new run; return whether it had to be made."""
    others: list[str] = []
    taken = RunExistsError(f"folder {folder} already holds a run; choose another name, or remove it")
    if os.path.lexists(folder / MANIFEST):
        raise taken
    try:
        is_new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in folder.iterdir() if entry.name != CONVERSATIONS]
        if others:
            raise FileExistsError
        # Making a folder is atomic: of two runs that start at once under one name, one is told.
        (folder / CONVERSATIONS).mkdir()
    except FileExistsError as error:
        if not folder.is_dir():
            raise UserError(f"cannot write to folder {folder}: it is a file") from error
        if others:
            raise UserError(f"folder {folder} holds other files, {others[0]} among them; choose a new one") from error
        raise taken from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write to folder {folder}: {_reason(error)}") from error
    return is_new


def _reason(error: Exception) -> str:
    """Return what went wrong, without the path: messages here name it themselves."""
    return str(getattr(error, "strerror", None) or error)


def _new_manifest(folder: Path) -> dict[str, Any]:
    return {
        "schema": RUN_SCHEMA,
        "name": folder.resolve().name,
        "status": "running",
        "created_at": _now(),
        "ended_at": None,
        "package": __version__,
        "git": git_commit(PACKAGE_FOLDER),
        "seed": None,
        "env": None,
        "model": None,
        "view": None,
        "device": None,
        "dtype": None,
        "tokenizers": {},
        "sources": {},
        "command": None,
        "decimals": {"conversations": DECIMALS, "tokens": TOKENS_DECIMALS},
        "counts": dict.fromkeys(COUNTS, 0),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_commit(package: Path) -> str | None:
    """Return the commit of the checkout at whose top a package's folder lies; None: it is installed, or no git.

    A package that is installed inside somebody's checkout is no part of it.
    """
    command = ("git", "-C", str(package), "rev-parse", "--show-toplevel", "--verify", "HEAD")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    top, _, commit = answer.stdout.strip().rpartition("\n")
    is_own = answer.returncode == 0 and Path(top).resolve() == package.resolve().parent
    return commit if is_own else None


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a reader sees the old content or the new."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {_reason(error)}") from error


class RunReader:
    """Reads one run folder, also while it is being written; every question looks for new lines first.

    Nothing it finds is fatal: `problems` tells what was skipped.  Conversations come in the order of their ids:
    step, group, index.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        self._manifest_problems: list[str] = []
        self._conversations = LineIndex(
            self.folder / CONVERSATIONS, identify=lambda record: conversation_from_json(record).id
        )
        self._tokens = LineIndex(self.folder / TOKENS, identify=_conversation_of_tokens)

    @property
    def manifest(self) -> dict[str, Any]:
        """What run.json says now; empty if it cannot be read."""
        self._manifest_problems.clear()
        try:
            record = json_from_line((self.folder / MANIFEST).read_bytes())
            check_schema(record, RUN_SCHEMA)
        except (OSError, RecordError) as error:
            self._manifest_problems.append(f"{MANIFEST}: {_reason(error)}")
            return {}
        return record

    @property
    def config_text(self) -> str:
        """The run's configuration as YAML; empty if there is none."""
        try:
            return (self.folder / CONFIG).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    @property
    def problems(self) -> list[str]:
        """One line for each thing skipped so far, with file and line number."""
        return [*self._manifest_problems, *self._conversations.problems, *self._tokens.problems]

    def ids(self) -> list[str]:
        """Return the ids of all conversations, in order."""
        self._conversations.refresh()
        return sorted(self._conversations.places, key=_id_order)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the transcript record of each conversation, in order; `conversation_from_json` accepts each."""
        for id in self.ids():
            record = self._conversations.load(id)
            if record is not None:
                yield record

    def conversations(self, *, with_tokens: bool = False) -> Iterator[Conversation]:
        """Yield each conversation, in order; without tokens their arrays are empty."""
        if with_tokens:
            self._tokens.refresh()
        for record in self.records():
            yield self._conversation(record, with_tokens=with_tokens)

    def record(self, reference: str) -> dict[str, Any]:
        """Return one transcript record; the reference is an id or its beginning, a position from 0, or "last".

        Raises UserError if it fits no conversation, or several.
        """
        id = _resolve(reference, self.ids(), run=self.name)
        record = self._conversations.load(id)
        if record is None:
            raise UserError(f"conversation {id} of run {self.name} can no longer be read")
        return record

    def conversation(self, reference: str, *, with_tokens: bool = True) -> Conversation:
        """Return one conversation, named as in `record`, with its tokens if they are stored."""
        if with_tokens:
            self._tokens.refresh()
        return self._conversation(self.record(reference), with_tokens=with_tokens)

    def counts(self) -> dict[str, int]:
        """Return the numbers of conversations, turns, cut turns, tokens said, and failed conversations."""
        manifest = self.manifest
        counts = manifest.get("counts")
        # The counts of a run that goes on, or was killed, are old.
        has_ended = manifest.get("status") in ("finished", "interrupted", "failed")
        if has_ended and isinstance(counts, dict) and all(type(counts.get(name)) is int for name in COUNTS):
            return {name: counts[name] for name in COUNTS}
        return total_counts(record_counts(record) for record in self.records())

    def _conversation(self, record: Mapping[str, Any], *, with_tokens: bool) -> Conversation:
        tokens_record = self._tokens.load(record["id"]) if with_tokens else None
        try:
            return conversation_from_json(record, tokens_record)
        except RecordError as error:
            self._tokens.report(f"{TOKENS}: {error}; shown without tokens")
            return conversation_from_json(record)


def _conversation_of_tokens(record: dict[str, Any]) -> str:
    check_schema(record, TOKENS_SCHEMA)
    id = record.get("conversation")
    if not isinstance(id, str):
        raise RecordError("the line names no conversation")
    return id


def _id_order(id: str) -> tuple[bool, int, str, int, int, str]:
    parts = ID.fullmatch(id)
    if parts is None:
        return True, 0, "", 0, 0, id
    return False, int(parts[1]), parts[2], int(parts[3]), int(parts[4]), id


def _resolve(reference: str, ids: Sequence[str], *, run: str) -> str:
    if not ids:
        raise UserError(f"run {run} holds no conversations yet")
    if reference in ids:
        return reference
    if reference == "last":
        return ids[-1]
    # "17" is a position, "000017" the beginning of an id.
    is_position = re.fullmatch(r"0|[1-9][0-9]{0,11}", reference) is not None
    if is_position and int(reference) < len(ids):
        return ids[int(reference)]
    fitting = [id for id in ids if id.startswith(reference)]
    if len(fitting) == 1:
        return fitting[0]
    raise UserError(_no_single_one(reference, ids, fitting=fitting, run=run))


def _no_single_one(reference: str, ids: Sequence[str], *, fitting: Sequence[str], run: str) -> str:
    if fitting:
        some = ", ".join(fitting[:NUM_NEAREST])
        return f"{reference!r} fits {len(fitting)} conversations of run {run}, such as {some}"
    close = difflib.get_close_matches(reference, ids, n=NUM_NEAREST, cutoff=0.4)
    there_are = f"its {len(ids)} conversations are {ids[0]} to {ids[-1]}, or 0 to {len(ids) - 1} by position"
    hint = f"did you mean {', '.join(close)}?" if close else there_are
    return f"run {run} has no conversation {reference!r}; {hint}"


def find_run(name: str, runs_folder: Path = RUNS) -> Path:
    """Return the folder of a run: a path, a name under the runs folder, or "" for the newest run.

    Raises UserError if there is none, with the nearest names.
    """
    if not name:
        runs = list_runs(runs_folder)
        if not runs:
            raise UserError(f"there are no runs in {runs_folder}/")
        return runs[0]
    for folder in (Path(name), runs_folder / name):
        if _is_run(folder):
            return folder
    names = [run.name for run in list_runs(runs_folder)]
    if not names:
        raise UserError(f"there is no run {name!r}, and no other run in {runs_folder}/")
    close = difflib.get_close_matches(name, names, n=NUM_NEAREST, cutoff=0.4)
    newest = f"the newest in {runs_folder}/ are {', '.join(names[:NUM_NEAREST])}"
    hint = f"did you mean {', '.join(close)}?" if close else newest
    raise UserError(f"there is no run {name!r}; {hint}")


def list_runs(runs_folder: Path = RUNS) -> list[Path]:
    """Return the folders of all runs in a folder, the newest first; none if there is no such folder."""
    try:
        folders = [folder for folder in Path(runs_folder).iterdir() if _is_run(folder)]
    except OSError:
        return []
    return sorted(folders, key=lambda folder: (_created_at(folder), folder.name), reverse=True)


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / MANIFEST)


def _created_at(folder: Path) -> str:
    return str(RunReader(folder).manifest.get("created_at", ""))
