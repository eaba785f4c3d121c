"""`eval` as it is typed, on small runs of the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from selfplay.commands import main
from selfplay.commands.building import build_env, build_rewards
from selfplay.config import read_config, resolve
from selfplay.models import num_cores
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
        (["a", "engine.thread=1"], "engine.thread: unknown key; did you mean engine.threads?"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(words, message, capsys):
    assert main(["eval", *words]) == 2
    assert message in capsys.readouterr().err


GAME = (
    *("preset=tiny", "env=signal", "model=tiny-letters:2", "-r", "payoff=1", "cluster=local", "steps=2"),
    *("conversations=4", "group_size=2", "sampling.max_new_tokens=1", "evaluation.conversations=3"),
    "checkpoints.save_every=1",
)
ROLES = ("sender", "receiver")


@pytest.fixture
def game(tmp_path: Path, capsys) -> Path:
    """Train a small run at the signalling game and return its folder."""
    assert main(["train", *GAME, f"out={tmp_path}/runs/g"]) == 0
    capsys.readouterr()
    return tmp_path / "runs" / "g"


def test_eval_of_a_game_meets_base_and_script_with_the_roles_swapped(game: Path, capsys, tmp_path):
    out = tmp_path / "out"
    found = printed(capsys, str(game), "conversations=5", f"out={out}")
    assert json.loads((out / "game_evaluation.json").read_text())["lines"] == found["lines"]
    assert [(line["at"], line["against"]) for line in found["lines"]] == [
        *((0, "base"), (0, "scripted"), (2, "base"), (2, "scripted"))
    ]
    # Counted again from what is stored: who had which role, and what it was paid.
    talks = [talk for talk in RunReader(out).conversations() if "-e" in talk.id]
    for line in found["lines"]:
        opponent = {"base": "frozen"}.get(line["against"], line["against"])
        paid = []
        for talk in talks:
            policies = {role: player.policy for role, player in talk.players.items()}
            own = next(role for role in ROLES if policies[role] == "learner")
            if policies[ROLES[1 - ROLES.index(own)]] == opponent and talk.players[own].version == line["at"]:
                paid.append((talk.scenario.seed, own, talk.outcome.payoff[own]))
        assert {(seed, own) for seed, own, _ in paid} == {(t.scenario.seed, role) for t in talks for role in ROLES}
        assert len(paid) == line["num_conversations"] == 10
        assert line["numbers"]["game/payoff"]["value"] == pytest.approx(sum(p for _, _, p in paid) / 10)
    at_start = [line for line in found["lines"] if line["at"] == 0]
    assert all(abs(line["numbers"]["kl/per_token_nats"]["value"]) < 1e-5 for line in at_start)
    assert [(change["since"], change["at"]) for change in found["changes"]] == [(0, 2), (0, 2)]
    references = {line["player"]: line["numbers"]["game/payoff"]["value"] for line in found["references"]}
    assert references["scripted"] == 1.0
    assert found["promised"] == {"chance": 0.25, "best": 1.0}


def test_eval_of_a_game_takes_versions_and_opponents_and_shows_them(game: Path, capsys):
    words = [str(game), "at=2,1", "against=tiny-letters:5,chance,g@1,self", f"runs={game.parent}"]
    found = printed(capsys, *words)
    assert [(line["at"], line["against"], line["num_conversations"]) for line in found["lines"]] == [
        *((1, "tiny-letters:5", 6), (1, "chance", 6), (1, "g@1", 6), (1, "self", 3)),
        *((2, "tiny-letters:5", 6), (2, "chance", 6), (2, "g@1", 6), (2, "self", 3)),
    ]
    assert main(["eval", *words]) == 0
    shown = capsys.readouterr().out
    for text in ("against g@1", "payoff as receiver", "form kept", "the game promises 0.250 by chance"):
        assert text in shown, text


def test_eval_of_a_game_against_itself_is_the_comparison_of_training(game: Path, capsys):
    known = json.loads((game / "evaluation.json").read_text())["metrics"]
    found = printed(capsys, str(game), "against=self")["metrics"]
    assert found["game/payoff"]["trained"] == known["game/payoff"]["trained"]
    assert set(found) == set(known)


@pytest.fixture
def alone(tmp_path: Path, capsys) -> Path:
    """Train a small run at a game of one role and return its folder."""
    words = ("env=twenty_questions", "env.questions=3", "model=tiny", "sampling.max_new_tokens=4")
    assert main(["train", *GAME, *words, f"out={tmp_path}/runs/alone"]) == 0
    capsys.readouterr()
    return tmp_path / "runs" / "alone"


def test_eval_of_a_game_with_one_role_has_scripts_and_chance_beside(alone: Path, capsys, tmp_path):
    out = tmp_path / "out"
    found = printed(capsys, str(alone), f"out={out}")
    known = json.loads((alone / "evaluation.json").read_text())["metrics"]
    assert found["metrics"]["game/payoff"]["trained"] == known["game/payoff"]["trained"]
    # Counted again from what is stored.
    for line in found["references"]:
        paid = [
            talk.outcome.payoff["asker"]
            for talk in RunReader(out).conversations()
            if talk.players["asker"].policy == line["player"]
        ]
        assert len(paid) == line["num_scenarios"] == 3
        assert line["numbers"]["game/payoff"]["value"] == pytest.approx(sum(paid) / 3)
    assert [line["player"] for line in found["references"]] == ["scripted", "chance"]
    stored = json.loads((out / "game_evaluation.json").read_text())
    assert (stored["references"], stored["promised"]) == (found["references"], found["promised"])
    assert main(["eval", str(alone)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("held out") < shown.index("in every role") < shown.index("the game promises")


def test_eval_runs_on_other_threads_and_keeps_what_the_run_says_of_the_rest(train: Train, capsys, tmp_path):
    import torch

    run, out, before = train("a", "engine.max_batch=3"), tmp_path / "out", torch.get_num_threads()
    threads = num_cores() + 1
    try:
        printed(capsys, str(run), f"engine.threads={threads}", f"out={out}")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    kept, used = (resolve(TrainSettings, [], under=read_config(f"{of}/config.yaml")).engine for of in (run, out))
    assert used == kept.model_copy(update={"threads": threads})


def test_eval_where_nothing_is_paid_meets_others_when_asked(train: Train, capsys):
    run = train("a")
    found = printed(capsys, str(run), "against=base,scripted")
    assert [line["against"] for line in found["lines"]] == ["base", "scripted", "base", "scripted"]
    assert not [name for line in found["lines"] for name in line["numbers"] if name.startswith("game/")]
    assert main(["eval", str(run), "against=scripted"]) == 0
    assert "reward of a conversation" in capsys.readouterr().out


def test_eval_leaves_fixed_players_out_of_the_swapping(tmp_path, capsys):
    words = [*GAME, "players.receiver=scripted", f"out={tmp_path}/runs/half"]
    assert main(["train", *words]) == 0
    capsys.readouterr()
    found = printed(capsys, f"{tmp_path}/runs/half", "against=base,self")
    # The policy never was the receiver, so it is the sender alone.
    assert [line["num_conversations"] for line in found["lines"]] == [3, 3, 3, 3]
    assert "game/payoff/receiver" not in found["lines"][0]["numbers"]


WRONG = {
    "against=human": "against=human: `play` lets a person take a role",
    "against=policy": "the policy itself is against=self",
    "against=chance": "env chitchat has no player by chance",
    "against=none": "against=none: there is no such model",
    "against=,": "against=, names nothing",
    "at=last": "at=last: a version is a number of updates, or latest",
    "at=9": "has no checkpoint 9; it has 1, 2",
}


def test_versions_and_opponents_that_cannot_be_are_refused(train: Train, capsys):
    run = train("a")
    for word, message in WRONG.items():
        assert main(["eval", str(run), word]) == 2
        assert message in capsys.readouterr().err
