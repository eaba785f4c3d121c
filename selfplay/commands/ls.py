"""`selfplay ls`: the runs there are, or the conversations of one run."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from selfplay.commands.conversation_rows import (
    conversation_cells,
    conversation_json,
    cut_cell,
    open_index,
    rows_table,
)
from selfplay.commands.conversation_rows import report_problems as report_index_problems
from selfplay.commands.list_words import ListWords, read_list_words
from selfplay.commands.show import report_problems
from selfplay.commands.terminal import one_line, open_console, plural, share
from selfplay.commands.words import CommandLine
from selfplay.errors import UserError
from selfplay.filters import NEWEST_FIRST
from selfplay.store import RUNS, RunReader, find_run, list_runs
from selfplay.transcript_index import Page, TranscriptIndex

SUMMARY = "list runs, or the conversations of one run"
USAGE = """
selfplay ls [RUN [FILTER]] [where=FILTER] [sort=KEY] [order=down|up] [limit=N|all] [--json] [runs=FOLDER]

Without RUN, list the runs, the newest first; with it, list that run's conversations, the newest at the bottom.  The
reward of a conversation is what the turns of its trained roles add up to.  A killed run never said that it ended, and
nobody writes it any more.

  RUN          a run folder, or a name under runs/
  FILTER       which conversations, as in 'reward<1 & text~"sorry"'; docs/filters.md has all of it
  sort=KEY     newest, oldest, reward, reward.PART, value.PART, advantage, kl, nll, turns, tokens, seconds, surprise,
               disagreement, step, ...: in that order, from the top
  order=up     the smallest numbers first
  limit=N      how many to print (default: 200; with --json all)
  --json       print the same as JSON
  runs=FOLDER  where runs are kept (default: runs)

Examples:
  selfplay ls
  selfplay ls my-run
  selfplay ls my-run 'reason=turn_limit & text~"sorry"' sort=reward
"""
STATUS_STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "killed": "red"}
# What is left out, in this order, before the first column is folded.
RUN_COLUMNS_LEFT_OUT = ("size", "model", "env", "created UTC", "status", "cut", "turns", "conv.")
CONVERSATION_COLUMNS_LEFT_OUT = ("cut", "said", "seed", "first words", "turns", "about", "ended", "reward")
WIDE = 100  # a terminal of so many columns shows more of each run
LIMIT = 200  # conversations that are printed unless somebody wants more
SETTINGS = ("sort", "order", "limit")


def run(line: CommandLine) -> int:
    """List what the words name."""
    words = read_list_words(line.words, settings=SETTINGS, usage="selfplay ls [RUN [FILTER]]")
    if words.run:
        return _list_conversations(find_run(words.run, words.runs), words, as_json=line.as_json)
    if words.where or words.settings:
        raise UserError("a filter, sort=, order= and limit= choose conversations of one run; write selfplay ls RUN ...")
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
    return rows_table(cells, width=width, left_out=RUN_COLUMNS_LEFT_OUT)


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
        "env": cut_cell(_word(row["env"])),
        "model": cut_cell(_word(row["model"])),
    }


def _list_conversations(folder: Path, words: ListWords, *, as_json: bool) -> int:
    with contextlib.closing(open_index(folder)) as index:
        page = _page(index, words, as_json=as_json)
        if as_json:
            print(json.dumps([conversation_json(row) for row in page.rows], indent=2))
        else:
            _print_page(page, name=folder.resolve().name)
        report_index_problems(index)
    return 0


def _page(index: TranscriptIndex, words: ListWords, *, as_json: bool) -> Page:
    """Return the rows in the order in which they are printed."""
    is_sorted = "sort" in words.settings
    is_down = words.choice("order", ("down", "up")) == "down"
    limit = _limit(words, as_json=as_json)
    page = index.page(words.where, sort=words.settings.get("sort", NEWEST_FIRST), descending=is_down, limit=limit)
    # The newest conversations are chosen, and the newest of all stands where one looks: above the next prompt.
    return page if is_sorted or "order" in words.settings else replace(page, rows=page.rows[::-1])


def _limit(words: ListWords, *, as_json: bool) -> int:
    given = words.settings.get("limit", "all" if as_json else str(LIMIT))
    return sys.maxsize if given == "all" else words.number("limit", LIMIT)


def _print_page(page: Page, *, name: str) -> None:
    console = open_console()
    rows = [conversation_cells(row) for row in page.rows]
    if not any(row["reward"].plain != "-" for row in rows):
        rows = [{column: cell for column, cell in row.items() if column != "reward"} for row in rows]
    if rows:
        console.print(rows_table(rows, width=console.width, left_out=CONVERSATION_COLUMNS_LEFT_OUT))
    elif page.of:
        console.print(Text(f"none of the {plural(page.of, 'conversation')} of run {one_line(name)} fits that filter"))
    else:
        console.print(Text(f"run {one_line(name)} holds no conversations yet"))
    if len(rows) < page.total:
        console.print(Text(f"{len(rows)} of {page.total:,}; where=, sort= and limit= choose others", style="dim"))


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
