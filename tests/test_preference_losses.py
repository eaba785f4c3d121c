import itertools
import math

import numpy as np
import pytest
import torch

from selfplay.learn.preference import (
    best_of_loss,
    best_of_n_kl,
    clamp_target,
    pair_loss,
    preference_probability,
    ranking_loss,
    rating_loss,
)

ONE, NONE, HALF = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0.5])


def test_preference_probability_with_noise_maps_certainty_to_ninety_five_percent():
    far = torch.tensor([-80.0, 0.0, 80.0])
    assert preference_probability(far, noise=0.1).tolist() == pytest.approx([0.05, 0.5, 0.95])
    # ln 3: odds of three to one, 0.75; 0.9 * 0.75 + 0.05 = 0.725
    assert preference_probability(torch.tensor(math.log(3)), noise=0.1).item() == pytest.approx(0.725)


def test_pair_loss_with_noise_has_floor_and_cap():
    far = torch.tensor([80.0])
    assert pair_loss(far, ONE, noise=0.1).item() == pytest.approx(0.0513, abs=5e-5)
    assert pair_loss(far, NONE, noise=0.1).item() == pytest.approx(2.9957, abs=5e-5)


def test_pair_loss_of_equal_numbers_is_ln_two_whatever_the_target():
    for target in (ONE, NONE, HALF):
        assert pair_loss(torch.zeros(1), target).item() == pytest.approx(math.log(2))


def test_pair_loss_without_noise_is_finite_for_a_wild_difference_and_keeps_its_gradient():
    difference = torch.tensor([-300.0], requires_grad=True)
    loss = pair_loss(difference, ONE)
    loss.sum().backward()
    # -log sigmoid(-300) = log(1 + e^300), which is 300
    assert loss.item() == pytest.approx(300.0)
    assert difference.grad.item() == pytest.approx(-1.0)


def test_pair_loss_when_sides_are_swapped_is_the_same():
    difference = torch.tensor([-2.0, 0.3, 5.0])
    target = torch.tensor([0.2, 1.0, 0.5])
    for noise in (0.0, 0.1):
        swapped = pair_loss(-difference, 1 - target, noise=noise)
        assert torch.allclose(pair_loss(difference, target, noise=noise), swapped, atol=1e-6)


def test_pair_loss_of_a_soft_target_is_least_at_its_logit():
    difference = torch.linspace(-3, 3, 6001)
    best = difference[pair_loss(difference, torch.full_like(difference, 0.8)).argmin()]
    assert best.item() == pytest.approx(math.log(4), abs=2e-3)


def test_clamped_targets_when_the_loss_is_minimised_bound_the_difference():
    difference = torch.zeros(2, requires_grad=True)
    target = clamp_target(torch.tensor([1.0, 0.0]), 0.6)
    optimizer = torch.optim.LBFGS([difference], max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = pair_loss(difference, target).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    # The logarithm of 0.6 to 0.4.
    assert difference.tolist() == pytest.approx([0.4055, -0.4055], abs=1e-4)


def test_clamp_target_of_one_changes_nothing():
    target = torch.tensor([0.0, 0.3, 1.0])
    assert clamp_target(target, 1.0).tolist() == target.tolist()


def test_ranking_loss_is_the_mean_of_its_pairs():
    scores, ranks = [1.0, -0.5, 2.0, 0.0], [2, 3, 1, 3]
    losses = []
    for i, j in itertools.combinations(range(4), 2):
        # By definition: minus the logarithm of the winner's share, or of both shares in equal parts.
        share = 1 / (1 + math.exp(scores[j] - scores[i]))
        weight = 0.5 if ranks[i] == ranks[j] else float(ranks[i] < ranks[j])
        losses.append(-weight * math.log(share) - (1 - weight) * math.log(1 - share))
    found = ranking_loss(torch.tensor(scores), torch.tensor(ranks))
    assert found.item() == pytest.approx(sum(losses) / 6)


def test_ranking_loss_of_permuted_dialogs_is_the_same():
    scores, ranks = torch.tensor([1.0, -0.5, 2.0, 0.0, 0.7]), torch.tensor([2, 3, 1, 3, 4])
    whole = ranking_loss(scores, ranks, noise=0.1)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert torch.allclose(ranking_loss(scores[order], ranks[order], noise=0.1), whole)


def test_ranking_loss_of_two_is_the_pairs_loss():
    scores = torch.tensor([0.2, 1.1])
    pair = pair_loss(scores[:1] - scores[1:], NONE, noise=0.1)
    assert torch.allclose(ranking_loss(scores, torch.tensor([2.0, 1.0]), noise=0.1), pair)


def test_best_of_loss_of_equal_scores_is_the_logarithm_of_their_number():
    assert best_of_loss(torch.full((4,), 3.7), 2).item() == pytest.approx(math.log(4))
    assert best_of_loss(torch.zeros(2), 0).item() == pytest.approx(math.log(2))


def test_best_of_two_is_the_pairs_loss():
    scores = torch.tensor([0.2, 1.1])
    assert torch.allclose(best_of_loss(scores, 1), pair_loss(scores[1:] - scores[:1], ONE)[0])


def test_losses_but_that_of_ratings_when_a_constant_is_added_are_the_same():
    scores, ranks = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([2, 3, 1])
    assert torch.allclose(ranking_loss(scores + 7, ranks), ranking_loss(scores, ranks), atol=1e-6)
    assert torch.allclose(best_of_loss(scores + 7, 1), best_of_loss(scores, 1), atol=1e-6)


def test_rating_loss_is_the_squared_error():
    assert rating_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, -1.0])).tolist() == [1.0, 9.0]


def test_best_of_n_kl_is_the_papers_table():
    table = {1: 0.0, 8: 1.204, 64: 3.175, 128: 3.860, 256: 4.549, 512: 5.240}
    assert {n: round(best_of_n_kl(n), 3) for n in table} == table


@pytest.mark.parametrize("n", [2, 8])
def test_best_of_n_kl_agrees_with_a_simulation(n):
    generator = np.random.default_rng(np.random.SeedSequence(0))
    best = generator.random((200_000, n)).max(axis=1)
    # The best of n uniform draws has the density n x^(n-1), against 1.
    logs = math.log(n) + (n - 1) * np.log(best)
    error = logs.std(ddof=1) / math.sqrt(len(logs))
    assert abs(logs.mean() - best_of_n_kl(n)) < 3 * error


def test_best_of_n_kl_of_none_is_refused():
    with pytest.raises(ValueError, match="n=0"):
        best_of_n_kl(0)
