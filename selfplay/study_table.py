"""The table of a study: every arm's held-out numbers over its seeds, beside the base's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from selfplay.evaluate import Difference
from selfplay.evaluate_games import fitting
from selfplay.players import POLICY
from selfplay.student import t_quantile
from selfplay.study import Cell, CellResult, Plan
from selfplay.train_settings import TrainSettings

__all__ = ["study_report"]

CONFIDENCE = 0.95
BASE, MET = "base", "met"
ITSELF, START = "itself", "its start"
OF_MET = (
    f"Arms that {MET} different players cannot be compared by these numbers ({ITSELF}: the policy in all roles; "
    f"{START}: the policy before training in the other role); `tournament` lets them meet each other."
)


def study_report(plan: Plan, results: Sequence[CellResult], *, command: str) -> str:
    """Return the study as markdown: what was run; means, ranges and intervals; every run's change.

    Where arms differ in whom they met, their rows say whom.  Numbers that tell nothing of the policy, see
    `selfplay.evaluate_games.fitting`, are left out.
    """
    results = [replace(result, comparison=fitting(result.comparison)) for result in results]
    met = _met(plan)
    hours = math.fsum(result.seconds for result in results) / 3600
    missing = len(plan.cells()) - len(results)
    seeds = ", ".join(str(seed) for seed in plan.seeds)
    lines = [
        f"# Study {plan.study.name}",
        "",
        f"Made by `{command}`: {len(results)} {'run' if len(results) == 1 else 'runs'}, {hours:.1f} hours"
        + (f"; {missing} of {len(plan.cells())} cells are missing." if missing else "."),
        f"Seeds {seeds}.  Held-out scenarios, played by the policy before training (base) and after it.",
        "",
        *(f"- `{arm}`: `{' '.join(plan.study.arms[arm])}`" for arm in plan.arms),
        "",
        "Mean over seeds (lowest to highest):",
        "",
        *_table(plan, results, _mean_and_range, met),
        *(["", OF_MET] if met else []),
        "",
        f"Mean over seeds, and half the width of its {CONFIDENCE:.0%} interval (Student's t over seeds):",
        "",
        *_table(plan, results, _mean_and_interval, met),
        "",
        f"Change from its own base, run by run ({CONFIDENCE:.0%} interval over held-out scenarios):",
        "",
        *_changes(plan, results, met),
        "",
        "distinct-2 is measured at equal numbers of words, so the base's differs a little from arm to arm.",
    ]
    return "\n".join(lines) + "\n"


def _met(plan: Plan) -> dict[str, str]:
    """Return arm -> whom its policy met in the held-out conversations; empty where all arms met the same."""
    seed = plan.seeds[0]
    met = {arm: _met_with(plan.settings_of(Cell(arm=arm, seed=seed))) for arm in plan.arms}
    return met if len(set(met.values())) > 1 else {}


def _met_with(settings: TrainSettings) -> str:
    """Return whom a policy of these settings meets: fixed players, and in what they leave what `partner` says."""
    fixed = [name for name in dict.fromkeys(settings.players.values()) if name != POLICY]
    if settings.partner == "mirror":
        return ", ".join(fixed) or ITSELF
    # A league's policy is evaluated against its start, whomever it met in training.
    return ", ".join([*fixed, START])


def _table(
    plan: Plan, results: Sequence[CellResult], show: Callable[[Sequence[float]], str], met: Mapping[str, str]
) -> list[str]:
    header = ["arm", *([MET] if met else []), *plan.study.columns.values(), "minutes"]
    columns = plan.study.columns
    has_shared_base = plan.study.has_shared_base
    of_base = [BASE, *([""] if met else [])]
    rows = [[*of_base, *(show(_base_values(results, name)) for name in columns), ""]] if has_shared_base else []
    for arm in plan.arms:
        own = [result for result in results if result.cell.arm == arm]
        whom = [met[arm]] if met else []
        if own and not has_shared_base:
            rows.append([f"{BASE} of {arm}", *whom, *(show(_base_values(own, name)) for name in columns), ""])
        minutes = [result.seconds / 60 for result in own]
        shown = [show(_values(own, name, side="trained")) for name in columns]
        rows.append([arm, *whom, *shown, f"{math.fsum(minutes) / len(minutes):.0f}" if minutes else "-"])
    return [_line(header), _line(["---"] * len(header)), *map(_line, rows)]


def _changes(plan: Plan, results: Sequence[CellResult], met: Mapping[str, str]) -> list[str]:
    header = ["run", *([MET] if met else []), *plan.study.columns.values(), "minutes"]
    rows = []
    for result in results:
        found = {row.name: row for row in result.comparison.rows}
        whom = [met[result.cell.arm]] if met else []
        shown = [_change(found.get(name)) for name in plan.study.columns]
        rows.append([result.cell.name, *whom, *shown, f"{result.seconds / 60:.0f}"])
    return [_line(header), _line(["---"] * len(header)), *map(_line, rows)]


def _change(row: Difference | None) -> str:
    if row is None or not math.isfinite(row.difference):
        return "-"
    interval = f" ({row.low:+.3f} to {row.high:+.3f})" if math.isfinite(row.low) else ""
    return f"{row.difference:+.3f}{interval}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _values(results: Sequence[CellResult], name: str, *, side: str) -> list[float]:
    rows = [row for result in results for row in result.comparison.rows if row.name == name]
    return [value for row in rows if math.isfinite(value := getattr(row, side))]


def _base_values(results: Sequence[CellResult], name: str) -> list[float]:
    """Return the base's value for each seed: the arms of a seed share its base."""
    values = []
    for seed in dict.fromkeys(result.cell.seed for result in results):
        own = _values([result for result in results if result.cell.seed == seed], name, side="base")
        values += [math.fsum(own) / len(own)] if own else []
    return values


def _mean_and_range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = math.fsum(values) / len(values)
    return f"{mean:z.3f} ({min(values):z.3f} to {max(values):z.3f})" if len(values) > 1 else f"{mean:z.3f}"


def _mean_and_interval(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return f"{mean:z.3f}"
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = t_quantile((1.0 + CONFIDENCE) / 2.0, len(values) - 1) * math.sqrt(variance / len(values))
    return f"{mean:z.3f} ± {half:z.3f}"
