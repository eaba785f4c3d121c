import gzip
import json
import os
import random
import re
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from six_conversations import IDS, write_six

from benchmarks.stored_run import write_run
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.errors import UserError
from selfplay.preferences import Preference, append_entry, withdraw
from selfplay.run_reader import RunReader
from selfplay.score import Term
from selfplay.store import RunWriter
from selfplay.transcript_index import TranscriptIndex
from selfplay.transcript_shards import open_lines, shards
from selfplay.transcript_tables import VERSION
from selfplay.verifiable import verifiable_parts

DOCUMENT = Path(__file__).parent.parent / "docs" / "filters.md"
TRAIN = Path("conversations", "train-000.jsonl")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run as training leaves it, with lines of every kind."""
    return write_run(tmp_path_factory.mktemp("stored") / "run", conversations=60, steps=4, tokens="sample:0.5")


@pytest.fixture
def six(tmp_path):
    return write_six(tmp_path / "six")


@pytest.fixture
def opened():
    """Indexes, read and closed after the test."""
    indexes = []

    def open_(folder, **arguments):
        indexes.append(TranscriptIndex(folder, **arguments))
        indexes[-1].refresh()
        return indexes[-1]

    yield open_
    for index in indexes:
        index.close()


def numbers_of(index, name, **arguments):
    return {row.id: getattr(row, name) for row in index.page(limit=1000, **arguments).rows}


def append(path, *records):
    with path.open("ab") as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in records)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def record_of(folder, number=0):
    return json.loads(lines_of(folder / TRAIN)[number])


def scored(id, rewards, parts, *, trained=("host",), terms=None, seed=1):
    """A conversation of as many turns as there are rewards, host and guest in turn."""
    roles = ("host", "guest")
    players = {role: PlayerInfo(policy="learner", version=2, model="tiny", trained=role in trained) for role in roles}
    turns = tuple(
        Turn(role=roles[number % 2], text=f"Turn {number}.", heard_text="", player="learner@2", finish="stop")
        for number in range(len(rewards))
    )
    conversation = Conversation(
        id=id,
        scenario=Scenario(env="chitchat", seed=seed, split="train", roles=roles),
        players=players,
        turns=turns,
        outcome=Outcome(status="terminated", reason="turn_limit"),
    )
    scores = {name: Scores(values=np.array(values, dtype=np.float32)) for name, values in parts.items()}
    return ScoredConversation(conversation=conversation, rewards=np.array(rewards, dtype=np.float32), parts=scores)


def write_scored(folder, conversations, terms, *, config=""):
    with RunWriter.create(folder, {}, config) as writer:
        for one in conversations:
            writer.append(one.conversation, one, terms=terms)
    return folder


# ----- the same as the files -----


def test_record_is_what_the_run_reader_reads(stored, opened):
    index, reader = opened(stored), RunReader(stored)
    assert index.ids() == reader.ids()
    assert [index.record(id) for id in index.ids()] == list(reader.records())
    assert any("annotations" in index.record(id) for id in index.ids())
    assert index.problems == reader.problems == []
    assert index.record("000000-g99-0") is None


def test_packed_files_are_read_as_plain_ones_are(stored, opened, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "packed", ignore=shutil.ignore_patterns("index.sqlite*"))
    for path in [*folder.glob("*/*.jsonl"), folder / "annotations.jsonl"]:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    index, plain = opened(folder), opened(stored)
    assert [index.record(id) for id in index.ids()] == [plain.record(id) for id in plain.ids()]
    assert index.page(limit=1000) == plain.page(limit=1000)
    assert not index.refresh()
    path = folder / f"{TRAIN}.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).splitlines(keepends=True)[0]))
    assert index.refresh()
    assert len(index.ids("split=train")) == 1


def test_tokens_are_the_newest_line_of_a_conversation(stored, opened):
    index = opened(stored)
    newest = {}
    for line in lines_of(stored / "tokens" / "000.jsonl"):
        record = json.loads(line)
        newest[record["conversation"]] = record
    assert 0 < len(newest) < len(index.ids())
    for id in index.ids():
        assert index.tokens(id) == newest.get(id)
        assert index.has_tokens(id) == (id in newest)


def test_damaged_lines_are_reported_as_the_run_reader_reports_them(six, opened):
    old = {**record_of(six), "schema": "selfplay.conversation/0"}
    odd = {**record_of(six), "id": "000009-g00-0", "colour": "green"}
    wrong = {**record_of(six), "id": "000009-g00-1", "turns": [{"role": 3}]}
    with (six / TRAIN).open("ab") as file:
        file.write(b"{torn\n\n")
    append(six / TRAIN, old, odd, wrong, {"schema": "selfplay.conversation/1"})
    append(six / "annotations.jsonl", {"schema": "selfplay.annotation/1", "conversation": 3, "data": {}}, [])
    append(six / "tokens" / "000.jsonl", {"schema": "selfplay.tokens/1"}, {"schema": "selfplay.tokens/9"})
    with (six / TRAIN).open("ab") as file:
        file.write(b'{"schema": "selfplay.conver')
    index, reader = opened(six), RunReader(six)
    assert sorted(index.ids()) == sorted([*IDS, "000009-g00-0"])
    assert [record["id"] for record in reader.records()] == index.ids()
    assert index.record("000009-g00-0")["colour"] == "green"
    reader.conversation(IDS[0])
    assert sorted(index.problems) == sorted(reader.problems)
    assert len(index.problems) == 9


def test_rewards_that_do_not_add_up_count_as_none(six, opened):
    lines = lines_of(six / TRAIN)
    record = json.loads(lines[0])
    record["rewards"]["per_role"]["host"] += 1
    (six / TRAIN).write_bytes(json.dumps(record).encode() + b"\n" + b"".join(lines[1:]))
    index = opened(six)
    assert index.row(IDS[0]).reward is None
    assert index.record(IDS[0]) == RunReader(six).record(IDS[0])
    assert index.record(IDS[0])["rewards"] is None
    assert "its rewards cannot be read" in index.problems[0]


def test_last_line_of_an_id_counts_whatever_the_order(six, opened, tmp_path):
    again = {**record_of(six), "turns": [{**record_of(six)["turns"][0], "text": "Quite another thing."}]}
    again |= {"rewards": None, "outcome": None}
    append(six / TRAIN, again)
    index = opened(six)
    assert index.ids("quite another") == [IDS[0]]
    assert index.ids("hello") == [IDS[1]]
    assert index.row(IDS[0]).turns == 1
    assert index.row(IDS[0]).tags == ("odd one",)  # what was learnt of the id stays
    assert index.row(IDS[1]).surprise == 0  # its group lost a reward
    assert len(index.ids()) == 6


HUGE = 10**400


def with_rewards(record, **changes):
    return {**record, "rewards": {**record["rewards"], **changes}}


def absurd_rewards(record):
    """What nobody can add up, each in a block of its own."""
    parts, num_turns = record["rewards"]["parts"], len(record["turns"])
    yield with_rewards(record, per_turn=[1e308] * num_turns, per_role={}, parts=[])
    yield with_rewards(record, per_turn=[HUGE] * num_turns)
    yield with_rewards(record, per_role={"host": HUGE})
    for name in ("raw", "value", "weight"):
        yield with_rewards(record, parts=[{**parts[0], name: HUGE}, *parts[1:]])
        yield with_rewards(record, parts=[{**parts[0], name: 1e300}, *parts[1:]])
    yield with_rewards(record, parts=[*parts, *({**parts[0], "gate": True, "value": 1e38} for _ in range(9))])


def test_rewards_of_absurd_size_cannot_be_read_and_everything_else_can(six, opened):
    whole, lines = record_of(six), lines_of(six / TRAIN)
    for record in absurd_rewards(whole):
        (six / TRAIN).write_bytes(json.dumps(record).encode() + b"\n" + b"".join(lines[1:]))
        index, reader = opened(six), RunReader(six)
        assert index.row(IDS[0]).reward is None
        assert len(index.page(sort="reward", limit=1000).rows) == len(list(reader.records())) == 6
        assert index.record(IDS[0]) == reader.record(IDS[0])
        assert "its rewards cannot be read" in index.problems[0]
        assert reader.problems == index.problems


def test_annotation_of_absurd_size_says_nothing(six, opened):
    line = {"schema": "selfplay.annotation/1", "conversation": IDS[0], "by": "learner@2", "turn": None}
    data = {"advantage": {"host": HUGE, "guest": 2.0}, "kl_per_token": HUGE, "nll_per_token": -HUGE}
    append(
        six / "annotations.jsonl",
        {**line, "kind": "learner", "data": data},
        {**line, "kind": "likelihood", "data": {"num_tokens": HUGE, "kl": 1.0, "nll": 1.0}},
        {**line, "kind": "likelihood", "conversation": IDS[1], "data": {"num_tokens": 1e-300, "kl": 1e300, "nll": 2}},
        {**line, "kind": "learner", "conversation": IDS[2], "data": {"advantage": {"host": 1e308, "guest": 1e308}}},
        {**line, "kind": "tag", "turn": HUGE, "data": {"tag": "late"}},
    )
    index = opened(six)
    assert (index.row(IDS[0]).advantage, index.row(IDS[0]).kl, index.row(IDS[0]).nll) == (2.0, None, None)
    assert (index.row(IDS[1]).kl, index.row(IDS[2]).advantage) == (None, None)
    assert "late" in index.row(IDS[0]).tags
    assert index.problems == []


def test_numbers_of_tokens_that_are_none_make_a_line_unreadable(six, opened):
    record = record_of(six)
    append(six / TRAIN, {**record, "id": "000009-g00-0", "turns": [{**record["turns"][0], "num_tokens": "many"}]})
    index, reader = opened(six), RunReader(six)
    assert len(index.ids()) == len(list(reader.records())) == 6
    assert index.problems == reader.problems
    assert "num_heard_tokens and num_tokens should be whole numbers" in index.problems[0]


def test_part_without_a_turn_counts_nowhere(six, opened):
    record, lines = record_of(six), lines_of(six / TRAIN)
    parts = [{**record["rewards"]["parts"][0], "name": "extra", "turn": None}, *record["rewards"]["parts"]]
    before = opened(six).row(IDS[0])
    changed = json.dumps(with_rewards(record, parts=parts)).encode() + b"\n"
    (six / TRAIN).write_bytes(changed + b"".join(lines[1:]))
    index = opened(six)
    assert index.row(IDS[0]).reward == before.reward
    assert index.record(IDS[0]) == RunReader(six).record(IDS[0])
    assert index.problems == []


def test_torn_tokens_line_with_the_next_one_in_it_is_skipped_as_the_run_reader_does(six, opened):
    path = six / "tokens" / "000.jsonl"
    first, second = [{"schema": "selfplay.tokens/1", "conversation": id, "turns": []} for id in (IDS[0], IDS[1])]
    path.write_bytes(b"")
    append(path, first)
    glued = json.dumps({**first, "tokenizer": "torn"})[:-20] + json.dumps(second)
    spoilt = json.dumps(first).replace("[]", "[\0]")
    with path.open("ab") as file:
        file.write(f"{glued}\n{spoilt}\n".encode())
    index, reader = opened(six), RunReader(six)
    for id in (IDS[0], IDS[1]):
        assert index.tokens(id) == reader.tokens_record(id)
        assert index.has_tokens(id) == (id == IDS[0])
    assert index.tokens(IDS[0]) == first
    assert index.problems == reader.problems
    assert [problem.partition(" ")[0] for problem in index.problems] == ["tokens/000.jsonl:2:", "tokens/000.jsonl:3:"]


def test_of_one_id_in_two_files_the_last_file_counts_whichever_grew_last(six, opened):
    record = record_of(six)
    later = {**record, "rewards": None, "turns": [{**record["turns"][0], "text": "In the later file."}]}
    tokens = {"schema": "selfplay.tokens/1", "conversation": IDS[0], "tokenizer": "later", "turns": []}
    append(six / "conversations" / "train-001.jsonl", later)
    append(six / "tokens" / "001.jsonl", tokens)
    index, reader = opened(six), RunReader(six)
    assert reader.record(IDS[0])["turns"][0]["text"] == "In the later file."
    append(six / TRAIN, {**later, "turns": [{**record["turns"][0], "text": "Grew last."}]})
    append(six / "tokens" / "000.jsonl", {**tokens, "tokenizer": "grew last"})
    assert index.refresh()
    (six / "index.sqlite").rename(six / "old.sqlite")
    for one in (index, opened(six)):
        assert one.ids("later file") == [IDS[0]]
        assert one.ids("grew last") == []
        assert one.record(IDS[0]) == reader.record(IDS[0]) == RunReader(six).record(IDS[0])
        assert one.tokens(IDS[0]) == reader.tokens_record(IDS[0]) == RunReader(six).tokens_record(IDS[0]) == tokens


def test_text_after_a_nul_is_found(six, opened):
    record = record_of(six)
    append(six / TRAIN, {**record, "turns": [{**record["turns"][0], "text": "before \0afterwards"}]})
    index = opened(six)
    assert index.ids("afterwards") == index.ids('"before \0afterwards"') == [IDS[0]]
    assert index.record(IDS[0])["turns"][0]["text"] == "before \0afterwards"


def test_repeats_is_the_share_of_turns_that_say_what_an_earlier_one_said(six, opened):
    record = record_of(six)
    texts = ["yes", "no", "yes", "yes", "maybe"]  # the third and fourth repeat the first
    turns = [{**record["turns"][0], "text": text} for text in texts]
    append(six / TRAIN, {**record, "rewards": None, "turns": turns})
    assert opened(six).row(IDS[0]).repeats == 0.4


def pack(folder):
    for path in folder.glob("*/*.jsonl"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


@pytest.mark.parametrize("most_bytes", [64_000_000, 100])
def test_packed_file_is_unpacked_once_for_all_its_lines(stored, opened, tmp_path, monkeypatch, most_bytes):
    folder = shutil.copytree(stored, tmp_path / "packed", ignore=shutil.ignore_patterns("index.sqlite*"))
    pack(folder)
    monkeypatch.setattr("selfplay.transcript_shards.MOST_UNPACKED_BYTES", most_bytes)
    index, plain = opened(folder), opened(stored)
    unpacked = []
    monkeypatch.setattr(
        "selfplay.transcript_shards.open_lines", lambda path: unpacked.append(path.name) or open_lines(path)
    )
    assert index.heat_scale() == plain.heat_scale()
    once = 1 if most_bytes > 100 else 2  # a large file once more, after a look at how large it is
    assert unpacked.count("000.jsonl.gz") == once
    ids = index.ids("split=train")[:5]
    assert [index.record(id) for id in ids] == [plain.record(id) for id in ids]
    assert unpacked.count(f"{TRAIN.name}.gz") == (1 if once == 1 else 2 * len(ids))


# ----- what a row says -----


def test_rewards_of_a_row_are_those_of_the_trained_roles(tmp_path, opened):
    # The host speaks turns 0 and 2, the guest, which is not trained, turn 1.
    parts = {"question": [1, 1, 0], "praise": [np.nan, 4, 3], "words": [5, 6, 7]}
    terms = {"question": Term(weight=1.0), "praise": Term(weight=0.5), "words": Term(weight=0.0)}
    write_scored(tmp_path / "run", [scored("000003-g00-0", [1, 3, 1.5], parts)], terms)
    row = opened(tmp_path / "run").row("000003-g00-0")
    assert row.reward == 2.5  # 1 + 1.5
    assert row.raw == {"question": 0.5, "praise": 3, "words": 6}  # (1 + 0) / 2, 3 alone, (5 + 7) / 2
    assert row.parts == {"question": 1, "praise": 1.5, "words": 0}
    assert row.per_role == {"host": 2.5, "guest": 3}
    assert (row.step, row.version, row.model, row.players) == (3, 2, "tiny", "learner@2/learner@2")


def test_what_parts_add_is_after_gates(tmp_path, opened):
    # Turn 0 has 2 before a gate of one half; turn 2 has -1, which a gate leaves as it is.
    parts = {"question": [2, 0, -1], "polite": [0.5, 1, 0]}
    terms = {"question": Term(weight=1.0), "polite": Term(weight=0.0, range=(0, 1), is_gate=True)}
    write_scored(tmp_path / "run", [scored("000000-g00-0", [1, 0, -1], parts)], terms)
    index = opened(tmp_path / "run")
    row = index.row("000000-g00-0")
    assert row.reward == 0
    assert row.parts == {"question": 0, "polite": None}  # 2 x 0.5 - 1
    assert row.raw == {"question": 0.5, "polite": 0.25}
    assert index.info().weights == {"question": 1.0, "polite": None}


def test_surprise_is_the_distance_from_the_mean_of_the_group(tmp_path, opened):
    rewards = {"000000-g00-0": 1.0, "000000-g00-1": 2.0, "000000-g00-2": 6.0, "000000-g01-0": 5.0}
    conversations = [scored(id, [reward], {"question": [reward]}) for id, reward in rewards.items()]
    index = opened(write_scored(tmp_path / "run", conversations, {"question": Term(weight=1.0)}))
    # the group's mean is (1 + 2 + 6) / 3 = 3; who is alone does not surprise
    surprises = {"000000-g00-0": 2, "000000-g00-1": 1, "000000-g00-2": 3, "000000-g01-0": 0}
    assert numbers_of(index, "surprise") == surprises
    assert index.ids(sort="surprise")[:2] == ["000000-g00-2", "000000-g00-0"]
    assert [row.id for row in index.siblings("000000-g00-1")] == [*rewards][:3]
    assert [row.group_mean for row in index.siblings("000000-g00-1")] == [3, 3, 3]


def test_disagreement_is_between_learned_and_verifiable_rewards(tmp_path, opened):
    terms = {name: Term(weight=1.0) for name in ("exact", "rm:kind", "question")}
    ids = ["000000-g00-0", "000000-g01-0", "000000-g02-0", "000000-g03-0"]
    conversations = [
        scored(id, [exact + kind + 9], {"exact": [exact], "rm:kind": [kind], "question": [9]})
        for id, exact, kind in zip(ids, [0, 2, 2, 0], [1, 1, 7, 7], strict=True)
    ]
    config = "alarms:\n  verifiable: [exact]\n"
    index = opened(write_scored(tmp_path / "run", conversations, terms, config=config))
    # exact: mean 1, deviation 1; rm:kind: mean 4, deviation 3.  Each is one deviation below or above.
    assert numbers_of(index, "disagreement") == pytest.approx(dict(zip(ids, [0, 2, 0, 2], strict=True)))
    assert index.ids("disagreement>1") == [ids[1], ids[3]]
    assert "disagreement" in index.info().has


def test_disagreement_is_unknown_without_a_verifiable_reward(six, opened):
    index = opened(six)
    assert set(numbers_of(index, "disagreement").values()) == {None}
    assert index.ids("disagreement!=null") == []
    assert "disagreement" not in index.info().has


def test_newest_annotation_of_the_learner_counts(six, opened):
    index = opened(six)
    assert index.row(IDS[0]).advantage == 0.375  # (0.5 + 0.25) / 2
    assert index.row(IDS[0]).kl == 0.04
    line = {"schema": "selfplay.annotation/1", "conversation": IDS[0], "by": "learner@2", "turn": None}
    append(
        six / "annotations.jsonl",
        {**line, "kind": "likelihood", "data": {"num_tokens": 4, "kl": 2.0, "nll": 6.0}},
        {**line, "kind": "learner", "data": {"advantage": {"host": -1.0}, "kl_per_token": 0.5}},
    )
    assert index.refresh()
    row = index.row(IDS[0])
    assert (row.advantage, row.kl, row.nll) == (-1, 0.5, 1.5)  # the learner's KL; 6 / 4


def test_annotation_that_comes_before_its_conversation_counts(six, opened):
    lines = lines_of(six / TRAIN)
    (six / TRAIN).write_bytes(b"".join(lines[1:]))
    index = opened(six)
    assert index.row(IDS[0]) is None
    (six / TRAIN).write_bytes(b"".join([*lines[1:], lines[0]]))
    assert index.refresh()
    assert index.row(IDS[0]).kl == 0.04
    assert index.row(IDS[0]).flags == ("tagged:odd one",)


def test_tags_and_labels_can_be_taken_back(six, opened):
    index = opened(six)
    line = {"schema": "selfplay.annotation/1", "conversation": IDS[1], "by": "person:x", "kind": "tag"}
    append(six / "annotations.jsonl", {**line, "turn": None, "data": {"tag": "rude"}})
    append(six / "annotations.jsonl", {**line, "turn": 1, "data": {"tag": "rude"}})
    label = Preference(
        at="t", left=IDS[1], right=IDS[0], focus="host", question="?", choice="left", by="person:x", stored_id="a"
    )
    append_entry(six, label)
    assert index.refresh()
    assert index.row(IDS[1]).tags == ("rude",)
    assert index.ids("tag=rude & labelled=true & flag=labelled & flag=tagged:rude") == [IDS[1]]
    assert index.ids("labelled=true") == [IDS[0], IDS[1]]
    append(six / "annotations.jsonl", {**line, "turn": None, "data": {"tag": "rude", "remove": True}})
    withdraw(six, label, at="t")
    assert index.refresh()
    assert index.ids("tag=rude") == [IDS[1]]  # turn 1 still has it
    assert index.ids("labelled=true") == []
    append(six / "annotations.jsonl", {**line, "turn": 1, "data": {"tag": "rude", "remove": True}})
    assert index.refresh()
    assert index.row(IDS[1]).flags == ("protocol",)
    assert index.info().tags == ("odd one",)


def test_info_says_what_there_is_to_filter_by(six, opened):
    info = opened(six).info()
    assert (info.conversations, info.steps, info.versions) == (6, (0, 5), (0, 3, 5))
    assert (info.parts, info.roles, info.envs) == (("question", "praise"), ("host", "guest"), ("chitchat",))
    assert info.splits == ("held_out", "train")
    assert {"turn_limit", "leaving"} < set(info.reasons)
    assert info.tags == ("odd one",)
    assert {"cut", "failed", "tagged:odd one"} < set(info.flags)
    assert info.newest == IDS[-1]
    assert {"rewards", "advantage", "kl", "groups"} <= info.has
    assert not {"nll", "labelled", "disagreement"} & info.has


# ----- lists -----


def test_unknown_numbers_come_last_in_both_orders(six, opened):
    index = opened(six)
    known = [id for id, reward in numbers_of(index, "reward").items() if reward is not None]
    rewards = numbers_of(index, "reward")
    down, up = index.ids(sort="reward"), index.ids(sort="reward", descending=False)
    assert set(down[len(known) :]) == set(up[len(known) :]) == set(IDS) - set(known)
    assert len(known) == 4
    assert [rewards[id] for id in down[:4]] == sorted((rewards[id] for id in known), reverse=True)
    assert [rewards[id] for id in up[:4]] == sorted(rewards[id] for id in known)


def test_newest_and_oldest_are_in_order_of_ids(six, opened):
    index = opened(six)
    by_id = ["000000-g00-0", "000000-g00-1", "000003-e00-0", "000003-g00-0", "000005-g00-0", "000005-g01-0"]
    assert index.ids() == by_id
    assert index.ids(sort="newest") == index.ids(descending=False) == by_id[::-1]
    assert index.ids(sort="newest", descending=False) == by_id
    assert index.neighbours("000003-e00-0") == ("000000-g00-1", "000003-g00-0")
    assert index.neighbours(by_id[0]) == (None, by_id[1])
    assert index.neighbours(by_id[-1]) == (by_id[-2], None)


def test_page_is_a_part_of_the_sorted_list(stored, opened):
    index = opened(stored)
    everything = [row.id for row in index.page(sort="reward", limit=1000).rows]
    assert everything == index.ids(sort="reward")
    pages = [index.page(sort="reward", offset=offset, limit=7) for offset in range(0, 70, 7)]
    assert [row.id for page in pages for row in page.rows] == everything
    assert {page.total for page in pages} == {len(everything)} == {pages[0].of}
    assert index.page("reward>1e9").rows == ()
    assert index.page("reward>1e9").of == len(everything)


def test_conversations_of_a_scenario_and_group_stand_together(stored, opened):
    index = opened(stored)
    rows = index.page(sort="reward", by_scenario=True, limit=1000).rows
    assert sorted(row.id for row in rows) == sorted(index.ids())
    for key in ("scenario", "group"):
        keys = [(row.split, getattr(row, key)) for row in rows]
        starts = [key for number, key in enumerate(keys) if number == 0 or keys[number - 1] != key]
        assert len(starts) == len(set(keys))
    best = {}
    for row in rows:
        reward = -np.inf if row.reward is None else row.reward
        best[row.split, row.scenario] = max(reward, best.get((row.split, row.scenario), -np.inf))
    assert list(best.values()) == sorted(best.values(), reverse=True)


def test_wrong_filter_or_key_is_said(six, opened):
    index = opened(six)
    with pytest.raises(UserError, match=r"unknown field 'reward.qestion'; did you mean reward.question"):
        index.page("reward.qestion<1")
    with pytest.raises(UserError, match=r"nothing is sorted by 'value.qestion'; did you mean value.question"):
        index.page(sort="value.qestion")


def examples():
    block = re.search(r"```filter\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return [line.split("  #")[0].strip() for line in block[1].splitlines()]


@pytest.mark.parametrize("example", examples())
def test_example_of_the_filters_page_is_read(stored, opened, example):
    page = opened(stored).page(example)
    assert 0 <= page.total < page.of


def test_fields_of_the_filters_page_are_those_there_are(six, opened):
    table = DOCUMENT.read_text(encoding="utf-8").partition("## Fields")[2].partition("## Examples")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    families = {"reward.PART", "value.PART", "role.ROLE", "payoff.ROLE", "player.ROLE"}
    own = {name for name in opened(six).fields().by_name if "." in name}
    of_roles = {f"{family}.{role}" for family in ("role", "payoff", "player") for role in ("host", "guest")}
    assert own == {"reward.question", "reward.praise", "value.question", "value.praise", *of_roles}
    assert named - families == opened(six).fields().by_name.keys() - own


def test_heat_scale_is_the_quantiles_of_the_tokens(stored, opened):
    values = {"kl": [], "gap": []}
    newest = {}
    for line in lines_of(stored / "tokens" / "000.jsonl"):
        newest[json.loads(line)["conversation"]] = json.loads(line)
    for record in newest.values():
        kl = [value for turn in record["turns"] for value in turn["kl"] or ()]
        pairs = [
            (a, b)
            for turn in record["turns"]
            for a, b in zip(turn["logprobs"], turn["logprobs_learner"] or (), strict=False)
            if b is not None
        ]
        values["kl"] += kl
        values["gap"] += [a - b for a, b in pairs]
        assert len(kl) < 200  # of fewer numbers, all are taken
    scale = opened(stored).heat_scale()
    for name, numbers in values.items():
        assert scale[name] == pytest.approx(np.quantile(numbers, [0.02, 0.25, 0.5, 0.75, 0.98]).tolist())


# ----- files that grow, change and vanish -----


def test_refresh_reads_what_is_new_and_says_whether_there_was_anything(six, opened):
    index = opened(six)
    assert not index.refresh()
    line = json.dumps({**record_of(six), "id": "000009-g00-0"}).encode() + b"\n"
    with (six / TRAIN).open("ab") as file:
        file.write(line[:100])
        file.flush()
        assert not index.refresh()
        assert index.problems == ["conversations/train-000.jsonl:6: the last line is incomplete, skipped"]
        file.write(line[100:])
    assert index.refresh()
    assert index.problems == []
    assert index.ids()[-1] == "000009-g00-0"
    assert index.record("000009-g00-0") == json.loads(line)


@pytest.mark.parametrize("seed", range(3))
def test_index_that_grew_in_pieces_is_that_of_the_whole(stored, opened, tmp_path, seed):
    draw = random.Random(seed)
    folder = tmp_path / "growing"
    for name in ("conversations", "tokens"):
        (folder / name).mkdir(parents=True)
    shutil.copy(stored / "config.yaml", folder)
    files = [*stored.glob("conversations/*.jsonl"), *stored.glob("tokens/*.jsonl"), stored / "annotations.jsonl"]
    left = {path: path.read_bytes() for path in files}
    index = opened(folder)
    while any(left.values()):
        path = draw.choice([path for path, rest in left.items() if rest])
        size = draw.randrange(1, 40_000)
        with (folder / path.relative_to(stored)).open("ab") as file:
            file.write(left[path][:size])
        left[path] = left[path][size:]
        index.refresh()
    whole = opened(stored)
    assert index.page(limit=1000) == whole.page(limit=1000)
    assert [index.record(id) for id in index.ids()] == [whole.record(id) for id in whole.ids()]
    assert index.ids("question & !sorry") == whole.ids("question & !sorry")


def test_replaced_shrunk_and_rewritten_files_are_read_anew(six, opened):
    index, path = opened(six), six / TRAIN
    lines = lines_of(path)
    path.write_bytes(lines[1])  # shorter
    assert index.refresh()
    assert index.ids("split=train") == [IDS[1]]
    path.write_bytes(b"".join(lines[2:]) + b"".join(lines))  # longer, and another beginning
    assert index.refresh()
    assert len(index.ids("split=train")) == 5
    draft = path.with_name(".draft")
    draft.write_bytes(lines[0] + lines[1])
    draft.replace(path)
    assert index.refresh()
    assert index.ids("split=train") == [IDS[0], IDS[1]]
    path.unlink()
    assert index.refresh()
    assert index.ids() == [IDS[3]]
    shutil.rmtree(six)
    index.refresh()
    assert index.ids() == []
    assert index.record(IDS[0]) is None


def test_lines_that_vanished_before_anybody_looked_are_no_records(six, opened):
    index = opened(six)
    (six / TRAIN).write_bytes(b"".join(lines_of(six / TRAIN)[1:]))
    assert index.record(IDS[0]) is None  # another conversation stands there now
    (six / TRAIN).unlink()
    assert index.record(IDS[1]) is None
    assert any("train-000.jsonl" in problem for problem in index.problems)


@pytest.mark.parametrize("also", ["index.sqlite-*", "nothing"])
def test_index_that_is_deleted_while_it_is_used_changes_nothing(six, opened, also):
    index = opened(six)
    before = index.page("hello | reward<0", sort="reward")
    for path in [six / "index.sqlite", *six.glob(also)]:
        path.unlink()
    assert index.page("hello | reward<0", sort="reward") == before  # also before anybody noticed
    assert index.refresh()
    assert not index.refresh()
    assert (six / "index.sqlite").exists()
    assert index.page("hello | reward<0", sort="reward") == before
    assert opened(six).page("hello | reward<0", sort="reward") == before


DAMAGES = {
    "emptied": lambda file: file.write_bytes(b""),
    "overwritten": lambda file: file.write_bytes(b"not a database at all " * 500),
    "of another version": lambda file: change(file, f"PRAGMA user_version = {VERSION + 1}", "DROP TABLE parts"),
    "somebody else's": lambda file: change(file, "PRAGMA application_id = 0", "DROP TABLE parts", "CREATE TABLE x (a)"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_index_that_is_no_index_is_built_again(six, opened, damage):
    index = opened(six)
    before = index.page("hello | reward<0", sort="reward")
    index.close()
    damage(six / "index.sqlite")
    assert opened(six).page("hello | reward<0", sort="reward") == before
    assert [opened(six).record(id) for id in opened(six).ids()] == list(RunReader(six).records())


def change(file, *statements):
    connection = sqlite3.connect(file)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_index_that_breaks_while_it_is_used_is_built_again(stored, opened):
    index = opened(stored)
    before = index.ids("sorry")
    size = (stored / "index.sqlite").stat().st_size
    index._file._reader.execute("PRAGMA query_only = OFF")
    index._file._reader.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (stored / "index.sqlite").open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(size - 8192))
    assert index.ids("sorry") == before
    assert opened(stored).ids("sorry") == before


def test_index_of_a_folder_that_cannot_be_written_is_a_temporary_file(six, opened):
    (six / "index.sqlite").mkdir()
    index = opened(six)
    assert len(index.ids()) == 6
    assert "index.sqlite cannot be used: unable to open database file" in index.problems[0]
    index.close()
    assert list((six / "index.sqlite").iterdir()) == []


def test_index_never_follows_a_link(six, opened, tmp_path):
    other = tmp_path / "other.sqlite"
    change(other, "CREATE TABLE mine (a)")
    content = other.read_bytes()
    (six / "index.sqlite").symlink_to(other)
    index = opened(six)
    assert len(index.ids()) == 6
    assert other.read_bytes() == content
    assert "index.sqlite is a link" in index.problems[0]


def test_several_readers_and_writers_agree(stored, opened, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "run", ignore=shutil.ignore_patterns("index.sqlite*"))
    path = folder / TRAIN
    lines = lines_of(path)
    path.write_bytes(b"".join(lines[:10]))
    indexes = [opened(folder) for _ in range(3)]
    wrong = []

    def look(index):
        for _ in range(20):
            index.refresh()
            page = index.page(sort="reward", limit=1000)
            if len(page.rows) != page.total or page.total != page.of or not index.info().conversations:
                wrong.append(page)

    threads = [threading.Thread(target=look, args=(index,)) for index in (*indexes, indexes[0])]
    for thread in threads:
        thread.start()
    for line in lines[10:]:
        with path.open("ab") as file:
            file.write(line)
    for thread in threads:
        thread.join()
    assert wrong == []
    for index in indexes:
        index.refresh()
        assert index.page(limit=1000) == opened(stored).page(limit=1000)


def test_run_with_more_parts_than_columns_is_still_read(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("selfplay.transcript_indexing.MOST_COLUMNS", 3)
    terms = {f"part{number}": Term(weight=1.0) for number in range(5)}
    one = scored("000000-g00-0", [10], {name: [2] for name in terms})
    index = opened(write_scored(tmp_path / "run", [one], terms))
    assert index.row("000000-g00-0").reward == 10
    assert index.info().parts == ("part0", "part1", "part2")
    assert [problem.partition("; ")[2] for problem in index.problems] == [
        "'part3' cannot be searched",
        "'part4' cannot be searched",
    ]


def test_odd_names_and_numbers_are_kept(tmp_path, opened):
    terms = {'my "odd" part': Term(weight=1.0)}
    one = scored("000000-g00-0", [1], {'my "odd" part': [1]}, seed=2**70)
    folder = write_scored(tmp_path / "run", [one], terms)
    path = folder / TRAIN
    path.write_bytes(path.read_bytes().replace(b"Turn 0.", b"half \\ud800 \\u0000 \\ud83d\\ude00 \\u202e"))
    index = opened(folder)
    assert index.ids('reward."my \\"odd\\" part"=1') == ["000000-g00-0"]
    assert index.ids("seed>1e20") == ["000000-g00-0"]
    assert index.ids("\U0001f600") == ["000000-g00-0"]
    assert index.record("000000-g00-0") == RunReader(folder).record("000000-g00-0")


def test_verifiable_rewards_of_a_configuration_that_repeats_itself_without_end_are_read_at_once(tmp_path):
    # Written out, the last list would have 10 ** 40 entries.
    lists = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 41)]
    text = "\n".join(["l0: &l0 [x]", *lists, "alarms: {verifiable: [exact]}"])
    (tmp_path / "config.yaml").write_text(text)
    assert verifiable_parts(tmp_path) == ("exact",)


def test_index_that_another_process_has_brought_further_is_not_built_again(stored, opened, tmp_path, monkeypatch):
    folder = shutil.copytree(stored, tmp_path / "run", ignore=shutil.ignore_patterns("index.sqlite*"))
    path = folder / TRAIN
    lines = lines_of(path)
    path.write_bytes(b"".join(lines[:10]))
    one, other = opened(folder), opened(folder)
    before = shards(folder)
    path.write_bytes(b"".join(lines))
    other.refresh()

    # What this one saw of the files is older than what the index knows by now.
    monkeypatch.setattr("selfplay.transcript_file.shards", lambda folder: before)
    monkeypatch.setattr("selfplay.transcript_indexing.create", lambda connection: pytest.fail("built again"))
    one._file._seen = None
    assert not one.refresh()
    assert one.page(limit=1000) == other.page(limit=1000)
