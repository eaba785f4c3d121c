"""Plug-ins that are a file of their own, on machines that do not have the file."""

from __future__ import annotations

import copyreg
import pickle
import subprocess
import sys

import pytest

from envs import ENVS
from rewards import REWARDS
from selfplay.plugins import PluginSpec, build_plugin, make_portable

GAME = """
import functools
from dataclasses import dataclass, field
from enum import Enum
from selfplay.function_reward import reward

class Mood(Enum):
    GOOD = "good"

@dataclass(frozen=True)
class Rules:
    mood: Mood = Mood.GOOD

@functools.cache
def words(number):
    return tuple("word" for _ in range(number))

@dataclass(frozen=True, slots=True)
class Game:
    turns: int = 3
    rules: Rules = field(default_factory=Rules)
    name: str = "game"
    def play(self):
        return (self.turns, self.rules.mood.value, words(2), type(self.rules) is Rules)

@dataclass(frozen=True)
class Open:
    turns: int = 3
    def play(self):
        return (self.turns, words(1))

def half(number):
    return number / 2

@reward(range=(0, 1))
def halves(conversation):
    return [half(1) for _ in conversation.turns]

def quarters(conversation):
    return [half(half(1)) for _ in conversation.turns]
"""
# Another machine: it has the package, and not the file.
ELSEWHERE = """
import sys
from types import SimpleNamespace
MODULE = __import__(sys.argv[1], fromlist=["loads"])
plugin, again = MODULE.loads(sys.stdin.buffer.read())
print(plugin.play() if hasattr(plugin, "play") else plugin.function(SimpleNamespace(turns=[1, 2])))
print(type(plugin) is type(again), plugin.name if hasattr(plugin, "name") else "")
"""


FUNCTIONS = ("halves", "quarters")  # with the decorator, and without


def elsewhere(data: bytes, cwd, *, module: str = "pickle") -> list[str]:
    command = [sys.executable, "-c", ELSEWHERE, module]
    answer = subprocess.run(command, input=data, capture_output=True, check=False, cwd=cwd, timeout=60)
    assert answer.returncode == 0, answer.stderr.decode()
    return answer.stdout.decode().splitlines()


@pytest.fixture
def game(tmp_path):
    """The name of a plug-in file; what it registers for pickling is forgotten afterwards."""
    file = tmp_path / "mine" / "game.py"
    file.parent.mkdir()
    file.write_text(GAME)
    before = dict(copyreg.dispatch_table)
    yield file
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


def build(file, name, **settings):
    kind, table = ("reward", REWARDS) if name in FUNCTIONS else ("env", ENVS)
    return build_plugin(PluginSpec(name=f"{file}:{name}", **settings), table, kind)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("Game", {"turns": 5}, ["(5, 'good', ('word', 'word'), True)", "True game"]),
        ("Open", {"turns": 5}, ["(5, ('word',))", "True "]),
        ("halves", {}, ["[0.5, 0.5]", "True halves"]),
        ("quarters", {}, ["[0.25, 0.25]", "True quarters"]),
    ],
)
def test_plugin_of_a_file_works_where_the_file_is_not(tmp_path, game, name, settings, expected):
    plugin = build(game, name, **settings)
    make_portable(plugin)
    data = pickle.dumps([plugin, plugin if name in FUNCTIONS else build(game, name)])
    game.unlink()
    assert elsewhere(data, tmp_path) == expected


@pytest.mark.ray
def test_plugin_of_a_file_travels_with_rays_pickler_too(tmp_path, game):
    from ray import cloudpickle

    plugins = [build(game, "Game"), build(game, "halves"), build(game, "quarters")]
    for plugin in plugins:
        make_portable(plugin)
    data = [cloudpickle.dumps([plugin, plugin]) for plugin in plugins]
    game.unlink()
    answers = [elsewhere(one, tmp_path, module="ray.cloudpickle")[0] for one in data]
    assert answers == ["(3, 'good', ('word', 'word'), True)", "[0.5, 0.5]", "[0.25, 0.25]"]


def test_file_travels_once_however_many_plugins_it_holds(game):
    plugins = [build(game, "Game", turns=turns) for turns in range(1, 20)]
    for plugin in plugins:
        make_portable(plugin)
    assert pickle.dumps(plugins).count(b"class Rules") == 1


def test_plugin_as_it_was_when_imported_travels(tmp_path, game):
    plugin = build(game, "Open")
    make_portable(plugin)
    game.write_text("raise SystemExit('edited')")
    assert elsewhere(pickle.dumps([plugin, plugin]), tmp_path)[0] == "(3, ('word',))"


def test_plugin_in_the_same_process_stays_of_its_class(game):
    plugin = build(game, "Game", turns=2)
    make_portable(plugin)
    again = pickle.loads(pickle.dumps(plugin))
    assert type(again) is type(plugin)
    assert again == plugin
    reward = build(game, "halves")
    make_portable(reward)
    assert pickle.loads(pickle.dumps(reward)) is reward


def test_plugin_of_a_package_is_pickled_as_ever(game):
    chitchat = build_plugin(PluginSpec(name="chitchat"), ENVS, "env")
    plain = pickle.dumps(chitchat)
    make_portable(chitchat)
    assert pickle.dumps(chitchat) == plain
    # The decorated functions of files share their class with those of packages.
    make_portable(build(game, "halves"))
    assert b"_plugin_" not in pickle.dumps(type(build(game, "halves"))(name="len", function=len))
