"""The picture of `study overoptimise`: gold and proxy over the root of the divergence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.errors import UserError
from selfplay.overoptimise import BestOfResult, TrainingResult
from selfplay.overoptimise_settings import ARMS
from selfplay.overoptimise_table import Pushed, best_of_steps, training_steps
from selfplay.plots import COLOURS

__all__ = ["draw_overoptimise"]


def draw_overoptimise(best: Sequence[BestOfResult], trained: Sequence[TrainingResult], file: Path) -> None:
    """Draw best-of-N on the left and training on the right: dashed what the proxy promises, solid what it is worth.

    Raises UserError if the file cannot be written.
    """
    # An agg canvas of its own: no window, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, arm in enumerate(ARMS):
        own = [result for result in best if result.cell.arm == arm]
        _draw(left, best_of_steps(own), COLOURS[number + 4])
        _draw(
            right, training_steps([result for result in trained if result.cell.arm == arm], best), COLOURS[number + 4]
        )
    if best:
        itself = best_of_steps([result for result in best if result.cell.arm == best[0].cell.arm], by_gold=True)
        assert itself is not None
        left.plot(*_line(itself, "gold"), color=COLOURS[0], linestyle=":", label="chosen by gold")
    for axis, title in ((left, "best-of-N"), (right, "training")):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("root of KL from the first policy (nats of a conversation)")
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    left.set_ylabel("gain, deviations")
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def _draw(axis: Any, curve: Pushed | None, colour: str) -> None:
    if curve is None:
        return
    x, gold = _line(curve, "gold")
    low, high = (np.array([getattr(step.gold, end) for step in curve.steps]) for end in ("low", "high"))
    axis.plot(x, gold, color=colour, marker="o", markersize=3, label=f"{curve.arm}: gold")
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(*_line(curve, "proxy"), color=colour, linestyle="--", label=f"{curve.arm}: proxy")


def _line(curve: Pushed, side: str) -> tuple[list[float], list[float]]:
    return [max(0.0, step.kl) ** 0.5 for step in curve.steps], [getattr(step, side).value for step in curve.steps]
