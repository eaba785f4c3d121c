"""Words as rewards count them, and scoring turn by turn.  Legend: K turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np

from selfplay import spoken_words
from selfplay.dialog import Conversation, Scores, Turn

# Texts that a cached function of a text remembers: several rewards ask the same of one step's texts.
REMEMBERED_TEXTS = 65536

# Whose message a reward reads: the one it is credited to, or the answer that it brought about.
Of = Literal["own", "next"]

# Words that carry no topic: English articles, pronouns, prepositions, conjunctions, auxiliaries, common adverbs.  The
# question words are not among them: repeating them is repetition, as in the original.
_FUNCTION_WORDS = """
    a about above after again all also am an and any are as at be because been before being below between both
    but by can cannot could did do does doing down during each few for from further had has have having he her
    here hers herself him himself his i if in into is it its itself just me more most my myself no nor not now
    of off on once only or other our ours ourselves out over own same she should so some such than that the
    their theirs them themselves then there these they this those through to too under until up very was we
    were which while whom will with would yes you your yours yourself yourselves oh ok okay well
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, punctuation left out."""
    return list(_words_of(text))


def content_words_of(text: str) -> list[str]:
    """Return the words that carry a topic: neither function words nor contractions such as "don't" and "it's"."""
    return [word for word in _words_of(text) if word not in FUNCTION_WORDS and "'" not in word]


@lru_cache(maxsize=REMEMBERED_TEXTS)
def count_question_words(text: str) -> int:
    """Return how many words of the text are question words, whole words only: "show" holds no "how"."""
    return spoken_words.count_question_words(text)


def answers_of(conversation: Conversation) -> list[Turn | None]:
    """Return for each turn the next turn of another role; None: nobody answers."""
    turns = conversation.turns
    answers: list[Turn | None] = [None] * len(turns)  # [K]
    for k in reversed(range(len(turns) - 1)):
        later = turns[k + 1]
        answers[k] = later if later.role != turns[k].role else answers[k + 1]
    return answers


def texts_of(conversation: Conversation, of: Of) -> list[str | None]:
    """Return for each turn its own text, or that of the turn that answers it; None: nobody does."""
    if of == "own":
        return [turn.text for turn in conversation.turns]
    return [None if answer is None else answer.text for answer in answers_of(conversation)]


def score_texts(conversation: Conversation, score: Callable[[str], float], *, of: Of = "own") -> Scores:
    """Score every turn by one text alone: its own, or its answer's; NaN where nobody answers."""
    values = [np.nan if text is None else score(text) for text in texts_of(conversation, of)]
    return Scores(values=np.array(values, dtype=np.float32))


@lru_cache(maxsize=REMEMBERED_TEXTS)
def _words_of(text: str) -> tuple[str, ...]:
    # A tuple: what is remembered must not be changed by who asked for it.
    return tuple(spoken_words.words_of(text))
