"""One training run from its folder to its final table: create or resume it, then `train`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from selfplay import alarms, checkpoint, models
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayPlan
from selfplay.config import to_yaml
from selfplay.dealing import Dealer
from selfplay.dialog import Conversation, ScoredConversation, id_order
from selfplay.errors import UserError
from selfplay.evaluate import Comparison, Measured, compare, comparison_to_json
from selfplay.interfaces import Cluster, Env, Sampling, Update
from selfplay.league_run import LeagueRun
from selfplay.metrics import Loggers, open_loggers, step_metrics
from selfplay.players import SCRIPTED
from selfplay.plugins import spec_of
from selfplay.reward_trial import try_rewards
from selfplay.run_folder import ALARMS, now
from selfplay.score import WeightedReward
from selfplay.store import RunReader, RunWriter
from selfplay.train import Stopped, train
from selfplay.train_settings import RewardSpec, TrainSettings, check_gates
from selfplay.whole_files import write_whole

EVALUATION = "evaluation.json"
BASE = "base"  # the start of a model without a folder, for its adapters


class Screen(Protocol):
    """Where a person sees how far a run is."""

    def say(self, text: str) -> None:
        """Show one line."""
        ...

    def start_step(self, step: int, version: int) -> None:
        """A step begins to be played."""
        ...

    def doing(self, what: str, *, conversations: int = 0) -> None:
        """Something other than a step begins, such as "evaluating"."""
        ...

    def conversation(self, conversation: Conversation) -> None:
        """A conversation has ended."""
        ...

    def learning(self) -> None:
        """The learner works."""
        ...

    def end_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is over."""
        ...


class Silence:
    """A screen that shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def start_step(self, step: int, version: int) -> None:
        """Show nothing."""

    def doing(self, what: str, *, conversations: int = 0) -> None:
        """Show nothing."""

    def conversation(self, conversation: Conversation) -> None:
        """Show nothing."""

    def learning(self) -> None:
        """Show nothing."""

    def end_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""


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
    _is_asked_to_stop: bool = False

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
        check_trainable(settings, env)
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
        self._is_asked_to_stop = True

    def train(self) -> Result:
        """Train to the last step, or until it is stopped, and compare base and trained policy.

        Whatever ends it, what was stored stays, and the newest checkpoint is whole.
        """
        try:
            with self.writer:
                return self._train()
        except BaseException:
            self.writer.discard(also=BASE)
            raise

    def _train(self) -> Result:
        self.cluster = self._make_cluster()
        try:
            self.writer.add_to_manifest({**self.cluster.facts, "kl_tokens": _estimators_of_tokens(self.settings)})
            self.writer.keep_tokenizers(self.cluster.tokenizers)
            self.writer.write_config(to_yaml(self.settings))
            return _Session(run=self, cluster=self.cluster, version=self.first).train()
        finally:
            self.cluster.close()

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


def evaluated_version(folder: Path) -> int | None:
    """Return which version of a run its evaluation is of; None: it has none."""
    try:
        version = json.loads((folder / EVALUATION).read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError, AttributeError):
        return None
    return version if isinstance(version, int) else None


def check_trainable(settings: TrainSettings, env: Env) -> None:
    """Raise UserError if no role is left to the policy, or a role is unknown."""
    from selfplay.written import nearest

    for role, name in settings.players.items():
        if role not in env.roles:
            raise UserError(f"players.{role}: env {env.name} has no such role{nearest(role, list(env.roles))}")
        if name == "human":
            raise UserError(f"players.{role}=human: a person plays with `play`; nobody can sit through training")
    if not set(env.roles) - {role for role, name in settings.players.items() if name != "policy"}:
        raise UserError(f"players: every role of env {env.name} is taken, so no policy would be trained; free one")


def _check_verifiable(settings: TrainSettings, names: Sequence[str]) -> None:
    """Refuse an alarm about a reward that is not there, but for what it is about unless told."""
    for name in settings.alarms.verifiable:
        if name not in (*names, *alarms.AlarmsGroup().verifiable):
            raise UserError(f"alarms.verifiable: {name!r} is no reward of this run; they are {', '.join(names)}")


def _estimators_of_tokens(settings: TrainSettings) -> dict[str, str]:
    """Return what `kl` of a tokens line is in each split: "k1", or "full", exact over the vocabulary."""
    kl = settings.kl
    is_exact = kl.estimator == "full" and kl.controller != "off" and kl.coefficient > 0.0
    return {"train": "full" if is_exact else "k1", "held_out": "k1"}


def play_plan(settings: TrainSettings, *, env: Env, model: ModelFiles, rewards: Sequence[WeightedReward]) -> PlayPlan:
    """Return what a play worker of these settings needs."""
    cheap = tuple(weighted for weighted in rewards if weighted.is_cheap)
    return PlayPlan(
        env=env,
        model=model,
        rewards=cheap,
        reward_timeout_seconds=settings.reward_timeout_seconds,
        fixed=fixed_players(settings) | _scripted_opponents(settings),
        has_frozen=settings.partner != "mirror",
        uses_adapters=settings.learner.method == "lora",
        plays_adapters=settings.partner == "league" and settings.learner.method == "lora",
        view=settings.view,
        sampling=Sampling(**settings.sampling.model_dump()),
        device=settings.engine.device,
        dtype=settings.engine.dtype,
        threads=settings.engine.threads,
        max_batch=settings.engine.max_batch,
        concurrency=settings.engine.concurrency,
    )


def _scripted_opponents(settings: TrainSettings) -> dict[str, str]:
    """Return the scripted player under a name that is no role's, where the league draws it."""
    is_drawn = settings.partner == "league" and settings.league.scripted_ratio > 0
    return {"a league's opponent": SCRIPTED} if is_drawn else {}


def dealer_of(settings: TrainSettings, env: Env) -> Dealer:
    """Return who deals the matches of these settings, in training and in evaluation."""
    return Dealer(
        env=env,
        seed=settings.seed,
        conversations=settings.conversations,
        group_size=settings.group_size,
        partner=settings.partner,
        fixed=fixed_players(settings),
    )


def fixed_players(settings: TrainSettings) -> dict[str, str]:
    """Return role -> player for the roles that are never the policy's."""
    return {role: name for role, name in settings.players.items() if name != "policy"}


def default_name(env: str, model: str) -> str:
    """Return the name of a run that was given none, such as "chitchat-smollm2-135m-1122-093000"."""
    return f"{env}-{Path(model).name.replace(':', '-').replace('@', '-')}-{time.strftime('%m%d-%H%M%S')}"


@dataclass(slots=True, kw_only=True)
class _Session:
    """The part of a run that has its cluster; implements `selfplay.train.Record`."""

    run: TrainingRun
    cluster: Any  # a Cluster with facts, events and tokenizers
    version: int = 0  # updates made
    saved: int = -1  # version of the newest checkpoint
    is_restored: bool = False  # whether the learner is where the newest checkpoint was
    _lines: list[alarms.Line] = field(default_factory=list)  # metrics of every step of the run so far
    _warned: set[str] = field(default_factory=set)
    _played: float = 0.0  # when the step's conversations were complete, and scored
    _started: float = 0.0
    _loggers: Loggers | None = None
    _league: LeagueRun | None = None

    def train(self) -> Result:
        run, settings = self.run, self.run.settings
        manifest = {"run": run.folder.name, "settings": settings.model_dump(mode="json", by_alias=True)}
        loggers = open_loggers(settings.log, run.folder, manifest, first_step=run.first)
        self._loggers = Loggers(loggers, say=run.screen.say)
        self._lines = [] if run.is_new else [*RunReader(run.folder).metrics()]
        try:
            return self._train()
        except Stopped:
            self._save_now()
            run.writer.close("interrupted")
            return Result(folder=run.folder, version=self.version, is_stopped=True, comparison=None)
        except UserError:
            # What is wrong with the conversations is nothing against the learner; if it is the learner, this fails.
            with suppress(Exception):
                self._save_now()
            raise
        finally:
            self._loggers.close()

    def _save_now(self) -> None:
        """Write a checkpoint of where the learner is, between two updates, if there is none yet."""
        if self.version != self.saved and (self.is_restored or self.run.is_new):
            self.save(self.version, self.cluster.save)

    def _train(self) -> Result:
        run, settings, cluster = self.run, self.run.settings, self.cluster
        dealer: Dealer | LeagueRun = dealer_of(settings, run.env)
        if isinstance(dealer, Dealer) and settings.partner == "league":
            dealer = self._league = LeagueRun.begin(
                run.folder, settings, dealer=dealer, cluster=cluster, say=run.screen.say
            )
        # The base is played before anything is restored: version 0 is the base.
        base = self._evaluate(dealer, version=0, is_stored=run.is_new)
        if not run.is_new:
            newest = checkpoint.newest(run.folder)
            assert newest is not None
            self.version = self.saved = cluster.restore(newest)
            if self._league is not None:
                self._league.restore(newest)
            self.is_restored = True
        train(settings, dealer=dealer, cluster=cluster, record=self, first=self.version)
        trained = self._evaluate(dealer, version=self.version, is_stored=True)
        comparison = compare(base, trained, seed=settings.seed) if base and trained else None
        if comparison is not None:
            text = json.dumps({"version": self.version, **comparison_to_json(comparison)}, indent=2)
            write_whole(run.folder / EVALUATION, text.encode() + b"\n")
        return Result(folder=run.folder, version=self.version, is_stopped=False, comparison=comparison)

    def _evaluate(self, dealer: Dealer | LeagueRun, *, version: int, is_stored: bool) -> list[Measured]:
        run, cluster = self.run, self.cluster
        num = run.settings.evaluation.conversations
        if not num:
            return []
        run.screen.doing(f"evaluating version {version} on held-out scenarios", conversations=num)
        matches = dealer.evaluation(version, conversations=num)
        played = sorted(self.watch(cluster.play(matches)), key=lambda conversation: id_order(conversation.id))
        scored = cluster.score(played)
        likelihoods = {found.conversation: found for found in cluster.measure(played)}
        if is_stored:
            self.keep(scored)
            for conversation in played:
                if conversation.id in likelihoods:
                    run.writer.add_likelihood(conversation, likelihoods[conversation.id], by=f"learner@{version}")
        return [
            Measured(scored=one, likelihood=likelihoods[one.conversation.id])
            for one in scored
            if one.conversation.id in likelihoods
        ]

    # ----- selfplay.train.Record -----

    def start(self, step: int) -> None:
        self._check_stop()
        self._started = time.perf_counter()
        self.run.screen.start_step(step, self.version)

    def watch(self, conversations: Iterator[Conversation]) -> Iterator[Conversation]:
        for conversation in conversations:
            self._check_stop()
            self.run.screen.conversation(conversation)
            yield conversation

    def keep(self, scored: Sequence[ScoredConversation]) -> None:
        terms = {weighted.name: weighted.term for weighted in self.run.rewards}
        for one in scored:
            self.run.writer.append(one.conversation, one, terms=terms)
        self._played = time.perf_counter()
        self._check_stop()
        self.run.screen.learning()

    def finish(self, step: int, scored: Sequence[ScoredConversation], update: Update, *, num_stale: int) -> None:
        run, ended = self.run, time.perf_counter()
        self.version = update.version
        metrics = step_metrics(
            scored,
            play_seconds=self._played - self._started,
            learn_seconds=ended - self._played,
            rewards=run.rewards,
            update={**update.metrics, **self.cluster.events},
            stale_dropped=num_stale,
        )
        if self._league is not None:
            conversations = [one.conversation for one in scored]
            metrics |= self._league.finish(step, conversations, version=update.version)
        readings = alarms.read_alarms([*self._lines, {"step": step, **metrics}], self._watch())
        metrics |= alarms.alarm_metrics(readings)
        self._lines.append({"step": step, **metrics})
        run.writer.log_metrics(step, metrics)
        for one in scored:
            run.writer.add_tokens(one.conversation, update.tokens.get(one.conversation.id, {}))
        for id, data in update.notes.items():
            run.writer.annotate(id, by=f"learner@{update.version}", kind="learner", data=dict(data))
        assert self._loggers is not None
        self._loggers.log(step, metrics)
        for warning in update.warnings:
            text = warning.partition(": ")[2] or warning  # what it says, whatever the version
            if text not in self._warned:
                self._warned.add(text)
                run.screen.say(f"warning: {warning}")
        run.screen.end_step(step, metrics)
        self._tell(step, readings, scored, update)

    def _watch(self) -> alarms.Watch:
        settings = self.run.settings
        return alarms.Watch(
            settings=settings.alarms,
            weights={weighted.name: weighted.weight for weighted in self.run.rewards if not weighted.is_gate},
            kl_target=settings.kl.steered_to,
        )

    def _tell(
        self, step: int, readings: Sequence[alarms.Reading], scored: Sequence[ScoredConversation], update: Update
    ) -> None:
        """Say and store the alarms that begin or end at this step, and stop for those that the settings name."""
        run = self.run
        name = run.folder.name if run.folder.parent == run.settings.runs else str(run.folder)
        changed = [reading for reading in readings if reading.has_begun or reading.has_ended]
        records = [
            alarms.alarm_to_json(
                reading,
                step=step,
                at=now(),
                run=name,
                look_at=alarms.conversations_to_read(reading, scored, update.notes) if reading.is_on else [],
            )
            for reading in changed
        ]
        alarms.append_alarms(run.folder / f"{ALARMS}.jsonl", records)
        for record in records:
            run.screen.say(record["text"])
        for reading in changed:
            # After the last step there is nothing to stop but the evaluation.
            if reading.has_begun and reading.name in run.settings.alarms.stop_on and step + 1 < run.settings.steps:
                run.screen.say(f"stopping with a checkpoint: {reading.name} is in alarms.stop_on")
                run.stop()

    def save(self, version: int, fill: Callable[[Path], None]) -> None:
        run = self.run
        info: dict[str, Any] = {"model": run.settings.model, "method": run.settings.learner.method}
        checkpoint.write(run.folder, version, self._with_league(fill), info=info, keep=run.settings.checkpoints.keep)
        self.saved = version

    def _with_league(self, fill: Callable[[Path], None]) -> Callable[[Path], None]:
        league = self._league
        if league is None:
            return fill

        def fill_all(folder: Path) -> None:
            fill(folder)
            league.save(folder)

        return fill_all

    def _check_stop(self) -> None:
        if self.run._is_asked_to_stop:
            raise Stopped


__all__ = ["Cluster", "Result", "Screen", "Silence", "TrainingRun", "default_name", "fixed_players", "play_plan"]
