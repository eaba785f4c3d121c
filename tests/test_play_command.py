"""`play` as a user types it, in this process or, where signals and exit codes matter, in one of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfplay.commands import main
from selfplay.store import RunReader

ROOT = Path(__file__).parent.parent
HERE = {**os.environ, "PYTHONPATH": str(ROOT)}  # so that the tests need no installed package
TINY = ("model=tiny", "env.max_turns=3", "sampling.max_new_tokens=10", "conversations=3", "engine.threads=1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_play_shows_the_first_conversation_and_stores_all(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["play", *TINY, "out=chats"]) == 0
    output = capsys.readouterr().out
    reader = RunReader(folder / "chats")
    conversations = list(reader.conversations(with_tokens=True))
    assert [c.id for c in conversations] == ["000000-g00-0", "000000-g01-0", "000000-g02-0"]
    assert reader.problems == []
    assert reader.manifest["status"] == "finished"
    assert all(len(turn.said) == len(turn.logprobs) > 0 for c in conversations for turn in c.turns)
    assert "000000-g00-0" in output
    assert "000000-g01-0" not in output
    assert "3 conversations, 9 turns" in output


def test_play_with_the_stored_configuration_repeats_the_run(folder: Path, capsys: pytest.CaptureFixture[str]):
    main(["play", *TINY, "seed=5", "out=first"])
    assert main(["play", "config=first/config.yaml", "out=second"]) == 0
    texts = [[t.text for c in RunReader(folder / run).conversations() for t in c.turns] for run in ("first", "second")]
    assert texts[0] == texts[1]


def test_play_from_a_stored_turn_goes_on_as_stored(folder: Path, capsys: pytest.CaptureFixture[str]):
    main(["play", *TINY, "seed=4", "out=runs/first"])
    assert main(["play", "from=first/000000-g02-0", "turn=1", "out=again"]) == 0
    stored = RunReader(folder / "runs/first").conversation("000000-g02-0")
    again = RunReader(folder / "again").conversation("000000-g02-0")
    assert [t.said.tolist() for t in again.turns] == [t.said.tolist() for t in stored.turns]


def test_play_from_a_stored_turn_with_a_seed_goes_on_differently(folder: Path, capsys: pytest.CaptureFixture[str]):
    main(["play", *TINY, "out=runs/first"])
    assert main(["play", "from=first/0", "turn=1", "seed=8", "out=again"]) == 0
    stored, again = (RunReader(folder / run).conversation("0") for run in ("runs/first", "again"))
    assert again.turns[0].text == stored.turns[0].text
    assert again.turns[1].text != stored.turns[1].text


def test_play_from_a_stored_turn_with_another_model_quotes_the_past(folder: Path, capsys: pytest.CaptureFixture[str]):
    main(["play", *TINY, "out=runs/first"])
    assert main(["play", "from=first/0", "turn=2", "model=tiny:7", "out=again"]) == 0
    again = RunReader(folder / "again").conversation("0")
    assert [turn.player for turn in again.turns] == ["tiny@0", "tiny@0", "tiny:7@0"]
    # The host spoke turn 0 as another model, so all that its own stream holds was heard before turn 2.
    assert len(again.turns[2].heard) > len(again.turns[0].heard) + len(again.turns[0].said) - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["conversatoins=3"], "conversatoins: unknown key; did you mean conversations?"),
        (["model=smollm"], "model=smollm: there is no such model; did you mean smollm2-135m?"),
        (["players.gest=human"], "players.gest: env chitchat has no such role; did you mean guest?"),
        (["players.guest=humna"], "players.guest=humna: there is no such player; did you mean human?"),
        (["env=chitcaht"], "env=chitcaht: no env has that name; did you mean chitchat?"),
        (["turn=2"], "turn= says where to go on in a stored conversation; name it with from=RUN/ID"),
        (["from=nowhere"], "from=nowhere: expected RUN/ID"),
        (["view=shared", "env.personas={guest: You sing.}"], "view=shared: scenario"),
    ],
)
def test_play_with_bad_words_says_one_sentence_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    model = [] if any(word.startswith("model=") for word in words) else ["model=tiny"]
    assert main(["play", *model, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not list(folder.glob("runs/*"))


def test_play_into_a_folder_that_cannot_be_written_says_so_before_anything_loads(folder: Path):
    (folder / "file").write_text("")
    code = "import sys; from selfplay.commands import main; print(main(['play', 'out=file']), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True, env=HERE
    )
    assert done.stdout.split() == ["2", "False"]
    assert "cannot write to folder file" in done.stderr


def test_play_into_a_folder_with_a_run_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    main(["play", *TINY, "out=chats"])
    before = (folder / "chats/run.json").read_bytes()
    assert main(["play", *TINY, "out=chats"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (folder / "chats/run.json").read_bytes() == before


def test_play_as_json_prints_one_object(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["play", *TINY, "out=chats", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["run"], result["conversations"], result["turns"]) == ("chats", 3, 9)


def test_dry_run_prints_settings_that_can_be_fed_back(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["play", *TINY, "--dry-run"]) == 0
    first = capsys.readouterr().out
    (folder / "mine.yaml").write_text(first)
    assert main(["play", "config=mine.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == first
    assert not (folder / "runs").exists()


def test_interrupted_play_keeps_what_is_finished_and_exits_with_130(folder: Path):
    words = ["model=tiny", "env.max_turns=2", "sampling.max_new_tokens=4", "conversations=100000", "engine.threads=1"]
    command = [sys.executable, str(ROOT / "run.py"), "play", *words, "engine.concurrency=4", "out=chats"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    lines = folder / "chats/conversations/train-000.jsonl"
    for _ in range(600):
        if lines.exists() and lines.stat().st_size > 0:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    reader = RunReader(folder / "chats")
    kept = len(list(reader.conversations()))
    assert process.returncode == 130
    assert (reader.manifest["status"], reader.problems) == ("interrupted", [])
    assert kept > 0
    assert f"{kept} finished conversation" in output


def test_console_script_and_run_py_are_the_same_program(folder: Path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py")],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        env=HERE,
    )
    assert len(done.stdout.splitlines()) <= 8
    assert "play" in done.stdout
