"""`selfplay iterate`: play, label, refit the reward model on everything so far, train, and again; nobody is asked."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay import models
from selfplay.commands.building import build_env, build_rewards, chosen_rewards
from selfplay.commands.live import open_screen
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import complete_spec, read_config, resolve, to_yaml
from selfplay.errors import UserError
from selfplay.interfaces import Env
from selfplay.iterate import CONFIG, ITERATE, TABLE, Iteration, Tools, is_iteration
from selfplay.iterate_rounds import NothingToLearnError, Round
from selfplay.iterate_settings import GOLD, JUDGE, ON_SENTENCES, RM, TWIN, IterateSettings, preset_source
from selfplay.iterate_table import COLUMNS, iterate_report, read_rounds, remarks_on, round_to_json, rows_of
from selfplay.score import WeightedReward
from selfplay.train_settings import RewardSpec
from selfplay.training_run import Result, TrainingRun, check_trainable, default_name
from selfplay.whole_files import write_whole

if TYPE_CHECKING:
    from selfplay.label_by import AutoLabeller
    from selfplay.reward_model.baselines import Heuristic
    from selfplay.reward_model.fit import Progress

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "play, label, refit the reward model, train, and again: nobody is asked"
USAGE = """
selfplay iterate [rounds=3] [by=gold:REWARD | by=judge] [key=value ...] [-r REWARD=WEIGHT ...] [--dry-run] [--json]

Rounds without people.  In each the newest policy talks, a known reward or a language model says which of two
conversations is better, a reward model learns from all of that so far, and the policy is trained against it.  Ends with
a table: how well the reward model knows the newest policy, what became of its reward, of gold and of the distance from
the first policy.

  rounds=3                 how many
  by=gold                  who says what is better: the rewards of these settings; gold:REWARD, such as gold:question or
                           gold:mix:vhrl; judge: a language model (judge.model= .constitution= .few_shot= .clamp=)
  labels=800               a round; of talk_conversations=192, of which talk_group=8 share a scenario
  sampler=uniform          pairs by chance; disagreement: those that members of the newest reward model dispute most
  gold_noise=0             share of gold labels that are drawn blindly; gold_temperature=0: above 0 gold errs, the more
                           the closer two are
  rm=refreshed             frozen: the first round's reward model is kept; it is measured all the same
  rm.KEY=VALUE             how it is trained, as `reward train` takes it: rm.backbone=minilm, rm.ensemble=0
  pessimism=0              deviations of its members that are taken off what it says
  continue_from=previous   base: every round trains the first policy anew
  -r REWARD=WEIGHT         a reward to train on beside the reward model, repeatable; weight 0 measures only
  steps=10 ...             updates a round, and all else that `train` takes
  preset=NAME config=FILE  settings from `list presets` or a YAML file; other words win over both
  out=FOLDER               where all of it goes (default: runs/iterate-ENV-MODEL-DATE-TIME)
  resume=FOLDER            go on; rounds=N makes it longer
  --dry-run                print all settings and stop
  --json                   print the table as JSON

Examples:
  selfplay iterate preset=tiny
  selfplay iterate rewards.sentiment=1 out=runs/rounds
  selfplay iterate by=judge judge.model=smollm2-135m rounds=3 -r question=0
  selfplay iterate resume=runs/rounds rounds=5
"""
INTERRUPTED = 130
RESUME, PRESET = "resume", "preset"
# What may change between rounds: where and how long they run, not what they compute.
CHANGEABLE = (
    "rounds",
    "cluster",
    "ray",
    "checkpoints",
    "log",
    "runs",
    "engine",
    "max_failed_share",
    "reward_timeout_seconds",
)


def run(line: CommandLine) -> int:
    """Do the rounds; return 0, or 130 if they were interrupted."""
    words, resumed = _without(line.words, RESUME)
    settings = _settings(words, line.rewards, resumed)
    env = build_env(settings.env)
    settings = settings.model_copy(update={"env": complete_spec(settings.env, env)})
    gold = _gold(settings)
    _check(settings, env, gold)
    if line.dry_run:
        tree = settings.model_dump(mode="json", by_alias=True)
        print(json.dumps(tree, indent=2) if line.as_json else to_yaml(settings).rstrip())
        return 0
    folder = Path(resumed) if resumed is not None else _folder(settings, env)
    # The folder may be moved, and goes on where it lies then.
    settings = settings.model_copy(update={"out": None})
    console = open_console(is_stderr=line.as_json)
    command = " ".join([program_name(), "iterate", *line.words, *(f"-r {reward}" for reward in line.rewards)])
    session = _Session(settings=settings, env=env, gold=gold, folder=folder, console=console, command=command)
    status = session.run()
    if line.as_json:
        results = read_rounds(folder, rounds=settings.rounds)
        print(json.dumps({"folder": str(folder), "rounds": [round_to_json(result) for result in results]}))
    return status


def _without(words: Sequence[str], key: str) -> tuple[list[str], str | None]:
    given = [word.partition("=")[2] for word in words if word.partition("=")[0] == key]
    if given and not given[-1]:
        raise UserError(f"{key}= needs a name")
    return [word for word in words if word.partition("=")[0] != key], given[-1] if given else None


def _settings(words: Sequence[str], rewards: Sequence[str], resumed: str | None) -> IterateSettings:
    # `rm=frozen` is short for a key of the group.
    words = [f"rm.refit={word.removeprefix('rm=')}" if word.startswith("rm=") else word for word in words]
    if resumed is not None:
        return _resumed(words, rewards, Path(resumed))
    words, preset = _without(words, PRESET)
    settings = resolve(IterateSettings, words, under=None if preset is None else preset_source(preset))
    also = {**settings.also, **chosen_rewards({}, rewards)}
    pinned = models.pinned(settings.model, runs=settings.runs)
    return settings.model_copy(update={"also": also, "model": pinned})


def _resumed(words: Sequence[str], rewards: Sequence[str], folder: Path) -> IterateSettings:
    if not is_iteration(folder):
        raise UserError(f"resume={folder}: there are no rounds in this folder")
    for word in [*words, *(f"-r {reward}" for reward in rewards)]:
        key = word.partition("=")[0]
        if key.split(".")[0] not in CHANGEABLE:
            raise UserError(
                f"{key}: rounds that go on keep what they compute; {', '.join(CHANGEABLE)} may change, "
                "and for another experiment start in another folder"
            )
    return resolve(IterateSettings, words, under=read_config(str(folder / CONFIG)))


def _gold(settings: IterateSettings) -> Mapping[str, RewardSpec]:
    """Return what the labels go by; empty: a judge's labels go by nothing that is known."""
    if settings.by == JUDGE:
        return {}
    name = settings.by.removeprefix(GOLD).removeprefix(":")
    return chosen_rewards(settings.rewards, [f"{name}=1"] if name else [], typed=f"by={GOLD}:")


def _check(settings: IterateSettings, env: Env, gold: Mapping[str, RewardSpec]) -> None:
    """Refuse what could only fail later, when much has been done."""
    check_trainable(settings, env)
    models.check_name(settings.model, runs=settings.runs)
    if settings.by == JUDGE:
        models.check_name(settings.judge.model, key="judge.model", runs=settings.runs)
    if settings.rm.backbone not in ON_SENTENCES:
        models.check_name(settings.rm.backbone, key="rm.backbone", runs=settings.runs)
    for name in (RM, TWIN):
        if name in gold or name in settings.also:
            raise UserError(f"rewards.{name}: the round's own reward model is recorded under that name; choose another")
    build_rewards({**gold, **settings.also})
    if settings.out is not None and is_iteration(settings.out):
        raise UserError(f"out={settings.out}: it holds rounds already; go on with resume={settings.out}")


def _folder(settings: IterateSettings, env: Env) -> Path:
    return settings.out or settings.runs / f"iterate-{default_name(env.name, settings.model)}"


@dataclass(slots=True, kw_only=True)
class _Session:
    """One call of the command."""

    settings: IterateSettings
    env: Env
    gold: Mapping[str, RewardSpec]
    folder: Path
    console: Console
    command: str
    _training: TrainingRun | None = None  # under way
    _is_asked_to_stop: bool = False
    _began_with: bytes = b""  # what was recorded as done when the folder was this call's own
    _said: float = field(default_factory=time.monotonic)

    def run(self) -> int:
        """Do the rounds; return the exit status."""
        iteration = Iteration(folder=self.folder, settings=self.settings, tools=self._tools(), command=self.command)
        try:
            with self._interrupts():
                iteration.run()
        except KeyboardInterrupt:
            self._say("interrupted; what is done is kept")
            self._say_how_to_go_on()
            return INTERRUPTED
        except NothingToLearnError:
            raise
        except UserError:
            # Where this call came no further than the last one, the next one would not either.
            if self._began_with and self._recorded() != self._began_with:
                self._say_how_to_go_on()
            raise
        self._show()
        return 0

    def _begin(self) -> None:
        self._began_with = self._recorded()
        self._say(f"{plural(self.settings.rounds, 'round')} in {self.folder}, labels by {self.settings.by}")
        if self.settings.by == JUDGE:
            self._warn_of_kin()

    def _recorded(self) -> bytes:
        return (self.folder / ITERATE).read_bytes()

    def _warn_of_kin(self) -> None:
        from selfplay.judge.families import kinship

        settings = self.settings
        warning = kinship(settings.judge.model, settings.model, runs=settings.runs)
        if warning:
            self._say(f"warning: {warning}")

    def _tools(self) -> Tools:
        return Tools(
            env=self.env,
            gold=self.gold,
            build_rewards=build_rewards,
            make_labeller=self._make_labeller,
            heuristics=_heuristics,
            begin=self._begin,
            train=self._train,
            report=self._report,
            say=self._say,
            on_label=self._on_label,
            fitting=self._fitting,
        )

    def _make_labeller(self, seed: int) -> AutoLabeller:
        settings = self.settings
        if settings.by == JUDGE:
            return _judge(settings, self.folder, seed=seed)
        rewards = build_rewards(self.gold)
        from selfplay.label_by import GoldLabeller

        return GoldLabeller(
            rewards,
            name=_gold_name(settings, rewards),
            noise=settings.gold_noise,
            temperature=settings.gold_temperature,
            seed=seed,
            timeout_seconds=settings.reward_timeout_seconds,
        )

    # ----- what is shown -----

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self.console.print(Text(one_line(text)), soft_wrap=True)

    def _train(self, training: TrainingRun) -> Result:
        """Train with a screen; a first interrupt ends it with a checkpoint."""
        screen = open_screen(
            self.console, training.settings, run=training.folder.parent.name, first_step=training.first
        )
        self._training = training
        try:
            with screen:
                training.screen = screen
                result = training.train()
        finally:
            self._training = None
        if self._is_asked_to_stop:
            raise KeyboardInterrupt
        return result

    def _on_label(self, num: int, num_all: int) -> None:
        if num == num_all or time.monotonic() - self._said >= PROGRESS_SECONDS:
            self._say(f"  {num} of {plural(num_all, 'pair')} labelled")

    @contextmanager
    def _fitting(self) -> Iterator[Callable[[Progress], None]]:
        from selfplay.commands.reward_progress import FitScreen

        screen = FitScreen(self.console)
        with screen.shown():
            yield screen.on_progress
        screen.end()

    def _report(self) -> None:
        results = read_rounds(self.folder, rounds=self.settings.rounds)
        text = iterate_report(results, self.settings, command=self.command)
        write_whole(self.folder / TABLE, text.encode())

    def _show(self) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        results = read_rounds(self.folder, rounds=self.settings.rounds)
        rows = rows_of(results)
        table.add_column(COLUMNS[0])
        for row in rows:
            table.add_column(row[0])
        for place, name in enumerate(COLUMNS[1:], start=1):
            table.add_row(name, *(row[place] for row in rows))
        self.console.print()
        self.console.print(table)
        for remark in remarks_on(results):
            self.console.print(Text(one_line(remark), style="yellow"), soft_wrap=True)
        self._dim(f"written: {self.folder / TABLE}, which says what the lines mean")
        last = Round(folder=self.folder, number=self.settings.rounds - 1)
        role = self.env.roles[-1]
        self._dim(f"talk to the last policy:  {program_name()} play model={last.train} players.{role}=human")
        self._dim(f"its conversations:        {program_name()} ls {last.train}")
        self._dim(f"the last reward model:    {program_name()} reward report {last.newest_rm(self.settings)}")

    def _say_how_to_go_on(self) -> None:
        if is_iteration(self.folder):
            self._dim(f"go on:  {program_name()} iterate resume={self.folder}")

    def _dim(self, text: str) -> None:
        self.console.print(Text(one_line(text), style="dim"), soft_wrap=True)

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end what is under way: training with a checkpoint the first time, all else at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            if self._training is None or self._is_asked_to_stop:
                raise KeyboardInterrupt
            self._is_asked_to_stop = True
            self._training.stop()
            self._say("stopping with a checkpoint after what is under way; once more stops at once")

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, interrupt)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


PROGRESS_SECONDS = 10.0


def _heuristics() -> Mapping[str, Heuristic]:
    from selfplay.commands.reward_report import cheap_heuristics

    return cheap_heuristics()


def _gold_name(settings: IterateSettings, rewards: Sequence[WeightedReward]) -> str:
    """Return what labels are said to be by: the reward's name, or that it is the mix of these settings."""
    given = settings.by.removeprefix(GOLD).removeprefix(":")
    return given or (rewards[0].name if len(rewards) == 1 else "settings")


def _judge(settings: IterateSettings, folder: Path, *, seed: int) -> AutoLabeller:
    from selfplay.judge.pairs import LABELLING, PairJudge
    from selfplay.judge.verdicts import VERDICTS
    from selfplay.label_by import JudgeLabeller

    judge = settings.judge
    asked = PairJudge(
        model=judge.model,
        constitution=judge.constitution,
        few_shot=judge.few_shot,
        clamp=judge.clamp,
        seed=seed,
        cache=folder / VERDICTS,
        runs=settings.runs,
        patience=LABELLING,
    )
    return JudgeLabeller(asked)
