"""What hidden states say over the vocabulary: log-probabilities, entropy, divergence from a reference.

Logits are made for a chunk of tokens at a time, and made again for the gradient, into one buffer that every chunk uses:
fresh memory for numbers of this size costs as much as the arithmetic on them (measured on SmolLM2: 1.25x in all).

Legend: N tokens, H hidden size, V vocabulary.  z are logits, p their probabilities, q the reference's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Tokens whose logits exist at once: 128 x 49,152 floats are 25 MB, which stays near the processor's caches.
TOKENS_PER_CHUNK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Another policy's view of the same tokens."""

    model: PreTrainedModel  # whose head it is
    hidden: Tensor  # [N, H]


def score_hidden(
    model: PreTrainedModel, hidden: Tensor, targets: Tensor, *, temperature: float, reference: Reference | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probability of the target, entropy and divergence from the reference, in nats, each [N] float32.

    Logits are divided by the temperature.  Gradients flow to the hidden states [N, H] and to the head.
    Without a reference the divergence is 0.
    """
    task = _Task(model=model, temperature=temperature, reference=reference, targets=targets)
    parameters = [parameter for parameter in _output_layer(model).parameters() if parameter.requires_grad]
    columns = _Scores.apply(task, hidden, *parameters)  # type: ignore[no-untyped-call]  # torch has not typed it
    return cast("tuple[Tensor, Tensor, Tensor]", columns)


def head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return float32 logits [N, V] of hidden states [N, H], with what the family does after its last product."""
    config: Any = model.config
    logits: Tensor = _output_layer(model)(hidden).float()
    if getattr(config, "logit_scale", None) is not None:  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) is not None:  # Granite
        logits = logits / config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    model: PreTrainedModel
    temperature: float
    reference: Reference | None
    targets: Tensor  # [N]

    def reference_logprobs(self, start: int, end: int) -> Tensor:
        assert self.reference is not None
        return (head(self.reference.model, self.reference.hidden[start:end]) / self.temperature).log_softmax(dim=-1)


class _Scores(torch.autograd.Function):
    """The three numbers of each token; its gradient knows softmax, and leaves the head to `_Head`."""

    @staticmethod
    def forward(ctx: Any, task: _Task, hidden: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        product = _Head(task.model, hidden, parameters)
        logprobs, entropy, divergence, normalizer = hidden.new_zeros(4, len(hidden), dtype=torch.float32).unbind()
        for start, end in _chunks(len(hidden)):
            z = product.logits(start, end).div_(task.temperature)  # [n, V]
            normalizer[start:end] = z.logsumexp(dim=-1)
            z.sub_(normalizer[start:end, None])
            logprobs[start:end] = z.gather(1, task.targets[start:end, None])[:, 0]
            p = torch.exp(z, out=product.spare(end - start))
            if task.reference is not None:
                divergence[start:end] = _dot(p, z - task.reference_logprobs(start, end))
            entropy[start:end] = -_dot(p, z)
        ctx.task = task
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, normalizer, entropy, divergence, *parameters)
        return logprobs, entropy, divergence

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        task: _Task = ctx.task
        hidden, normalizer, entropy, divergence, *parameters = ctx.saved_tensors
        of_logprob, of_entropy, of_divergence = gradients
        product = _Head(task.model, hidden, parameters)
        for start, end in _chunks(len(hidden)):
            z = product.logits(start, end).div_(task.temperature).sub_(normalizer[start:end, None])
            # p (-g_l - g_e (log p + entropy) + g_d (log p - log q - divergence)), and g_l at the target besides.
            factor = torch.zeros_like(z[:, :1])
            if of_logprob is not None:
                factor = factor - of_logprob[start:end, None]
            if of_entropy is not None:
                factor = factor - of_entropy[start:end, None] * (z + entropy[start:end, None])
            if of_divergence is not None and task.reference is not None:
                difference = z - task.reference_logprobs(start, end) - divergence[start:end, None]
                factor = factor + of_divergence[start:end, None] * difference
            z.exp_().mul_(factor)
            if of_logprob is not None:
                z.scatter_add_(1, task.targets[start:end, None], of_logprob[start:end, None])
            product.back(start, end, z.div_(task.temperature))
        return None, product.of_hidden, *product.of_parameters


class _Head:
    """The head's product and its gradient, a chunk at a time."""

    def __init__(self, model: PreTrainedModel, hidden: Tensor, parameters: Sequence[Tensor]) -> None:
        self._model, self._hidden, self._parameters = model, hidden, parameters
        self._weight = _plain_weight(model)
        size = (min(TOKENS_PER_CHUNK, len(hidden)), cast(Tensor, _output_layer(model).weight).shape[0])
        self._logits, self._spare = (hidden.new_empty(size, dtype=torch.float32) for _ in range(2))
        self.of_hidden = torch.zeros_like(hidden)
        self.of_parameters: list[Tensor | None] = [None] * len(parameters)

    def logits(self, start: int, end: int) -> Tensor:
        """Return logits [n, V] that may be written over."""
        if self._weight is None:
            return head(self._model, self._hidden[start:end])
        return torch.mm(self._hidden[start:end], self._weight.T, out=self._logits[: end - start])

    def spare(self, num: int) -> Tensor:
        """Return room for as many numbers as logits."""
        return self._spare[:num]

    def back(self, start: int, end: int, of_logits: Tensor) -> None:
        """Add what the gradient of a chunk's logits means for hidden states and parameters."""
        if self._weight is None:
            self._back_through_any(start, end, of_logits)
            return
        torch.mm(of_logits, self._weight, out=self.of_hidden[start:end])
        if self._parameters:
            chunk, total = self._hidden[start:end], self.of_parameters[0]
            self.of_parameters[0] = of_logits.T @ chunk if total is None else total.addmm_(of_logits.T, chunk)

    def _back_through_any(self, start: int, end: int, of_logits: Tensor) -> None:
        with torch.enable_grad():
            chunk = self._hidden[start:end].detach().requires_grad_()
            found = torch.autograd.grad(head(self._model, chunk), [chunk, *self._parameters], of_logits)
        self.of_hidden[start:end] = found[0]
        for number, gradient in enumerate(found[1:]):
            total = self.of_parameters[number]
            self.of_parameters[number] = gradient if total is None else total + gradient


def _output_layer(model: PreTrainedModel) -> nn.Module:
    return cast(nn.Module, model.get_output_embeddings())


def _plain_weight(model: PreTrainedModel) -> Tensor | None:
    """Return the weight [V, H] of a head that is one float32 product; None: it is more than that."""
    layer = _output_layer(model)
    if type(layer) is not nn.Linear or layer.bias is not None or layer.weight.dtype != torch.float32:
        return None
    extras = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    return None if any(getattr(model.config, name, None) is not None for name in extras) else layer.weight


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum of products over the last dimension, without room for the products."""
    return torch.einsum("nv,nv->n", one, other)


def _chunks(num: int) -> list[tuple[int, int]]:
    return [(start, min(start + TOKENS_PER_CHUNK, num)) for start in range(0, num, TOKENS_PER_CHUNK)]
