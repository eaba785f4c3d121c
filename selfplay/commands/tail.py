"""`selfplay tail`: follow a run while it is written."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field
from rich.console import Console
from rich.text import Text

from selfplay.commands.terminal import INDENT, first_words, one_line, open_console, plural
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.line_files import RecordError, json_from_line
from selfplay.run_folder import ALARMS, CONVERSATIONS, METRICS, RUNS
from selfplay.run_reader import RunReader, find_run
from selfplay.transcript_facts import facts_of
from selfplay.whole_files import reason

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "follow a run while it is written"
USAGE = """
selfplay tail [RUN] [n=10] [--json] [runs=FOLDER]

Print what a run wrote last, and then each conversation, each step's metrics and each alarm as they are written, until
the run ends or you press Ctrl-C.  A run that has ended, or was killed, says since when.

  RUN          a run folder, a name under runs/, or nothing: the newest run
  n=10         how many of the conversations there are to print first, and metrics and alarms as many
  --json       print the stored lines themselves, and how the run ended as the last one
  runs=FOLDER  where runs are kept (default: runs)

Examples:
  selfplay tail
  selfplay tail my-run n=3
"""
LOOK_SECONDS = 0.5
# Of a step's metrics, in this order; what a step lacks is left out.
SHOWN: Mapping[str, tuple[str, str]] = {
    "reward/per_conversation": ("reward", ".3f"),
    "kl/per_token_nats": ("KL", ".4f"),
    "entropy/per_token_nats": ("entropy", ".2f"),
    "play/distinct_2": ("distinct pairs", ".2f"),
    "play/said_tokens_per_turn": ("tokens a turn", ".1f"),
    "play/tokens_per_second": ("tokens/s", ".0f"),
}
STATUS_STYLES = {"terminated": "green", "truncated": "yellow", "failed": "red"}


class TailSettings(Settings):
    """What `tail` accepts besides the run."""

    n: int = Field(default=10, ge=0)
    runs: Annotated[Path, WRITTEN_PATH] = RUNS


def run(line: CommandLine) -> int:
    """Follow a run until it ends."""
    settings = resolve(TailSettings, line.settings)
    folder = find_run(line.one_name("tail follows"), settings.runs)
    printer = _Printer(open_console(), as_json=line.as_json)
    try:
        follow(folder, printer, num_first=settings.n)
    except KeyboardInterrupt:  # how people end it
        return 0
    return 0


class _Printer:
    """Shows stored lines, as people or programs read them."""

    def __init__(self, console: Console, *, as_json: bool) -> None:
        self._console = console
        self._as_json = as_json

    def line(self, record: Mapping[str, Any]) -> None:
        """Show one stored line."""
        if self._as_json:
            print(json.dumps(record), flush=True)
            return
        kind = str(record.get("schema", "")).partition("/")[0]
        show = {
            "selfplay.conversation": _print_conversation,
            "selfplay.metrics": _print_metrics,
            "selfplay.alarm": _print_alarm,
        }.get(kind)
        if show is not None:
            show(self._console, record)

    def problem(self, text: str) -> None:
        """Tell what was skipped."""
        print(one_line(text), file=sys.stderr)

    def ended(self, run: str, status: str, since: str) -> None:
        """Tell that the run is not written any more."""
        if self._as_json:
            print(json.dumps({"run": run, "status": status, "since": since or None}), flush=True)
            return
        ago = f", last line {since[:19].replace('T', ' ')} UTC, {_ago(since)} ago" if since else ""
        self._console.print(Text(f"run {one_line(run)}: {one_line(status or 'unknown')}{ago}", style="bold"))


def follow(folder: Path, printer: _Printer, *, num_first: int) -> None:
    """Show a run's last lines, then each new one until nobody writes it any more."""
    reader, tails = RunReader(folder), _Tails(folder)
    for record in tails.last(num_first, printer):
        printer.line(record)
    while True:
        # What was written before the run ended is there once it says so.
        status = reader.status
        for record in tails.new(printer):
            printer.line(record)
        if status != "running":
            printer.ended(reader.name, status, tails.since())
            return
        time.sleep(LOOK_SECONDS)


class _Tails:
    """How far each file of a run's lines was read; of one that was replaced, lines that it had before are not new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, _Read] = {}

    def last(self, number: int, printer: _Printer) -> Iterator[dict[str, Any]]:
        """Yield the last lines: conversations by their files, then metrics, then alarms; each so many."""
        kinds = [self._conversations(), [self._folder / f"{METRICS}.jsonl"], [self._folder / f"{ALARMS}.jsonl"]]
        for paths in kinds:
            found = [(path, line) for path in paths for line in self._last_lines(path, number)]
            records = list(_records(found, printer))
            records.sort(key=_time)
            yield from records[max(0, len(records) - number) :]

    def new(self, printer: _Printer) -> Iterator[dict[str, Any]]:
        """Yield the lines that are new since the last look."""
        paths = (*self._conversations(), self._folder / f"{METRICS}.jsonl", self._folder / f"{ALARMS}.jsonl")
        yield from _records([(path, line) for path in paths for line in self._new_lines(path)], printer)

    def since(self) -> str:
        """Return when the newest line was written, UTC; "": there is none."""
        times = []
        for path in (*self._conversations(), self._folder / f"{METRICS}.jsonl"):
            try:
                times.append(path.stat().st_mtime)
            except OSError:
                continue
        if not times:
            return ""
        return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    def _conversations(self) -> list[Path]:
        return sorted((self._folder / CONVERSATIONS).glob("*.jsonl"))

    def _last_lines(self, path: Path, number: int) -> list[bytes]:
        """Return the last whole lines of a file, and note that it was read up to there."""
        return list(deque(self._unread_lines(path), maxlen=number))

    def _new_lines(self, path: Path) -> list[bytes]:
        return list(self._unread_lines(path))

    def _unread_lines(self, path: Path) -> Iterator[bytes]:
        before = self._read.get(path)
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                if before is not None and before.inode == found.st_ino and before.num_bytes <= found.st_size:
                    file.seek(before.num_bytes)
                    yield from before.whole_lines(file)
                    return
                now = self._read[path] = _Read(inode=found.st_ino)
                # It went back to a checkpoint: what is left of it was shown before.
                known = set() if before is None else before.hashes
                yield from (line for line in now.whole_lines(file) if hash(line) not in known)
        except OSError:
            return


@dataclass(slots=True, kw_only=True)
class _Read:
    """What was read of a file."""

    inode: int
    num_bytes: int = 0
    hashes: set[int] = field(default_factory=set)  # of its lines

    def whole_lines(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the lines from where the file stands, and note them; half a line waits for its other half."""
        for line in file:
            if not line.endswith(b"\n"):
                return
            self.num_bytes += len(line)
            self.hashes.add(hash(line))
            yield line


def _records(lines: list[tuple[Path, bytes]], printer: _Printer) -> Iterator[dict[str, Any]]:
    for path, line in lines:
        try:
            if line.strip():
                yield json_from_line(line)
        except RecordError as error:
            printer.problem(f"{path.name}: {reason(error)}, skipped")


def _time(record: Mapping[str, Any]) -> str:
    timing = record.get("timing")
    return str(timing.get("started_at") if isinstance(timing, Mapping) else record.get("at"))


def _print_conversation(console: Console, record: Mapping[str, Any]) -> None:
    try:
        facts, _ = facts_of(record)
    except RecordError as error:
        console.print(Text(one_line(f"a conversation cannot be read: {error}"), style="red"))
        return
    reward = "" if facts.reward is None else f"  {facts.reward:+z.2f}"
    ended = (facts.reason or "unfinished").replace("_", " ")
    console.print(
        Text.assemble(
            (one_line(facts.id), "bold"),
            (f"  {one_line('/'.join(facts.players))}", "dim"),
            f"  {plural(facts.turns, 'turn')}",
            (reward, "green"),
            (f"  {one_line(ended)}", STATUS_STYLES.get(facts.status or "", "yellow")),
        )
    )
    if record["turns"]:
        turn, width = record["turns"][-1], console.width - INDENT
        start = f"{one_line(str(turn['role']))}: "
        said = first_words(turn["text"], length=max(20, width - len(start)))
        console.print(Text.assemble(" " * INDENT, (start, "dim"), said, no_wrap=True, overflow="ellipsis"))


def _print_metrics(console: Console, record: Mapping[str, Any]) -> None:
    shown = [
        f"{title} {value:z{form}}"
        for name, (title, form) in SHOWN.items()
        if isinstance(value := record.get(name), int | float)
    ]
    console.print(Text(f"step {one_line(str(record.get('step')))}: {', '.join(shown)}", style="cyan"))


def _print_alarm(console: Console, record: Mapping[str, Any]) -> None:
    console.print(Text(one_line(str(record.get("text") or record.get("name"))), style="bold yellow"))


def _ago(since: str) -> str:
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds())
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return plural(int(seconds // size), unit)
    return plural(int(seconds), "second")
