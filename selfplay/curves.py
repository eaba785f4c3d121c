"""Learning curves of runs: read, smoothed, and put together where runs differ only in their seed.

Nothing is drawn here, so every number of a picture can be checked by hand.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfplay.errors import UserError
from selfplay.records_json import token_counts
from selfplay.run_reader import RunReader, find_run, list_runs
from selfplay.student import t_quantile
from selfplay.study import CELL_SCHEMA
from selfplay.written import read_source, with_booleans

BandKind = Literal["range", "interval"]
Series = Mapping[int, float]  # update -> value; NaN: it was measured, and there was nothing to measure
CONFIDENCE = 0.95
# Settings that do not change what is learned: runs that differ in nothing else are one group.
NOT_COMPARED = (
    *("seed", "out", "runs", "alarms", "log", "checkpoints", "transcripts", "cluster", "ray"),
    *("engine.device", "engine.threads", "engine.max_batch", "engine.concurrency"),
)
MAX_LABEL = 48  # characters
CELL = re.compile(r"(?P<arm>.+?)-(?P<seed>[0-9]+)(?:-(?P<attempt>[0-9]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """What one run was set to, and every number of its updates."""

    name: str  # of its folder, or of the study's cell
    series: Mapping[str, Series]  # metric -> its values
    settings: Mapping[str, Any]  # "kl.coefficient" -> 0.1; empty: they are not known
    arm: str = ""  # its arm in a study, which tells it from others better than its settings; "": it is in none

    @property
    def seed(self) -> str:
        """Its seed as text; "": it is not known."""
        return str(self.settings.get("seed", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One metric of a group: its mean over the runs at each update, and how far they are spread.

    Example: ``Band(steps=(0, 1), mean=(0.5, 0.6), low=(0.4, 0.5), high=(0.6, 0.7), num_runs=2)``
    """

    steps: tuple[int, ...]  # those that every run has reached
    mean: tuple[float, ...]  # NaN where a run measured nothing
    low: tuple[float, ...]  # with one run, the mean
    high: tuple[float, ...]
    num_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that differ only in their seed."""

    label: str  # what tells it from the other groups
    runs: tuple[RunCurves, ...]

    def has(self, metric: str) -> bool:
        """Whether any run has a finite value of the metric."""
        return any(math.isfinite(value) for run in self.runs for value in run.series.get(metric, {}).values())

    def band(self, metric: str, *, smooth: int = 1, kind: BandKind = "range") -> Band | None:
        """Return the metric over the updates; None: no run measured it.

        smooth: each run's values become means over so many updates first.  kind: range is the lowest to the highest
        run, interval that of the mean (Student's t, 95%).
        """
        found = [smoothed(run.series[metric], smooth) for run in self.runs if run.series.get(metric)]
        if not found or not self.has(metric):
            return None
        steps = sorted(set.intersection(*(set(series) for series in found)))
        spread = _range if kind == "range" else _interval
        rows = [(*_mean_of(values), *spread(values)) for values in ([one[step] for one in found] for step in steps)]
        mean, low, high = zip(*rows, strict=True) if rows else ((), (), ())
        return Band(steps=tuple(steps), mean=mean, low=low, high=high, num_runs=len(found))

    def setting(self, key: str) -> Any:
        """Return one setting of all its runs; None: it is not known."""
        return self.runs[0].settings.get(key)

    @property
    def parts(self) -> list[str]:
        """The names of the rewards it was trained with, in the order of their configuration."""
        names = [key.split(".")[1] for key in self.runs[0].settings if key.startswith("rewards.")]
        measured = [name for name in dict.fromkeys(names) if self.has(f"reward/{name}")]
        return measured or [name for name in _plain_parts(self.runs[0].series) if self.has(f"reward/{name}")]

    def weight(self, part: str) -> float | None:
        """Return what a part counts for; None: it is not known, or the part is a gate."""
        if self.setting(f"rewards.{part}.gate") is True:
            return None
        weight = self.setting(f"rewards.{part}.weight")
        return float(weight) if isinstance(weight, int | float) and not isinstance(weight, bool) else None


def read_curves(names: Sequence[str], runs: Path, *, where: str = "") -> list[RunCurves]:
    """Return the curves of runs, and of the cells of studies, in the order of their names.

    names: of runs under the folder `runs`, or paths of runs and of studies; one that is named twice is read once.
    where: a filter; the curves are then of the training conversations that fit it.  Raises UserError if there is
    nothing to read.
    """
    places: set[Path] = set()
    found = [curves for name in names for curves in _read(name, runs, where=where, seen=places)]
    known: dict[str, int] = {}
    for number, one in enumerate(found):
        known[one.name] = known.get(one.name, 0) + 1
        if known[one.name] > 1:
            found[number] = replace(one, name=f"{one.name} ({known[one.name]})")
    return found


def curves_of_run(folder: Path, *, arm: str = "", where: str = "") -> RunCurves:
    """Return the curves of one run folder; a run that has not made a step yet has none."""
    reader = RunReader(folder)
    lines = _metrics_where(folder, where) if where else reader.metrics()
    return RunCurves(name=reader.name, series=_series(lines), settings=settings_of(reader.config_text), arm=arm)


def settings_of(config: str) -> dict[str, Any]:
    """Return a configuration's settings one by one: "kl.coefficient" -> 0.1; what is not YAML has none."""
    try:
        return dict(_leaves(with_booleans(read_source("config.yaml", config).tree)))
    except UserError:
        return {}


def grouped(runs: Sequence[RunCurves]) -> list[Group]:
    """Put together what differs only in the seed; each group is called by what tells it from the others."""
    groups: dict[str, list[RunCurves]] = {}
    for run in runs:
        groups.setdefault(_group_key(run), []).append(run)
    labels = _labels(list(groups.values()))
    return [Group(label=label, runs=tuple(members)) for label, members in zip(labels, groups.values(), strict=True)]


def repeated_seeds(groups: Sequence[Group]) -> list[str]:
    """Return a sentence for each seed of which a group holds several runs: its band counts each as a seed."""
    notes = []
    for group in groups:
        by_seed: dict[str, list[str]] = {}
        for run in group.runs:
            by_seed.setdefault(run.seed, []).append(run.name)
        for seed, names in by_seed.items():
            if seed and len(names) > 1:
                notes.append(f"{' and '.join(names)} have the same seed, {seed}: the band counts each as one more seed")
    return notes


def smoothed(series: Series, width: int) -> dict[int, float]:
    """Return a centred moving mean over `width` updates, fewer at both ends; what was not measured stays NaN."""
    steps = sorted(series)
    before, after = (width - 1) // 2, width // 2
    result = {}
    for place, step in enumerate(steps):
        window = [series[near] for near in steps[max(0, place - before) : place + after + 1]]
        known = [value for value in window if math.isfinite(value)]
        result[step] = math.fsum(known) / len(known) if math.isfinite(series[step]) else math.nan
    return result


# ----- reading -----


def _read(name: str, runs: Path, *, where: str, seen: set[Path]) -> Iterator[RunCurves]:
    """Yield the curves that a name stands for, but for places that were seen; they are added to those."""
    study = next((place for place in (Path(name), runs / name) if name and (place / "study.json").is_file()), None)
    found = [("", find_run(name, runs))] if study is None else list(_runs_of_study(study))
    if study is not None and not found:
        if _is_new(study, seen):
            yield from _cells(study, where=where)
        return
    for arm, run in found:
        if _is_new(run, seen):
            yield _with_curves(curves_of_run(run, arm=arm, where=where), where=where)


def _is_new(place: Path, seen: set[Path]) -> bool:
    resolved = place.resolve()
    is_new = resolved not in seen
    seen.add(resolved)
    return is_new


def _cells(study: Path, *, where: str) -> Iterator[RunCurves]:
    """Yield the curves of a study that kept nothing else of its runs."""
    if where:
        raise UserError(f"study {study} keeps no conversations that where= could choose from, only the curves")
    arms = _arms_of(study)
    read = map(_cell_curves, (study / "cells").glob("*.json"))
    cells = sorted(read, key=lambda cell: (_order(arms, cell.arm), cell.name))
    if not cells:
        raise UserError(f"study {study} holds no run and no result yet")
    yield from (replace(cell, settings={**arms.get(cell.arm, {}), **cell.settings}) for cell in cells)


def _with_curves(run: RunCurves, *, where: str) -> RunCurves:
    if run.series:
        return run
    if where:
        raise UserError(f"run {run.name} has no training conversation that fits {where!r}")
    raise UserError(f"run {run.name} has no metrics: only runs of `train` have curves, from their first update on")


def _runs_of_study(study: Path) -> Iterator[tuple[str, Path]]:
    """Yield (arm, run), for each cell the newest run that got somewhere."""
    newest: dict[tuple[str, str], tuple[int, Path]] = {}
    for run in list_runs(study / "runs"):
        cell = CELL.fullmatch(run.name)
        if cell is None or not RunReader(run).metrics():
            continue
        attempt = int(cell["attempt"] or 1)
        key = (cell["arm"], cell["seed"])
        newest[key] = max(newest.get(key, (0, run)), (attempt, run))
    arms = _arms_of(study)
    for (arm, _), (_, run) in sorted(newest.items(), key=lambda item: (_order(arms, item[0][0]), item[0][1])):
        yield arm, run


def _cell_curves(file: Path) -> RunCurves:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data.get("schema") != CELL_SCHEMA:
            raise ValueError(f"its schema is {data.get('schema')!r}, not {CELL_SCHEMA!r}")
        steps, curves = data["curves"]["step"], data["curves"]
        series = {
            name: {int(step): _number(value) for step, value in zip(steps, values, strict=True)}
            for name, values in curves.items()
            if name != "step"
        }
        arm, seed = str(data["arm"]), data["seed"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is no result of a study: {error}") from error
    return RunCurves(name=file.stem, series=series, settings={"seed": seed}, arm=arm)


def _arms_of(study: Path) -> dict[str, dict[str, Any]]:
    """Return what each arm of a study is set to, in their order."""
    try:
        arms = json.loads((study / "study.json").read_text(encoding="utf-8"))["arms"]
        return {arm: dict(_leaves(settings)) for arm, settings in arms.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{study / 'study.json'} does not describe a study: {error}") from error


def _order(arms: Mapping[str, object], arm: str) -> tuple[int, str]:
    """Order arms as their study does; those that it does not name come last."""
    return (list(arms).index(arm) if arm in arms else len(arms)), arm


def _series(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    series: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("schema", "step", "at"):
                series.setdefault(name, {})[int(line["step"])] = _number(value)
    return series


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan  # type: ignore[arg-type]  # is_number says so


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain_parts(series: Mapping[str, Series]) -> list[str]:
    names = [name.removeprefix("reward/") for name in series if name.startswith("reward/")]
    return [name for name in names if "/" not in name and name not in ("total", "per_conversation")]


def _metrics_where(folder: Path, where: str) -> list[dict[str, Any]]:
    """Return the metrics of each step's training conversations that fit a filter, as training would have made them."""
    # Only here are conversations read, and what scores them is slow to import.
    from selfplay.filters import narrowed
    from selfplay.metrics import step_metrics
    from selfplay.records_json import conversation_from_json
    from selfplay.rewards_json import scored_from_json
    from selfplay.transcript_index import TranscriptIndex

    index = TranscriptIndex(folder)
    index.refresh()
    wanted = narrowed(where, "split=train", index.fields())
    records = (index.record(id) for id in index.ids(wanted, sort="oldest"))
    lines = []
    for step, of_step in itertools.groupby(filter(None, records), key=lambda record: int(record["step"])):
        chosen = list(of_step)
        scored = [scored_from_json(record, conversation_from_json(record)) for record in chosen]
        metrics = step_metrics([one for one in scored if one], play_seconds=math.nan, learn_seconds=math.nan)
        lines.append({"step": step, **metrics, "kl/per_token_nats": _mean_kl(chosen)})
    return lines


def _mean_kl(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean over said tokens of what the learner noted of each conversation; NaN: it noted nothing."""
    nats, tokens = 0.0, 0
    for record in records:
        notes = [note["data"] for note in record.get("annotations", ()) if note.get("kind") == "learner"]
        kl = _number(notes[-1].get("kl_per_token")) if notes else math.nan
        said = sum(counts.said for counts in token_counts(record))
        if math.isfinite(kl):
            nats, tokens = nats + kl * said, tokens + said
    return nats / tokens if tokens else math.nan


# ----- groups -----


def _compared(run: RunCurves) -> dict[str, str]:
    """Return what may tell a run from another: its settings, as text."""
    return {
        key: _word(value)
        for key, value in run.settings.items()
        if key not in NOT_COMPARED and key.partition(".")[0] not in NOT_COMPARED
    }


def _group_key(run: RunCurves) -> str:
    compared = _compared(run)
    return json.dumps([run.arm, *sorted(compared.items())] if compared or run.arm else ["", run.name])


def _labels(groups: Sequence[Sequence[RunCurves]]) -> list[str]:
    """Return what each group is called: its arm, what it has changed, or its first run."""
    firsts = [members[0] for members in groups]
    if len(firsts) == 1:
        others = f" and {len(groups[0]) - 1} more" if len(groups[0]) > 1 else ""
        return [firsts[0].arm or f"{firsts[0].name}{others}"]
    changed = _changes([_compared(run) for run in firsts])
    labels = [run.arm or change or run.name for run, change in zip(firsts, changed, strict=True)]
    return _distinct(labels, [run.name for run in firsts])


def _changes(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return for each what it has that not all the others have: "kl.coefficient=0.1"."""
    keys = [key for key in dict.fromkeys(key for one in settings for key in one) if _varies(key, settings)]
    endings = [key.rpartition(".")[2] for key in keys]
    # A bare "name" or "weight" says little.
    short = {
        key: ending if endings.count(ending) == 1 and ending not in ("name", "weight", "target") else key
        for key, ending in zip(keys, endings, strict=True)
    }
    return [_cut(", ".join(f"{short[key]}={one[key]}" for key in keys if key in one)) for one in settings]


def _varies(key: str, settings: Sequence[Mapping[str, str]]) -> bool:
    return len({one.get(key) for one in settings}) > 1


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"


def _distinct(labels: Sequence[str], names: Sequence[str]) -> list[str]:
    return [
        f"{label} ({name})" if labels.count(label) > 1 else label for label, name in zip(labels, names, strict=True)
    ]


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# ----- spread -----


def _mean_of(values: Sequence[float]) -> tuple[float]:
    return (math.fsum(values) / len(values),)


def _range(values: Sequence[float]) -> tuple[float, float]:
    is_known = all(map(math.isfinite, values))
    return (min(values), max(values)) if is_known else (math.nan, math.nan)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    (mean,) = _mean_of(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, mean
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = t_quantile((1.0 + CONFIDENCE) / 2.0, len(values) - 1) * math.sqrt(variance / len(values))
    return mean - half, mean + half


Spread = Callable[[Sequence[float]], tuple[float, float]]
