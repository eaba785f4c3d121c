"""Rewards for language that is still language: words that exist, some of them new, messages that are whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from rewards.repetition import Gram, ngrams_of
from rewards.words import score_texts, words_of
from selfplay.dialog import Conversation, Scores, Turn
from selfplay.errors import UserError
from selfplay.spoken_words import QUESTION_WORDS, is_only_question

VOCABULARY = Path(__file__).with_name("vocabulary.txt")
PART = re.compile(r"[^.,;:!?\n]+")

LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
# Whatever has an accent passes for a vowel.
VOWELS = "AEIOUYaeiouy\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
MARKS = ".,;:!?'\"()/%&$+\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u20ac\u00a3\u00a1\u00bf-"
# What stands in angle brackets, or in capitals in square ones, is a template's: <|im_end|>, </s>, [INST].
TEMPLATE_TOKEN = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z]{2,}\]")
PIECE = re.compile(rf"[{LATIN}]+|[0-9]+|[{MARKS}]+")
VOWEL = re.compile(f"[{VOWELS}]")
LONGEST_WORD, LONGEST_NUMBER, MOST_MARKS = 30, 15, 4
LONGEST_WITHOUT_VOWEL = 4  # "hmm", "psst", "HTML"
# A letter four times in a row, or seven consonants: "catchphrase" has six.
ODD_LETTERS = re.compile(rf"(.)\1{{3}}|[^{VOWELS}]{{7}}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistinctWords:
    """How much of a message its speaker has not said yet.

    Definition: the share of the message's word `n`-grams that the role has said neither in an earlier message nor
    earlier in this one; it does not apply to messages of fewer than `n` words.  Weighted by length, a role's numbers
    average to its distinct-n.
    Range: 0 to 1.
    Source: distinct-n, Li et al. 2016, arXiv:1510.03055, told apart by message.
    Exploit: rare or made-up words in any order; it saturates where nothing repeats.
    Guard: unknown_words, KL control.
    """

    name: ClassVar[str] = "distinct_words"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"

    n: int = 2

    def __post_init__(self) -> None:
        """Refuse n-grams of nothing."""
        if self.n < 1:
            raise UserError(f"n={self.n} must be at least 1: an n-gram has a word")

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        said: dict[str, set[Gram]] = {}
        values = []
        for turn in conversation.turns:
            grams = ngrams_of(words_of(turn.text), self.n)
            new = set(grams) - said.setdefault(turn.role, set())
            said[turn.role] |= new
            values.append(len(new) / len(grams) if grams else np.nan)
        return Scores(values=np.array(values, dtype=np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyReply:
    """Whether a message says nothing.

    Definition: -1 if the message has no word, else 0; a number is a word, "..." and an emoji are none.
    Range: -1 to 0.
    Source: made here.
    Exploit: one word, always the same; it is a penalty and ends at 0.
    Guard: a length reward, said_before.
    """

    name: ClassVar[str] = "empty"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        return 0.0 if words_of(text) else -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CutReply:
    """Whether a limit cut a message off.

    Definition: -1 if a limit of tokens or of the context ended the turn, 0 if its speaker did; it does not apply to
    scripts and people.
    Range: -1 to 0.
    Source: made here.
    Exploit: stopping at once; it is a penalty and ends at 0.
    Guard: a length reward.
    """

    name: ClassVar[str] = "cut"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [
            Scores(values=np.array([self._of(turn) for turn in conversation.turns], dtype=np.float32))
            for conversation in conversations
        ]

    def _of(self, turn: Turn) -> float:
        return np.nan if turn.finish == "text" else -1.0 if turn.is_cut else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlyQuestionWords:
    """Minus the share of a message that is bare question words.

    Definition: -(bare question words / words); bare is a question word with nothing else between two punctuation marks,
    or next to another question word.  -1 also for question marks alone, 0 for other messages without words.
    Question words: who, what, why, where, how, when, as whole words ("show" holds none).
    Range: -1 ("What? Where?") to 0.
    Source: made here, against what question rewards lead to without KL control.
    Exploit: "What is it? Where is it?" pays nothing here; it is a penalty and ends at 0.
    Guard: utterance_repetition, distinct_words, KL control.
    """

    name: ClassVar[str] = "only_question_words"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        if QUESTION_WORDS.isdisjoint(words_of(text)):
            return -1.0 if is_only_question(text) else 0.0
        parts = [words_of(part) for part in PART.findall(text)]
        return -sum(_count_bare(words) for words in parts) / max(1, sum(len(words) for words in parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownWords:
    """Minus the share of a message's words that are no words.

    Definition: -(words outside the vocabulary / words); numbers, and "'s" behind a known word, are known.  0 for a
    message without words.
    Range: -1 to 0.
    Source: made here; the vocabulary is what people write in small talk (see vocabulary.txt) or, with `vocabulary`, a
    text file of words between spaces, in which lines that begin with # do not count.
    Exploit: known words in no order; it is a penalty and ends at 0.  Rare words and names cost a little.
    Guard: coherence, KL control.
    """

    name: ClassVar[str] = "unknown_words"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    vocabulary: str = ""  # a file; "": the package's own

    def __post_init__(self) -> None:
        """Refuse a vocabulary that cannot be read."""
        if self.vocabulary:
            _read_vocabulary(self.vocabulary)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn, and which words are unknown."""
        known = _read_vocabulary(self.vocabulary or str(VOCABULARY))
        return [self._of(conversation, known) for conversation in conversations]

    def _of(self, conversation: Conversation, known: frozenset[str]) -> Scores:
        values, why = [], []
        for turn in conversation.turns:
            words = words_of(turn.text)
            unknown = [word for word in words if word not in known and not _is_form_of_known(word, known)]
            values.append(-len(unknown) / max(1, len(words)))
            why.append(f"unknown: {', '.join(word[:40] for word in unknown[:5])}" if unknown else "")
        return Scores(values=np.array(values, dtype=np.float32), why=tuple(why))


@dataclass(frozen=True, slots=True, kw_only=True)
class WellFormed:
    """Minus the share of a message that does not look like text.

    Definition: -(characters, spaces aside, outside ordinary words, numbers and punctuation / characters, spaces aside);
    0 for an empty message.  An ordinary word is of Latin letters, at most 30, none four times in a row, with a vowel if
    it has more than 4 and no seven consonants together.  An ordinary number has at most 15 digits; of punctuation in a
    row, 4 marks count.  Emoji, other scripts, markup, control characters and template tokens such as <|im_end|> do not.
    Range: -1 to 0.
    Source: made here.
    Exploit: "lorem ipsum": it looks at letters, not at words; it is a penalty and ends at 0.
    Guard: unknown_words.  Not for languages of other scripts.
    """

    name: ClassVar[str] = "well_formed"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, _odd_share) for conversation in conversations]


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLong:
    """A price for very long messages.

    Definition: 0 up to `free` words, falling in a straight line to -1 at `words` words and beyond.
    Range: -1 to 0.
    Source: made here.
    Exploit: one word of a thousand letters; it is a penalty and ends at 0.
    Guard: well_formed; cut, where the limit of tokens is below this one.
    """

    name: ClassVar[str] = "too_long"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    free: int = 60
    words: int = 150

    def __post_init__(self) -> None:
        """Refuse a line that does not fall."""
        if not 0 <= self.free < self.words:
            raise UserError(f"free={self.free} must be at least 0 and below words={self.words}")

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        beyond = max(0, len(words_of(text)) - self.free)
        return max(-1.0, -beyond / (self.words - self.free))


def _count_bare(words: Sequence[str]) -> int:
    is_question = [word in QUESTION_WORDS for word in words]
    if all(is_question):
        return len(words)
    around = [False, *is_question, False]
    return sum(here and (before or after) for before, here, after in zip(around, is_question, around[2:], strict=False))


@lru_cache(maxsize=8)
def _read_vocabulary(file: str) -> frozenset[str]:
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"vocabulary={file} cannot be read as text: {error}") from error
    words = frozenset(word for line in lines if not line.startswith("#") for word in words_of(line))
    if not words:
        raise UserError(f"vocabulary={file} has no words; it must hold words between spaces")
    return words


def _is_form_of_known(word: str, known: frozenset[str]) -> bool:
    stem = word.removesuffix("'s")
    return stem in known or stem.isdecimal()


def _odd_share(text: str) -> float:
    num_characters = len("".join(text.split()))
    ordinary = sum(_count_ordinary(piece) for piece in PIECE.findall(TEMPLATE_TOKEN.sub(" ", text)))
    return ordinary / num_characters - 1.0 if num_characters else 0.0


@lru_cache(maxsize=65536)
def _count_ordinary(piece: str) -> int:
    """Return how many characters of a run of letters, digits or marks are ordinary."""
    if piece[0] in "0123456789":
        return len(piece) if len(piece) <= LONGEST_NUMBER else 0
    if not piece[0].isalpha():
        return min(len(piece), MOST_MARKS)
    is_speakable = len(piece) <= LONGEST_WITHOUT_VOWEL or VOWEL.search(piece) is not None
    is_word = is_speakable and len(piece) <= LONGEST_WORD and not ODD_LETTERS.search(piece)
    return len(piece) if is_word else 0
