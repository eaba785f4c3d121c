import json
import threading
import time

import pytest

from selfplay.alarms import append_alarms
from selfplay.commands import tail
from selfplay.commands.words import read_words
from selfplay.errors import UserError
from selfplay.store import RunWriter
from tests.paired_runs import TERMS, played, two_versions, write_run

ALARM = {"schema": "selfplay.alarm/1", "at": "2026-01-01T10:00:01.000Z", "step": 3, "name": "length_drift"}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(tail, "LOOK_SECONDS", 0.01)
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def answer(capsys, *words):
    assert tail.run(read_words(words)) == 0
    return capsys.readouterr().out.splitlines()


def test_last_lines_of_a_run_that_ended_and_since_when(runs, capsys):
    write_run(runs / "chat", two_versions())
    lines = answer(capsys, "chat", "n=2")
    assert lines[:4] == [
        "000007-e02-0  learner@7/scripted  2 turns  +2.00  leaving",
        "  guest: Yes.",
        "000007-e03-0  learner@7/scripted  2 turns  +2.00  leaving",
        "  guest: Yes.",
    ]
    assert lines[4].startswith("run chat: finished, last line 2")
    assert lines[4].endswith(" ago")
    assert len(lines) == 5


def test_run_that_was_killed_says_so(runs, capsys):
    folder = write_run(runs / "chat", two_versions())
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**manifest, "status": "running"}))
    assert answer(capsys, "chat", "n=0")[-1].startswith("run chat: killed, last line")


def test_run_without_lines_ends_all_the_same(runs, capsys):
    write_run(runs / "chat", [])
    assert answer(capsys)[-1] == "run chat: finished"


def test_metrics_and_alarms_are_shown_with_their_step(runs, capsys):
    with RunWriter.create(runs / "chat", {}, "") as writer:
        for step in range(4):
            writer.log_metrics(step, {"reward/per_conversation": step / 2, "kl/per_token_nats": float("nan")})
    append_alarms(runs / "chat" / "alarms.jsonl", [{**ALARM, "text": "alarm length_drift: longer"}])
    assert answer(capsys, "n=1")[:2] == ["step 3: reward 1.500", "alarm length_drift: longer"]


def test_json_is_the_stored_lines_and_how_it_ended(runs, capsys):
    folder = write_run(runs / "chat", two_versions())
    stored = (folder / "conversations" / "evaluation-000.jsonl").read_text().splitlines()
    *lines, ended = map(json.loads, answer(capsys, "chat", "n=100", "--json"))
    assert lines == [json.loads(line) for line in stored]
    assert (ended["run"], ended["status"]) == ("chat", "finished")


def test_what_is_written_meanwhile_is_shown_once_in_order_until_the_run_ends(runs, capsys):
    first, *rest = two_versions()
    writer = RunWriter.create(runs / "chat", {}, "")
    writer.append(first.conversation, first, terms=TERMS)

    def write():
        for one in rest:
            time.sleep(0.02)
            writer.append(one.conversation, one, terms=TERMS)
        writer.log_metrics(0, {"reward/per_conversation": 1.0})
        writer.close("interrupted")

    thread = threading.Thread(target=write)
    thread.start()
    lines = answer(capsys, "chat", "n=10")
    thread.join()
    assert [line.split()[0] for line in lines if line.startswith("0000")] == [
        one.conversation.id for one in (first, *rest)
    ]
    assert lines[-2] == "step 0: reward 1.000"
    assert lines[-1].startswith("run chat: interrupted")


def test_half_a_line_waits_for_its_other_half(runs):
    folder = write_run(runs / "chat", two_versions()[:1])
    path = folder / "conversations" / "evaluation-000.jsonl"
    whole = path.read_bytes()
    tails = tail._Tails(folder)
    printer = tail._Printer(tail.open_console(), as_json=True)
    assert len(list(tails.last(5, printer))) == 1
    path.write_bytes(whole + whole[:50])
    assert list(tails.new(printer)) == []
    path.write_bytes(whole + whole)
    assert len(list(tails.new(printer))) == 1


def test_file_that_went_back_to_a_checkpoint_is_not_shown_again(runs):
    folder = write_run(runs / "chat", two_versions())
    path = folder / "conversations" / "evaluation-000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    tails = tail._Tails(folder)
    printer = tail._Printer(tail.open_console(), as_json=True)
    assert len(list(tails.last(9, printer))) == 6
    path.with_name("draft").write_bytes(b"".join(lines[:3]))
    path.with_name("draft").replace(path)
    assert list(tails.new(printer)) == []
    path.write_bytes(b"".join(lines[:4]))
    assert [record["id"] for record in tails.new(printer)] == ["000007-e01-0"]


def test_lines_written_since_a_run_went_back_to_a_checkpoint_are_shown(runs):
    folder = write_run(runs / "chat", two_versions())
    path = folder / "conversations" / "evaluation-000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    tails = tail._Tails(folder)
    printer = tail._Printer(tail.open_console(), as_json=True)
    assert len(list(tails.last(1, printer))) == 1
    again = [{**json.loads(lines[number]), "tags": ["again"]} for number in (4, 5)]
    path.with_name("draft").write_bytes(
        b"".join(lines[:4]) + b"".join(json.dumps(one).encode() + b"\n" for one in again)
    )
    path.with_name("draft").replace(path)
    assert list(tails.new(printer)) == again
    assert list(tails.new(printer)) == []


def test_lines_that_cannot_be_read_are_reported_and_passed_over(runs, capsys):
    folder = write_run(runs / "chat", two_versions()[:1])
    with (folder / "conversations" / "evaluation-000.jsonl").open("a") as file:
        file.write('nonsense\n{"schema": "selfplay.conversation/1", "id": 7}\n')
    assert tail.run(read_words(["chat"])) == 0
    output = capsys.readouterr()
    assert "evaluation-000.jsonl: not valid JSON" in output.err
    assert "a conversation cannot be read" in output.out


def test_text_of_models_is_shown_and_not_obeyed(runs, capsys):
    one = played("000001-e01-0", seed=1, version=1, says="x")
    turn = one.conversation.turns[0].__class__(role="host", text="\x1b[2J\u202e[red]", heard_text="", player="m")
    hostile = one.conversation.__class__(
        id="000001-e01-0", scenario=one.conversation.scenario, players=one.conversation.players, turns=(turn,)
    )
    with RunWriter.create(runs / "chat", {}, "") as writer:
        writer.append(hostile)
    output = "\n".join(answer(capsys))
    assert "\x1b[2J" not in output
    assert "\u202e" not in output
    assert "[red]" in output


def test_interrupt_ends_quietly(runs, monkeypatch, capsys):
    writer = RunWriter.create(runs / "chat", {}, "")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tail.time, "sleep", interrupt)
    assert answer(capsys) == []
    writer.close()


def test_unknown_run_or_setting_is_said_in_a_sentence(runs):
    with pytest.raises(UserError, match="there is no run 'none'"):
        tail.run(read_words(["none"]))
    with pytest.raises(UserError, match="one run, not 2"):
        tail.run(read_words(["a", "b"]))


def test_folder_with_an_equals_sign_in_its_name_is_a_run_and_no_setting(tmp_path):
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    line = read_words([str(folder), "n=3"])
    assert (line.names, line.settings) == ([str(folder)], ["n=3"])
