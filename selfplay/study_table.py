"""The table of a study: every arm's held-out numbers over its seeds, beside the base's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from selfplay.student import t_quantile
from selfplay.study import CellResult, Plan

CONFIDENCE = 0.95
BASE = "base"
# Metric of the held-out evaluation -> what its column is called.
COLUMNS = {
    "reward/question_density": "question density",
    "reward/question": "question reward",
    "play/question_rate": "turns that ask",
    "play/only_question_share": "turns of question words only",
    "kl/per_token_nats": "KL, nats a token",
    "reference/nll_per_token_nats": "NLL under the base, nats a token",
    "play/distinct_2": "distinct-2",
    "play/words_per_turn": "words a turn",
}


def study_report(plan: Plan, results: Sequence[CellResult], *, command: str) -> str:
    """Return the study as markdown: what was run, and two tables, means with ranges and intervals over seeds."""
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
        *_table(plan, results, _mean_and_range),
        "",
        f"Mean over seeds, and half the width of its {CONFIDENCE:.0%} interval (Student's t over seeds):",
        "",
        *_table(plan, results, _mean_and_interval),
        "",
        "distinct-2 is measured at equal numbers of words, so the base's differs a little from arm to arm.",
    ]
    return "\n".join(lines) + "\n"


def _table(plan: Plan, results: Sequence[CellResult], show: Callable[[Sequence[float]], str]) -> list[str]:
    header = ["arm", *COLUMNS.values(), "minutes"]
    rows = [[BASE, *(show(_base_values(results, name)) for name in COLUMNS), ""]]
    for arm in plan.arms:
        own = [result for result in results if result.cell.arm == arm]
        minutes = [result.seconds / 60 for result in own]
        shown = [show(_values(own, name, side="trained")) for name in COLUMNS]
        rows.append([arm, *shown, f"{math.fsum(minutes) / len(minutes):.0f}" if minutes else "-"])
    return [_line(header), _line(["---"] * len(header)), *map(_line, rows)]


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
