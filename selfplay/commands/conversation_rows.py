"""Conversations as rows: of a table on the terminal, or of JSON."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich import box
from rich.table import Table
from rich.text import Text

from selfplay.commands.terminal import facts_line, first_words, one_line, outcome_style, outcome_words, share
from selfplay.dialog import Outcome, Reason, Status
from selfplay.transcript_index import Row, TranscriptIndex

__all__ = ["conversation_cells", "conversation_json", "cut_cell", "open_index", "report_problems", "rows_table"]

NUMBERS = frozenset(("seed", "conv.", "turns", "said", "cut", "size", "reward", "group", "value"))
GIVING = frozenset(("env", "model", "ended", "about", "first words"))  # they are cut where the terminal is narrow
LEAST = 10  # so many characters a column of GIVING keeps; where there is no room for that, columns are left out
GAP = 2  # between two columns
LARGE_REWARD = 1e6  # from here on one is written as 1.5e+06
NUM_FIRST_WORDS = 60  # characters
LARGE = 50_000_000  # bytes of conversations that take so long to index that one should be told


def open_index(folder: Path) -> TranscriptIndex:
    """Return a run's index, up to date; who would wait long for it is told why."""
    index = TranscriptIndex(folder)
    size = sum(path.stat().st_size for path in (folder / "conversations").glob("*.jsonl*"))
    if size > LARGE and not index.info().conversations:
        print(f"{folder.name}: reading {size / 1e6:.0f} MB of conversations, this once", file=sys.stderr)
    index.refresh()
    return index


def report_problems(index: TranscriptIndex) -> None:
    """Tell on stderr what had to be skipped, one line each."""
    name = index.folder.resolve().name
    for problem in index.problems:
        print(one_line(f"{name}: {problem}"), file=sys.stderr)


def conversation_json(row: Row) -> dict[str, Any]:
    """Return what `--json` says of a conversation."""
    return {
        "id": row.id,
        "seed": row.seed,
        "split": row.split,
        "public": row.public,
        "turns": row.turns,
        "tokens": row.tokens,
        "cut_turns": row.cut_turns,
        "status": row.status,
        "reason": row.reason,
        "reward": row.reward,
        "parts": row.raw,
        "values": row.parts,
        "advantage": row.advantage,
        "kl": row.kl,
        "surprise": row.surprise,
        "version": row.version,
        "flags": list(row.flags),
        "first_words": row.first_words,
    }


def conversation_cells(row: Row) -> dict[str, Text]:
    """Return a conversation's cells, by the names of their columns."""
    outcome = _outcome(row)
    ended = cut_cell(outcome_words(outcome, is_by_shown=False))
    ended.stylize(outcome_style(outcome))
    return {
        "id": Text(one_line(row.id)),
        "seed": Text(str(row.seed)),
        "turns": Text(str(row.turns)),
        "said": Text(str(row.tokens)),
        "cut": Text(share(row.cut_turns, row.turns)),
        "reward": Text(_reward(row.reward)),
        "ended": ended,
        "about": cut_cell(_topic(row.public)),
        "first words": cut_cell(first_words(row.first_words, length=NUM_FIRST_WORDS)),
    }


def rows_table(
    rows: Sequence[Mapping[str, Text]], *, width: int, left_out: Sequence[str], numbers: Collection[str] = NUMBERS
) -> Table:
    """Return the rows as a table; its first column says what to type next, so it is the last to give way.

    left_out: columns that go where there is no room, in this order.  numbers: columns that are aligned on the right.
    """
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
        table.add_column(cut_cell(name), no_wrap=is_whole, justify="right" if name in numbers else "left")
    table.columns[0].width, table.columns[0].overflow = min(widths[first], width), "fold"
    for row in rows:
        table.add_row(*(row[name] for name in widths))
    return table


def cut_cell(text: str) -> Text:
    """Return a cell that ends in an ellipsis where it has no room."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def _reward(reward: float | None) -> str:
    if reward is None:
        return "-"
    return f"{reward:z.2f}" if abs(reward) < LARGE_REWARD else f"{reward:.2g}"


def _outcome(row: Row) -> Outcome | None:
    if row.status is None:
        return None
    return Outcome(status=cast("Status", row.status), reason=cast("Reason", row.reason))


def _topic(public: Mapping[str, Any]) -> str:
    return one_line(str(public["topic"])) if "topic" in public else facts_line(public)
