"""`reward train`, `reward report` and `study human-preference` as they are typed."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from selfplay.commands import main, reward, study_human_preference
from selfplay.commands.reward_progress import FitScreen
from selfplay.commands.words import CommandLine
from selfplay.folder_lock import alone_in
from selfplay.reward_model.dialogs import Dialog, Message
from selfplay.reward_model.examples import Example
from selfplay.reward_model.settings import FitSettings
from selfplay.reward_model.training import Progress

TOPICS = ("tea", "rain", "trains", "books", "cats", "music")
FAST = ("backbone=words", "ensemble=2", "epochs=3", "hidden=0")


def hh_lines(num: int) -> list[str]:
    """Return pairs in which the kind answer is always chosen."""
    lines = []
    for number in range(num):
        prompt = f"\n\nHuman: Tell me about {TOPICS[number % 6]}, please, part {number}.\n\nAssistant:"
        chosen, rejected = f" Gladly! Here is part {number}.", f" Go away with your part {number}."
        lines.append(json.dumps({"chosen": prompt + chosen, "rejected": prompt + rejected}))
    return lines


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hh.jsonl").write_text("\n".join(hh_lines(60)) + "\n")
    return tmp_path


def test_file_becomes_a_model_with_a_report_and_a_card(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "train", "hh.jsonl", *FAST]) == 0
    out = capsys.readouterr().out
    for said in ("hh: 60 pairs", "48 to train on, 12 held out", "member 1", "all 3 epochs; kept epoch "):
        assert said in out
    assert "too few held-out pairs to say anything: 12 pairs" in " ".join(out.split())
    assert "train -r rm:reward_models/hh=0.5" in out
    folder = here / "reward_models" / "hh"
    assert {"README.md", "report.json", "held_out.jsonl", "reward_model.json"} <= {one.name for one in folder.iterdir()}
    assert json.loads((folder / "report.json").read_text())["accuracy"]["value"] == 1.0
    assert "# hh" in (folder / "README.md").read_text()


def test_report_measures_again_with_the_baselines_chosen_in_training(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "train", "hh.jsonl", "out=rm", "--json", *FAST]) == 0
    trained = json.loads(capsys.readouterr().out)["report"]
    assert main(["reward", "report", "rm", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["choice"] == trained["choice"]
    assert measured["accuracy"] == trained["accuracy"]
    assert measured["choice"]["chosen_on"] == "48 training pairs"


def test_report_on_other_data_reads_that(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "other.jsonl").write_text("\n".join(hh_lines(70)[60:]) + "\n")
    assert main(["reward", "train", "hh.jsonl", "out=rm", *FAST]) == 0
    capsys.readouterr()
    assert main(["reward", "report", "rm", "on=other.jsonl", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["on"], record["num_examples"], record["notes"]) == ("other.jsonl", 10, [])


def test_report_leaves_out_what_was_trained_on_and_says_so(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "train", "hh.jsonl", "out=rm", *FAST]) == 0
    capsys.readouterr()
    assert main(["reward", "report", "rm", "on=hh.jsonl", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    # 48 of the 60 were trained on, 12 were held out.
    assert record["num_examples"] == 12
    assert record["notes"] == ["48 of 60 pairs hold a dialog that was trained on, and are left out"]
    (here / "rm" / "trained_on.txt").unlink()
    assert main(["reward", "report", "rm", "on=hh.jsonl"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "rm does not say what it was trained on: some of these examples may be among it" in out


def test_report_on_nothing_but_what_was_trained_on_is_refused(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "train", "hh.jsonl", "out=rm", "held_out=0.001", *FAST]) == 0
    capsys.readouterr()
    assert main(["reward", "report", "rm", "on=hh.jsonl"]) == 2
    assert "on=hh.jsonl: rm was trained on all 60 of these examples; name other data" in capsys.readouterr().err


def test_held_out_examples_that_the_start_was_trained_on_are_left_out(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "more.jsonl").write_text("\n".join(hh_lines(70)) + "\n")
    assert main(["reward", "train", "hh.jsonl", "out=rm", "held_out=0.001", *FAST]) == 0
    capsys.readouterr()
    assert main(["reward", "train", "more.jsonl", "start=rm", "--dry-run", "--json", *FAST]) == 0
    record = json.loads(capsys.readouterr().out)["data"]
    assert record["num_held_out"] + len(record["overlap"]) == 14
    assert record["num_held_out"] <= 10
    assert all(line.endswith("start=rm was trained on it") for line in record["overlap"])


def test_bad_lines_and_overlaps_are_told(here: Path, capsys: pytest.CaptureFixture[str]):
    lines = hh_lines(60)
    (here / "data").mkdir()
    (here / "data" / "train.jsonl").write_text("\n".join([*lines[:50], "{broken"]) + "\n")
    (here / "data" / "test.jsonl").write_text("\n".join(lines[48:]) + "\n")
    assert main(["reward", "train", "data", "--dry-run", *FAST]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "50 to train on, 10 held out" in out
    assert "1 line could not be used" in out
    assert "train.jsonl:51" in out
    assert "2 held-out examples left out, for the same dialog is trained on" in out
    assert "backbone: words" in out
    assert not (here / "reward_models").exists()


def test_dry_run_as_json_is_json_alone(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "train", "hh.jsonl", "--dry-run", "--json", "noise=0.1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["noise"] == 0.1
    assert {key: record["settings"][key] for key in ("scope", "ensemble", "epochs", "patience", "learning_rate")} == {
        "scope": "turn",
        "ensemble": 3,
        "epochs": 60,
        "patience": 6,
        "learning_rate": 0.001,
    }
    assert record["data"]["num_train"] == 48


def test_twin_is_trained_beside_it(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["reward", "train", "hh.jsonl", "out=rm", "twin=true", *FAST]) == 0
    assert "1 of the twin" in capsys.readouterr().out
    assert (here / "rm" / "twin" / "reward_model.json").exists()


def test_files_named_by_their_side_are_known_by_their_folder(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "kind").mkdir()
    for name, lines in (("train", hh_lines(40)), ("test", hh_lines(60)[40:])):
        (here / "kind" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["reward", "train", "kind/train.jsonl", "kind/test.jsonl", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "out: reward_models/kind\n" in out
    assert "40 to train on, 20 held out" in out


# ----- docs/reward-models.md -----


PAGE = (Path(__file__).parents[1] / "docs" / "reward-models.md").read_text(encoding="utf-8")


def test_forms_of_the_page_are_all_read(here: Path, capsys: pytest.CaptureFixture[str]):
    forms = PAGE.split("```json\n")[1].split("```")[0]
    (here / "forms.jsonl").write_text(forms)
    assert main(["reward", "train", "forms.jsonl", "--dry-run", "--json", "held_out=0.01"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["data"]["num_train"], record["data"]["problems"]) == (5, [])


def test_settings_of_the_page_are_those_there_are():
    table = PAGE.split("## Settings")[1].split("## The folder")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}
    # Where to look for runs and how many cores to use are as in every command.
    assert set(FitSettings.model_fields) - named == {"runs", "threads", "tokens_per_microbatch"}
    assert named <= set(FitSettings.model_fields)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "reward train needs data"),
        (["train", "noise=0.1"], "reward train needs data"),
        (["train", "nothing.jsonl"], "there is no file nothing.jsonl"),
        (["train", "hh.jsonl", "noisee=0.1"], "did you mean noise"),
        (["train", "hh.jsonl", "clamp=0.2"], "clamp=0.2: must be above 0.5"),
        (["train", "hh.jsonl", "out=hh.jsonl"], "is no reward model"),
        (
            ["train", "nothing.jsonl", "backbone=mimilm", "--dry-run"],
            "backbone=mimilm: there is none of this name; did",
        ),
        (["report", "hh.jsonl"], "hh.jsonl is a file, and a reward model is a folder"),
        (["report"], "reward report needs a reward model"),
        (["report", "nowhere"], "there is no reward model 'nowhere'"),
        (["report", "a", "b"], "takes one reward model"),
        (["report", "a", "--dry-run"], "--dry-run means nothing to reward report"),
        (["trian"], "did you mean train"),
    ],
)
def test_mistake_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str):
    assert main(["reward", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


# ----- the screen -----


def progress(member: int, step: int, *, is_twin: bool = False, ending: str = "") -> Progress:
    return Progress(
        member=member,
        epoch=0,
        step=step,
        num_steps=9,
        train_loss=0.7,
        validation_loss=None,
        validation_accuracy=0.5,
        is_twin=is_twin,
        ending=ending,
    )


def test_log_has_a_line_for_each_member_and_one_every_ten_seconds():
    console = Console(record=True, width=200, force_terminal=False)
    seconds = iter([0.0, 5.0, 11.0, 11.0, 12.0, 12.0, 12.0])
    screen = FitScreen(console, clock=lambda: next(seconds))
    for one in (progress(0, 1), progress(0, 2), progress(0, 3), progress(0, 4), progress(1, 1)):
        screen.on_progress(one)
    lines = console.export_text().splitlines()
    assert [line.split("step ")[1].split()[0] for line in lines] == ["1/9", "3/9", "4/9", "1/9"]
    assert "validation loss -  validation accuracy 50.0%" in lines[0]


def test_log_says_at_once_and_once_why_a_member_is_over():
    console = Console(record=True, width=200, force_terminal=False)
    screen = FitScreen(console, clock=lambda: 0.0)
    for one in (progress(0, 1), progress(0, 4, ending="stopped: no better; kept epoch 2"), progress(1, 1)):
        screen.on_progress(one)
    screen.end()
    lines = console.export_text().splitlines()
    assert [line.split("step ")[1].split()[0] for line in lines] == ["1/9", "4/9", "1/9"]
    assert lines[1].endswith("validation accuracy 50.0%  stopped: no better; kept epoch 2")


def test_help_of_train_and_report_is_their_own():
    def said(*words: str) -> str:
        return reward.usage(CommandLine(words=words, wants_help=True))

    assert "clamp=1" in said("train")
    assert "on=DATA" not in said("train")
    assert "on=DATA" in said("report")
    assert "clamp=" not in said("report")
    assert said() == said("test") == reward.USAGE
    assert "reward train --help" in reward.USAGE


def test_terminal_has_a_row_for_each_member():
    console = Console(record=True, width=100, force_terminal=True)
    screen = FitScreen(console)
    for one in (progress(0, 1), progress(0, 5), progress(0, 2, is_twin=True)):
        screen.on_progress(one)
    console.print(screen)
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["1", "1", "5/9", "0.7000", "-", "50.0%"] in rows
    assert ["1", "of", "the", "twin", "1", "2/9", "0.7000", "-", "50.0%"] in rows


# ----- study human-preference -----


def liked(settings) -> list[Example]:
    """Return pairs in which the kind chat is liked better, whatever people were asked."""
    return [
        Example(
            dialogs=tuple(
                Dialog(messages=(Message(text=f"Hi {n}.", is_focus=False), Message(text=f"{text} {n}", is_focus=True)))
                for text in ("How lovely, thank you", "Go away, you bore me")
            ),
            kind="pair",
            targets=(1.0,),
            source="chitchat",
            keys=(f"{n}",),
        )
        for n in range(40)
    ]


def study(*words: str) -> int:
    return study_human_preference.run(CommandLine(words=("human-preference", *words)), read=liked)


def test_study_stores_cells_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = (f"out={tmp_path}/s", "backbones=words", "ensemble=1", "epochs=30", "questions=witty")
    assert study(*words, "seeds=0") == 0
    first = (tmp_path / "s" / "cells" / "words-witty-0.json").stat().st_mtime_ns
    assert study(*words, "seeds=0,1") == 0
    assert "2 of 2: words-witty-1" in capsys.readouterr().out
    assert (tmp_path / "s" / "cells" / "words-witty-0.json").stat().st_mtime_ns == first
    table = (tmp_path / "s" / "table.md").read_text()
    assert "| witty | words | 0 | 32 | 8 | 100.0% (67.6 to 100.0)" in table
    assert "| witty | words | 2 | 100.0% (100.0 to 100.0)" in table
    assert "In 0 of 2 cells nothing shows that it does better than a coin." in table


def test_study_refuses_cells_of_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = (f"out={tmp_path}/s", "backbones=words", "ensemble=1", "questions=witty", "seeds=0")
    assert study(*words, "epochs=1") == 0
    with pytest.raises(ValueError, match="made with other settings"):
        study(*words, "epochs=2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["questions=clever"], "people were not asked 'clever'"),
        (["seed=1"], "seed= means nothing"),
        (["seeds=a"], "seed=a: must be a whole number"),
        (["epochz=1"], "did you mean epochs"),
        (["loud"], "takes key=value"),
    ],
)
def test_study_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str], words: list[str], said: str):
    assert main(["study", "human-preference", *words]) == 2
    assert said in capsys.readouterr().err


def test_study_keeps_two_processes_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with alone_in(tmp_path / "study", what="this study"):
        assert main(["study", "human-preference", f"out={tmp_path / 'study'}"]) == 2
    assert "another process works on this study" in capsys.readouterr().err
    assert not (tmp_path / "study" / "cells").exists()


def test_study_dry_run_names_the_cells(capsys: pytest.CaptureFixture[str]):
    assert main(["study", "human-preference", "seeds=0", "--dry-run"]) == 0
    assert capsys.readouterr().out.split() == ["minilm-witty-0", "minilm-upbeat-0", "minilm-interesting-0"]
