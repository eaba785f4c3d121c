"""Rewards for keeping to what the other is talking about.

Legend: D numbers of a vector, K turns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from rewards.words import REMEMBERED_TEXTS, answers_of, content_words_of
from selfplay.dialog import Conversation, Floats, Scores
from selfplay.errors import UserError
from selfplay.sentences import MINILM, Encoder, NoEncoderError, encoder_of

# Which message of the partner a message is compared with: the one before it, or the one after it.
To = Literal["previous", "next"]

# Content words that many messages of any small talk hold, whatever it is about.
_EVERYDAY_WORDS = """
    actually always anything around ask away bad best better big bit came come cool day days different either else
    enough even ever every everyone everything far feel find fine first found fun funny gave get gets getting give
    glad go goes going gone gonna good got great guess guy happy hard hear heard hello help hey hi hope hopefully
    interested interesting keep kind knew know known last lately later left less let life like liked likes little
    live lol long look looking lot lots love made make makes making many maybe mean might much must name need never
    new nice nothing old one part perfect pretty probably put quite rather ready real really right said saw say see
    seem seems seen show since someone something sometimes soon sorry sort sound sounds start still stuff super sure
    take talk tell thank thanks thing things think though thought time times today together told tomorrow tonight
    took totally tried true try trying two understand use used usually want wanted wants way week weird well went
    whatever whole wish without wonder wow yeah year years yep yesterday yet how what when where who why
"""
EVERYDAY_WORDS = frozenset(_EVERYDAY_WORDS.split())
# How much less they tell of a topic: a word of every 20th message against one of every 1,000th.
EVERYDAY_WEIGHT = math.log(20) / math.log(1000)

Vectors = Callable[[Sequence[str]], Mapping[str, Floats]]  # texts -> text -> [D], of length 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Coherence:
    """How near in meaning a message is to its partner's.

    Definition: cosine between the sentence vectors of the message and of the last message of somebody else before it
    (to="previous"), or of the next one after it (to="next").  It does not apply where there is none, and is 0 where
    either is blank.  The vectors are the mean over the tokens of the last layer of all-MiniLM-L6-v2, or of another
    encoder in a local folder (`model`), at most 256 tokens.
    Range: -1 to 1; SmolLM2's chit-chat is near 0.55, and messages from two chats with different topics near 0.3.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py (to="previous"), HierarchicalRL/hrl_rewards.py (to="next");
    with all-MiniLM-L6-v2 (sentence-transformers) in place of InferSent and the Universal Sentence Encoder.
    Exploit: an echo of the partner, which is the only optimum; with "next", whatever leads the partner into echoing.
    Guard: a reward against copying the partner, the repetition rewards, KL control.
    """

    name: ClassVar[str] = "coherence"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    scope: ClassVar[str] = "turn"
    is_slow: ClassVar[bool] = True

    to: To = "previous"
    model: str = MINILM  # or a local Hugging Face folder of an encoder whose mean vector means something

    def prepare(self) -> None:
        """Fetch and load the encoder now, not when the first conversation waits for it."""
        _encoder(self.model)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn; every distinct text is encoded once."""
        return score_coherence(conversations, self._vectors, to=self.to)

    def _vectors(self, texts: Sequence[str]) -> Mapping[str, Floats]:
        return _encoder(self.model).vectors(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoherenceTfidf:
    """How many words of topic a message shares with its partner's: coherence without a model.

    Definition: cosine between the weighted word counts of the message and of the last message of somebody else before
    it (to="previous"), or of the next one after it (to="next").  It does not apply where there is none.  A content word
    that is said n times counts 1 + ln n, everyday ones (a list of 200, such as "like" and "really") 0.43 times that;
    function words do not count.  Without a content word on either side it is 0.
    Range: 0 to 1.
    Source: made here, for machines without the encoder; TF-IDF with three steps of rarity in place of counted ones, so
    that it needs no corpus.  It knows words alone: "film" and "movie" share nothing, nor do "dog" and "dogs".
    Exploit: an echo of the partner's nouns; it saturates at 1.
    Guard: a reward against copying the partner, the repetition rewards, KL control.
    """

    name: ClassVar[str] = "coherence_tfidf"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"

    to: To = "previous"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn, and the words that are shared."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        values = np.full(conversation.num_turns, np.nan, dtype=np.float32)  # [K]
        why = [""] * conversation.num_turns
        for k, mine, theirs in _pairs(conversation, self.to):
            one, other = _word_weights(mine), _word_weights(theirs)
            shared = one.keys() & other.keys()
            values[k] = min(1.0, sum(one[word] * other[word] for word in sorted(shared)))
            why[k] = f"shares: {', '.join(sorted(shared)[:5])}" if shared else ""
        return Scores(values=values, why=tuple(why))


def score_coherence(conversations: Sequence[Conversation], vectors: Vectors, *, to: To) -> list[Scores]:
    """Return the cosine of each message with its partner's previous or next one, by any vectors of texts."""
    pairs = [list(_pairs(conversation, to)) for conversation in conversations]
    texts = {text for its in pairs for _, *both in its for text in both if text.strip()}
    # Sorted, for the order in which a set yields texts is another one in each process.
    found = vectors(sorted(texts)) if texts else {}
    return [
        Scores(values=_cosines(its, found, conversation.num_turns))
        for conversation, its in zip(conversations, pairs, strict=True)
    ]


def _cosines(pairs: Sequence[tuple[int, str, str]], vectors: Mapping[str, Floats], num_turns: int) -> Floats:
    values = np.full(num_turns, np.nan, dtype=np.float32)  # [K]
    for k, mine, theirs in pairs:
        has_both = mine in vectors and theirs in vectors
        # Rounding takes the cosine of two equal texts past 1.
        values[k] = np.clip(vectors[mine] @ vectors[theirs], -1.0, 1.0) if has_both else 0.0
    return values


def _pairs(conversation: Conversation, to: To) -> Iterator[tuple[int, str, str]]:
    """Yield the number of a turn, its text and the one it is compared with, for turns that have one."""
    if to == "next":
        for k, (turn, answer) in enumerate(zip(conversation.turns, answers_of(conversation), strict=True)):
            if answer is not None:
                yield k, turn.text, answer.text
        return
    last: dict[str, int] = {}  # role -> its last turn so far
    for k, turn in enumerate(conversation.turns):
        others = [number for role, number in last.items() if role != turn.role]
        if others:
            yield k, turn.text, conversation.turns[max(others)].text
        last[turn.role] = k


@lru_cache(maxsize=REMEMBERED_TEXTS)
def _word_weights(text: str) -> Mapping[str, float]:
    """Return the weight of each content word; the squares add up to 1."""
    weights = {
        word: (1.0 + math.log(count)) * (EVERYDAY_WEIGHT if word in EVERYDAY_WORDS else 1.0)
        for word, count in Counter(content_words_of(text)).items()
    }
    length = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {word: weight / length for word, weight in weights.items()}


def _encoder(name: str) -> Encoder:
    """Return an encoder, fetched if need be; raises UserError if it cannot be had."""
    try:
        return encoder_of(name)
    except NoEncoderError as error:
        raise UserError(f"coherence: {error}") from error
