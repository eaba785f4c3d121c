"""Pictures of studies; matplotlib is imported when one is drawn."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.errors import UserError
from selfplay.study import CellResult

# Colours that people with any colour vision tell apart: Okabe and Ito 2008.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442")
STYLES = ("-", "--", "-.", ":")
NUM_COLUMNS = 3


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_study(results: Sequence[CellResult], arms: Sequence[str], file: Path, *, panels: Mapping[str, str]) -> None:
    """Draw the learning curves of a study: a panel a metric, a colour an arm, thin lines for seeds, thick their mean.

    panels: metric of a step -> title of its panel.
    Raises UserError if matplotlib is missing or the file cannot be written.
    """
    if not can_draw():
        raise UserError("matplotlib is not installed; pip install 'selfplay-dialog[plots]'")
    # An agg canvas of its own: no window, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows = -(-len(panels) // NUM_COLUMNS)
    figure = Figure(figsize=(4.2 * NUM_COLUMNS, 3.0 * num_rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False, sharex=True).flat
    for axis, (name, title) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, results, arms, name=name)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
        # Every panel has a scale of its own; only the updates are the same in all.
        axis.set_xlabel("update")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def _draw_panel(axis: Any, results: Sequence[CellResult], arms: Sequence[str], *, name: str) -> None:
    for number, arm in enumerate(arms):
        curves = [result.curves for result in results if result.cell.arm == arm and name in result.curves]
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
        lines = [(curve["step"], [_known(value) for value in curve[name]]) for curve in curves]
        for steps, values in lines if len(lines) > 1 else []:
            axis.plot(steps, values, color=colour, linewidth=0.6, alpha=0.45)
        if lines:
            steps, mean = _mean(lines)
            axis.plot(steps, mean, color=colour, linestyle=style, linewidth=1.8, label=arm)
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(lines: Sequence[tuple[Sequence[Any], list[float]]]) -> tuple[list[int], list[float]]:
    """Return steps that all lines have, and the mean there; NaN where a line has no value."""
    tables = [dict(zip(steps, values, strict=True)) for steps, values in lines]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return steps, [math.fsum(table[step] for table in tables) / len(tables) for step in steps]
