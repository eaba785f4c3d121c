"""`reward new` and `reward test` as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfplay.commands import main

ROOT = Path(__file__).resolve().parents[1]
MINE = """
from selfplay import reward

@reward(range=(0, 1))
def short(turn):
    return 1 / max(1, len(turn.text.split()))

@reward(range=(0, 1))
def long(turn):
    return len(turn.text)

@reward
def broken(turn):
    return "a lot"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return tmp_path


def test_new_writes_a_reward_and_its_test_and_says_what_is_next(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "new", "takes_up"]) == 0
    said = capsys.readouterr().out
    assert "reward test takes_up.py:takes_up" in said
    assert "-m pytest test_takes_up.py" in said
    assert "train -r takes_up.py:takes_up=1" in said
    assert sorted(path.name for path in here.glob("*takes_up*")) == ["takes_up.py", "test_takes_up.py"]


def test_what_new_writes_passes_its_own_test(here: Path):
    assert main(["reward", "new", "takes_up", "out=deep/er"]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "deep/er/test_takes_up.py"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_what_new_writes_can_be_tested_and_trained_with(here: Path, capsys: pytest.CaptureFixture[str]):
    main(["reward", "new", "takes_up"])
    assert main(["reward", "test", "takes_up.py:takes_up"]) == 0
    assert "kept: 0 to 1" in capsys.readouterr().out
    assert main(["train", "-r", "takes_up.py:takes_up=1", "--dry-run"]) == 0


def test_new_overwrites_nothing(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "test_takes_up.py").write_text("mine", encoding="utf-8")
    assert main(["reward", "new", "takes_up"]) == 2
    assert "test_takes_up.py exists already" in capsys.readouterr().err
    assert not (here / "takes_up.py").exists()
    assert (here / "test_takes_up.py").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Asks-Back", "cannot be the name of a reward"),
        ("test_it", "without test_ before it"),
        ("class", "is a word of Python's"),
        ("random", "would hide the module 'random'"),
        ("rewards", "would hide the module 'rewards'"),
        ("question", "there is a reward 'question' already"),
    ],
)
def test_new_refuses_a_bad_name(here: Path, capsys: pytest.CaptureFixture[str], name: str, said: str):
    assert main(["reward", "new", name]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["mine.py"]


def test_test_of_a_shipped_reward_names_the_attacks_that_win(capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "test", "question", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sound"] is True
    winning = [attack["name"] for attack in report["attacks"] if attack["is_winning"]]
    assert "what_what" in winning
    assert "one_word" not in winning
    assert {row["name"] for row in report["correlations"]} > {"question_marks", "question_density"}
    assert "question" not in {row["name"] for row in report["correlations"]}


def test_settings_of_the_reward_are_used(capsys: pytest.CaptureFixture[str]):
    main(["reward", "test", "question", "form=way_off_policy", "--json"])
    attacks = {one["name"]: one["value"] for one in json.loads(capsys.readouterr().out)["attacks"]}
    # A half for a mark without a word; the other form gives 0.
    assert attacks["only_question_marks"] == 0.5


def test_test_prints_a_warning_in_words_for_attacks_that_win(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "test", "mine.py:short"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "attacks beat the median chat:" in said
    assert "one_word" in said
    assert "words of the message" in said


def test_test_of_a_mix_has_no_winner(capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "test", "mix:vhrl", "--json"]) == 0
    assert not any(attack["is_winning"] for attack in json.loads(capsys.readouterr().out)["attacks"])


def test_broken_contract_is_exit_status_1(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "test", "mine.py:broken"]) == 1
    assert "broken:" in capsys.readouterr().out


def test_numbers_outside_the_range_are_exit_status_1(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "test", "mine.py:long"]) == 1
    assert "numbers are outside 0 to 1" in " ".join(capsys.readouterr().out.split())


def test_test_on_a_run_compares_with_its_conversations(here: Path, capsys: pytest.CaptureFixture[str]):
    main(["play", "players.host=scripted", "players.guest=scripted", "conversations=3", "out=chats"])
    capsys.readouterr()
    assert main(["reward", "test", "mine.py:short", "on=chats", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_chats"] == 3
    assert report["chats"] == "3 conversations of run chats"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected `reward new NAME`, `reward test NAME`"),
        (["tset"], "did you mean test"),
        (["test"], "needs the name of a reward"),
        (["test", "questoin"], "did you mean question"),
        (["test", "question", "form=loud"], "form"),
        (["test", "question", "from=vhrl"], "unknown key"),
        (["test", "question", "weight=2"], "weight= means nothing to reward test"),
        (["test", "question", "loud"], "expected key=value"),
        (["test", "mine.py:shrot"], "did you mean short"),
        (["test", "mine.py:short", "on=nowhere"], "there is no run 'nowhere'"),
        (["test", "mix:vhlr"], "there is no mix 'vhlr'"),
        (["test", "mix:vhrl", "form=vhrl"], "has no settings"),
        (["test", "reference_nll"], "nobody said the attacks; see what it gives to a run: rescore RUN"),
        (["new"], "needs the name of a reward"),
        (["new", "fine", "weight=1"], "it takes out=FOLDER"),
    ],
)
def test_mistake_is_one_sentence_and_exit_status_2(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
):
    assert main(["reward", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
