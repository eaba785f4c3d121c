"""Rewards for asking: whether a message asks, and how much of it is asking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from rewards.words import REMEMBERED_TEXTS, count_question_words, score_texts, words_of
from selfplay import spoken_words
from selfplay.dialog import Conversation, Scores

DENSEST = 2.0

# How many words an open question has, from its opening word on: "Why not?" and "So what?" are too short.
SHORTEST_OPEN_QUESTION = 3
# What may stand before the opening, at most twice: "Oh, and what ...".
_LEAD_INS = """
    ah actually alright also and anyway because but great hello hey hi hmm honestly interesting nice no now oh ok okay
    or please right so sure then um well wow yeah yes
"""
# "How" asks for a quantity, and "what" for a name or a number, where one of these follows; "what a day" asks nothing.
_CLOSED_AFTER_HOW = """
    big deep expensive far fast few frequently heavy high large late little long many much often old quick quickly small
    soon tall wide
"""
_CLOSED_AFTER_WHAT = "a age an colour color date day decade hour month number percentage size time year"


def _any_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


_SENTENCE = re.compile(r"([^.!?\n\u2026]+)([.!?\u2026]*)")
# These match sentences given as their words with a space between.
_LEAD_IN = rf"(?:{_any_of(_LEAD_INS)} ){{0,2}}"
_HOW = rf"how(?! {_any_of(_CLOSED_AFTER_HOW)}\b)"
_WHAT = rf"what(?! {_any_of(_CLOSED_AFTER_WHAT)}\b)(?!(?:'?s| is) (?:your|his|her|their|the) (?:name|age|time)\b)"
_QUESTION = re.compile(rf"{_LEAD_IN}((?:{_HOW}|{_WHAT}|why)(?:'?s|'re|'ve|'d|'ll)?(?: .*)?)")
_INVITATION = re.compile(rf"{_LEAD_IN}(?:(?:can|could|will|would) you )?(?:please )?tell (?:me|us) (?:about|more)\b")


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
    scope: ClassVar[str] = "turn"

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
    scope: ClassVar[str] = "turn"

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
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        asked = count_question_words(text) + text.count("?")
        return min(DENSEST, asked / max(1, len(words_of(text))))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """Whether a message asks what cannot be answered by yes, no, a name or a number.

    Definition: 1 if the message has a sentence that ends in a question mark and opens with what, why or how, or any
    sentence that opens with "tell me about" or "tell me more", else 0.  A short lead-in may stand before ("Oh, and
    what ...", "Could you please tell me ..."); from "what" on there are at least 3 words.  "How many", "how old", "what
    time", "what's your name" and the like are closed, and so are who, where, when and which.  An invitation ("Tell me
    about it.") needs no mark, for it is written without one.
    Range: 0 to 1.
    Source: made here; open questions as counsellors are taught them (W. R. Miller and S. Rollnick, Motivational
    Interviewing).
    Exploit: "How are you?" or "What about you?" behind every message; it saturates there, and ten questions count as
    one.
    Guard: the repetition rewards, which see the same question again; words_elicited; KL control.
    """

    name: ClassVar[str] = "open_question"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, _has_open_question) for conversation in conversations]


@lru_cache(maxsize=REMEMBERED_TEXTS)
def _has_open_question(text: str) -> float:
    return float(any(_is_open(said, is_asked="?" in marks) for said, marks in _SENTENCE.findall(text)))


def _is_open(sentence: str, *, is_asked: bool) -> bool:
    if not is_asked and "tell" not in sentence.lower():
        return False
    # Not the `words_of` that remembers: sentences would crowd out texts.
    words = " ".join(spoken_words.words_of(sentence))
    if _INVITATION.match(words):
        return True
    question = _QUESTION.fullmatch(words) if is_asked else None
    return question is not None and len(question[1].split()) >= SHORTEST_OPEN_QUESTION
