import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.stored_run import StoredRun, write_run
from selfplay.config import resolve
from selfplay.evaluate import comparison_from_json
from selfplay.store import RunReader
from selfplay.train_settings import TrainSettings

WORDS = {"conversations": 60, "steps": 4, "turns": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "made", tokens="all", **WORDS)


def test_written_run_is_read_without_problems_and_its_rewards_add_up(folder):
    reader = RunReader(folder)
    # 54 for training, 13 a step, 12 of them in groups of 4; (60 - 48) / 2 in each evaluation.
    assert len(reader.ids()) == 4 * 12 + 2 * 6
    scored = list(reader.all_scored(with_tokens=True))
    assert len(scored) >= 55
    assert reader.problems == []
    assert reader.status == "finished"
    assert len(reader.metrics()) == 4


def test_written_run_asks_more_at_the_end_than_at_the_start(folder):
    asked = [line["reward/question"] for line in RunReader(folder).metrics()]
    assert sum(asked[2:]) > sum(asked[:2]) + 0.2


def test_written_config_is_one_that_train_accepts(folder):
    settings = resolve(TrainSettings, [f"config={folder / 'config.yaml'}"])
    assert settings.steps == 4
    assert settings.rewards["asks_back"].name == "my_rewards.py:asks_back"


def test_both_evaluations_are_on_the_same_scenarios(folder):
    seeds = {version: set() for version in (0, 4)}
    for record in RunReader(folder).records():
        if record["scenario"]["split"] == "held_out":
            seeds[record["step"]].add(record["scenario"]["seed"])
    assert seeds[0] == seeds[4]
    assert len(seeds[0]) == 6
    comparison = comparison_from_json(json.loads((folder / "evaluation.json").read_text()))
    assert comparison.row("reward/question").difference > 0


def test_learner_lines_have_a_number_for_each_said_token_and_agree_with_the_annotation(folder):
    lines = [json.loads(line) for line in (folder / "tokens" / "000.jsonl").read_text().splitlines()]
    line = next(line for line in lines if line["turns"][0]["advantage"])
    said = sum(len(turn["said"]) for turn in line["turns"])
    kl = np.concatenate([turn["kl"] for turn in line["turns"]])
    assert len(kl) == said
    sampled, reference = (
        np.concatenate([t[name] for t in line["turns"]]) for name in ("logprobs", "logprobs_reference")
    )
    assert kl == pytest.approx(sampled - reference, abs=2e-6)
    notes = RunReader(folder).record(line["conversation"])["annotations"]
    assert notes[0]["data"]["kl_per_token"] == pytest.approx(kl.mean(), abs=2e-6)


def test_run_that_is_being_written_is_running_and_killed_when_it_was_left(tmp_path):
    made = StoredRun.create(tmp_path / "live", seed=0, tokens="none", **WORDS)
    next(made.steps())
    assert RunReader(tmp_path / "live").status == "running"
    made.leave()
    assert RunReader(tmp_path / "live").status == "killed"
    left = write_run(tmp_path / "left", is_live=True, **WORDS)
    assert RunReader(left).status == "killed"
    assert len(RunReader(left).metrics()) == 3
