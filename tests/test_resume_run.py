"""Run folders that are reopened: what was written after the checkpoint moves aside; one process writes at a time."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from selfplay import checkpoint
from selfplay.dialog import Conversation, Scenario, ScoredConversation, Scores, Turn
from selfplay.errors import UserError
from selfplay.run_lock import RunLock, is_being_written
from selfplay.score import Term
from selfplay.store import RunReader, RunWriter

# A process that writes a run until it is killed.
WRITER = """
import sys, time
from selfplay.store import RunWriter
sys.path.insert(0, sys.argv[2])
from test_resume_run import fill
writer = RunWriter.create(sys.argv[1], {}, "steps: 9\\n")
fill(writer, steps=2)
print("ready", flush=True)
time.sleep(60)
"""


def talk(id: str, text: str = "hi") -> Conversation:
    split = "held_out" if "-e" in id else "train"
    said = np.arange(3, dtype=np.int32)
    turn = Turn(role="host", text=text, heard_text="", player="learner@0", stream="host", said=said, finish="stop")
    scenario = Scenario(env="chitchat", seed=1, split=split, roles=("host",))
    return Conversation(id=id, scenario=scenario, turns=(turn,))


def fill(writer: RunWriter, *, steps: int, first: int = 0, is_evaluated: bool = False, text: str = "hi") -> None:
    """Write what training writes: the evaluation of a version, unless that was done, its step, the step's metrics."""
    for step in range(first, steps):
        evaluation = [] if is_evaluated and step == first else [f"{step:06d}-e00-0"]
        for id in (*evaluation, f"{step:06d}-g00-0"):
            one = talk(id, text)
            rewards = np.array([0.5], dtype=np.float32)
            scored = ScoredConversation(conversation=one, rewards=rewards, parts={"question": Scores(values=rewards)})
            writer.append(one, scored, terms={"question": Term(weight=1.0)})
            writer.annotate(id, by=f"learner@{step + 1}", kind="learner", data={"kl_per_token": 0.123456789})
        writer.log_metrics(step, {"reward/total": step / 3, "kl/per_token_nats": float("nan")})


def written(folder: Path, *, steps: int) -> Path:
    with RunWriter.create(folder, {"seed": 4}, "steps: 3\n") as writer:
        fill(writer, steps=steps)
    return folder


def contents(folder: Path) -> dict[str, list[dict]]:
    """Every line of a run, without the times."""
    paths = (*folder.glob("conversations/*"), *folder.glob("tokens/*"), *folder.glob("*.jsonl"))
    return {
        str(path.relative_to(folder)): [json.loads(line) | {"at": ""} for line in path.read_text().splitlines()]
        for path in paths
    }


def ids_in(path: Path) -> list[str]:
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [record.get("id") or record.get("conversation") or str(record["step"]) for record in records]


def test_resumed_run_holds_the_lines_of_one_that_was_never_interrupted(tmp_path):
    whole = written(tmp_path / "a" / "run", steps=4)
    folder = written(tmp_path / "b" / "run", steps=4)
    for version in (3, 2):
        with RunWriter.resume(folder, version=version) as writer:
            fill(writer, first=version, steps=4, is_evaluated=True)
        assert contents(folder) == contents(whole)
    assert RunReader(folder).counts() == RunReader(whole).counts()


def test_resume_moves_later_lines_aside_and_loses_none(tmp_path):
    folder = written(tmp_path / "run", steps=3)
    with RunWriter.resume(folder, version=1, config_yaml="steps: 9\n", command="train resume=run"):
        pass
    # Evaluations of version 1 and before, and steps before 1, stay.
    assert ids_in(folder / "conversations/train-000.jsonl") == ["000000-g00-0"]
    assert ids_in(folder / "conversations/evaluation-000.jsonl") == ["000000-e00-0", "000001-e00-0"]
    kept = ["000000-e00-0", "000000-g00-0", "000001-e00-0"]
    assert ids_in(folder / "tokens/000.jsonl") == ids_in(folder / "annotations.jsonl") == kept
    assert ids_in(folder / "metrics.jsonl") == ["0"]
    [aside] = (folder / "aside").iterdir()
    assert ids_in(aside / "conversations/train-000.jsonl") == ["000001-g00-0", "000002-g00-0"]
    assert ids_in(aside / "conversations/evaluation-000.jsonl") == ["000002-e00-0"]
    gone = ["000001-g00-0", "000002-e00-0", "000002-g00-0"]
    assert ids_in(aside / "tokens/000.jsonl") == ids_in(aside / "annotations.jsonl") == gone
    assert ids_in(aside / "metrics.jsonl") == ["1", "2"]
    assert ((aside / "config.yaml").read_text(), (folder / "config.yaml").read_text()) == ("steps: 3\n", "steps: 9\n")
    manifest = RunReader(folder).manifest
    [resumed] = manifest["resumed"]
    assert (resumed["version"], resumed["command"]) == (1, "train resume=run")
    assert resumed["aside"] == f"aside/{aside.name}"
    assert (manifest["status"], manifest["seed"], manifest["counts"]["conversations"]) == ("finished", 4, 3)


def test_resume_moves_the_alarms_of_later_steps_aside(tmp_path):
    folder = written(tmp_path / "run", steps=3)
    (folder / "alarms.jsonl").write_text("".join(f'{{"schema": "selfplay.alarm/1", "step": {n}}}\n' for n in range(3)))
    with RunWriter.resume(folder, version=1):
        pass
    [aside] = (folder / "aside").iterdir()
    assert (ids_in(folder / "alarms.jsonl"), ids_in(aside / "alarms.jsonl")) == (["0"], ["1", "2"])


def test_resume_with_nothing_to_move_leaves_every_file_as_it_was(tmp_path):
    folder = written(tmp_path / "run", steps=2)
    before = {path: path.stat().st_ino for path in folder.rglob("*.jsonl")}
    with RunWriter.resume(folder, version=2) as writer:
        assert RunReader(folder).status == "running"
        writer.append(talk("000002-g00-0"))
    assert {path: path.stat().st_ino for path in folder.rglob("*.jsonl")} == before
    assert not (folder / "aside").exists()
    assert RunReader(folder).manifest["resumed"][0]["aside"] is None
    assert RunReader(folder).counts()["conversations"] == 5


def test_torn_last_lines_go_aside(tmp_path):
    folder = written(tmp_path / "run", steps=1)
    for path in folder.rglob("*.jsonl"):
        with path.open("ab") as file:
            file.write(b'{"torn')
    with RunWriter.resume(folder, version=1) as writer:
        fill(writer, first=1, steps=2)
    reader = RunReader(folder)
    assert (len(reader.ids()), len(reader.metrics()), reader.problems) == (4, 2, [])
    assert {path.read_bytes() for path in (folder / "aside").rglob("*.jsonl")} == {b'{"torn'}


def test_lines_that_name_no_step_stay(tmp_path):
    folder = written(tmp_path / "run", steps=1)
    odd = b'{"id": "mine"}\n[]\n{oops\n\n'
    for path in folder.rglob("*.jsonl"):
        path.write_bytes(odd + path.read_bytes())
    RunWriter.resume(folder, version=0).close()
    assert (folder / "conversations/train-000.jsonl").read_bytes() == odd
    assert (folder / "metrics.jsonl").read_bytes() == odd


def test_sealed_files_are_split_as_well(tmp_path):
    folder = written(tmp_path / "run", steps=3)
    plain = folder / "conversations/train-000.jsonl"
    (folder / "conversations/train-000.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    RunWriter.resume(folder, version=2).close()
    [aside] = (folder / "aside").rglob("*.gz")
    assert [json.loads(line)["id"] for line in gzip.decompress(aside.read_bytes()).splitlines()] == ["000002-g00-0"]
    assert "000001-g00-0" in RunReader(folder).ids()


def test_resume_moves_later_checkpoints_aside(tmp_path):
    folder = written(tmp_path / "run", steps=3)
    for version in (1, 2, 3):
        checkpoint.write(folder, version, lambda place: (place / "a").write_text("a"), keep=3)
    RunWriter.resume(folder, version=1).close()
    assert checkpoint.newest(folder).name == "000001"
    assert sorted(path.name for path in (folder / "aside").glob("*/checkpoints/*")) == ["000002", "000003"]


def test_resume_of_a_run_that_is_being_written_is_refused(tmp_path):
    refused = pytest.raises(UserError, match=rf"is being written by process {os.getpid()} on .*; wait for it, or stop")
    with RunWriter.create(tmp_path / "run", {}, ""), refused:
        RunWriter.resume(tmp_path / "run", version=0)
    RunWriter.resume(tmp_path / "run", version=0).close()


def test_killed_run_can_be_told_from_a_living_one_and_resumed(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert RunReader(folder).status == "running"
        with pytest.raises(UserError, match=f"is being written by process {process.pid}"):
            RunWriter.resume(folder, version=1)
        process.send_signal(signal.SIGKILL)
    assert (RunReader(folder).status, RunReader(folder).manifest["status"]) == ("killed", "running")
    with RunWriter.resume(folder, version=1):
        assert RunReader(folder).status == "running"
    assert RunReader(folder).status == "finished"
    assert RunReader(folder).ids() == ["000000-e00-0", "000000-g00-0", "000001-e00-0"]


def test_resume_killed_while_it_moves_lines_loses_none_and_is_finished_by_the_next(tmp_path):
    folder = written(tmp_path / "run", steps=3)
    before = {path.name: ids_in(path) for path in folder.rglob("*.jsonl")}
    code = (
        "import os, sys; from selfplay.store import RunWriter\n"
        "left = [int(sys.argv[2])]\n"
        "def hook(event, arguments):\n"
        "    left[0] -= event == 'os.rename'\n"
        "    if left[0] < 0: os._exit(9)\n"
        "sys.addaudithook(hook)\n"
        "RunWriter.resume(sys.argv[1], version=1)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(folder), "2"], check=False).returncode
    assert killed == 9
    RunWriter.resume(folder, version=1).close()
    for name, ids in before.items():
        kept = [id for path in folder.rglob(name) if "aside" not in path.parts for id in ids_in(path)]
        moved = {id for path in (folder / "aside").rglob(name) for id in ids_in(path)}
        assert len(kept) == len(set(kept))
        assert (set(kept) | moved, set(kept) & moved) == (set(ids), set())


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "there is no run in folder"),
        ("{torn", "cannot be resumed: run.json: not valid JSON"),
        ("{}", "schema None"),
    ],
)
def test_resume_of_what_is_no_run_is_refused(tmp_path, manifest, message):
    if manifest is not None:
        (tmp_path / "run.json").write_text(manifest)
    with pytest.raises(UserError, match=message):
        RunWriter.resume(tmp_path, version=0)
    assert not is_being_written(tmp_path)


def test_lock_is_given_back_once_and_leaves_no_file(tmp_path):
    lock = RunLock.take(tmp_path)
    assert is_being_written(tmp_path)
    lock.release()
    with RunWriter.create(tmp_path / "run", {}, ""):
        lock.release()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not is_being_written(tmp_path / "run")


def test_discard_of_a_resumed_run_takes_nothing_back(tmp_path):
    written(tmp_path / "run", steps=1)
    writer = RunWriter.resume(tmp_path / "run", version=0)
    writer.discard()
    writer.close()
    assert (tmp_path / "run/run.json").exists()


def test_create_numbered_takes_the_next_free_name(tmp_path):
    folders = []
    for _ in range(3):
        with RunWriter.create_numbered(tmp_path / "run", {}, "") as writer:
            folders.append((writer.folder.name, writer.name))
    assert folders == [("run", "run"), ("run-2", "run-2"), ("run-3", "run-3")]


def test_tokens_are_stored_after_resuming_as_they_were_before(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, "", tokens="none") as writer:
        writer.append(talk("000000-g00-0"))
    with RunWriter.resume(tmp_path / "run", version=1) as writer:
        writer.append(talk("000001-g00-0"))
    assert not (tmp_path / "run/tokens").exists()


def test_reader_that_watched_sees_the_run_as_it_is_after_resuming(tmp_path):
    folder = written(tmp_path / "run", steps=3)
    reader = RunReader(folder)
    assert len(list(reader.all_scored())) == 6
    with RunWriter.resume(folder, version=1) as writer:
        assert len(reader.ids()) == 3
        fill(writer, first=2, steps=3, text="again")
        assert [one.turns[0].text for one in reader.conversations()] == ["hi", "hi", "hi", "again", "again"]
        assert reader.problems == []
