"""`selfplay reward report`: how good a reward model is, and whether something simpler is as good."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rewards import REWARDS
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.errors import UserError
from selfplay.line_files import RecordError, json_from_line
from selfplay.reward_model.accuracy import Share
from selfplay.reward_model.baselines import Baseline, Choice, Heuristic, choose_baselines, means_of
from selfplay.reward_model.card import per_cent, with_interval
from selfplay.reward_model.examples import Example
from selfplay.reward_model.report import Agreement, Calibration, Report, choice_from_json, report_on, report_to_json
from selfplay.reward_model.settings import FitSettings

if TYPE_CHECKING:
    from selfplay.reward_model.model import ModelInfo

__all__ = ["REPORT", "cheap_heuristics", "print_report", "run", "say_line"]

REPORT = "report.json"  # in a reward model's folder: what was found when it was trained
WIDTH = len("calibration")
# Where nothing was chosen on training examples, the baselines are chosen on what they are tested on.
CHOSEN_HERE = "pairs that it is tested on, which favours it"


class ReportSettings(Settings):
    """What `reward report` accepts besides the reward model."""

    on: str = ""  # data to measure on, with commas; "": what was held out
    seed: int = Field(default=0, ge=0)
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")
    question: str = "interesting"
    min_gap: int = Field(default=2, ge=1)
    by: str = ""


def run(line: CommandLine) -> int:
    """Measure a reward model and print what was found; return 0."""
    settings = resolve(ReportSettings, line.settings)
    names = line.names[1:]
    if len(names) != 1:
        raise UserError("reward report takes one reward model: a folder, or a name under reward_models/")
    # Imported here, for --help must not wait for torch.
    from selfplay.reward_model.folder import find, held_out_of, load

    folder = find(names[0])
    examples = _examples_on(settings) if settings.on else held_out_of(folder)
    if not examples:
        raise UserError(f"{folder} was saved without held-out examples; name other data: on=DATA")
    model, heuristics = load(folder), cheap_heuristics()
    choice = _chosen_before(folder) or choose_baselines(examples, heuristics, seed=settings.seed, what=CHOSEN_HERE)
    report = report_on(model, examples, (), heuristics, choice=choice, seed=settings.seed)
    if line.as_json:
        print(json.dumps({"reward_model": str(folder), "on": settings.on or "held out", **report_to_json(report)}))
    else:
        console = open_console()
        console.print(Text(one_line(_headline(folder, model.info)), style="bold"), soft_wrap=True)
        print_report(console, report)
    return 0


def _examples_on(settings: ReportSettings) -> tuple[Example, ...]:
    from selfplay.reward_model.readers import read_data

    given = settings.model_dump(include={"runs", "question", "min_gap", "by", "seed"})
    return read_data(settings.on.split(","), FitSettings.model_validate(given)).examples


def _chosen_before(folder: Path) -> Choice | None:
    """Return the baselines that were chosen on the training examples; None: nothing was recorded."""
    try:
        return choice_from_json(json_from_line((folder / REPORT).read_bytes()))
    except (OSError, RecordError):
        return None


def _headline(folder: Path, info: ModelInfo) -> str:
    sources = ", ".join(f"{count:,} of {source or 'unknown'}" for source, count in info.sources.items())
    members = "" if info.num_members == 1 else f", {info.num_members} members"
    return f"{folder}: {info.backbone}{members}; trained on {plural(info.num_train, 'example')} ({sources})"


def cheap_heuristics() -> dict[str, Heuristic]:
    """Return the package's rewards that read text alone, one conversation at a time, and are quick."""
    return {name: means_of(kind()) for name, kind in REWARDS.items() if _is_cheap(kind)}


def _is_cheap(kind: type) -> bool:
    is_alone = getattr(kind, "scope", "conversation") in ("turn", "conversation")
    return is_alone and not getattr(kind, "is_slow", False) and not getattr(kind, "needs_tokens", False)


# ----- on the terminal -----


def print_report(console: Console, report: Report) -> None:
    """Print what was found, the most important first."""
    ties = f", {plural(report.num_ties, 'tie')} left out" if report.num_ties else ""
    pairs = f"of {plural(report.accuracy.num_pairs, 'pair')} from {plural(report.num_groups, 'group')}{ties}"
    say_line(console, "accuracy", f"{with_interval(report.accuracy)} {pairs}", style="bold")
    for baseline in report.baselines:
        say_line(console, "baseline", _baseline(baseline))
    say_line(console, "", f"baselines chosen on {report.choice.chosen_on}", style="dim")
    for finding in report.findings:
        say_line(console, "", finding, style="yellow")
    say_line(console, "calibration", _calibration(report.calibration))
    if report.agreement is not None:
        say_line(console, "members", _agreement(report.agreement))
    _print_shares(console, "by length", report.by_length)
    _print_shares(console, "by source", report.by_source)
    _print_bins(console, report.calibration)


def _baseline(baseline: Baseline) -> str:
    way = "" if baseline.sign > 0 else " (less is better)"
    difference = baseline.difference
    text = f"{baseline.name}{way}: {with_interval(baseline.accuracy)}"
    if not math.isfinite(difference.low):
        return text
    points = f"{100 * difference.value:+.1f} points, {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return f"{text}; the model has {points}"


def _calibration(calibration: Calibration) -> str:
    if not calibration.num_pairs:
        return "-"
    return (
        f"error {per_cent(calibration.error)}; log loss {calibration.log_loss:.3f} nats, "
        f"{math.log(2):.3f} for one that always says one half"
    )


def _agreement(agreement: Agreement) -> str:
    each = ", ".join(per_cent(accuracy) for accuracy in agreement.accuracies)
    together, divided = per_cent(agreement.when_unanimous.value), per_cent(agreement.when_divided.value)
    together, divided = per_cent(agreement.when_unanimous.value), per_cent(agreement.when_divided.value)
    return (
        f"two of {agreement.num_members} agree on {per_cent(agreement.share)} of pairs; right {each}; their mean "
        f"{together} where all agree, {divided} elsewhere"
    )


def _print_shares(console: Console, title: str, shares: Mapping[str, Share]) -> None:
    if not shares:
        return
    table = _table(title, "pairs", "accuracy (95% interval)")
    for label, share in shares.items():
        table.add_row(Text(one_line(label)), f"{share.num_pairs:,}", with_interval(share))
    console.print(table)


def _print_bins(console: Console, calibration: Calibration) -> None:
    if not calibration.bins:
        return
    table = _table("how sure it is", "pairs", "it says", "it is right")
    for one in calibration.bins:
        row = (f"{one.num_pairs:,}", per_cent(one.predicted), per_cent(one.observed))
        table.add_row(f"{100 * one.low:.0f}% to {100 * one.high:.0f}%", *row)
    console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    return table


def say_line(console: Console, what: str, text: str, *, style: str = "") -> None:
    """Print what something is and, beside it, what there is to say of it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=WIDTH)
    grid.add_column()
    grid.add_row(Text(what), Text(one_line(text), style=style))
    console.print(grid)
