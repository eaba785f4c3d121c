"""`eval` as it is typed, on small runs of the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from selfplay.commands import main
from selfplay.commands.building import build_env, build_rewards
from selfplay.config import resolve
from selfplay.store import RunReader
from selfplay.train_settings import TrainSettings
from selfplay.training_run import TrainingRun

SMALL = (
    "preset=tiny",
    "cluster=local",
    "steps=2",
    "conversations=4",
    "group_size=2",
    "env.max_turns=2",
    "evaluation.conversations=3",
    "checkpoints.save_every=1",
    "sampling.max_new_tokens=4",
)
Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train a small run in `runs` and return its folder."""

    def train(name: str, *words: str) -> Path:
        settings = resolve(TrainSettings, [*SMALL, f"runs={tmp_path}/runs", *words])
        folder = tmp_path / "runs" / name
        env, rewards = build_env(settings.env), build_rewards(settings.rewards)
        TrainingRun.create(settings, env=env, rewards=rewards, folder=folder).train()
        return folder

    return train


def printed(capsys, *words: str) -> dict:
    assert main(["eval", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words", [[], ["partner=frozen", "view=shared"], ["learner.method=full"], ["players.guest=scripted"]]
)
def test_eval_gives_the_numbers_that_training_ended_with(train: Train, capsys, words: list[str]):
    run = train("a", *words)
    known = json.loads((run / "evaluation.json").read_text())["metrics"]
    found = printed(capsys, str(run))
    assert (found["version"], found["num_scenarios"]) == (2, 3)
    for name, numbers in found["metrics"].items():
        for key, value in numbers.items():
            # Adapters are merged in another order of operations: the last digits differ.
            assert value == pytest.approx(known[name][key], abs=1e-4), (name, key)


def test_eval_takes_a_step_other_scenarios_and_the_newest_run(train: Train, capsys, tmp_path):
    run = train("a")
    runs = f"runs={run.parent}"
    first = printed(capsys, "a@1", runs)
    assert (first["version"], first["run"], first["base"]) == (1, str(run), "tiny:2")
    other = printed(capsys, runs, "seed=9", "conversations=2")
    assert (other["version"], other["num_scenarios"]) == (2, 2)
    assert other["metrics"]["play/words_per_turn"] != first["metrics"]["play/words_per_turn"]
    assert main(["eval", "a@7", runs]) == 2
    assert "7" in capsys.readouterr().err


def test_eval_stores_both_sides_when_it_is_told_where(train: Train, capsys, tmp_path):
    run, out = train("a"), tmp_path / "out"
    before = sorted(run.rglob("*"))
    assert main(["eval", str(run), f"out={out}"]) == 0
    shown = capsys.readouterr().out
    assert "reward of a turn" in shown
    assert f"stored in {out}" in shown
    ids = RunReader(out).ids()
    assert ids == [f"{version:06d}-e{group:02d}-0" for version in (0, 2) for group in range(3)]
    assert json.loads((out / "evaluation.json").read_text())["num_scenarios"] == 3
    assert sorted(run.rglob("*")) == before
    # What the run's own evaluation stored of its tokens: the last digits differ, for the adapters are merged.
    for id in ids:
        theirs, ours = (RunReader(folder).tokens_record(id) for folder in (run, out))
        assert theirs["tokenizer"] == ours["tokenizer"]
        assert [turn["said"] for turn in theirs["turns"]] == [turn["said"] for turn in ours["turns"]]
        for known, found in zip(theirs["turns"], ours["turns"], strict=True):
            assert found["logprobs_reference"] == pytest.approx(known["logprobs_reference"], abs=1e-4)
    assert [path.name for path in (out / "tokenizers").iterdir()] == [
        path.name for path in (run / "tokenizers").iterdir()
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "runs=nowhere"], "there is no run 'nothing'"),
        (["a", "b"], "eval takes one run, not 2: a b"),
        (["a", "conversation=3"], "conversation: unknown key; did you mean conversations?"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(words, message, capsys):
    assert main(["eval", *words]) == 2
    assert message in capsys.readouterr().err
