import gzip
import json
import math
import resource
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.dialog import (
    Action,
    Conversation,
    Finish,
    Outcome,
    PlayerInfo,
    Scenario,
    ScoredConversation,
    Scores,
    Turn,
)
from selfplay.errors import UserError
from selfplay.interfaces import Likelihood, TokenNumbers
from selfplay.line_files import RecordError, json_from_line, line_from_json
from selfplay.records_json import (
    chat_messages,
    conversation_from_json,
    conversation_to_json,
    record_counts,
    token_counts,
    tokens_to_json,
)
from selfplay.score import Term
from selfplay.store import RunReader, RunWriter, find_run, git_commit, keeps_tokens, list_runs

HOSTILE = "\u2028\u2029\x00\x1b[31m\r\n\x85\x0b\ud800\udc00 \udfff\ufeff\U0001f600"


def taboo(id="000420-g05-2", **changes):
    """The conversation of the documented record, with tokens."""
    conversation = Conversation(
        id=id,
        scenario=Scenario(
            env="taboo",
            seed=731,
            split="train",
            roles=("giver", "guesser"),
            public={"letters": 6},
            private={"giver": {"word": "bridge", "forbidden": ["river", "cross"]}, "guesser": {}},
        ),
        players={
            "giver": PlayerInfo(
                policy="learner",
                version=419,
                trained=True,
                model="smollm2-135m",
                brief="You give clues.",
                sampling={"temperature": 1.0, "max_new_tokens": 48},
            ),
            "guesser": PlayerInfo(policy="snapshot", version=300, model="smollm2-135m", brief="Guess."),
        },
        turns=(
            Turn(
                role="giver",
                text="It carries a road.",
                heard_text="",
                player="learner@419",
                stream="giver",
                heard=np.array([1, 9690, 198], dtype=np.int32),
                said=np.array([1053, 2], dtype=np.int32),
                logprobs=np.array([-1.2040122, -0.5], dtype=np.float32),
                finish="stop",
                action=Action(kind="clue"),
                seconds=0.19949,
            ),
            Turn(
                role="guesser",
                text="[guess] bridge",
                heard_text="It carries a road.",
                player="snapshot@300",
                stream="guesser",
                heard=np.array([7], dtype=np.int32),
                said=np.array([5, 6, 2], dtype=np.int32),
                logprobs=np.array([-0.25, -np.inf, 0.0], dtype=np.float32),
                finish="length",
                action=Action(kind="guess", value="bridge", legal=False),
                seconds=0.142,
            ),
        ),
        outcome=Outcome(
            status="terminated",
            reason="goal_reached",
            by="guesser",
            payoff={"giver": 1.0, "guesser": 1 / 3},
            facts={"guessed": "bridge", "violations": 0},
        ),
        seed=12345678901234567890,
        started_at="2026-11-22T05:10:11.120Z",
        seconds=0.341,
    )
    return replace(conversation, **changes)


# Written by hand after the documented record, not taken from the program.
TABOO_RECORD = {
    "schema": "selfplay.conversation/1",
    "id": "000420-g05-2",
    "run": "taboo-smol-7f3",
    "step": 420,
    "group": "000420-g05",
    "seed": 12345678901234567890,
    "scenario": {
        "env": "taboo",
        "seed": 731,
        "split": "train",
        "roles": ["giver", "guesser"],
        "public": {"letters": 6},
        "private": {"giver": {"word": "bridge", "forbidden": ["river", "cross"]}, "guesser": {}},
    },
    "view": "perspective",
    "players": {
        "giver": {
            "policy": "learner",
            "version": 419,
            "trained": True,
            "model": "smollm2-135m",
            "brief": "You give clues.",
            "sampling": {"temperature": 1.0, "max_new_tokens": 48},
        },
        "guesser": {
            "policy": "snapshot",
            "version": 300,
            "trained": False,
            "model": "smollm2-135m",
            "brief": "Guess.",
            "sampling": {},
        },
    },
    "turns": [
        {
            "turn": 0,
            "role": "giver",
            "player": "learner@419",
            "stream": "giver",
            "heard_text": "",
            "text": "It carries a road.",
            "finish": "stop",
            "num_heard_tokens": 3,
            "num_tokens": 2,
            "action": {"kind": "clue", "legal": True},
            "seconds": 0.1995,
        },
        {
            "turn": 1,
            "role": "guesser",
            "player": "snapshot@300",
            "stream": "guesser",
            "heard_text": "It carries a road.",
            "text": "[guess] bridge",
            "finish": "length",
            "num_heard_tokens": 1,
            "num_tokens": 3,
            "action": {"kind": "guess", "value": "bridge", "legal": False},
            "seconds": 0.142,
        },
    ],
    "outcome": {
        "status": "terminated",
        "reason": "goal_reached",
        "by": "guesser",
        "protocol_ok": True,
        "payoff": {"giver": 1.0, "guesser": 0.3333},
        "facts": {"guessed": "bridge", "violations": 0},
    },
    "timing": {"started_at": "2026-11-22T05:10:11.120Z", "play_seconds": 0.341},
    "origin": {"package": "0.1.0", "git": "c0ffee1"},
    "error": None,
    "tags": [],
}
UNKNOWN_YET = dict.fromkeys(("logprobs_learner", "logprobs_reference", "kl", "entropy", "advantage", "value"))
TABOO_TOKENS = {
    "schema": "selfplay.tokens/1",
    "conversation": "000420-g05-2",
    "tokenizer": "sha256:9ab1",
    "turns": [
        {"turn": 0, "stream": "giver", "heard": [1, 9690, 198], "said": [1053, 2], "logprobs": [-1.204012, -0.5]}
        | UNKNOWN_YET,
        {"turn": 1, "stream": "guesser", "heard": [7], "said": [5, 6, 2], "logprobs": [-0.25, None, 0.0]} | UNKNOWN_YET,
    ],
}


def written(folder, *conversations, **settings):
    with RunWriter.create(folder, {"seed": 1}, "seed: 1\n", **settings) as writer:
        for conversation in conversations:
            writer.append(conversation)
    return RunReader(folder)


def lines_of(folder, name="conversations/train-000.jsonl"):
    return (folder / name).read_bytes().splitlines(keepends=True)


def test_conversation_to_json_is_the_documented_record():
    assert conversation_to_json(taboo(), run="taboo-smol-7f3", package="0.1.0", git="c0ffee1") == TABOO_RECORD


def test_tokens_to_json_is_the_documented_record():
    assert tokens_to_json(taboo(), tokenizer="sha256:9ab1") == TABOO_TOKENS


LEARNED = {
    "logprobs_learner": [-1.25, -0.5],
    "logprobs_reference": [-1.5, -0.75],
    "kl": [0.295988, 0.25],
    "entropy": [2.0, None],
    "advantage": [0.61, 0.61],
    "value": None,
}


def learned():
    """What the learner found of the documented conversation: of the giver's turn, for it alone is trained."""
    known = {name: values for name, values in LEARNED.items() if values is not None}
    known["kl"] = [0.2959878, 0.25]
    known["entropy"] = [2.0, np.nan]
    return {0: TokenNumbers(**{name: np.array(values, np.float32) for name, values in known.items()})}


def test_tokens_to_json_with_what_was_learned_is_the_documented_record():
    first, second = TABOO_TOKENS["turns"]
    record = tokens_to_json(taboo(), tokenizer="sha256:9ab1", found=learned())
    assert record == TABOO_TOKENS | {"turns": [first | LEARNED, second]}
    assert json_from_line(line_from_json(record)) == record


@pytest.mark.parametrize("text", ["1e999", "-1E+400", "1" * 400 + ".5", "NaN", "-Infinity", "12.5e308"])
def test_number_that_is_not_finite_becomes_null(text):
    line = f'{{"a":{text},"b": [{text}, 1e-05, 2.5e+3, {text}],"c": "1e999", "d": {"9" * 400}}}'.encode()
    assert json_from_line(line) == {"a": None, "b": [None, 1e-05, 2500.0, None], "c": "1e999", "d": int("9" * 400)}


def test_last_whole_tokens_line_of_a_conversation_counts(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, "") as writer:
        writer.append(taboo())
        reader = RunReader(tmp_path / "run")
        assert reader.tokens_record("000420-g05-2")["turns"][0]["kl"] is None
        writer.add_tokens(taboo(), learned())
        assert reader.tokens_record("000420-g05-2")["turns"][0] == TABOO_TOKENS["turns"][0] | LEARNED
        writer.add_tokens(taboo(), {})
    path = tmp_path / "run/tokens/000.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    assert reader.conversation("0").turns[0].said.tolist() == [1053, 2]
    path.write_bytes(first + second[:-20])
    assert RunReader(tmp_path / "run").tokens_record("000420-g05-2")["turns"][0]["kl"] is None
    assert reader.tokens_record("000420-g05-3") is None


def test_tokens_are_added_where_the_conversations_are_kept(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, "", tokens="none") as writer:
        writer.append(taboo())
        writer.add_tokens(taboo(), learned())
        writer.keep_tokenizers({"sha256:9ab1": "{}"})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "conversations", "run.json"]


def test_likelihood_is_an_annotation_and_a_tokens_line(tmp_path):
    numbers = {0: TokenNumbers(logprobs_reference=np.array([-1.0, -2.0], np.float32))}
    found = Likelihood(conversation="000420-g05-2", num_tokens=2, nll=3.0, kl=1.25, tokens=numbers)
    with RunWriter.create(tmp_path / "run", {}, "") as writer:
        writer.append(taboo())
        writer.add_likelihood(taboo(), found, by="learner@7")
    reader = RunReader(tmp_path / "run")
    [note] = reader.record("0")["annotations"]
    assert (note["by"], note["kind"], note["data"]) == (
        "learner@7",
        "likelihood",
        {"num_tokens": 2, "nll": 3.0, "kl": 1.25},
    )
    assert reader.tokens_record("000420-g05-2")["turns"][0]["logprobs_reference"] == [-1.0, -2.0]


def test_alarms_come_in_the_order_they_were_noticed(tmp_path):
    written(tmp_path / "run")
    reader = RunReader(tmp_path / "run")
    assert reader.alarms() == []
    # Two begin at one step; one of them ends later.
    lines = [
        {"schema": "selfplay.alarm/1", "step": step, "name": name} for step, name in ((9, "b"), (9, "a"), (12, "b"))
    ]
    with (tmp_path / "run/alarms.jsonl").open("ab") as file:
        for line in lines[:2]:
            file.write(line_from_json(line))
        file.flush()
        assert reader.alarms() == lines[:2]
        file.write(b'{"schema": "selfplay.alarm/2"}\n' + line_from_json(lines[2]))
    assert reader.alarms() == lines
    assert reader.problems[0].startswith("run/alarms.jsonl:3: ")


def test_tokens_to_json_without_tokens_is_none():
    turn = Turn(role="giver", text="Hi", heard_text="", player="scripted")
    assert tokens_to_json(taboo(turns=(turn,))) is None


def test_conversation_from_json_reads_what_was_stored():
    back = conversation_from_json(TABOO_RECORD, TABOO_TOKENS)
    was = taboo()
    assert (back.scenario, back.players, back.seed, back.seconds) == (was.scenario, was.players, was.seed, 0.341)
    assert [turn.said.tolist() for turn in back.turns] == [[1053, 2], [5, 6, 2]]
    assert back.turns[1].heard.dtype == np.int32
    assert back.turns[0].logprobs.tolist() == [np.float32(-1.204012), -0.5]
    assert math.isnan(back.turns[1].logprobs[1])
    assert back.turns[1].action == was.turns[1].action
    assert back.outcome == replace(was.outcome, payoff={"giver": 1.0, "guesser": 0.3333})


def test_conversation_from_json_fills_in_what_older_records_lack():
    turn = {"turn": 0, "role": "giver", "heard_text": "", "text": "Hi.", "num_tokens": 8, "new_field": [1]}
    record = {
        "schema": "selfplay.conversation/1",
        "id": "000001-g00-0",
        "scenario": {"env": "taboo", "seed": 7, "split": "train", "roles": ["giver", "guesser"]},
        "players": {"giver": {"policy": "learner", "version": 4, "model": "m"}},
        "turns": [turn],
        "outcome": None,
        "rewards": {"per_turn": [1.0]},
    }
    back = conversation_from_json(record)
    assert back.turns[0].player == "learner@4"
    assert (back.outcome, back.error, back.view, back.seed) == (None, None, "perspective", 0)
    assert [(count.heard, count.said) for count in token_counts(record)] == [(0, 8)]


def test_numbers_that_are_not_finite_become_null_and_come_back_as_nan():
    outcome = Outcome(status="terminated", reason="turn_limit", payoff={"giver": math.nan}, facts={"x": [math.inf]})
    record = conversation_to_json(taboo(outcome=outcome))
    assert record["outcome"]["payoff"] == {"giver": None}
    assert record["outcome"]["facts"] == {"x": [None]}
    assert math.isnan(conversation_from_json(record).outcome.payoff["giver"])


def test_conversation_to_json_accepts_numpy_numbers_and_tuples():
    facts = {"n": np.int64(3), "share": np.float32(0.5), "list": (1, 2), "array": np.arange(2), 7: True}
    outcome = Outcome(status="terminated", reason="turn_limit", facts=facts)
    stored = conversation_to_json(taboo(outcome=outcome))["outcome"]["facts"]
    assert stored == {"n": 3, "share": 0.5, "list": [1, 2], "array": [0, 1], "7": True}


def test_conversation_to_json_refuses_what_json_cannot_hold():
    outcome = Outcome(status="terminated", reason="turn_limit", facts={"words": {"a"}})
    with pytest.raises(RecordError, match=r"000420-g05-2 cannot be stored: .*is a set"):
        conversation_to_json(taboo(outcome=outcome))


def test_failed_conversation_keeps_its_error():
    outcome = Outcome(status="failed", reason="player_error")
    back = conversation_from_json(conversation_to_json(taboo(outcome=outcome, error="the human left", turns=())))
    assert (back.error, back.outcome, back.turns) == ("the human left", outcome, ())


def as_python_joins(text):
    """Halves of a surrogate pair that stand next to each other are one character in JSON."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


texts = st.text(st.one_of(st.characters(), st.sampled_from(HOSTILE))).map(as_python_joins)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=16)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def turns(draw):
    ids = st.lists(st.integers(0, 2**31 - 1), max_size=4)
    said = draw(ids)
    return Turn(
        role=draw(st.sampled_from(("giver", "guesser"))),
        text=draw(texts),
        heard_text=draw(texts),
        player=draw(texts),
        stream=draw(texts),
        heard=np.array(draw(ids), dtype=np.int32),
        said=np.array(said, dtype=np.int32),
        logprobs=-np.arange(len(said), dtype=np.float32) / 8,
        finish=draw(st.sampled_from(("stop", "length", "context_full", "text"))),
        action=draw(st.none() | st.builds(Action, kind=texts, value=values, legal=st.booleans())),
        seconds=draw(st.integers(0, 9999)) / 8,
    )


def comparable(turn):
    return replace(turn, heard=turn.heard.tolist(), said=turn.said.tolist(), logprobs=turn.logprobs.tolist())


@given(spoken=st.lists(turns(), max_size=3), public=st.dictionaries(texts, values, max_size=3), brief=texts)
def test_any_conversation_survives_its_lines(spoken, public, brief):
    scenario = replace(taboo().scenario, public=public)
    players = {"giver": PlayerInfo(policy="learner", brief=brief)}
    was = taboo(scenario=scenario, players=players, turns=tuple(spoken))
    line, tokens = line_from_json(conversation_to_json(was)), tokens_to_json(was)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert tokens is None or tokens == json_from_line(line_from_json(tokens))
    back = conversation_from_json(json_from_line(line), tokens)
    assert [comparable(turn) for turn in back.turns] == [comparable(turn) for turn in was.turns]
    assert (back.scenario, back.players) == (was.scenario, was.players)


@given(st.binary())
def test_any_bytes_are_a_record_or_refused(line):
    try:
        conversation_from_json(json_from_line(line))
    except RecordError:
        return
    raise AssertionError("random bytes were read as a conversation")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "selfplay.conversation/2"}, "is not version 1, the one this selfplay reads"),
        ({"schema": None}, "schema None is not"),
        ({"turns": None}, "'turns' should be a list, but is missing"),
        ({"turns": [3]}, "a turn should be a mapping"),
        ({"scenario": {"env": "x", "seed": True, "roles": []}}, "'seed' should be a int, but is a bool"),
        ({"outcome": {"status": "terminated", "reason": "bored"}}, "reason 'bored' does not go with"),
        ({"view": "sideways"}, "view 'sideways' is none of"),
        ({"players": {"giver": 1}}, "players.giver should be a mapping"),
        ({"id": 3}, "'id' should be a str"),
    ],
)
def test_a_malformed_record_is_refused_with_its_field(changes, message):
    with pytest.raises(RecordError, match=message):
        conversation_from_json(TABOO_RECORD | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"said": [1], "logprobs": [-1.0]}, "turn 0 said 2 tokens, 1 are stored"),
        ({"turn": 9}, "tokens of turn 9, but only 2 turns"),
        ({"said": [2**31, 2]}, "conversation '000420-g05-2'"),
        ({"logprobs": [-1.0]}, "do not fit"),
    ],
)
def test_tokens_of_another_play_are_refused(changes, message):
    tokens = TABOO_TOKENS | {"turns": [TABOO_TOKENS["turns"][0] | changes]}
    with pytest.raises(RecordError, match=message):
        conversation_from_json(TABOO_RECORD, tokens)


def test_written_run_reads_back_with_and_without_tokens(tmp_path):
    reader = written(tmp_path / "run", taboo())
    assert reader.conversation("0").turns[0].said.tolist() == [1053, 2]
    assert next(reader.conversations()).turns[0].said.tolist() == []
    assert next(reader.conversations(with_tokens=True)).turns[1].said.tolist() == [5, 6, 2]
    assert (reader.config_text, reader.problems) == ("seed: 1\n", [])


def test_manifest_says_what_the_run_was_and_how_it_ended(tmp_path):
    folder = tmp_path / "nested" / "run"
    with RunWriter.create(folder, {"seed": 3, "env": "taboo", "command": ["play"]}, "") as writer:
        running = RunReader(folder).manifest
        writer.add_to_manifest({"tokenizers": {"smollm2-135m": "sha256:9ab1"}})
        writer.append(taboo())
    manifest = RunReader(folder).manifest
    assert (running["status"], running["name"], running["tokenizers"]) == ("running", "run", {})
    assert (manifest["status"], manifest["seed"], manifest["env"]) == ("finished", 3, "taboo")
    # two turns, the second of them cut; 2 + 3 tokens said
    assert manifest["counts"] == {"conversations": 1, "failed": 0, "turns": 2, "cut_turns": 1, "tokens": 5}
    assert json.loads(lines_of(folder, "tokens/000.jsonl")[0])["tokenizer"] == "sha256:9ab1"
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "conversations", "run.json", "tokens"]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed")])
def test_run_that_stops_early_says_so(tmp_path, error, status):
    def play():
        with RunWriter.create(tmp_path / "run", {}, "") as writer:
            writer.append(taboo())
            raise error

    with pytest.raises(error):
        play()
    reader = RunReader(tmp_path / "run")
    assert (reader.manifest["status"], len(reader.ids())) == (status, 1)


def test_closed_run_takes_no_more(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, "")
    writer.close("interrupted")
    writer.close("finished")
    with pytest.raises(ValueError, match="is closed"):
        writer.append(taboo())
    assert RunReader(tmp_path / "run").manifest["status"] == "interrupted"


def test_git_commit_is_that_of_the_packages_own_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None  # no checkout
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    installed = tmp_path / "venv" / "selfplay"
    (tmp_path / "selfplay").mkdir()
    installed.mkdir(parents=True)
    assert git_commit(tmp_path / "selfplay") == head
    assert git_commit(installed) is None


def test_scenario_keeps_its_numbers_exactly():
    exact = {"price": 1 / 3, "odds": [np.float64(2e-9)]}
    scenario = replace(taboo().scenario, public=exact, private={"giver": exact, "guesser": {}})
    line = line_from_json(conversation_to_json(replace(taboo(), scenario=scenario)))
    back = conversation_from_json(json_from_line(line)).scenario
    assert back.public == back.private["giver"] == {"price": 1 / 3, "odds": [2e-9]}


@pytest.mark.parametrize("finish", get_args(Finish))
def test_cut_turns_are_counted_as_the_turn_says(finish):
    conversation = replace(taboo(), turns=(replace(taboo().turns[0], finish=finish),))
    counted = record_counts(conversation_to_json(conversation))["cut_turns"]
    assert counted == (finish in ("length", "context_full", "token_limit")) == conversation.turns[0].is_cut


def test_discard_leaves_a_folder_that_was_there_before(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("mine", "parent/new"):
        writer = RunWriter.create(tmp_path / name, {}, "")
        writer.keep_source("env", b"class Game: ...\n")
        writer.keep_tokenizers({"sha256:9ab1": "{}"})
        assert (tmp_path / name / "tokenizers/9ab1.json.gz").is_file()
        writer.discard()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["mine", "parent"]


def test_discard_takes_what_the_owner_made_and_only_that(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, "")
    for name in ("checkpoints/000000/model", "wandb_id.txt", "notes.txt"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("")
    writer.discard(also=("base", "checkpoints", "wandb_id.txt"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_source_of_a_plugin_is_kept_under_its_hash(tmp_path):
    with RunWriter.create(tmp_path / "run", {}, "") as writer:
        writer.keep_source("env", b"abc")
    # SHA-256 of "abc", as FIPS 180-2 prints it
    assert RunReader(tmp_path / "run").manifest["sources"] == {"env": "sha256:ba7816bf8f01cfea"}
    assert (tmp_path / "run/sources/ba7816bf8f01cfea.py").read_bytes() == b"abc"


def test_create_refuses_a_folder_that_holds_a_run(tmp_path):
    written(tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run"):
        RunWriter.create(tmp_path / "run", {}, "")


def test_create_refuses_a_folder_that_another_run_just_took(tmp_path):
    (tmp_path / "run" / "conversations").mkdir(parents=True)
    with pytest.raises(UserError, match="already holds a run"):
        RunWriter.create(tmp_path / "run", {}, "")


@pytest.mark.parametrize("name", ["file", "file/below", "nul\0", "x" * 300])
def test_create_refuses_a_folder_it_cannot_write(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to folder"):
        RunWriter.create(tmp_path / name, {}, "")


def test_create_refuses_an_unknown_tokens_policy_before_it_makes_anything(tmp_path):
    with pytest.raises(UserError, match=r"transcripts\.tokens=some: must be all"):
        RunWriter.create(tmp_path / "run", {}, "", tokens="some")
    assert not (tmp_path / "run").exists()


def test_full_disk_keeps_the_lines_before(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, "", tokens="none")
    writer.append(taboo("000000-g00-0"))
    file = tmp_path / "run" / "conversations" / "train-000.jsonl"
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"train-000\.jsonl: File too large; the 1 conversations before it are kept"
        ):
            writer.append(taboo("000000-g00-1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    writer.append(taboo("000000-g00-2"))
    writer.close()
    assert RunReader(tmp_path / "run").ids() == ["000000-g00-0", "000000-g00-2"]


def test_held_out_conversations_have_their_own_file(tmp_path):
    held_out = taboo("000000-g01-0", scenario=replace(taboo().scenario, split="held_out"))
    written(tmp_path / "run", taboo("000000-g00-0"), held_out)
    names = sorted(path.name for path in (tmp_path / "run" / "conversations").iterdir())
    assert names == ["evaluation-000.jsonl", "train-000.jsonl"]
    assert RunReader(tmp_path / "run").ids() == ["000000-g00-0", "000000-g01-0"]


@pytest.mark.parametrize(
    ("policy", "train", "held_out"),
    [
        ("all", True, True),
        ("none", False, False),
        ("evaluation", False, True),
        # The check value of CRC-32, crc32("123456789") = 0xCBF43926, is 0.7967 of 2**32.
        ("sample:0.79", False, False),
        ("sample:.80", True, True),
        ("sample:0", False, False),
        ("sample:1", True, True),
    ],
)
def test_tokens_policy_decides_by_split_or_by_id(policy, train, held_out):
    assert keeps_tokens(policy, conversation_id="123456789", split="train") is train
    assert keeps_tokens(policy, conversation_id="123456789", split="held_out") is held_out


def test_sampled_tokens_are_about_the_share():
    ids = [f"{step:06d}-g{group:02d}-{index}" for step in range(50) for group in range(10) for index in range(4)]
    kept = sum(keeps_tokens("sample:0.1", conversation_id=id, split="train") for id in ids)
    # 2,000 ids: 200 expected, five standard deviations of sqrt(2000 * 0.1 * 0.9) = 13.4 are 67
    assert abs(kept - 200) < 67


@pytest.mark.parametrize("policy", ["sample:1.5", "sample:x", "sample:-1", "All", ""])
def test_tokens_policy_that_is_none_is_refused(policy):
    with pytest.raises(UserError, match="must be all, evaluation, none or sample"):
        keeps_tokens(policy, conversation_id="a", split="train")


def test_conversation_whose_tokens_were_not_kept_has_none(tmp_path):
    reader = written(tmp_path / "run", taboo(), tokens="none")
    assert not (tmp_path / "run" / "tokens").exists()
    assert reader.conversation("last").turns[0].said.size == 0
    assert token_counts(reader.record("last"))[0].said == 2
    assert reader.problems == []


def test_tokens_that_do_not_fit_are_reported_and_left_out(tmp_path):
    reader = written(tmp_path / "run", taboo())
    wrong = TABOO_TOKENS | {"turns": [TABOO_TOKENS["turns"][0] | {"said": [1], "logprobs": [-1.0]}]}
    with (tmp_path / "run" / "tokens" / "000.jsonl").open("ab") as file:
        file.write(line_from_json(wrong))
    assert reader.conversation("0").turns[0].said.size == 0
    assert reader.problems == [
        "tokens: conversation '000420-g05-2': turn 0 said 2 tokens, 1 are stored; shown without tokens"
    ]


def test_torn_last_line_is_reported_until_it_is_whole(tmp_path):
    reader = written(tmp_path / "run", taboo("000000-g00-0"))
    file = tmp_path / "run" / "conversations" / "train-000.jsonl"
    line = line_from_json(conversation_to_json(taboo("000000-g00-1")))
    file.write_bytes(file.read_bytes() + line[:-1])
    assert reader.ids() == ["000000-g00-0"]
    assert reader.problems == ["conversations/train-000.jsonl:2: the last line is incomplete, skipped"]
    file.write_bytes(file.read_bytes() + b"\n")
    assert reader.ids() == ["000000-g00-0", "000000-g00-1"]
    assert reader.problems == []


def test_bad_lines_are_reported_with_their_place_and_skipped(tmp_path):
    reader = written(tmp_path / "run", taboo("000000-g00-0"))
    newer = line_from_json(TABOO_RECORD | {"schema": "selfplay.conversation/2"})
    with (tmp_path / "run" / "conversations" / "train-000.jsonl").open("ab") as file:
        file.write(b"{oops\n\n[]\n" + b"\xff\n" + b"[" * 100_000 + b"\n" + newer)
        file.write(line_from_json(conversation_to_json(taboo("000000-g00-1"))))
    assert [conversation.id for conversation in reader.conversations()] == ["000000-g00-0", "000000-g00-1"]
    places = [problem.split(": ")[0] for problem in reader.problems]
    assert places == [f"conversations/train-000.jsonl:{number}" for number in (2, 4, 5, 6, 7)]
    assert "is not version 1" in reader.problems[-1]


def test_last_good_line_of_an_id_counts(tmp_path):
    reader = written(tmp_path / "run", taboo(seconds=1.0), taboo(seconds=2.0))
    with (tmp_path / "run" / "conversations" / "train-000.jsonl").open("ab") as file:
        file.write(line_from_json(TABOO_RECORD | {"turns": None}))
    assert [conversation.seconds for conversation in reader.conversations()] == [2.0]
    assert reader.manifest["counts"]["conversations"] == 1


def test_conversations_come_in_the_order_of_step_group_index(tmp_path):
    shuffled = ("000002-g00-0", "000001-g100-0", "000001-g99-10", "000001-g99-2", "1000000-g00-0", "000000-g00-0")
    reader = written(tmp_path / "run", *(taboo(id) for id in shuffled))
    assert reader.ids() == [
        "000000-g00-0",
        "000001-g99-2",
        "000001-g99-10",
        "000001-g100-0",
        "000002-g00-0",
        "1000000-g00-0",
    ]


def test_reader_sees_what_is_written_meanwhile(tmp_path):
    writer = RunWriter.create(tmp_path / "run", {}, "")
    reader = RunReader(tmp_path / "run")
    assert list(reader.conversations()) == []
    seen = []
    for index in range(3):
        writer.append(taboo(f"000000-g00-{index}"))
        seen.append([conversation.turns[0].said.size for conversation in reader.conversations(with_tokens=True)])
    assert seen == [[2], [2, 2], [2, 2, 2]]
    # run.json still says 0: the counts of a run that goes on come from its lines
    assert (reader.manifest["counts"]["turns"], reader.counts()["turns"]) == (0, 6)
    writer.close()
    assert reader.counts()["turns"] == 6


def test_compressed_files_are_read_as_well(tmp_path):
    written(tmp_path / "run", taboo("000000-g00-0"), taboo("000000-g00-1"))
    for name in ("conversations/train-000.jsonl", "tokens/000.jsonl"):
        plain = tmp_path / "run" / name
        plain.with_name(plain.name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    reader = RunReader(tmp_path / "run")
    assert [c.turns[1].said.tolist() for c in reader.conversations(with_tokens=True)] == [[5, 6, 2], [5, 6, 2]]
    assert reader.problems == []


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"{}\n" * 1000)[:-9]])
def test_broken_compressed_file_is_reported(tmp_path, content):
    reader = written(tmp_path / "run", taboo())
    (tmp_path / "run" / "conversations" / "train-001.jsonl.gz").write_bytes(content)
    assert len(list(reader.conversations())) == 1
    assert len(reader.problems) == 1
    assert reader.problems[0].startswith("conversations/train-001.jsonl.gz: ")


def test_run_without_manifest_can_be_read(tmp_path):
    reader = written(tmp_path / "run", taboo())
    (tmp_path / "run" / "run.json").write_text("{torn")
    assert reader.manifest == {}
    assert reader.counts()["turns"] == 2
    assert len(reader.problems) == 1
    assert reader.problems[0].startswith("run.json: not valid JSON")


@pytest.fixture
def run(tmp_path):
    return written(
        tmp_path / "run", *(taboo(id) for id in ("000000-g00-0", "000000-g00-1", "000000-g01-0", "000017-g00-0"))
    )


@pytest.mark.parametrize(
    ("reference", "id"),
    [
        ("000000-g00-1", "000000-g00-1"),
        ("0", "000000-g00-0"),
        ("2", "000000-g01-0"),
        ("last", "000017-g00-0"),
        ("000017", "000017-g00-0"),
        ("000000-g01", "000000-g01-0"),
    ],
)
def test_conversation_is_found_by_id_beginning_position_and_last(run, reference, id):
    assert run.record(reference)["id"] == id
    assert run.conversation(reference).id == id


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("000000-g00", r"fits 2 conversations of run run, such as 000000-g00-0, 000000-g00-1$"),
        ("000017-g00-1", "has no conversation '000017-g00-1'; did you mean 000017-g00-0"),
        ("4", "its 4 conversations are 000000-g00-0 to 000017-g00-0, or 0 to 3 by position"),
    ],
)
def test_conversation_that_is_not_one_is_refused_with_a_hint(run, reference, message):
    with pytest.raises(UserError, match=message):
        run.record(reference)


def test_empty_run_has_no_conversation(tmp_path):
    with pytest.raises(UserError, match="holds no conversations yet"):
        written(tmp_path / "run").record("0")


def created(runs, name, created_at):
    RunWriter.create(runs / name, {"created_at": created_at}, "").close()


def test_runs_are_listed_newest_first(tmp_path):
    created(tmp_path, "b", "2026-01-02T00:00:00.000Z")
    created(tmp_path, "a", "2026-01-03T00:00:00.000Z")
    created(tmp_path, "c", "2026-01-01T00:00:00.000Z")
    (tmp_path / "no-run").mkdir()
    assert [folder.name for folder in list_runs(tmp_path)] == ["a", "b", "c"]
    assert list_runs(tmp_path / "nowhere") == []


def test_find_run_takes_a_path_a_name_or_the_newest(tmp_path):
    created(tmp_path, "old", "2026-01-02T00:00:00.000Z")
    created(tmp_path, "new", "2026-01-03T00:00:00.000Z")
    assert find_run("old", tmp_path) == tmp_path / "old"
    assert find_run(str(tmp_path / "old"), Path("elsewhere")) == tmp_path / "old"
    assert find_run("", tmp_path) == tmp_path / "new"


def test_find_run_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="there are no runs in"):
        find_run("", tmp_path)
    with pytest.raises(UserError, match="no run 'x', and no other run in"):
        find_run("x", tmp_path)
    created(tmp_path, "taboo-smol", "2026-01-02T00:00:00.000Z")
    with pytest.raises(UserError, match=r"no run 'tabu-smol'; did you mean taboo-smol\?"):
        find_run("tabu-smol", tmp_path)
    with pytest.raises(UserError, match=r"no run 'x'; the newest in .* are taboo-smol"):
        find_run("x", tmp_path)


def test_chat_messages_are_the_view_of_one_role():
    assert chat_messages(taboo(), "giver") == [
        {"role": "system", "content": "You give clues."},
        {"role": "user", "content": "Please begin."},
        {"role": "assistant", "content": "It carries a road."},
    ]
    assert chat_messages(taboo(), "guesser") == [
        {"role": "system", "content": "Guess."},
        {"role": "user", "content": "It carries a road."},
        {"role": "assistant", "content": "[guess] bridge"},
    ]


def test_chat_messages_of_a_role_that_heard_nothing_between_two_turns():
    again = replace(taboo().turns[0], text="Over water.")
    messages = chat_messages(taboo(turns=(taboo().turns[0], again), players={}), "giver")
    assert [message["role"] for message in messages] == ["user", "assistant", "assistant"]


def test_chat_messages_refuses_a_role_that_is_not_there():
    with pytest.raises(ValueError, match="role 'buyer' is none of giver, guesser"):
        chat_messages(taboo(), "buyer")


def with_extras(tmp_path):
    """A run with one conversation, its rewards, and what was learnt later."""
    conversation = taboo()
    rewards = np.array([1.0, 0.5], dtype=np.float32)
    parts = {"payoff": Scores(values=rewards, why=("word guessed", ""))}
    scored = ScoredConversation(conversation=conversation, rewards=rewards, parts=parts)
    with RunWriter.create(tmp_path / "run", {}, "") as writer:
        writer.append(conversation, scored, terms={"payoff": Term(weight=1.0)})
        writer.annotate(conversation.id, by="learner@420", kind="learner", data={"kl_per_token": np.float32(1 / 3)})
        writer.annotate(conversation.id, by="rescore", kind="score", data={"raw": math.nan}, turn=1)
        writer.log_metrics(420, {"reward/total": 1 / 3, "kl/per_token_nats": math.inf, "play/turns": np.int64(2)})
    return RunReader(tmp_path / "run")


def test_rewards_are_stored_with_the_conversation_and_come_back(tmp_path):
    reader = with_extras(tmp_path)
    scored = reader.scored("0")
    assert scored.rewards.tolist() == [1.0, 0.5]
    assert scored.parts["payoff"].why == ("word guessed", "")
    assert scored.conversation.turns[0].said.tolist() == [1053, 2]
    assert [one.conversation.turns[0].said.size for one in reader.all_scored()] == [0]
    assert reader.record("0")["rewards"]["per_role"] == {"giver": 1.0, "guesser": 0.5}


def test_conversation_without_rewards_is_not_scored(tmp_path):
    reader = written(tmp_path / "run", taboo())
    assert reader.scored("0") is None
    assert list(reader.all_scored()) == []


def test_rewards_that_contradict_themselves_are_reported_and_left_out(tmp_path):
    reader = with_extras(tmp_path)
    file = tmp_path / "run/conversations/train-000.jsonl"
    file.write_text(file.read_text().replace('"per_turn": [1.0, 0.5]', '"per_turn": [2.0, 0.5]'))
    assert reader.scored("0") is None
    assert reader.conversation("0").id == "000420-g05-2"
    assert "turn 0 has 2, but what it is made of sums to 1" in reader.problems[0]


def test_annotations_are_folded_onto_their_conversation_in_order(tmp_path):
    reader = with_extras(tmp_path)
    first, second = reader.record("0")["annotations"]
    assert (first["by"], first["kind"], first["turn"], first["data"]) == (
        "learner@420",
        "learner",
        None,
        {"kl_per_token": 0.333333},
    )
    assert (second["turn"], second["data"]) == (1, {"raw": None})
    assert next(reader.records())["annotations"] == [first, second]
    line = json.loads((tmp_path / "run/annotations.jsonl").read_text().splitlines()[0])
    assert (line["schema"], line["conversation"]) == ("selfplay.annotation/1", "000420-g05-2")


def test_annotation_that_json_cannot_hold_is_refused(tmp_path):
    with (
        RunWriter.create(tmp_path / "run", {}, "") as writer,
        pytest.raises(RecordError, match=r"annotation of conversation x cannot be stored: .*is a set"),
    ):
        writer.annotate("x", by="me", kind="tag", data={"words": {"a"}})


def test_metrics_are_exact_and_null_where_they_are_not_finite(tmp_path):
    [line] = with_extras(tmp_path).metrics()
    del line["at"]
    assert line == {
        "schema": "selfplay.metrics/1",
        "step": 420,
        "reward/total": 1 / 3,
        "kl/per_token_nats": None,
        "play/turns": 2,
    }


def test_bad_annotations_and_metrics_are_reported_and_skipped(tmp_path):
    reader = with_extras(tmp_path)
    for name, line in (("annotations", '{"schema": "selfplay.annotation/1"}'), ("metrics", "{torn")):
        with (tmp_path / "run" / f"{name}.jsonl").open("a") as file:
            file.write(line + "\n")
    assert (len(reader.record("0")["annotations"]), len(reader.metrics())) == (2, 1)
    assert [problem.split(": ")[0] for problem in reader.problems] == ["run/annotations.jsonl:3", "run/metrics.jsonl:2"]
    assert "names no conversation, or holds no data" in reader.problems[0]


def test_evaluation_of_a_version_comes_before_the_step_it_plays(tmp_path):
    ids = ("000010-g00-0", "000009-g00-0", "000010-e10-0", "000010-e02-0")
    reader = written(tmp_path / "run", *(taboo(id) for id in ids))
    assert reader.ids() == ["000009-g00-0", "000010-e02-0", "000010-e10-0", "000010-g00-0"]
