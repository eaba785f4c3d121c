"""Small training runs of the tiny model, for tests of everything around the mathematics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from envs.chitchat import ChitChat
from rewards import QuestionMarks
from selfplay.config import resolve
from selfplay.score import WeightedReward
from selfplay.store import RunReader
from selfplay.train_settings import TrainSettings
from selfplay.training_run import Result, TrainingRun

ENV = ChitChat(max_turns=2, default_brief="{topic}", opener="")
WORDS = (
    "preset=tiny",
    "cluster=local",
    "conversations=4",
    "group_size=2",
    "evaluation.conversations=0",
    "checkpoints.save_every=2",
)


def tiny_settings(*words: str) -> TrainSettings:
    """Return the tiny preset, made smaller, with changes."""
    return resolve(TrainSettings, [*WORDS, *words])


def rewards() -> list[WeightedReward]:
    return [WeightedReward(reward=QuestionMarks())]


def create(folder: Path, *words: str, **changes: Any) -> TrainingRun:
    arguments = {"env": ENV, "rewards": rewards(), "folder": folder, **changes}
    return TrainingRun.create(tiny_settings(*words), **arguments)


def resume(folder: Path, *words: str, **changes: Any) -> TrainingRun:
    arguments: dict[str, Any] = {"env": ENV, "rewards": rewards(), **changes}
    return TrainingRun.resume(folder, tiny_settings(*words), **arguments)


def train(folder: Path, *words: str, **changes: Any) -> Result:
    return create(folder, *words, **changes).train()


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """Return a run's metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "at" and "second" not in k} for line in lines]


def numbers_in(folder: Path) -> dict[str, Any]:
    """Return conversation id -> what its newest tokens line says of each turn."""
    reader = RunReader(folder)
    return {id: record["turns"] for id in reader.ids() if (record := reader.tokens_record(id)) is not None}


def said_in(folder: Path) -> dict[str, list[list[int]]]:
    """Return conversation id -> the tokens of each of its turns."""
    found = RunReader(folder).conversations(with_tokens=True)
    return {c.id: [turn.said.tolist() for turn in c.turns] for c in found}
