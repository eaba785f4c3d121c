"""One training run from its folder to its final table: create or resume it, then `train`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from selfplay import base_evaluation, checkpoint, models
from selfplay.alarms_settings import AlarmsGroup
from selfplay.cluster.model_files import ModelFiles
from selfplay.config import to_yaml
from selfplay.errors import UserError
from selfplay.evaluate import Comparison
from selfplay.interfaces import Env
from selfplay.league_run import LeagueRun
from selfplay.metrics import TENSORBOARD_FOLDER, WANDB_ID_FILE, Loggers, open_loggers
from selfplay.play_plan import dealer_of, play_plan
from selfplay.plugins import spec_of
from selfplay.reward_trial import try_rewards
from selfplay.run_evaluation import EvaluationDeals, RunEvaluation, evaluated_version
from selfplay.score import WeightedReward
from selfplay.store import RunReader, RunWriter
from selfplay.train import Stopped, StopRequest, train
from selfplay.train_settings import RewardSpec, TrainSettings, check_gates
from selfplay.trainable import check_trainable
from selfplay.training_record import TrainingRecord
from selfplay.training_screen import Screen, Silence

__all__ = ["BASE", "Result", "TrainingRun", "check_trainable", "default_name"]

BASE = "base"  # the start of a model without a folder, for its adapters
# What a run makes besides what its writer does, before its first conversation.
MADE = (BASE, checkpoint.CHECKPOINTS, checkpoint.LEAGUE, TENSORBOARD_FOLDER, WANDB_ID_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run came to."""

    folder: Path  # of the run
    version: int  # updates made
    is_stopped: bool  # somebody asked it to end before its last step
    comparison: Comparison | None  # base against trained on held-out scenarios; None: stopped, or not asked for


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """A run that is about to train.

    Example: ``TrainingRun.create(settings, env=ChitChat(), rewards=[WeightedReward(reward=Question())]).train()``
    """

    settings: TrainSettings
    env: Env
    rewards: Sequence[WeightedReward]
    writer: RunWriter
    first: int  # updates made before
    is_new: bool
    screen: Screen = field(default_factory=Silence)
    cluster: Any = None  # a Cluster with facts, events and tokenizers, while it trains
    _stop: StopRequest = field(default_factory=StopRequest)

    @classmethod
    def create(
        cls,
        settings: TrainSettings,
        *,
        env: Env,
        rewards: Sequence[WeightedReward],
        command: str = "",
        folder: Path | None = None,
        is_described: bool = False,
    ) -> Self:
        """Make the run's folder; nothing heavy is loaded.

        folder: None is settings.out, or else a new one under settings.runs.  is_described: whether the settings name
        the env and the rewards already; if not, those are recorded under the modules they come from.
        Raises UserError if the folder cannot be made, or a reward fails on scripted conversations.
        """
        check_trainable(settings, env)
        check_gates(settings, [weighted.name for weighted in rewards if weighted.is_gate])
        _check_verifiable(settings, [weighted.name for weighted in rewards])
        try_rewards(
            env,
            rewards,
            timeout_seconds=settings.reward_timeout_seconds,
            max_failed_share=settings.max_failed_share,
        )
        settings = settings.model_copy(update={"model": models.pinned(settings.model, runs=settings.runs)})
        if not is_described:
            settings = described(settings, env=env, rewards=rewards)
        manifest = {
            "kind": "train",
            "seed": settings.seed,
            "env": env.name,
            "model": settings.model,
            "view": settings.view,
            "partner": settings.partner,
            "command": command,
        }
        chosen = folder or settings.out
        make = RunWriter.create if chosen is not None else RunWriter.create_numbered
        target = chosen or settings.runs / default_name(env.name, settings.model)
        writer = make(target, manifest, to_yaml(settings), tokens=settings.transcripts.tokens)
        return cls(settings=settings, env=env, rewards=rewards, writer=writer, first=0, is_new=True)

    @classmethod
    def resume(
        cls,
        folder: Path,
        settings: TrainSettings,
        *,
        env: Env,
        rewards: Sequence[WeightedReward],
        command: str = "",
        version: int | None = None,
    ) -> Self:
        """Go on from a run's checkpoint; what was written after it moves aside.

        version: of the checkpoint; None: the newest.  Raises UserError if the run has no such checkpoint, it is
        damaged, or a living process is writing the run.
        """
        check_trainable(settings, env, goes_on=True)
        if checkpoint.newest(folder) is None:
            raise UserError(f"run {folder} has no checkpoint to go on from; start it anew")
        version = whole_checkpoint(folder, version)
        is_evaluated = evaluated_version(folder) == version or not settings.evaluation.conversations
        if version >= settings.steps and is_evaluated:
            raise UserError(f"run {folder} has made its {version} updates; for more say steps={2 * version}")
        writer = RunWriter.resume(folder, version=version, command=command)
        return cls(settings=settings, env=env, rewards=rewards, writer=writer, first=version, is_new=False)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.writer.folder

    def stop(self) -> None:
        """Ask the run to end after what it is doing, with a checkpoint; may be called from a signal handler."""
        self._stop.make()

    def train(self) -> Result:
        """Train to the last step, or until it is stopped, and compare base and trained policy.

        Whatever ends it, what was stored stays, and the newest checkpoint is whole.
        """
        try:
            with self.writer:
                return self._train()
        except BaseException:
            self.writer.discard(also=MADE)
            raise

    def _train(self) -> Result:
        self.cluster = self._make_cluster()
        try:
            self.writer.add_to_manifest({**self.cluster.facts, "kl_tokens": _estimators_of_tokens(self.settings)})
            self.writer.keep_tokenizers(self.cluster.tokenizers)
            self.writer.write_config(to_yaml(self.settings))
            return self._train_on(self.cluster)
        finally:
            self.cluster.close()

    def _train_on(self, cluster: Any) -> Result:
        """Train on a cluster; whatever asks it to end early gets a checkpoint, if there can be one."""
        record = self._open_record(cluster)
        try:
            comparison = self._train_and_evaluate(record)
        except Stopped:
            record.save_now()
            self.writer.close("interrupted")
            return Result(folder=self.folder, version=record.version, is_stopped=True, comparison=None)
        except UserError:
            # What is wrong with the conversations is nothing against the learner; if it is the learner, this fails.
            with suppress(Exception):
                record.save_now()
            raise
        finally:
            record.loggers.close()
        return Result(folder=self.folder, version=record.version, is_stopped=False, comparison=comparison)

    def _open_record(self, cluster: Any) -> TrainingRecord:
        settings = self.settings
        manifest = {"run": self.folder.name, "settings": settings.model_dump(mode="json", by_alias=True)}
        loggers = open_loggers(settings.log, self.folder, manifest, first_step=self.first)
        return TrainingRecord(
            settings=settings,
            rewards=self.rewards,
            writer=self.writer,
            screen=self.screen,
            cluster=cluster,
            loggers=Loggers(loggers, say=self.screen.say),
            stop=self._stop,
            lines=[] if self.is_new else [*RunReader(self.folder).metrics()],
            is_in_place=self.is_new,
            version=self.first,
        )

    def _train_and_evaluate(self, record: TrainingRecord) -> Comparison | None:
        settings, cluster = self.settings, self.cluster
        dealer = dealer_of(settings, self.env)
        if settings.partner == "league":
            record.league = LeagueRun.begin(self.folder, settings, dealer=dealer, cluster=cluster, say=self.screen.say)
        deals = record.league or dealer
        evaluation = self._evaluation(record, deals)
        # The base is played before anything is restored: version 0 is the base.
        base = evaluation.of_base()
        if not self.is_new:
            newest = checkpoint.newest(self.folder)
            assert newest is not None
            record.restore(newest)
        train(settings, dealer=deals, cluster=cluster, record=record, first=record.version)
        trained = evaluation.of_trained(record.version)
        if not base or not trained:
            return None
        return evaluation.compare(base, trained, version=record.version, seed=settings.seed)

    def _evaluation(self, record: TrainingRecord, deals: EvaluationDeals) -> RunEvaluation:
        known = {**self.cluster.facts, "start_weights": self.writer.recorded("start_weights")}
        return RunEvaluation(
            num_conversations=self.settings.evaluation.conversations,
            dealer=deals,
            cluster=self.cluster,
            writer=self.writer,
            screen=self.screen,
            terms={weighted.name: weighted.term for weighted in self.rewards},
            watch=record.watch,
            fingerprint=partial(
                base_evaluation.fingerprint,
                described(self.settings, env=self.env, rewards=self.rewards),
                env=self.env,
                rewards=self.rewards,
                facts=known,
            ),
        )

    def _check_start(self, model: ModelFiles) -> None:
        """Refuse to go on from other weights than the run started from: its reference would be another one."""
        before, now = self.writer.recorded("start_weights"), model.start_weights
        self.writer.add_to_manifest({"start_weights": before or now})
        if not self.is_new and before and before != now:
            raise UserError(
                f"model={self.settings.model} has other weights than when run {self.folder} began, so its KL "
                "reference would change; give back the old ones, or start a new run"
            )

    def _make_cluster(self) -> Any:
        settings = self.settings
        self.screen.say(f"preparing {settings.model}")
        model = ModelFiles.of(settings.model, runs=settings.runs, say=self.screen.say)
        self._check_start(model)
        if settings.kl.estimator == "k3":
            self.screen.say("kl.estimator=k3 follows the gradient of the forward divergence, KL(reference || policy)")
        if model.is_adapter and settings.learner.method == "lora":
            self.screen.say(f"going on with the adapter of {settings.model}: its rank, alpha and targets stay")
        plan = play_plan(settings, env=self.env, model=model, rewards=self.rewards)
        if settings.cluster == "local":
            from selfplay.cluster.local import LocalCluster

            return LocalCluster(settings, plan=plan, model=model, rewards=self.rewards, run=self.folder)
        from selfplay.cluster.ray_environment import prepare_ray

        prepare_ray(settings.ray.address)
        from selfplay.cluster.ray_cluster import RayCluster

        return RayCluster(settings, plan=plan, model=model, rewards=self.rewards, run=self.folder, say=self.screen.say)


def described(settings: TrainSettings, *, env: Env, rewards: Sequence[WeightedReward]) -> TrainSettings:
    """Return the settings with the names and settings of these very objects."""
    specs = {}
    for weighted in rewards:
        spec = spec_of(weighted.reward)
        specs[weighted.name] = RewardSpec.model_validate(
            {
                **spec.settings,
                "name": spec.name,
                "weight": weighted.weight,
                "role": weighted.role,
                "gate": weighted.is_gate,
            }
        )
    return settings.model_copy(update={"env": spec_of(env), "rewards": specs})


def whole_checkpoint(folder: Path, version: int | None) -> int:
    """Return the version of a run's checkpoint after checking every file of it; None: of the newest.

    Raises UserError if it is damaged; the message names the others.
    """
    chosen = checkpoint.find(folder, version)
    try:
        return checkpoint.check(chosen).version
    except UserError as error:
        others = [other for other in checkpoint.versions(folder) if other != checkpoint.version_of(chosen)]
        advice = f"; an older one is resume={folder.name}@{others[-1]}" if others else ""
        raise UserError(f"{error}{advice}") from error


def _check_verifiable(settings: TrainSettings, names: Sequence[str]) -> None:
    """Refuse an alarm about a reward that is not there, but for what it is about unless told."""
    for name in settings.alarms.verifiable:
        if name not in (*names, *AlarmsGroup().verifiable):
            raise UserError(f"alarms.verifiable: {name!r} is no reward of this run; they are {', '.join(names)}")


def _estimators_of_tokens(settings: TrainSettings) -> dict[str, str]:
    """Return what `kl` of a tokens line is in each split: "k1", or "full", exact over the vocabulary."""
    kl = settings.kl
    is_exact = kl.estimator == "full" and kl.controller != "off" and kl.coefficient > 0.0
    return {"train": "full" if is_exact else "k1", "held_out": "k1"}


def default_name(env: str, model: str) -> str:
    """Return the name of a run that was given none, such as "chitchat-smollm2-135m-1122-093000"."""
    return f"{env}-{Path(model).name.replace(':', '-').replace('@', '-')}-{time.strftime('%m%d-%H%M%S')}"
