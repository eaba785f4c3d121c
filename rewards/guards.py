"""Guards for mixes of rewards: numbers that ordinary talk gets for free, and what only looks like talk does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rewards.words import FUNCTION_WORDS, REMEMBERED_TEXTS, score_texts, words_of
from selfplay.dialog import Conversation, Scores
from selfplay.errors import UserError

ASKING_MARKS = "?\u061f\uff1f"
# What may stand behind the last mark of a sentence.
CLOSING_MARKS = " \t\n\"')]*!.\u2019\u201d\u2026"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionWords:
    """Whether a message has about as many function words as sentences have.

    Definition: with p the share of the message's words that are function words ("the", "I", "was"; contractions such as
    "don't" count, numbers do not), 1 where p is from `low` to `high`, falling in a straight line to 0 at p = 0 and at
    p = 1.  It does not apply to messages of fewer than `shortest` words.
    Range: 0 to 1.
    Source: made here, like the rule for stop words in the quality filter of MassiveText, Rae et al. 2021,
    arXiv:2112.11446.
    Exploit: every second word a function word, in any order; messages too short to count; it saturates.
    Guard: own_length for the short ones; unknown_words, said_before, KL control.
    """

    name: ClassVar[str] = "function_words"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"

    low: float = 0.3  # above 0
    high: float = 0.8  # from `low` to below 1
    shortest: int = 4  # words

    def __post_init__(self) -> None:
        """Refuse bounds that are not in order."""
        if not 0.0 < self.low <= self.high < 1.0:
            raise UserError(f"low={self.low:g} and high={self.high:g} must be in order, above 0 and below 1")
        if self.shortest < 1:
            raise UserError(f"shortest={self.shortest} must be at least 1: a share needs a word")

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        num_function, num_words = _count_function_words(text)
        if num_words < self.shortest:
            return np.nan
        share = num_function / num_words
        return min(1.0, share / self.low, (1.0 - share) / (1.0 - self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """Whether a message asks instead of answering.

    Definition: -1 if somebody else's last message before it asks, and this one is nothing but questions itself, else 0.
    A message asks if it has a question mark; it is nothing but questions if every sentence of it that ends in a mark
    ends in a question mark, and the last one does.
    Range: -1 to 0.
    Source: made here.
    Exploit: "Yes." before the next question; it is a penalty and ends at 0.  A question that asks back for a reason
    ("Which one?") pays as well.
    Guard: the repetition rewards; coherence.
    """

    name: ClassVar[str] = "unanswered"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        last: dict[str, str] = {}  # role -> its last message, the newest last
        values = []
        for turn in conversation.turns:
            heard = next((text for role, text in reversed(last.items()) if role != turn.role), "")
            values.append(-1.0 if _asks(heard) and _only_asks(turn.text) else 0.0)
            last.pop(turn.role, None)
            last[turn.role] = turn.text
        return Scores(values=np.array(values, dtype=np.float32))


@lru_cache(maxsize=REMEMBERED_TEXTS)
def _count_function_words(text: str) -> tuple[int, int]:
    words = words_of(text)
    return sum(word in FUNCTION_WORDS or "'" in word for word in words), len(words)


def _asks(text: str) -> bool:
    return any(mark in text for mark in ASKING_MARKS)


def _only_asks(text: str) -> bool:
    """Whether a text ends in a question, and no sentence before that ends in another mark."""
    said = text.rstrip(CLOSING_MARKS)
    return bool(said) and said[-1] in ASKING_MARKS and not any(mark in said for mark in ".!\u2026\u3002")
