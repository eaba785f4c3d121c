"""The loop without people: play, label, refit the reward model on everything so far, train, and again.

A folder of it::

    iterate.json config.yaml  which stages are done, and what they are done with
    rounds/1/talk             a run: what the newest policy says on training scenarios, and preferences.jsonl about it
    rounds/1/labels.json      how many labels, and what was measured of whoever gave them
    rounds/1/rm               the reward model, its card and report; that of the other half of the labels in rm/twin
    rounds/1/refit.json       how well it knows the newest labels, before and after it was fitted to some of them
    rounds/1/train            a training run
    rounds/1/evaluation.json  what training changed, on held-out scenarios
    table.md                  a line a round, rewritten after each

What is there is not made again.  An interrupted training run goes on from its checkpoint, and labelling from its last
label; talk, refit and measure are done anew, for they are short.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from selfplay import checkpoint, models
from selfplay.config import to_yaml
from selfplay.dialog import id_order
from selfplay.errors import UserError
from selfplay.folder_lock import alone_in
from selfplay.interfaces import Env
from selfplay.iterate_rounds import Round, Stage, read_result, write_result
from selfplay.iterate_settings import (
    RM,
    IterateSettings,
    play_settings,
    reward_model_spec,
    seed_of,
    train_settings,
)
from selfplay.run_evaluation import evaluated_version
from selfplay.run_folder import now
from selfplay.score import WeightedReward, check_failures
from selfplay.store import RunWriter
from selfplay.train_settings import RewardSpec, TrainSettings
from selfplay.training_run import Result, TrainingRun
from selfplay.whole_files import write_whole

if TYPE_CHECKING:
    from selfplay.label_by import AutoLabeller, OnProgress
    from selfplay.reward_model.baselines import Heuristic
    from selfplay.reward_model.fit import Progress

__all__ = ["ITERATE", "ITERATE_SCHEMA", "Iteration", "Tools", "is_iteration"]

ITERATE, ITERATE_SCHEMA = "iterate.json", "selfplay.iterate/2"
CONFIG, TABLE = "config.yaml", "table.md"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a command brings along, because only commands know the package's rewards and have a terminal."""

    env: Env
    gold: Mapping[str, RewardSpec]  # what the reward model stands in for; empty: nobody knows
    build_rewards: Callable[[Mapping[str, RewardSpec]], list[WeightedReward]]
    make_labeller: Callable[[int], AutoLabeller]  # seed -> who says what is better
    heuristics: Callable[[], Mapping[str, Heuristic]]  # simple rewards that a reward model is compared with
    begin: Callable[[], None]  # the folder is this process's own, and nothing is done yet
    train: Callable[[TrainingRun], Result]  # to its end, or until somebody interrupts: raises KeyboardInterrupt
    report: Callable[[], None]  # a round is over: writes the table
    say: Say
    on_label: OnProgress
    fitting: Callable[[], AbstractContextManager[Callable[[Progress], None]]]  # shows how far a fit is


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """Rounds of play, label, refit, train and measure, in one folder."""

    folder: Path
    settings: IterateSettings
    tools: Tools
    command: str = ""

    def run(self) -> None:
        """Do all that is not done yet.

        Raises UserError if another process works in the folder, or a stage cannot be done; what is done stays.
        """
        with alone_in(self.folder, what="these rounds"):
            self._claim()
            self.tools.begin()
            for number in range(self.settings.rounds):
                self._run_round(Round(folder=self.folder, number=number))
                self.tools.report()

    def _run_round(self, place: Round) -> None:
        for stage in get_args(Stage):
            if place.has(stage):
                continue
            self.tools.say(f"round {place.ordinal} of {self.settings.rounds}: {self._what(stage)}")
            started = time.perf_counter()
            self._do(stage, place)
            self._note(place, stage, seconds=time.perf_counter() - started)

    def _do(self, stage: Stage, place: Round) -> None:
        # Imported here: torch stays away until something is to be done.
        from selfplay.iterate_feedback import label, refit
        from selfplay.iterate_measure import measure

        # Of this process: a stage may begin in one where nothing else has set them.
        models.use_threads(self.settings.engine.threads)
        does: Mapping[Stage, Callable[[], None]] = {
            "talk": lambda: self._talk(place),
            "label": lambda: label(place, self.settings, tools=self.tools),
            "refit": lambda: refit(place, self.settings, tools=self.tools),
            "train": lambda: self._train(place),
            "measure": lambda: measure(place, self.settings, tools=self.tools),
        }
        does[stage]()

    def _what(self, stage: Stage) -> str:
        settings = self.settings
        sentences: Mapping[Stage, str] = {
            "talk": f"{settings.talk_conversations} conversations to be labelled",
            "label": f"{settings.labels} labels by {settings.by}",
            "refit": "the reward model",
            "train": f"{settings.steps} updates",
            "measure": "before and after",
        }
        return f"{stage}: {sentences[stage]}"

    # ----- stages -----

    def _talk(self, place: Round) -> None:
        """Let the newest policy talk on training scenarios."""
        from selfplay.cluster.learner_host import unscored
        from selfplay.cluster.model_files import ModelFiles
        from selfplay.cluster.play_worker import PlayWorker
        from selfplay.play_plan import play_plan

        settings, tools = self.settings, self.tools
        model = self._policy(place)
        words = play_settings(settings, number=place.number, model=model)
        plain = train_settings(settings, number=place.number, model=model, rewards=settings.rewards)
        shutil.rmtree(place.talk, ignore_errors=True)
        files = ModelFiles.of(model, runs=settings.runs, say=tools.say)
        worker = PlayWorker(play_plan(plain, env=tools.env, model=files, rewards=()))
        manifest = {"kind": "play", "seed": words.seed, "env": tools.env.name, "model": model, "view": words.view}
        with RunWriter.create(
            place.talk, {**manifest, "command": self.command}, to_yaml(words), tokens=words.transcripts.tokens
        ) as writer:
            writer.add_to_manifest(worker.start())
            writer.keep_tokenizers(worker.tokenizers)
            played = [one.conversation for one in worker.play(self._matches(place, plain))]
            for conversation in sorted(played, key=lambda conversation: id_order(conversation.id)):
                writer.append(conversation)
            check_failures([unscored(conversation) for conversation in played], settings.max_failed_share)

    def _matches(self, place: Round, plain: TrainSettings) -> list[Any]:
        """Return the conversations of a round: several on each training scenario, with ids that no other round has."""
        from selfplay.play import make_group
        from selfplay.play_plan import dealer_of

        settings = self.settings
        dealer = dealer_of(plain, self.tools.env)
        seed, size = seed_of(settings, "talk", place.number), settings.talk_group
        return [
            match
            for group in range(settings.talk_conversations // size)
            for match in make_group(
                self.tools.env,
                dealer.players("train", place.number, group),
                seed=seed,
                split="train",
                place=(place.number, group),
                size=size,
            )
        ]

    def _train(self, place: Round) -> None:
        """Train against the round's reward model, from where the last attempt ended."""
        settings = self._train_settings(place)
        if not place.stop.is_file():
            result = self.tools.train(self._open(place, settings))
            if not result.is_stopped:
                return
            # An alarm has ended it.  An attempt that is interrupted from here on must not train on.
            write_result(place.stop, {"version": result.version})
        # What it came to is measured as the others are.
        version = int(read_result(place.stop)["version"])
        self.tools.say(f"training ended after {version} of {settings.steps} updates")
        self.tools.train(self._resume(place, settings.model_copy(update={"steps": version})))

    def _open(self, place: Round, settings: TrainSettings) -> TrainingRun:
        if place.train.is_dir() and checkpoint.newest(place.train) is not None:
            return self._resume(place, settings)
        shutil.rmtree(place.train, ignore_errors=True)
        return TrainingRun.create(
            settings,
            env=self.tools.env,
            rewards=self.tools.build_rewards(settings.rewards),
            command=self.command,
            folder=place.train,
            is_described=True,
        )

    def _resume(self, place: Round, settings: TrainSettings) -> TrainingRun:
        rewards = self.tools.build_rewards(settings.rewards)
        return TrainingRun.resume(place.train, settings, env=self.tools.env, rewards=rewards, command=self.command)

    def _train_settings(self, place: Round) -> TrainSettings:
        settings = self.settings
        is_on = settings.continue_from == "previous"
        model = self._policy(place) if is_on else settings.model
        measured = {
            name: spec.model_copy(update={"weight": 0.0, "gate": False}) for name, spec in self.tools.gold.items()
        }
        learnt = reward_model_spec(place.newest_rm(settings), weight=1.0, pessimism=settings.pessimism)
        rewards = {RM: learnt, **measured, **settings.also}
        return train_settings(settings, number=place.number, model=model, rewards=rewards)

    def _policy(self, place: Round) -> str:
        """Return the newest policy before a round's training."""
        if place.number == 0:
            return self.settings.model
        before = place.previous()
        return f"{before.train}@{evaluated_version(before.train)}"

    # ----- the folder -----

    def _claim(self) -> None:
        if (self.folder / ITERATE).exists():
            self._stages()
        elif (self.folder / "rounds").exists():
            raise UserError(f"out={self.folder}: it holds rounds of something else; choose another folder")
        else:
            self._write([])
        write_whole(self.folder / CONFIG, to_yaml(self.settings).encode("utf-8", "backslashreplace"))

    def _note(self, place: Round, stage: Stage, *, seconds: float) -> None:
        done = {"round": place.ordinal, "stage": stage, "at": now(), "seconds": round(seconds, 1)}
        self._write([*self._stages(), done])

    def _stages(self) -> list[dict[str, Any]]:
        """Return what is recorded as done.  Raises UserError if another version of this program recorded it."""
        record = json.loads((self.folder / ITERATE).read_text(encoding="utf-8"))
        if record.get("schema") != ITERATE_SCHEMA:
            raise UserError(
                f"{self.folder / ITERATE} has the schema {record.get('schema')!r}, and this version goes on with "
                f"{ITERATE_SCHEMA} only; choose another folder"
            )
        return list(record["stages"])

    def _write(self, stages: list[dict[str, Any]]) -> None:
        record = {"schema": ITERATE_SCHEMA, "command": self.command, "stages": stages}
        write_whole(self.folder / ITERATE, json.dumps(record, indent=1).encode() + b"\n")


def is_iteration(folder: Path) -> bool:
    """Whether a folder holds rounds."""
    return (folder / ITERATE).is_file()
