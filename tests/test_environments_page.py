"""docs/environments.md: what it shows works."""

import re
import shlex
from pathlib import Path

import pytest

from envs import ENVS
from selfplay.commands import main
from selfplay.commands.building import build_env
from selfplay.config import PluginSpec
from selfplay.contracts.hostile import hostile_texts
from selfplay.interfaces import Env, Game

PAGE = (Path(__file__).parents[1] / "docs" / "environments.md").read_text(encoding="utf-8")
LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]
GAMES = {row[0].strip("`"): row[1:] for row in ROWS if len(row) == 5}


def test_commands_are_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [line.removeprefix("python run.py ") for line in LINES if line.startswith("python run.py ")]
    assert main(shlex.split(commands[0])) == 0
    asked = [one for one in commands if one.startswith(("play", "train", "sft"))]
    assert len(asked) == 6
    for command in asked:
        # The start that `sft` would make is not there, nor the run that knows its game.
        command = command.replace("model=lost_key-start", "model=tiny")
        words = shlex.split(command.replace("model=lost_key ", "model=tiny env=lost_key.py:LostKey "))
        assert main([*words, "--dry-run"]) == 0
        assert "lost_key.py:LostKey" in capsys.readouterr().out


def test_every_method_of_a_game_has_its_row():
    named = {row[0].strip("`").partition("(")[0] for row in ROWS if len(row) == 2}
    methods = {name for kind in (Env, Game) for name, value in vars(kind).items() if callable(value) and name[0] != "_"}
    assert named == methods


@pytest.mark.parametrize("name", [name for name in GAMES if name.split()[0] in ENVS])
def test_row_of_a_game_says_what_its_sheet_says(name):
    roles, chance, best, _ = GAMES[name]
    plugin, *settings = name.split()
    values = dict(word.removeprefix("env.").split("=") for word in settings)
    if values.get("game") == "GAME":
        return
    env = build_env(PluginSpec.model_validate({"name": plugin, **values}))
    assert roles == ", ".join(env.roles)
    if not isinstance(env, Game):
        assert (chance, best) == ("", "")
        return
    sheet = env.sheet()
    assert (float(chance), float(best)) == pytest.approx((sheet.chance, sheet.best), rel=0.02)


def test_every_game_has_a_row():
    assert {name.split()[0] for name in GAMES} >= set(ENVS)


def test_hostile_messages_are_about_a_hundred():
    assert len(hostile_texts(["Write [offer] PRICE or [accept]."], seed=0)) >= 80
