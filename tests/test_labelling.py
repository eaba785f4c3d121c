"""Blind labelling: what a person may see, which pairs they get, and what is stored of their answers."""

import json
from collections import Counter

import pytest

from selfplay.errors import UserError
from selfplay.labelling import QUESTION, REPEAT_AFTER, Labeller, blind, local_person
from selfplay.preferences import PREFERENCES, read_preferences
from selfplay.transcript_index import TranscriptIndex
from tests.paired_runs import played, two_versions, write_run


def siblings(num_groups, *, size=2):
    return [
        played(f"000001-g{group:02d}-{k}", seed=group, version=1, split="train")
        for group in range(num_groups)
        for k in range(size)
    ]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def label(folder):
    """Return what makes a labeller of a run with these conversations, or of the one there is."""
    indexes = []

    def make(conversations=(), *, person="anon-3f", seed=0):
        if conversations:
            write_run(folder, conversations)
        indexes.append(TranscriptIndex(folder))
        indexes[-1].refresh()
        return Labeller(folder, indexes[-1], person=person, seed=seed)

    yield make
    for index in indexes:
        index.close()


def answer_all(labeller, verdict="left", *, at_most=1000):
    """Give the same answer until there are no more pairs; return the pairs."""
    pairs = []
    while len(pairs) < at_most and (pair := labeller.next_pair()) is not None:
        labeller.answer(pair.token, verdict(pair) if callable(verdict) else verdict)
        pairs.append(pair)
    return pairs


def test_nothing_that_tells_who_played_is_shown(label, folder):
    labeller = label(two_versions())
    pair = labeller.next_pair()
    left, right = labeller.shown(pair)
    assert left["scenario"] == right["scenario"]
    assert left["scenario"] == {
        "env": "chitchat",
        "roles": ["host", "guest"],
        "public": {"topic": pair.about},
    }
    # The texts themselves name the id here, so that the sides can be told; nothing else may.
    assert [turn["role"] for turn in left["turns"]] == ["host", "guest"]
    keys = {key for side in (left, right) for turn in side["turns"] for key in turn}
    assert (keys, left.keys()) == ({"turn", "role", "text"}, {"scenario", "turns"})
    assert not any(word in json.dumps(left) for word in ("learner", "A secret", "payoff", "reward"))
    record = json.loads((folder / "conversations" / "evaluation-000.jsonl").read_text().splitlines()[0])
    assert blind({**record, "version": 3}).keys() == {"scenario", "turns"}


def test_pairs_are_two_conversations_of_one_scenario_and_never_come_twice(label):
    labeller = label([*siblings(4, size=3), *two_versions()])
    pairs = [pair for pair in answer_all(labeller) if pair.swap_of is None]
    shown = [frozenset((pair.left, pair.right)) for pair in pairs]
    # 4 groups of 3 are 12 pairs; 3 scenarios that two versions played are 3.
    assert (len(shown), len(set(shown))) == (15, 15)
    groups = {frozenset(id.rpartition("-")[0] for id in pair) for pair in shown}
    assert {tuple(sorted(group)) for group in groups if len(group) == 2} == {
        (f"000000-e0{seed}", f"000007-e0{seed}") for seed in (1, 2, 3)
    }
    assert {pair.focus for pair in pairs} == {"host"}


def test_sides_are_even(label):
    pairs = answer_all(label(siblings(200)), at_most=150)
    left_first = sum(pair.left < pair.right for pair in pairs if pair.swap_of is None)
    # 4 standard deviations of a fair coin around half of about 140.
    assert abs(left_first - sum(pair.swap_of is None for pair in pairs) / 2) < 24


def test_scenario_with_many_conversations_is_drawn_as_often_as_one_with_few(label, folder):
    conversations = [
        *siblings(1, size=9),
        *[one for one in siblings(2) if one.conversation.id.startswith("000001-g01")],
    ]
    write_run(folder, conversations)
    first = [label(person=f"p{number}").next_pair().left.rpartition("-")[0] for number in range(60)]
    # 36 pairs against one; uniform over scenarios is half and half, within 4 standard deviations.
    assert 14 < Counter(first)["000001-g01"] < 46


def test_one_in_ten_comes_back_swapped_and_not_at_once(label, folder):
    pairs = answer_all(label(siblings(150)), at_most=120)
    repeats = [(number, pair) for number, pair in enumerate(pairs) if pair.swap_of is not None]
    assert 2 < len(repeats) < 24
    number_of = {entry.id: number for number, entry in enumerate(read_preferences(folder).preferences)}
    for number, pair in repeats:
        earlier = number_of[pair.swap_of]
        assert number - earlier >= REPEAT_AFTER
        assert (pair.left, pair.right) == (pairs[earlier].right, pairs[earlier].left)
    assert len({pair.swap_of for _, pair in repeats}) == len(repeats)


def test_agreement_is_of_those_who_choose_the_conversation_and_not_the_side(label, folder):
    labeller = label(siblings(100))
    answer_all(labeller, lambda pair: "left_much" if pair.left < pair.right else "right", at_most=60)
    assert labeller.progress().num_repeats > 0
    assert labeller.progress().agreement == 1.0
    (folder / PREFERENCES).unlink()
    answer_all(labeller, "left", at_most=60)
    assert labeller.progress().agreement == 0.0
    (folder / PREFERENCES).unlink()
    answer_all(labeller, "tie", at_most=60)
    assert labeller.progress().agreement == 1.0


def test_pair_stays_until_it_is_answered_also_after_a_restart(label):
    pair = label(siblings(20)).next_pair()
    restarted = label()
    assert restarted.next_pair() == pair
    assert label(person="other").next_pair() != pair
    revealed = label().answer(pair.token, "right_much", why=["kind", "made up"], seconds=3.5)
    assert (revealed.left.id, revealed.right.id, revealed.left.reward) == (pair.left, pair.right, 1.0)
    assert restarted.next_pair() != pair


def test_answer_is_stored_as_documented(label, folder):
    labeller = label(siblings(20))
    pair = labeller.next_pair()
    labeller.answer(pair.token, "right_much", why=["true", "made up", "kind"], seconds=3.5)
    record = json.loads((folder / PREFERENCES).read_text())
    expected = {
        "left": pair.left,
        "right": pair.right,
        "focus": "host",
        "question": QUESTION,
        "choice": "right",
        "strength": "much",
        "probability_left": 0.0,
        "why": ["kind", "true"],
        "by": "person:anon-3f",
        "sampler": "uniform-same-scenario",
        "seconds": 3.5,
    }
    assert {name: record[name] for name in expected} == expected


def test_answer_that_is_sent_twice_is_stored_once(label, folder):
    labeller = label(siblings(20))
    pair = labeller.next_pair()
    labeller.answer(pair.token, "left")
    labeller.answer(pair.token, "left")
    assert len(read_preferences(folder).entries) == 1
    with pytest.raises(UserError, match="answered before, with left"):
        labeller.answer(pair.token, "right")


def test_unknown_pair_or_verdict_stores_nothing(label, folder):
    labeller = label(siblings(20))
    with pytest.raises(UserError, match="not known any more"):
        labeller.answer("0" * 32, "left")
    with pytest.raises(UserError, match="choice 'best' is none of left"):
        labeller.answer(labeller.next_pair().token, "best")
    assert not (folder / PREFERENCES).exists()
    with pytest.raises(UserError, match="small letters"):
        label(person="../x")


def test_undo_takes_the_last_answer_back_and_shows_its_pair_again(label):
    labeller = label(siblings(20))
    first, second = answer_all(labeller, at_most=2)
    assert labeller.progress().done == 2
    assert labeller.undo() is not None
    assert labeller.next_pair() == second
    assert labeller.undo() is not None
    assert labeller.next_pair() == first
    assert labeller.undo() is None
    assert labeller.progress().done == 0


def test_pair_that_is_passed_over_does_not_come_back_unless_undone(label, folder):
    labeller = label(siblings(2))
    first, second = answer_all(labeller, "skip")
    assert {first.left, first.right}.isdisjoint({second.left, second.right})
    assert labeller.next_pair() is None
    assert (labeller.progress().done, read_preferences(folder).preferences) == (0, [])
    labeller.undo()
    assert labeller.next_pair() == second


def test_people_do_not_see_each_others_answers(label):
    one, other = label(siblings(2), person="one"), label(person="other")
    assert len(answer_all(one)) == 2
    assert one.next_pair() is None
    assert other.progress().done == 0
    assert other.undo() is None
    assert len(answer_all(other)) == 2


def test_what_cannot_be_compared_is_no_pair(label):
    same = [played(f"000001-g00-{k}", seed=0, version=1, split="train", says="Hi") for k in range(2)]
    alone = played("000001-g01-0", seed=1, version=1, split="train")
    failed = [played(f"000001-g02-{k}", seed=2, version=1, split="train", has_failed=True) for k in range(2)]
    silent = [played(f"000001-g03-{k}", seed=3, version=1, split="train", tone=()) for k in range(2)]
    labeller = label([*same, alone, *failed, *silent])
    # The two of the first group differ, for their texts hold their ids.
    assert len(answer_all(labeller)) == 1


def test_identical_conversations_are_not_shown(label, folder):
    labeller = label(siblings(1))
    lines = (folder / "conversations" / "train-000.jsonl").read_text()
    (folder / "conversations" / "train-000.jsonl").write_text(lines.replace("0 of 000001-g00-1", "0 of 000001-g00-0"))
    assert label().next_pair() is None
    assert labeller.next_pair() is None


def test_new_conversations_of_a_run_that_goes_on_leave_the_shown_pair_good(label, folder):
    labeller = label(siblings(2))
    pair = labeller.next_pair()
    more = write_run(folder.parent / "more", [one for one in siblings(9) if one.conversation.id > "000001-g01-1"])
    with (folder / "conversations" / "train-000.jsonl").open("a") as file:
        file.write((more / "conversations" / "train-000.jsonl").read_text())
    labeller._index.refresh()
    labeller.answer(pair.token, "left")
    assert labeller.progress().of == 9


def test_progress_ends_with_the_pairs_or_the_round(label):
    labeller = label(siblings(70))
    assert labeller.progress().of == 50
    answer_all(labeller, at_most=50)
    assert (labeller.progress().done, labeller.progress().of) == (50, 70)


def test_pairs_that_read_the_same_are_not_counted(label, folder):
    labeller = label(siblings(3))
    assert labeller.progress().of == 3
    path = folder / "conversations" / "train-000.jsonl"
    path.write_text(path.read_text().replace("0 of 000001-g00-1", "0 of 000001-g00-0"))
    labeller = label()
    assert labeller.progress().of == 2
    assert len(answer_all(labeller)) == 2


def test_run_that_was_replaced_by_one_of_the_same_size_gives_its_own_pairs(label, folder):
    labeller = label(siblings(2))
    assert labeller.next_pair() is not None
    others = [one for one in siblings(9) if one.conversation.id >= "000001-g07"]
    new = write_run(folder.parent / "new", others) / "conversations" / "train-000.jsonl"
    new.replace(folder / "conversations" / "train-000.jsonl")
    labeller._index.refresh()
    found = {pair.left[:10] for pair in answer_all(labeller)}
    assert found == {"000001-g07", "000001-g08"}


def test_local_person_is_the_same_every_time_and_allowed(label):
    assert local_person() == local_person()
    assert label(siblings(1), person=local_person()).by.startswith("person:anon-")
