"""Rewards that ask another language model how likely a message is.

Legend: B streams, T tokens, K turns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from selfplay import models, trained
from selfplay.dialog import Conversation, Floats, Scores, Turn
from selfplay.errors import UserError
from selfplay.experience import Trajectory, pad, padded_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# What a token of a sentence that makes no sense at all costs: a vocabulary of 49,152, drawn blindly, costs 10.8.
UNLIKELIEST = -10.0
TOKENS_PER_MICROBATCH = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceNll:
    """How likely a model finds what was said.

    Definition: mean log-probability (nats a token, end of turn included) of the tokens of the turn under `model`, given
    all that its speaker's model had heard and said, at temperature 1, at least -10.  It does not apply to turns without
    tokens: those of scripts and people.
    Range: -10 to 0; SmolLM2's own chat is near -1.1.
    Source: N. Jaques et al., Sequence Tutor, ICML 2017: log p under the frozen pretrained model as a reward; there a
    token's, here a turn's mean, so that long messages cost no more than short ones.
    Exploit: the likeliest reply, again and again ("I'm glad to hear that!"), or the conversation's own words once more,
    for a text that repeats is ever more likely; it saturates at 0.
    Guard: the repetition rewards, diversity within a group; KL control has the same pull, and keeps the policy's
    entropy where this one does not.
    """

    name: ClassVar[str] = "reference_nll"
    range: ClassVar[tuple[float, float]] = (UNLIKELIEST, 0.0)
    scope: ClassVar[str] = "turn"
    is_slow: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    model: str = "smollm2-135m"  # as for playing; it must have the tokenizer of who speaks

    def prepare(self) -> None:
        """Fetch and load the model now, not when the first conversation waits for it."""
        _load(self.model)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn; raises UserError if a speaker has another tokenizer."""
        values = [np.full(conversation.num_turns, np.nan, dtype=np.float32) for conversation in conversations]
        streams = [
            stream for index, conversation in enumerate(conversations) for stream in _streams(str(index), conversation)
        ]
        if streams:
            loaded = _load(self.model)
            self._check_tokenizers(loaded, conversations)
            _score(loaded.model, streams, values)
        return [Scores(values=each) for each in values]

    def _check_tokenizers(self, loaded: models.LoadedModel, conversations: Sequence[Conversation]) -> None:
        mine = len(loaded.tokenizer)
        speakers = {player.model for conversation in conversations for player in conversation.players.values()}
        for speaker in sorted(speakers - {"", self.model}):
            theirs = _vocabulary_size(speaker)
            if theirs not in (None, mine):
                raise UserError(
                    f"reference_nll: model={self.model} has a vocabulary of {mine} tokens and {speaker}, which spoke, "
                    f"one of {theirs}: use a model with the tokenizer of who speaks"
                )
        largest = max(
            int(tokens.max())
            for conversation in conversations
            for turn in conversation.turns
            for tokens in (turn.heard, turn.said)
            if len(tokens)
        )
        if largest >= mine:
            raise UserError(
                f"reference_nll: model={self.model} has a vocabulary of {mine} tokens, and token {largest} was spoken: "
                "use a model with the tokenizer of who speaks"
            )


@cache
def _load(name: str) -> models.LoadedModel:
    from selfplay.learn.packing import pack_attention

    # In float32 on every device, so that a turn's number does not depend on what it is batched with.
    loaded = models.load(name, dtype="float32", say=logger.info)
    # Streams of one scenario begin alike, and packed they share their beginning; where that cannot be, they are padded.
    pack_attention(loaded.model)
    return loaded


@cache
def _vocabulary_size(name: str) -> int | None:
    """Return how many tokens a speaker's model knows; None: its tokenizer is not on this machine."""
    from transformers import AutoTokenizer

    try:
        if not models.is_ready(name):
            return None
        folder = models.folder_of(name)
    except UserError:
        return None
    if folder is None:
        return len(models.load(name, device="cpu").tokenizer)
    return len(AutoTokenizer.from_pretrained(folder)) if trained.has_tokenizer(folder) else None


def _streams(name: str, conversation: Conversation) -> Iterator[Trajectory]:
    """Yield what each model saw, whoever's turns they are; ``acted`` marks what it said, and can be scored."""
    turns = [(k, turn) for k, turn in enumerate(conversation.turns) if len(turn.heard) or len(turn.said)]
    turns.sort(key=lambda item: (item[1].stream, item[1].player))
    for _, group in groupby(turns, key=lambda item: (item[1].stream, item[1].player)):
        stream = _stream(name, list(group))
        if stream.acted.any():
            yield stream


def _stream(name: str, turns: Sequence[tuple[int, Turn]]) -> Trajectory:
    sizes = [len(tokens) for _, turn in turns for tokens in (turn.heard, turn.said)]
    num_tokens = sum(sizes)
    acted = np.repeat([False, True] * len(turns), sizes)
    # Nothing precedes the first token of a stream, so nothing says how likely it was.
    acted[:1] = False
    nothing = np.zeros(num_tokens, dtype=np.float32)
    return Trajectory(
        conversation=name,
        group=name,
        version=0,
        truncated=False,
        roles=(),
        tokens=np.concatenate([tokens for _, turn in turns for tokens in (turn.heard, turn.said)]).astype(np.int32),
        acted=acted,
        role_index=np.zeros(num_tokens, dtype=np.int8),
        turn=np.repeat([k for k, _ in turns for _ in range(2)], sizes).astype(np.int32),
        logprobs=nothing,
        rewards=nothing,
    )


def _score(model: PreTrainedModel, streams: Sequence[Trajectory], values: Sequence[Floats]) -> None:
    """Write the mean log-probability of each turn into its conversation's numbers [K]."""
    import torch

    from selfplay.learn.model import score_tokens
    from selfplay.learn.packing import is_packed, packed_rows

    device = next(model.parameters()).device
    split = packed_rows if is_packed(model) else padded_rows
    [microbatches] = split(streams, num_minibatches=1, max_tokens=TOKENS_PER_MICROBATCH)
    for numbers in microbatches:
        rows = [streams[number] for number in numbers]
        batch = pad(rows)
        tokens, acted, exists = (part.to(device) for part in (batch.tokens, batch.acted, batch.exists))
        with torch.no_grad():
            logprobs = score_tokens(model, tokens, acted, exists=exists).logprobs.double().cpu().numpy()  # [B, T]
        for stream, row in zip(rows, logprobs, strict=True):
            said = stream.turn[stream.acted]
            counts = np.bincount(said)
            sums = np.bincount(said, weights=row[: stream.num_tokens][stream.acted])
            spoken = np.flatnonzero(counts)
            values[int(stream.conversation)][spoken] = np.clip(sums[spoken] / counts[spoken], UNLIKELIEST, 0.0)
