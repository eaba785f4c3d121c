"""Ratings of human chats as pairs: which chats, which sides, how often."""

from collections import Counter

import pytest

from selfplay.errors import UserError
from selfplay.ratings import rated_chats
from selfplay.reward_model.examples import split_examples
from selfplay.reward_model.rated_chats import MOST_PAIRS, rated_examples, rated_pairs
from selfplay.reward_model.readers import check_overlap, read_data
from selfplay.reward_model.settings import FitSettings

SETTINGS = FitSettings(question="witty", min_gap=2)
# Chat n's words name it; its rating goes from 1 to 10 and over again.
NUM_CHATS = 120


def entry(number, *, rating, people):
    messages = [[{"text": f"Turn {k} of chat {number}", "sender": people[k % 2]}] for k in range(6)]
    return {"messages": messages, "prompt": "rain", "ratings": {"witty": rating, "upbeat": 5, "interesting": 5}}


def chats(num=NUM_CHATS, *, num_people=90, rating_of=lambda number: number % 10 + 1):
    """Chats of pairs of people, some of whom chatted twice."""
    entries = [
        entry(number, rating=rating_of(number), people=(f"a{number % num_people}", f"b{number % num_people}"))
        for number in range(num)
    ]
    return rated_chats({str(number): one for number, one in enumerate(entries)})


def number_of(dialog):
    return int(dialog.messages[0].text.rpartition(" ")[2])


def numbers_of(example):
    return [number_of(dialog) for dialog in example.dialogs]


def test_pairs_prefer_the_higher_rating_by_the_gap_or_more():
    examples = rated_pairs(chats(), replace_gap(3)).examples
    for example in examples:
        first, second = (number % 10 + 1 for number in numbers_of(example))
        assert abs(first - second) >= 3
        assert example.targets == (1.0 if first > second else 0.0,)
    assert {(one.judged, one.source) for one in examples} == {("conversation", "chitchat:witty")}


def replace_gap(gap):
    return SETTINGS.model_copy(update={"min_gap": gap})


def test_sliders_left_where_they_start_are_in_no_pair():
    used = {number for example in rated_pairs(chats(), SETTINGS).examples for number in numbers_of(example)}
    assert not any(number % 10 + 1 == 5 for number in used)
    assert {number % 10 + 1 for number in used} == {1, 2, 3, 4, 6, 7, 8, 9, 10}


def test_no_chat_and_no_two_people_are_on_both_sides():
    examples = rated_pairs(chats(), SETTINGS).examples
    sides = split_examples(examples, held_out=0.5, seed=1)
    keys = [{key for example in side for key in example.keys} for side in sides]
    assert not keys[0] & keys[1]
    assert check_overlap(*sides) == []
    # 108 chats are rated, a fifth of them is to be held out.
    held_out = {number for example in sides[1] for number in numbers_of(example)}
    assert 0.1 < len(held_out) / 108 < 0.3
    assert [{example.split for example in side} for side in sides] == [{"train"}, {"held_out"}]


def test_each_chat_is_in_few_pairs_and_most_are_in_one():
    examples = rated_pairs(chats(), SETTINGS).examples
    uses = Counter(number for example in examples for number in numbers_of(example))
    assert max(uses.values()) <= MOST_PAIRS
    assert len(uses) > 0.8 * 108


def test_what_shares_a_key_is_small():
    examples = rated_pairs(chats(), SETTINGS).examples
    # No two people chatted more than twice, so a block of four groups has 8 chats, and 12 pairs of 3 each.
    left, sizes = list(examples), []
    while left:
        joined = {left[0].keys[0]}
        while more := {key for one in left if joined & set(one.keys) for key in one.keys} - joined:
            joined |= more
        sizes.append(sum(bool(joined & set(one.keys)) for one in left))
        left = [one for one in left if not joined & set(one.keys)]
    assert max(sizes) <= 12
    assert len(sizes) >= 20


def test_both_chats_of_a_pair_are_seen_from_the_same_role_and_each_role_is_drawn():
    examples = rated_pairs(chats(), SETTINGS).examples
    first_speaks = [tuple(dialog.messages[0].is_focus for dialog in example.dialogs) for example in examples]
    assert set(first_speaks) == {(True, True), (False, False)}


def test_same_seed_gives_the_same_pairs_and_another_one_others():
    first, again = (rated_pairs(chats(), SETTINGS) for _ in range(2))
    assert first == again
    assert rated_pairs(chats(), SETTINGS.model_copy(update={"seed": 1})).examples != first.examples


def test_chats_that_are_all_rated_the_same_give_nothing():
    assert rated_pairs(chats(rating_of=lambda _: 8), SETTINGS).examples == ()


def test_unknown_question_and_missing_data_say_so():
    with pytest.raises(UserError, match="question=funny is none of witty, upbeat, interesting"):
        rated_pairs(chats(), SETTINGS.model_copy(update={"question": "funny"}))
    with pytest.raises(UserError, match="rated chats are not installed"):
        rated_examples(SETTINGS, package="no_such_package")


@pytest.mark.slow
def test_installed_chats_are_read_by_their_name():
    pytest.importorskip("chitchat_dataset")
    loaded = read_data(["chitchat"], FitSettings())
    assert len(loaded.examples) > 500
    assert check_overlap(*split_examples(loaded.examples, held_out=0.2, seed=0)) == []
