"""What a model says of given tokens: log-probabilities, entropy, divergence from a reference, where the policy acted.

The shift by one between a position's logits and the token they speak about happens here and nowhere else: everything
that leaves this module is [B, T], aligned to the tokens.  Logits are made only for acted tokens, so that no [B, T, V]
tensor ever exists.

Legend: B sequences, T tokens, N acted tokens, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.learn.packing import is_packed, lay_out, packed_states
from selfplay.learn.vocabulary import Reference, score_hidden


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
    reference: Reference | None = None,
) -> TokenScores:
    """Score acted tokens from the hidden states they were drawn from.

    Logits are divided by the temperature the tokens were sampled at.  reference, with another model's
    `ActedStates.before` of the same tokens, asks for the exact divergence from it.
    """
    columns = score_hidden(model, states.before, states.targets, temperature=temperature, reference=reference)
    logprobs, entropy, divergence = (states.scatter(column) for column in columns)
    return TokenScores(logprobs=logprobs, entropy=entropy, divergence=None if reference is None else divergence)


def hidden_states(model: PreTrainedModel, tokens: Tensor, *, exists: Tensor) -> Tensor:
    """Return the last hidden states [B, T, H] of a right-padded batch, before the head."""
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    # Padding stands on the right, so a causal mask alone keeps it out of every sequence; no other mask is needed.
    output = cast(Any, model.base_model)(input_ids=tokens.where(exists, 0), position_ids=positions, use_cache=False)
    return cast(Tensor, output.last_hidden_state)
