"""`study` as it is typed, and the processes it starts."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from selfplay.commands import main
from selfplay.commands.study import Launcher

# Ends with 130 when it is interrupted, as `train` does, after it has written a file.
PATIENT = """
import signal, sys, time, pathlib
def interrupt(*_):
    pathlib.Path(sys.argv[1], "checkpoint").write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGINT, interrupt)
print("ready", flush=True)
time.sleep(60)
"""


def typed(*words: str) -> int:
    return main(["study", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "study needs one name, of: kl"),
        (["kk"], "there is no study 'kk'; choose from kl"),
        (["kl", "seeds=a"], "seeds=a: must be whole numbers"),
        (["kl", "seeds=-1"], "seeds=-1: a seed is at least 0"),
        (["kl", "arms=no_kll"], "there is no arm 'no_kll'; did you mean no_kl?"),
        (["kl", "seed=1"], "seed= means nothing to a study"),
        (["kl", "stepps=1", "--dry-run"], "stepps: unknown key; did you mean steps?"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(words, message, capsys):
    assert typed(*words) == 2
    assert message in capsys.readouterr().err


def test_dry_run_prints_the_command_of_every_run(capsys, tmp_path):
    assert typed("kl", "seeds=4,5", "arms=no_kl,fixed_1", f"out={tmp_path}/s", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in lines] == ["no_kl-4", "fixed_1-4", "no_kl-5", "fixed_1-5"]
    assert "kl.controller=fixed kl.coefficient=1 seed=5" in lines[3]
    assert list(tmp_path.iterdir()) == []


def test_process_gives_its_status_and_what_it_says_goes_to_the_log(tmp_path):
    launch = Launcher(say=print, program=[sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(3)"])
    assert launch(["a", "b"], tmp_path / "logs" / "x.log", tmp_path) == 3
    assert (tmp_path / "logs" / "x.log").read_text().strip() == "['a', 'b']"


def test_interrupt_reaches_the_process_once_and_its_checkpoint_is_waited_for(tmp_path):
    said: list[str] = []
    log = tmp_path / "x.log"

    def interrupt() -> None:
        while not (log.exists() and "ready" in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    launch = Launcher(say=said.append, program=[sys.executable, "-c", PATIENT])
    with pytest.raises(KeyboardInterrupt):
        launch([str(tmp_path)], log, tmp_path)
    assert (tmp_path / "checkpoint").read_text() == "saved"
    assert said == ["stopping; the run under way writes a checkpoint first, once more stops at once"]


@pytest.mark.slow
def test_study_of_the_tiny_model_trains_and_compares(tmp_path: Path, capsys):
    small = ["model=tiny", "steps=1", "conversations=4", "env.max_turns=2", "evaluation.conversations=2"]
    words = ["kl", "seeds=0", "arms=fixed_1", f"out={tmp_path}", "sampling.max_new_tokens=4", *small]
    assert typed(*words) == 0
    assert "1 run, " in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    cell = json.loads((tmp_path / "cells" / "fixed_1-0.json").read_text())
    assert cell["evaluation"]["metrics"]["reward/question_density"]["base"] is not None
    assert [len(values) for values in cell["curves"].values()] == [1] * len(cell["curves"])
    capsys.readouterr()
    assert typed(*words) == 0
    assert "seed 0: training" not in capsys.readouterr().out
