"""From conversations to a reward model's scores without people, by nothing but commands."""

import json
from pathlib import Path

import pytest

from selfplay.commands import main
from selfplay.preferences import read_preferences

SMALL = ["preset=tiny", "cluster=local", "steps=1", "conversations=24", "group_size=4", "evaluation.conversations=0"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return what runs a command and returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")

    def run(*words):
        assert main(list(words)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    run("train", *SMALL, "out=runs/talk")
    return run


def fit(run, *words):
    return json.loads(run("reward", "train", "talk", "backbone=words", "epochs=5", "--json", *words))


@pytest.mark.slow
def test_gold_labels_train_a_reward_model_that_reports_and_scores(run):
    labels = json.loads(run("label", "talk", "by=gold:own_length", "n=60", "--json"))
    assert labels["labels"] == 60 > labels["ties"]
    fit(run, "by=gold:own_length", "out=reward_models/mine")
    report = json.loads(run("reward", "report", "mine", "--json"))
    assert 0.0 <= report["accuracy"]["value"] <= 1.0
    rescored = json.loads(run("rescore", "talk", "-r", "rm:mine=0.5", "--json"))
    assert rescored["stored"] == len(rescored["conversations"]) > 0
    assert {row["name"] for row in rescored["changes"]} >= {"rm:mine", "rm:mine.spread"}


@pytest.mark.slow
def test_reward_model_chooses_what_is_labelled_next_and_learns_from_both(run):
    run("label", "talk", "by=gold:own_length", "n=20", "unit=turn")
    fit(run, "out=reward_models/first")
    run("label", "talk", "by=gold:own_length", "n=10", "unit=turn", "sampler=disagreement", "rm=first", "candidates=2")
    found = read_preferences(Path("runs/talk")).preferences
    assert all(one.turns is not None for one in found)
    assert [one.sampler for one in found[:20]] == ["uniform-same-scenario"] * 20
    assert all(one.sampler.startswith("disagreement-") and one.detail["disagreement"] >= 0 for one in found[20:])
    fit(run, "out=reward_models/second")
    record = json.loads(Path("reward_models/second/reward_model.json").read_text())
    assert record["num_train"] + record["num_held_out"] == len(found)
