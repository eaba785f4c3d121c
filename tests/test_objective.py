"""The loss of a policy under KL control: what older policies' tokens count for, by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from streams import stream

from selfplay.experience import Batch, pad
from selfplay.interfaces import Outputs
from selfplay.learn.kl import FixedKL
from selfplay.learn.objective import KLControlled
from selfplay.learn.policy_gradient import reinforce_loss

# Two streams of two acted tokens each; the second was sampled by an older version.
ADVANTAGES = torch.tensor([[0.0, 1.0, -1.0], [0.0, 1.0, -1.0]])
# What the learner's policy says now, relative to the sampler's: the same; then e^1 and e^-1 times as likely.
CHANGE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, -1.0]])


def batch_of(**changes: Any) -> Batch:
    batch = pad([stream([(1, 2)], [0.0], name=f"000000-g00-{number}") for number in range(2)])
    stale = torch.tensor([False, True])
    return replace(batch, reference=batch.logprobs, stale=stale, advantages=ADVANTAGES, **changes)


def gradient(rule: KLControlled, batch: Batch, change: torch.Tensor = CHANGE) -> list[list[float]]:
    """Gradient with respect to the log-probabilities, times the number of acted tokens."""
    logprobs = (batch.logprobs + change).requires_grad_()
    loss = rule.policy_loss(Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs)), batch)
    loss.value.backward()
    return (logprobs.grad * batch.num_acted).tolist()


def test_tokens_of_an_older_policy_are_weighted_with_the_truncated_ratio():
    same, older = gradient(KLControlled(importance_cap=2.0), batch_of())
    assert same == [0.0, -1.0, 1.0]
    # Ratios e and 1 / e; the first is cut at 2.
    assert older == pytest.approx([0.0, -2.0, 1 / 2.7182818])


def test_this_versions_tokens_have_a_weight_of_exactly_1_even_where_rounding_differs():
    batch = batch_of(num_acted=4)
    logprobs = batch.logprobs + 1e-4
    rule = KLControlled()
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs))
    fresh = replace(batch, stale=torch.tensor([False, False]))
    expected = reinforce_loss(logprobs, ADVANTAGES, batch.acted, num_acted=4)
    assert rule.policy_loss(outputs, fresh).value.item() == expected.item()


def test_later_passes_of_one_batch_are_weighted_like_an_older_policys():
    first, _ = gradient(KLControlled(), batch_of(), change=CHANGE.flip(0))
    later, _ = gradient(KLControlled(), batch_of(has_moved=True), change=CHANGE.flip(0))
    assert first == [0.0, -1.0, 1.0]
    assert later == pytest.approx([0.0, -2.0, 1 / 2.7182818])


def test_clipped_ratio_of_an_older_policy_is_cut_where_it_would_be_without_bound():
    change = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    same, older = gradient(KLControlled(clip=0.2, importance_cap=2.0), batch_of(), change=change)
    # Advantage -1 at ratio e: PPO's minimum follows it; dual-clip stops it at 2 for the older policy.
    assert same == pytest.approx([0.0, -1.0, 2.7182818])
    assert older == pytest.approx([0.0, -1.0, 0.0])


def test_what_was_cut_is_counted():
    batch = batch_of()
    logprobs = batch.logprobs + CHANGE
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs))
    # One of four tokens has a ratio above 2 and an older sampler.
    assert KLControlled().policy_loss(outputs, batch).metrics["learn/capped_share"] == 0.25


def test_estimate_in_the_loss_is_weighted_and_the_exact_divergence_is_not():
    batch = batch_of(kl_coefficient=1.0, num_conversations=2)
    batch = replace(batch, advantages=0 * ADVANTAGES)
    logprobs = batch.logprobs + CHANGE
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs), divergence=0.3 * batch.acted)
    kl = FixedKL(coefficient=1.0)
    # k2 is 1/2 for both of the second stream's tokens, weighted with 2 and 1 / e; the mean is over four tokens.
    k2 = KLControlled(kl=kl).policy_loss(outputs, batch).metrics["loss/kl"]
    assert k2 == pytest.approx((2.0 * 0.5 + 0.5 / 2.7182818) / 4)
    full = KLControlled(kl=kl, kl_estimator="full").policy_loss(outputs, batch).metrics["loss/kl"]
    assert full == pytest.approx(0.3)


def test_entropy_bonus_is_a_mean_over_acted_tokens():
    batch = replace(batch_of(), advantages=0 * ADVANTAGES)
    outputs = Outputs(logprobs=batch.logprobs, entropy=torch.full((2, 3), 2.0))
    assert KLControlled(entropy_bonus=0.1).policy_loss(outputs, batch).value.item() == pytest.approx(-0.2)


def test_exact_divergence_is_asked_for_only_where_it_is_charged():
    assert KLControlled(kl_estimator="full").control_needs() == {"reference"}
    charged = KLControlled(kl_estimator="full", kl=FixedKL(coefficient=0.1))
    assert charged.control_needs() == {"reference", "divergence"}
