"""Chat files to imitate."""

import gzip
import json
from pathlib import Path

import pytest

from selfplay.commands import main
from selfplay.errors import UserError
from selfplay.sft_data import Lesson, streams_of
from selfplay.sft_files import file_lessons
from selfplay.sft_settings import SftSettings
from selfplay.store import RunWriter
from tests.duel import duel

SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str, **more: object) -> dict:
    return {"role": "assistant", "content": text, **more}


CHAT = [SYSTEM, user("Hi."), assistant("Hello!"), user("Bye."), assistant("See you.")]


def settings(**changes: object) -> SftSettings:
    return SftSettings.model_validate({"from": "chats.jsonl", "held_out": 0.0, **changes})


def read(path: Path, *records: object, **changes: object) -> tuple[Lesson, ...]:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file_lessons(path, settings(**changes)).train


def learnt(lesson: Lesson) -> list[str]:
    return [lesson.conversation.turns[number].text for number in sorted(lesson.learnt)]


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"messages": CHAT}, ["Hello!", "See you."]),
        ({"messages": [*CHAT[:2], assistant("No.", weight=0), user("Why?"), assistant("So.", weight=1)]}, ["So."]),
        ({"messages": [assistant("I begin."), user("Well."), assistant("Good.")]}, ["I begin.", "Good."]),
        ({"messages": [user("Two"), user("in a row."), assistant("Yes.")]}, ["Yes."]),
        ({"prompt": CHAT[:4], "completion": CHAT[4:]}, ["See you."]),
        ({"prompt": "What is it?", "completion": " A text."}, ["A text."]),
        ({"prompt": [user("Hi.")], "completion": "Hello!"}, ["Hello!"]),
        ({"prompt": "\n\nHuman: Hi.\n\nAssistant:", "completion": " Hello!"}, ["Hello!"]),
    ],
)
def test_line_teaches_what_the_assistant_says(record, texts, tmp_path):
    [lesson] = read(tmp_path / "chats.jsonl", record)
    assert learnt(lesson) == texts


def test_stream_of_a_chat_is_the_templates(tiny, tmp_path):
    from selfplay.players import make_bridge

    [lesson] = read(tmp_path / "chats.jsonl", {"messages": CHAT})
    [row] = streams_of([lesson], make_bridge(tiny, view="perspective"), context=2048).all
    rendered = tiny.tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert tiny.tokenizer.decode(row.tokens) + "\n" == rendered
    assert tiny.tokenizer.decode(row.tokens[row.acted]) == "Hello!<|im_end|>See you.<|im_end|>"


def test_prompts_own_replies_are_heard_and_not_learnt(tiny, tmp_path):
    from selfplay.players import make_bridge

    [lesson] = read(tmp_path / "chats.jsonl", {"prompt": CHAT[:4], "completion": CHAT[4:]})
    [row] = streams_of([lesson], make_bridge(tiny, view="perspective"), context=2048).all
    assert tiny.tokenizer.decode(row.tokens) + "\n" == tiny.tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert tiny.tokenizer.decode(row.tokens[row.acted]) == "See you.<|im_end|>"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "chats.jsonl:2 is no chat to learn from"),
        ('{"text": "a"}', "chats.jsonl:2 is no chat to learn from: a line needs a list of messages, or prompt and"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "the assistant says nothing in it that is to be learnt"),
        ('{"messages": [{"role": "assistant", "content": "a", "weight": 0}]}', "says nothing in it"),
        ('{"messages": [{"role": "assistant", "content": " "}]}', "says nothing in it"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "message 0 has the role 'tool'"),
        ('{"messages": [{"role": "assistant", "content": null}]}', "message 0 needs a role and a content of text"),
        ('{"messages": "hello"}', "a line needs a list of messages, or prompt and completion; this one has messages"),
        ('{"completion": "a"}', "a line needs a list of messages, or prompt and completion; this one has completion"),
        ('{"prompt": 3, "completion": "a"}', "prompt is neither a text nor a list of messages"),
        ('{"prompt": "a", "completion": 3}', "completion is neither a text nor a list of messages"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', "this one has chosen, prompt, rejected"),
    ],
)
def test_line_that_is_no_chat_is_named(line, message, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as raised:
        file_lessons(path, settings())
    assert message in str(raised.value)


def test_chats_with_one_opening_stay_together(tmp_path):
    records = [{"messages": [user(f"Question {number // 3}"), assistant(f"Answer {number}")]} for number in range(30)]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    found = file_lessons(path, settings(held_out=0.2))
    openings = [{one.conversation.turns[0].text for one in side} for side in (found.train, found.held_out)]
    assert openings[0] & openings[1] == set()
    assert (len(found.train), len(found.held_out)) == (24, 6)


def test_opening_that_most_chats_share_joins_nothing(tmp_path):
    path = tmp_path / "chats.jsonl"
    records = [{"messages": [user("Please begin."), assistant(f"Answer {number}")]} for number in range(10)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    found = file_lessons(path, settings(held_out=0.2))
    assert (len(found.train), len(found.held_out)) == (8, 2)


@pytest.mark.parametrize("opening", ["Please begin.", "Question {}"])
def test_equal_chats_are_on_one_side(opening, tmp_path):
    records = [
        {"messages": [SYSTEM, user(opening.format(number % 7)), assistant(f"Answer {number % 7}")]}
        for number in range(70)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    for seed in range(5):
        found = file_lessons(path, settings(held_out=0.3, seed=seed))
        answers = [{one.conversation.turns[1].text for one in side} for side in (found.train, found.held_out)]
        assert answers[0] & answers[1] == set()
        # Of seven answers, ten times each, three make up the share of 21.
        assert (len(found.train), len(found.held_out)) == (40, 30)


def test_file_is_parted_alike_each_time(tmp_path):
    path = tmp_path / "chats.jsonl"
    records = [{"messages": [user("Please begin."), assistant(f"Answer {number % 20}")]} for number in range(40)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    ids = [[one.conversation.id for one in file_lessons(path, settings(held_out=0.2, seed=3)).held_out] for _ in "ab"]
    assert ids[0] == ids[1]


def test_packed_files_and_lists_are_read(tmp_path):
    packed = tmp_path / "chats.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps({"messages": CHAT}).encode()))
    listed = tmp_path / "chats.json"
    listed.write_text(json.dumps([{"messages": CHAT}] * 2), encoding="utf-8")
    assert [len(file_lessons(path, settings()).train) for path in (packed, listed)] == [1, 2]


@pytest.mark.parametrize("words", [("to=openai",), ("to=trl", "roles=left,right")])
def test_what_export_writes_is_read_back(words, tmp_path, capsys):
    with RunWriter.create(tmp_path / "run", {}, "", tokens="none") as writer:
        writer.append(duel(2))
    out = tmp_path / "chats.jsonl"
    assert main(["export", str(tmp_path / "run"), f"out={out}", *words]) == 0
    texts = sorted(text for lesson in file_lessons(out, settings()).train for text in learnt(lesson))
    assert texts == sorted(turn.text for turn in duel(2).turns)
    briefs = {lesson.conversation.players["assistant"].brief for lesson in file_lessons(out, settings()).train}
    assert briefs == {"You are left.", "You are right."}
