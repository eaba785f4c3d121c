"""Rewards for keeping to what the other is talking about.

Legend: B texts, T tokens, D numbers of a vector, K turns.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np

from rewards.words import REMEMBERED_TEXTS, answers_of, content_words_of
from selfplay import named_models
from selfplay.dialog import Conversation, Floats, Scores
from selfplay.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Which message of the partner a message is compared with: the one before it, or the one after it.
To = Literal["previous", "next"]

MINILM = "all-minilm-l6-v2"
# What all-MiniLM-L6-v2 itself cuts texts to.
MOST_TOKENS = 256
TOKENS_PER_PASS = 1024
# Texts are padded a little, so that more of them share a pass.  Measured: 1.4x the speed where a call holds 8 texts,
# 0.95x where it holds 400.  Products of fewer rows than SHORTEST are computed in another way, which rounds otherwise.
TO_MULTIPLE = 4
SHORTEST = 8
REMEMBERED_VECTORS = 16_384

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


# ----- sentence vectors -----


class Encoder:
    """Turns texts into vectors of length 1: the mean of a model's last layer over the tokens; remembers the newest.

    What a text is padded to depends on the text alone, and only texts of one such length go through the model together:
    so its vector does not depend on what it was encoded with.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take over a model without dropout, on the CPU in float32."""
        self._model = model
        self._tokenizer = tokenizer
        self._known: dict[str, Floats] = {}  # the newest last

    def vectors(self, texts: Sequence[str]) -> Mapping[str, Floats]:
        """Return the vector [D] of each distinct text."""
        known = self._known
        found = {text: known[text] for text in texts if text in known}
        found |= self._encode([text for text in dict.fromkeys(texts) if text not in known])
        newest = {text: vector for text, vector in known.items() if text not in found} | found
        # Replaced, never changed: a call that ran out of time may still be going on in its thread.
        self._known = dict(islice(newest.items(), max(0, len(newest) - REMEMBERED_VECTORS), None))
        return found

    def _encode(self, texts: Sequence[str]) -> dict[str, Floats]:
        if not texts:
            return {}
        # A multiple, so that padding never takes a text past what the model can read.
        limit = min(MOST_TOKENS, self._tokenizer.model_max_length) // TO_MULTIPLE * TO_MULTIPLE
        tokens = self._tokenizer(list(texts), padding=False, truncation=True, max_length=limit)["input_ids"]
        rows = sorted(zip(texts, tokens, strict=True), key=_padded_length)
        found: dict[str, Floats] = {}
        for length, group in groupby(rows, key=_padded_length):
            same = list(group)
            num = max(1, TOKENS_PER_PASS // length)
            for start in range(0, len(same), num):
                part = same[start : start + num]
                vectors = self._pass([row for _, row in part], length)
                found |= {text: vector.copy() for (text, _), vector in zip(part, vectors, strict=True)}
        return found

    def _pass(self, rows: Sequence[Sequence[int]], length: int) -> Floats:
        """Return the vectors [B, D] of texts, padded to a length."""
        import torch

        tokens = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])  # [B, T]
        exists = torch.arange(length) < torch.tensor([[len(row)] for row in rows])  # [B, T]
        with torch.inference_mode():
            hidden: torch.Tensor = self._model(input_ids=tokens, attention_mask=exists.long())[0]  # [B, T, D]
            # The sum over the tokens has the direction of their mean.
            vectors = torch.nn.functional.normalize((hidden * exists[:, :, None]).sum(dim=1), dim=1)
        return cast(Floats, vectors.numpy())


def _padded_length(row: tuple[str, Sequence[int]]) -> int:
    return max(SHORTEST, -(-len(row[1]) // TO_MULTIPLE) * TO_MULTIPLE)


@cache
def _encoder(name: str) -> Encoder:
    """Return an encoder, fetched if need be; raises UserError if it cannot be had."""
    folder = named_models.prepare(name, say=logger.info) if name in named_models.ENCODERS else Path(name).expanduser()
    if not named_models.has_files(folder):
        needed = ", ".join(named_models.READY_FILES)
        raise UserError(
            f"coherence: model={name} is no encoder; use {', '.join(named_models.ENCODERS)}, or a local Hugging Face "
            f"folder with {needed}"
        )
    return Encoder(*_load(name, folder))


def _load(name: str, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    with named_models.quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except Exception as error:
            raise UserError(f"coherence: model={name} cannot be loaded: {_first_line(error)}") from error
    return model.eval().requires_grad_(False), tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
