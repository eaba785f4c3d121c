"""How far a run of `train` is, as what it shows while it runs is told."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from selfplay.alarms import METRIC as ALARM
from selfplay.dialog import Conversation
from selfplay.game_numbers import unfitting_means
from selfplay.train_settings import TrainSettings

STEPS_OF_PACE = 10


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is: what both kinds of screen show."""

    settings: TrainSettings
    run: str = ""
    first_step: int = 0
    clock: Callable[[], float] = time.monotonic
    step: int | None = None  # None: before the first
    version: int = 0  # what plays
    doing: str = "starting"
    expected: int = 0  # conversations of what is being done; 0: it plays none
    finished: int = 0
    failed: int = 0
    since: float = 0.0  # when what is being done began
    step_since: float = 0.0
    seconds: list[float] = field(default_factory=list)  # of each step so far
    history: list[Mapping[str, float]] = field(default_factory=list)  # metrics of each step so far
    last: Conversation | None = None  # the newest in which somebody spoke
    unfitting: set[str] = field(default_factory=set)  # metrics that tell nothing of the policy in this game

    def __post_init__(self) -> None:
        """Start the clock."""
        self.since = self.clock()

    def begin(self, doing: str, *, conversations: int) -> None:
        """Something begins."""
        self.doing, self.expected, self.finished, self.failed = doing, conversations, 0, 0
        self.since = self.clock()

    def begin_step(self, step: int, *, version: int) -> None:
        """A step begins."""
        self.step, self.version, self.step_since = step, version, self.clock()

    def end_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is over."""
        self.step = step
        self.seconds.append(self.clock() - self.step_since)
        self.history.append(dict(metrics))
        self.unfitting = unfitting_means(self.history)

    def add(self, conversation: Conversation) -> None:
        """A conversation has finished."""
        self.finished += 1
        self.failed += conversation.error is not None
        if conversation.turns:
            self.last = conversation

    def past(self, name: str) -> list[float]:
        """Return a metric of every step so far; NaN where a step has none."""
        return [metrics.get(name, math.nan) for metrics in self.history]

    def alarms(self) -> list[str]:
        """Return the names of the alarms that are on."""
        newest = self.history[-1] if self.history else {}
        return [name.removeprefix(ALARM) for name, value in newest.items() if name.startswith(ALARM) and value == 1.0]

    def fitting(self, names: Iterable[str]) -> list[str]:
        """Return those of these metrics that some step has, and that tell something of the policy in this game."""
        return [name for name in names if name not in self.unfitting and any(map(math.isfinite, self.past(name)))]

    def newest(self, name: str) -> float:
        """Return a metric of the newest step; NaN: it has none."""
        return self.past(name)[-1] if self.history else math.nan

    def num_done(self) -> int:
        """Return how many steps are over, those before this process included."""
        return self.first_step + len(self.seconds)

    def seconds_left(self) -> float:
        """Return how long the remaining steps will take at the pace of the newest; NaN: unknown."""
        if not self.seconds:
            return math.nan
        pace = statistics.median(self.seconds[-STEPS_OF_PACE:])
        is_under_way = self.step is not None and self.step >= self.num_done()
        spent = min(pace, self.clock() - self.step_since) if is_under_way else 0.0
        return pace * (self.settings.steps - self.num_done()) - spent

    def where(self) -> str:
        """Return the step in words: ``step 3/30``."""
        return f"step {self.first_step if self.step is None else self.step + 1}/{self.settings.steps}"

    def what(self) -> str:
        """Return what is being done, in words: ``playing 7 of 16 conversations, 1 failed``."""
        count = f" {self.finished} of {self.expected} conversations" if self.expected else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.doing}{count}{failed}"
