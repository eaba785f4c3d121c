"""What `reward train` shows while it trains: a table that is redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from selfplay.commands.terminal import one_line

if TYPE_CHECKING:
    from selfplay.reward_model.training import Progress

__all__ = ["FitScreen"]

REFRESHES_PER_SECOND = 4
PATIENCE_SECONDS = 10.0  # between two lines of a log
COLUMNS = ("member", "epoch", "step", "train loss", "validation loss", "validation accuracy", "")


class FitScreen:
    """Shows how far a fit is.  `say` may be used as the fit's, `on_progress` is called by it."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._newest: dict[tuple[bool, int], Progress] = {}  # of each member, the twin's after the model's own
        self._said = -math.inf
        self._last: tuple[bool, int] | None = None
        self._printed: Progress | None = None

    def shown(self) -> AbstractContextManager[object]:
        """Return what keeps the table on the terminal; on a log nothing has to be kept."""
        if not self._is_live:
            return nullcontext()
        return Live(self, console=self._console, refresh_per_second=REFRESHES_PER_SECOND)

    def say(self, text: str) -> None:
        """Tell what must stay readable."""
        self._console.print(Text(one_line(text), style="dim"), soft_wrap=not self._is_live)

    def on_progress(self, progress: Progress) -> None:
        """Take what the fit says of itself; a log gets the first of each member, and one line every ten seconds."""
        key = (progress.is_twin, progress.member)
        is_first = key not in self._newest
        self._newest[key] = progress
        if self._is_live:
            return
        if is_first:
            self.end()
        if is_first or progress.ending or self._clock() - self._said >= PATIENCE_SECONDS:
            self._print(key)
        self._last = key

    def end(self) -> None:
        """Print on a log how the last member stands, unless that was its last line."""
        if not self._is_live and self._last is not None and self._newest[self._last] is not self._printed:
            self._print(self._last)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the table of all members so far."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in COLUMNS:
            table.add_column(column, justify="left" if column in ("member", "") else "right")
        for progress in self._newest.values():
            table.add_row(*_cells(progress))
        yield table

    def _print(self, key: tuple[bool, int]) -> None:
        self._said, self._printed = self._clock(), self._newest[key]
        cells = zip(COLUMNS, _cells(self._newest[key]), strict=True)
        self._console.print(Text("  ".join(f"{name} {text}".strip() for name, text in cells).rstrip()), soft_wrap=True)


def _cells(progress: Progress) -> tuple[str, ...]:
    return (
        f"{progress.member + 1}{' of the twin' if progress.is_twin else ''}",
        f"{progress.epoch + 1}",
        f"{progress.step}/{progress.num_steps}",
        _number(progress.train_loss),
        _number(progress.validation_loss),
        _per_cent(progress.validation_accuracy),
        progress.ending,
    )


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _per_cent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"
