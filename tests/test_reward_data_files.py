"""Files of preferences as examples: every format, and everything that can be wrong with a file."""

import gzip
import json

import pytest

from selfplay.errors import UserError
from selfplay.reward_model.dialogs import dialog_from_messages, dialog_to_messages
from selfplay.reward_model.examples import Example, example_to_json, split_examples
from selfplay.reward_model.hh import dialog_from_hh
from selfplay.reward_model.readers import check_overlap, file_examples, read_data, without_overlap
from selfplay.reward_model.settings import FitSettings

HH_PROMPT = "\n\nHuman: Hi there\n\nAssistant: Hello!\n\nHuman: How do I boil\n\nan egg?"
TALK = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "How do I boil\n\nan egg?"},
]
GOOD, BAD = {"role": "assistant", "content": "Six minutes."}, {"role": "assistant", "content": "No."}
SETTINGS = FitSettings()


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def write(path, lines, *, is_packed=False):
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if is_packed else text.encode())
    return path


def hh(number, *, better="Good", worse="Bad"):
    prompt = f"\n\nHuman: Question {number}?"
    return {
        "chosen": f"{prompt}\n\nAssistant: {better} {number}.",
        "rejected": f"{prompt}\n\nAssistant: {worse} {number}.",
    }


def preferred(example):
    """The messages of the preferred side, then of the other."""
    first, second = (dialog_to_messages(dialog) for dialog in example.dialogs)
    return (first, second) if example.targets == (1.0,) else (second, first)


def only(path):
    (example,) = file_examples(path).examples
    return example


FORMS = {
    "hh": {"chosen": f"{HH_PROMPT}\n\nAssistant: Six minutes.", "rejected": f"{HH_PROMPT}\n\nAssistant: No."},
    "hh, prompt apart": {"prompt": f"{HH_PROMPT}\n\nAssistant:", "chosen": " Six minutes.", "rejected": " No."},
    "hh, named completions": {
        "prompt": HH_PROMPT,
        "chosen": "\n\nAssistant: Six minutes.",
        "rejected": "\n\nAssistant: No.",
    },
    "hh, bare completions": {"prompt": HH_PROMPT, "chosen": "Six minutes.", "rejected": "No."},
    "hh, prompt repeated": {
        "prompt": HH_PROMPT,
        "chosen": f"{HH_PROMPT}\n\nAssistant: Six minutes.",
        "rejected": f"{HH_PROMPT}\n\nAssistant: No.",
    },
    "trl, explicit": {"prompt": TALK, "chosen": [GOOD], "rejected": [BAD]},
    "trl, implicit": {"chosen": [*TALK, GOOD], "rejected": [*TALK, BAD]},
    "trl, both": {"prompt": "How do I boil\n\nan egg?", "chosen": [*TALK, GOOD], "rejected": [*TALK, BAD]},
    "trl, text completions": {"prompt": TALK, "chosen": "Six minutes.", "rejected": "No."},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_pair_gives_the_same_example(tmp_path, form):
    example = only(write(tmp_path / "pairs.jsonl", [FORMS[form]]))
    assert preferred(example) == ([*TALK, GOOD], [*TALK, BAD])
    assert (example.kind, example.judged, example.source, example.split) == ("pair", "turn", "pairs", None)


@pytest.mark.parametrize("prompt", ["How long?", [user("How long?")]])
def test_plain_texts_are_a_question_and_its_answers(tmp_path, prompt):
    line = {"prompt": prompt, "chosen": "Six minutes.", "rejected": "No."}
    example = only(write(tmp_path / "pairs.jsonl", [line]))
    assert preferred(example) == ([user("How long?"), GOOD], [user("How long?"), BAD])


def test_pairs_that_differ_before_their_last_message_are_judged_by_it(tmp_path):
    line = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Fine?\n\nAssistant: Yes",
        "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
    }
    example = only(write(tmp_path / "pairs.jsonl", [line]))
    assert [len(messages) for messages in preferred(example)] == [4, 2]
    assert example.judged == "turn"


def test_unpaired_lines_are_ratings_of_plus_and_minus_one(tmp_path):
    lines = [
        {"prompt": TALK, "completion": [GOOD], "label": True},
        {"prompt": "Hi", "completion": "No.", "label": False},
    ]
    examples = file_examples(write(tmp_path / "unpaired.jsonl", lines)).examples
    assert [(one.kind, one.targets) for one in examples] == [("rating", (1.0,)), ("rating", (-1.0,))]
    assert dialog_to_messages(examples[0].dialogs[0]) == [*TALK, GOOD]


def test_own_example_lines_come_back_as_they_are(tmp_path):
    dialogs = tuple(dialog_from_messages([user("Hi"), assistant(text)]) for text in ("One", "Two", "Three"))
    ranking = Example(
        dialogs=dialogs, kind="ranking", targets=(2, 1, 2), source="person", keys=("k",), split="held_out", where="a:1"
    )
    path = write(tmp_path / "held.jsonl", [example_to_json(ranking)])
    assert only(path) == ranking
    assert file_examples(path, split="train").examples == (ranking,)


def test_texts_of_hh_with_odd_ends_are_read():
    text = "Human: a\n\nAssistant: \n\nHuman: b says Assistant: c\n\nAssistant:  d \n\nHuman: e"
    dialog = dialog_from_hh(text)
    assert [(one.is_focus, one.text) for one in dialog.messages] == [
        (False, "a"),
        (True, ""),
        (False, "b says Assistant: c"),
        (True, "d"),
        (False, "e"),
    ]


def test_side_of_the_chosen_one_says_nothing(tmp_path):
    examples = file_examples(write(tmp_path / "pairs.jsonl", [hh(number) for number in range(200)])).examples
    # Of 200 fair draws the share is within 0.5 +- 0.14, four deviations.
    assert 0.36 < sum(example.targets[0] for example in examples) / 200 < 0.64
    swapped = [{"chosen": line["rejected"], "rejected": line["chosen"]} for line in map(hh, range(200))]
    others = file_examples(write(tmp_path / "others.jsonl", swapped)).examples
    assert [one.dialogs for one in others] == [one.dialogs for one in examples]
    assert [one.targets[0] for one in others] == [1.0 - one.targets[0] for one in examples]


def test_messages_that_both_sides_share_are_held_once(tmp_path):
    first, second = only(write(tmp_path / "pairs.jsonl", [FORMS["hh"]])).dialogs
    assert all(one is two for one, two in zip(first.messages[:3], second.messages[:3], strict=True))


def test_pairs_of_one_prompt_and_later_turns_of_a_dialog_share_a_key(tmp_path):
    later = {"chosen": [*TALK, GOOD, user("And then?"), assistant("Eat.")]}
    later["rejected"] = [*later["chosen"][:-1], assistant("Wait.")]
    lines = [FORMS["hh"], {**FORMS["trl, explicit"], "rejected": [assistant("Never.")]}, later, hh(1), hh(2), hh(3)]
    keys = [set(example.keys) for example in file_examples(write(tmp_path / "pairs.jsonl", lines)).examples]
    assert keys[0] & keys[1]
    assert keys[0] & keys[2]
    assert not keys[3] & keys[4]
    assert not keys[0] & keys[3]


def test_opening_that_all_pairs_share_does_not_join_them(tmp_path):
    lines = [
        {"prompt": "Please begin.", "chosen": f"Good {number}", "rejected": f"Bad {number}"} for number in range(10)
    ]
    found = file_examples(write(tmp_path / "pairs.jsonl", lines))
    train, held_out = split_examples(found.examples, held_out=0.2, seed=0)
    assert (len(train), len(held_out)) == (8, 2)
    assert found.notes == (
        "10 examples of pairs.jsonl share a prompt or beginning with most others, and so may be on both sides",
    )


@pytest.mark.parametrize("name", ["pairs.jsonl.gz", "pairs.json", "list.json", "bom.jsonl", "pairs.parquet"])
def test_every_kind_of_file_is_read(tmp_path, name):
    path, lines = tmp_path / name, [hh(number) for number in range(3)]
    if name == "list.json":
        path.write_text(json.dumps(lines, indent=1))
    elif name == "bom.jsonl":
        path.write_bytes(b"\xef\xbb\xbf" + b"".join(json.dumps(line).encode() + b"\n\n" for line in lines))
    elif name.endswith("parquet"):
        pytest.importorskip("pyarrow.parquet").write_table(
            pytest.importorskip("pyarrow").Table.from_pylist(lines), path
        )
    else:
        write(path, lines, is_packed=name.endswith(".gz"))
    loaded = file_examples(path)
    assert (len(loaded.examples), loaded.num_lines, loaded.problems) == (3, 3, ())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ({"text": "a", "score": 1}, "this one has score, text"),
        ({"chosen": "Hello", "rejected": "Go away"}, "begins with neither Human: nor Assistant:"),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello"}, "rejected is missing"),
        ({"chosen": "\n\nHuman: Hi", "rejected": "\n\nHuman: Ho"}, "the assistant says nothing in it"),
        ({"chosen": [{"role": "tool", "content": "x"}], "rejected": [BAD]}, "has the role 'tool'"),
        ({"chosen": [{"role": "user"}], "rejected": [BAD]}, "needs a role and a content"),
        ({"chosen": 7, "rejected": 8}, "chosen is neither a text nor a list"),
        ({"prompt": 7, "chosen": "a", "rejected": "b"}, "prompt is neither a text nor a list"),
        ({"prompt": "a", "completion": "b", "label": "good"}, "label should be true or false"),
        ({"completion": "b", "label": True}, "prompt is missing"),
        ({"schema": "selfplay.example/1", "kind": "pair"}, "not known"),
    ],
)
def test_bad_line_is_numbered_with_its_reason_and_the_rest_is_used(tmp_path, line, why):
    lines = [hh(number) for number in range(20)]
    loaded = file_examples(write(tmp_path / "pairs.jsonl", [*lines[:11], line, *lines[11:]]))
    (problem,) = loaded.problems
    assert problem.startswith("pairs.jsonl:12: ")
    assert why in problem
    assert (len(loaded.examples), loaded.num_lines) == (20, 21)


def test_over_five_percent_of_bad_lines_stop(tmp_path):
    lines = [*(hh(number) for number in range(19)), "not json"]
    assert len(file_examples(write(tmp_path / "pairs.jsonl", lines)).examples) == 19
    with pytest.raises(UserError, match=r"2 of 21 lines of .*pairs\.jsonl cannot be used.*5% stops: line 20: not"):
        file_examples(write(tmp_path / "pairs.jsonl", [*lines, "not json"]))


def test_first_five_bad_lines_are_told_when_they_stop(tmp_path):
    lines = [hh(number) for number in range(20)]
    path = write(tmp_path / "pairs.jsonl", [*lines, *["no"] * 7])
    with pytest.raises(UserError) as caught:
        file_examples(path)
    message = str(caught.value)
    assert [f"line {number}: " in message for number in range(20, 27)] == [False, *[True] * 5, False]
    assert message.endswith("; and 2 more")
    assert "skipped" not in message


def test_file_of_nothing_but_equal_sides_says_so(tmp_path):
    path = write(tmp_path / "same.jsonl", [hh(number, better="Same", worse="Same") for number in range(3)])
    with pytest.raises(UserError, match=r"learn from: 3 pairs of same\.jsonl left out, for the two sides are the same"):
        read_data([str(path)], SETTINGS)


def test_pairs_whose_sides_are_the_same_are_left_out_and_counted(tmp_path):
    loaded = file_examples(write(tmp_path / "pairs.jsonl", [hh(1), hh(2, better="Same", worse="Same")]))
    assert (len(loaded.examples), loaded.notes) == (
        1,
        ("1 pair of pairs.jsonl left out, for the two sides are the same",),
    )


def test_files_that_cannot_be_read_say_so_in_one_sentence(tmp_path):
    files = {
        "empty.jsonl": (b"", r"nothing to learn from: .*empty\.jsonl has no lines"),
        "blank.jsonl": (b"\n \n", r"nothing to learn from: .*blank\.jsonl has no lines"),
        "pointer.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        "pairs.jsonl.gz": (b"not packed", "cannot be read"),
        "half.jsonl.gz": (gzip.compress(json.dumps(hh(1)).encode())[:-12], "cannot be read"),
        "list.json": (b"[{", "not valid JSON"),
        "table.parquet": (b"no table", "cannot be read"),
        "pairs.csv": (b"chosen,rejected\n", "none of the files that can be read"),
    }
    for name, (content, why) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=why):
            read_data([str(tmp_path / name)], SETTINGS)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file nowhere\.jsonl"):
        read_data(["nowhere.jsonl"], SETTINGS)
    with pytest.raises(UserError, match="there is no run 'nowhere'"):
        read_data(["nowhere"], FitSettings(runs=tmp_path))
    with pytest.raises(UserError, match="holds neither a run nor data"):
        read_data([str(tmp_path)], SETTINGS)
    with pytest.raises(UserError, match="name what to learn from"):
        read_data([], SETTINGS)


def test_unpaired_lines_that_are_all_good_are_refused(tmp_path):
    lines = [{"prompt": "Hi", "completion": f"Yes {number}.", "label": True} for number in range(9)]
    with pytest.raises(UserError, match="all ratings are the same"):
        read_data([str(write(tmp_path / "unpaired.jsonl", lines))], SETTINGS)


def test_several_words_are_joined_and_test_files_beside_others_are_held_out(tmp_path):
    folder = tmp_path / "harmless-base"
    folder.mkdir()
    write(folder / "train.jsonl.gz", [hh(number) for number in range(8)], is_packed=True)
    write(folder / "test.jsonl.gz", [hh(number) for number in range(8, 11)], is_packed=True)
    loaded = read_data([str(folder)], SETTINGS)
    assert [len(side) for side in split_examples(loaded.examples, held_out=0.5, seed=0)] == [8, 3]
    assert loaded.notes == ("3 examples of test.jsonl.gz held out, as its name says",)
    train, test = (str(folder / f"{name}.jsonl.gz") for name in ("train", "test"))
    assert read_data([train, test, train], SETTINGS).num_lines == 11
    assert {one.split for one in read_data([test], SETTINGS).examples} == {None}
    write(tmp_path / "latest.jsonl", [hh(20)])
    joined = read_data([train, str(tmp_path / "latest.jsonl")], SETTINGS)
    assert {one.split for one in joined.examples} == {None}


def test_held_out_examples_with_a_dialog_of_the_training_examples_are_found(tmp_path):
    train = file_examples(write(tmp_path / "train.jsonl", [hh(number) for number in range(4)])).examples
    test = file_examples(write(tmp_path / "test.jsonl", [hh(9), hh(2, worse="Other"), hh(3)])).examples
    kept, lines = without_overlap(train, test)
    assert kept == [test[0]]
    assert lines == check_overlap(train, test)
    assert lines[0] == "test.jsonl:2 is left out: train.jsonl:3 has the same dialog"
    assert check_overlap(train, train[:0]) == []
