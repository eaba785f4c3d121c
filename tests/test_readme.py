"""What the README says can be typed works as it stands there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from selfplay.commands import main
from selfplay.contracts import check_env
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.function_reward import FunctionReward
from selfplay.plugins import PluginSpec, build_plugin

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
COMMANDS = [
    line
    for line in LINES
    if re.match(r"python run\.py (play|train|iterate)( |$)", line)
    and not re.search(r"from=|resume=|model=asks|rm:", line)
]
WITH_A_MODEL = [line for line in LINES if re.match(r"python run\.py (play|train) .*rm:", line)]


def example(folder: Path) -> Path:
    code = README.split("## Your own environment")[1].split("```python\n")[1].split("```")[0]
    path = folder / "my_game.py"
    path.write_text(code, encoding="utf-8")
    return path


def test_example_environment_keeps_its_contract(tmp_path: Path):
    env = build_plugin(PluginSpec(name=f"{example(tmp_path)}:Countdown", turns=6), {}, "env")
    check_env(env)


def test_example_environment_can_be_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    example(tmp_path)
    words = ["env=my_game.py:Countdown", "env.turns=2", "model=tiny", "players.listener=scripted", "out=chats"]
    assert main(["play", *words]) == 0
    assert "listener" in capsys.readouterr().out


def test_example_reward_says_what_its_docstring_says():
    code = README.split("## Rewards")[1].split("```python\n")[1].split("```")[0]
    place: dict[str, object] = {}
    exec(compile(code, "example", "exec"), place)
    asks_back = place["asks_back"]
    assert isinstance(asks_back, FunctionReward)
    texts = ("I grow tea there", "What is tea?", "Why?", "Because I like it.")
    turns = [Turn(role="ab"[k % 2], text=text, heard_text="", player="x") for k, text in enumerate(texts)]
    scenario = Scenario(env="x", seed=0, split="train", roles=("a", "b"))
    talk = Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))
    # "tea" is taken up; "why" is not; the last asks nothing.
    np.testing.assert_array_equal(asks_back.score([talk])[0].values, [np.nan, 1, 0, 0])


def test_commands_are_found():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str, capsys: pytest.CaptureFixture[str]):
    # The start that `sft` would make is not there.
    words = shlex.split(command.replace("model=pointing-start", "model=tiny"))[2:]
    assert main([*words, "--dry-run"]) == 0
    assert "model:" in capsys.readouterr().out


def test_pairs_become_a_reward_model_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    shown = README.split("## Learned rewards")[1].split("```json\n")[1].split("```")[0]
    lines = [shown.replace("an egg", f"{number} eggs") for number in range(150)]
    (tmp_path / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    train = next(line for line in LINES if line.startswith("python run.py reward train pairs.jsonl"))
    report = next(line for line in LINES if line.startswith("python run.py reward report"))
    fast = ("backbone=words", "ensemble=1", "epochs=3", "hidden=0")
    assert main([*shlex.split(train)[2:], *fast]) == 0
    assert main(shlex.split(report)[2:]) == 0
    assert "length alone" in capsys.readouterr().out
    (tmp_path / "reward_models" / "helpful").rename(tmp_path / "reward_models" / "mine")
    assert len(WITH_A_MODEL) >= 2
    for command in WITH_A_MODEL:
        words = shlex.split(command.replace("rm:helpful", "rm:mine"))[2:]
        assert main([*words, "--dry-run"]) == 0
        assert "rm:" in capsys.readouterr().out


@pytest.mark.slow
def test_example_in_python_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    code = README.split("<!-- python-example -->")[1].split("```")[1].removeprefix("python\n")
    assert 15 <= len([line for line in code.splitlines() if line.strip()]) <= 22
    exec(compile(code, "example", "exec"), {"__name__": "example"})
    said = capsys.readouterr().out
    assert "20 updates, stored in runs" in said
    [row] = [line for line in said.splitlines() if line.startswith("reward/shouts")]
    assert "[+" in row, row  # it learned: the interval of the change lies above 0
