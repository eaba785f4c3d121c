"""What the server of the page answers, while runs are written, broken and removed under it."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import math
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import httpx
import pytest
import yaml
from starlette.testclient import TestClient

from benchmarks.stored_run import StoredRun, write_run
from selfplay.commands import view
from selfplay.commands.words import read_words
from selfplay.errors import UserError
from selfplay.run_reader import RunReader
from selfplay.transcript_index import TranscriptIndex
from selfplay.transcript_shards import shards
from selfplay.view import events as events_module
from selfplay.view import runs as runs_module
from selfplay.view.run_state import StateReader
from selfplay.view.server import create_app, listen, open_server

WRITE = {"X-Selfplay": "1"}
STEPS = 3
HOSTILE = "<script>alert(1)</script>\u202e\u2028\ud800\x00"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "chat"
    return write_run(folder, conversations=60, steps=STEPS, turns=4, tokens="all")


@pytest.fixture
def runs(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "runs" / "chat")
    return tmp_path / "runs"


@pytest.fixture
def client(runs):
    return client_of(runs)


def client_of(runs, *folders):
    # A failure of the server is a failure of the test.
    return TestClient(create_app(runs, folders), base_url="http://127.0.0.1:8600", raise_server_exceptions=True)


def get(client, path, **params):
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error(client, path, status, **params):
    answer = client.get(path, params=params)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


def rows(client, **params):
    found = get(client, "/api/r/chat/conversations", **{"limit": 200, **params})
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def append(path, record):
    with path.open("a") as file:
        file.write((record if isinstance(record, str) else json.dumps(record)) + "\n")


# ----- runs -----


def test_runs_lists_what_each_run_says_of_itself(client, runs):
    (found,) = get(client, "/api/runs")["runs"]
    assert found["run"] == "chat"
    assert found["path"] == str(runs / "chat")
    assert (found["env"], found["model"], found["status"]) == ("chitchat", "smollm2-135m", "finished")
    assert (found["conversations"], found["step"], found["steps"]) == (60, STEPS, STEPS)
    assert found["is_live"] is False
    assert found["since"].endswith("Z")


def test_runs_tell_the_first_and_newest_reward_and_how_many_alarms_began(client, runs):
    steps = [{"step": 0}, *({"step": step, "reward/per_conversation": step / 2} for step in (1, 2, 3)), {"step": 4}]
    (runs / "chat" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    states = [{"name": "one_part", "state": state} for state in ("began", "ended", "began")]
    (runs / "chat" / "alarms.jsonl").write_text("".join(json.dumps(line) + "\n" for line in states) + '{"state": "be')
    (found,) = get(client, "/api/runs")["runs"]
    # The first and the last step have no such number, and the last alarm is half a line.
    assert (found["reward"], found["alarms"], found["step"]) == ([0.5, 1.5], 2, 5)
    append(runs / "chat" / "metrics.jsonl", {"step": 5, "reward/per_conversation": -3})
    (found,) = get(client, "/api/runs")["runs"]
    assert (found["reward"], found["step"]) == ([0.5, -3.0], 6)


def test_runs_when_nothing_was_trained_then_have_no_reward(client, runs):
    (runs / "chat" / "metrics.jsonl").unlink()
    (runs / "chat" / "alarms.jsonl").unlink(missing_ok=True)
    (found,) = get(client, "/api/runs")["runs"]
    assert (found["reward"], found["alarms"], found["step"]) == (None, 0, 0)


def test_run_that_nobody_watches_for_alarms_has_no_number_of_them(client, runs):
    config = runs / "chat" / "config.yaml"
    tree = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**tree, "alarms": {"window": 3, "watch": False}}))
    found = next(run for run in get(client, "/api/runs")["runs"] if run["run"] == "chat")
    assert found["alarms"] is None


@pytest.mark.parametrize(
    ("written", "window"),
    [("{window: 5}", 5), ("{window: [5]}", None), ("{window: 5, watch: false}", None), ("5", None)],
)
def test_run_tells_of_how_many_steps_alarms_are_means(client, runs, written, window):
    (runs / "chat" / "config.yaml").write_text(f"alarms: {written}\n")
    assert get(client, "/api/r/chat")["alarms_window"] == window


def test_runs_opens_with_the_newest_unless_one_is_named(runs, tmp_path):
    for name, at in (("aa", "2030-01-01T00:00:00.000Z"), ("zz", "2020-01-01T00:00:00.000Z")):
        (runs / name).mkdir()
        manifest = {"schema": "selfplay.run/1", "status": "finished", "created_at": at}
        (runs / name / "run.json").write_text(json.dumps(manifest))
    found = get(client_of(runs), "/api/runs")
    assert (found["default"], [run["run"] for run in found["runs"]]) == ("aa", ["aa", "chat", "zz"])
    named = get(client_of(runs, runs / "zz"), "/api/runs")
    assert (named["default"], [run["run"] for run in named["runs"]]) == ("zz", ["zz", "aa", "chat"])


def test_runs_when_there_are_none_then_says_so(tmp_path):
    client = client_of(tmp_path / "nowhere")
    assert get(client, "/api/runs") | {"label_person": ""} == {"runs": [], "default": None, "label_person": ""}
    assert "no run" in error(client, "/api/r/chat", 404)


def test_runs_when_one_was_killed_then_counts_what_is_stored(tmp_path):
    write_run(tmp_path / "runs" / "killed", conversations=60, steps=4, turns=4, is_live=True)
    num = sum(len(lines(path)) for path in (tmp_path / "runs/killed/conversations").iterdir())
    (found,) = get(client_of(tmp_path / "runs"), "/api/runs")["runs"]
    assert (found["status"], found["is_live"], found["conversations"], found["step"]) == ("killed", False, num, 3)


def test_runs_when_a_packed_file_of_one_is_damaged_then_lists_all(client, runs):
    shutil.copytree(runs / "chat", runs / "damaged")
    path = runs / "damaged" / "conversations" / "train-000.jsonl"
    packed = bytearray(gzip.compress(path.read_bytes()))
    packed[2000:2100] = b"\xff" * 100
    path.with_name("train-000.jsonl.gz").write_bytes(packed)
    path.unlink()
    manifest = json.loads((runs / "damaged" / "run.json").read_text())
    (runs / "damaged" / "run.json").write_text(json.dumps({**manifest, "status": "running"}))
    found = {run["run"]: run["status"] for run in get(client, "/api/runs")["runs"]}
    assert found == {"chat": "finished", "damaged": "killed"}
    assert any("train-000.jsonl.gz" in text for text in get(client, "/api/r/damaged")["problems"])


def test_runs_when_one_cannot_be_read_then_lists_it_as_that(client, runs, monkeypatch):
    shutil.copytree(runs / "chat", runs / "other")
    whole = get(client, "/api/runs")["runs"][0]
    read = StateReader.read

    def read_but_one(self, folder):
        if folder.name == "other":
            raise OSError(5, "Input/output error")
        return read(self, folder)

    monkeypatch.setattr(StateReader, "read", read_but_one)
    found = {run["run"]: run for run in get(client, "/api/runs")["runs"]}
    assert {name: run["status"] for name, run in found.items()} == {"chat": "finished", "other": "unreadable"}
    assert found["other"].keys() == whole.keys()


def test_run_when_its_configuration_is_huge_then_shows_its_beginning(client, runs):
    with (runs / "chat" / "config.yaml").open("a") as file:
        file.write("# and so on\n" * 200_000)
    config = get(client, "/api/r/chat")["config"]
    assert 256 * 1024 < len(config) < 257 * 1024
    assert config.splitlines()[-1].startswith("# Cut here: the file has 2,4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["config.yaml", "preferences.jsonl", "writer.lock", "conversations/more.jsonl"])
def test_run_when_a_file_is_a_pipe_then_is_not_shown_and_nobody_waits(client, runs, name):
    (runs / "chat" / name).unlink(missing_ok=True)
    os.mkfifo(runs / "chat" / name)
    assert error(client, "/api/r/chat", 403) == f"run 'chat' is not shown: its {name} is neither a file nor a folder"
    assert get(client, "/api/runs")["runs"] == []
    assert name not in [shard.name for shard in shards(runs / "chat")]


def test_run_says_what_a_reward_model_is(client, runs):
    config = runs / "chat" / "config.yaml"
    spec = "rewards:\n  rm:kind:\n    name: rm:/models/kind\n    weight: 0.5\n"
    config.write_text(config.read_text().replace("rewards:\n", spec))
    [reward] = [reward for reward in get(client, "/api/r/chat")["rewards"] if reward["label"] == "rm:kind"]
    assert reward["summary"].startswith("What a reward model makes of a message")


def test_run_says_what_was_rewarded_steered_and_reached(client, runs):
    run = get(client, "/api/r/chat")
    rewards = {reward["label"]: reward for reward in run["rewards"]}
    assert rewards["sentiment"]["weight"] == 0.5
    assert rewards["question"]["summary"] == "Whether a message asks. Range: 0 to 1."
    # The run's own source is read, and not run.
    assert rewards["asks_back"]["summary"]
    assert run["kl"]["controller"] == "adaptive"
    assert run["kl"]["target"] > 0
    assert run["info"]["conversations"] == 60
    assert run["info"]["parts"][0] == "question"
    assert run["steps"] == STEPS
    assert run["evaluation"]["metrics"] == json.loads((runs / "chat/evaluation.json").read_text())["metrics"]
    assert {check["is_met"] for check in run["evaluation"]["checks"]} <= {True, False}
    assert run["config"] == (runs / "chat" / "config.yaml").read_text()
    assert (run["problems"], run["readonly"]) == ([], False)


def test_run_when_files_are_missing_then_leaves_out_what_they_say(client, runs):
    for name in ("config.yaml", "evaluation.json", "metrics.jsonl", "alarms.jsonl", "annotations.jsonl"):
        (runs / "chat" / name).unlink(missing_ok=True)
    for name in ("tokens", "tokenizers", "sources"):
        shutil.rmtree(runs / "chat" / name, ignore_errors=True)
    run = get(client, "/api/r/chat")
    assert (run["rewards"], run["kl"], run["evaluation"], run["alarms"], run["steps"]) == ([], None, None, [], None)
    metrics = {"steps": [], "series": {}, "alarms": [], "kl_target": None, "unfitting": []}
    assert get(client, "/api/r/chat/metrics") == metrics
    id = rows(client)[0]["id"]
    assert get(client, f"/api/r/chat/c/{id}")["has_tokens"] is False
    assert "stores no tokens" in error(client, f"/api/r/chat/c/{id}/tokens", 404)


def test_metrics_are_aligned_with_steps_and_finite(client, runs):
    line = lines(runs / "chat" / "metrics.jsonl")[-1]
    append(
        runs / "chat" / "metrics.jsonl", json.dumps({**line, "step": 7, "odd": 1}).replace('"odd": 1', '"odd": 1e999')
    )
    append(runs / "chat" / "metrics.jsonl", json.dumps({**line, "step": 8, "odd": 2.5}))
    found = get(client, "/api/r/chat/metrics")
    assert found["steps"] == [0, 1, 2, 7, 8]
    assert found["series"]["odd"] == [None, None, None, None, 2.5]
    assert found["series"]["reward/per_conversation"][-1] == line["reward/per_conversation"]
    newer = get(client, "/api/r/chat/metrics", after=2)
    assert newer["steps"] == [7, 8]
    assert newer["series"]["odd"] == [None, 2.5]


def test_what_does_not_fit_a_zero_sum_game_is_told_with_its_metrics_and_left_out_of_its_evaluation(client, runs):
    paid = {"game/payoff": 0.5, "game/opponent_payoff": -0.5, "game/win": 0.75, "game/success": 0.25}
    line = lines(runs / "chat" / "metrics.jsonl")[-1]
    for step in (7, 8):
        append(runs / "chat" / "metrics.jsonl", json.dumps({**line, **paid, "step": step}))
    assert get(client, "/api/r/chat/metrics")["unfitting"] == ["game/success"]
    newer = get(client, "/api/r/chat/metrics", after=8)
    assert (newer["steps"], newer["unfitting"]) == ([], ["game/success"])
    file = runs / "chat" / "evaluation.json"
    data = json.loads(file.read_text())
    rows = {
        name: {"base": value, "trained": value, "difference": 0.0, "low": -0.1, "high": 0.1}
        for name, value in paid.items()
    }
    file.write_text(json.dumps({**data, "metrics": {**data["metrics"], **rows}}))
    shown = get(client, "/api/r/chat")["evaluation"]["metrics"]
    assert set(shown) == {*data["metrics"], *paid} - {"game/success"}
    assert shown["game/win"] == rows["game/win"]


def test_source_is_the_text_that_the_run_kept(client, runs):
    (file,) = (runs / "chat" / "sources").iterdir()
    answer = client.get(f"/api/r/chat/source/{file.stem}")
    assert answer.text == file.read_text()


# ----- conversations -----


def test_conversations_are_sorted_filtered_and_paged(client):
    every = rows(client, sort="reward", order="asc")
    rewards = [row["reward"] for row in every if row["reward"] is not None]
    assert rewards == sorted(rewards)
    asked = get(client, "/api/r/chat/conversations", q="split=held_out", sort="oldest", offset=2, limit=3)
    assert (asked["of"], asked["offset"], len(asked["rows"])) == (60, 2, 3)
    held_out = [row["id"] for row in rows(client, q="split=held_out", sort="oldest")]
    assert asked["total"] == len(held_out)
    assert [row[0] for row in asked["rows"]] == held_out[2:5]


def test_conversations_say_what_each_part_added(client, runs):
    reader = RunReader(runs / "chat")
    found = get(client, "/api/r/chat/conversations", q="status!=failed", limit=5)
    for cells in found["rows"]:
        row = dict(zip(found["columns"], cells, strict=True))
        record = reader.record(row["id"])
        parts = [part for part in record["rewards"]["parts"] if part["status"] == "ok" and part["name"] == "sentiment"]
        said = row["values"][found["parts"].index("sentiment")]
        assert said == pytest.approx(sum(part["value"] for part in parts))
        assert row["reward"] == pytest.approx(sum(record["rewards"]["per_turn"]))
        assert row["per_role"] == [record["rewards"]["per_role"][role] for role in found["roles"]]


def test_conversations_by_scenario_keep_groups_together(client):
    groups = [row["group_mean"] is not None and row["scenario"] for row in rows(client, q="split=train", by_scenario=1)]
    changes = sum(one != other for one, other in itertools.pairwise(groups))
    assert changes == len(set(groups)) - 1


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"q": "rewrad<1"}, "rewrad"),
        ({"q": "reward<"}, "reward"),
        ({"q": "(" * 3000}, ""),
        ({"q": "x" * 5000}, "longer"),
        ({"sort": "rewrad"}, "rewrad"),
        ({"order": "up"}, "asc"),
        ({"offset": "-1"}, "offset"),
        ({"limit": "ten"}, "limit"),
        ({"offset": "٣"}, "offset"),
    ],
)
def test_conversations_when_the_question_is_wrong_then_says_how(client, params, says):
    assert says in error(client, "/api/r/chat/conversations", 400, **params)


def test_conversations_when_text_would_be_sql_then_is_text(client):
    for text in ("'; DROP TABLE conversations; --", '" OR 1=1', "%", "_", "\\"):
        assert get(client, "/api/r/chat/conversations", q=f"text~{json.dumps(text)}")["of"] == 60
    assert len(rows(client)) == 60


def test_conversation_has_its_record_group_and_neighbours(client, runs):
    record = RunReader(runs / "chat").record("000001-g00-1")
    found = get(client, "/api/r/chat/c/000001-g00-1")
    assert found["record"] == record
    assert found["row"]["id"] == record["id"]
    assert [sibling["id"] for sibling in found["siblings"]] == [f"000001-g00-{number}" for number in range(4)]
    known = [sibling["reward"] for sibling in found["siblings"] if sibling["reward"] is not None]
    assert found["group_mean"] == pytest.approx(math.fsum(known) / len(known))
    assert (found["previous"], found["next"]) == ("000001-g00-0", "000001-g00-2")
    assert "from=" in found["replay"]
    assert found["replay"].endswith("/000001-g00-1 turn={turn}")
    assert found["sources"]["asks_back"].startswith("sha256:")
    assert (found["tags"], found["labels"]) == ([], [])


def test_conversation_when_it_has_tokens_then_says_so_without_reading_them(client, monkeypatch):
    monkeypatch.setattr(TranscriptIndex, "tokens", None)
    assert get(client, "/api/r/chat/c/000001-g00-1")["has_tokens"] is True


def test_tokens_align_with_what_is_known_of_them(client, runs):
    record = RunReader(runs / "chat").record("000001-g00-1")
    found = get(client, "/api/r/chat/c/000001-g00-1/tokens")
    assert found["tokenizer"].startswith("sha256:")
    for turn, stored in zip(found["turns"], record["turns"], strict=True):
        assert len(turn["said"]) == stored["num_tokens"]
        assert (
            "".join(text for _, text in turn["said"]).replace(" ", "").startswith(stored["text"].replace(" ", "")[:8])
        )
        for name in ("logprobs", "logprobs_reference", "kl", "entropy", "advantage"):
            assert len(turn[name]) == len(turn["said"])


def test_tokens_when_the_tokenizer_is_missing_then_have_no_text(client, runs):
    shutil.rmtree(runs / "chat" / "tokenizers")
    found = get(client, "/api/r/chat/c/000001-g00-1/tokens")
    assert found["tokenizer"] is None
    assert {text for turn in found["turns"] for _, text in turn["said"]} == {None}


@pytest.mark.parametrize("to", ["csv", "html", "json"])
def test_export_is_a_file_to_keep_of_what_the_filter_leaves(client, runs, to):
    asked = {"to": to, "q": "split=held_out & status!=failed"}
    answer = client.get("/api/r/chat/export", params=asked)
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="chat.{to}"'
    ids = [row["id"] for row in rows(client, q=asked["q"])]
    assert all(id in answer.text for id in ids)
    assert "000001-g00-1" not in answer.text
    if to == "json":
        records = {record["id"]: record for record in answer.json()["conversations"]}
        assert records == {id: RunReader(runs / "chat").record(id) for id in ids}


def test_export_when_it_cannot_be_then_says_why(client):
    assert "csv, html, json" in error(client, "/api/r/chat/export", 400, to="exe")
    assert "rewrad" in error(client, "/api/r/chat/export", 400, to="csv", q="rewrad<1")
    assert error(client, "/api/r/chat/export", 400, to="csv", q="turns>4000")


# ----- versions, labels, tags -----


def test_versions_and_comparison_are_of_held_out_scenarios(client):
    versions = get(client, "/api/r/chat/versions")["versions"]
    assert [version["version"] for version in versions] == [0, STEPS]
    found = get(client, "/api/compare", a="chat@0", b="chat")
    assert (found["a"], found["b"]) == ({"run": "chat", "version": 0}, {"run": "chat", "version": STEPS})
    assert found["wins"] + found["ties"] + found["losses"] == found["num_scenarios"]
    assert (found["is_comparable"], found["why_not"]) == (True, None)
    assert {"words_per_turn", "cut", "repeats"} <= {measure["name"] for measure in found["measures"]}
    differences = [scenario["reward_b"] - scenario["reward_a"] for scenario in found["scenarios"]]
    assert found["difference"]["value"] == pytest.approx(math.fsum(differences) / len(differences))
    assert "version" in error(client, "/api/compare", 400, a="chat@99", b="chat")
    assert error(client, "/api/compare", 404, a="chat@x", b="chat")
    assert "no such part" in error(client, "/api/compare", 400, a="chat@0", b="chat", part="nothing")


@pytest.mark.parametrize("missing", ["a", "b"])
def test_compare_when_a_side_is_missing_then_says_which(client, missing):
    given = {"a": "chat@0", "b": f"chat@{STEPS}"}
    del given[missing]
    assert error(client, "/api/compare", 400, **given) == f"{missing}= is missing: RUN@VERSION"


def test_people_are_called_as_in_the_terminal(client):
    assert get(client, "/api/r/chat/pair", person="a" * 40)["pair"]
    assert "up to 40 small letters" in error(client, "/api/r/chat/pair", 400, person="a" * 41)


def test_label_stores_a_choice_that_was_blind_and_undo_takes_it_back(client, runs):
    pair = get(client, "/api/r/chat/pair")["pair"]
    shown = json.dumps([pair["left"], pair["right"]])
    assert not any(word in shown for word in ("0000", "version", "reward", "learner"))
    body = {"token": pair["token"], "choice": "left_much", "why": ["kind"], "seconds": 3.5}
    answer = client.post("/api/r/chat/label", json=body, headers=WRITE).json()
    (line,) = lines(runs / "chat" / "preferences.jsonl")
    assert (line["choice"], line["why"], line["seconds"]) == ("left", ["kind"], 3.5)
    assert (answer["reveal"]["left"]["id"], answer["done"]) == (line["left"], 1)
    assert get(client, f"/api/r/chat/c/{line['left']}")["labels"] == [line]
    assert get(client, "/api/r/chat")["num_preferences"] == 1
    undone = client.post("/api/r/chat/undo", json={}, headers=WRITE).json()
    assert undone["undone"] == line["id"]
    assert get(client, "/api/r/chat")["num_preferences"] == 0


def test_label_when_the_pair_is_unknown_then_stores_nothing(client, runs):
    answer = client.post("/api/r/chat/label", json={"token": "0" * 32, "choice": "left"}, headers=WRITE)
    assert (answer.status_code, answer.json()["error"][:9]) == (400, "this pair")
    assert not (runs / "chat" / "preferences.jsonl").exists()


def test_tags_come_and_go_on_conversations_and_turns(client, runs):
    id = "000001-g00-1"

    def tag(word, turn=None, *, remove=False):
        body = {"conversation": id, "turn": turn, "tag": word, "remove": remove}
        return client.post("/api/r/chat/tags", json=body, headers=WRITE).json()["tags"]

    tag("odd")
    tag("rude", 1)
    assert [(one["turn"], one["tag"]) for one in tag("odd", remove=True)] == [(1, "rude")]
    found = get(client, f"/api/r/chat/c/{id}")
    assert [(one["turn"], one["tag"]) for one in found["tags"]] == [(1, "rude")]
    assert found["tags"][0]["by"].startswith("person:anon-")
    assert [row["id"] for row in rows(client, q="tag=rude")] == [id]
    assert RunReader(runs / "chat").problems == []


def test_tag_when_a_killed_writer_left_half_a_line_then_both_are_told_apart(client, runs):
    with (runs / "chat" / "annotations.jsonl").open("a") as file:
        file.write('{"schema": "selfplay.annotation/1", "at": "20')
    body = {"conversation": "000001-g00-1", "tag": "odd"}
    client.post("/api/r/chat/tags", json=body, headers=WRITE)
    assert [tag["tag"] for tag in get(client, "/api/r/chat/c/000001-g00-1")["tags"]] == ["odd"]


def test_tags_when_another_program_wrote_of_no_turn_then_are_passed_over(client, runs):
    known = {"schema": "selfplay.annotation/1", "at": 1, "conversation": "000001-g00-1", "by": [1], "kind": "tag"}
    for turn in ({"a": 1}, [1], "1", None):
        append(runs / "chat" / "annotations.jsonl", {**known, "turn": turn, "data": {"tag": f"of {turn}"}})
    assert [tag["tag"] for tag in get(client, "/api/r/chat/c/000001-g00-1")["tags"]] == ["of None"]


def test_writes_when_the_folder_cannot_be_written_then_say_so(client, runs, monkeypatch):
    pair = get(client, "/api/r/chat/pair")["pair"]
    (runs / "chat" / "annotations.jsonl").unlink()
    (runs / "chat" / "annotations.jsonl").mkdir()
    tag = client.post("/api/r/chat/tags", json={"conversation": "000001-g00-1", "tag": "odd"}, headers=WRITE)
    assert (tag.status_code, "cannot write" in tag.json()["error"]) == (409, True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert get(client, "/api/r/chat")["readonly"] is True
    for path, body in (("label", {"token": pair["token"], "choice": "left"}), ("undo", {})):
        answer = client.post(f"/api/r/chat/{path}", json=body, headers=WRITE)
        assert (answer.status_code, "cannot be written" in answer.json()["error"]) == (409, True)


# ----- a run that changes under the server -----

READS = ("", "/conversations", "/metrics", "/c/000001-g00-1", "/c/000001-g00-1/tokens", "/versions", "/pair")


def all_statuses(client):
    answers = [client.get(f"/api/r/chat{path}") for path in READS]
    assert all(answer.headers["content-type"] == "application/json" for answer in answers)
    return [answer.status_code for answer in answers]


def test_run_when_it_grows_then_what_is_new_is_there(client, runs):
    path = runs / "chat" / "conversations" / "train-000.jsonl"
    record = {**lines(path)[-1], "id": "000002-g09-0", "group": "000002-g09"}
    assert len(rows(client)) == 60
    append(path, record)
    assert "000002-g09-0" in [row["id"] for row in rows(client)]
    assert get(client, "/api/r/chat/c/000002-g09-0")["record"]["turns"] == record["turns"]


def test_run_when_it_is_deleted_then_is_not_found_and_others_stay(client, runs):
    shutil.copytree(runs / "chat", runs / "other")
    assert set(all_statuses(client)) == {200}
    shutil.rmtree(runs / "chat")
    assert set(all_statuses(client)) == {404}
    assert [run["run"] for run in get(client, "/api/runs")["runs"]] == ["other"]
    shutil.move(runs / "other", runs / "chat")
    assert set(all_statuses(client)) == {200}


def test_run_when_it_is_replaced_by_another_then_that_is_shown(client, runs, tmp_path):
    assert len(rows(client)) == 60
    shutil.rmtree(runs / "chat")
    write_run(runs / "chat", conversations=30, steps=2, turns=4, seed=5)
    assert len(rows(client)) == 30
    assert get(client, "/api/r/chat")["steps"] == 2


@pytest.mark.parametrize("name", ["conversations/train-000.jsonl", "tokens/000.jsonl", "metrics.jsonl", "run.json"])
@pytest.mark.parametrize("ruin", ["cut", "emptied", "garbage", "removed"])
def test_run_when_a_file_is_ruined_then_never_fails(client, runs, name, ruin):
    assert set(all_statuses(client)) == {200}
    path = runs / "chat" / name
    content = path.read_bytes()
    ruined = {"cut": content[: len(content) // 2], "emptied": b"", "garbage": b"\xff\x00{" * 1000 + b"\n"}
    path.unlink() if ruin == "removed" else path.write_bytes(ruined[ruin])
    assert set(all_statuses(client)) <= {200, 404, 409}
    assert client.get("/api/runs").status_code == 200


def test_run_when_lines_are_torn_old_or_unknown_then_opens_with_a_notice(client, runs):
    path = runs / "chat" / "conversations" / "train-000.jsonl"
    record = lines(path)[0]
    append(path, {**record, "id": "000002-g90-0", "schema": "selfplay.conversation/0"})
    append(path, {**record, "id": "000002-g91-0", "moods": {"new": [1, None]}})
    append(path, "[1, 2")
    with path.open("a") as file:
        file.write(json.dumps({**record, "id": "000002-g92-0"})[:200])
    problems = get(client, "/api/r/chat")["problems"]
    assert len(problems) == 3
    assert any("selfplay.conversation/0" in problem for problem in problems)
    assert get(client, "/api/r/chat/c/000002-g91-0")["record"]["moods"] == {"new": [1, None]}
    assert len(rows(client)) == 61


def test_conversation_when_its_text_is_hostile_then_stays_text_and_valid_json(client, runs):
    path = runs / "chat" / "conversations" / "train-000.jsonl"
    record = lines(path)[0]
    turns = [{**turn, "text": HOSTILE * 5000} for turn in record["turns"]]
    append(path, {**record, "id": "000002-g93-0", "turns": turns, "seconds": 1})
    answer = client.get("/api/r/chat/c/000002-g93-0")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["record"]["turns"][0]["text"] == HOSTILE * 5000
    assert client.get("/api/r/chat/conversations").status_code == 200


def test_conversation_when_a_number_is_infinite_then_is_null(client, runs):
    path = runs / "chat" / "conversations" / "train-000.jsonl"
    record = {**lines(path)[0], "id": "000002-g94-0", "odd": 1}
    append(path, json.dumps(record).replace('"odd": 1', '"odd": [1e999, -1e999, NaN]'))
    text = client.get("/api/r/chat/c/000002-g94-0").text
    assert not any(word in text for word in ("Infinity", "NaN"))
    assert json.loads(text)["record"]["odd"] == [None, None, None]


def test_run_when_its_shards_are_packed_then_reads_them(client, runs):
    path = runs / "chat" / "conversations" / "train-000.jsonl"
    before = [row["id"] for row in rows(client)]
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes())
    path.unlink()
    assert [row["id"] for row in rows(client)] == before
    assert get(client, "/api/r/chat/c/000001-g00-1")["record"]["id"] == "000001-g00-1"


@pytest.mark.parametrize("what", ["removed", "garbage", "emptied"])
def test_index_when_it_is_lost_then_nothing_changes(client, runs, what):
    before, file = rows(client), runs / "chat" / "index.sqlite"
    for left in runs.glob("chat/index.sqlite-*"):
        left.unlink()
    file.unlink()
    if what != "removed":
        file.write_bytes(b"garbage" * 1000 if what == "garbage" else b"")
    assert rows(client) == before


def test_index_when_another_process_holds_it_then_answers_all_the_same(client, runs):
    assert len(rows(client)) == 60
    with contextlib.closing(sqlite3.connect(runs / "chat" / "index.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(rows(client)) == 60


@pytest.fixture
def gate(monkeypatch):
    """Return what every look for new lines waits for."""
    opened, refresh = threading.Event(), TranscriptIndex.refresh

    def refresh_then(self):
        opened.wait(20)
        return refresh(self)

    monkeypatch.setattr(TranscriptIndex, "refresh", refresh_then)
    monkeypatch.setattr(runs_module, "PATIENCE_SECONDS", 0.05)
    yield opened
    opened.set()


def test_index_while_it_is_made_then_nobody_waits_for_it(client, gate, monkeypatch):
    found = get(client, "/api/r/chat/conversations")
    assert (found["of"], found["rows"], found["indexing"]) == (0, [], True)
    run = get(client, "/api/r/chat")
    assert (run["indexing"], run["info"]["conversations"]) == (True, 0)
    assert "is being indexed" in error(client, "/api/r/chat/c/000001-g00-1", 404)
    monkeypatch.setattr(runs_module, "PATIENCE_SECONDS", 20)
    gate.set()
    found = get(client, "/api/r/chat/conversations")
    assert (found["of"], found["indexing"]) == (60, False)


def test_index_while_somebody_else_looks_for_what_is_new_then_is_not_being_made(client, gate, monkeypatch):
    monkeypatch.setattr(runs_module, "PATIENCE_SECONDS", 20)
    threading.Timer(0.2, gate.set).start()
    assert get(client, "/api/r/chat/conversations")["of"] == 60
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(get(client, "/api/r/chat/conversations")["indexing"]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [False] * 8


def test_index_while_it_is_made_then_comparisons_wait_for_all_of_it(client, gate):
    threading.Timer(0.3, gate.set).start()
    assert [version["version"] for version in get(client, "/api/r/chat/versions")["versions"]] == [0, STEPS]


def test_curves_and_sources_need_no_index(client, runs):
    digest = next(iter(get(client, "/api/r/chat")["sources"].values()))
    client = client_of(runs)
    for file in (runs / "chat").glob("index.sqlite*"):
        file.unlink()
    assert get(client, "/api/r/chat/metrics")["steps"] == list(range(STEPS))
    assert client.get(f"/api/r/chat/source/{digest}").status_code == 200
    assert not (runs / "chat" / "index.sqlite").exists()


def test_index_when_it_cannot_be_made_then_everybody_is_told(client, monkeypatch):
    def fail(self):
        raise UserError("no index can be made")

    monkeypatch.setattr(TranscriptIndex, "refresh", fail)
    for _ in range(2):
        assert error(client, "/api/r/chat/conversations", 400) == "no index can be made"


def test_server_when_many_ask_at_once_then_all_are_answered(runs):
    client, statuses = client_of(runs), []

    def ask():
        statuses.extend(all_statuses(client))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6 * len(READS)


# ----- pages and files -----


def test_pages_are_one_file_that_finds_out_by_itself(client):
    index = client.get("/").text
    for path in ("/r/chat", "/r/chat/list?q=x", "/r/chat/c/000001-g00-1", "/cmp?a=chat@0", "/no/such/page"):
        answer = client.get(path)
        assert (answer.status_code, answer.text) == (200, index)
        assert answer.headers["content-type"].startswith("text/html")


def test_static_files_have_types_that_browsers_run(client):
    types = {name: client.get(f"/static/{name}").headers["content-type"] for name in ("app.js", "style.css")}
    assert types["app.js"].startswith("text/javascript")
    assert types["style.css"].startswith("text/css")


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/r/", "/api/r/chat/nothing", "/api/r/chat/c/"])
def test_api_when_there_is_nothing_then_says_so_in_json(client, path):
    if path == "/api":
        assert client.get(path).status_code == 200  # a page, as any other word
    else:
        assert error(client, path, 404)


# ----- a server that listens -----


@contextlib.contextmanager
def serving(runs):
    """Run a server in a thread; yield what asks it."""
    server = open_server(runs, port=0)
    thread = threading.Thread(target=server.serve_here)
    thread.start()
    try:
        with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
            yield client, server
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def next_event(stream):
    """Return the data of the next event called changed, or what else is said."""
    name = ""
    for line in stream:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        if line.startswith("data: "):
            return name, json.loads(line.removeprefix("data: "))
        if line.startswith(":"):
            return "ping", None
    return "end", None


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(events_module, "LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("quick")
def test_events_tell_at_once_and_after_each_change_until_the_run_is_gone(runs):
    with serving(runs) as (client, _), client.stream("GET", "/api/r/chat/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        stream = answer.iter_lines()
        name, first = next_event(stream)
        assert (name, first["conversations"], first["step"], first["is_live"]) == ("changed", 60, STEPS, False)
        path = runs / "chat" / "conversations" / "train-000.jsonl"
        append(path, {**lines(path)[-1], "id": "000009-g00-0"})
        _, second = next_event(stream)
        assert (second["conversations"], second["newest"]) == (61, "000009-g00-0")
        assert second["since"] >= first["since"]
        shutil.rmtree(runs / "chat")
        assert next_event(stream)[0] == "gone"
        assert next_event(stream)[0] == "end"


@pytest.mark.usefixtures("quick")
def test_events_while_the_index_is_made_then_tell_when_it_is(runs, gate):
    with serving(runs) as (client, _), client.stream("GET", "/api/r/chat/events") as answer:
        stream = answer.iter_lines()
        _, first = next_event(stream)
        assert (first["conversations"], first["indexing"]) == (0, True)
        gate.set()
        for _, news in iter(lambda: next_event(stream), None):
            if not news["indexing"]:
                break
        assert news["conversations"] == 60


@pytest.mark.usefixtures("quick")
def test_events_follow_a_run_that_is_written_and_notice_its_end(tmp_path):
    made = StoredRun.create(tmp_path / "runs" / "live", conversations=60, steps=2, turns=4, seed=0, tokens="none")
    steps = made.steps()
    next(steps)
    with serving(tmp_path / "runs") as (client, _), client.stream("GET", "/api/r/live/events") as answer:
        stream = answer.iter_lines()
        _, first = next_event(stream)
        assert (first["status"], first["is_live"], first["step"]) == ("running", True, 1)
        next(steps)
        news = first
        while news["step"] < 2:
            _, news = next_event(stream)
        assert news["conversations"] > first["conversations"]
        made.finish()
        while news["is_live"]:
            _, news = next_event(stream)
        assert news["status"] == "finished"


@pytest.mark.usefixtures("quick")
def test_events_when_nothing_happens_then_ping(runs, monkeypatch):
    monkeypatch.setattr(events_module, "PING_SECONDS", 0.1)
    with serving(runs) as (client, _), client.stream("GET", "/api/r/chat/events") as answer:
        stream = answer.iter_lines()
        # While the first look goes on nothing has happened either, and the index may not be whole at its end.
        ended = time.monotonic() + 20
        name, news = next_event(stream)
        while name == "ping" or (name == "changed" and news["indexing"]):
            assert time.monotonic() < ended, "the index is not whole, or nobody says so"
            name, news = next_event(stream)
        assert (name, news["conversations"]) == ("changed", 60)
        assert [next_event(stream)[0] for _ in range(2)] == ["ping", "ping"]


@pytest.mark.usefixtures("quick")
def test_events_when_nobody_listens_any_more_then_nobody_looks(runs):
    with serving(runs) as (client, server):
        events = server.config.app.state.events
        with client.stream("GET", "/api/r/chat/events") as one, client.stream("GET", "/api/r/chat/events") as other:
            streams = [one.iter_lines(), other.iter_lines()]  # a stream that is dropped is closed
            assert [next_event(stream)[0] for stream in streams] == ["changed", "changed"]
            assert events.num_watched == 1  # two listeners, one look
        ended = time.monotonic() + 10
        while events.num_watched and time.monotonic() < ended:
            time.sleep(0.02)
        assert events.num_watched == 0


def test_events_of_no_run_are_not_found(client):
    assert "no run" in error(client, "/api/r/nothing/events", 404)


def test_server_when_it_ends_then_streams_end_with_it(runs):
    with serving(runs) as (client, server), client.stream("GET", "/api/r/chat/events") as answer:
        stream = answer.iter_lines()
        assert next_event(stream)[0] == "changed"
        server.should_exit = True
        assert next_event(stream)[0] == "end"


@pytest.mark.parametrize("target", ["/api/r/../../secret", "/static/../server.py", "/../../etc/passwd", "//evil/..;/"])
def test_server_when_a_raw_path_leads_out_then_shows_nothing(runs, target):
    with serving(runs) as (_, server):
        port = server.config.app.state.policy.port
        # What asks in the other tests makes such paths plain before it sends them.
        answer = raw(port, f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 ")
        assert not any(word in answer for word in (b"root:", b"def create_app"))


def test_server_when_two_hosts_are_named_then_refuses(runs):
    with serving(runs) as (_, server):
        port = server.config.app.state.policy.port
        hosts = f"Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n"
        answer = raw(port, f"GET /api/runs HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))


def raw(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as place:
        place.sendall(request.encode())
        return b"".join(iter(lambda: place.recv(65536), b""))


# ----- the command -----


def test_listen_when_the_port_is_taken_then_takes_the_next_unless_it_was_asked_for(monkeypatch):
    monkeypatch.setattr("selfplay.view.server.USUAL_PORT", 38600)
    with listen("127.0.0.1") as first, listen("127.0.0.1") as second:
        assert second.getsockname()[1] > first.getsockname()[1]
        with pytest.raises(UserError, match="is taken"):
            listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(UserError, match="cannot listen"):
        listen("203.0.113.7", 38600)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "no run"),
        (["host=0.0.0.0", "port=0"], "token="),
        (["prot=1"], "port"),
        (["port=99999"], "65535"),
    ],
)
def test_view_when_a_word_is_wrong_then_says_what_would_be_right(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        view.run(read_words(words))


def test_view_starts_without_models_and_ends_with_ctrl_c(runs, tmp_path):
    text = (
        "import sys, time\n"
        "from selfplay.commands import view\n"
        "from selfplay.commands.words import read_words\n"
        "import selfplay.view.server as server\n"
        "def stop(self):\n"
        "    heavy = ('torch', 'transformers', 'ray', 'pandas', 'pyarrow', 'matplotlib')\n"
        "    print([name for name in heavy if name in sys.modules])\n"
        "    raise KeyboardInterrupt\n"
        "server.Server.serve_here = stop\n"
        f"sys.exit(view.run(read_words(['runs={runs}', 'port=0'])))\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"the page is at http://127\.0\.0\.1:[0-9]+/r/[^/]+ \(Ctrl-C ends it\)", first)
    assert second == "[]"
