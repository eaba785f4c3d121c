"""Two conversations beside each other on a terminal, turn by turn; below each other where it is narrow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from selfplay.commands.terminal import INDENT, one_line, printable, role_style

__all__ = ["Column", "SpokenTurn", "column_of", "print_side_by_side"]

WIDE = 100  # columns of a terminal: two conversations fit beside each other


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenTurn:
    """What stands in one place."""

    role: str
    text: str
    reward: float | None = None  # None: unknown, or not to be seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One of the two conversations."""

    title: str
    turns: tuple[SpokenTurn, ...]
    roles: tuple[str, ...]


def column_of(record: Mapping[str, Any], *, title: str) -> Column:
    """Return a transcript record, or what is left of one that is shown blind, as a column."""
    rewards = (record.get("rewards") or {}).get("per_turn") or ()
    turns = [
        SpokenTurn(role=turn["role"], text=turn["text"], reward=reward)
        for turn, reward in zip_longest(record["turns"], rewards[: len(record["turns"])])
    ]
    return Column(title=title, turns=tuple(turns), roles=tuple(record["scenario"]["roles"]))


def print_side_by_side(console: Console, left: Column, right: Column, *, focus: str = "") -> None:
    """Print two conversations turn by turn; focus: the role to look at, which stands out, "": all alike."""
    pairs = list(zip_longest(left.turns, right.turns))
    if console.width >= WIDE:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), expand=True)
        for column in (left, right):
            table.add_column(Text(one_line(column.title)), ratio=1, overflow="fold")
        for pair in pairs:
            table.add_row(*(_cell(turn, column, focus) for turn, column in zip(pair, (left, right), strict=True)))
        console.print(table)
        return
    for number, pair in enumerate(pairs):
        console.print(Text(f"turn {number}", style="dim"))
        for turn, column in zip(pair, (left, right), strict=True):
            title = Text(f"{one_line(column.title)}: ", style="dim")
            console.print(Padding(title + _cell(turn, column, focus), (0, 0, 0, INDENT), expand=False))


def _cell(turn: SpokenTurn | None, column: Column, focus: str) -> Text:
    if turn is None:
        return Text("(over)", style="dim")
    style = role_style(turn.role, column.roles)
    is_aside = bool(focus) and turn.role != focus
    said = Text(printable(turn.text), style="dim" if is_aside else "") if turn.text else Text("(nothing)", style="dim")
    cell = Text.assemble((one_line(turn.role), "dim" if is_aside else style), " ") + said
    if turn.reward is not None:
        cell.append(f"  {turn.reward:+z.2f}", style="dim green")
    return cell
