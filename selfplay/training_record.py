"""What a training run stores while it trains: conversations, metrics, alarms, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfplay import alarms, checkpoint
from selfplay.alarms_curves import Line
from selfplay.alarms_reading import Reading, Watch
from selfplay.alarms_to_read import conversations_to_read
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.interfaces import Update
from selfplay.league_run import LeagueRun
from selfplay.metrics import Loggers, step_metrics
from selfplay.run_folder import ALARMS, now
from selfplay.score import WeightedReward
from selfplay.store import RunWriter
from selfplay.train import StopRequest
from selfplay.train_settings import TrainSettings
from selfplay.training_screen import Screen

__all__ = ["TrainingRecord"]


@dataclass(slots=True, kw_only=True)
class TrainingRecord:
    """Stores each stage of a run's training, and tells its screen; implements `selfplay.train.Record`."""

    settings: TrainSettings
    rewards: Sequence[WeightedReward]
    writer: RunWriter
    screen: Screen
    cluster: Any  # a Cluster with events
    loggers: Loggers
    stop: StopRequest
    lines: list[Line]  # metrics of every step of the run so far
    is_in_place: bool  # whether the learner is where the run is: it began here, or was restored
    version: int = 0  # updates made
    league: LeagueRun | None = None
    _saved: int = -1  # version of the newest checkpoint
    _warned: set[str] = field(default_factory=set)
    _played: float = 0.0  # when the step's conversations were complete, and scored
    _started: float = 0.0

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.writer.folder

    def restore(self, newest: Path) -> None:
        """Let the learner, and the league, go on from the run's newest checkpoint."""
        self.version = self._saved = self.cluster.restore(newest)
        if self.league is not None:
            self.league.restore(newest)
        self.is_in_place = True

    def save_now(self) -> None:
        """Write a checkpoint of where the learner is, between two updates, if there is none yet."""
        if self.version != self._saved and self.is_in_place:
            self.save(self.version, self.cluster.save)

    # ----- selfplay.train.Record -----

    def start(self, step: int) -> None:
        """A step begins."""
        self.stop.check()
        self._started = time.perf_counter()
        self.screen.start_step(step, self.version)

    def watch(self, conversations: Iterator[Conversation]) -> Iterator[Conversation]:
        """Pass on conversations as they finish."""
        for conversation in conversations:
            self.stop.check()
            self.screen.conversation(conversation)
            yield conversation

    def keep(self, scored: Sequence[ScoredConversation]) -> None:
        """Store a step's conversations with their rewards."""
        terms = {weighted.name: weighted.term for weighted in self.rewards}
        for one in scored:
            self.writer.append(one.conversation, one, terms=terms)
        self._played = time.perf_counter()
        self.stop.check()
        self.screen.learning()

    def finish(self, step: int, scored: Sequence[ScoredConversation], update: Update, *, num_stale: int) -> None:
        """A step is over: store its metrics, and what the learner found of its conversations."""
        ended = time.perf_counter()
        self.version = update.version
        metrics = step_metrics(
            scored,
            play_seconds=self._played - self._started,
            learn_seconds=ended - self._played,
            rewards=self.rewards,
            update={**update.metrics, **self.cluster.events},
            stale_dropped=num_stale,
        )
        if self.league is not None:
            conversations = [one.conversation for one in scored]
            metrics |= self.league.finish(step, conversations, version=update.version)
        readings = alarms.read_alarms([*self.lines, {"step": step, **metrics}], self._watched())
        metrics |= alarms.alarm_metrics(readings)
        self.lines.append({"step": step, **metrics})
        self.writer.log_metrics(step, metrics)
        for one in scored:
            self.writer.add_tokens(one.conversation, update.tokens.get(one.conversation.id, {}))
        for id, data in update.notes.items():
            self.writer.annotate(id, by=f"learner@{update.version}", kind="learner", data=dict(data))
        self.loggers.log(step, metrics)
        self._warn(update)
        self.screen.end_step(step, metrics)
        self._tell(step, readings, scored, update)

    def save(self, version: int, fill: Callable[[Path], None]) -> None:
        """Write a checkpoint, whose contents `fill` puts into a folder."""
        info: dict[str, Any] = {"model": self.settings.model, "method": self.settings.learner.method}
        keep = self.settings.checkpoints.keep
        checkpoint.write(self.folder, version, self._with_league(fill), info=info, keep=keep)
        self._saved = version

    def _with_league(self, fill: Callable[[Path], None]) -> Callable[[Path], None]:
        league = self.league
        if league is None:
            return fill

        def fill_all(folder: Path) -> None:
            fill(folder)
            league.save(folder)

        return fill_all

    # ----- warnings and alarms -----

    def _warn(self, update: Update) -> None:
        """Say what the learner warns of, once."""
        for warning in update.warnings:
            text = warning.partition(": ")[2] or warning  # what it says, whatever the version
            if text not in self._warned:
                self._warned.add(text)
                self.screen.say(f"warning: {warning}")

    def _watched(self) -> Watch:
        return Watch(
            settings=self.settings.alarms,
            weights={weighted.name: weighted.weight for weighted in self.rewards if not weighted.is_gate},
            kl_target=self.settings.kl.steered_to,
        )

    def _tell(
        self, step: int, readings: Sequence[Reading], scored: Sequence[ScoredConversation], update: Update
    ) -> None:
        """Say and store the alarms that begin or end at this step, and stop for those that the settings name."""
        settings, folder = self.settings, self.folder
        name = folder.name if folder.parent == settings.runs else str(folder)
        changed = [reading for reading in readings if reading.has_begun or reading.has_ended]
        records = [
            alarms.alarm_to_json(
                reading,
                step=step,
                at=now(),
                run=name,
                look_at=conversations_to_read(reading, scored, update.notes) if reading.is_on else [],
            )
            for reading in changed
        ]
        alarms.append_alarms(folder / f"{ALARMS}.jsonl", records)
        for record in records:
            self.screen.say(record["text"])
        for reading in changed:
            # After the last step there is nothing to stop but the evaluation.
            if reading.has_begun and reading.name in settings.alarms.stop_on and step + 1 < settings.steps:
                self.screen.say(f"stopping with a checkpoint: {reading.name} is in alarms.stop_on")
                self.stop.make()
