"""Low-rank adapters that are played without being merged: many policies, one model, one pass over all their tokens.

The tokens of a step that belong to one adapter lie together in the flat row.  `Places` says which do, once a step;
each layer that any adapter changes then adds ``scale (x A^T) B^T`` to those tokens alone.

Legend: r rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from selfplay.errors import UserError
from selfplay.interfaces import Weights
from selfplay.learn.adapters import FACTORS

__all__ = ["AdaptedLinear", "Adapter", "Places", "adapt_layers", "restore_layers"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """One version of an adapter, ready to be multiplied with; all its numbers lie in one piece of memory."""

    numbers: Tensor
    factors: Mapping[str, tuple[Tensor, Tensor]]  # layer -> views [in, r] and [r, out], the latter times the scale

    @classmethod
    def of(cls, weights: Weights, *, structure: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> Adapter:
        """Copy an adapter's weights.

        structure: the model that it adapts, with its own kinds of layers; their numbers are not read.
        Raises UserError if the adapter changes what the model has not, or what is no linear layer of its inside.
        """
        if weights.adapter_scale is None:
            raise UserError("a policy that adds an adapter to another's model takes an adapter, not a whole model")
        pairs = {}
        for name in sorted({key.rpartition(".")[0] for key in weights.state}):
            first, second = (weights.state.get(name + factor) for factor in FACTORS)
            layer = _layer(structure, name)
            if first is None or second is None or not _fit(layer, first, second):
                raise UserError(f"adapter of {name!r} does not fit the model: it was trained on another one")
            # Conv1D stores its weight as [in, out], and the factors follow the stored weight.
            inner, outer = (second, first) if isinstance(layer, Conv1D) else (first.T, second.T)
            pairs[name] = (inner.detach().float(), outer.detach().float() * weights.adapter_scale)
        pieces = [factor.reshape(-1).to(device, dtype) for pair in pairs.values() for factor in pair]
        numbers = torch.cat(pieces) if pieces else torch.empty(0, device=device, dtype=dtype)
        views = iter(torch.split(numbers, [piece.numel() for piece in pieces]))
        factors = {
            name: (next(views).view(inner.shape), next(views).view(outer.shape))
            for name, (inner, outer) in pairs.items()
        }
        return cls(numbers=numbers, factors=factors)


class Places:
    """Which tokens of the flat row belong to which adapter, in the pass that is under way."""

    def __init__(self) -> None:
        """No token belongs to any."""
        self.now: list[tuple[Adapter, int, int]] = []  # adapter, its first token, the end of its tokens


class AdaptedLinear(nn.Module):
    """A linear layer, packed or not, and what adapters add to its products."""

    def __init__(self, layer: nn.Module, *, name: str, places: Places) -> None:
        """name: what adapters call the layer."""
        super().__init__()
        self.layer = layer
        self._name, self._places = name, places

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs [1, N, out] for inputs [1, N, in] of the whole flat row."""
        outputs: Tensor = self.layer(inputs)
        for adapter, start, end in self._places.now:
            factors = adapter.factors.get(self._name)
            if factors is not None:
                outputs[0, start:end].addmm_(inputs[0, start:end] @ factors[0], factors[1])
        return outputs


def adapt_layers(model: PreTrainedModel, names: Iterable[str], *, places: Places) -> list[str]:
    """Let adapters change these layers of a model for playing, in place; return those that none could change before."""
    new = [name for name in names if not isinstance(model.get_submodule(name), AdaptedLinear)]
    for name in new:
        model.set_submodule(name, AdaptedLinear(model.get_submodule(name), name=name, places=places))
    return new


def restore_layers(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Undo `adapt_layers`."""
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, AdaptedLinear)
        model.set_submodule(name, layer.layer)


def _fit(layer: nn.Linear | Conv1D, first: Tensor, second: Tensor) -> bool:
    return layer.weight.shape == (second.shape[0], first.shape[1]) and second.shape[1] == first.shape[0]


def _layer(structure: PreTrainedModel, name: str) -> nn.Linear | Conv1D:
    try:
        layer = structure.get_submodule(name)
    except AttributeError as error:
        raise UserError(f"adapter of {name!r} does not fit the model: it was trained on another one") from error
    # The output layer sees chosen tokens only, and is often the same matrix as the embeddings.
    if not isinstance(layer, nn.Linear | Conv1D) or layer is structure.get_output_embeddings():
        raise UserError(f"adapter of {name!r}: only linear layers inside the model can be played adapted; merge it")
    return layer
