"""Words, inflections and bracketed moves."""

from __future__ import annotations

import time

import pytest

from envs.reading import (
    Move,
    behind_but,
    forms_of,
    has_condition,
    is_denied,
    moves_in,
    only_move,
    says,
    without_doubts,
    words_in,
)

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
    move = only_move(text, KINDS)
    assert (move.kind, move.argument) == ("offer", argument)


@pytest.mark.parametrize(
    ("text", "argument", "behind"),
    [
        ("[offer 120] 130", "120", "130"),
        ("**[Offer: 120]**, or (130)?\nBye", "120", ", or  130 ?"),
        ("[offer 120] [accept]", "120", ""),
        ("[offer] 120 130", "120 130", ""),
        ("[offer 120]", "120", ""),
        ("[offer]", "", ""),
    ],
)
def test_moves_say_what_stands_behind_an_argument_inside_the_bracket(text, argument, behind):
    assert moves_in(text, KINDS)[0] == Move(kind="offer", argument=argument, behind=behind)


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


MOVES = ("guess", "accept", "offer", "reject", "select", "walk", "propose")
DENIED = [
    "I do not [guess] cat",
    "I don\u2019t [guess] cat",
    "I can't **[accept]** that",
    "never [offer] 120",
    "I will **not** [accept]",
    "I do not want to [accept] that",
    "I won't be able to [accept]",
    "I am not going to [accept]",
    "I am not sure if I should [accept]",
    "I'm not sure I can [accept]",
    "I don't think I can [accept] this",
    "It is not [guess] a cat",
    "I dont [accept]",
    "I refuse to [accept]",
    "I am unable to [accept] that.",
    "Not [guess] cat",
    "[accept] not",
    "[accept], not!",
    "[accept] ... NOT",
    "[accept not]",
    "[accept] not yet, friend",
    "[accept] not really",
    "[accept] not a chance",
    "[accept]. No way",
    "[accept] no, wait",
    "[accept] no",
    "[accept] deal... just kidding, no deal",
    "[accept] I do not",
    "[guess cat] not really",
    "[guess] cat not",
    "[guess cat] not",
    "[guess cat], not.",
    "[guess] not a cat",
    "[guess] cat. Not!",
    "Should I [guess] cat?",
    "Should I now [guess] cat?",
    "May I [offer] 120?",
    "will you [accept]?",
    "Would you please [accept] it",
    "Would you like to [accept]?",
    "Do you want to [accept]?",
    "can you [offer] 120?",
    "[accept]?",
    "[accept] ?",
    "**[accept]**? Hm.",
    "[accept?]",
    "(accept)?!",
    "Please [accept]",
    "You should [select] Anna",
    "You can [accept]",
    "I hope you [accept]",
    "I want you to [accept] this.",
    "I do not know whether to [accept]",
    "If you [accept], I give you the lamp.",
    "What if I [guess] cat?",
    "I do not\n[accept]",
    "I do not [accept] that. [accept]",
    "Why not [accept]?",
    "I would rather go than [accept]? [accept]?",
    "WILL YOU (ACCEPT)",
    'I cannot "[accept]"',
    "I shouldn't [guess: cat]",
    "Shall we [accept]?",
    "Before I [accept], a question",
    "I wouldn\u2019t [accept] it",
    "Never ever [accept]",
    "instead of [accept]",
]
MADE = [
    "[guess] is it a cat?",
    "[guess] cat?",
    "[guess cat]?",
    "[guess: cat?]",
    "Is it [guess] cat?",
    "Would you take [offer] 120?",
    "Would you like [offer] 120?",
    "Do you want [offer] 120?",
    "Why not [guess] cat?",
    "Why not just [offer] 120?",
    "I am not sure, [guess] cat",
    "Not sure: [guess] cat",
    "I do not know. [guess] cat",
    "I can't go lower than [offer] 120",
    "I could not resist. [accept]",
    "I cannot but [accept]",
    "No, [guess] cat",
    "No [reject]",
    "Thank you [accept]",
    "I have others asking, but for you [offer] 120",
    "[accept] why not",
    "[accept] OK, why not",
    "[accept] not a bad deal",
    "[accept] not that bad",
    "[accept] not at all bad",
    "[accept] no problem",
    "[accept] I would not say no!",
    "[reject] not enough",
    "[reject], not",
    "[walk] not now",
    "[reject] no",
    "[reject] I can not.",
    "[offer] 120. That is all I have, is it not?",
    "[guess] cat, I am not sure",
    "[guess] cat, right?",
    "[guess] cat, isn't it?",
    "[guess cat] not dog",
    "[guess] cat, believe it or not",
    "[accept]. Not bad!",
    "[accept]\nNot bad at all",
    "Not with me. [walk]",
    "Will you take it? [offer] 120",
    "Are you sure? [accept]",
    "A knot. [guess] knot",
    "[guess] knot",
    "[guess] cat, not dog",
    "[guess] cannot",
    "I do not like dogs, so [guess] cat",
    "Should I? Yes, [guess] cat",
    "[accept] Will you come today?",
    "The best I can give you would be [offer] 120",
    "You asked for less. [offer] 120",
    "I can [accept] that",
    "I will [accept]",
    "So I [accept] your price",
    "I'd like to [offer] 120",
    "Let me [guess] cat",
    "I want to [guess] cat",
    "not a move",
]


@pytest.mark.parametrize("text", DENIED)
def test_is_denied_of_a_move_that_is_negated_or_asked_about(text):
    assert is_denied(text, MOVES)


@pytest.mark.parametrize("text", MADE)
def test_is_denied_of_a_move_that_is_made_is_false(text):
    assert not is_denied(text, MOVES)


def test_is_denied_looks_at_moves_of_the_kinds_alone():
    assert is_denied("I can't [accept], [offer] 120", ("accept",))
    assert not is_denied("I can't [accept], [offer] 120", ("offer",))


@pytest.mark.parametrize(
    ("text", "is_denied_there"),
    [
        ("I do not" + " " * 100_000 + "[accept]", True),
        ("not " * 20_000 + "[accept]", True),
        ("[accept] not " * 20_000, True),
        ("[accept] " + "not!" * 20_000 + "a", True),
        (("so not " + "want to be able to " * 4 + "x [accept] ") * 1000, False),
        ("[accept" + " " * 100_000, False),
        ("[accept]" + ".,:" * 40_000, False),
        ("[" * 100_000, False),
    ],
)
def test_is_denied_of_a_long_text_takes_no_time(text, is_denied_there):
    start = time.process_time()
    assert is_denied(text, MOVES) == is_denied_there
    assert time.process_time() - start < 2.0


def test_has_condition_finds_whole_words():
    assert has_condition("Yes, IF you go to 50")
    assert not has_condition("a gift, not butter")
    assert not has_condition("old but fine")


def test_behind_but_is_what_stands_there():
    assert behind_but("Yes, BUT 50, but now") == " 50, but now"
    assert behind_but("butter") == ""


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("[guess] cat, I am not sure", "[guess] cat"),
        ("[guess] cat, but I\u2019m not 100% sure.", "[guess] cat."),
        ("[guess] cat, right?", "[guess] cat?"),
        ("[guess] cat, is it not?", "[guess] cat?"),
        ("[guess] cat. Not sure that it is a dog", "[guess] cat. Not sure that it is a dog"),
        ("I am not sure, [guess] cat", "I am not sure, [guess] cat"),
    ],
)
def test_without_doubts_leaves_out_how_sure_one_is(text, left):
    assert without_doubts(text) == left


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
