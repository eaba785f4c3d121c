"""docs/rewards.md: what it shows works."""

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from envs.chitchat import ChitChat
from selfplay.alarms_settings import AlarmName
from selfplay.commands import main
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.reward_calls import ARGUMENTS
from selfplay.reward_trial import scripted_conversations

PAGE = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text(encoding="utf-8")
MINE = "def asks_back(turn):\n    return turn.text.endswith('?')\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def train_commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line.removeprefix("python run.py ") for line in lines if line.startswith("python run.py train")]


def test_python_blocks_are_rewards_that_keep_their_contract():
    modules = []
    for number, block in enumerate(blocks("python")):
        module = ModuleType(f"block{number}")
        exec(compile(block, f"docs/rewards.md, block {number}", "exec", dont_inherit=True), vars(module))
        modules.append(module)
    chats = scripted_conversations(ChitChat())
    check_reward(modules[0].asks_back, chats)
    check_reward(modules[1].Naming(), chats)
    turns = [Turn(role=role, text=text, heard_text="", player="x") for role, text in (("a", "Tea, tea!"), ("b", "No."))]
    scenario = Scenario(env="x", seed=0, split="train", roles=("a", "b"), public={"topic": "Tea"})
    talk = Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))
    assert modules[0].asks_back.score([talk])[0].values.tolist() == [0.0, 0.0]
    assert modules[1].Naming().score([talk])[0].values.tolist() == [2.0, 0.0]


@pytest.mark.parametrize("command", train_commands())
def test_commands_are_understood(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("asks_back.py").write_text(MINE)
    assert main([*shlex.split(command), "--dry-run"]) == 0
    assert "rewards:" in capsys.readouterr().out


def test_yaml_block_is_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my_rewards.py").write_text(MINE.replace("asks_back", "calm"))
    Path("mine.yaml").write_text(blocks("yaml")[0])
    assert main(["train", "config=mine.yaml", "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["rewards"]["well_formed"]["gate"] is True


def test_every_argument_and_every_alarm_has_its_row():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == {*ARGUMENTS, *AlarmName.__args__}
