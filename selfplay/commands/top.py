"""`selfplay top`: a run's best, worst and most surprising conversations."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from selfplay.commands.conversation_rows import (
    conversation_cells,
    conversation_json,
    open_index,
    report_problems,
    rows_table,
)
from selfplay.commands.list_words import read_list_words
from selfplay.commands.terminal import one_line, open_console
from selfplay.commands.words import CommandLine
from selfplay.errors import UserError
from selfplay.filters import NEWEST_FIRST, OLDEST_FIRST, Fields, field_in_filter, narrowed
from selfplay.store import find_run
from selfplay.transcript_index import Row, TranscriptIndex

SUMMARY = "the best, worst and most surprising conversations of a run"
USAGE = """
selfplay top [RUN [FILTER]] [by=PART] [n=5] [where=FILTER] [--json] [runs=FOLDER]

Print the conversations in which a number is largest, in which it is smallest, and those whose reward is furthest from
the mean of their group.

  RUN          a run folder, a name under runs/, or nothing: the newest run
  by=PART      a reward, as in by=question, or anything conversations can be sorted by: kl, turns, value.question,
               role.host, disagreement, ... (default: the whole reward)
  n=N          how many of each (default: 5)
  where=FILTER only of these, as in where='split=held_out'; docs/filters.md has all of it
  --json       print the same as JSON
  runs=FOLDER  where runs are kept (default: runs)

Examples:
  selfplay top
  selfplay top my-run by=question n=3
  selfplay top my-run by=kl where='step>20 & !flag=failed'
"""
SETTINGS = ("by", "n")
NUM = 5
LARGE = 1e6  # from here on a number is written as 1.5e+06
BEST, WORST, SURPRISING = "best", "worst", "surprising"
COLUMNS_LEFT_OUT = ("cut", "said", "first words", "turns", "about", "ended", "reward")


def run(line: CommandLine) -> int:
    """Print the conversations that stand out."""
    words = read_list_words(line.words, settings=SETTINGS, usage="selfplay top [RUN [FILTER]] [by=PART]")
    num = words.number("n", NUM)
    folder = find_run(words.run, words.runs)
    with contextlib.closing(open_index(folder)) as index:
        key = _key(words.settings.get("by", "reward"), index.fields())
        found = _standing_out(index, key, where=words.where, num=num)
        if line.as_json:
            print(json.dumps({"run": folder.resolve().name, "by": key, **_as_json(found, key)}, indent=2))
        else:
            _print(open_console(), found, name=folder.resolve().name, key=key)
        report_problems(index)
    return 0


def _key(by: str, fields: Fields) -> str:
    """Return the number that `by` names: a reward's own name will do.  Raises UserError: there is none."""
    keys = [key for key in fields.sort_keys() if key not in (NEWEST_FIRST, OLDEST_FIRST)]
    for key in (by, f"reward.{by}"):
        if key in keys:
            return key
    close = difflib.get_close_matches(by, [*keys, *(key.partition(".")[2] for key in keys)], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(keys)}"
    raise UserError(f"by={by}: the run has no such number; {hint}")


def _standing_out(index: TranscriptIndex, key: str, *, where: str, num: int) -> dict[str, list[Row]]:
    """Return the rows of each kind; none whose number is unknown."""
    field = field_in_filter(key)
    kinds = {BEST: (f"{field}!=null", key, True), WORST: (f"{field}!=null", key, False)}
    kinds[SURPRISING] = ("surprise>0", "surprise", True)
    fields = index.fields()
    return {
        kind: list(index.page(narrowed(where, query, fields), sort=of, descending=is_down, limit=num).rows)
        for kind, (query, of, is_down) in kinds.items()
    }


def _number(row: Row, kind: str, key: str) -> float | None:
    return row.surprise if kind == SURPRISING else row.number(key)


def _as_json(found: Mapping[str, Sequence[Row]], key: str) -> dict[str, list[dict[str, Any]]]:
    return {
        kind: [
            {"number": _number(row, kind, key), "group_mean": row.group_mean, **conversation_json(row)} for row in rows
        ]
        for kind, rows in found.items()
    }


def _print(console: Console, found: Mapping[str, Sequence[Row]], *, name: str, key: str) -> None:
    if not found[BEST]:
        console.print(Text(f"no conversation of run {one_line(name)} that fits has a {one_line(key)}"))
        return
    titles = {
        BEST: f"most {key}",
        WORST: f"least {key}",
        SURPRISING: "most surprising: reward far from the mean of its group",
    }
    for kind, rows in found.items():
        if rows:
            console.print(Text(one_line(titles[kind]), style="bold"))
            cells = [_cells(row, kind, key) for row in rows]
            console.print(rows_table(cells, width=console.width, left_out=COLUMNS_LEFT_OUT))
            console.print()


def _cells(row: Row, kind: str, key: str) -> dict[str, Text]:
    cells = conversation_cells(row)
    del cells["seed"]
    reward = cells.pop("reward")
    first = {"id": cells.pop("id")}
    if kind == SURPRISING:
        return {**first, "reward": reward, "group": Text(_shown(row.group_mean)), **cells}
    number = {"value": Text(_shown(row.number(key)))}
    return {**first, **number, **({} if key == "reward" else {"reward": reward}), **cells}


def _shown(number: float | None) -> str:
    if number is None:
        return "-"
    return str(number) if isinstance(number, int) else f"{number:z.3f}" if abs(number) < LARGE else f"{number:.3g}"
