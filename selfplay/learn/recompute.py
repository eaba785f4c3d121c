"""Less memory for more time: a layer's activations are dropped and computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from selfplay.errors import UserError

# Returns, for a forward pass, what must hold while it is made, and while it is made again.
Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


def nothing_to_restore() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return contexts that do nothing."""
    return nullcontext(), nullcontext()


def recompute_layers(model: PreTrainedModel, *, contexts: Contexts = nothing_to_restore) -> None:
    """Make each layer of a model keep its inputs only; copies that are made of the model do the same.

    The model's own switch works in training mode alone, in which dropout is on.
    Raises UserError if the model's family does not mark its layers.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"learner.gradient_checkpointing=true: model family {model.config.model_type!r} does not mark its layers; "
            "lower learner.tokens_per_microbatch instead"
        )
    for layer in layers:
        # A partial of a bound method, for it follows when the model is copied; a closure would stay with this one.
        layer.forward = partial(_call, layer.forward, contexts)


def _call(forward: Callable[..., Any], contexts: Contexts, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}
    return checkpoint(forward, *args, **options, **kwargs)
