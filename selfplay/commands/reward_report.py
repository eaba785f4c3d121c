"""`selfplay reward report`: how good a reward model is, and whether something simpler is as good."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rewards import REWARDS
from selfplay.commands.terminal import one_line, open_console
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
from selfplay.reward_model.trained_on import is_known

if TYPE_CHECKING:
    from selfplay.reward_model.model import ModelInfo

__all__ = ["REPORT", "USAGE", "cheap_heuristics", "counted", "print_report", "run", "say_line"]

USAGE = """
selfplay reward report RM [on=DATA] [key=value ...] [--json]

Measures a reward model again: how often it prefers what was preferred, with intervals, by length and source, whether it
is as sure as it is right, and whether length alone, or one simple reward, does as well.  docs/reward-models.md says
what each line means.

  RM              a reward model: a folder, or a name under reward_models/
  on=DATA         what to measure on, as `reward train` takes it, with commas (default: what was held out); what the
                  model was trained on is left out
  by=NAME         of runs: what this one said, such as person, judge or gold (default: everybody)
  question=interesting   of chitchat: or witty, upbeat; min_gap=2: by how much ratings of a pair differ
  runs=FOLDER     where runs are kept (default: runs)
  seed=0          of the intervals, and of pairs that are drawn
  --json          print all of it as JSON

Examples:
  selfplay reward report helpful
  selfplay reward report helpful on=other.jsonl
"""
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
    from selfplay.reward_model.folder import find, held_out_of, load, trained_on_of

    folder = find(names[0])
    data = _data_on(settings, trained_on_of(folder), folder) if settings.on else _Data(examples=held_out_of(folder))
    if not data.examples:
        raise UserError(f"{folder} was saved without held-out examples; name other data: on=DATA")
    model, heuristics = load(folder), cheap_heuristics()
    choice = _chosen_before(folder) or choose_baselines(data.examples, heuristics, seed=settings.seed, what=CHOSEN_HERE)
    report = report_on(model, data.examples, (), heuristics, choice=choice, seed=settings.seed)
    if line.as_json:
        of = {"reward_model": str(folder), "on": settings.on or "held out", "notes": list(data.notes)}
        print(json.dumps({**of, **report_to_json(report)}))
        return 0
    console = open_console()
    console.print(Text(one_line(_headline(folder, model.info)), style="bold"), soft_wrap=True)
    say_line(console, "on", settings.on or "what was held out when it was trained")
    for note in data.notes:
        say_line(console, "note", note, style="yellow")
    print_report(console, report)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """What a model is measured on."""

    examples: Sequence[Example]
    notes: tuple[str, ...] = ()


def _data_on(settings: ReportSettings, trained_on: Collection[str] | None, folder: Path) -> _Data:
    """Return the examples of other data, without those that the model was trained on."""
    from selfplay.reward_model.readers import read_data

    given = settings.model_dump(include={"runs", "question", "min_gap", "by", "seed"})
    loaded = read_data(settings.on.split(","), FitSettings.model_validate(given))
    bad = [f"{counted(len(loaded.problems), 'line')} cannot be used: {loaded.problems[0]}"] if loaded.problems else []
    if trained_on is None:
        unknown = f"{folder} does not say what it was trained on: some of these examples may be among it"
        return _Data(examples=loaded.examples, notes=(*loaded.notes, *bad, unknown))
    kept = [example for example in loaded.examples if not is_known(example, trained_on)]
    num, num_known = len(loaded.examples), len(loaded.examples) - len(kept)
    of = f"{num_known:,} of {_of_kind(loaded.examples)}"
    if not kept:
        raise UserError(f"on={settings.on}: {folder} was trained on all {num:,} of these examples; name other data")
    left_out = [f"{of} hold a dialog that was trained on, and are left out"] if num_known else []
    return _Data(examples=kept, notes=(*loaded.notes, *bad, *left_out))


def _of_kind(examples: Sequence[Example]) -> str:
    return counted(len(examples), "pair" if all(example.kind == "pair" for example in examples) else "example")


def _chosen_before(folder: Path) -> Choice | None:
    """Return the baselines that were chosen on the training examples; None: nothing was recorded."""
    try:
        return choice_from_json(json_from_line((folder / REPORT).read_bytes()))
    except (OSError, RecordError):
        return None


def _headline(folder: Path, info: ModelInfo) -> str:
    sources = ", ".join(f"{count:,} of {source or 'unknown'}" for source, count in info.sources.items())
    members = "" if info.num_members == 1 else f", {info.num_members} members"
    return f"{folder}: {info.backbone}{members}; trained on {counted(info.num_train, 'example')} ({sources})"


def cheap_heuristics() -> dict[str, Heuristic]:
    """Return the package's rewards that read text alone, one conversation at a time, and are quick."""
    return {name: means_of(kind()) for name, kind in REWARDS.items() if _is_cheap(kind)}


def _is_cheap(kind: type) -> bool:
    is_alone = getattr(kind, "scope", "conversation") in ("turn", "conversation")
    return is_alone and not getattr(kind, "is_slow", False) and not getattr(kind, "needs_tokens", False)


# ----- on the terminal -----


def print_report(console: Console, report: Report) -> None:
    """Print what was found, the most important first."""
    if report.has_too_few:
        for finding in report.findings:
            say_line(console, "accuracy", finding, style="yellow")
        return
    ties = f", {counted(report.num_ties, 'tie')} left out" if report.num_ties else ""
    pairs = f"of {counted(report.accuracy.num_pairs, 'pair')} from {counted(report.num_groups, 'group')}{ties}"
    say_line(console, "accuracy", f"{with_interval(report.accuracy)} {pairs}", style="bold")
    for finding in report.findings:
        say_line(console, "", finding, style="yellow")
    for baseline, verdict in zip(report.baselines, report.verdicts, strict=True):
        say_line(console, "baseline", _baseline(baseline))
        say_line(console, "", verdict, style="" if baseline.standing == "model" else "yellow")
    say_line(console, "", f"baselines chosen on {report.choice.chosen_on}", style="dim")
    say_line(console, "calibration", _calibration(report.calibration, num_ties=report.num_ties))
    if report.agreement is not None:
        say_line(console, "members", _agreement(report.agreement))
    _print_shares(console, "by length", report.by_length)
    _print_shares(console, "by source", report.by_source)
    _print_bins(console, report.calibration)


def _baseline(baseline: Baseline) -> str:
    way = "" if baseline.sign > 0 else " (the less, the better)"
    return f"{baseline.name}{way}: {with_interval(baseline.accuracy)}"


def _calibration(calibration: Calibration, *, num_ties: int) -> str:
    if not calibration.num_pairs:
        return "-"
    # The accuracy leaves ties out, so the two are of different pairs.
    ties = f" (the accuracy's and {counted(num_ties, 'tie')})" if num_ties else ""
    return (
        f"error {per_cent(calibration.error)}; log loss {calibration.log_loss:.3f} nats, {math.log(2):.3f} for one "
        f"that always says one half; of {counted(calibration.num_pairs, 'pair')}{ties}"
    )


def _agreement(agreement: Agreement) -> str:
    each = ", ".join(per_cent(accuracy) for accuracy in agreement.accuracies)
    text = f"alone they are right on {each} of pairs; two of them agree on {per_cent(agreement.share)}"
    parts = ((agreement.when_unanimous, "where all agree"), (agreement.when_divided, "where they do not"))
    rights = [
        f"{per_cent(one.value)} of the {counted(one.num_pairs, 'pair')} {where}"
        for one, where in parts
        if one.num_pairs
    ]
    return f"{text}; together they are right on {' and on '.join(rights)}"


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


def counted(number: int, noun: str) -> str:
    """Return ``1 pair`` or ``1,884 pairs``."""
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def say_line(console: Console, what: str, text: str, *, style: str = "") -> None:
    """Print what something is and, beside it, what there is to say of it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=WIDTH)
    grid.add_column()
    grid.add_row(Text(what), Text(one_line(text), style=style))
    console.print(grid)
