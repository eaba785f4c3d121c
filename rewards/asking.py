"""Rewards for asking: whether a message asks, and how much of it is asking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rewards.words import count_question_words, score_texts, words_of
from selfplay.dialog import Conversation, Scores

DENSEST = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whether a message asks.

    Definition: form "vhrl": 1 if it has a question word and a question mark, else 0; form "way_off_policy": a half for
    a mark and a half for a word.  Question words: who, what, why, where, how, when, as whole words (the originals look
    for substrings and find "how" in "show").
    Range: 0 to 1.
    Source: natashamjaques/neural_chat, HierarchicalRL/hrl_rewards.py and BatchRL/rewards.py.
    Exploit: "What?" behind every message; it saturates there.
    Guard: the repetition rewards, KL control.
    """

    name: ClassVar[str] = "question"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    form: Literal["vhrl", "way_off_policy"] = "vhrl"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        has_mark, has_word = "?" in text, count_question_words(text) > 0
        return float(has_mark and has_word) if self.form == "vhrl" else 0.5 * has_mark + 0.5 * has_word


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionMarks:
    """How much of a message is question marks.

    Definition: question marks / characters; 0 for an empty message.
    Range: 0 to 1.
    Source: made here; dense enough for a random model to find, which the tiny preset shows.
    Exploit: "????" is its optimum; that is what it is for.
    Guard: none; no reward for a model that speaks a language.
    """

    name: ClassVar[str] = "question_marks"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        return text.count("?") / max(1, len(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionDensity:
    """How much of a message is asking.

    Definition: (question words + question marks) / words, at most 2; a message without words counts as one word.
    Range: 0 to 2.
    Source: made here, to show what a reward does that keeps pushing.
    Exploit: "What? Where? Why?" is its optimum; that is what it is for.
    Guard: none of its own; it belongs in studies of KL control.
    """

    name: ClassVar[str] = "question_density"
    range: ClassVar[tuple[float, float]] = (0.0, DENSEST)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        asked = count_question_words(text) + text.count("?")
        return min(DENSEST, asked / max(1, len(words_of(text))))
