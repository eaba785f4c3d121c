"""The run folder: append-only transcripts and tokens, readable while a run writes.

One writer, any number of readers.  A line is written in one piece and never changed.  A conversation that is played
again keeps its id, and the tokens of one are written again when the learner has numbers for them: readers keep the last
line of an id.  Lines that cannot be read are reported and skipped.

    runs/NAME/run.json  config.yaml  conversations/train-000.jsonl  conversations/evaluation-000.jsonl  tokens/000.jsonl
              annotations.jsonl  metrics.jsonl  alarms.jsonl  checkpoints/ (see `selfplay.checkpoint`)
              sources/HASH.py (of a plug-in that was a file of its own; nothing imports it)
              tokenizers/HASH.json.gz (see `selfplay.stored_tokenizer`)
              aside/ (see `selfplay.run_aside`)  writer.lock (held by the process that writes)
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from selfplay import stored_tokenizer
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.errors import UserError
from selfplay.interfaces import Likelihood, TokenNumbers
from selfplay.line_files import LineFile, line_from_json
from selfplay.plugins import source_digest
from selfplay.records_json import (
    annotation_to_json,
    conversation_to_json,
    metrics_to_json,
    record_counts,
    tokens_to_json,
    total_counts,
)
from selfplay.rewards_json import rewards_to_json
from selfplay.run_aside import set_aside
from selfplay.run_folder import (
    ANNOTATIONS,
    CONFIG,
    CONVERSATIONS,
    MANIFEST,
    METRICS,
    RUNS,
    SOURCES,
    STEM_OF_SPLIT,
    TOKENIZERS,
    TOKENS,
    TOKENS_RULE,
    TOKENS_STEM,
    RunExistsError,
    RunStatus,
    claim,
    git_commit,
    is_run,
    keeps_tokens,
    new_manifest,
    now,
    sampled_share,
)
from selfplay.run_lock import RunLock
from selfplay.run_reader import RunReader, find_run, list_runs
from selfplay.score import Term
from selfplay.whole_files import reason, write_whole

__all__ = [
    "CONFIG",
    "RUNS",
    "TOKENS_RULE",
    "RunExistsError",
    "RunReader",
    "RunStatus",
    "RunWriter",
    "find_run",
    "git_commit",
    "keeps_tokens",
    "list_runs",
    "sampled_share",
]


class RunWriter:
    """Writes one run folder; `create` makes it or `resume` reopens it, `close` says how the run ended.

    As a context manager it closes with "finished", with "interrupted" after Ctrl-C, with "failed" after an error.
    It holds the folder's lock meanwhile, so that two processes never write one run, and a killed run can be told from
    one that goes on.
    """

    def __init__(self, *, folder: Path, manifest: dict[str, Any], lock: RunLock) -> None:
        self.folder = folder
        self._manifest = manifest
        self._lock = lock
        self._made: list[Path] = []  # what `create` made, for `discard`
        self._tokenizers: list[Path] = []  # files of tokenizers, for `discard`
        self._files: dict[Path, LineFile] = {}
        self._counts: dict[str, dict[str, int]] = {}  # conversation id -> what it adds to the run's counts

    @classmethod
    def create(
        cls, folder: Path | str, manifest: Mapping[str, Any], config_yaml: str, *, tokens: str = "all"
    ) -> RunWriter:
        """Make the run folder with its manifest and configuration; cheap, so call it before anything heavy loads.

        The manifest gives what the caller knows (seed, env, model, view, tokenizers by model name, command).
        tokens: which conversations' tokens are stored, as `keeps_tokens` reads it.
        Raises RunExistsError if the folder holds a run already, UserError if it cannot be written.
        """
        folder = Path(folder)
        sampled_share(tokens)
        is_new_folder = claim(folder)
        values = {**new_manifest(folder), **manifest, "keeps_tokens": tokens}
        writer = cls(folder=folder, manifest=values, lock=_take_lock(folder))
        writer._made = [folder / CONVERSATIONS, *([folder] if is_new_folder else [])]
        write_whole(folder / CONFIG, config_yaml.encode("utf-8", "backslashreplace"))
        writer._write_manifest()
        return writer

    @classmethod
    def create_numbered(
        cls, folder: Path, manifest: Mapping[str, Any], config_yaml: str, *, tokens: str = "all"
    ) -> RunWriter:
        """As `create`, but where the folder holds a run already, take the first free of NAME-2, NAME-3, ..."""
        number = 1
        while True:
            named = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
            try:
                return cls.create(named, manifest, config_yaml, tokens=tokens)
            except RunExistsError:
                number += 1

    @classmethod
    def resume(
        cls, folder: Path | str, *, version: int, config_yaml: str | None = None, command: str | None = None
    ) -> RunWriter:
        """Reopen a run that ended or was killed, to go on from the checkpoint of a version.

        What it wrote after that moves aside (see `selfplay.run_aside`).  config_yaml and command: None leaves those of
        the run.  Raises UserError if there is no such run, or a living process is writing it.
        """
        folder = Path(folder)
        if not is_run(folder):
            raise UserError(f"there is no run in folder {folder}")
        lock = _take_lock(folder)
        try:
            return cls._reopened(folder, lock, version=version, config_yaml=config_yaml, command=command)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _reopened(
        cls, folder: Path, lock: RunLock, *, version: int, config_yaml: str | None, command: str | None
    ) -> RunWriter:
        reader = RunReader(folder)
        manifest = reader.manifest
        if not manifest:
            raise UserError(f"run {folder} cannot be resumed: {reader.problems[0]}")
        try:
            aside = set_aside(folder, version=version)
        except OSError as error:
            raise UserError(f"run {folder} cannot be resumed: {reason(error)}; nothing of it is lost") from error
        writer = cls(folder=folder, manifest=manifest, lock=lock)
        writer._counts = {record["id"]: record_counts(record) for record in RunReader(folder).records()}
        if config_yaml is not None and config_yaml != reader.config_text:
            if aside is not None:
                write_whole(aside / CONFIG, reader.config_text.encode("utf-8", "backslashreplace"))
            write_whole(folder / CONFIG, config_yaml.encode("utf-8", "backslashreplace"))
        moved = None if aside is None else str(aside.relative_to(folder))
        again = {"at": now(), "version": version, "command": command, "aside": moved}
        manifest.update(status="running", ended_at=None, resumed=[*manifest.get("resumed", []), again])
        writer._write_manifest()
        return writer

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self._manifest["name"])

    def recorded(self, name: str) -> Any:
        """Return what the manifest has under a name; None: nothing."""
        return self._manifest.get(name)

    def write_config(self, config_yaml: str) -> None:
        """Replace the run's configuration, as when it goes on with other settings; the old one is kept aside."""
        before = RunReader(self.folder).config_text
        if before == config_yaml:
            return
        resumed = self._manifest.get("resumed") or [{}]
        aside = resumed[-1].get("aside")
        if aside:
            write_whole(self.folder / aside / CONFIG, before.encode("utf-8", "backslashreplace"))
        write_whole(self.folder / CONFIG, config_yaml.encode("utf-8", "backslashreplace"))

    def add_to_manifest(self, values: Mapping[str, Any]) -> None:
        """Record what was not known when the run was created, such as the tokenizers' hashes."""
        self._manifest.update(values)
        self._write_manifest()

    def keep_source(self, name: str, text: bytes) -> None:
        """Keep the source of a plug-in beside the run, under its hash, for people to read; nothing imports it."""
        digest = source_digest(text)
        try:
            (self.folder / SOURCES).mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to folder {self.folder}: {reason(error)}") from error
        write_whole(self.folder / SOURCES / f"{digest.removeprefix('sha256:')}.py", text)
        self.add_to_manifest({"sources": {**self._manifest["sources"], name: digest}})

    def keep_tokenizers(self, descriptions: Mapping[str, str]) -> None:
        """Keep tokenizers beside the run, if it stores any tokens, so that these can be read without the models.

        descriptions: hash, as in the manifest -> what a model folder has in tokenizer.json.
        """
        policy = self._keeps_tokens
        if policy == "none" or sampled_share(policy) == 0.0:
            return
        try:
            for digest, description in descriptions.items():
                self._tokenizers.append(stored_tokenizer.store(self.folder, digest, description))
        except OSError as error:
            raise UserError(f"cannot write to folder {self.folder}: {reason(error)}") from error

    def append(
        self,
        conversation: Conversation,
        scored: ScoredConversation | None = None,
        *,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        """Store a conversation that has ended, its tokens first: who can read the one can read the other.

        scored: the same with its rewards; terms: what every reward that was asked counts for, by name.
        Raises UserError if it cannot be written; everything appended before stays readable.
        """
        rewards = None if scored is None else rewards_to_json(scored, terms=terms or {})
        name, git = self._manifest["name"], self._manifest["git"]
        record = conversation_to_json(conversation, run=name, git=git, rewards=rewards)
        self._append_tokens(conversation, {})
        self._append_line(Path(CONVERSATIONS, f"{STEM_OF_SPLIT[conversation.scenario.split]}.jsonl"), record)
        self._counts[conversation.id] = record_counts(record)

    def add_tokens(self, conversation: Conversation, found: Mapping[int, TokenNumbers]) -> None:
        """Store the tokens of a stored conversation again, with what was found of them since; readers keep the last.

        found: by number of the turn.  Where there is none, or the run keeps no tokens of the conversation, nothing is
        written.
        """
        if found:
            self._append_tokens(conversation, found)

    def add_likelihood(self, conversation: Conversation, found: Likelihood, *, by: str) -> None:
        """Store what the reference says of a stored conversation and of its tokens; by: as in `annotate`."""
        self.add_tokens(conversation, found.tokens)
        data = {"num_tokens": found.num_tokens, "nll": found.nll, "kl": found.kl}
        self.annotate(conversation.id, by=by, kind="likelihood", data=data)

    def annotate(
        self, conversation_id: str, *, by: str, kind: str, data: Mapping[str, Any], turn: int | None = None
    ) -> None:
        """Store what was learnt of a conversation, or of one of its turns, after it was stored.

        by: who says so, such as "learner@420"; kind: what the data is, such as "learner".
        """
        record = annotation_to_json(conversation_id, by=by, kind=kind, data=data, turn=turn, at=now())
        self._append_line(Path(f"{ANNOTATIONS}.jsonl"), record)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Store one step's metrics, by path."""
        self._append_line(Path(f"{METRICS}.jsonl"), metrics_to_json(step, metrics, at=now()))

    def close(self, status: RunStatus = "finished") -> None:
        """Write how the run ended and close its files; closing again does nothing."""
        if self._manifest["status"] != "running":
            return
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._manifest.update(status=status, ended_at=now())
        try:
            self._write_manifest()
        finally:
            self._lock.release()

    def discard(self, *, also: Collection[str] = ()) -> None:
        """Take back a run in which nothing was stored: what `create` made goes, anything else stays.

        also: folders and files of the run that its owner made meanwhile.
        """
        if self._counts or not self._made:
            return
        for path in (self.folder / name for name in also):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.close("failed")
        kept = [f"{SOURCES}/{digest.removeprefix('sha256:')}.py" for digest in self._manifest["sources"].values()]
        for path in (*(self.folder / name for name in (MANIFEST, CONFIG, *kept)), *self._tokenizers):
            path.unlink(missing_ok=True)
        # What is not empty is not ours, and neither is a folder that was there before.
        for folder in (self.folder / SOURCES, self.folder / TOKENIZERS, *self._made):
            with contextlib.suppress(OSError):
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

    @property
    def _keeps_tokens(self) -> str:
        return str(self._manifest.get("keeps_tokens", "all"))

    def _append_tokens(self, conversation: Conversation, found: Mapping[int, TokenNumbers]) -> None:
        split = conversation.scenario.split
        if not keeps_tokens(self._keeps_tokens, conversation_id=conversation.id, split=split):
            return
        record = tokens_to_json(conversation, tokenizer=self._tokenizer(conversation), found=found)
        if record is not None:
            self._append_line(Path(TOKENS, f"{TOKENS_STEM}.jsonl"), record)

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
                f"cannot write {path}: {reason(error)}; the {len(self._counts)} conversations before it are kept"
            ) from error

    def _tokenizer(self, conversation: Conversation) -> str | None:
        """Return the hash of the only tokenizer of a conversation; None: unknown, or its models' differ."""
        known = self._manifest.get("tokenizers") or {}
        hashes = {known.get(player.model) for player in conversation.players.values() if player.model}
        return hashes.pop() if len(hashes) == 1 else None

    def _write_manifest(self) -> None:
        self._manifest["counts"] = total_counts(self._counts.values())
        text = json.dumps(self._manifest, indent=2, allow_nan=False)
        write_whole(self.folder / MANIFEST, text.encode("ascii") + b"\n")


def _take_lock(folder: Path) -> RunLock:
    try:
        return RunLock.take(folder)
    except OSError as error:
        raise UserError(f"cannot write to folder {folder}: {reason(error)}") from error
