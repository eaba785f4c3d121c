"""`sft` as it is typed, on the tiny model."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from selfplay import checkpoint, models, trained
from selfplay.commands import main
from selfplay.store import RunReader

ROOT = Path(__file__).parent.parent
SMALL = (
    "from=scripted",
    "env=signal",
    "model=tiny",
    "conversations=8",
    "batch=4",
    "epochs=2",
    "engine.threads=1",
    "evaluation.conversations=3",
    "sampling.max_new_tokens=4",
)
Sft = Callable[..., Path]


@pytest.fixture
def sft(tmp_path: Path) -> Sft:
    """Run `sft` and return its folder, in `runs`."""

    def sft(name: str, *words: str) -> Path:
        folder = tmp_path / "runs" / name
        assert main(["sft", *SMALL, f"runs={tmp_path}/runs", f"out={folder}", *words]) == 0
        return folder

    return sft


@pytest.mark.parametrize("method", ["lora", "full"])
def test_run_holds_a_model_its_losses_and_its_games(sft: Sft, method: str):
    folder = sft("a", f"method={method}")
    # 8 conversations in batches of 4, twice.
    assert checkpoint.versions(folder) == [2, 4]
    assert RunReader(folder).manifest["kind"] == "sft"
    assert RunReader(folder).status == "finished"
    result = json.loads((folder / "sft.json").read_text())
    assert [epoch["version"] for epoch in result["epochs"]] == [0, 2, 4]
    assert result["epochs"][0]["train_loss"] is None
    assert set(result["games"]) == {"base", "trained", "scripted"}
    assert result["games"]["scripted"]["success"] == 1.0
    metrics = RunReader(folder).metrics()
    assert [line["step"] for line in metrics] == [0, 1, 2, 3]
    held_out = ["sft/held_out_loss_per_token_nats" in line for line in metrics]
    assert held_out == [False, True, False, True]
    # Imitated games, those held out, and the evaluations of two versions.
    assert [id[:8] for id in RunReader(folder).ids()] == [
        *["000000-e"] * 3,
        *["000000-g"] * 8,
        *["000000-h"] * 2,
        *["000004-e"] * 3,
    ]


def test_small_model_learns_the_form_of_a_game(sft: Sft):
    words = ("env.symbols=2", "method=full", "learning_rate=5e-3", "conversations=64", "batch=8", "epochs=5")
    games = json.loads((sft("a", *words, "evaluation.conversations=8") / "sft.json").read_text())["games"]
    assert games["base"]["protocol"] < 0.5
    assert games["trained"]["protocol"] == 1.0
    assert games["trained"]["cut"] == 0.0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_result_is_a_model_and_what_training_stays_near(sft: Sft, tmp_path: Path, method: str):
    folder = sft("a", f"method={method}")
    runs = tmp_path / "runs"
    loaded = models.load("a@4", device="cpu", runs=runs)
    assert models.fingerprint(loaded) != models.fingerprint(models.load("tiny", device="cpu"))
    assert trained.is_adapter(checkpoint.find(folder)) == (method == "lora")
    words = ("env=signal", "-r", "payoff=1", "preset=tiny", "cluster=local", "steps=1", "conversations=4")
    more = ("group_size=2", "evaluation.conversations=2", f"learner.method={method}", f"runs={runs}")
    assert main(["train", *words, *more, "model=a", f"out={runs}/b"]) == 0
    metrics = json.loads((runs / "b" / "evaluation.json").read_text())["metrics"]
    # Before its first update the policy is its own reference.
    assert metrics["kl/per_token_nats"]["base"] == pytest.approx(0.0, abs=1e-4)


def test_imitation_goes_on_from_a_run_of_imitation(sft: Sft):
    first = sft("a", "learning_rate=3e-3")
    second = sft("b", "model=a", "evaluation.conversations=0")
    after, before = (json.loads((folder / "sft.json").read_text())["epochs"] for folder in (first, second))
    assert before[0]["held_out_loss"] == pytest.approx(after[-1]["held_out_loss"], abs=1e-4)


def test_same_words_give_the_same_run(sft: Sft):
    results = [json.loads((sft(name) / "sft.json").read_text()) for name in ("a", "b")]
    for result in results:
        del result["run"], result["tokens_per_second"]
    assert results[0] == results[1]


def test_patience_keeps_the_best_pass(sft: Sft):
    # Rates like this one ruin what the first passes learnt.
    folder = sft("a", "learning_rate=0.5", "schedule=constant", "epochs=6", "patience=1", "method=full")
    epochs = json.loads((folder / "sft.json").read_text())["epochs"]
    losses = [epoch["held_out_loss"] for epoch in epochs[1:]]
    best = losses.index(min(losses))
    assert len(losses) == best + 2 < 6
    assert checkpoint.versions(folder)[-1] == epochs[1 + best]["version"]
    assert json.loads((folder / "sft.json").read_text())["version"] == epochs[1 + best]["version"]


def test_runs_and_files_teach_what_they_hold(sft: Sft, tmp_path: Path, capsys):
    folder = sft("a")
    lessons = sft("b", "from=a", "env=none", "filter=payoff>0.5", "roles=sender")
    assert "imitate" not in capsys.readouterr().err
    # The run's own environment is played again.
    assert RunReader(lessons).manifest["env"] == "signal"
    chats = tmp_path / "chats.jsonl"
    assert main(["export", str(folder), "to=openai", "where=split=train", f"out={chats}"]) == 0
    plain = sft("c", f"from={chats}", "env=none")
    assert RunReader(plain).manifest["env"] is None
    assert json.loads((plain / "sft.json").read_text())["games"] == {}


def test_end_is_a_table_with_hints(sft: Sft, capsys):
    sft("a")
    shown = capsys.readouterr().out
    for words in ("8 conversations to learn from, 2 held out; 16 turns of sender, receiver", "form kept", "payoff"):
        assert words in shown
    assert "95% interval" in shown
    assert "scripted" in shown


def hints(shown: str) -> list[list[str]]:
    """Return the words of the commands that the end of a run suggests, without the program."""
    lines = [line.partition("  selfplay ")[2] for line in shown.splitlines() if "  selfplay " in line]
    return [shlex.split(line) for line in lines]


def test_hints_name_the_same_game_and_can_be_copied(sft: Sft, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["selfplay"])
    sft("a b", "env=chitchat", "env.max_turns=4", "env.opener=Begin; talk to {topic}'s friends.", "env.roles=[x, y]")
    train, play, ls = hints(capsys.readouterr().out)
    same = ["env=chitchat", "env.max_turns=4", "env.opener=Begin; talk to {topic}'s friends.", 'env.roles=["x", "y"]']
    limit, place = "sampling.max_new_tokens=4", f"runs={tmp_path}/runs"
    assert train == ["train", "model=a b", *same, limit, place]
    assert play == ["play", "model=a b", "players.y=human", place]
    for command in (train, play):
        assert main([*command, "--dry-run"]) == 0
        tree = yaml.safe_load(capsys.readouterr().out)
        assert (tree["env"]["max_turns"], tree["env"]["roles"]) == (4, ["x", "y"])
        assert tree["env"]["opener"] == "Begin; talk to {topic}'s friends."
        assert tree["sampling"]["max_new_tokens"] == 4
    assert main(ls) == 0


def test_hints_of_a_game_pay_and_leave_out_usual_settings(sft: Sft, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["selfplay"])
    sft(
        "a",
        "env=pointing",
        "env.difficulty=easy",
        "env.variant=target",
        "conversations=2",
        "evaluation.conversations=0",
    )
    train, play, _ = hints(capsys.readouterr().out)
    words = ["env=pointing", "env.difficulty=easy", "sampling.max_new_tokens=4"]
    assert train == ["train", "preset=game", "model=a", *words, f"runs={tmp_path}/runs"]
    assert play[:2] == ["play", "model=a"]
    for command in (train, play):
        assert main([*command, "--dry-run"]) == 0
        assert "difficulty: easy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "label", "roles"),
    [
        (["roles=receiver"], "talk to it", ["players.sender=human"]),  # the model imitated the other one
        (["env=twenty_questions"], "watch it play", []),
    ],
)
def test_hint_leaves_the_model_a_role_that_it_imitated(sft: Sft, tmp_path: Path, capsys, words, label, roles):
    sft("a", "conversations=2", "evaluation.conversations=0", *words)
    [told] = [line for line in capsys.readouterr().out.splitlines() if " play model=" in line]
    assert told.startswith(f"{label}: ")
    assert shlex.split(told.partition(" play ")[2]) == ["model=a", *roles, f"runs={tmp_path}/runs"]


def test_games_that_fail_are_counted_openly():
    from selfplay.commands.sft import _print_games
    from selfplay.dialog import Outcome
    from selfplay.sft_games import tally_of
    from tests.duel import duel

    failed = [duel(1, outcome=Outcome(status="failed", reason="empty_reply")), duel(2)]
    whole = [duel(1), duel(2)]
    console = Console(file=io.StringIO(), width=120)
    _print_games(console, tally_of({"base": failed, "trained": whole, "scripted": whole}, seed=0))
    shown = console.file.getvalue()
    assert "1 of 2 games of base failed: they kept no form and reached no aim" in shown
    assert "payoffs are over the 1 scenario where every side was paid; 1 more paid only some sides" in shown


def test_json_is_the_result_alone(tmp_path, capsys):
    assert main(["sft", *SMALL, f"out={tmp_path}/a", "evaluation.conversations=0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["run"], result["version"], result["games"]) == (f"{tmp_path}/a", 4, {})


def test_dry_run_reads_the_conversations_and_makes_nothing(tmp_path, capsys):
    assert main(["sft", *SMALL, f"out={tmp_path}/a", "--dry-run"]) == 0
    assert "symbols: 4" in capsys.readouterr().out
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("verb", [["ls"], ["show"], ["top"], ["tail"]])
def test_other_commands_read_the_run(sft: Sft, verb, capsys):
    folder = sft("a")
    assert main([*verb, str(folder)]) == 0
    assert main(["ls", str(folder), "where=payoff>0.5 & success=true", "--json"]) == 0


def test_imitated_conversations_are_found_by_what_they_paid(sft: Sft, capsys):
    folder = sft("a")
    capsys.readouterr()
    assert main(["ls", str(folder), "where=payoff.sender=1 & success=true & split=train", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "from= is missing"),
        (["scripted"], "sft takes settings only, such as from=scripted"),
        (["from=scripted"], "env= is missing"),
        (["from=scripted", "env=signal", "env.symbols=3"], "symbols=3 must be 2, 4, 8 or 16"),
        (["from=scripted", "env.symbols=4"], "env= is missing"),
        (["from=scripted", "env=signal", "model=tinny"], "there is no such model; did you mean tiny"),
        (["from=nowhere.jsonl"], "from=nowhere.jsonl: there is no such file"),
        (["from=scripted", "env=signal", "roles=sendr"], "did you mean sender?"),
        (["from=scripted", "env=signal", "filter=payoff>2"], "filter='payoff>2': none of the 300 scripted"),
        (["from=scripted", "env=signal", "epoch=2"], "epoch: unknown key; did you mean epochs?"),
        (["from=scripted", "env=signal", "held_out=0", "patience=1"], "patience"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(words, message, capsys):
    assert main(["sft", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_model_that_cannot_be_had_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    words = [word for word in SMALL if not word.startswith("model=")]
    assert main(["sft", *words, f"model={tmp_path}/model", f"out={tmp_path}/a"]) == 2
    assert "cannot be loaded" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_interrupted_keeps_its_newest_checkpoint(number, tmp_path):
    words = [*SMALL, "epochs=2000", f"out={tmp_path}/a", "evaluation.conversations=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "run.py", "sft", *words]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("pass 3"))
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 130
    folder = tmp_path / "a"
    assert RunReader(folder).status == "interrupted"
    newest = checkpoint.find(folder)
    assert checkpoint.check(newest).version >= 4
    assert models.load(str(folder), device="cpu").name == str(folder)
    assert not [path.name for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]
