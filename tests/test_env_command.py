"""`env new` and `env check` as they are typed."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfplay.commands import main

ROOT = Path(__file__).resolve().parents[1]
CHEAT = '''
from dataclasses import dataclass
from envs.signal import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheat(Signal):
    """Signal, with a sheet that promises too much."""

    def sheet(self):
        from dataclasses import replace

        return replace(super(Cheat, self).sheet(), chance=0.9)
'''

SIDED = '''
from dataclasses import dataclass, replace
from envs.signal import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Sided(Signal):
    """Signal, with a variant that promises too much."""

    variant: str = "right"

    def sheet(self):
        sheet = super(Sided, self).sheet()
        return sheet if self.variant == "right" else replace(sheet, chance=0.9)
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cheat.py").write_text(CHEAT, encoding="utf-8")
    return tmp_path


def test_new_writes_three_files_and_says_what_is_next(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["env", "new", "lost_key"]) == 0
    said = capsys.readouterr().out
    assert "env check lost_key.py:LostKey" in said
    assert "-m pytest test_lost_key.py" in said
    assert "play env=lost_key.py:LostKey players.guide=scripted players.seeker=human" in said
    assert "sft from=scripted env=lost_key.py:LostKey out=runs/lost_key-start" in said
    assert "train preset=game env=lost_key.py:LostKey model=lost_key-start out=runs/lost_key" in said
    assert "eval lost_key" in said
    assert (here / "test_lost_key.py").read_text(encoding="utf-8").count("# CHANGE ") == 4
    written = sorted(path.name for path in here.glob("*lost_key*"))
    assert written == ["golden_lost_key.txt", "lost_key.py", "test_lost_key.py"]


@pytest.mark.slow
def test_what_new_writes_keeps_every_promise_and_passes_its_own_test(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["env", "new", "lost_key", "out=deep/er"]) == 0
    assert main(["env", "check", "deep/er/lost_key.py:LostKey", "games=20"]) == 0
    assert "every promise is kept" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "deep/er/test_lost_key.py"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "18 passed" in done.stdout, done.stdout + done.stderr


def test_what_new_writes_can_be_played_and_trained(here: Path, capsys: pytest.CaptureFixture[str]):
    main(["env", "new", "lost_key"])
    words = ["env=lost_key.py:LostKey", "players.guide=scripted", "players.seeker=scripted", "conversations=2"]
    assert main(["play", *words, "out=chats"]) == 0
    assert "goal reached" in capsys.readouterr().out
    assert main(["train", "env=lost_key.py:LostKey", "-r", "payoff=1", "--dry-run"]) == 0


def test_new_overwrites_nothing(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "golden_lost_key.txt").write_text("mine", encoding="utf-8")
    assert main(["env", "new", "lost_key"]) == 2
    assert "golden_lost_key.txt exists already" in capsys.readouterr().err
    assert not (here / "lost_key.py").exists()
    assert (here / "golden_lost_key.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Lost-Key", "cannot be the name of an environment"),
        ("test_it", "without test_ before it"),
        ("class", "is a word of Python's"),
        ("list", "is a word of Python's"),
        ("random", "would hide the module 'random'"),
        ("rewards", "would hide the module 'rewards'"),
        ("chitchat", "there is an environment 'chitchat' already"),
        ("conftest", "would hide the module 'conftest'"),
        *((name, "would make a class") for name in ("scenario", "action", "outcome", "game_sheet", "reason", "split")),
        *((name, "would make a class") for name in ("class_var", "sequence", "draw", "user_error")),
        *((name, "would make a class") for name in ("path", "turn", "true", "none", "key_error", "exception")),
        ("g_u_i_d_e", "would make a class GUIDE"),
        ("p_l_a_c_e_s", "would make a class PLACES"),
    ],
)
def test_new_refuses_a_bad_name(here: Path, capsys: pytest.CaptureFixture[str], name: str, said: str):
    assert main(["env", "new", name]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["cheat.py"]


def test_check_of_a_sound_game_prints_every_proof(capsys: pytest.CaptureFixture[str]):
    assert main(["env", "check", "signal", "games=4", "env.symbols=8"]) == 0
    said = capsys.readouterr().out
    names = ("contract", "sheet", "scripts", "ends", "chance", "best", "laziness", "hostile", "speed")
    assert [line.split()[1] for line in said.splitlines() if line.startswith("✓")] == [*names]
    assert "payoffs 0 to 1, general-sum; chance 0.125, best 1" in said
    assert said.rstrip().endswith("every promise is kept")


def test_check_of_a_variant_checks_the_variant(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "sided.py").write_text(SIDED, encoding="utf-8")
    assert main(["env", "check", "sided.py:Sided", "games=4", "env.variant=wrong", "--json"]) == 1
    assert "says chance=0.9" in json.loads(capsys.readouterr().out)["broken"]


def test_check_as_json_has_what_was_measured(capsys: pytest.CaptureFixture[str]):
    assert main(["env", "check", "signal", "games=4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["sound"], report["env"], report["roles"]) == (True, "signal", ["sender", "receiver"])
    assert report["sheet"]["ends"] == ["goal_reached", "gave_up", "rule_violation"]
    assert report["played"]["scripted"]["mean"] == 1.0
    assert report["played"]["chance"]["games"] == 400
    assert {"silence", "echo", "echo/sender"} < set(report["played"])


def test_check_of_a_broken_game_says_what_and_returns_1(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["env", "check", "cheat.py:Cheat", "games=4"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "✓ ends" in said
    assert "✗ broken env 'signal': sheet says chance=0.9, but 400 games by chance paid" in said
    assert main(["env", "check", "cheat.py:Cheat", "games=4", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["env"], report["sound"]) == ("cheat.py:Cheat", False)
    assert report["broken"].startswith("env 'signal': sheet says chance=0.9")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to do; expected `env new NAME` or `env check NAME`"),
        (["chek", "signal"], "'chek' is no part of env; did you mean check?"),
        (["check"], "env check needs an environment, as in `env check signal`"),
        (["new"], "env new needs a name, as in `env new lost_key`"),
        (["new", "lost_key", "games=3"], "'games=3' means nothing to env new; after the name it takes out=FOLDER"),
        (["new", "lost_key", "--json"], "--json means nothing to env new"),
        (["check", "games=200"], "its name comes first, as in `env check signal games=200`"),
        (["check", "signal", "gmes=200"], "gmes: unknown key; did you mean games?"),
        (["check", "signal", "games=1"], "games"),
        (["check", "signal", "env.symbols=5"], "symbols=5 must be 2, 4, 8 or 16"),
        (["check", "singal"], "no env has that name; did you mean signal?"),
        (["check", "haggle", "no_zone_share=0.5"], "is a setting of haggle, so write env.no_zone_share=0.5"),
        (["check", "haggle", "env.no_zone=0.5"], "unknown key; did you mean env.no_zone_share?"),
        (["check", "nothing.py:Game"], "there is no file nothing.py"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str], words, said):
    assert main(["env", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_play_fills_a_role_by_chance(here: Path, capsys: pytest.CaptureFixture[str]):
    words = ["env=signal", "players.sender=scripted", "players.receiver=chance", "conversations=2", "out=chats"]
    assert main(["play", *words]) == 0
    said = capsys.readouterr().out
    assert "receiver" in said
    assert "chance" in said
    assert "payoff sender" in said


def test_play_asks_a_person_for_a_role(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("B\n"))
    words = ["env=signal", "players.sender=scripted", "players.receiver=human", "conversations=1", "out=chats"]
    assert main(["play", *words]) == 0
    said = capsys.readouterr().out
    assert "You are receiver. Your partner sees one of" in said
    assert "You see" not in said  # that is the sender's alone
    assert "payoff sender" in said


def test_list_shows_what_a_game_promises(capsys: pytest.CaptureFixture[str]):
    assert main(["list", "envs"]) == 0
    said = capsys.readouterr().out
    assert "roles sender, receiver · pays 0.25 by chance, 1 at best · general-sum" in said
    assert "roles host, guest\n" in said
    assert main(["list", "envs", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["envs"]}
    assert (rows["signal"]["chance"], rows["signal"]["best"], rows["chitchat"]["chance"]) == (0.25, 1.0, None)
    assert rows["signal"]["ends"] == ["goal_reached", "gave_up", "rule_violation"]
