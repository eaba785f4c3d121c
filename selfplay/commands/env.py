"""`selfplay env`: start a game of one's own, or find out whether one keeps what it promises."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from envs import ENVS
from selfplay.commands.building import build_env
from selfplay.commands.terminal import one_line, open_console
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import PluginSpec, Settings, resolve
from selfplay.contracts.game import Proof, check_game
from selfplay.errors import UserError
from selfplay.interfaces import PluginError
from selfplay.new_env import write_env
from selfplay.plugins import installed_plugins
from selfplay.records_json import plain_json
from selfplay.written import nearest

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "start a game of your own, or check that one keeps what it promises"
USAGE = """
selfplay env new NAME [out=FOLDER]
selfplay env check NAME | FILE.py:CLASS | textarena:GAME [games=100] [seed=0] [env.KEY=VALUE ...] [--json]

new writes NAME.py, a game for two roles to change, test_NAME.py, its test, and golden_NAME.txt, a game of it as it was
played.  check plays scripted games on both splits, every end, games by chance, games in which nobody does anything,
and games with messages that nobody should send, and compares all of them with what the environment promises.
Exit status 1: a promise is broken; the message names the method, the seed and the turn.

  out=FOLDER     where new writes (default: here)
  games=100      scripted games, half of them on each split; at least 400 are played by chance
  seed=0         the first scenario's seed
  env.KEY=VALUE  settings of the environment, its variants among them; `selfplay list envs` prints all of them
  --json         print all that was measured as JSON

Of a game whose scripts take more than 16 turns, messages that nobody should send are said in six of its turns only; the
line "hostile" says in which.

Examples:
  selfplay env new lost_key
  selfplay env check lost_key.py:LostKey
  selfplay env check signal env.symbols=8
  selfplay env check deal env.variant=issues8
  selfplay env check haggle env.no_zone_share=0.5 games=200
  selfplay env check textarena:TicTacToe-v0
"""
BROKEN = 1
NAME_WIDTH = 9
STYLES = {"\N{CHECK MARK}": "green", "!": "yellow", "\N{BALLOT X}": "red"}
SUBWORDS = ("new", "check")


class CheckSettings(Settings):
    """What `env check` accepts."""

    env: PluginSpec = PluginSpec(name="chitchat")
    games: int = Field(default=100, ge=2)  # scripted, half of them on each split
    seed: int = Field(default=0, ge=0)  # the first scenario's


def run(line: CommandLine) -> int:
    """Do what the words say; return 0, or 1 if an environment that was checked is broken."""
    subword = line.words[0] if line.words else ""
    if subword not in SUBWORDS:
        said = f"{subword!r} is no part of env{nearest(subword, SUBWORDS)}" if subword else "say what to do"
        raise UserError(f"{said}; expected `env new NAME` or `env check NAME`")
    if len(line.words) < 2 or not line.words[1]:
        example = "a name, as in `env new lost_key`" if subword == "new" else "an environment, as in `env check signal`"
        raise UserError(f"env {subword} needs {example}")
    return _new(line) if subword == "new" else _check(line)


# ----- env new -----


def _new(line: CommandLine) -> int:
    if line.as_json:
        raise UserError("--json means nothing to env new")
    name, folder = line.words[1], _folder(line.words[2:])
    written = write_env(name, folder, taken=[*ENVS, *installed_plugins("env")])
    program, place = program_name(), f"{written.env}:{written.kind}"
    print(f"{written.env}, {written.test} and {written.golden} written; next:")
    for command in (
        f"{program} env check {place}",
        f"python -m pytest {written.test}",
        f"{program} play env={place} players.guide=scripted players.seeker=human",
        f"{program} sft from=scripted env={place} out=runs/{name}-start",
        f"{program} train preset=game env={place} model={name}-start out=runs/{name}",
        f"{program} eval {name}",
    ):
        print(f"  {command}")
    return 0


def _folder(words: Sequence[str]) -> Path:
    if not words:
        return Path()
    key, _, text = words[0].partition("=")
    if len(words) > 1 or key != "out" or not text:
        raise UserError(f"{words[-1]!r} means nothing to env new; after the name it takes out=FOLDER")
    return Path(text)


# ----- env check -----


def _check(line: CommandLine) -> int:
    name = line.words[1].removeprefix("env=")
    if "=" in name:
        raise UserError(f"{name!r} is no environment; its name comes first, as in `env check signal games=200`")
    _refuse_bare_settings(name, line.words[2:])
    settings = resolve(CheckSettings, [f"env={name}", *line.words[2:]])
    env = build_env(settings.env)
    console = open_console()

    def tell(proof: Proof) -> None:
        _print(console, proof.name, proof.text, mark="!" if proof.is_warning else "\N{CHECK MARK}")

    if not line.as_json:
        console.print(Text(one_line(f"{env.name}: {', '.join(env.roles)}"), style="bold"))
    try:
        report = check_game(env, games=settings.games, seed=settings.seed, tell=None if line.as_json else tell)
    except PluginError as error:
        if line.as_json:
            print(json.dumps({"env": name, "sound": False, "broken": str(error)}, indent=2))
        else:
            _print(console, "broken", str(error), mark="\N{BALLOT X}")
        return BROKEN
    if line.as_json:
        print(json.dumps({"sound": True, **plain_json(asdict(report))}, indent=2))
    else:
        console.print(Text("every promise is kept", style="bold green"))
    return 0


def _refuse_bare_settings(name: str, words: Sequence[str]) -> None:
    """Raise UserError for a setting of the environment that is written as if it were one of the check."""
    kind = ENVS.get(name.partition(":")[0])
    own = {item.name for item in fields(kind)} if kind is not None and is_dataclass(kind) else set()
    for word in words:
        key, _, value = word.partition("=")
        if key in own and key not in CheckSettings.model_fields:
            raise UserError(f"{key} is a setting of {name}, so write env.{word if value else f'{key}=VALUE'}")


def _print(console: Console, name: str, text: str, *, mark: str) -> None:
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True, min_width=NAME_WIDTH)
    row.add_column(overflow="fold")
    row.add_row(*(Text(one_line(cell), style=STYLES[mark]) for cell in (mark, name, text)))
    console.print(row)
