"""`selfplay ls`: the runs there are, or the conversations of one run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from selfplay.commands.rewards_text import mean_reward
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
from selfplay.errors import UserError
from selfplay.records_json import conversation_from_json, record_counts
from selfplay.store import RUNS, RunReader, find_run, list_runs

SUMMARY = "list runs, or the conversations of one run"
USAGE = """
selfplay ls [RUN] [--json] [runs=FOLDER]

Without RUN, list the runs, the newest first; with it, list that run's conversations.  The reward of a conversation is
the mean over the turns of the trained roles; a killed run never said that it ended, and nobody writes it any more.

  RUN          a run folder, or a name under runs/
  --json       print the same as JSON
  runs=FOLDER  where runs are kept (default: runs)

Examples:
  selfplay ls
  selfplay ls my-run
"""
STATUS_STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "killed": "red"}
NUMBERS = frozenset(("seed", "conv.", "turns", "said", "cut", "size", "reward"))
GIVING = frozenset(("env", "model", "ended", "about", "first words"))  # they are cut where the terminal is narrow
LEAST = 10  # so many characters a column of GIVING keeps; where there is no room for that, columns are left out
GAP = 2  # between two columns
# What is left out, in this order, before the first column is folded.
RUN_COLUMNS_LEFT_OUT = ("size", "model", "env", "created UTC", "status", "cut", "turns", "conv.")
CONVERSATION_COLUMNS_LEFT_OUT = ("cut", "said", "seed", "first words", "turns", "about", "ended", "reward")
WIDE = 100  # a terminal of so many columns shows more of each run
NUM_FIRST_WORDS = 60  # characters


def run(line: CommandLine) -> int:
    """List what the words name."""
    words = split_run_words(line.words, usage="selfplay ls [RUN]", at_most=1)
    if words.plain:
        return _list_conversations(find_run(words.plain[0], words.runs), as_json=line.as_json)
    return _list_runs(words.runs, as_json=line.as_json)


def _list_runs(runs: Path, *, as_json: bool) -> int:
    if runs.exists() and not runs.is_dir():
        raise UserError(f"runs={runs}: it is a file, not a folder of runs")
    if runs != RUNS and not runs.exists():
        raise UserError(f"runs={runs}: there is no such folder")
    readers = [RunReader(folder) for folder in list_runs(runs)]
    rows = [_run_row(reader) for reader in readers]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        console = open_console()
        console.print(_runs_table(rows, width=console.width))
    else:
        open_console().print(Text(f"no runs in {one_line(str(runs))}/ yet; selfplay play writes one"))
    for reader in readers:
        report_problems(reader)
    return 0


def _run_row(reader: RunReader) -> dict[str, Any]:
    manifest, counts = reader.manifest, reader.counts()
    known = {key: manifest.get(key) for key in ("created_at", "status", "env", "model")}
    # A manifest that holds anything else is shown as it stands.
    status = reader.status if known["status"] == "running" else known["status"]
    known["status"] = status
    return {"name": reader.name, "path": str(reader.folder), **known, **counts, "bytes": _size(reader.folder)}


def _runs_table(rows: Sequence[Mapping[str, Any]], *, width: int) -> Table:
    cells = [_run_cells(row) for row in rows]
    if width < WIDE:
        cells = [{name: cell for name, cell in row.items() if name not in ("size", "env", "model")} for row in cells]
    return _table(cells, width=width, left_out=RUN_COLUMNS_LEFT_OUT)


def _run_cells(row: Mapping[str, Any]) -> dict[str, Text]:
    status = _word(row["status"])
    return {
        "run": Text(one_line(row["name"])),
        "created UTC": Text(_word(row["created_at"])[5:16].replace("T", " "), style="dim"),
        "status": Text(status, style=STATUS_STYLES.get(status, "")),
        "conv.": Text(str(row["conversations"])),
        "turns": Text(str(row["turns"])),
        "cut": Text(share(row["cut_turns"], row["turns"])),
        "size": Text(_bytes_words(row["bytes"])),
        "env": _cut(_word(row["env"])),
        "model": _cut(_word(row["model"])),
    }


def _list_conversations(folder: Path, *, as_json: bool) -> int:
    reader = RunReader(folder)
    if as_json:
        print(json.dumps([_conversation_row(record) for record in reader.records()], indent=2))
    else:
        console = open_console()
        rows = [_conversation_cells(record) for record in reader.records()]
        if not any(row["reward"].plain != "-" for row in rows):
            rows = [{name: cell for name, cell in row.items() if name != "reward"} for row in rows]
        if rows:
            console.print(_table(rows, width=console.width, left_out=CONVERSATION_COLUMNS_LEFT_OUT))
        else:
            console.print(Text(f"run {one_line(reader.name)} holds no conversations yet"))
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
        "reward": mean_reward(record),
        "first_words": conversation.turns[0].text[:NUM_FIRST_WORDS] if conversation.turns else "",
    }


def _conversation_cells(record: Mapping[str, Any]) -> dict[str, Text]:
    row, outcome = _conversation_row(record), conversation_from_json(record).outcome
    ended = _cut(outcome_words(outcome, is_by_shown=False))
    ended.stylize(outcome_style(outcome))
    return {
        "id": Text(one_line(row["id"])),
        "seed": Text(str(row["seed"])),
        "turns": Text(str(row["turns"])),
        "said": Text(str(row["tokens"])),
        "cut": Text(share(row["cut_turns"], row["turns"])),
        "reward": Text("-" if row["reward"] is None else f"{row['reward']:.2f}"),
        "ended": ended,
        "about": _cut(_topic(row["public"])),
        "first words": _cut(first_words(row["first_words"], length=NUM_FIRST_WORDS)),
    }


def _table(rows: Sequence[Mapping[str, Text]], *, width: int, left_out: Sequence[str]) -> Table:
    """Return the rows as a table; its first column says what to type next, so it is the last to give way."""
    widths = {name: max(len(name), *(row[name].cell_len for row in rows)) for name in rows[0]}
    first = next(iter(widths))
    for name in left_out:
        least = [min(most, LEAST) if name in GIVING else most for name, most in widths.items()]
        if sum(least) + GAP * (len(least) - 1) <= width:
            break
        widths.pop(name, None)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in widths:
        is_whole = name not in GIVING and name != first
        table.add_column(_cut(name), no_wrap=is_whole, justify="right" if name in NUMBERS else "left")
    table.columns[0].width, table.columns[0].overflow = min(widths[first], width), "fold"
    for row in rows:
        table.add_row(*(row[name] for name in widths))
    return table


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _topic(public: Mapping[str, Any]) -> str:
    return one_line(str(public["topic"])) if "topic" in public else facts_line(public)


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
