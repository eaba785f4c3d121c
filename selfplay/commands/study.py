"""`selfplay study`: many training runs compared, in a table and a picture."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.errors import UserError
from selfplay.plots import can_draw, draw_study
from selfplay.study import CellResult, Plan, Say, read_curves, run_study
from selfplay.study_arms import STUDIES
from selfplay.study_table import study_report
from selfplay.whole_files import write_whole
from selfplay.written import nearest

__all__ = ["START", "SUMMARY", "USAGE", "Launcher", "interrupted_by_signals", "run"]

SUMMARY = "many training runs that differ in one thing, in a table and a picture"
USAGE = """
selfplay study NAME [out=FOLDER] [seeds=0,1,2] [arms=A,B] [key=value ...] [--dry-run]
selfplay study ratings [out=FOLDER] [coherence=0] [seed=0] [-r NAME=WEIGHT ...] [--dry-run]
selfplay study human-preference [out=FOLDER] [seeds=0,1,2] [key=value ...] [--dry-run]
selfplay study overoptimise [out=FOLDER] [seeds=0] [key=value ...] [--dry-run]

Train one run for every arm and seed, each in a process of its own, and write a table and a picture of them all.
Stopped and called again, it goes on: finished runs are kept, an interrupted one continues from its checkpoint.

  kl                 what KL control does to a reward that pushes until language is gone: arms no_kl, fixed_0.1,
                     fixed_1, adaptive, and question_no_kl, whose reward saturates
  chat               what the defaults of `train` teach: one arm, chat
  signal             how often two copies of a random model find a code: arms signal, no_entropy_bonus, symbols_8
  league             whom a policy meets: itself, itself before training, or a league of its past; at kuhn and demand
  games              what self-play adds to a supervised start at games with a truth: arms pointing, haggle, deal,
                     demand, twenty_questions; deal and haggle with a _shared reward; demand _held by a fixed KL
                     coefficient, or _short; pointing and demand against the policy before training (_frozen) or a
                     _league of its past; they need the models of `sft ... out=runs/sft-NAME`
  out=FOLDER         where all of it goes (default: runs/study-NAME)
  seeds=0,1,2        one run of every arm for each
  arms=no_kl,adaptive   some of the arms
  key=value          settings of `train`, for all runs: steps=20 model=tiny
  --dry-run          print the command of every run and stop

`study ratings` trains nothing: it scores 1,960 chats between people with every reward that reads text, and says which
go with how witty, upbeat and interesting the chats were rated.  It needs pip install 'selfplay-dialog[data]'.

  coherence=200      measure the reward coherence too, in so many chats drawn by seed: it is slow (default: 0)
  -r question=0.5    a reward and its weight, repeatable: a mix of your own, measured beside the presets' mixes

`study human-preference` trains reward models on which of two such chats was rated higher, and says how often they are
right on chats of other pairs of people, beside length alone and the best single reward.  It needs the same package.

  questions=witty,upbeat,interesting   what people were asked
  backbones=minilm   what the reward models are made of, as in `reward train DATA backbone=`
  key=value          settings of `reward train`, for all: min_gap=3 ensemble=5

`study overoptimise` pushes a policy to please reward models that learnt a known reward, by best-of-N and by training,
and shows what that is worth: gold against proxy over KL.

  few=100 many=1600  labels that the two reward models learn from; label_noise=0.1: the share drawn blindly
  gold.NAME=WEIGHT   a part of the known reward
  scenarios=48       held-out scenarios of the pool; candidates=32: conversations of each, the largest N
  points=4,8,12,18,24   updates after which the trained policies are measured; points=[]: nothing is trained
  rm.KEY=VALUE       how the reward models are trained; train.KEY=VALUE: how the policies are

Examples:
  selfplay study kl
  selfplay study kl seeds=0 steps=20 out=runs/quick
  selfplay study ratings -r question=1 -r conversation_repetition=0.1
  selfplay study human-preference questions=witty seeds=0
  selfplay study overoptimise scenarios=24 candidates=16 points=4,8
"""
# Studies that are no table of training runs -> their modules, imported when they are asked for.
OTHERS = {
    "ratings": "selfplay.commands.study_ratings",
    "human-preference": "selfplay.commands.study_human_preference",
    "overoptimise": "selfplay.commands.study_overoptimise",
}
CELLS_FAILED = 1
PROGRESS_SECONDS = 60.0
POLL_SECONDS = 0.5
# How long a run may take to write its checkpoint when it is interrupted.
PATIENCE_SECONDS = 300.0
START = "import sys; from selfplay.commands import main; sys.exit(main())"


def run(line: CommandLine) -> int:
    """Run the study; return 0, or 1 if a run of it failed."""
    if line.words and line.words[0] in OTHERS:
        status: int = importlib.import_module(OTHERS[line.words[0]]).run(line)
        return status
    plan = _plan(line.words)
    if line.dry_run:
        for cell in plan.cells():
            plan.settings_of(cell)
            print(" ".join([program_name(), "train", *plan.words_of(cell), f"out={plan.folder}/runs/{cell.name}"]))
        return 0
    console = open_console()
    command = " ".join([program_name(), "study", *line.words])

    def say(text: str) -> None:
        console.print(Text(one_line(text)))

    def report(results: list[CellResult]) -> None:
        write_whole(plan.folder / "table.md", study_report(plan, results, command=command).encode())
        if can_draw():
            draw_study(results, plan.arms, plan.folder / "curves.png", panels=plan.study.panels)

    say(
        f"study {plan.study.name}: {plural(len(plan.arms), 'arm')}, {plural(len(plan.seeds), 'seed')}, in {plan.folder}"
    )
    if not can_draw():
        say("matplotlib is not installed, so there will be no picture: pip install 'selfplay-dialog[plots]'")
    with interrupted_by_signals():
        problems = run_study(plan, launch=Launcher(say=say), say=say, report=report)
    report(plan.results())
    _show(console, plan)
    return CELLS_FAILED if problems else 0


def _plan(words: Sequence[str]) -> Plan:
    names = [word for word in words if "=" not in word]
    if len(names) != 1:
        raise UserError(f"study needs one name, of: {', '.join([*STUDIES, *OTHERS])}")
    if names[0] not in STUDIES:
        raise UserError(f"there is no study {names[0]!r}{nearest(names[0], [*STUDIES, *OTHERS])}")
    study = STUDIES[names[0]]
    own = {"out": f"runs/study-{study.name}", "seeds": "0,1,2", "arms": ",".join(study.arms)}
    pairs = [word.partition("=") for word in words if "=" in word]
    own |= {key: text for key, _, text in pairs if key in own}
    for key in ("seed", "resume"):
        if any(key == given for given, _, _ in pairs):
            raise UserError(f"{key}= means nothing to a study; seeds=0,1,2 says which seeds, and it goes on by itself")
    return Plan(
        study=study,
        folder=Path(own["out"]),
        arms=tuple(_arms(own["arms"], list(study.arms))),
        seeds=tuple(_seeds(own["seeds"])),
        words=tuple(f"{key}={text}" for key, _, text in pairs if key not in own),
    )


def _arms(text: str, known: list[str]) -> list[str]:
    arms = list(dict.fromkeys(text.split(",")))
    for arm in arms:
        if arm not in known:
            raise UserError(f"arms={text}: there is no arm {arm!r}{nearest(arm, known)}")
    return arms


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise UserError(f"seeds={text}: must be whole numbers with commas, such as 0,1,2") from error
    if min(seeds) < 0:
        raise UserError(f"seeds={text}: a seed is at least 0")
    return list(dict.fromkeys(seeds))


def _show(console: Console, plan: Plan) -> None:
    text = (plan.folder / "table.md").read_text(encoding="utf-8")
    console.print()
    console.print(Text(text.rstrip()), soft_wrap=True)
    console.print()
    for name in ("table.md", "curves.png"):
        if (plan.folder / name).exists():
            console.print(Text(f"written: {plan.folder / name}", style="dim"))


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the study as Ctrl-C does; what nohup ignores stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in names]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Launcher:
    """Trains in a process of its own and says now and then how far it is."""

    def __init__(self, *, say: Say, program: Sequence[str] = (sys.executable, "-c", START, "train")) -> None:
        self._say = say
        self._program = program
        self._said = 0.0

    def __call__(self, words: Sequence[str], log: Path, run: Path) -> int:
        """Return the exit status of `train`; an interrupt is passed on once, and the run's checkpoint waited for."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self._program, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                # Ctrl-C reaches the whole group of a terminal; train takes a second signal for "at once".
                start_new_session=True,
            )
            try:
                return self._wait(process, run)
            except BaseException:
                self._end(process)
                raise

    def _wait(self, process: subprocess.Popen[bytes], run: Path) -> int:
        self._said = time.monotonic()
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if time.monotonic() - self._said >= PROGRESS_SECONDS:
                self._said = time.monotonic()
                self._say_progress(run)
        return process.returncode

    def _say_progress(self, run: Path) -> None:
        if not (run / "metrics.jsonl").exists():
            return
        curves = read_curves(run)
        if curves["step"]:
            shown = {
                name: values[-1] for name, values in curves.items() if name in ("reward/total", "kl/per_token_nats")
            }
            numbers = "".join(f", {name} {value:.3f}" for name, value in shown.items() if value is not None)
            self._say(f"  {run.name}: {len(curves['step'])} updates{numbers}")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        self._say("stopping; the run under way writes a checkpoint first, once more stops at once")
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise


def _environment() -> dict[str, str]:
    """Return this process's environment, in which the child finds the same packages."""
    import selfplay

    here = str(Path(selfplay.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": here if not known else os.pathsep.join((here, known))}
