"""Words as they are counted in what was said."""

from __future__ import annotations

import re

# An apostrophe joins ("don't" is one word); everything else that is no letter or digit parts.
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
QUESTION_WORDS = frozenset(("who", "what", "why", "where", "how", "when"))


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, punctuation left out."""
    return [word.lower().replace("\u2019", "'") for word in WORD.findall(text)]


def count_question_words(text: str) -> int:
    """Return how many words of the text are question words, whole words only: "show" holds no "how"."""
    return sum(word in QUESTION_WORDS for word in words_of(text))


def is_only_question(text: str) -> bool:
    """Whether a text holds nothing but question words and question marks: "What? Where?", "???"; not "" or "..."."""
    words = words_of(text)
    return all(word in QUESTION_WORDS for word in words) and (bool(words) or "?" in text)
