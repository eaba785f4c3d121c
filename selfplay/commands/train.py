"""`selfplay train`: two copies of a policy talk, rewards score them, a KL-controlled learner improves it."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from selfplay import models
from selfplay.commands.building import build_env, build_rewards, chosen_rewards
from selfplay.commands.evaluation_table import print_comparison
from selfplay.commands.imitated import refuse_imitation
from selfplay.commands.live import open_screen
from selfplay.commands.terminal import one_line, open_console
from selfplay.commands.train_checks import check_league_words, check_payoffs, idle_settings
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import PluginSpec, complete_spec, read_config, resolve, to_yaml
from selfplay.errors import UserError
from selfplay.evaluate_games import fitting
from selfplay.interfaces import Env, Game
from selfplay.players import CHANCE, HUMAN, POLICY, SCRIPTED
from selfplay.plugins import source_file
from selfplay.score import WeightedReward
from selfplay.store import CONFIG, RUNS, find_run
from selfplay.train_settings import TrainSettings, check_gates
from selfplay.trainable import check_trainable
from selfplay.training_run import Result, TrainingRun

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "two copies of a policy talk, rewards score them, a learner improves it"
USAGE = """
selfplay train [key=value ...] [-r REWARD=WEIGHT ...] [--dry-run] [--json]

Train a language model by self-play: every step two copies of it talk, rewards score the conversations, and a learner
updates it while a KL penalty keeps it near where it started.  Ends with a table: the model before and after.

  preset=NAME config=FILE  settings from `list presets` or a YAML file; other words win over both
  steps=30                 updates; conversations=12: in each, group_size=4: of them share a scenario
  -r REWARD=WEIGHT         a reward and its weight, repeatable: these instead of the preset's; weight 0 only measures;
                           rewards.NAME=WEIGHT changes or adds one and keeps the others; -r NAME=gate multiplies by it,
                           -r FILE.py:FUNCTION=1 takes your own, -r mix:vhrl=1 several that go together
  model=smollm2-135m       a name from `list models`, a local Hugging Face folder, a hub id, or RUN[@STEP]
  env=chitchat             which game; env.KEY=VALUE sets one of its settings
  partner=mirror           mirror: the policy on both sides; frozen: against the policy before training; league:
                           against itself and its past, which league.save_steps=, league.window= and others shape
  learner.algorithm=reinforce++   or reinforce, rloo, grpo, dr_grpo, ppo; learner.method=lora, or full
  kl.controller=adaptive   or off, fixed; kl.coefficient=1, kl.target=0.06 (nats a token)
  alarms.stop_on=[]        alarms of reward hacking that end the run, with a checkpoint, when they begin, such as
                           [kl_accelerating]
  cluster=ray              actors; ray.address=, auto or HOST:PORT, joins a cluster.  local: everything in this process
  out=FOLDER               the run folder (default: runs/ENV-MODEL-DATE-TIME)
  resume=RUN[@STEP]        go on from a run's newest checkpoint, or an older one, with its settings; steps=N makes it
                           longer
  --dry-run                print all settings and stop
  --json                   print the result as JSON, and no screen

Examples:
  selfplay train
  selfplay train preset=tiny
  selfplay train -r question=1 -r utterance_repetition=0.2 steps=20 out=runs/asks
  selfplay train resume=asks steps=40
"""
INTERRUPTED = 130
RESUME = "resume"
# What may change when a run goes on: where and how long it runs, not what it computes.
CHANGEABLE = (
    "steps",
    "cluster",
    "ray",
    "checkpoints",
    "log",
    "alarms",
    "runs",
    "engine",
    "evaluation",
    "max_failed_share",
    "reward_timeout_seconds",
    "league.missing",
)


def run(line: CommandLine) -> int:
    """Train; return 0, or 130 if it was interrupted."""
    words, resumed = _without_resume(line.words)
    settings = _settings(words, line.rewards, resumed)
    env, rewards = build_env(settings.env), build_rewards(settings.rewards)
    models.check_name(settings.model, runs=settings.runs)
    for role, name in settings.players.items():
        if name not in (POLICY, SCRIPTED, CHANCE, HUMAN):
            models.check_name(name, key=f"players.{role}", runs=settings.runs)
    _check(words, settings, env, rewards, goes_on=resumed is not None)
    settings = settings.model_copy(update={"env": complete_spec(settings.env, env)})
    _warn(idle_settings(words, settings, env, goes_on=resumed is not None), is_stderr=line.as_json or line.dry_run)
    if line.dry_run:
        tree = settings.model_dump(mode="json", by_alias=True)
        print(json.dumps(tree, indent=2) if line.as_json else to_yaml(settings).rstrip())
        return 0
    training = _open(settings, env, rewards, line=line, resumed=resumed)
    return _train(training, line)


def _check(
    words: Sequence[str], settings: TrainSettings, env: Env, rewards: Sequence[WeightedReward], *, goes_on: bool
) -> None:
    check_league_words(words, settings)
    check_trainable(settings, env, goes_on=goes_on)
    if not goes_on:
        check_payoffs(rewards, env, seed=settings.seed)


def _warn(warnings: Iterable[str], *, is_stderr: bool) -> None:
    console = open_console(is_stderr=is_stderr)
    for warning in warnings:
        console.print(Text(one_line(f"warning: {warning}"), style="yellow"), soft_wrap=True)


def _without_resume(words: Sequence[str]) -> tuple[list[str], str | None]:
    resumed = [word.partition("=")[2] for word in words if word.partition("=")[0] == RESUME]
    others = [word for word in words if word.partition("=")[0] != RESUME]
    if resumed and not resumed[-1]:
        raise UserError("resume= needs a run: a path, or a name under runs/")
    return others, resumed[-1] if resumed else None


def _settings(words: Sequence[str], rewards: Sequence[str], resumed: str | None) -> TrainSettings:
    if resumed is None:
        settings = resolve(TrainSettings, words)
    else:
        _check_changes([*words, *(f"-r {reward}" for reward in rewards)], resumed)
        runs = resolve(TrainSettings, [word for word in words if word.startswith("runs=")]).runs
        folder = find_run(_run_and_version(resumed)[0], runs)
        refuse_imitation(folder, f"it cannot be resumed; model={resumed} starts a training from what it learnt")
        settings = resolve(TrainSettings, words, under=read_config(str(folder / CONFIG)))
    chosen = settings.model_copy(update={"rewards": chosen_rewards(settings.rewards, rewards, words=words)})
    check_gates(chosen, [name for name, spec in chosen.rewards.items() if spec.gate])
    return chosen


def _run_and_version(word: str) -> tuple[str, int | None]:
    """Return the run that `resume=RUN[@STEP]` names, and the checkpoint; None: the newest."""
    name, at, step = word.rpartition("@")
    return (name, int(step)) if at and step.isdigit() else (word, None)


def _check_changes(words: Sequence[str], resumed: str) -> None:
    """Refuse to change what a run computes while it goes on."""
    for word in words:
        key = word.partition("=")[0]
        if key.split(".")[0] not in CHANGEABLE and key not in CHANGEABLE:
            raise UserError(
                f"{key}: a run that goes on keeps what it computes; {', '.join(CHANGEABLE)} may change, "
                f"and for another experiment start one with model={resumed}"
            )


def _open(
    settings: TrainSettings, env: Env, rewards: list[WeightedReward], *, line: CommandLine, resumed: str | None
) -> TrainingRun:
    command = " ".join(["train", *line.words, *(f"-r {reward}" for reward in line.rewards)])
    if resumed is not None:
        name, version = _run_and_version(resumed)
        folder = find_run(name, settings.runs)
        return TrainingRun.resume(folder, settings, env=env, rewards=rewards, command=command, version=version)
    training = TrainingRun.create(settings, env=env, rewards=rewards, command=command, is_described=True)
    specs = {"env": settings.env}
    for name, reward in settings.rewards.items():
        specs[f"reward {name}"] = PluginSpec(name=reward.name or name)
    for kind, spec in specs.items():
        source = source_file(spec)
        if source is not None:
            training.writer.keep_source(kind, source.read_bytes())
    return training


def _train(training: TrainingRun, line: CommandLine) -> int:
    console = open_console(is_stderr=line.as_json)
    settings = training.settings
    with (
        _stopping(training, console),
        open_screen(console, settings, run=training.folder.name, first_step=training.first) as screen,
    ):
        training.screen = screen
        result = training.train()
    if line.as_json:
        print(json.dumps(_as_json(result, training.folder)))
    else:
        _report(result, settings, console)
    return INTERRUPTED if result.is_stopped else 0


@contextmanager
def _stopping(training: TrainingRun, console: Console) -> Iterator[None]:
    """Let the first Ctrl-C, or SIGTERM, end the run with a checkpoint, and the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        for number in before:
            signal.signal(number, signal.default_int_handler)
        training.stop()
        console.print(_dim("stopping with a checkpoint after what is under way; once more stops at once"))

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(result: Result, settings: TrainSettings, console: Console) -> None:
    run = _name(result.folder, settings)
    program = program_name()
    console.print()
    if result.comparison is not None:
        print_comparison(console, fitting(result.comparison), kl_target=settings.kl.steered_to)
        console.print()
    hints = [] if result.is_stopped else [f"stored in {result.folder}"]
    if result.is_stopped:
        console.print(Text(f"stopped after {result.version} of {settings.steps} updates"))
        hints.append(f"go on:              {program} train resume={run}")
    if result.version:
        env = build_env(settings.env)
        hints.append(_hint_to_talk(settings, env, f"{program} play model={run}"))
        if isinstance(env, Game):
            hints.append(_hint_to_compare(env, f"{program} eval {run}"))
        if isinstance(env, Game) and settings.partner == "league":
            hints.append(f"against its past:   {program} tournament {run}@all against=base,scripted")
        hints.append(f"its conversations:  {program} ls {run}")
        hints.append(f"the last one:       {program} show {run} last")
    for hint in hints:
        # A command that is broken into two lines cannot be copied.
        console.print(_dim(hint), soft_wrap=True)


def _hint_to_talk(settings: TrainSettings, env: Env, command: str) -> str:
    if len(env.roles) == 1:
        return f"watch it play:      {command}"
    # Where the policy did not learn every role, the person takes one of the others.
    others = [role for role in env.roles if settings.players.get(role, POLICY) != POLICY]
    return f"talk to it:         {command} players.{(others or env.roles)[-1]}=human"


def _hint_to_compare(env: Game, command: str) -> str:
    if len(env.roles) == 1:
        return f"beside the scripts: {command}"
    return f"against opponents:  {command} against=base,scripted"


def _name(folder: Path, settings: TrainSettings) -> str:
    # Whoever reads the name looks under runs/; a run that lies elsewhere is named by its path.
    return shlex.quote(folder.name if folder.parent == settings.runs == RUNS else str(folder))


def _as_json(result: Result, folder: Path) -> dict[str, object]:
    from selfplay.evaluate import comparison_to_json

    comparison = None if result.comparison is None else comparison_to_json(result.comparison)
    return {"run": str(folder), "version": result.version, "stopped": result.is_stopped, "comparison": comparison}


def _dim(text: str) -> Text:
    return Text(one_line(text), style="dim")
