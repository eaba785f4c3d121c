"""What a role is worth by itself: the bias of one baseline for all roles, and how a role's own average removes it.

The toy: two roles, one turn each, and moving first is worth m.  Both roles get +-m/2 and no policy changes that, so
whatever advantage is left for a role is bias.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from selfplay.experience import Batch, Trajectory, pad
from selfplay.learn.advantages import RoleAverage
from selfplay.learn.reinforce import Baseline, Reinforce

M = 1.0  # what moving first is worth: the difference of the two roles' mean returns
FIRST, SECOND = 0, 1


def batch_of(returns: list[tuple[float, float]]) -> Batch:
    """Conversations by the returns of their first and second role; each role has a token to hear and one to say."""
    rows = [
        Trajectory(
            conversation=f"000000-g{number:02d}-0",
            group=f"000000-g{number:02d}",
            version=0,
            truncated=False,
            roles=("first", "second"),
            tokens=np.array([1, 2], dtype=np.int32),
            acted=np.array([False, True]),
            role_index=np.array([role, role], dtype=np.int8),
            turn=np.array([role, role], dtype=np.int32),
            logprobs=np.array([0.0, -0.5], dtype=np.float32),
            rewards=np.array([0.0, both[role]], dtype=np.float32),
        )
        for number, both in enumerate(returns)
        for role in (FIRST, SECOND)
    ]
    batch = pad(rows)
    return replace(batch, reference=batch.logprobs)


def advantages_by_step(baseline: Baseline, steps: list[list[tuple[float, float]]]) -> list[Tensor]:
    """Return the advantages [conversations, 2] of every step; the algorithm's state goes from one to the next."""
    settings = Reinforce(baseline=baseline)
    state, found = settings.initial_state(), []
    for returns in steps:
        prepared, state = settings.prepare(batch_of(returns), state)
        assert prepared.advantages is not None
        found.append(prepared.advantages[:, 1].reshape(-1, 2))
    return found


def test_a_shared_baseline_leaves_half_of_what_the_role_is_worth_to_either_side():
    for advantages in advantages_by_step("batch", [[(M / 2, -M / 2)] * 4] * 50):
        # The mean of both roles is 0, at every step.
        assert advantages.tolist() == [[0.5, -0.5]] * 4


def test_a_roles_own_average_removes_it_as_it_converges():
    steps = advantages_by_step("role_average", [[(M / 2, -M / 2)] * 4] * 50)
    # Read before it moves: m/2, m/2 * .95, m/2 * .9025, m/2 * .857375, ... and the second role the opposite.
    first = [0.5, 0.475, 0.45125, 0.4286875]
    torch.testing.assert_close(steps[0], torch.tensor([[value, -value] for value in first]))
    # Before conversation n the bias is m/2 * .95^n: in the last step n is 196 to 199.
    assert steps[-1][0, FIRST].item() == pytest.approx(0.5 * 0.95**196, rel=1e-3)
    assert steps[-1].abs().max() < 3e-5


def test_the_bias_goes_and_what_was_done_well_stays():
    # By turns one more and one less than the role is worth: that is what should be learned from.
    noisy = [[(M / 2 + sign, -M / 2 - sign) for sign in (1.0, -1.0)]] * 200
    last = advantages_by_step("role_average", noisy)[-1]
    assert last.mean(dim=0).tolist() == pytest.approx([0.0, 0.0], abs=0.05)
    assert (last[0] - last[1]).tolist() == pytest.approx([2.0, -2.0], abs=0.15)
    shared = advantages_by_step("batch", noisy)[-1]
    assert shared.mean(dim=0).tolist() == pytest.approx([0.5, -0.5], abs=1e-6)


def test_the_average_settles_on_what_a_role_earns_whatever_the_other_earns():
    rng, averages = np.random.default_rng(0), {}
    for _ in range(400):
        returns = torch.tensor([3.0 + rng.normal(), -1.0 + rng.normal()])
        _, averages = RoleAverage().advantages(returns, ["first", "second"], averages)
    # The deviation of the average is sqrt(.05 / 1.95) = .16.
    assert averages == pytest.approx({"first": 3.0, "second": -1.0}, abs=0.5)


def test_in_zero_sum_self_play_the_mean_over_both_roles_is_exactly_0():
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(30, 8)).astype(np.float32).tolist()
    steps = [[(number, -number) for number in row] for row in numbers]
    for baseline in ("none", "role_average"):
        for advantages in advantages_by_step(baseline, steps):
            # Exact, not about: whatever one role is above its average, the other is below its own.
            assert (advantages[:, FIRST] + advantages[:, SECOND]).tolist() == [0.0] * 8
            assert advantages.sum(dim=1).mean().item() == 0.0
