"""A study: a table of training runs, one for each arm and seed, that can be stopped and continued at any time.

A study's folder::

    study.json     what each arm trains with
    runs/ARM-SEED  the training runs; a run that left no checkpoint is begun anew in ARM-SEED-2
    cells/ARM-SEED.json   what a finished run came to
    logs/ARM-SEED.log     what its process said
    table.md curves.png   rewritten after every cell
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay import checkpoint
from selfplay.config import resolve
from selfplay.errors import UserError
from selfplay.evaluate import Comparison, comparison_from_json, comparison_to_json
from selfplay.folder_lock import alone_in
from selfplay.run_reader import RunReader
from selfplay.study_arms import Study
from selfplay.train_settings import TrainSettings
from selfplay.whole_files import write_whole

STUDY_SCHEMA, CELL_SCHEMA = "selfplay.study/1", "selfplay.cell/1"
INTERRUPTED = 130
# What differs between cells of an arm, or does not change what they compute.
NOT_COMPARED = ("seed", "out", "runs", "alarms")
# What is kept of a run's metrics, step by step.
CURVES = (
    "reward/total",
    "reward/question_density",
    "reward/question",
    "kl/per_token_nats",
    "kl/coefficient",
    "entropy/per_token_nats",
    "learn/reference_nll_per_token",
    "reward/utterance_repetition",
    "reward/conversation_repetition",
    "reward/sentiment",
    "play/question_rate",
    "play/distinct_2",
    "play/words_per_turn",
    "play/cut_share",
    "game/payoff",
    "game/success",
    "game/protocol_ok",
)

Say = Callable[[str], None]
# (words of `train`, file for what it says, the run's folder) -> exit status
Launch = Callable[[Sequence[str], Path, Path], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training run of a study."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its files: "adaptive-2"."""
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What one training run came to."""

    cell: Cell
    seconds: float  # of all processes that worked on it
    curves: Mapping[str, Sequence[float | None]]  # "step" and the metrics in CURVES -> a value for each step
    comparison: Comparison  # base against trained, on held-out scenarios


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cells of one study, in one folder."""

    study: Study
    folder: Path
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    words: tuple[str, ...] = ()  # changes for all arms

    def cells(self) -> list[Cell]:
        """Return all cells: every arm with the first seed, then with the next."""
        return [Cell(arm=arm, seed=seed) for seed in self.seeds for arm in self.arms]

    def words_of(self, cell: Cell) -> list[str]:
        """Return the words of `train` that a cell is."""
        arm = [word.replace("{seed}", str(cell.seed)) for word in self.study.arms[cell.arm]]
        return [f"config={self.study.config}", "cluster=local", *self.words, *arm, f"seed={cell.seed}"]

    def settings_of(self, cell: Cell) -> TrainSettings:
        """Return what a cell trains with; raises UserError if its words are wrong."""
        return resolve(TrainSettings, self.words_of(cell))

    def cell_file(self, cell: Cell) -> Path:
        """Return where a cell's result stands once it has finished."""
        return self.folder / "cells" / f"{cell.name}.json"

    def log_file(self, cell: Cell) -> Path:
        """Return what a cell's process said."""
        return self.folder / "logs" / f"{cell.name}.log"

    def results(self) -> list[CellResult]:
        """Return the results of the cells that have finished."""
        found = [self.cell_file(cell) for cell in self.cells()]
        return [_read_result(file) for file in found if file.exists()]

    def runs_of(self, cell: Cell) -> list[Path]:
        """Return the folders of a cell's runs that exist, the newest last."""
        place = self.folder / "runs"
        names = (cell.name, *(f"{cell.name}-{number}" for number in range(2, 1000)))
        folders: list[Path] = []
        for name in names:
            if not (place / name).exists():
                break
            folders.append(place / name)
        return folders


def run_study(plan: Plan, *, launch: Launch, say: Say, report: Callable[[list[CellResult]], None]) -> list[str]:
    """Train every cell that has not finished; return what went wrong, one sentence a cell.

    launch: trains in a process of its own; report: is given all results whenever there is a new one.
    A cell that fails holds nobody up; the next call tries it again.  Raises UserError if the folder holds cells of
    other settings, or another process works in it; KeyboardInterrupt if a cell was interrupted.
    """
    settings = {arm: plan.settings_of(Cell(arm=arm, seed=plan.seeds[0])) for arm in plan.arms}
    for arm, one in settings.items():
        if not one.evaluation.conversations:
            raise UserError(f"evaluation.conversations=0: {arm} could not be compared with its base; say at least 1")
    with alone_in(plan.folder, what="this study"):
        _claim(plan, settings)
        return list(_run_cells(plan, launch=launch, say=say, report=report))


def read_curves(run: Path) -> dict[str, list[float | None]]:
    """Return the steps of a run and their metrics, as far as they were written."""
    lines = RunReader(run).metrics()
    names = [name for name in CURVES if any(name in line for line in lines)]
    return {name: [line.get(name) for line in lines] for name in ("step", *names)}


# ----- cells -----


def _run_cells(plan: Plan, *, launch: Launch, say: Say, report: Callable[[list[CellResult]], None]) -> Iterator[str]:
    cells = plan.cells()
    for number, cell in enumerate(cells, start=1):
        if plan.cell_file(cell).exists():
            continue
        say(f"[{number}/{len(cells)}] {cell.arm}, seed {cell.seed}: training{_time_left(plan, cells)}")
        problem = _run_cell(plan, cell, launch=launch)
        if problem is not None:
            say(problem)
            yield problem
        report(plan.results())


def _run_cell(plan: Plan, cell: Cell, *, launch: Launch) -> str | None:
    """Train a cell and store its result; return what went wrong, None: nothing did."""
    words, run = _where_to_go_on(plan, cell)
    if words:
        started = time.perf_counter()
        try:
            status = launch(words, plan.log_file(cell), run)
        finally:
            _add_seconds(plan, cell, time.perf_counter() - started)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status != 0:
            return f"{cell.name} failed: {_last_line(plan.log_file(cell))} (all of it: {plan.log_file(cell)})"
    if not (run / "evaluation.json").exists():
        return f"{cell.name} failed: it ended without an evaluation (what it said: {plan.log_file(cell)})"
    _store_result(plan, cell, run)
    return None


def _where_to_go_on(plan: Plan, cell: Cell) -> tuple[list[str], Path]:
    """Return the words to train with, none if the run needs no more training, and the run's folder."""
    runs = plan.runs_of(cell)
    if runs and (runs[-1] / "evaluation.json").exists():
        return [], runs[-1]
    newest = checkpoint.newest(runs[-1]) if runs else None
    if newest is not None:
        return [f"resume={runs[-1]}", "cluster=local"], runs[-1]
    name = cell.name if not runs else f"{cell.name}-{len(runs) + 1}"
    run = plan.folder / "runs" / name
    return [*_meant(plan, cell), f"out={run}"], run


def _meant(plan: Plan, cell: Cell) -> list[str]:
    """Return a cell's words without those about a league, which `train` refuses where there is none."""
    has_league = plan.settings_of(cell).partner == "league"
    return [word for word in plan.words_of(cell) if has_league or not word.startswith("league.")]


def _portable(word: str, plan: Plan) -> str:
    """Return a word that means the same in every checkout."""
    root = Path(__file__).parents[1]
    return word.replace(str(plan.study.config), plan.study.config.relative_to(root).as_posix())


def _store_result(plan: Plan, cell: Cell, run: Path) -> None:
    comparison = comparison_from_json(json.loads((run / "evaluation.json").read_text(encoding="utf-8")))
    result = {
        "schema": CELL_SCHEMA,
        "study": plan.study.name,
        "arm": cell.arm,
        "seed": cell.seed,
        "words": [_portable(word, plan) for word in plan.words_of(cell)],
        "run": str(run.relative_to(plan.folder)),
        "seconds": round(sum(_seconds(plan, cell)), 1),
        "curves": read_curves(run),
        "evaluation": comparison_to_json(comparison),
    }
    plan.cell_file(cell).parent.mkdir(parents=True, exist_ok=True)
    write_whole(plan.cell_file(cell), json.dumps(result, indent=1).encode() + b"\n")


def _read_result(file: Path) -> CellResult:
    data = json.loads(file.read_text(encoding="utf-8"))
    if data.get("schema") != CELL_SCHEMA:
        raise UserError(f"{file}: schema {data.get('schema')!r} is no cell of a study; move it away")
    return CellResult(
        cell=Cell(arm=data["arm"], seed=data["seed"]),
        seconds=data["seconds"],
        curves=data["curves"],
        comparison=comparison_from_json(data["evaluation"]),
    )


def _seconds_file(plan: Plan, cell: Cell) -> Path:
    return plan.folder / "logs" / f"{cell.name}.seconds.json"


def _seconds(plan: Plan, cell: Cell) -> list[float]:
    file = _seconds_file(plan, cell)
    found: list[float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return found


def _add_seconds(plan: Plan, cell: Cell, seconds: float) -> None:
    file = _seconds_file(plan, cell)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps([*_seconds(plan, cell), round(seconds, 1)]).encode() + b"\n")


def _time_left(plan: Plan, cells: Sequence[Cell]) -> str:
    done = plan.results()
    if not done:
        return ""
    seconds = math.fsum(result.seconds for result in done) / len(done) * (len(cells) - len(done))
    return f"; about {seconds / 3600:.1f} hours left" if seconds > 5400 else f"; about {seconds / 60:.0f} minutes left"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


# ----- what a folder holds -----


def _claim(plan: Plan, settings: Mapping[str, TrainSettings]) -> None:
    """Record what each arm trains with; refuse a folder that holds runs of the same arm with something else."""
    file = plan.folder / "study.json"
    stored: dict[str, Any] = {"arms": {}}
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if (stored.get("schema"), stored.get("study")) != (STUDY_SCHEMA, plan.study.name):
            raise UserError(f"out={plan.folder}: it holds another study ({stored.get('study')}); choose another folder")
    arms = {arm: one.model_dump(mode="json", by_alias=True, exclude=set(NOT_COMPARED)) for arm, one in settings.items()}
    for arm, now in arms.items():
        before = stored["arms"].get(arm)
        has_cells = any(any((plan.folder / place).glob(f"{arm}-*")) for place in ("runs", "cells"))
        if before is not None and has_cells:
            _check_same(plan, arm, before, now)
    record = {"schema": STUDY_SCHEMA, "study": plan.study.name, "arms": {**stored["arms"], **arms}}
    write_whole(file, json.dumps(record, indent=1).encode() + b"\n")


def _check_same(plan: Plan, arm: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # A group of settings that did not exist then was as it is by default.
    usual = TrainSettings().model_dump(mode="json", by_alias=True)
    then = {**{name: value for name, value in usual.items() if name not in {*before, *NOT_COMPARED}}, **before}
    old, new = dict(_leaves(then)), dict(_leaves(now))
    for key in (*old, *new):
        if old.get(key) != new.get(key):
            raise UserError(
                f"out={plan.folder}: it holds runs of {arm} with {key}={old.get(key)}, not {new.get(key)}; "
                "choose another folder, or the same settings"
            )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
