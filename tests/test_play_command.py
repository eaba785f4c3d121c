"""`play` as a user types it, in this process or, where signals and exit codes matter, in one of its own."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from selfplay import stored_tokenizer
from selfplay.commands import main
from selfplay.commands.play import USAGE
from selfplay.dialog import SPLITS
from selfplay.players import CHANCE, HUMAN, SCRIPTED
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
    tokens = reader.tokens_record("000000-g00-0")
    tokenizer = stored_tokenizer.load(folder / "chats", tokens["tokenizer"])
    assert tokenizer.texts(tokens["turns"][0]["heard"])[:3] == ["<|im_start|>", "s", "y"]
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


def texts(run: str | Path) -> list[list[str]]:
    return [[turn.text for turn in conversation.turns] for conversation in RunReader(run).conversations()]


@pytest.mark.parametrize("seed", [[], ["seed=8"]])
def test_play_from_settings_that_were_printed_or_stored_goes_on_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str], seed: list[str]
):
    main(["play", *TINY, "seed=4", "out=runs/a"])
    assert main(["play", "from=a/1", "turn=1", *seed, "out=by-words"]) == 0
    capsys.readouterr()
    main(["play", "from=a/1", "turn=1", *seed, "--dry-run"])
    (folder / "c.yaml").write_text(capsys.readouterr().out)
    assert main(["play", "config=c.yaml", "out=by-file"]) == 0
    assert main(["play", "config=by-words/config.yaml", "out=by-stored"]) == 0
    assert texts("by-words") == texts("by-file") == texts("by-stored")
    assert (texts("by-words")[0] == texts("runs/a")[1]) == (not seed)


def test_play_from_a_stored_turn_lies_under_a_configuration(folder: Path, capsys: pytest.CaptureFixture[str]):
    main(["play", *TINY, "out=runs/a"])
    (folder / "c.yaml").write_text("from: a/0\nturn: 1\nenv: {max_turns: 2}\n")
    assert main(["play", "config=c.yaml", "out=again"]) == 0
    assert texts("again") == [texts("runs/a")[0][:2]]
    # One turn of ten tokens at most was said now; the other was stored.
    assert "1 conversation, 1 turn, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["conversations=2"], "conversations=2: from= goes on from one conversation; leave it out"),
        (["view=shared"], "view=shared: the stored conversation was played with view=perspective"),
        (["env.default_brief=Sing."], "env=chitchat: with these settings host's brief is not the one"),
        (["turn=9"], "turn=9: conversation 000000-g00-0 has turns 0 to 2"),
    ],
)
def test_play_from_a_stored_turn_refuses_what_contradicts_it(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    main(["play", *TINY, "out=runs/a"])
    assert main(["play", "from=a/0", *words, "out=again"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (folder / "again").exists()


def test_play_from_a_conversation_without_tokens_says_so(folder: Path, capsys: pytest.CaptureFixture[str]):
    main(["play", *TINY, "out=runs/a"])
    main(["play", *TINY, "transcripts.tokens=none", "out=runs/b"])
    capsys.readouterr()
    main(["play", "from=a/0", "turn=1"])
    assert "tokens were not stored" not in capsys.readouterr().out
    assert main(["play", "from=b/0", "turn=1"]) == 0
    assert "its tokens were not stored, so its turns are quoted as text" in " ".join(capsys.readouterr().out.split())


def test_run_without_a_name_gets_a_number_where_its_name_is_taken(folder: Path, capsys: pytest.CaptureFixture[str]):
    scripted = ["play", "players={host: scripted, guest: scripted}", "conversations=1", "env.max_turns=2"]
    taken = {f"chitchat-smollm2-135m-{datetime.now() + timedelta(seconds=wait):%m%d-%H%M%S}" for wait in range(60)}
    for name in taken:
        (folder / "runs" / name / "conversations").mkdir(parents=True)
    assert main(scripted) == 0
    (name,) = {path.name for path in folder.glob("runs/*")} - taken
    assert name.removesuffix("-2") in taken
    # There is no other conversation to show.
    assert "another one:" not in capsys.readouterr().out


def test_a_person_sees_the_past_before_being_asked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    main(["play", "players={host: scripted, guest: scripted}", "conversations=1", "env.max_turns=2", "out=runs/a"])
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("I see.\n"))
    assert main(["play", "from=a/0", "turn=1", "players.guest=human"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert output.index(texts("runs/a")[0][0]) < output.index("/quit ends the conversation") < output.index("guest>")


def test_json_and_a_person_do_not_go_together(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["play", "players={host: human, guest: human}", "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: --json shows no turns, so no person can play")


def test_manifest_says_on_what_and_from_which_source_it_was_played(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "game.py").write_text("from envs.chitchat import ChitChat\n")
    assert main(["play", *TINY, "env=game.py:ChitChat", "engine.device=cpu", "out=a"]) == 0
    manifest = RunReader(folder / "a").manifest
    assert (manifest["device"], manifest["dtype"]) == ("cpu", "float32")
    digest = manifest["sources"]["env"].removeprefix("sha256:")
    assert (folder / "a/sources" / f"{digest}.py").read_text() == (folder / "game.py").read_text()


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
    assert len(done.stdout.splitlines()) <= 25
    assert "play" in done.stdout


def test_play_whose_reader_leaves_goes_on_and_stores_all(folder: Path):
    words = [*TINY[:3], "conversations=40", "engine.threads=1", "out=chats"]
    command = [sys.executable, str(ROOT / "run.py"), "play", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    assert len(list(RunReader(folder / "chats").conversations())) == 40


def test_play_in_which_nobody_can_speak_says_why_and_exits_with_1(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["play", *TINY, "sampling.max_stream_tokens=20", "out=chats"]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "3 conversations ended before a word was said: no room was left" in output


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("split=held_out", "split=held_out: the stored conversation's scenario is of split=train"),
        ("env.personas.host=pirate", "env=chitchat: with these settings its scenario would be another one"),
    ],
)
def test_replay_under_settings_of_another_scenario_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], word: str, message: str
):
    main(["play", *TINY, "out=runs/first"])
    assert main(["play", "from=first/0", "turn=1", word]) == 2
    assert message in capsys.readouterr().err


def test_folder_with_other_files_is_refused_and_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "notes.txt").write_text("mine")
    assert main(["play", *TINY, "out=."]) == 2
    assert "holds other files, notes.txt among them" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_terminated_play_ends_as_interrupted(folder: Path):
    words = ["model=tiny", "env.max_turns=2", "sampling.max_new_tokens=4", "conversations=100000", "engine.threads=1"]
    command = [sys.executable, str(ROOT / "run.py"), "play", *words, "engine.concurrency=4", "out=chats"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    lines = folder / "chats/conversations/train-000.jsonl"
    for _ in range(600):
        if lines.exists() and lines.stat().st_size > 0:
            break
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert RunReader(folder / "chats").manifest["status"] == "interrupted"


def test_dry_run_as_json_is_json(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["play", *TINY, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["env"]["max_turns"] == 3


def test_group_size_puts_several_conversations_on_each_scenario(tmp_path):
    words = [
        "conversations=5",
        "group_size=2",
        "players.host=scripted",
        "players.guest=scripted",
        f"out={tmp_path / 'r'}",
    ]
    assert main(["play", "preset=tiny", *words]) == 0
    seeds = {one.id: one.scenario.seed for one in RunReader(tmp_path / "r").conversations()}
    assert sorted(seeds) == [f"000000-g{group:02}-{index}" for group, index in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))]
    assert len(set(seeds.values())) == 3
    assert seeds["000000-g00-0"] == seeds["000000-g00-1"]


def test_help_names_every_player_and_both_splits():
    assert [word for word in (HUMAN, SCRIPTED, CHANCE, *SPLITS) if word not in USAGE] == []
