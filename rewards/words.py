"""Words as rewards count them, and scoring turn by turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selfplay.dialog import Conversation, Scores
from selfplay.spoken_words import count_question_words, words_of

__all__ = ["FUNCTION_WORDS", "content_words_of", "count_question_words", "score_texts", "words_of"]

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


def content_words_of(text: str) -> list[str]:
    """Return the words that carry a topic: neither function words nor contractions such as "don't" and "it's"."""
    return [word for word in words_of(text) if word not in FUNCTION_WORDS and "'" not in word]


def score_texts(conversation: Conversation, score: Callable[[str], float]) -> Scores:
    """Score every turn by its own text alone."""
    return Scores(values=np.array([score(turn.text) for turn in conversation.turns], dtype=np.float32))
