"""Runs with a league that are killed, between two checkpoints or within a file operation: going on is as if nothing
had been.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selfplay import checkpoint
from selfplay.commands import main

RUN_PY = Path(__file__).parents[1] / "run.py"
LIMIT_SECONDS = 600  # for what takes seconds: only what hangs takes so long
POLL_SECONDS = 0.02
WORDS = (
    *("preset=signal", "env=kuhn", "model=tiny-letters", "cluster=local", "conversations=4", "transcripts.tokens=all"),
    *("partner=league", "league.choose=prioritised", "league.opponents=2", "league.window=2"),
    *("league.play_against_latest_model_ratio=0.2", "league.frozen_ratio=0.1", "league.scripted_ratio=0.1"),
)
LONG = (*WORDS, "league.save_steps=2", "checkpoints.save_every=3", "checkpoints.keep=1", "evaluation.conversations=2")
SHORT = (*WORDS, "league.save_steps=1", "checkpoints.save_every=2", "evaluation.conversations=0")
LASTING = "steps=5000"  # minutes, and it is killed after seconds; if the test itself is killed, it ends some day

# Goes on with each run in child after child.  A child but the last is told a chain of file operations, and is killed
# when it begins the last of them; a chain is written "EVENT ENDING-OF-PATH, ...".  Prints each child's end.
KILLED_AT = """
import json, os, signal, sys
import selfplay.cluster.local
from selfplay import models
from selfplay.commands import main

def die_at(chain):
    left = [operation.split() for operation in chain.split(", ")]
    def hook(event, arguments):
        if left and event == left[0][0] and str(arguments[0]).endswith(left[0][1]):
            del left[0]
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def go_on(run, chain):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if chain:
        die_at(chain)
    return main(["train", f"resume={run}", f"steps={sys.argv[1]}"])

models.load("tiny-letters", device="cpu")  # what that imports need not be imported by each child
for run, chains in json.loads(sys.argv[2]).items():
    ends = []
    for chain in (*chains, ""):
        child = os.fork()
        if not child:
            os._exit(go_on(run, chain))
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(ends), flush=True)
"""


def without_clock(value: Any) -> Any:
    """Return a record without what depends on when, how fast, and by which commit it was made."""
    if isinstance(value, list):
        return [without_clock(one) for one in value]
    if not isinstance(value, dict):
        return value
    # "second" alone is a role of the game.
    is_of_clock = re.compile(r"at|timing|origin|.*seconds|.*per_second").fullmatch
    return {key: without_clock(one) for key, one in value.items() if not is_of_clock(key)}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [without_clock(json.loads(line)) for line in path.read_text().splitlines()]


def all_of(run: Path) -> dict[str, Any]:
    """Return what a run recorded: every line, the league's books, and the checksums of its past policies."""
    lines = {str(path.relative_to(run)): lines_of(path) for path in (*run.glob("*.jsonl"), *run.glob("[ct]*/*.jsonl"))}
    past = {path.name: json.loads((path / "checkpoint.json").read_text())["files"] for path in run.glob("league/0*")}
    newest = checkpoint.newest(run)
    assert newest is not None
    return {
        **lines,
        "league.json": json.loads((run / "league.json").read_text()),
        "league": sorted(os.listdir(run / "league")),
        "files of past policies": past,
        "league.json of the newest checkpoint": json.loads((newest / "league.json").read_text()),
        "policy": json.loads((newest / "checkpoint.json").read_text())["files"]["model.safetensors"],
    }


def assert_same(run: Path, whole: Path) -> None:
    found, expected = all_of(run), all_of(whole)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name


def past_opponents(run: Path, *, since: int) -> set[str]:
    """Return the past policies that were met in training, from a step on."""
    records = [one for one in lines_of(run / "conversations/train-000.jsonl") if one["step"] >= since]
    players = {player["policy"] for one in records for player in one["players"].values()}
    return {name for name in players if name.startswith("past:")}


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# ----- between two checkpoints -----


def is_past_a_checkpoint(run: Path, *, num_steps: int) -> bool:
    """Whether the metrics of some steps after the newest checkpoint are on record."""
    newest = checkpoint.newest(run)
    return newest is not None and num_lines(run / "metrics.jsonl") >= checkpoint.version_of(newest) + num_steps


def kill_past_a_checkpoint(process: subprocess.Popen[bytes], run: Path) -> None:
    """Kill a process and its children when the run that it writes is two steps, or more, past a checkpoint."""
    ended = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < ended:
        if is_past_a_checkpoint(run, num_steps=2):
            # Whether that is so still can be told only of a process that stands.
            os.killpg(process.pid, signal.SIGSTOP)
            state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert state is not None
            assert state.si_code == os.CLD_STOPPED, "the run ended before it was killed"
            if is_past_a_checkpoint(run, num_steps=2):
                return os.killpg(process.pid, signal.SIGKILL)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # the next one is to be told of the next time
            os.killpg(process.pid, signal.SIGCONT)
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"no checkpoint, or no two steps after it, within {LIMIT_SECONDS} s")


def train_until_killed(run: Path, *words: str) -> None:
    command = [sys.executable, str(RUN_PY), "train", *words, f"out={run}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        kill_past_a_checkpoint(process, run)
        assert process.wait(timeout=LIMIT_SECONDS) == -signal.SIGKILL
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_league_run_that_was_killed_goes_on_as_one_that_was_not(tmp_path):
    run, whole = tmp_path / "killed/run", tmp_path / "whole/run"
    train_until_killed(run, *LONG, LASTING)
    newest, num_killed = checkpoint.newest(run), num_lines(run / "metrics.jsonl")
    version = checkpoint.version_of(newest)
    lost = [past for past in checkpoint.versions(run, place=checkpoint.LEAGUE) if past > version]
    assert lost  # a past policy of a time that the run goes back from
    steps = version + 7  # however late it was killed: past two checkpoints more
    command = [sys.executable, str(RUN_PY), "train", f"resume={run}", f"steps={steps}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=LIMIT_SECONDS)
    assert main(["train", *LONG, f"steps={steps}", f"out={whole}"]) == 0
    assert_same(run, whole)
    assert (run / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()
    [aside] = (run / "aside").iterdir()
    assert num_lines(aside / "metrics.jsonl") == num_killed - version
    assert set(lost) <= set(checkpoint.versions(aside, place=checkpoint.LEAGUE))
    assert len(past_opponents(run, since=version)) > 1


# ----- within a file operation -----

SNAPSHOT, NEXT = "league/.000003.unfinished", "checkpoints/.000004.unfinished"
IN_PLACE, BOOKS = f"os.rename {SNAPSHOT}", "os.rename run/.league.json.draft"
IN_BOOKS = f"{IN_PLACE}, {BOOKS}, open run/metrics.jsonl"
# What is going on when a run is killed -> the chains of file operations, as KILLED_AT takes them.
KILLS: Mapping[str, tuple[str, ...]] = {
    "a snapshot is half written": (f"open {SNAPSHOT}/tokenizer_config.json",),
    "a snapshot says what it is": (f"os.rename {SNAPSHOT}/.checkpoint.json.draft",),
    "a snapshot is put in place": (IN_PLACE,),
    "a snapshot is pointed to": (f"{IN_PLACE}, os.rename league/.latest.json.draft",),
    "the books are written": (f"{IN_PLACE}, {BOOKS}",),
    "the metrics are written": (IN_BOOKS,),
    "a checkpoint gets the books": (f"os.rename {NEXT}/.league.json.draft",),
    "a snapshot moves aside": (IN_BOOKS, "os.rename league/000003"),
    "one of two snapshots moves aside": (f"open {NEXT}/config.json", "os.rename league/000004"),
    "a snapshot has moved aside": (IN_BOOKS, "os.rename league/000003", "open league/.latest.json.draft"),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that has made five steps."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main(["train", *SHORT, "steps=5", f"out={run}"]) == 0
    return run


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[int]]]:
    """Return kill -> a run of two steps that went on to its fifth through it, and how its processes ended."""
    home = tmp_path_factory.mktemp("killed")
    assert main(["train", *SHORT, "steps=2", f"out={home / 'run'}"]) == 0
    runs = {kill: home / f"{number}/run" for number, kill in enumerate(KILLS)}
    for run in runs.values():
        shutil.copytree(home / "run", run)
    cases = json.dumps({str(runs[kill]): chains for kill, chains in KILLS.items()})
    command = [sys.executable, "-c", KILLED_AT, "5", cases]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=LIMIT_SECONDS)
    ends = map(json.loads, answer.stdout.splitlines())
    return {kill: (run, found) for (kill, run), found in zip(runs.items(), ends, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("kill", KILLS)
def test_league_run_that_was_killed_while_it_writes_goes_on_as_one_that_was_not(kill, killed, uninterrupted):
    run, ends = killed[kill]
    assert ends == [*(-signal.SIGKILL for _ in KILLS[kill]), 0]
    assert_same(run, uninterrupted)
    # The comparison is of something: whoever was met after the kill was written before it, or again after it.
    assert past_opponents(run, since=3) >= {"past:3"}
