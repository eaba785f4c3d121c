"""docs/metrics.md: every number that runs measure is on it, and nothing else."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import create

from envs.kuhn import Kuhn
from rewards import Payoff, QuestionMarks
from selfplay.alarms_settings import AlarmName
from selfplay.dialog import Conversation, Scores
from selfplay.score import WeightedReward

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
LINE_KEYS = {"schema", "step", "at"}
COMPARED = "evaluation.json"
# Measured by what takes long to start; their names stand in the code as they are.
IN_CODE = ("cluster", "sft")

Words = Mapping[str, Iterable[str]]


def patterns_of(section: str) -> list[str]:
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1]) if "/" in name]


SECTIONS = {part.partition("\n")[0]: patterns_of(part) for part in PAGE.split("\n## ")[1:]}
OF_STEPS = [name for title, names in SECTIONS.items() if title != COMPARED for name in names]


def names_of(patterns: Iterable[str], words: Words) -> dict[str, set[str]]:
    """Return pattern -> the names it stands for; words: what each of its capitals may be."""
    found = {}
    for pattern in patterns:
        pieces = [words.get(piece, [piece]) for piece in re.split(r"([A-Z]+)", pattern)]
        found[pattern] = {"".join(chosen) for chosen in itertools.product(*pieces)}
    return found


class Letters:
    """A reward that measures something besides."""

    name = "letters"

    def score(self, conversations: list[Conversation]) -> list[Scores]:
        said = [np.array([len(turn.text) for turn in one.turns], dtype=np.float32) for one in conversations]
        return [Scores(values=values, parts={"halves": values / 2}) for values in said]


@dataclass(frozen=True, kw_only=True)
class Measured:
    words: Words
    of_steps: set[str]
    compared: set[str]


def measured(folder: Path, words: Words) -> Measured:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    compared = json.loads((folder / COMPARED).read_text())["metrics"]
    words = {**words, "ALARM": AlarmName.__args__}
    return Measured(words=words, of_steps={name for line in lines for name in line} - LINE_KEYS, compared=set(compared))


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Measured:
    folder = tmp_path_factory.mktemp("chat") / "run"
    words = ("steps=4", "alarms.watch=true", "alarms.window=2", "learner.algorithm=ppo")
    rewards = [WeightedReward(reward=QuestionMarks()), WeightedReward(reward=Letters(), weight=0.1)]
    create(folder, *words, "learner.value_model=separate", "evaluation.conversations=2", rewards=rewards).train()
    named = {"NAME": ["question_marks", "letters"], "PART": ["halves"], "ROLE": ["host", "guest"]}
    return measured(folder, named)


@pytest.fixture(scope="module")
def league(tmp_path_factory) -> Measured:
    folder = tmp_path_factory.mktemp("league") / "run"
    words = ("partner=league", "league.save_steps=1", "league.opponents=4", "conversations=16", "steps=4")
    shares = (f"league.{name}_ratio=0.25" for name in ("play_against_latest_model", "frozen", "scripted"))
    plugins = {"env": Kuhn(), "rewards": [WeightedReward(reward=Payoff())]}
    changed = ("model=tiny-letters:2", "kl.controller=off", "evaluation.conversations=8")
    create(folder, *words, *shares, *changed, **plugins).train()
    return measured(folder, {"NAME": ["payoff"], "PART": [], "ROLE": Kuhn().roles})


@pytest.fixture(params=["chat", "league"])
def run(request) -> Measured:
    return request.getfixturevalue(request.param)


def test_every_number_of_a_step_is_on_the_page(run):
    known = set().union(*names_of(OF_STEPS, run.words).values())
    assert sorted(run.of_steps - known) == []


def test_every_number_of_an_evaluation_is_on_the_page(run):
    known = set().union(*names_of(SECTIONS[COMPARED], run.words).values())
    assert sorted(run.compared - known) == []


def test_every_number_on_the_page_is_measured(chat, league):
    named = [(names_of(OF_STEPS, one.words), one.of_steps) for one in (chat, league)]
    missing = {pattern for pattern in OF_STEPS if not any(names[pattern] & found for names, found in named)}
    assert {name for name in missing if not name.startswith(IN_CODE)} == set()


def test_every_number_on_the_page_is_compared(chat, league):
    patterns = SECTIONS[COMPARED]
    named = [(names_of(patterns, one.words), one.compared) for one in (chat, league)]
    assert [pattern for pattern in patterns if not any(names[pattern] & found for names, found in named)] == []


@pytest.mark.parametrize("group", IN_CODE)
def test_numbers_with_fixed_names_are_those_in_the_code(group):
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "selfplay").rglob("*.py")]
    in_code = {name for text in texts for name in re.findall(rf'"({group}/\w+)"', text)}
    assert in_code
    assert {name for name in OF_STEPS if name.startswith(f"{group}/")} == in_code


def test_runs_lack_what_the_page_says_they_lack(chat, league):
    assert {name.partition("/")[0] for name in chat.of_steps} == {
        *("reward", "play", "learn", "loss", "kl", "entropy", "alarm")
    }
    assert "loss/kl" in chat.of_steps
    assert "kl/per_token_nats" in league.of_steps  # measured with kl.controller=off
    assert not league.of_steps & {"loss/kl", "loss/value", "learn/value_gradient_norm"}


def test_every_number_stands_once():
    assert len(OF_STEPS) == len(set(OF_STEPS)) > 70
