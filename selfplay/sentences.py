"""Texts as vectors: near in direction means near in meaning.

Legend: B texts, T tokens, D numbers of a vector.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from selfplay import named_models
from selfplay.dialog import Floats
from selfplay.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["MINILM", "Encoder", "NoEncoderError", "TextVectors", "WordVectors", "encoder_of"]

logger = logging.getLogger(__name__)

MINILM = "all-minilm-l6-v2"
# What all-MiniLM-L6-v2 itself cuts texts to.
MOST_TOKENS = 256
TOKENS_PER_PASS = 1024
# Texts are padded a little, so that more of them share a pass.  Measured: 1.4x the speed where a call holds 8 texts,
# 0.95x where it holds 400.  Products of fewer rows than SHORTEST are computed in another way, which rounds otherwise.
TO_MULTIPLE = 4
SHORTEST = 8
REMEMBERED_VECTORS = 16_384

WORD_PARTS = re.compile(r"\w+|[^\w\s]")
NUM_BUCKETS = 256


class NoEncoderError(UserError):
    """What was named cannot be read as an encoder."""


class TextVectors(Protocol):
    """Whatever turns texts into vectors."""

    def vectors(self, texts: Sequence[str]) -> Mapping[str, Floats]:
        """Return the vector [D] of each distinct text, of length 1."""
        ...


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
        self._room = 0

    def make_room(self, num: int) -> None:
        """Remember at least so many vectors from now on; a thousand of 384 numbers take 1.5 MB."""
        self._room = max(self._room, num)

    def vectors(self, texts: Sequence[str]) -> Mapping[str, Floats]:
        """Return the vector [D] of each distinct text."""
        known = self._known
        found = {text: known[text] for text in texts if text in known}
        found |= self._encode([text for text in dict.fromkeys(texts) if text not in known])
        newest = {text: vector for text, vector in known.items() if text not in found} | found
        # Replaced, never changed: a call that ran out of time may still be going on in its thread.
        most = max(REMEMBERED_VECTORS, self._room)
        self._known = dict(islice(newest.items(), max(0, len(newest) - most), None))
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


class WordVectors:
    """Which words and marks a text holds, without any model: each adds 1 or -1 to one of 256 numbers.

    Two words may share a number; which ones do depends on a checksum alone, so it is the same everywhere.
    """

    def vectors(self, texts: Sequence[str]) -> Mapping[str, Floats]:
        """Return the vector [256] of each distinct text, of length 1; without words all numbers are 0."""
        return {text: _word_vector(text) for text in dict.fromkeys(texts)}


def _word_vector(text: str) -> Floats:
    vector = np.zeros(NUM_BUCKETS, dtype=np.float32)
    for word, count in Counter(WORD_PARTS.findall(text.lower())).items():
        checksum = zlib.crc32(word.encode("utf-8", "replace"))
        vector[checksum % NUM_BUCKETS] += count if checksum & (1 << 16) else -count
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


@cache
def encoder_of(name: str) -> Encoder:
    """Return an encoder that the whole process shares, fetched if need be.

    name: one of the encoders in `named_models`, or a local Hugging Face folder; NoEncoderError if it is neither.
    """
    folder = named_models.prepare(name, say=logger.info) if name in named_models.ENCODERS else Path(name).expanduser()
    if not named_models.has_files(folder):
        needed = ", ".join(named_models.READY_FILES)
        raise NoEncoderError(
            f"model={name} is no encoder; use {', '.join(named_models.ENCODERS)}, or a local Hugging Face folder with "
            f"{needed}"
        )
    return Encoder(*load(name, folder))


def load(name: str, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return an encoder's model and tokenizer from its folder.  Raises NoEncoderError if they cannot be read."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    with named_models.quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except Exception as error:
            raise NoEncoderError(f"model={name} cannot be loaded: {_first_line(error)}") from error
    return model.eval().requires_grad_(False), tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
