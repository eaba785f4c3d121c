"""The tables of a tournament: how good everybody is, and what each got against each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay.commands.evaluation_table import interval, number
from selfplay.commands.terminal import one_line, plural
from selfplay.commands.words import program_name
from selfplay.evaluate import Mean
from selfplay.skill import Skill
from selfplay.tournament import PAYOFF, Cell, Tournament

__all__ = ["print_tournament"]

FORM = "game/protocol_ok"
CELL_WIDTH = 18  # characters: an interval, and what stands between two
MOST_NAME_WIDTH = 32


def print_tournament(console: Console, tournament: Tournament, *, out: Path | None = None) -> None:
    """Print ratings and the matrix of payoffs; out: the run folder with the conversations."""
    if not any(cell.num_conversations for cell in tournament.cells):
        console.print(Text("no scenario was played to its end by anybody: all failed", style="yellow"))
        return
    if tournament.contest == "none":
        words = "all roles are always paid the same, so nobody wins and there are no ratings: what counts is the payoff"
        console.print(Text(words))
    else:
        console.print(_ratings(tournament))
        console.print(
            Text(
                "± two sigma, games taken as independent; 4.1 more win two of three; each role has its scale",
                style="dim",
            )
        )
    console.print(_results(tournament))
    console.print(Text("against all others", style="dim"))
    shown, told = _roles_shown(tournament)
    for role in ("", *shown):
        _print_matrix(console, tournament, role=role)
    if told:
        console.print(Text(told, style="dim"))
    for note in _counts(tournament):
        console.print(Text(note, style="dim"))
    if out is not None:
        _print_where(console, tournament, out)


# ----- standings -----


def _ratings(tournament: Tournament) -> Table:
    table = _table("", "rating", *(f"as {one_line(role)}" for role in tournament.roles))
    for one in tournament.standings:
        skills = (one.skill, *(one.role_skills[role] for role in tournament.roles))
        table.add_row(one_line(one.entry.name), *map(_skill, skills))
    return table


def _skill(skill: Skill) -> Text:
    low, high = skill.interval
    return Text.assemble(f"{skill.mu:.1f}", (f" ± {(high - low) / 2:.1f}", "dim"))


def _results(tournament: Tournament) -> Table:
    is_contest = tournament.contest != "none"
    won = ("won", "tied", "lost") if is_contest else ()
    table = _table("", "payoff", f"{tournament.confidence:.0%} interval", *won, "form kept")
    for one in tournament.standings:
        payoff = one.payoff
        cells = [number(PAYOFF, payoff.value), interval(PAYOFF, payoff.low, payoff.high)]
        cells += [str(one.wins), str(one.ties), str(one.losses)] if is_contest else []
        cells.append(number(FORM, one.numbers[FORM].value) if FORM in one.numbers else "-")
        table.add_row(one_line(one.entry.name), *cells)
    return table


def _table(first: str, *columns: str) -> Table:
    """Return a table of a column of names and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


# ----- the matrix -----


def _roles_shown(tournament: Tournament) -> tuple[tuple[str, ...], str]:
    """Return the roles whose matrices say something of their own, and where to read the others."""
    roles = tournament.roles
    if len(roles) != 2 or tournament.contest == "general":
        return roles, ""
    sign = "with the other sign" if tournament.contest == "zero_sum" else "as they are"
    first, second = map(one_line, roles)
    return roles[:1], f"payoff as {second} is in the columns of payoff as {first}, {sign}"


def _print_matrix(console: Console, tournament: Tournament, *, role: str) -> None:
    """Print what rows got against columns, in several tables where one would be too wide; role: "": over all."""
    names = tournament.names
    width = min(MOST_NAME_WIDTH, max(len(one_line(name)) for name in names))
    room = max(1, (console.width - width - 8) // CELL_WIDTH)
    heading = f"payoff as {role}" if role else "payoff"
    for start in range(0, len(names), room):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column(one_line(heading), max_width=MOST_NAME_WIDTH + 4)
        shown = names[start : start + room]
        for column in shown:
            table.add_column(_heading(column), justify="right", max_width=CELL_WIDTH - 2, overflow="fold")
        for row in names:
            cells = [_cell(_mean(tournament.cell(row, column), role)) for column in shown]
            table.add_row(one_line(row), *cells)
        console.print(table)


def _heading(name: str) -> str:
    """Return a column's name; one that is too long has its step on a line of its own."""
    name = one_line(name)
    return name if len(name) <= CELL_WIDTH - 2 else "\n@".join(name.rsplit("@", 1))


def _mean(cell: Cell, role: str) -> Mean | None:
    return cell.numbers.get(f"{PAYOFF}/{role}" if role else PAYOFF)


def _cell(mean: Mean | None) -> Text:
    if mean is None:
        return Text("-")
    bounds = interval(PAYOFF, mean.low, mean.high)
    return Text.assemble(number(PAYOFF, mean.value), "\n", (bounds, "dim"))


# ----- below -----


def _counts(tournament: Tournament) -> Iterator[str]:
    most = max(tournament.cells, key=lambda cell: cell.num_scenarios)
    yield (
        f"a row's payoff against a column, and its {tournament.confidence:.0%} interval over "
        f"{plural(most.num_scenarios, 'scenario')}; on the diagonal an entry meets itself"
    )
    # Each conversation of two entries is in two cells.
    pairs = {frozenset((cell.row, cell.column)): cell for cell in tournament.cells}.values()
    failed, unpaid = sum(cell.num_failed for cell in pairs), sum(cell.num_unpaid for cell in pairs)
    if failed:
        yield f"{plural(failed, 'conversation')} failed, and such scenarios are left out of their cells"
    if unpaid:
        yield f"{plural(unpaid, 'conversation')} without a payoff, as a limit of the engine cut them"


def _print_where(console: Console, tournament: Tournament, out: Path) -> None:
    first, second, *_ = tournament.names
    wanted = next(iter(tournament.cell(first, second).role_filters.values()))
    console.print(Text(one_line(f"stored in {out}; tournament.json says for each cell what finds it, such as:")))
    console.print(Text(one_line(f"  {program_name()} ls {out} '{wanted}'")), soft_wrap=True)
