"""`selfplay ls`: the runs there are, or the conversations of one run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from selfplay.commands.show import report_problems, split_run_words
from selfplay.commands.terminal import (
    facts_line,
    first_words,
    one_line,
    open_console,
    outcome_style,
    outcome_words,
    share,
)
from selfplay.commands.words import CommandLine
from selfplay.records_json import conversation_from_json, record_counts
from selfplay.store import RunReader, find_run, list_runs

SUMMARY = "list runs, or the conversations of one run"
USAGE = """
selfplay ls [RUN] [--json] [runs=FOLDER]

Without RUN, list the runs, the newest first; with it, list that run's conversations.

  RUN          a run folder, or a name under runs/
  --json       print the same as JSON
  runs=FOLDER  where runs are kept (default: runs)

Examples:
  selfplay ls
  selfplay ls my-run
"""
STATUS_STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "red"}
NUMBERS = frozenset(("seed", "conv.", "turns", "said", "cut", "size"))
GIVING = frozenset(("run", "env", "model", "about", "first words"))
WIDE = 100  # a terminal of so many columns shows more of each run
NUM_FIRST_WORDS = 60  # characters


def run(line: CommandLine) -> int:
    """List what the words name."""
    words = split_run_words(line.words, usage="selfplay ls [RUN]", at_most=1)
    if words.plain:
        return _list_conversations(find_run(words.plain[0], words.runs), as_json=line.as_json)
    return _list_runs(words.runs, as_json=line.as_json)


def _list_runs(runs: Path, *, as_json: bool) -> int:
    readers = [RunReader(folder) for folder in list_runs(runs)]
    rows = [_run_row(reader) for reader in readers]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        console = open_console()
        console.print(_runs_table(rows, is_wide=console.width >= WIDE))
    else:
        open_console().print(Text(f"no runs in {one_line(str(runs))}/ yet; selfplay play writes one"))
    for reader in readers:
        report_problems(reader)
    return 0


def _run_row(reader: RunReader) -> dict[str, Any]:
    manifest, counts = reader.manifest, reader.counts()
    known = {key: manifest.get(key) for key in ("created_at", "status", "env", "model")}
    return {"name": reader.name, "path": str(reader.folder), **known, **counts, "bytes": _size(reader.folder)}


def _runs_table(rows: Sequence[Mapping[str, Any]], *, is_wide: bool) -> Table:
    table = _table(
        "run", "created UTC", "status", "conv.", "turns", "cut", *(("size", "env", "model") if is_wide else ())
    )
    for row in rows:
        status = _word(row["status"])
        table.add_row(
            # A name is needed whole, so it folds where others are cut.
            Text(one_line(row["name"]), overflow="fold"),
            Text(_word(row["created_at"])[5:16].replace("T", " "), style="dim"),
            Text(status, style=STATUS_STYLES.get(status, "")),
            *_numbers(row["conversations"], row["turns"], share(row["cut_turns"], row["turns"])),
            *(
                [Text(_bytes_words(row["bytes"])), _cut(_word(row["env"])), _cut(_word(row["model"]))]
                if is_wide
                else []
            ),
        )
    return table


def _list_conversations(folder: Path, *, as_json: bool) -> int:
    reader = RunReader(folder)
    if as_json:
        print(json.dumps([_conversation_row(record) for record in reader.records()], indent=2))
    else:
        table = _conversations_table(reader.records())
        console = open_console()
        console.print(table if table.row_count else Text(f"run {one_line(reader.name)} holds no conversations yet"))
    report_problems(reader)
    return 0


def _conversation_row(record: Mapping[str, Any]) -> dict[str, Any]:
    conversation, counts = conversation_from_json(record), record_counts(record)
    outcome = conversation.outcome
    return {
        "id": conversation.id,
        "seed": conversation.scenario.seed,
        "split": conversation.scenario.split,
        "public": conversation.scenario.public,
        "turns": counts["turns"],
        "tokens": counts["tokens"],
        "cut_turns": counts["cut_turns"],
        "status": outcome.status if outcome else None,
        "reason": outcome.reason if outcome else None,
        "first_words": conversation.turns[0].text[:NUM_FIRST_WORDS] if conversation.turns else "",
    }


def _conversations_table(records: Iterable[Mapping[str, Any]]) -> Table:
    table = _table("id", "seed", "turns", "said", "cut", "ended", "about", "first words")
    for record in records:
        row, outcome = _conversation_row(record), conversation_from_json(record).outcome
        table.add_row(
            Text(one_line(row["id"])),
            *_numbers(row["seed"], row["turns"], row["tokens"], share(row["cut_turns"], row["turns"])),
            Text(outcome_words(outcome, is_by_shown=False), style=outcome_style(outcome)),
            _cut(_topic(row["public"])),
            _cut(first_words(row["first_words"], length=NUM_FIRST_WORDS)),
        )
    return table


def _table(*names: str) -> Table:
    """Return an empty table; where the terminal is narrow, only the columns of GIVING give way."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(_cut(name), no_wrap=name not in GIVING, justify="right" if name in NUMBERS else "left")
    return table


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _topic(public: Mapping[str, Any]) -> str:
    return one_line(str(public["topic"])) if "topic" in public else facts_line(public)


def _numbers(*values: object) -> list[Text]:
    return [Text(str(value)) for value in values]


def _word(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(sorted({_word(item) for item in value.values()}))
    return "-" if value is None else one_line(str(value))


def _size(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes; files that vanish meanwhile count as nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name), follow_symlinks=False).st_size
            except OSError:
                continue
    return total


def _bytes_words(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
