"""The tables of a policy's versions at a game against each opponent, and of what scripts and chance get."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay.commands.evaluation_table import cells, interval, number, title
from selfplay.commands.terminal import one_line, plural
from selfplay.evaluate import Mean
from selfplay.evaluate_games import GameEvaluation, GameLine
from selfplay.game_numbers import GAME

__all__ = ["print_game_evaluation"]

# Shown below what the game says; everything else is in the JSON.
LANGUAGE = ("kl/per_token_nats", "play/distinct_2", "play/words_per_turn", "play/cut_share")
REWARD = "reward/per_conversation"  # where nothing is paid, that is what there is
OF_REFERENCES = ("game/payoff", "game/success", "game/protocol_ok", "game/turns")


def print_game_evaluation(console: Console, evaluation: GameEvaluation) -> None:
    """Print a table for each opponent and version, if there is any, then what scripts and chance get in every role."""
    is_paying = evaluation.best is not None
    for line in evaluation.lines:
        changes = [change for change in evaluation.changes if (change.at, change.against) == (line.at, line.against)]
        if not line.num_conversations:
            words = f"version {line.at} against {line.against}: no scenario was played to its end, all failed"
            console.print(Text(one_line(words), style="yellow"))
        elif changes:
            rows = {row.name: row for row in changes[0].comparison.rows}
            table = _table(evaluation, line, columns=[f"at {changes[0].since}", f"at {line.at}", "change"])
            for name in _shown(list(rows)):
                table.add_row(*cells(rows[name]))
            _print(console, table, line, is_paying=is_paying, note="a version; bold: the interval excludes 0")
        elif not _is_in_a_change(evaluation, line):
            table = _table(evaluation, line, columns=[f"at {line.at}"])
            for name in _shown(list(line.numbers)):
                table.add_row(*_cells_of_mean(name, line.numbers[name]))
            _print(console, table, line, is_paying=is_paying)
    _print_references(console, evaluation)


def _is_in_a_change(evaluation: GameEvaluation, line: GameLine) -> bool:
    return any((change.since, change.against) == (line.at, line.against) for change in evaluation.changes)


def _shown(names: Sequence[str]) -> list[str]:
    of_game = [name for name in names if name.startswith(GAME)]
    # The payoff first, then each role's, then the others as they come.
    of_game.sort(key=lambda name: not name.startswith("game/payoff"))
    known = [name for name in LANGUAGE if name in names]
    return [*(of_game or [name for name in names if name == REWARD]), *known]


def _table(evaluation: GameEvaluation, line: GameLine, *, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(one_line(f"against {line.against}"))
    for column in (*columns, f"{evaluation.confidence:.0%} interval"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _print(console: Console, table: Table, line: GameLine, *, is_paying: bool, note: str = "") -> None:
    console.print(table)
    counted = f"{plural(line.num_conversations, 'conversation')} on {plural(line.num_scenarios, 'scenario')}"
    words = [f"{counted} {note}".rstrip()]
    if line.num_failed:
        words.append(f"{plural(line.num_failed, 'more conversation')} of version {line.at} failed")
    # Where nobody is ever paid, nothing is missing.
    if line.num_unpaid and (line.num_unpaid < line.num_conversations or is_paying):
        words.append(f"{line.num_unpaid} of version {line.at} without a payoff, as a limit of the engine cut them")
    console.print(Text("; ".join(words), style="dim"))


def _cells_of_mean(name: str, mean: Mean) -> list[Text]:
    bounds = interval(name, mean.low, mean.high)
    return [Text(one_line(title(name))), Text(number(name, mean.value)), Text(bounds, style="dim")]


def _print_references(console: Console, evaluation: GameEvaluation) -> None:
    """Print the lines that a policy's payoff lies between; nothing where nothing is paid."""
    paid = [line for line in evaluation.references if "game/payoff" in line.numbers]
    if not paid:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("in every role")
    shown = [name for name in OF_REFERENCES if any(name in line.numbers for line in paid)]
    for column in (title(shown[0]), "95% interval", *map(title, shown[1:])):
        table.add_column(column, justify="right", no_wrap=True)
    for line in paid:
        payoff, *others = shown
        first = [Text(line.player), *_cells_of_mean(payoff, line.numbers[payoff])[1:]]
        table.add_row(*first, *(Text(number(name, line.numbers[name].value)) for name in others))
    console.print(table)
    if evaluation.chance is not None and evaluation.best is not None:
        words = f"the game promises {evaluation.chance:.3f} by chance, and {evaluation.best:.3f} at best"
        console.print(Text(words, style="dim"))
