"""`selfplay diff`: two versions on the same scenarios, in numbers and side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay.commands.conversation_rows import rows_table
from selfplay.commands.side_by_side import column_of, print_side_by_side
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.dialog import Split
from selfplay.errors import UserError
from selfplay.paired import (
    PairedComparison,
    PairedDifference,
    PairedScenario,
    Side,
    compare_versions,
    split_reference,
    versions_of,
)
from selfplay.paired_json import paired_to_json
from selfplay.run_folder import RUNS
from selfplay.run_reader import find_run
from selfplay.transcript_index import TranscriptIndex
from selfplay.written import nearest

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "two checkpoints on the same scenarios, side by side"
USAGE = """
selfplay diff [RUN@A] [RUN@B] [key=value ...] [--json]

Compare what two versions did on the same stored scenarios: how often the second won, the mean difference of the reward
and of its parts with their intervals, what it was bought with (KL, words a turn, cut turns, ...), and the scenarios
where the second lost most, turn by turn.  Where both were rewarded for different things nobody wins or loses.

  RUN@A RUN@B    a path or a name under runs/, and a version: RUN@0 is the base, nothing after the @ the newest.
                 One RUN alone: its oldest version against its newest, RUN@B: against B; nothing: the newest run
  scenario=SEED  show this scenario, named by its seed or as env/seed, instead of those lost most
  part=NAME      win and lose by this part of the reward instead of the whole
  n=5            how many scenarios to show
  split=train    compare training scenarios (default: held_out, or train where both share no other)
  --json         print the numbers as JSON
  runs=FOLDER    where runs are kept (default: runs)

Examples:
  selfplay diff chat@0 chat@20
  selfplay diff chat-a@ chat-b@ part=question n=2
"""
NAME, MOVED = "part", "moved the reward by"


class DiffSettings(Settings):
    """What `diff` accepts besides the two sides."""

    scenario: str = ""
    part: str = ""
    n: int = Field(default=5, ge=0)
    split: Split | None = None
    runs: Annotated[Path, WRITTEN_PATH] = RUNS


def run(line: CommandLine) -> int:
    """Compare what the words name."""
    settings = resolve(DiffSettings, line.settings)
    a, b = _sides(line.names, settings)
    comparison = compare_versions(a, b, split=settings.split, part=settings.part)
    shown = _chosen(comparison, settings)
    if line.as_json:
        print(json.dumps(paired_to_json(comparison), indent=2))
    else:
        console = open_console()
        _print_summary(console, comparison)
        for scenario in shown:
            _print_scenario(console, comparison, scenario)
    return 0


def _sides(names: Sequence[str], settings: DiffSettings) -> tuple[Side, Side]:
    if len(names) > 2:
        raise UserError(f"diff takes two sides, not {len(names)}: {' '.join(names)}")
    if len(names) == 2:
        first = _side(names[0], settings.runs)
        # Both sides are mostly of one run: its index is opened once.
        return first, _side(names[1], settings.runs, known=first)
    newest = _side(names[0] if names else "", settings.runs)
    split = settings.split or "held_out"
    versions = [version.version for version in versions_of(newest.index, split=split)]
    if len(versions) < 2:
        raise UserError(
            f"run {newest.run} stores {plural(len(versions), 'version')} on {split.replace('_', '-')} scenarios; "
            "write diff RUN@A RUN@B for versions of two runs"
        )
    wanted = versions[-1] if newest.version in (None, versions[0]) else newest.version
    return replace(newest, version=versions[0]), replace(newest, version=wanted)


def _side(reference: str, runs: Path, *, known: Side | None = None) -> Side:
    name, version = split_reference(reference)
    folder = find_run(name, runs)
    run = folder.resolve().name
    if known is not None and known.index.folder.resolve() == folder.resolve():
        return Side(run=run, index=known.index, version=version)
    index = TranscriptIndex(folder)
    index.refresh()
    return Side(run=run, index=index, version=version)


def _chosen(comparison: PairedComparison, settings: DiffSettings) -> list[PairedScenario]:
    if not settings.scenario:
        return list(comparison.scenarios[: settings.n])
    names = [scenario.scenario for scenario in comparison.scenarios]
    found = [
        scenario
        for scenario in comparison.scenarios
        if settings.scenario in (scenario.scenario, scenario.scenario.rpartition("/")[2])
    ]
    if not found:
        hint = nearest(settings.scenario, names, is_list_shown=False) or f"; they share {', '.join(names[:3])}, ..."
        raise UserError(f"scenario={settings.scenario}: both sides did not play it to an end{hint}")
    return found


def _print_summary(console: Console, comparison: PairedComparison) -> None:
    console.print(Text.assemble(("a ", "dim"), _name(comparison.a), ("   b ", "dim"), _name(comparison.b)))
    num = len(comparison.scenarios)
    left_out = "".join(
        f"; {count} left out, {why}"
        for count, why in (
            (comparison.num_failed, "a conversation failed"),
            (comparison.num_unpaired, "played by one side only"),
        )
        if count
    )
    console.print(Text(f"{plural(num, f'{comparison.split} scenario')}{left_out}".replace("held_out", "held-out")))
    console.print(Text(_result(comparison), style="bold"))
    if num and (comparison.is_comparable or comparison.parts or comparison.measures):
        console.print(_table(comparison, width=console.width))
        console.print(Text("means over scenarios; bold: the interval excludes 0", style="dim"))


def _result(comparison: PairedComparison) -> str:
    if comparison.why_not:
        return one_line(comparison.why_not)
    by = f" by {one_line(comparison.part)}" if comparison.part else ""
    won, tied, lost = (comparison.count(result) for result in ("win", "tie", "loss"))
    return f"b won {won}, tied {tied}, lost {lost}{by}"


def _table(comparison: PairedComparison, *, width: int) -> Table:
    interval = f"{comparison.confidence:.0%} interval"
    rows = [part for part in comparison.parts if part.name != comparison.part]
    # In different units the rewards themselves say nothing either.
    if comparison.is_comparable:
        rows = [comparison.difference, *rows]
    cells = [_cells(row, interval) for row in rows]
    cells += [_cells(replace(one.difference, name=one.words), interval) for one in comparison.measures]
    return rows_table(cells, width=width, left_out=(MOVED, interval, "a", "b"), numbers=cells[0].keys() - {NAME})


def _cells(row: PairedDifference, interval: str) -> dict[str, Text]:
    style = "bold" if row.is_clear else ""
    ends = f"{row.low:+z.3f} to {row.high:+z.3f}" if math.isfinite(row.low) else "-"
    return {
        NAME: Text(one_line(row.name)),
        "a": Text(_number(row.a, "z.3f")),
        "b": Text(_number(row.b, "z.3f")),
        "b - a": Text(_number(row.difference, "+z.3f"), style=style),
        interval: Text(ends, style=style or "dim"),
        MOVED: Text(_number(row.value, "+z.3f"), style="dim"),
    }


def _print_scenario(console: Console, comparison: PairedComparison, scenario: PairedScenario) -> None:
    console.print()
    about = f" · {one_line(scenario.about)}" if scenario.about else ""
    console.print(Text.assemble((one_line(scenario.scenario), "bold"), about))
    numbers = f"a {_number(scenario.reward_a, 'z.2f')}, b {_number(scenario.reward_b, 'z.2f')}"
    console.print(Text(f"{numbers}: {_number(scenario.difference, '+z.2f')}", style="dim"))
    columns = []
    for letter, side, ids in (("a", comparison.a, scenario.a), ("b", comparison.b, scenario.b)):
        record = side.index.record(ids[0])
        if record is None:
            raise UserError(f"conversation {ids[0]} of run {side.run} can no longer be read")
        more = f" (one of {len(ids)})" if len(ids) > 1 else ""
        columns.append(column_of(record, title=f"{letter} {ids[0]}{more}" if console.width >= 100 else letter))
    print_side_by_side(console, columns[0], columns[1])


def _name(side: Side) -> str:
    return one_line(side.run if side.version is None else f"{side.run}@{side.version}")


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else "-"
