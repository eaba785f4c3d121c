import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from selfplay.commands import ls, show
from selfplay.commands.words import read_words
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.errors import UserError
from selfplay.score import Term
from selfplay.store import RunWriter

ENDED = Outcome(status="terminated", reason="turn_limit")
HOSTILE = "\x1b[2J\u202e[red]x[/]"


def conversation(index, *, text="What about rain?", topic="rain", outcome=ENDED):
    said = np.arange(3, dtype=np.int32)
    turn = Turn(role="host", text=text, heard_text="", player="learner@0", stream="host", said=said, finish="length")
    answer = Turn(role="guest", text="Wet.", heard_text=text, player="scripted")
    return Conversation(
        id=f"000000-g00-{index}",
        scenario=Scenario(
            env="chitchat", seed=40 + index, split="train", roles=("host", "guest"), public={"topic": topic}
        ),
        players={"host": PlayerInfo(policy="learner", model="tiny"), "guest": PlayerInfo(policy="scripted")},
        turns=(turn, answer),
        outcome=outcome,
    )


def write_run(name, *, created_at, model="tiny", text="What about rain?"):
    manifest = {"created_at": created_at, "env": "chitchat", "model": model}
    with RunWriter.create(f"runs/{name}", manifest, "") as writer:
        writer.append(conversation(0, text=text))
        writer.append(conversation(1, text=text))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write_run("old", created_at="2026-01-01T10:00:00.000Z")
    write_run("new", created_at="2026-01-02T10:00:00.000Z")
    return tmp_path / "runs"


def answer(capsys, command, *words):
    status = command.run(read_words(words))
    output = capsys.readouterr()
    assert status == 0
    return output.out


def first_line(capsys, *words):
    return answer(capsys, show, *words).splitlines()[0]


def test_show_prints_the_first_conversation_of_the_newest_run(runs, capsys):
    output = answer(capsys, show)
    assert output.startswith("000000-g00-0\nchitchat · seed 40")
    assert "What about rain?" in output


def test_show_takes_a_run_an_id_or_both(runs, capsys):
    assert first_line(capsys, "old") == "000000-g00-0"
    assert first_line(capsys, "old", "1") == "000000-g00-1"
    assert first_line(capsys, "old", "last") == "000000-g00-1"
    assert first_line(capsys, "", "1") == "000000-g00-1"
    assert first_line(capsys, "last") == "000000-g00-1"
    assert first_line(capsys, "000000-g00-1") == "000000-g00-1"
    assert first_line(capsys, str(runs / "old"), "1", "runs=elsewhere") == "000000-g00-1"


def test_show_json_is_the_stored_record(runs, capsys):
    record = json.loads(answer(capsys, show, "old", "1", "--json"))
    stored = (runs / "old" / "conversations" / "train-000.jsonl").read_text().splitlines()
    assert record == json.loads(stored[1])


def test_show_counts_tokens_that_were_not_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with RunWriter.create("runs/a", {}, "", tokens="none") as writer:
        writer.append(conversation(0))
    assert "heard 0, said 3 tokens" in answer(capsys, show)


def test_show_reads_a_run_whose_manifest_is_broken(runs, capsys):
    (runs / "old" / "run.json").write_text("{")
    assert first_line(capsys, "old") == "000000-g00-0"


def test_problems_go_to_stderr_one_line_each(runs, capsys):
    with (runs / "new" / "conversations" / "train-000.jsonl").open("a") as file:
        file.write("{\x1b\n{torn")
    assert show.run(read_words(["new"])) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("new: conversations/train-000.jsonl:3: not valid JSON")
    assert lines[1] == "new: conversations/train-000.jsonl:4: the last line is incomplete, skipped"


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (show, ["run=x"], "unknown setting 'run'; did you mean runs"),
        (ls, ["width=3"], "unknown setting 'width'; choose from where, sort, order, limit, runs"),
        (show, ["a", "b", "c"], r"too many words: a b c; write selfplay show \[RUN\] \[ID\]"),
        (ls, ["a", "b", "c"], r"too many words: a b c; write selfplay ls \[RUN \[FILTER\]\]"),
        (ls, ["reason=leaving", "old"], "unknown setting 'reason'; .*a filter is written where='reason=leaving'"),
        (ls, ["where=reward<0"], "choose conversations of one run; write selfplay ls RUN"),
        (ls, ["old", "limit=none"], "limit=none: must be a whole number from 1"),
        (ls, ["old", "order=sideways"], "order=sideways: must be down or up"),
        (ls, ["old", "sort=rewrad"], "nothing is sorted by 'rewrad'; did you mean reward"),
        (show, ["odl"], r"no run 'odl'; did you mean old\? \(nor does the newest run have"),
        (show, ["odl", "0"], r"no run 'odl'; did you mean old\?$"),
        (show, ["old", "7"], "run old has no conversation '7'"),
        (show, ["runs=nowhere"], "there are no runs in nowhere/"),
        (ls, ["odl"], "no run 'odl'; did you mean old"),
        (ls, ["runs=/nope"], "^runs=/nope: there is no such folder$"),
        (ls, ["runs=runs/old/run.json"], "^runs=runs/old/run.json: it is a file, not a folder of runs$"),
    ],
)
def test_wrong_words_are_refused_with_what_is_right(runs, command, words, message):
    with pytest.raises(UserError, match=message):
        command.run(read_words(words))


def test_ls_lists_runs_newest_first(runs, capsys):
    lines = answer(capsys, ls).splitlines()
    assert lines[0].split() == ["run", "created", "UTC", "status", "conv.", "turns", "cut"]
    # two conversations of two turns, of which one in two is cut
    assert lines[2].split() == ["new", "01-02", "10:00", "finished", "2", "4", "50%"]
    assert lines[3].split()[0] == "old"


def test_ls_json_holds_the_same(runs, capsys):
    rows = json.loads(answer(capsys, ls, "--json"))
    assert [row["name"] for row in rows] == ["new", "old"]
    assert (rows[0]["conversations"], rows[0]["turns"], rows[0]["cut_turns"], rows[0]["tokens"]) == (2, 4, 2, 6)
    files = [path for path in (runs / "new").rglob("*") if path.is_file()]
    assert rows[0]["bytes"] == sum(len(path.read_bytes()) for path in files)


def test_ls_of_a_run_lists_its_conversations(runs, capsys):
    lines = answer(capsys, ls, "old").splitlines()
    assert lines[0].split() == ["id", "seed", "turns", "said", "cut", "ended", "about", "first", "words"]
    words = ["000000-g00-1", "41", "2", "3", "50%", "turn", "limit", "rain", "What", "about", "rain?"]
    assert lines[3].split() == words
    rows = json.loads(answer(capsys, ls, "old", "--json"))
    assert rows[1] == {
        "id": "000000-g00-1",
        "seed": 41,
        "split": "train",
        "public": {"topic": "rain"},
        "turns": 2,
        "tokens": 3,
        "cut_turns": 1,
        "status": "terminated",
        "reason": "turn_limit",
        "reward": None,
        "parts": {},
        "values": {},
        "advantage": None,
        "kl": None,
        "surprise": None,
        "version": 0,
        "flags": ["cut"],
        "first_words": "What about rain?",
    }


def test_ls_stays_within_the_terminal_and_shows_names_whole(runs, capsys):
    name = "a-run-whose-name-is-longer-than-any-column-could-ever-be"
    write_run(name, created_at="2026-01-03T10:00:00.000Z", model="a-model-whose-name-is-long", text="long " * 50)
    lines = answer(capsys, ls).splitlines()
    assert max(len(line) for line in lines) <= 80
    folded = [line.split(" ")[0] for line in lines[2:]]
    assert "".join(folded).startswith(name)
    assert max(len(line) for line in answer(capsys, ls, name).splitlines()) <= 80


def test_ls_in_a_narrow_terminal_leaves_out_columns_before_it_cuts_names(runs, monkeypatch, capsys):
    name = "chitchat-smollm2-135m-20261122-081941"
    write_run(name, created_at="2026-01-03T10:00:00.000Z")
    monkeypatch.setenv("COLUMNS", "40")
    assert [line.split()[0] for line in answer(capsys, ls).splitlines()[2:]] == [name, "new", "old"]
    lines = answer(capsys, ls, name).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["000000-g00-0", "000000-g00-1"]
    assert lines[0].split()[:3] == ["id", "turns", "ended"]
    assert max(len(line) for line in lines) <= 40
    monkeypatch.setenv("COLUMNS", "8")
    folded = [line.strip() for line in answer(capsys, ls, name).splitlines()[2:]]
    assert folded == ["000000-g", "00-0", "000000-g", "00-1"]


def test_ls_cuts_long_columns_evenly(runs, capsys):
    with RunWriter.create("runs/long", {}, "") as writer:
        outcome = Outcome(status="terminated", reason="rule_violation")
        writer.append(conversation(0, topic="the weather in the north", outcome=outcome, text="word " * 30))
    line = answer(capsys, ls, "long").splitlines()[2]
    assert "the weathe" in line
    assert len(line) <= 80


def test_ls_shows_hostile_text_as_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    write_run("a", created_at=HOSTILE, model=HOSTILE, text=HOSTILE)
    (tmp_path / "runs" / "a" / "run.json").rename(tmp_path / "kept.json")
    manifest = json.loads((tmp_path / "kept.json").read_text()) | {"status": HOSTILE, "env": {"a": HOSTILE}}
    (tmp_path / "runs" / "a" / "run.json").write_text(json.dumps(manifest))
    for output in (answer(capsys, ls), answer(capsys, ls, "a")):
        assert "\x1b" not in output
        assert "\u202e" not in output
        assert "␛[2J\\u202e[red]x[/]" in output


def test_ls_of_nothing_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert answer(capsys, ls) == "no runs in runs/ yet; selfplay play writes one\n"
    assert answer(capsys, ls, "--json") == "[]\n"
    RunWriter.create("runs/empty", {}, "").close()
    assert answer(capsys, ls, "empty") == "run empty holds no conversations yet\n"


@pytest.mark.parametrize("command", [show, ls])
def test_help_is_there_with_an_example(command):
    assert "\n" not in command.SUMMARY
    assert "Examples:" in command.USAGE


def test_neither_torch_nor_ray_is_imported():
    check = "import sys, selfplay.commands.show, selfplay.commands.ls; print({'torch', 'ray'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def write_scored(name, *, reward=0.5, trained=True, outcome=ENDED, annotate=False):
    """Two turns: the host asks, which counts half; the guest is cut short by a range; what applies nowhere says why."""
    one = conversation(0, outcome=outcome)
    players = {role: replace(player, trained=trained and role == "host") for role, player in one.players.items()}
    one = replace(one, players=players, error="reward_error: x" if outcome.status == "failed" else None)
    values = {"question": [1.0, 0.0], "length": [0.0, 9.0], "sense": [np.nan, np.nan]}
    why = {"question": ("asks", ""), "length": (), "sense": ("", "too short")}
    parts = {
        part: Scores(values=np.array(numbers, dtype=np.float32), why=why[part]) for part, numbers in values.items()
    }
    rewards = np.array([reward, 2.0], dtype=np.float32)
    scored = ScoredConversation(conversation=one, rewards=rewards, parts=parts)
    terms = {
        "question": Term(weight=reward),
        "length": Term(weight=1.0, range=(0.0, 2.0)),
        "sense": Term(weight=0.1),
    }
    with RunWriter.create(f"runs/{name}", {"created_at": "2027-01-01T00:00:00.000Z"}, "") as writer:
        writer.append(one, scored, terms=terms)
        writer.append(conversation(1))
        if annotate:
            writer.annotate(one.id, by="learner@1", kind="learner", data={"kl_per_token": 0.039})
            writer.annotate(one.id, by=HOSTILE, kind="tag", data={HOSTILE: HOSTILE}, turn=1)


def test_show_prints_rewards_with_what_makes_them(runs, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    write_scored("scored")
    lines = answer(capsys, show, "scored").splitlines()
    assert "  reward 0.50: question 1.00 x 0.5 (asks) · length 0.00" in lines
    assert "  reward 2.00: question 0.00 x 0.5 · length 9.00 counts 2.00 · sense - (too short)" in lines
    assert lines[-1] == "reward host 0.50, guest 2.00"


def test_show_prints_annotations_of_the_conversation_and_of_its_turns(runs, capsys):
    write_scored("scored", annotate=True)
    output = answer(capsys, show, "scored")
    assert output.splitlines()[-1] == "learner@1, learner: kl_per_token: 0.039"
    assert "  ␛[2J\\u202e[red]x[/], tag: ␛[2J" in output
    assert "\x1b" not in output
    assert json.loads(answer(capsys, show, "scored", "--json"))["annotations"][0]["data"] == {"kl_per_token": 0.039}


def test_show_says_in_words_what_the_best_was_chosen_from(runs, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    with RunWriter.create("runs/best", {}, "") as writer:
        writer.append(conversation(0))
        data = {"chosen": 2, "of": 4, "by": "rm:x", "values": [-0.3, 0.1, 0.52, None]}
        writer.annotate(conversation(0).id, by="play", kind="best_of", data=data)
        writer.annotate(conversation(0).id, by="play", kind="best_of", data=data, turn=1)
        writer.annotate(conversation(0).id, by="play", kind="best_of", data={**data, "chosen": 9}, turn=1)
    lines = answer(capsys, show, "best").splitlines()
    assert lines[-1] == "the best of 4 by rm:x: 0.52 a turn, chosen from -0.30, 0.10, 0.52, -"
    assert "  the best of 4 by rm:x: 0.52, chosen from -0.30, 0.10, 0.52, -" in lines
    assert any(line.startswith("  play, best_of: chosen: 9") for line in lines)


def test_show_says_which_reward_failed(runs, capsys):
    one = replace(conversation(0, outcome=Outcome(status="failed", reason="reward_error")), error="reward_error: x")
    scored = ScoredConversation(conversation=one, rewards=np.full(2, np.nan, dtype=np.float32))
    with RunWriter.create("runs/scored", {}, "") as writer:
        writer.append(one, scored, terms={"question": Term(weight=1.0)})
    lines = answer(capsys, show, "scored").splitlines()
    assert lines[-1] == "no reward question: it failed"
    assert not any(line.startswith(("  reward", "reward")) for line in lines)


def test_rewards_that_cannot_be_read_are_reported_not_shown(runs, capsys):
    write_scored("scored")
    file = runs / "scored/conversations/train-000.jsonl"
    file.write_text(file.read_text().replace('"weight": 0.5', '"weight": "half"'))
    for command in (show, ls):
        assert command.run(read_words(["scored"])) == 0
        captured = capsys.readouterr()
        assert "reward" not in captured.out
        assert "its rewards cannot be read: TypeError(\"'half' is no number\")" in captured.err


@pytest.mark.parametrize(("trained", "expected"), [(True, 0.5), (False, 2.5)])
def test_ls_shows_what_the_turns_of_the_trained_roles_add_up_to(runs, capsys, trained, expected):
    write_scored("scored", trained=trained)
    lines = answer(capsys, ls, "scored").splitlines()
    # host 0.5, guest 2: 0.5 + 2 = 2.5 where nobody is trained
    assert lines[0].split()[:6] == ["id", "seed", "turns", "said", "cut", "reward"]
    assert [line.split()[5] for line in lines[2:]] == [f"{expected:.2f}", "-"]
    rows = json.loads(answer(capsys, ls, "scored", "--json"))
    assert [row["reward"] for row in rows] == [expected, None]


def test_ls_prints_the_newest_and_how_many_more_there_are(runs, capsys):
    lines = answer(capsys, ls, "old", "limit=1").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["000000-g00-1", "1"]
    assert lines[-1] == "1 of 2; where=, sort= and limit= choose others"
    assert len(json.loads(answer(capsys, ls, "old", "limit=1", "--json"))) == 1


def test_ls_filters_and_sorts(runs, capsys):
    write_scored("scored")
    assert [row["id"] for row in json.loads(answer(capsys, ls, "scored", "reward>0", "--json"))] == ["000000-g00-0"]
    assert [row["id"] for row in json.loads(answer(capsys, ls, "scored", "where=reward=null", "--json"))] == [
        "000000-g00-1"
    ]
    rows = json.loads(answer(capsys, ls, "scored", "sort=seed", "order=down", "--json"))
    assert [row["seed"] for row in rows] == [41, 40]
    assert answer(capsys, ls, "scored", "reward>9") == "none of the 2 conversations of run scored fits that filter\n"


def test_ls_tells_a_killed_run_from_a_living_one(runs, capsys):
    with RunWriter.create("runs/living", {"created_at": "2027-01-01T00:00:00.000Z"}, ""):
        assert answer(capsys, ls).splitlines()[2].split()[3] == "running"
        manifest = (runs / "living/run.json").read_text()
    (runs / "living/run.json").write_text(manifest)
    assert answer(capsys, ls).splitlines()[2].split()[3] == "killed"
    assert json.loads(answer(capsys, ls, "--json"))[0]["status"] == "killed"
