"""Divergence from a reference: values and gradients against exact ones, and the controller's published arithmetic."""

import math

import pytest
import torch
from torch import Tensor

from selfplay.errors import UserError
from selfplay.learn.kl import AdaptiveKL, FixedKL, check_placement, estimate, full_divergence

POLICY = torch.tensor([0.3, -0.4, 1.1], dtype=torch.float64)
REFERENCE = torch.tensor([-0.2, 0.5, 0.4], dtype=torch.float64)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of two logit vectors, straight from its definition."""
    p, q = first.softmax(-1), second.softmax(-1)
    return sum(p[i] * (p[i].log() - q[i].log()) for i in range(3))


def expected_loss_gradient(estimator: str) -> Tensor:
    """The expectation over the policy's own tokens of the gradient of the estimator as a loss: samples stay fixed."""
    total = torch.zeros(3, dtype=torch.float64)
    for token in range(3):
        logits = POLICY.clone().requires_grad_()
        value = estimate(logits.log_softmax(-1)[token], REFERENCE.log_softmax(-1)[token], estimator=estimator)
        value.backward()
        total += POLICY.softmax(-1)[token] * logits.grad
    return total


def exact_gradient(*, forward: bool) -> Tensor:
    logits = POLICY.clone().requires_grad_()
    value = divergence(REFERENCE, logits) if forward else divergence(logits, REFERENCE)
    value.backward()
    return logits.grad


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_estimators_have_the_exact_mean(estimator: str):
    logprobs, reference = POLICY.log_softmax(-1), REFERENCE.log_softmax(-1)
    mean = (POLICY.softmax(-1) * estimate(logprobs, reference, estimator=estimator)).sum()
    torch.testing.assert_close(mean, divergence(POLICY, REFERENCE))


def test_full_divergence_is_the_definition():
    torch.testing.assert_close(full_divergence(POLICY, REFERENCE), divergence(POLICY, REFERENCE))


def test_k1_as_a_loss_has_no_gradient_on_average():
    assert expected_loss_gradient("k1").abs().max() < 1e-12


def test_k2_as_a_loss_has_the_reverse_gradient():
    torch.testing.assert_close(expected_loss_gradient("k2"), exact_gradient(forward=False))


def test_k3_as_a_loss_has_the_forward_gradient():
    torch.testing.assert_close(expected_loss_gradient("k3"), exact_gradient(forward=True))


def test_k1_in_the_reward_has_the_reverse_policy_gradient():
    logits = POLICY.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    penalty = estimate(logprobs, REFERENCE.log_softmax(-1), estimator="k1").detach()
    (POLICY.softmax(-1) * penalty * logprobs).sum().backward()
    torch.testing.assert_close(logits.grad, exact_gradient(forward=False))


@pytest.mark.parametrize(("place", "estimator"), [("reward", "k1"), ("loss", "k2"), ("loss", "k3"), ("loss", "full")])
def test_placements_that_control_are_allowed(place, estimator):
    check_placement(place, estimator)


@pytest.mark.parametrize(
    ("place", "estimator"), [("loss", "k1"), ("reward", "k2"), ("reward", "k3"), ("reward", "full")]
)
def test_placements_that_do_not_control_are_refused_with_the_reason(place, estimator):
    with pytest.raises(UserError, match=f"kl.estimator={estimator} with kl.place={place}: .*; use k"):
        check_placement(place, estimator)


@pytest.mark.parametrize(
    ("measured", "factor"), [(3.0, 0.98976), (6.0, 1.0), (6.6, 1.00512), (7.2, 1.01024), (12.0, 1.01024)]
)
def test_adaptive_controller_has_the_published_steps(measured: float, factor: float):
    # Ziegler et al.: target 6, horizon 10,000, batches of 512; an error of a half is cut to .2.
    controller = AdaptiveKL(coefficient=0.15, target=6.0, horizon=10_000)
    moved = controller.update(measured, num_conversations=512)
    assert moved.coefficient == pytest.approx(0.15 * factor, rel=1e-6)


def test_adaptive_controller_answers_a_batch_beyond_its_horizon_once_and_stays_on():
    controller = AdaptiveKL(coefficient=0.1, target=1.0, horizon=1.0)
    # An error of -1 is cut to -.2, whatever the size of the batch.
    assert controller.update(0.0, num_conversations=100).coefficient == pytest.approx(0.08)
    assert controller.update(9.0, num_conversations=100).coefficient == pytest.approx(0.12)


@pytest.mark.parametrize("wrong", [{"target": 0.0, "horizon": 10.0}, {"target": 1.0, "horizon": -1.0}])
def test_adaptive_controller_refuses_what_divides_by_zero(wrong: dict[str, float]):
    with pytest.raises(UserError, match="must be above 0"):
        AdaptiveKL(coefficient=0.1, **wrong)


def test_fixed_controller_stays():
    assert FixedKL(coefficient=0.1).update(99.0, num_conversations=5).coefficient == 0.1


def test_adaptive_controller_settles_at_its_target_on_a_bandit():
    # The optimum of E[r] - c KL is the reference times exp(r / c): its divergence is known for every coefficient.
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    uniform = torch.zeros(5)
    controller = AdaptiveKL(coefficient=5.0, target=0.3, horizon=30)
    for _ in range(400):
        measured = full_divergence(uniform + rewards / controller.coefficient, uniform).item()
        controller = controller.update(measured, num_conversations=10)
    assert measured == pytest.approx(0.3, rel=0.1)


def test_policy_that_ascends_the_controlled_objective_reaches_its_closed_form():
    rewards = torch.tensor([1.0, 0.3, -0.5, 0.0, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.1, 0.9, 0.0, -0.4, 0.3], dtype=torch.float64)
    coefficient = 0.5
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(2000):
        objective = (logits.softmax(-1) * rewards).sum() - coefficient * full_divergence(logits, reference)
        optimizer.zero_grad()
        (-objective).backward()
        optimizer.step()
    optimum = (reference + rewards / coefficient).softmax(-1)
    assert 0.5 * (logits.softmax(-1) - optimum).abs().sum() < 1e-4
    best = coefficient * math.log((reference.softmax(-1) * (rewards / coefficient).exp()).sum())
    assert objective.item() == pytest.approx(best, abs=1e-6)


def ascend(rewards: Tensor, reference: Tensor, coefficient: float, *, start: Tensor) -> Tensor:
    """The logits that ascending the controlled objective ends at."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(1500):
        loss = coefficient * full_divergence(logits, reference) - (logits.softmax(-1) * rewards).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.detach()


def test_without_a_reward_the_policy_returns_to_the_reference():
    found = ascend(torch.zeros(3, dtype=torch.float64), REFERENCE, 0.5, start=POLICY)
    torch.testing.assert_close(found.softmax(-1), REFERENCE.softmax(-1), atol=1e-5, rtol=0)


def test_a_larger_coefficient_gives_a_smaller_divergence():
    rewards = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    measured = [
        full_divergence(ascend(rewards, REFERENCE, coefficient, start=REFERENCE), REFERENCE).item()
        for coefficient in (0.1, 0.3, 1.0, 3.0)
    ]
    assert measured == sorted(measured, reverse=True)
    assert measured[0] > 10 * measured[-1]
