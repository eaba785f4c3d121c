"""`play model=RUN`: the game, the view and the sampling are those of the run, unless words say others."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from selfplay import checkpoint, models
from selfplay.commands import main
from selfplay.config import resolve, to_yaml
from selfplay.sft_settings import SftSettings
from selfplay.store import RunReader, RunWriter
from selfplay.train_settings import TrainSettings

GAME = ("env=signal", "env.symbols=8", "view=shared", "sampling.temperature=0.9", "sampling.max_new_tokens=3")
SHORT = ("conversations=2", "engine.threads=1")


def write_run(folder: Path, config: str) -> None:
    """Write a run with one checkpoint, after 10 updates, of a model that says letters."""

    RunWriter.create(folder, {}, config).close()
    checkpoint.write(folder, 10, lambda place: models.save(models.load("tiny-letters", device="cpu"), place))


@pytest.fixture
def codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that learnt a game, with a past policy after 4 updates in its league."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/codes"
    write_run(folder, to_yaml(resolve(TrainSettings, GAME)))
    shutil.copytree(folder / "checkpoints/000010", folder / "league/000004")
    return folder


def settings_of(capsys, *words):
    capsys.readouterr()
    assert main(["play", *words, "--dry-run"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["codes", "codes@10", "codes@4", "runs/codes"])
def test_policy_plays_what_its_run_learnt(codes, capsys, name):
    settings = settings_of(capsys, f"model={name}", "players.receiver=human")
    assert (settings["env"]["name"], settings["env"]["symbols"]) == ("signal", 8)
    assert (settings["view"], settings["sampling"]["temperature"]) == ("shared", 0.9)
    assert settings["sampling"]["max_new_tokens"] == 3
    # How many, and with what draws, is no matter of the run: it trained on 12 a step.
    assert (settings["conversations"], settings["seed"], settings["split"]) == (1, 0, "train")


def test_policy_of_a_run_kept_elsewhere_plays_what_it_learnt(codes, capsys, monkeypatch):
    monkeypatch.chdir("/")
    assert settings_of(capsys, "model=codes", f"runs={codes.parent}")["env"]["name"] == "signal"
    assert settings_of(capsys, f"model={codes}@10")["env"]["name"] == "signal"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "env signal, as the run was trained; env= chooses another"),
        (["env.symbols=8"], "env signal, as the run was trained; env= chooses another"),
        (["env.symbols=4"], "env signal, as the run was trained but for env.symbols; env= chooses another"),
    ],
)
def test_one_line_says_which_game_is_played(codes, capsys, words, said):
    # One stream for both, which the settings of this run say, would tell the receiver the symbol.
    assert main(["play", "model=codes", "view=perspective", *SHORT, *words, "out=talk"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "env= chooses" in line] == [said]
    talks = list(RunReader("talk").conversations())
    assert {talk.scenario.env for talk in talks} == {"signal"}
    # At most three tokens a turn, as the run was trained.
    assert all(len(turn.text) <= 3 for talk in talks for turn in talk.turns)


@pytest.mark.parametrize("other", [["env=haggle"], ["env.name=haggle"], ["preset=tiny", "env=haggle"]])
def test_another_game_is_played_with_its_own_defaults(codes, capsys, other):
    settings = settings_of(capsys, *other, "model=codes")
    assert settings | {"model": "tiny"} == settings_of(capsys, *other, "model=tiny")


def test_another_game_takes_no_line(codes, capsys):
    assert main(["play", "model=codes", "env=kuhn", *SHORT, "out=talk"]) == 0
    assert "env= chooses" not in capsys.readouterr().out
    assert RunReader("talk").manifest["env"] == "kuhn"


def test_words_and_files_win_over_the_run_one_by_one(codes, capsys):
    Path("mine.yaml").write_text("model: codes\nsampling: {top_k: 5}\n")
    settings = settings_of(capsys, "config=mine.yaml", "view=perspective", "sampling.temperature=0.2")
    assert (settings["env"]["symbols"], settings["view"]) == (8, "perspective")
    sampling = settings["sampling"]
    assert (sampling["temperature"], sampling["top_k"], sampling["max_new_tokens"]) == (0.2, 5, 3)
    Path("mine.yaml").write_text("model: codes\nenv: kuhn\n")
    assert settings_of(capsys, "config=mine.yaml")["env"]["name"] == "kuhn"


def test_printed_settings_of_a_run_can_be_fed_back(codes, capsys):
    settings = settings_of(capsys, "model=codes", "env.symbols=4")
    Path("mine.yaml").write_text(yaml.safe_dump(settings))
    assert settings_of(capsys, "config=mine.yaml") == settings


def test_run_of_imitation_is_such_a_run(codes, capsys):
    write_run(Path("runs/start"), to_yaml(resolve(SftSettings, ["from=scripted", *GAME[:2], *GAME[3:]])))
    settings = settings_of(capsys, "model=start")
    assert settings["env"]["symbols"] == 8
    assert (settings["view"], settings["sampling"]["temperature"]) == ("perspective", 0.9)


@pytest.mark.parametrize("config", ["", to_yaml(resolve(SftSettings, ["from=chats.jsonl"]))])
def test_run_without_a_game_plays_what_any_model_plays(codes, capsys, config):
    write_run(Path("runs/chats"), config)
    assert settings_of(capsys, "model=chats") | {"model": "tiny"} == settings_of(capsys, "model=tiny")


def test_stored_conversation_keeps_its_game_when_another_policy_goes_on(codes, capsys):
    assert main(["play", "model=tiny", "env.max_turns=2", "sampling.max_new_tokens=4", *SHORT, "out=runs/chat"]) == 0
    settings = settings_of(capsys, "from=chat/0", "turn=1", "model=codes")
    assert (settings["env"]["name"], settings["env"]["max_turns"]) == ("chitchat", 2)


def test_game_from_a_file_is_found_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["env", "new", "lost_key"]) == 0
    words = ("from=scripted", "env=lost_key.py:LostKey", "model=tiny", "conversations=2", "epochs=1")
    assert main(["sft", *words, "evaluation.conversations=0", "sampling.max_new_tokens=4", "out=runs/start"]) == 0
    capsys.readouterr()
    assert main(["play", "model=start", *SHORT, "out=talk"]) == 0
    assert "env lost_key.py:LostKey, as the run was trained; env= chooses another" in capsys.readouterr().out
    assert RunReader("talk").manifest["sources"]["env"].startswith("sha256:")
    Path("lost_key.py").rename("moved.py")
    assert main(["play", "model=start", *SHORT]) == 2
    error = capsys.readouterr().err
    assert error.endswith("there is no file lost_key.py; this is the env of run runs/start, and env= chooses another\n")
    assert settings_of(capsys, "model=start", "env=moved.py:LostKey")["env"]["name"] == "moved.py:LostKey"


def test_role_of_another_game_is_refused_with_those_of_the_run(codes, capsys):
    assert main(["play", "model=codes", "players.guest=human"]) == 2
    error = capsys.readouterr().err
    assert re.match("error: players.guest: env signal has no such role; choose from sender, receiver", error)


def test_configuration_that_cannot_be_read_is_named(codes, capsys):
    (codes / "config.yaml").write_text("env: signal\nview: upside_down\n")
    assert main(["play", "model=codes"]) == 2
    assert capsys.readouterr().err.startswith("error: runs/codes/config.yaml, line 2: view=upside_down: ")
