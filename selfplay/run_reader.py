"""Reading a run folder, also while it is being written, and finding one."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.dialog import Conversation, ScoredConversation, id_order
from selfplay.errors import UserError
from selfplay.line_files import LineIndex, RecordError, json_from_line
from selfplay.records_json import (
    ALARM_SCHEMA,
    ANNOTATION_SCHEMA,
    COUNTS,
    METRICS_SCHEMA,
    TOKENS_SCHEMA,
    check_schema,
    conversation_from_json,
    record_counts,
    total_counts,
)
from selfplay.rewards_json import scored_from_json
from selfplay.run_folder import (
    ALARMS,
    ANNOTATIONS,
    CONFIG,
    CONVERSATIONS,
    ID,
    MANIFEST,
    METRICS,
    RUN_SCHEMA,
    RUNS,
    TOKENS,
    is_run,
)
from selfplay.run_lock import is_being_written
from selfplay.whole_files import reason

__all__ = ["RunReader", "find_run", "list_runs"]

NUM_NEAREST = 3  # ids or names that an error suggests


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
        self._annotations = LineIndex(self.folder, identify=self._annotation_key, stem=ANNOTATIONS)
        self._metrics = LineIndex(self.folder, identify=_step_of_metrics, stem=METRICS)
        self._alarms = LineIndex(self.folder, identify=self._alarm_key, stem=ALARMS)

    @property
    def manifest(self) -> dict[str, Any]:
        """What run.json says now; empty if it cannot be read."""
        self._manifest_problems.clear()
        try:
            record = json_from_line((self.folder / MANIFEST).read_bytes())
            check_schema(record, RUN_SCHEMA)
        except (OSError, RecordError) as error:
            self._manifest_problems.append(f"{MANIFEST}: {reason(error)}")
            return {}
        return record

    @property
    def status(self) -> str:
        """How the run ended, "running", or "killed": it never said that it ended, and nobody writes it any more."""
        if self._says() != "running" or is_being_written(self.folder):
            return self._says()
        # It may have ended between the two looks.
        return "killed" if self._says() == "running" else self._says()

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
        indexes = (self._conversations, self._tokens, self._annotations, self._metrics, self._alarms)
        return [*self._manifest_problems, *(problem for index in indexes for problem in index.problems)]

    def ids(self) -> list[str]:
        """Return the ids of all conversations, in order."""
        self._conversations.refresh()
        return sorted(self._conversations.places, key=_id_order)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the transcript record of each conversation, in order; `conversation_from_json` accepts each.

        What was learnt of it later stands under "annotations", if there is anything.  Rewards that cannot be read are
        left out, and reported.
        """
        ids = self.ids()
        self._annotations.refresh()
        for id in ids:
            record = self._record(id)
            if record is not None:
                yield record

    def conversations(self, *, with_tokens: bool = False) -> Iterator[Conversation]:
        """Yield each conversation, in order; without tokens their arrays are empty."""
        if with_tokens:
            self._tokens.refresh()
        for record in self.records():
            yield self._conversation(record, with_tokens=with_tokens)

    def record(self, reference: str) -> dict[str, Any]:
        """Return one record as in `records`; the reference is an id or its beginning, a position from 0, or "last".

        Raises UserError if it fits no conversation, or several.
        """
        id = _resolve(reference, self.ids(), run=self.name)
        self._annotations.refresh()
        record = self._record(id)
        if record is None:
            raise UserError(f"conversation {id} of run {self.name} can no longer be read")
        return record

    def conversation(self, reference: str, *, with_tokens: bool = True) -> Conversation:
        """Return one conversation, named as in `record`, with its tokens if they are stored."""
        if with_tokens:
            self._tokens.refresh()
        return self._conversation(self.record(reference), with_tokens=with_tokens)

    def scored(self, reference: str, *, with_tokens: bool = True) -> ScoredConversation | None:
        """Return one conversation with its rewards; None: it was stored without any, or they cannot be read."""
        record = self.record(reference)
        if with_tokens:
            self._tokens.refresh()
        return scored_from_json(record, self._conversation(record, with_tokens=with_tokens))

    def all_scored(self, *, with_tokens: bool = False) -> Iterator[ScoredConversation]:
        """Yield each conversation that has rewards, in order."""
        if with_tokens:
            self._tokens.refresh()
        for record in self.records():
            scored = scored_from_json(record, self._conversation(record, with_tokens=with_tokens))
            if scored is not None:
                yield scored

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics line of each step, in order of steps; null stands for what was not finite."""
        self._metrics.refresh()
        records = [self._metrics.load(key) for key in sorted(self._metrics.places, key=int)]
        return [record for record in records if record is not None]

    def alarms(self) -> list[dict[str, Any]]:
        """Return the record of each alarm that began or ended, in the order in which that was noticed."""
        self._alarms.refresh()
        records = [self._alarms.load(key) for key in self._alarms.places]
        return [record for record in records if record is not None]

    def tokens_record(self, id: str) -> dict[str, Any] | None:
        """Return the last whole tokens line of a conversation, given its whole id; None: its tokens are not stored."""
        self._tokens.refresh()
        return self._tokens.load(id)

    def counts(self) -> dict[str, int]:
        """Return the numbers of conversations, turns, cut turns, tokens said, and failed conversations."""
        manifest = self.manifest
        counts = manifest.get("counts")
        # The counts of a run that goes on, or was killed, are old.
        has_ended = manifest.get("status") in ("finished", "interrupted", "failed")
        if has_ended and isinstance(counts, dict) and all(type(counts.get(name)) is int for name in COUNTS):
            return {name: counts[name] for name in COUNTS}
        return total_counts(record_counts(record) for record in self.records())

    def _says(self) -> str:
        return str(self.manifest.get("status") or "")

    def _record(self, id: str) -> dict[str, Any] | None:
        record = self._conversations.load(id)
        if record is None:
            return None
        annotations = list(itertools.takewhile(bool, (self._annotations.load(_key(id, n)) for n in itertools.count())))
        return self._with_readable_rewards({**record, "annotations": annotations} if annotations else record)

    def _with_readable_rewards(self, record: dict[str, Any]) -> dict[str, Any]:
        if record.get("rewards") is None:
            return record
        try:
            scored_from_json(record, conversation_from_json(record))
        except RecordError as error:
            self._conversations.report(f"{CONVERSATIONS}: {error}; shown without them")
            return {**record, "rewards": None}
        return record

    def _annotation_key(self, record: dict[str, Any]) -> str:
        check_schema(record, ANNOTATION_SCHEMA)
        id = record.get("conversation")
        if not isinstance(id, str) or not isinstance(record.get("data"), dict):
            raise RecordError("the line names no conversation, or holds no data")
        return next(key for key in (_key(id, n) for n in itertools.count()) if key not in self._annotations.places)

    def _alarm_key(self, record: dict[str, Any]) -> str:
        check_schema(record, ALARM_SCHEMA)
        return str(len(self._alarms.places))

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


def _step_of_metrics(record: dict[str, Any]) -> str:
    check_schema(record, METRICS_SCHEMA)
    step = record.get("step")
    if type(step) is not int:
        raise RecordError("the line names no step")
    return str(step)


def _key(id: str, number: int) -> str:
    """Return the key of a conversation's n-th annotation."""
    return f"{id}\n{number}"


def _id_order(id: str) -> tuple[bool, tuple[int, str, int, int], str]:
    return (False, id_order(id), id) if ID.fullmatch(id) else (True, (0, "", 0, 0), id)


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
        if is_run(folder):
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
        folders = [folder for folder in Path(runs_folder).iterdir() if is_run(folder)]
    except OSError:
        return []
    return sorted(folders, key=lambda folder: (_created_at(folder), folder.name), reverse=True)


def _created_at(folder: Path) -> str:
    return str(RunReader(folder).manifest.get("created_at", ""))
