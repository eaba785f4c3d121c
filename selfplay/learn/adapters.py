"""Low-rank adapters as they travel from the learner to where the policy plays; torch alone is needed to merge them.

Legend: r rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from selfplay.errors import UserError
from selfplay.interfaces import Weights
from selfplay.trained import ADAPTER_CONFIG, ADAPTER_FILE
from selfplay.whole_files import reason

# peft's own name of the adapter of a model that has one.
ADAPTER = "default"
FACTORS = (".lora_A", ".lora_B")
PEFT_PREFIX, PEFT_ENDINGS = "base_model.model.", (".lora_A.weight", ".lora_B.weight")
# What a file of peft's may hold besides two factors a layer, and layers that are scaled differently.
NOT_SHARED = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "rank_pattern", "alpha_pattern")


def adapter_state(model: nn.Module, *, adapter: str = ADAPTER) -> dict[str, Tensor]:
    """Return what peft layers add to a model, as `selfplay.interfaces.Weights` describes it.

    The tensors are the model's own where possible.  A layer that stores its weight as [in, out] (GPT-2's) gives the
    factors of the transposed product, so that adding ``scale B A`` is right for every stored weight.
    """
    scale = adapter_scale(model, adapter=adapter)
    state = {}
    for name, layer in _adapted(model, adapter):
        first: Tensor = layer.lora_A[adapter].weight.detach()  # [r, in]
        second: Tensor = layer.lora_B[adapter].weight.detach()  # [out, r]
        if layer.scaling[adapter] != scale:
            second = second * (layer.scaling[adapter] / scale)
        if layer.fan_in_fan_out:
            first, second = second.T, first.T
        state[name + FACTORS[0]], state[name + FACTORS[1]] = first, second
    return state


def adapter_scale(model: nn.Module, *, adapter: str = ADAPTER) -> float:
    """Return what an adapter's products are multiplied by: that of its first layer."""
    return float(next(layer.scaling[adapter] for _, layer in _adapted(model, adapter)))


def read_adapter(folder: Path, *, version: int = 0) -> Weights:
    """Return the adapter of a peft folder as it is played unmerged.

    Raises UserError if it cannot be read, or holds more than one scale and two factors a layer.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
        tensors = load_file(folder / ADAPTER_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"the adapter {folder} cannot be read: {reason(error)}") from error
    odd = [name for name in NOT_SHARED if config.get(name)]
    odd += [name for name in tensors if not name.startswith(PEFT_PREFIX) or not name.endswith(PEFT_ENDINGS)]
    if odd:
        raise UserError(f"the adapter {folder} holds {odd[0]}, which is only played merged: use `merge`")
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    state = {name.removeprefix(PEFT_PREFIX).removesuffix(".weight"): tensor for name, tensor in tensors.items()}
    if config.get("fan_in_fan_out"):
        state = {_other_factor(name): tensor.T.contiguous() for name, tensor in state.items()}
    return Weights(version=version, state=state, adapter_scale=float(scale))


def _other_factor(name: str) -> str:
    layer, factor = name[: -len(FACTORS[0])], name[-len(FACTORS[0]) :]
    return layer + FACTORS[1 - FACTORS.index(factor)]


def merged(base: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """Return the whole model's state: the base's with the adapters' products added; always the same bits.

    base: the state_dict of the model the adapters were trained on; what is not adapted is shared with it.  Weights of
    a whole model come back as they are.  Raises UserError if an adapter changes what the base has not.
    """
    if weights.adapter_scale is None:
        return dict(weights.state)
    state = dict(base)
    for key, second in weights.state.items():
        name, factor = key[: -len(FACTORS[1])], key[-len(FACTORS[1]) :]
        if factor != FACTORS[1]:
            continue
        weight, first = state.get(f"{name}.weight"), weights.state.get(name + FACTORS[0])
        if weight is None or first is None or weight.shape != (second.shape[0], first.shape[1]):
            raise UserError(f"adapter of {name!r} does not fit the model: it was trained on another one")
        state[f"{name}.weight"] = _add(weight, first, second, weights.adapter_scale)
    return state


def _add(weight: Tensor, first: Tensor, second: Tensor, scale: float) -> Tensor:
    with torch.no_grad():
        product = second.to(weight.device, torch.float32) @ first.to(weight.device, torch.float32)
        return (weight.float() + scale * product).to(weight.dtype)


def _adapted(model: nn.Module, adapter: str) -> Iterator[tuple[str, Any]]:
    """Yield the peft layers of a model that hold the adapter, under their names in the model without adapters."""
    for name, module in model.named_modules():
        if adapter in getattr(module, "lora_A", ()):
            yield name, module
