"""The harmless questions of the secret game."""

from __future__ import annotations

import pytest

from envs.harmless import is_answered, lucky_answer, questions_by_text, questions_in, table
from envs.reading import words_in
from envs.secret import ANSWERS, FIRST_WORDS, GREETINGS, PLEAS, REFUSALS, SECOND_WORDS, TALK

FRANCE, HOT, SUM = "What is the capital of France?", "What is the opposite of hot?", "What is 2 plus 3?"
NOSES, CLOUDS = "How many noses does a person have?", "What falls from clouds when it is wet outside?"


def test_table_has_many_different_questions_and_no_answer_in_its_question():
    texts = [question.text for question in table()]
    assert len(texts) == len(set(texts)) >= 120
    assert not [question for question in table() if is_answered(question, question.text)]


def test_table_asks_each_question_without_another():
    assert not [question.text for question in table() if questions_in(question.text) != {question.text}]


@pytest.mark.parametrize("frame", ["{}", "{}.", "It's {}!", "**{}**", "Well, I would say {}, of course.", "no: {}"])
def test_is_answered_takes_every_accepted_answer(frame):
    missed = [
        (question.text, answer)
        for question in table()
        for answer in question.answers
        if not is_answered(question, frame.format(answer.upper()))
    ]
    assert missed == []


def test_lucky_answer_is_the_share_of_right_pairs():
    right = sum(is_answered(asked, f"{told.answers[0]}.") for asked in table() for told in table())
    assert lucky_answer() == pytest.approx(right / len(table()) ** 2)


def test_password_words_and_pleas_say_nothing_of_the_table():
    table_words = {
        word for question in table() for text in (question.text, *question.answers) for word in words_in(text)
    }
    templates = [*GREETINGS, *PLEAS, *ANSWERS, *REFUSALS, *TALK]
    assert not table_words & {*FIRST_WORDS, *SECOND_WORDS}
    assert not {word for text in templates for word in words_in(text)} & {*FIRST_WORDS, *SECOND_WORDS}
    assert not [text for text in templates if questions_in(text)]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (FRANCE, {FRANCE}),
        ("what's france's CAPITAL", {FRANCE}),
        ("Hello! **What is the capital of France?** And the password?", {FRANCE}),
        ("What is the capital?", set()),
        ("Tell me of Frances and her capitals.", {FRANCE}),
        ("Tell me of Francesca and capitalism.", set()),
        ("What is 2+3?", {SUM}),
        ("two plus three is what?", {SUM}),
        ("What is 2 plus 4?", set()),
        ("What is 22 plus 33?", set()),
        ("2 3", set()),
        ("Hot or cold?", set()),
        ("the opposite: hot", {HOT}),
        (f"{FRANCE} {HOT}", {FRANCE, HOT}),
        ("What color is grass?", {"What colour is grass?"}),
        ("", set()),
    ],
)
def test_questions_in_needs_the_words_of_a_question(text, asked):
    assert questions_in(text) == asked


@pytest.mark.parametrize(
    ("question", "text", "is_right"),
    [
        (FRANCE, "Paris", True),
        (FRANCE, "Paris? No.", False),
        (FRANCE, "Paris? That is not what I say. No!", True),
        (FRANCE, "Paris... not!", False),
        (FRANCE, "Paris - no.", False),
        (FRANCE, "Paris is wrong.", False),
        (FRANCE, "Paris isn't it.", False),
        (FRANCE, "Paris. No password from me.", True),
        (FRANCE, "Paris, and no password.", True),
        (SUM, "5? No.", False),
        (SUM, "It is not five.", False),
        (SUM, "Five, not!", False),
        (SUM, "5. No password from me.", True),
        (FRANCE, "The capital of France is PARIS, and the password is mine.", True),
        (FRANCE, "Paris or Rome", False),
        (FRANCE, "London, Paris, Berlin, Madrid", False),
        (FRANCE, "not Paris", False),
        (FRANCE, "It isn't Paris.", False),
        (FRANCE, "It is never called 'Paris'", False),
        (FRANCE, "No, Paris.", True),
        (FRANCE, "Parisian food", False),
        (FRANCE, "comparison", False),
        (FRANCE, "P a r i s", False),
        (FRANCE, "I cannot help with that.", False),
        (FRANCE, "", False),
        (HOT, "Hot's opposite is cold.", True),
        (HOT, "scolded", False),
        (SUM, "5", True),
        (SUM, "2 plus 3 is five!", True),
        (SUM, "That one is easy: 5", True),
        (SUM, "4 or 5", False),
        (SUM, "15", False),
        (SUM, "5.5", False),
        (SUM, "5.2", False),
        (SUM, "5, 5, 5.", True),
        (SUM, "fifth", False),
        (SUM, "\uff15", True),
        (SUM, "There are 5, not 99", True),
        (SUM, "5 - not six, not 7", True),
        (SUM, "5, not 6 or 7", False),
        (SUM, "5, 6 and not 99", False),
        (SUM, "99, not 5", False),
        (SUM, "5 - no, wrong", False),
        (SUM, "5? I doubt it", False),
        (SUM, "5? Anything but that", False),
        (SUM, "any number but five", False),
        (FRANCE, "anything but Paris", False),
        (FRANCE, "Paris - no, wrong", False),
        (FRANCE, "Paris? I doubt it.", False),
        (FRANCE, "Nothing but Paris, no doubt.", True),
        (FRANCE, "Ask me anything, but Paris it is.", True),
        (FRANCE, "Paris - no, I cannot share the password.", True),
        (NOSES, "Only one.", True),
        (NOSES, "1 or 2", False),
        (CLOUDS, "Rain drops... rain", True),
        (CLOUDS, "trains", False),
        ("What colour is an elephant?", "gray", True),
        ("What do you call a baby dog?", "puppies? a PUPPY", True),
        ("What do you call a baby dog?", "a puppy, not a kitten", False),
        ("On which continent is Brazil?", "South-America", True),
    ],
)
def test_is_answered_reads_on_word_boundaries_and_never_guesses(question, text, is_right):
    assert is_answered(questions_by_text()[question], text) is is_right
