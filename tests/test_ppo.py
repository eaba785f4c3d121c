"""PPO: credit over own turns and own tokens by hand, values that share nothing, and that it learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from streams import sampled, stream

from selfplay.contracts import check_algorithm
from selfplay.experience import Batch, pad
from selfplay.interfaces import Outputs
from selfplay.learn.advantages import divide_by_deviation
from selfplay.learn.build import build_learner
from selfplay.learn.critic import Critic, value_head
from selfplay.learn.kl import FixedKL
from selfplay.learn.learner import Learner
from selfplay.learn.model import hidden_states
from selfplay.learn.policy import WholePolicy
from selfplay.learn.ppo import PPO
from selfplay.models import load
from selfplay.train_settings import TrainSettings

# Two turns of one role: 2 tokens heard, 3 said, 1 heard, 2 said; rewards 1 and 2.
PLAIN = PPO(scale="none", gae_lambda=1.0)


def batch_of(**changes: Any) -> Batch:
    """One stream of two turns; the value before the n-th token is n tenths, after the last one 5."""
    batch = pad([stream([(2, 3), (1, 2)], [1.0, 2.0])])
    return replace(
        batch,
        reference=batch.logprobs,
        stale=torch.tensor([False]),
        values=(torch.arange(8.0)[None] / 10) * batch.acted,
        last_values=torch.tensor([5.0]),
        **changes,
    )


def prepared(rule: PPO, **changes: Any) -> Batch:
    return rule.prepare(batch_of(**changes), rule.initial_state())[0]


@pytest.mark.parametrize("over", ["turns", "tokens"])
@pytest.mark.parametrize("placement", [("loss", "k2"), ("loss", "full"), ("reward", "k1")])
def test_ppo_keeps_its_contract(over, placement):
    place, estimator = placement
    kl = FixedKL(coefficient=0.3)
    check_algorithm(PPO(clip=0.2, gae_over=over, kl_place=place, kl_estimator=estimator, kl=kl, entropy_bonus=0.1))


def test_lambda_1_over_turns_is_the_return_minus_the_value_of_the_state_before_the_turn():
    batch = prepared(PLAIN)
    # Returns 1 + 2 and 2; the states before the turns' first tokens, 2 and 6, are worth .2 and .6.
    torch.testing.assert_close(batch.advantages[0], torch.tensor([0, 0, 2.8, 2.8, 2.8, 0, 1.4, 1.4]))
    torch.testing.assert_close(batch.returns[0], torch.tensor([0, 0, 3.0, 3.0, 3.0, 0, 2.0, 2.0]))


def test_lambda_0_over_turns_is_the_temporal_difference_to_the_next_own_turn():
    batch = prepared(replace(PLAIN, gae_lambda=0.0, gamma=0.5))
    # 1 + .5 * .6 - .2 and 2 - .6: what the partner said in between has no value of its own.
    torch.testing.assert_close(batch.advantages[0, [2, 6]], torch.tensor([1.1, 1.4]))


def test_truncated_conversation_bootstraps_from_the_value_after_its_last_token():
    over_turns = prepared(replace(PLAIN, gamma=0.5), truncated=torch.tensor([True]))
    # The last turn: 2 + .5 * 5 - .6; the first: 1 + .5 * 2 + .25 * 5 - .2.
    torch.testing.assert_close(over_turns.advantages[0, [6, 2]], torch.tensor([3.9, 3.05]))
    over_tokens = prepared(replace(PLAIN, gamma=0.5, gae_over="tokens"), truncated=torch.tensor([True]))
    # The last token, worth .7 before it was drawn: 2 + .5 * 5 - .7.
    torch.testing.assert_close(over_tokens.advantages[0, 7], torch.tensor(3.8))


def test_discount_counts_turns_even_where_steps_are_tokens():
    batch = prepared(replace(PLAIN, gamma=0.5, gae_over="tokens"))
    # The first turn's tokens all see 1 + .5 * 2, the second's 2; the values before them are .2 .3 .4 and .6 .7.
    torch.testing.assert_close(batch.advantages[0], torch.tensor([0, 0, 1.8, 1.7, 1.6, 0, 1.4, 1.3]))


def test_divergence_in_the_reward_is_charged_on_every_own_token_and_on_no_partners():
    rule = replace(PLAIN, gae_over="tokens", gae_lambda=0.0, kl_place="reward", kl_estimator="k1")
    charged = replace(rule, kl=FixedKL(coefficient=2.0))
    difference = batch_of().logprobs - 0.1  # the reference is .1 nats below, heard tokens included
    with_kl = charged.prepare(replace(batch_of(), reference=difference), charged.initial_state())[0]
    without = rule.prepare(replace(batch_of(), reference=difference), rule.initial_state())[0]
    expected = torch.tensor([0, 0, 0.2, 0.2, 0.2, 0, 0.2, 0.2])
    torch.testing.assert_close((without.advantages - with_kl.advantages)[0], expected)


def test_advantages_are_whitened_over_own_steps_only():
    advantages = prepared(replace(PLAIN, scale="batch", gae_over="tokens")).advantages
    acted = advantages[batch_of().acted]
    assert acted.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert acted.std(unbiased=False).item() == pytest.approx(1.0, abs=1e-6)
    assert advantages[~batch_of().acted].eq(0).all()


def test_reward_scaling_keeps_signs_and_0():
    values, mask = torch.tensor([[2.0, 0.0, -2.0, 99.0]]), torch.tensor([[True, True, True, False]])
    # The deviation of 2, 0 and -2 is sqrt(8 / 3).
    torch.testing.assert_close(divide_by_deviation(values, mask), torch.tensor([[1.2247449, 0.0, -1.2247449, 0.0]]))
    assert divide_by_deviation(torch.full((1, 2), 7.0), torch.ones(1, 2, dtype=torch.bool)).tolist() == [[7.0, 7.0]]


def test_value_loss_is_weighted_and_adds_to_the_clipped_surrogate():
    rule = replace(PLAIN, clip=0.2, value_coefficient=0.1, value_clip=10.0)
    batch = prepared(rule)
    logprobs = batch.logprobs.clone().requires_grad_()
    loss = rule.loss(Outputs(logprobs=logprobs, entropy=torch.zeros(1, 8), values=batch.values), batch)
    # Ratio 1: minus the mean advantage, (3 * 2.8 + 2 * 1.4) / 5 = 2.24.  Values: errors 2.8 2.7 2.6 1.4 1.3.
    errors = (2.8**2 + 2.7**2 + 2.6**2 + 1.4**2 + 1.3**2) / 5
    assert loss.value.item() == pytest.approx(-2.24 + 0.1 * 0.5 * errors, rel=1e-5)
    assert loss.metrics["loss/value"] == pytest.approx(0.5 * errors, rel=1e-5)


def learner_of(**learner: Any) -> Learner:
    rates = {"learning_rate": 1e-2, "algorithm": "ppo", "method": "full"}
    settings = TrainSettings.model_validate({"model": "tiny:2", "learner": {**rates, **learner}})
    return build_learner(load("tiny:2", device="cpu"), settings)


def test_first_minibatchs_ratio_is_1():
    model = load("tiny:2", device="cpu").model
    metrics = learner_of().step(sampled(model)).metrics
    assert metrics["learn/ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["learn/ratio_min"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["learn/clip_share"] == 0.0


def test_values_are_those_of_the_states_before_the_tokens():
    model = load("tiny:2", device="cpu").model
    critic = Critic(value_head(model, start="normal", seed=3))
    batch = pad(sampled(model, num=3))
    with torch.no_grad():
        values = critic.values(batch, model)
        every = critic._head(hidden_states(model, batch.tokens, exists=batch.exists))[:, :, 0]
    acted = batch.acted[:, 1:]
    torch.testing.assert_close(values.before[:, 1:][acted], every[:, :-1][acted], atol=1e-6, rtol=1e-5)
    ends = batch.exists.sum(dim=1) - 1
    torch.testing.assert_close(values.last, every[torch.arange(3), ends], atol=1e-6, rtol=1e-5)


def test_value_heads_start_at_0_or_as_published():
    model = load("tiny:2", device="cpu").model
    assert value_head(model, start="zero", seed=0).weight.eq(0).all()
    drawn = torch.cat([value_head(model, start="normal", seed=seed).weight for seed in range(200)])
    # N(0, 1 / (d + 1)) with d = 64.
    assert drawn.std().item() == pytest.approx((1 / 65) ** 0.5, rel=0.02)


def gradients_of(learner: Learner, *, which: str) -> tuple[bool, bool]:
    """Whether the loss of the policy, or of the values, has a gradient for the policy and for the critic's trunk."""
    model = learner._policy.model
    batch = pad(sampled(model, num=2))
    outputs = learner._outputs(batch, None)
    column = outputs.logprobs if which == "policy" else outputs.values
    (column * torch.arange(1.0, 1 + batch.tokens.shape[1])).sum().backward()
    norms = [sum(float(p.grad.norm()) for p in group if p.grad is not None) for group in learner._clipped]
    return norms[0] > 0, norms[-1] > 0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_separate_value_model_shares_no_gradient_with_the_policy(method: str):
    assert gradients_of(learner_of(value_model="separate", method=method), which="policy") == (True, False)
    assert gradients_of(learner_of(value_model="separate", method=method), which="values") == (False, True)


def test_shared_value_head_reads_the_policys_own_trunk():
    learner = learner_of()
    model = learner._policy.model
    with torch.no_grad():
        learner._critic._head.weight.fill_(0.1)
    outputs = learner._outputs(pad(sampled(model, num=2)), None)
    outputs.values.sum().backward()
    assert model.base_model.layers[0].mlp.up_proj.weight.grad.norm() > 0


def test_values_learn_the_returns():
    model = load("tiny:2", device="cpu").model
    learner = learner_of(value_model="separate", value_clip=100.0, epochs=4, gae_lambda=1.0)
    rows = [replace(row, rewards=(0.5 * row.acted).astype(np.float32)) for row in sampled(model)]
    losses = [learner.step(rows).metrics["loss/value"] for _ in range(6)]
    assert losses[-1] < 0.1 * losses[0]


def test_whole_policies_second_trunk_is_a_copy_of_its_own():
    policy = WholePolicy(load("tiny:2", device="cpu").model.requires_grad_(True))
    trunk = policy.second_trunk(seed=0)
    assert not {id(p) for p in trunk.parameters.values()} & {id(p) for p in policy.parameters()}
    assert "lm_head.weight" not in trunk.parameters
