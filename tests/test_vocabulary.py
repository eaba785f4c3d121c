"""Scores over the vocabulary and their gradients, against autograd through the plain formulas."""

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedModel

from selfplay.learn import vocabulary
from selfplay.learn.vocabulary import Reference, head, score_hidden
from selfplay.models import load

NUM, TEMPERATURE = 5, 0.7


def softcapped() -> PreTrainedModel:
    config = Gemma2Config(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, final_logit_softcapping=0.05,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=["plain", "softcapped"])
def models(request) -> tuple[PreTrainedModel, PreTrainedModel]:
    if request.param == "softcapped":
        return softcapped().requires_grad_(True), softcapped().requires_grad_(False)
    return load("tiny:1", device="cpu").model.requires_grad_(True), load("tiny:2", device="cpu").model


def draw(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the reference's, and targets."""
    generator = torch.Generator().manual_seed(0)
    size, vocabulary_size = model.config.hidden_size, model.config.vocab_size
    hidden, theirs = (5.0 * torch.randn(NUM, size, generator=generator) for _ in range(2))
    return hidden.requires_grad_(), theirs, torch.randint(vocabulary_size, (NUM,), generator=generator)


def by_definition(model, hidden: Tensor, targets: Tensor, reference: Reference) -> list[Tensor]:
    logprobs = (head(model, hidden) / TEMPERATURE).log_softmax(-1)
    theirs = (head(reference.model, reference.hidden) / TEMPERATURE).log_softmax(-1)
    p = logprobs.exp()
    return [logprobs[torch.arange(NUM), targets], -(p * logprobs).sum(-1), (p * (logprobs - theirs)).sum(-1)]


def gradients(model, hidden: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.arange(1.0, NUM + 1)
    wanted = [hidden, model.get_output_embeddings().weight]
    return torch.autograd.grad((column * weights).sum(), wanted, retain_graph=True)


@pytest.mark.parametrize("chunk", [2, 128])
def test_scores_and_their_gradients_are_those_of_the_plain_formulas(models, monkeypatch, chunk: int):
    monkeypatch.setattr(vocabulary, "TOKENS_PER_CHUNK", chunk)
    model, other = models
    hidden, theirs, targets = draw(model)
    reference = Reference(model=other, hidden=theirs)
    for number, expected in enumerate(by_definition(model, hidden, targets, reference)):
        found = score_hidden(model, hidden, targets, temperature=TEMPERATURE, reference=reference)[number]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        for ours, right in zip(gradients(model, hidden, found), gradients(model, hidden, expected), strict=True):
            torch.testing.assert_close(ours, right, atol=1e-5, rtol=1e-4)


def test_gradients_of_several_numbers_add_up():
    model, other = load("tiny:1", device="cpu").model.requires_grad_(True), load("tiny:2", device="cpu").model
    hidden, theirs, targets = draw(model)
    reference = Reference(model=other, hidden=theirs)
    ours = score_hidden(model, hidden, targets, temperature=TEMPERATURE, reference=reference)
    right = by_definition(model, hidden, targets, reference)
    total = [column[0] - 2.0 * column[1] + 0.5 * column[2] for column in (ours, right)]
    for one, other_one in zip(gradients(model, hidden, total[0]), gradients(model, hidden, total[1]), strict=True):
        torch.testing.assert_close(one, other_one, atol=1e-5, rtol=1e-4)


def test_frozen_head_passes_the_gradient_on_to_hidden_states():
    model = load("tiny:1", device="cpu").model
    hidden, _, targets = draw(model)
    logprobs, _, divergence = score_hidden(model, hidden, targets, temperature=1.0, reference=None)
    [ours] = torch.autograd.grad(logprobs.sum(), [hidden])
    [right] = torch.autograd.grad(head(model, hidden).log_softmax(-1)[torch.arange(NUM), targets].sum(), [hidden])
    torch.testing.assert_close(ours, right, atol=1e-5, rtol=1e-4)
    assert divergence.eq(0).all()
