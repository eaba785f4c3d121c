"""Scoring given tokens: against the model's own full forward pass, and blind to padding and to how a batch is split."""

import pytest
import torch

from selfplay.learn import vocabulary
from selfplay.learn.kl import full_divergence
from selfplay.learn.model import acted_states, hidden_states, score_states, score_tokens
from selfplay.learn.vocabulary import Reference, head
from selfplay.models import LoadedModel, load

TOKENS = torch.tensor([[5, 9, 30, 7, 8, 40], [6, 11, 12, 3, 0, 0]])
EXISTS = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
ACTED = torch.tensor([[False, False, True, True, False, True], [False, True, False, True, False, False]])


@pytest.fixture
def policy() -> LoadedModel:
    """A model of the test's own, whose parameters take gradients."""
    loaded = load("tiny:3", device="cpu")
    loaded.model.requires_grad_(True)
    return loaded


def by_full_forward(model, row: int, *, temperature: float) -> dict[int, torch.Tensor]:
    """The log-probability of each acted token of a row, from the unpadded row's full logits."""
    tokens = TOKENS[row, EXISTS[row]]
    logprobs = (model(tokens[None]).logits[0] / temperature).log_softmax(-1)
    return {t: logprobs[t - 1, tokens[t]] for t in range(1, len(tokens)) if ACTED[row, t]}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [2, 128])
def test_logprobs_equal_a_full_forward_pass(policy, monkeypatch, temperature: float, chunk: int):
    monkeypatch.setattr(vocabulary, "TOKENS_PER_CHUNK", chunk)
    scores = score_tokens(policy.model, TOKENS, ACTED, exists=EXISTS, temperature=temperature)
    for row in range(2):
        for t, expected in by_full_forward(policy.model, row, temperature=temperature).items():
            torch.testing.assert_close(scores.logprobs[row, t], expected)
    assert scores.logprobs[~ACTED].abs().max() == 0
    assert scores.entropy[~ACTED].abs().max() == 0


def test_gradients_equal_those_of_a_full_forward_pass(policy):
    weights = torch.randn(TOKENS.shape, generator=torch.Generator().manual_seed(0))
    (score_tokens(policy.model, TOKENS, ACTED, exists=EXISTS).logprobs * weights).sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters()}
    policy.model.zero_grad()
    total = sum(
        weights[row, t] * value
        for row in range(2)
        for t, value in by_full_forward(policy.model, row, temperature=1.0).items()
    )
    total.backward()
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_padding_content_changes_nothing(policy):
    other = TOKENS.clone()
    other[1, 4:] = 77
    first = score_tokens(policy.model, TOKENS, ACTED, exists=EXISTS)
    second = score_tokens(policy.model, other, ACTED, exists=EXISTS)
    assert first.logprobs.tolist() == second.logprobs.tolist()


def test_a_partners_tokens_get_no_gradient(policy):
    # Heard tokens are context: what the policy would have said in their place must not matter.
    scores = score_tokens(policy.model, TOKENS, ACTED, exists=EXISTS)
    gradient = torch.autograd.grad(scores.logprobs.sum(), scores.logprobs)[0]
    assert (gradient[ACTED] == 1).all()
    assert scores.logprobs[~ACTED].eq(0).all()


def test_divergence_is_exact_over_the_vocabulary_and_0_from_itself(policy):
    reference = load("tiny:4", device="cpu").model
    with torch.no_grad():
        theirs = hidden_states(reference, TOKENS, exists=EXISTS)
        before = acted_states(reference, TOKENS, ACTED, exists=EXISTS).before
    states = acted_states(policy.model, TOKENS, ACTED, exists=EXISTS)
    own_before = states.before.detach()
    own = hidden_states(policy.model, TOKENS, exists=EXISTS)
    scores = score_states(policy.model, states, reference=Reference(model=reference, hidden=before))
    itself = score_states(policy.model, states, reference=Reference(model=policy.model, hidden=own_before))
    expected = full_divergence(head(policy.model, own[0, 1]), head(reference, theirs[0, 1]))
    torch.testing.assert_close(scores.divergence[0, 2], expected)
    assert itself.divergence.abs().max() < 1e-6


def test_entropy_of_a_nearly_uniform_model_is_the_logarithm_of_its_vocabulary(policy):
    scores = score_tokens(policy.model, TOKENS, ACTED, exists=EXISTS, temperature=1e6)
    torch.testing.assert_close(scores.entropy[0, 2], torch.tensor(policy.model.config.vocab_size).log())


def test_batch_without_acted_tokens_scores_nothing(policy):
    scores = score_tokens(policy.model, TOKENS, torch.zeros_like(ACTED), exists=EXISTS)
    assert scores.logprobs.abs().max() == 0


def test_acted_first_token_is_refused(policy):
    acted = ACTED.clone()
    acted[0, 0] = True
    with pytest.raises(ValueError, match="first token"):
        score_tokens(policy.model, TOKENS, acted, exists=EXISTS)
