"""Words, inflections and bracketed moves."""

from __future__ import annotations

import time

import pytest

from envs.reading import Move, forms_of, moves_in, only_move, says, words_in

KINDS = ("offer", "accept", "reject")


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("I can do [offer] 120", "120"),
        ("[Offer: 120] please", "120"),
        ("[ OFFER 120 ]", "120"),
        ("(offer) $120, then", "$120, then"),
        ("**[offer]** 120", "120"),
        ("[offer] [120]", "120"),
        ("[offer]\n120", ""),
        ("[offer] 2 [3]", "2  3"),
        ("<offer> = '120'", "120"),
        ("\u201c[offer]\u201d 120", "120"),
    ],
)
def test_only_move_reads_many_forms_of_one_move(text, argument):
    assert only_move(text, KINDS) == Move(kind="offer", argument=argument)


@pytest.mark.parametrize(
    "text", ["", "offer 120", "[offers] 120", "[offering 120]", "[offer", "[no offer]", "[offer 120\n]", "[offer [120"]
)
def test_only_move_of_a_text_without_one_is_none(text):
    assert only_move(text, KINDS) is None
    assert moves_in(text, KINDS) == ()


@pytest.mark.parametrize("text", ["[offer] 120 or [accept]", "[offer 120][offer 130]", "[accept] [reject]"])
def test_only_move_of_two_that_differ_is_none(text):
    assert len(moves_in(text, KINDS)) == 2
    assert only_move(text, KINDS) is None


def test_only_move_said_twice_is_one():
    assert only_move("[accept] Yes!\n[accept] yes", KINDS) == Move(kind="accept", argument="Yes!")


def test_moves_in_a_row_end_each_other():
    found = moves_in("[offer] 5 [accept] [offer] 6", KINDS)
    assert [(move.kind, move.argument) for move in found] == [("offer", "5"), ("accept", ""), ("offer", "6")]


@pytest.mark.parametrize("text", ["[offer" + " " * 100_000, "[" * 100_000, "[offer " * 20_000, "[offer] " * 20_000])
def test_moves_in_a_long_text_take_time_in_proportion_to_it(text):
    start = time.process_time()
    moves_in(text, KINDS)
    # Ten thousand times what it takes here would still pass; a pattern that tries every split would need hours.
    assert time.process_time() - start < 60.0


def test_says_finds_whole_words_and_their_inflections():
    assert says("Those DOGS!", "dog")
    assert says("running late", "run")
    assert says("ice-cream cones", "ice cream cone")
    assert not says("dogma", "dog")
    assert not says("a hot-dog_stand2", "stand")
    assert not says("dogs", "dog", inflected=False)
    assert not says("anything", "  ")


def test_forms_of_follow_the_spelling():
    assert {"carries", "carried", "carrying"} <= forms_of("carry")
    assert {"stopped", "stopping"} <= forms_of("stop")
    assert {"baked", "baking", "baker"} <= forms_of("bake")


def test_words_in_are_plain():
    assert words_in("Don\u2019t  SAY \uff43\uff41\uff54!") == ("don't", "say", "cat")
