"""What states are worth: a linear head on the policy's own hidden states, or on those of a model of its own.

Legend: B trajectories, T tokens, N acted tokens, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfplay.experience import Batch
from selfplay.learn.model import ActedStates, acted_states

Start = Literal["zero", "normal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """A second trainable model beside the policy, in a state of its own."""

    parameters: Mapping[str, nn.Parameter]
    lend: Callable[[], AbstractContextManager[PreTrainedModel]]  # until it is given back, the policy may not be used


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What states of a micro-batch are worth, in reward units."""

    before: Tensor  # [B, T] of the state that each acted token was drawn from, 0 elsewhere
    last: Tensor  # [B] of the state after each row's last token


class Critic:
    """Learns what states are worth.  With a trunk of its own it shares nothing with the policy, not even gradients."""

    def __init__(self, head: nn.Linear, *, trunk: Trunk | None = None) -> None:
        """trunk: the model whose hidden states the head reads; None: the policy's."""
        self._head = head
        self._trunk = trunk

    @property
    def is_separate(self) -> bool:
        """Whether it has a model of its own."""
        return self._trunk is not None

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained besides the policy, always in the same order."""
        own = {} if self._trunk is None else {f"trunk.{name}": p for name, p in self._trunk.parameters.items()}
        return {**own, **{f"head.{name}": parameter for name, parameter in self._head.named_parameters()}}

    def values(self, part: Batch, policy: PreTrainedModel, states: ActedStates | None = None) -> Values:
        """Return what a micro-batch's states are worth.

        states: the policy's of that micro-batch, where they are at hand; only a critic without a trunk reads them.
        """
        if self._trunk is None:
            return self._read(states or _states(policy, part))
        with self._trunk.lend() as model:
            return self._read(_states(model, part))

    def _read(self, states: ActedStates) -> Values:
        before, last = (cast(Tensor, self._head(hidden.float()))[:, 0] for hidden in (states.before, states.last))
        return Values(before=states.scatter(before), last=last)


def value_head(model: PreTrainedModel, *, start: Start, seed: int) -> nn.Linear:
    """Return a head that makes one number of a hidden state.

    start: "zero", every state is worth 0 at first; "normal", weights are drawn from N(0, 1 / (H + 1)) as in Stiennon et
    al. 2020, arXiv:2009.01325.
    """
    size = cast(nn.Module, model.get_output_embeddings()).weight.shape[1]  # type: ignore[index]
    head = nn.Linear(cast(int, size), 1, device=model.device, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        cast(Tensor, head.bias).zero_()
        drawn = torch.randn(head.weight.shape, generator=generator) / math.sqrt(head.in_features + 1)
        head.weight.copy_(drawn if start == "normal" else torch.zeros_like(drawn))
    return head


def _states(model: PreTrainedModel, part: Batch) -> ActedStates:
    return acted_states(model, part.tokens, part.acted, exists=part.exists)
