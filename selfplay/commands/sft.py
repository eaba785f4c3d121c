"""`selfplay sft`: a model learns by imitation to hold a game's form, before it learns from rewards."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay import models
from selfplay.commands.building import build_env
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import PluginSpec, complete_spec, resolve, to_yaml
from selfplay.errors import UserError
from selfplay.interfaces import Env, Game
from selfplay.players import SCRIPTED
from selfplay.reward_model.readers import SUFFIXES
from selfplay.run_folder import is_run
from selfplay.run_reader import find_run
from selfplay.sft_settings import SftSettings
from selfplay.stored_config import read_stored_config

if TYPE_CHECKING:
    from selfplay.sft import Epoch, SftResult
    from selfplay.sft_data import Lessons
    from selfplay.sft_games import Tally

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "imitate stored or scripted conversations: a start that holds a game's form"
USAGE = """
selfplay sft from=scripted|RUN|FILE [env=NAME] [model=NAME] [key=value ...] [--dry-run] [--json]

Teach a model to say what was said in given conversations, so that it can hold a game's form before rewards come.  The
result is a run whose RUN or RUN@STEP is a model= like any other: `train model=RUN` goes on from it, and stays near it.
Held-out losses are shown before and after each pass, and held-out games before and after.

  from=scripted            games that the environment's own players play, on its train split
  from=RUN                 conversations of a stored run: what its trained roles said
  from=FILE.jsonl          chats as OpenAI and TRL write them: messages, or prompt and completion; see `export`
  env=signal               which game; env.KEY=VALUE sets one of its settings.  Of a run: its own, unless said
  model=smollm2-135m       a name from `list models`, a local Hugging Face folder, a hub id, or RUN[@STEP]
  filter='payoff>0.8'      which conversations (docs/filters.md); payoff and reward are those of the role that is
                           imitated, so that of one game the winner alone may be
  roles=A,B                whose turns (default: of scripted games all roles, of a run the trained ones)
  conversations=300        how many: scripted ones, with held_out=0.2 of as many again held out; of a run or a file at
                           most so many (default: all), of which the share held_out only measures
  epochs=3 batch=8         passes, and conversations an update; patience=1 ends it when the held-out loss rises
  method=lora              train adapters; full: every parameter.  learning_rate=1e-3 (default with full: 1e-4)
  evaluation.conversations=32   held-out games before and after; 0: none
  out=FOLDER               the run folder (default: runs/sft-ENV-MODEL-DATE-TIME)
  --dry-run                read the conversations, print all settings and stop
  --json                   print the result as JSON

Ctrl-C leaves the newest checkpoint, which is whole.  A run cannot be resumed; model=RUN starts another from there.

Examples:
  selfplay sft from=scripted env=signal model=smollm2-135m out=runs/start
  selfplay sft from=my-run filter='payoff>0.8 & protocol=true'
  selfplay sft from=chats.jsonl model=smollm2-135m
"""
COLUMNS = ("base", "trained", SCRIPTED)


def run(line: CommandLine) -> int:
    """Train; return 0."""
    if line.names:
        raise UserError(f"sft takes settings only, such as from={line.names[0]}")
    settings = resolve(SftSettings, line.settings)
    source = _source(settings)
    settings, env = _with_env(settings, source)
    models.check_name(settings.model, runs=settings.runs)
    lessons = _lessons(settings, env, source)
    console = open_console(is_stderr=line.as_json)
    _say_lessons(console, lessons)
    if line.dry_run:
        tree = settings.model_dump(mode="json", by_alias=True)
        print(json.dumps(tree, indent=2) if line.as_json else to_yaml(settings).rstrip())
        return 0
    result = _train(settings, lessons, env, console=console, command=" ".join(["sft", *line.words]))
    if line.as_json:
        from selfplay.sft import result_to_json

        print(json.dumps(result_to_json(result)))
    else:
        _report(console, result, settings, env)
    return 0


# ----- what is imitated -----


def _source(settings: SftSettings) -> Path | None:
    """Return the run's folder or the file that `from` names; None: scripts."""
    word = settings.from_
    if not word:
        raise UserError("from= is missing: what should be imitated? scripted, a run, or a .jsonl file of chats")
    if word == SCRIPTED:
        return None
    path = Path(word)
    if path.is_file():
        return path
    if word.endswith(SUFFIXES):
        raise UserError(f"from={word}: there is no such file")
    return find_run(word, settings.runs)


def _with_env(settings: SftSettings, source: Path | None) -> tuple[SftSettings, Env | None]:
    """Return the settings with every setting of the environment, and the environment; None: there is none."""
    spec = settings.env
    if not settings.has_env and source is not None and is_run(source):
        spec = _env_of_run(source) or spec
    if not settings.has_env and spec == settings.env:
        if source is None:
            raise UserError("env= is missing: from=scripted plays a game; `list envs` names them")
        if settings.env.settings:
            raise UserError(f"env.{next(iter(settings.env.settings))}: env= says which game's setting that is")
        return settings, None
    env = build_env(spec)
    return settings.model_copy(update={"env": complete_spec(spec, env)}), env


def _env_of_run(folder: Path) -> PluginSpec | None:
    stored = read_stored_config(folder).get("env")
    return PluginSpec.model_validate(stored) if isinstance(stored, dict) and stored.get("name") else None


def _lessons(settings: SftSettings, env: Env | None, source: Path | None) -> Lessons:
    # Imported here, for --help must not wait for it.
    from selfplay.sft_data import run_lessons, scripted_lessons
    from selfplay.sft_files import file_lessons

    if source is None:
        assert env is not None
        return scripted_lessons(env, settings)
    return run_lessons(source, settings) if is_run(source) else file_lessons(source, settings)


def _say_lessons(console: Console, lessons: Lessons) -> None:
    num_turns = sum(len(lesson.learnt) for lesson in lessons.train)
    roles = ", ".join(lessons.roles)
    text = f"{plural(len(lessons.train), 'conversation')} to learn from, {len(lessons.held_out)} held out; "
    console.print(_dim(f"{text}{plural(num_turns, 'turn')} of {roles}"))
    for note in lessons.notes:
        console.print(_dim(note))
    if not lessons.held_out:
        console.print(Text("nothing is held out, so nothing tells when it has learnt enough", style="yellow"))


# ----- training -----


def _train(settings: SftSettings, lessons: Lessons, env: Env | None, *, console: Console, command: str) -> SftResult:
    from selfplay.sft import SftRun

    def say(text: str) -> None:
        console.print(_dim(text))

    with _interruptible():
        return SftRun.create(settings, lessons, env=env, command=command, say=say).train()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, so that it says how it ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ----- the end -----


def _report(console: Console, result: SftResult, settings: SftSettings, env: Env | None) -> None:
    console.print()
    console.print(_losses(result.epochs))
    if result.games:
        console.print(_table(result.games))
    folder = result.folder
    is_named = folder.parent == settings.runs
    name = folder.name if is_named else str(folder)
    # A name is looked up under runs/ unless another place is given.
    place = f" runs={settings.runs}" if is_named and settings.runs != SftSettings().runs else ""
    program = program_name()
    hints = [f"stored in {folder}"]
    if env is not None:
        reward = " -r payoff=1" if isinstance(env, Game) else ""
        hints.append(
            f"go on with rewards:  {program} train model={name} {_env_words(settings.env, env)}{reward}{place}"
        )
        hints.append(f"talk to it:          {program} play model={name} {_env_words(settings.env, env)}{place}")
        hints.append(f"its conversations:   {program} ls {name}")
    else:
        hints.append(f"go on with rewards:  {program} train model={name}")
    for hint in hints:
        # A command that is broken into two lines cannot be copied.
        console.print(_dim(hint), soft_wrap=True)


def _env_words(spec: PluginSpec, env: Env) -> str:
    """Return the words that name this very game: its settings too, where they are not the usual ones."""
    words = [f"env={spec.name}"]
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(env) if dataclasses.is_dataclass(env) else ()
    defaults = {field.name: field.default for field in fields}
    for name, default in defaults.items():
        value = getattr(env, name)
        if name in spec.settings and value != default and isinstance(value, str | int | float):
            words.append(f"env.{name}={value}")
    return " ".join(words)


def _losses(epochs: Sequence[Epoch]) -> Table:
    table = _new_table("loss, nats a token", "training", "held out")
    for epoch in epochs:
        name = f"after pass {epoch.epoch}, {plural(epoch.version, 'update')}" if epoch.epoch else "before"
        table.add_row(name, _number(epoch.train_loss), _number(epoch.held_out_loss))
    return table


def _table(games: Mapping[str, Tally]) -> Table:
    """Return success, protocol and payoff of each side; what the game does not say has no row."""
    shown = [name for name in COLUMNS if name in games]
    table = _new_table(f"{games[shown[0]].games} held-out games", *shown)
    tallies = [games[name] for name in shown]
    rows: dict[str, list[str]] = {
        "form kept": [_share(tally.protocol) for tally in tallies],
        "aim reached": [_share(tally.success) for tally in tallies],
        "payoff": [_number(tally.payoff) for tally in tallies],
    }
    roles = dict.fromkeys(role for tally in tallies for role in tally.payoffs)
    for role in roles if len(roles) > 1 else ():
        rows[f"payoff of {one_line(role)}"] = [_number(tally.payoffs.get(role, math.nan)) for tally in tallies]
    rows["turns"] = [f"{tally.turns:.1f}" for tally in tallies]
    rows["turns cut by a limit"] = [_share(tally.cut) for tally in tallies]
    rows["failed"] = [str(tally.failed) for tally in tallies]
    for name, cells in rows.items():
        if any(cell not in ("-", "0") for cell in cells):
            table.add_row(name, *cells)
    return table


def _new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
    return table


def _number(value: float) -> str:
    return f"{value:z.3f}" if math.isfinite(value) else "-"


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _dim(text: str) -> Text:
    return Text(one_line(text), style="dim")
