"""Weights laid out once in the order the processor's matrix product wants them.

oneDNN reorders a float32 weight on every call of an ordinary linear layer.  Doing that once when a version is
loaded makes the products of a decoding step 1.5 to 2.2 times as fast on x86 (measured with SmolLM2-135M, 8 to 128 rows,
two threads).  Where oneDNN or the operator is missing the ordinary layers stay.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# The row count a layout is tuned for; measured: one tuned for 64 rows serves 1 to 200 as well as any other.
TYPICAL_ROWS = 64
# A product of these must agree with the ordinary one before the fast path is used.
SELF_TEST_TOLERANCE = 1e-4


class PackedLinear(nn.Module):
    """A linear layer that owns its weight only in packed order: for playing, not for training."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Pack weight [out, in] float32 on the CPU; bias [out]."""
        super().__init__()
        self.out_features = weight.shape[0]
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs [..., in] times the weight, plus the bias: [..., out]."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        product = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return cast(Tensor, product).view(*inputs.shape[:-1], self.out_features)


def copy_for_playing(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model that shares its parameters, except linear weights that were packed.

    The original stays as it is; when the caller drops it, the unpacked linear weights are freed.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    with torch.no_grad():
        twin = copy.deepcopy(model, shared)
        if model.device.type == "cpu" and model.dtype == torch.float32 and can_pack():
            _pack_children(twin)
    return twin


def copy_structure(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model without its parameters (they are on the meta device); it shares the buffers."""
    kept: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        kept[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    return copy.deepcopy(model, kept)


@cache
def can_pack() -> bool:
    """Whether packed products are available here and right."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch has not typed it
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    generator = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(3, 32, generator=generator), torch.randn(16, 32, generator=generator)
    try:
        product = PackedLinear(weight, None)(inputs)
    except (RuntimeError, NotImplementedError):
        return False
    return bool((product - inputs @ weight.T).abs().max() < SELF_TEST_TOLERANCE)


def _pack_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        # Exact types: a subclass computes something else.
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child.weight.detach(), _detached(child.bias)))
        elif type(child) is Conv1D:
            setattr(module, name, PackedLinear(child.weight.detach().T.contiguous(), _detached(child.bias)))
        else:
            _pack_children(child)


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
