"""Stored conversations scored again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from selfplay.commands import main
from selfplay.commands.building import build_rewards
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.run_lock import RunLock
from selfplay.score import Term, score
from selfplay.store import RunReader, RunWriter
from selfplay.train_settings import RewardSpec

TEXTS = {
    "000000-g00-0": ("What now?", "Tea."),
    "000000-g00-1": ("Tea.", "Tea."),
    "000000-g01-0": ("Why not?", "Who knows?"),
}


def talk(id: str, texts: tuple[str, str], *, trained: str = "host") -> Conversation:
    turns = [
        Turn(role=role, text=text, heard_text="", player="scripted")
        for role, text in zip(("host", "guest"), texts, strict=True)
    ]
    scenario = Scenario(env="chitchat", seed=7, split="train", roles=("host", "guest"))
    players = {role: PlayerInfo(policy="scripted", trained=role == trained) for role in ("host", "guest")}
    outcome = Outcome(status="terminated", reason="turn_limit")
    return Conversation(id=id, scenario=scenario, turns=tuple(turns), players=players, outcome=outcome)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Three conversations; the old reward of the host is 0, 2 and 1."""
    monkeypatch.chdir(tmp_path)
    with RunWriter.create("runs/old", {"kind": "train"}, "rewards:\n  question: 1.0\n") as writer:
        for number, (id, texts) in zip((0.0, 2.0, 1.0), TEXTS.items(), strict=True):
            values = np.array([number, 0.0], dtype=np.float32)
            parts = {"length": Scores(values=values)}
            scored = ScoredConversation(conversation=talk(id, texts), rewards=values, parts=parts)
            writer.append(scored.conversation, scored, terms={"length": Term()})
    return tmp_path / "runs/old"


def answer(capsys, *words: str) -> dict:
    assert main(["rescore", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_new_scores_are_appended_and_the_old_ones_stay(run, capsys):
    found = answer(capsys, "old", "-r", "question=2")
    assert found["stored"] == 3
    rows = {row["name"]: row for row in found["changes"]}
    # The host asks in the first and the third: 2, 0, 2; before 0, 2, 1.
    assert (rows["reward"]["before"], rows["reward"]["now"]) == (1.0, pytest.approx(4 / 3))
    assert (rows["length"]["now"], rows["question"]["before"]) == (None, None)
    # Ranks before 1 3 2, now 2.5 1 2.5: covariance (-.5 - 1 + 0) / 3, deviations .8165 and .7071.
    assert rows["reward"]["order"] == pytest.approx(-0.5 / (0.8165 * 0.7071), abs=1e-3)
    record = RunReader(run).record("000000-g01-0")
    assert record["rewards"]["per_turn"] == [1.0, 0.0]
    [note] = record["annotations"]
    assert (note["by"], note["kind"], note["data"]["per_role"]) == ("rescore", "score", {"host": 2.0, "guest": 2.0})
    assert note["data"]["raw"] == {"question": [1.0, 1.0]}


def test_dry_run_stores_nothing_and_no_reward_means_the_runs_own(run, capsys):
    assert answer(capsys, "--dry-run")["stored"] == 0
    assert not (run / "annotations.jsonl").exists()
    assert main(["rescore", "old"]) == 0
    output = capsys.readouterr().out
    assert "3 new scores stored" in output
    assert "place 1 -> 3" in output


def test_show_tells_the_later_score(run, capsys):
    assert main(["rescore", "old", "-r", "question=2", "-r", "politeness=gate"]) == 0
    assert main(["show", "old", "last"]) == 0
    assert "rescore, score: host 0.00, guest 0.00 (question x 2.0, politeness gate)" in capsys.readouterr().out


def test_source_of_a_reward_from_a_file_is_stored_with_its_score(run, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def two(turn):\n    return 2\n")
    answer(capsys, "old", "-r", "mine.py:two=1")
    [note] = RunReader(run).record("last")["annotations"]
    assert note["data"]["sources"]["mine.py:two"].startswith("sha256:")


def test_reward_that_fails_stores_nothing(run, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def half(turn):\n    return 1 / turn.text.count('?')\n")
    assert main(["rescore", "old", "-r", "mine.py:half=1"]) == 2
    error = capsys.readouterr().err
    assert "2 of the first 3 conversations could not be scored, so nothing was; the first, 000000-g00-0" in error
    assert "ZeroDivisionError: division by zero (mine.py, line 2)" in error
    assert not (run / "annotations.jsonl").exists()


def test_tokens_are_read_where_a_reward_may_ask_for_them(run, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def said(turn):\n    return len(turn.said)\n")
    turns = [Turn(role=role, text="x", heard_text="", player="m@0", stream=role, said=np.arange(3), heard=np.arange(2),
                  logprobs=np.zeros(3, np.float32), finish="stop") for role in ("host", "guest")]  # fmt: skip
    with RunWriter.create("runs/tokens", {"kind": "train"}, "") as writer:
        writer.append(replace(talk("000000-g00-0", ("x", "x")), turns=tuple(turns)))
    found = answer(capsys, "tokens", "-r", "mine.py:said=1")
    assert found["changes"][0]["now"] == 3.0


def test_batch_is_that_of_a_step(run, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from selfplay import reward\n@reward(scope='batch')\ndef size(group):\n    return [len(group)] * len(group)\n"
    )
    with RunWriter.create("runs/steps", {"kind": "train"}, "") as writer:
        for step, num in ((0, 2), (1, 1)):
            for index in range(num):
                writer.append(talk(f"{step:06}-g00-{index}", ("x", "x")))
    found = answer(capsys, "steps", "-r", "mine.py:size=1")
    assert [one["now"] for one in found["conversations"]] == [2.0, 2.0, 1.0]


def test_conversation_that_failed_in_scoring_is_scored_again(run, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def broken(turn):\n    return 1 / 0\n")
    broken = build_rewards({"mine.py:broken": RewardSpec()})
    [scored] = score([talk("000000-g00-0", ("Why?", "x"))], broken)
    with RunWriter.create("runs/failed", {"kind": "train"}, "") as writer:
        writer.append(scored.conversation, scored, terms={one.name: one.term for one in broken})
    assert answer(capsys, "failed", "-r", "question=1")["stored"] == 1


def test_unknown_role_is_refused(run, capsys):
    assert main(["rescore", "old", "-r", "question=1", "rewards.question.role=gest"]) == 2
    assert "reward 'question' is about role 'gest'; run old has host, guest" in capsys.readouterr().err


def test_run_that_is_being_written_is_left_alone(run, capsys):
    lock = RunLock.take(run)
    assert main(["rescore", "old", "-r", "question=1"]) == 2
    assert "is being written" in capsys.readouterr().err
    lock.release()


def test_run_without_rewards_asks_for_some(run, capsys):
    (run / "config.yaml").write_text("seed: 0\n")
    assert main(["rescore", "old"]) == 2
    assert "has no rewards of its own; name some: -r question=1" in capsys.readouterr().err
