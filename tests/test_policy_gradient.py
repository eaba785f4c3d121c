"""Losses of the policy against hand calculations."""

import torch

from selfplay.learn.policy_gradient import (
    clip_share,
    clipped_loss,
    clipped_value_loss,
    importance_ratio,
    reinforce_loss,
    truncated_importance,
)

ACTED = torch.tensor([[False, True, True], [True, True, False]])
SAMPLED = torch.tensor([[-9.0, -1.0, -2.0], [-0.5, -1.5, -9.0]])
ADVANTAGES = torch.tensor([[50.0, 1.0, -1.0], [2.0, 2.0, 50.0]])


def test_reinforce_gradient_is_minus_the_advantage_where_the_policy_acted_and_0_elsewhere():
    logprobs = SAMPLED.clone().requires_grad_()
    reinforce_loss(logprobs, ADVANTAGES, ACTED, num_acted=4).backward()
    assert (logprobs.grad * 4).tolist() == [[0.0, -1.0, 1.0], [-2.0, -2.0, 0.0]]


def test_ratio_of_the_first_minibatch_is_1_everywhere():
    assert importance_ratio(SAMPLED, SAMPLED, ACTED).tolist() == [[1.0] * 3] * 2


def test_first_clipped_gradient_equals_the_reinforce_gradient():
    first, second = (SAMPLED.clone().requires_grad_() for _ in range(2))
    clipped_loss(importance_ratio(first, SAMPLED, ACTED), ADVANTAGES, ACTED, clip=0.2, num_acted=4).backward()
    reinforce_loss(second, ADVANTAGES, ACTED, num_acted=4).backward()
    torch.testing.assert_close(first.grad, second.grad)


def test_clipped_loss_stops_at_the_clip_only_where_the_step_would_go_on():
    # One token, ratio 1.5 each; clip .2.  Advantage 1: min(1.5, 1.2) = 1.2.  Advantage -1: min(-1.5, -1.2) = -1.5.
    ratio, acted = torch.tensor([[1.5]]), torch.ones(1, 1, dtype=torch.bool)
    up = clipped_loss(ratio, torch.ones(1, 1), acted, clip=0.2, num_acted=1)
    down = clipped_loss(ratio, -torch.ones(1, 1), acted, clip=0.2, num_acted=1)
    torch.testing.assert_close(torch.stack([up, down]), torch.tensor([-1.2, 1.5]))


def test_loss_of_a_split_batch_adds_up_to_the_whole():
    whole = reinforce_loss(SAMPLED, ADVANTAGES, ACTED, num_acted=4)
    rows = [reinforce_loss(SAMPLED[[i]], ADVANTAGES[[i]], ACTED[[i]], num_acted=4) for i in range(2)]
    torch.testing.assert_close(rows[0] + rows[1], whole)


def test_truncated_importance_is_bounded_above_only_and_carries_no_gradient():
    ratio = torch.tensor([[1.0, 20.0, 0.05], [1.001, 20.0, 0.05]], requires_grad=True)
    weights = truncated_importance(ratio, torch.tensor([[True], [False]]), largest=2.0)
    # The second row was sampled by the policy that learns: it is not weighted at all.
    torch.testing.assert_close(weights, torch.tensor([[1.0, 2.0, 0.05], [1.0, 1.0, 1.0]]), rtol=0, atol=0)
    assert not weights.requires_grad


def test_value_loss_takes_the_worse_of_the_free_and_the_clipped_value():
    # Old value 0, new 1, clip .2, return 1: free error 0, clipped error (.2 - 1)^2 = .64; half of the larger is .32.
    one = torch.ones(1, 1)
    loss = clipped_value_loss(one, 0 * one, one, one.bool(), clip=0.2, num_acted=1)
    torch.testing.assert_close(loss, torch.tensor(0.32))


def test_clip_share_counts_acted_tokens_outside_the_range():
    new = SAMPLED + torch.tensor([[5.0, 0.5, 0.0], [-0.5, 0.1, 5.0]])
    # Ratios of the acted tokens: 1.65, 1, .61, 1.11: two of four are outside .8 to 1.2.
    assert clip_share(importance_ratio(new, SAMPLED, ACTED), ACTED, clip=0.2, num_acted=4) == 0.5
