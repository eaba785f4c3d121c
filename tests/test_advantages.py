"""Credit for turns, with numbers from hand calculations and the papers."""

import math

import pytest
import torch

from selfplay.learn.advantages import (
    RoleAverage,
    gae,
    group_mean,
    leave_one_out,
    masked_mean,
    normalised_parts,
    returns_to_go,
    scale_by_group_deviation,
    standardise,
)

ONE_GROUP = torch.zeros(4, dtype=torch.int64)
FIRST_WINS = torch.tensor([[1.0], [0.0], [0.0], [0.0]])


def test_returns_to_go_discounts_per_own_turn():
    # 1 + .9 * 0 + .81 * 1 = 1.81;  0 + .9 * 1 = .9;  1
    returns = returns_to_go(torch.tensor([[1.0, 0.0, 1.0]]), gamma=0.9)
    torch.testing.assert_close(returns, torch.tensor([[1.81, 0.9, 1.0]]))


def test_group_mean_of_one_win_in_four_is_a_quarter():
    advantages = FIRST_WINS - group_mean(FIRST_WINS, ONE_GROUP)
    assert advantages[:, 0].tolist() == [0.75, -0.25, -0.25, -0.25]


def test_leave_one_out_of_one_win_in_four():
    advantages = FIRST_WINS - leave_one_out(FIRST_WINS, ONE_GROUP)
    torch.testing.assert_close(advantages[:, 0], torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3]))


def test_group_deviation_of_one_win_in_four_is_a_half():
    centred = FIRST_WINS - group_mean(FIRST_WINS, ONE_GROUP)
    scaled = scale_by_group_deviation(centred, torch.ones(4, 1, dtype=torch.bool), ONE_GROUP)
    torch.testing.assert_close(scaled[:, 0], torch.tensor([1.5, -0.5, -0.5, -0.5]))


def test_equal_returns_have_no_advantage_and_no_nan():
    returns = torch.full((4, 2), 0.3)
    exists = torch.ones(4, 2, dtype=torch.bool)
    centred = returns - group_mean(returns, ONE_GROUP)
    assert scale_by_group_deviation(centred, exists, ONE_GROUP).abs().max() == 0
    assert (returns - leave_one_out(returns, ONE_GROUP)).abs().max() < 1e-7


def test_baselines_compare_turn_by_turn_and_count_who_has_ended_as_0():
    # Two siblings, the second ended after one turn; a third row is alone in its group.
    returns, group = torch.tensor([[4.0, 2.0], [2.0, 0.0], [9.0, 9.0]]), torch.tensor([5, 5, 7])
    assert group_mean(returns, group).tolist() == [[3.0, 1.0], [3.0, 1.0], [9.0, 9.0]]
    assert leave_one_out(returns, group).tolist() == [[2.0, 0.0], [4.0, 2.0], [9.0, 9.0]]


def test_group_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="one label a row"):
        group_mean(torch.zeros(3, 2), torch.zeros(2))


def test_gae_with_lambda_1_is_the_return_minus_the_value():
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 0.2, 0.1]])
    exists = torch.ones(1, 3, dtype=torch.bool)
    estimates = gae(rewards, values, exists, gamma=0.9, lam=1.0, bootstrap=torch.tensor([0.0]))
    # Returns 1 + 0 + .81 * 2 = 2.62, 1.8, 2.
    torch.testing.assert_close(estimates, torch.tensor([[2.12, 1.6, 1.9]]))


def test_gae_with_lambda_0_is_the_temporal_difference():
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 0.2, 0.1]])
    exists = torch.ones(1, 3, dtype=torch.bool)
    estimates = gae(rewards, values, exists, gamma=0.9, lam=0.0, bootstrap=torch.tensor([0.4]))
    # 1 + .9 * .2 - .5;  0 + .9 * .1 - .2;  2 + .9 * .4 - .1
    torch.testing.assert_close(estimates, torch.tensor([[0.68, -0.11, 2.26]]))


def test_gae_passes_over_steps_a_row_does_not_have():
    rewards, values = torch.tensor([[1.0, 77.0, 2.0]]), torch.tensor([[0.5, 88.0, 0.1]])
    with_gap = gae(
        rewards, values, torch.tensor([[True, False, True]]), gamma=0.9, lam=0.8, bootstrap=torch.tensor([0.4])
    )
    without = gae(
        rewards[:, [0, 2]],
        values[:, [0, 2]],
        torch.ones(1, 2, dtype=torch.bool),
        gamma=0.9,
        lam=0.8,
        bootstrap=torch.tensor([0.4]),
    )
    assert with_gap[0].tolist() == [without[0, 0].item(), 0.0, without[0, 1].item()]


def test_role_average_is_read_before_it_is_moved():
    # SPIRAL's average with decay .95 from 0 on the rewards 1, 1, -1: advantages 1, .95, -1.0975.
    advantages, averages = RoleAverage(decay=0.95).advantages(torch.tensor([1.0, 1.0, -1.0]), ["a", "a", "a"], {})
    torch.testing.assert_close(advantages, torch.tensor([1.0, 0.95, -1.0975]))
    assert averages["a"] == pytest.approx(0.95 * 0.0975 - 0.05)


def test_role_average_keeps_roles_apart_and_the_old_state_as_it_was():
    state = {"a": 0.5, "b": -0.5}
    advantages, _ = RoleAverage().advantages(torch.tensor([1.0, 1.0]), ["a", "b"], state)
    assert advantages.tolist() == [0.5, 1.5]
    assert state == {"a": 0.5, "b": -0.5}


def test_standardise_uses_only_what_counts():
    values, mask = torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])
    assert standardise(values, mask).tolist() == [[-1.0, 1.0, 0.0]]


def test_standardise_of_a_constant_is_0():
    assert standardise(torch.full((2, 2), 7.0), torch.ones(2, 2, dtype=torch.bool)).tolist() == [[0.0, 0.0]] * 2


def test_masked_mean_of_nothing_is_0():
    assert masked_mean(torch.tensor([5.0]), torch.tensor([False])) == 0


def test_normalised_parts_do_not_depend_on_a_parts_units():
    parts = {"question": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "sentiment": torch.tensor([[0.2, 0.4], [0.1, 0.9]])}
    exists = torch.tensor([[True, True], [True, False]])
    weights = {"question": 0.2, "sentiment": 0.3}
    large = {**parts, "sentiment": parts["sentiment"] * 1000}
    first, second = (normalised_parts(p, weights, exists, gamma=0.9) for p in (parts, large))
    torch.testing.assert_close(first, second)
    # The question part alone: returns 1, 0, 0 over three turns have mean 1/3 and deviation sqrt(2)/3.
    only = normalised_parts({"question": parts["question"]}, {"question": 0.2}, exists, gamma=0.9)
    torch.testing.assert_close(only[0, 0], torch.tensor(0.2 * (2 / 3) / (math.sqrt(2) / 3)))
