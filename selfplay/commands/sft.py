"""`selfplay sft`: a model learns by imitation to hold a game's form, before it learns from rewards."""

from __future__ import annotations

import json
import math
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay import models
from selfplay.commands.building import build_env
from selfplay.commands.evaluation_table import cells, number
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import PluginSpec, complete_spec, resolve, to_yaml
from selfplay.errors import UserError
from selfplay.interfaces import Env, Game
from selfplay.players import HUMAN, SCRIPTED
from selfplay.resampling import CONFIDENCE
from selfplay.reward_model.readers import SUFFIXES
from selfplay.run_folder import is_run
from selfplay.run_reader import find_run
from selfplay.sft_settings import SftSettings
from selfplay.stored_config import read_stored_config

if TYPE_CHECKING:
    from selfplay.sft import Epoch, SftResult
    from selfplay.sft_data import Lessons
    from selfplay.sft_games import GameTally

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "imitate stored or scripted conversations: a start that holds a game's form"
USAGE = """
selfplay sft from=scripted|RUN|FILE [env=NAME] [model=NAME] [key=value ...] [--dry-run] [--json]

Teach a model to say what was said in given conversations, so that it can hold a game's form before rewards come.  The
result is a run whose RUN or RUN@STEP is a model= like any other: `train model=RUN` goes on from it, and stays near it.
Held-out losses are shown before and after each pass, and held-out games before and after, on the same scenarios.

  from=scripted            games that the environment's own players play, on its train split
  from=RUN                 conversations of a stored run: what its trained roles said
  from=FILE.jsonl          chats as OpenAI and TRL write them: messages, or prompt and completion; see `export`.  Equal
                           chats, and those that open alike, are all learnt or all held out; seed= chooses which, so
                           that the same file and seed always part alike
  env=NAME                 which game; env.KEY=VALUE sets one of its settings.  Of a run: its own, unless said
  model=smollm2-135m       a name from `list models`, a local Hugging Face folder, a hub id, or RUN[@STEP]
  filter=FILTER            which conversations, such as 'payoff>0.8' (docs/filters.md); payoff and reward are those of
                           the role that is imitated, so that of one game the winner alone may be
  roles=A,B                whose turns (default: of scripted games all roles, of a run the trained ones)
  conversations=N          how many (default: 300 scripted ones, all of a run or a file); of scripted ones
                           held_out=0.2 of as many again are held out, of others that share of them
  epochs=3 batch=8         passes, and conversations an update
  patience=0               so many passes without a better held-out loss end it; 0: it never ends early
  method=lora              train adapters; full: every parameter
  learning_rate=RATE       (default: 1e-3 with lora, 1e-4 with full)
  evaluation.conversations=32   held-out games before and after, with 95% intervals of what changed; 0: none.  A game
                           that failed kept no form; payoffs are over the scenarios where every side was paid
  out=FOLDER               the run folder (default: runs/sft-ENV-MODEL-DATE-TIME)
  --dry-run                read the conversations, print all settings and stop
  --json                   print the result as JSON

Ctrl-C leaves the newest checkpoint, which is whole.  A run cannot be resumed; model=RUN starts another from there.

Examples:
  selfplay sft from=scripted env=signal model=smollm2-135m out=runs/start
  selfplay sft from=my-run filter='payoff>0.8 & protocol=true'
  selfplay sft from=chats.jsonl model=smollm2-135m
"""
BASE, TRAINED = "base", "trained"  # columns, beside that of the scripts


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
    if result.games is not None:
        _print_games(console, result.games)
    for hint in _hints(result.folder, settings, env):
        # A command that is broken into two lines cannot be copied.
        console.print(_dim(hint), soft_wrap=True)


def _hints(folder: Path, settings: SftSettings, env: Env | None) -> list[str]:
    """Return what can be done next: commands that can be copied, of the same game with the same settings."""
    is_named = folder.parent == settings.runs
    name = folder.name if is_named else str(folder)
    # A name is looked up under runs/ unless another place is given.
    place = [f"runs={settings.runs}"] if is_named and settings.runs != SftSettings().runs else []
    same = [] if env is None else [*_env_words(settings.env, env), *_limit_words(settings)]
    preset = ["preset=game"] if isinstance(env, Game) else []

    def command(*words: str) -> str:
        return f"{program_name()} {shlex.join(words)}"

    found = [
        f"stored in {folder}",
        f"go on with rewards:  {command('train', *preset, f'model={name}', *same, *place)}",
    ]
    if env is not None:
        # `play` takes the game, with its settings, from the run.
        label, human = ("watch it play", []) if len(env.roles) == 1 else ("talk to it", [_human_word(settings, env)])
        found.append(f"{label + ':':<21}{command('play', f'model={name}', *human, *place)}")
    return [*found, f"its conversations:   {command('ls', name, *place)}"]


def _human_word(settings: SftSettings, env: Env) -> str:
    """Return the word that gives a person a role; one that was not imitated, if there is one."""
    others = [role for role in env.roles if settings.chosen_roles and role not in settings.chosen_roles]
    return f"players.{(others or env.roles)[-1]}={HUMAN}"


def _env_words(spec: PluginSpec, env: Env) -> list[str]:
    """Return the fewest words that name this very game: settings that change nothing are left out."""
    needed = dict(spec.settings)
    for name in spec.settings:
        fewer = {key: value for key, value in needed.items() if key != name}
        if _gives(PluginSpec.model_validate({**fewer, "name": spec.name}), env):
            needed = fewer
    return [f"env={spec.name}", *(_word(f"env.{name}", value) for name, value in needed.items())]


def _gives(spec: PluginSpec, env: Env) -> bool:
    try:
        return build_env(spec) == env
    except UserError:
        return False


def _word(key: str, value: object) -> str:
    """Return a word that is read back as this value of a setting."""
    if isinstance(value, list | dict):
        return f"{key}={json.dumps(value, ensure_ascii=False)}"
    return f"{key}={'null' if value is None else value}"


def _limit_words(settings: SftSettings) -> list[str]:
    """Return the words for how long a message may be, as the games were played: short ones may be all there is."""
    limit = settings.sampling.max_new_tokens
    return [] if limit == SftSettings().sampling.max_new_tokens else [f"sampling.max_new_tokens={limit}"]


def _losses(epochs: Sequence[Epoch]) -> Table:
    table = _new_table("loss, nats a token", "training", "held out")
    for epoch in epochs:
        name = f"after pass {epoch.epoch}, {plural(epoch.version, 'update')}" if epoch.epoch else "before"
        table.add_row(name, _number(epoch.train_loss), _number(epoch.held_out_loss))
    return table


def _print_games(console: Console, games: GameTally) -> None:
    """Print what each side's games came to; a change whose interval excludes 0 stands out."""
    table = _new_table(f"{games.games} held-out games", BASE, TRAINED, "change", f"{CONFIDENCE:.0%} interval", SCRIPTED)
    scripted = games.sides[SCRIPTED].numbers
    for row in games.changes:
        table.add_row(*cells(row), Text(number(row.name, scripted[row.name].value)))
    console.print(table)
    for note in _notes(games):
        console.print(_dim(note))
    console.print()


def _notes(games: GameTally) -> Iterator[str]:
    """Yield what is to be known of the games that some numbers leave out."""
    failed = {name: side.failed for name, side in games.sides.items() if side.failed}
    if failed:
        counts = ", ".join(f"{num} of {games.games} games of {name}" for name, num in failed.items())
        yield f"{counts} failed: they kept no form and reached no aim"
    if games.partly_paid:
        over = plural(games.paid, "scenario")
        yield f"payoffs are over the {over} where every side was paid; {games.partly_paid} more paid only some sides"


def _new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=place > 0)
    return table


def _number(value: float) -> str:
    return f"{value:z.3f}" if math.isfinite(value) else "-"


def _dim(text: str) -> Text:
    return Text(one_line(text), style="dim")
