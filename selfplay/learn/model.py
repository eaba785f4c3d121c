"""What a model says of given tokens: log-probabilities, entropy, divergence from a reference, where the policy acted.

The shift by one between a position's logits and the token they speak about happens here and nowhere else: everything
that leaves this module is [B, T], aligned to the tokens.  Logits are made only for acted tokens, a chunk at a time, and
made again for the gradient, so that no [B, T, V] tensor ever exists.

Legend: B sequences, T tokens, N acted tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from selfplay.learn.packing import is_packed, lay_out, packed_states

# Acted tokens whose logits exist at once: 128 x 49,152 floats are 25 MB, which stays near the processor's caches.
ACTED_PER_CHUNK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ActedStates:
    """The hidden states that a batch's acted tokens were drawn from."""

    before: Tensor  # [N, H] of the position before each acted token, row by row
    targets: Tensor  # [N] int64, the acted tokens
    acted: Tensor  # [B, T] bool
    last: Tensor  # [B, H] of each row's last token

    def scatter(self, column: Tensor) -> Tensor:
        """Return numbers [N] at their tokens: [B, T] float32, 0 where nothing was acted."""
        blank = column.new_zeros(self.acted.shape, dtype=torch.float32)
        return blank.masked_scatter(self.acted, column.float())


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """What a model says of a batch; 0 where nothing was acted."""

    logprobs: Tensor  # [B, T] nats, of the token at its own position
    entropy: Tensor  # [B, T] nats, of the distribution the token was drawn from
    divergence: Tensor | None = None  # [B, T] nats, KL(model || reference) exact over the vocabulary


def score_tokens(
    model: PreTrainedModel, tokens: Tensor, acted: Tensor, *, exists: Tensor, temperature: float = 1.0
) -> TokenScores:
    """Score the acted tokens of a right-padded batch; see `acted_states` and `score_states`."""
    return score_states(model, acted_states(model, tokens, acted, exists=exists), temperature=temperature)


def acted_states(model: PreTrainedModel, tokens: Tensor, acted: Tensor, *, exists: Tensor) -> ActedStates:
    """Run the model without its head over a right-padded batch.

    tokens [B, T] int64; acted, exists [B, T] bool: sampled by the policy, and not padding.
    Raises ValueError if a first token is acted: nothing precedes it.
    """
    if acted[:, 0].any():
        raise ValueError("the first token of a sequence cannot be acted: there is nothing that it was drawn from")
    if is_packed(model):
        layout = lay_out(tokens, exists, acted)
        hidden, place = packed_states(model, layout), layout.place
    else:
        hidden = hidden_states(model, tokens, exists=exists).flatten(0, 1)
        place = torch.arange(len(hidden), device=hidden.device).view(tokens.shape)
    rows, places = acted.nonzero(as_tuple=True)  # [N] each
    ends = exists.sum(dim=1, keepdim=True) - 1
    # The logits at a position speak about the next token.
    return ActedStates(
        before=hidden[place[rows, places - 1]],
        targets=tokens[rows, places],
        acted=acted,
        last=hidden[place.gather(1, ends)[:, 0]],
    )


def score_states(
    model: PreTrainedModel,
    states: ActedStates,
    *,
    temperature: float = 1.0,
    reference: tuple[PreTrainedModel, Tensor] | None = None,
) -> TokenScores:
    """Score acted tokens from the hidden states they were drawn from.

    Logits are divided by the temperature the tokens were sampled at.  reference, a frozen model and its
    `ActedStates.before` of the same tokens, asks for the exact divergence.
    """
    before, targets = states.before, states.targets
    parts = [
        _score_chunk(model, before[start:end], targets[start:end], temperature, _slice(reference, start, end))
        for start, end in _chunks(len(targets))
    ]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)] or [before.new_zeros(0)] * 3
    logprobs, entropy, divergence = (states.scatter(column) for column in columns)
    return TokenScores(logprobs=logprobs, entropy=entropy, divergence=None if reference is None else divergence)


def hidden_states(model: PreTrainedModel, tokens: Tensor, *, exists: Tensor) -> Tensor:
    """Return the last hidden states [B, T, H] of a right-padded batch, before the head."""
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    # Padding stands on the right, so a causal mask alone keeps it out of every sequence; no other mask is needed.
    output = cast(Any, model.base_model)(input_ids=tokens.where(exists, 0), position_ids=positions, use_cache=False)
    return cast(Tensor, output.last_hidden_state)


def head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return float32 logits [N, V] of hidden states [N, H], with what the family does after its last product."""
    config: Any = model.config
    logits: Tensor = cast(nn.Module, model.get_output_embeddings())(hidden).float()
    if getattr(config, "logit_scale", None) is not None:  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) is not None:  # Granite
        logits = logits / config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _score_chunk(
    model: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    temperature: float,
    reference: tuple[PreTrainedModel, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    def compute(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logprobs = (head(model, hidden) / temperature).log_softmax(dim=-1)
        probabilities = logprobs.exp()
        entropy = -(probabilities * logprobs).sum(dim=-1)
        divergence = torch.zeros_like(entropy)
        if reference is not None:
            with torch.no_grad():
                theirs = (head(*reference) / temperature).log_softmax(dim=-1)
            divergence = (probabilities * (logprobs - theirs)).sum(dim=-1)
        return logprobs.gather(1, targets[:, None])[:, 0], entropy, divergence

    if not torch.is_grad_enabled():
        return compute(hidden)
    return cast("tuple[Tensor, Tensor, Tensor]", checkpoint(compute, hidden, use_reentrant=False))


def _chunks(num: int) -> list[tuple[int, int]]:
    return [(start, min(start + ACTED_PER_CHUNK, num)) for start in range(0, num, ACTED_PER_CHUNK)]


def _slice(
    reference: tuple[PreTrainedModel, Tensor] | None, start: int, end: int
) -> tuple[PreTrainedModel, Tensor] | None:
    return None if reference is None else (reference[0], reference[1][start:end])
