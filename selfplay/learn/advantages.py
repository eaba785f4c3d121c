"""Credit for turns: returns, baselines and advantages.

Credit is computed on tables with one row a (stream, role) and one column for each of that role's own turns: what the
partner said in between is context, not time.  A row belongs to a group: the conversations of one scenario, one role of
them.  Legend: S rows, K own turns, [S, K] tables; `exists` [S, K] is True where a row has that turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# A spread below this is rounding, not signal: what is divided by it would be noise.
SMALLEST_DEVIATION = 1e-6


def returns_to_go(rewards: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Return for each turn the discounted sum of its and all later rewards of its row.

    rewards [S, K], 0 where a row has ended.  gamma discounts per own turn.
    """
    returns = torch.zeros_like(rewards)
    later = rewards.new_zeros(rewards.shape[0])
    for turn in reversed(range(rewards.shape[1])):
        later = rewards[:, turn] + gamma * later
        returns[:, turn] = later
    return returns


def group_mean(returns: Tensor, group: Tensor) -> Tensor:
    """Return for each row's n-th turn the mean over its group, itself included, of the n-th returns: [S, K].

    returns [S, K] must be 0 where a row has ended: a sibling that ended early counts as 0, so the baseline does not
    depend on who is still talking.  group [S] integer labels.  Source: GRPO's mean as in Dr.GRPO (Liu et al. 2025,
    arXiv:2503.20783), taken turn by turn.
    """
    sums, sizes = _group_sums(returns, group)
    return sums / sizes


def leave_one_out(returns: Tensor, group: Tensor) -> Tensor:
    """Return for each row's n-th turn the mean of its siblings' n-th returns, itself left out: [S, K].

    A row without siblings gets its own return, so that its advantage is 0.
    Source: RLOO as in Ahmadian et al. 2024, arXiv:2402.14740, taken turn by turn.
    """
    sums, sizes = _group_sums(returns, group)
    siblings = (sums - returns) / (sizes - 1).clamp_min(1)
    return torch.where(sizes > 1, siblings, returns)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values where the mask is True; of none it is 0."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def standardise(values: Tensor, mask: Tensor) -> Tensor:
    """Return values with mean 0 and deviation 1 over the mask, and 0 elsewhere; a constant becomes 0, not NaN.

    The deviation is the population's.
    """
    centred = (values - masked_mean(values, mask)) * mask
    deviation = masked_mean(centred.square(), mask).sqrt()
    return centred / deviation if deviation > SMALLEST_DEVIATION else torch.zeros_like(values)


def divide_by_deviation(values: Tensor, mask: Tensor) -> Tensor:
    """Return values divided by their deviation over the mask, and 0 elsewhere: their sign and their 0 stay.

    A constant stays as it is.  Ziegler et al. 2019 whiten rewards by scale only; their code adds the mean back after
    dividing, which would move 0.
    """
    deviation = masked_mean((values - masked_mean(values, mask)).square() * mask, mask).sqrt()
    return values * mask / deviation if deviation > SMALLEST_DEVIATION else values * mask


def scale_by_group_deviation(advantages: Tensor, exists: Tensor, group: Tensor) -> Tensor:
    """Return advantages divided by the deviation of their group's, unbiased over all its turns: GRPO's second half.

    A group whose advantages are all equal becomes 0.  Source: DeepSeekMath (Shao et al. 2024, arXiv:2402.03300),
    section 4.1.2, where a row has one turn; the unbiased deviation is that of its widely used implementations.
    """
    scaled = torch.zeros_like(advantages)
    for label in torch.unique(group):
        rows = group == label
        values = advantages[rows][exists[rows]]
        if values.numel() > 1 and values.std() > SMALLEST_DEVIATION:
            scaled[rows] = advantages[rows] / values.std()
    return scaled * exists


def gae(
    rewards: Tensor, values: Tensor, exists: Tensor, *, gamma: float | Tensor, lam: float, bootstrap: Tensor
) -> Tensor:
    """Return generalised advantage estimates [S, K] over a row's own steps (turns, or tokens).

    rewards, values [S, K]; gamma: between a step and the next, one for all or [S, K]; bootstrap [S] is the value after
    a row's last step: 0 where the game ended, the value of the state where a limit of the engine cut it.  The next
    value is the row's own next one: what the partner said lies between two steps and is no step.
    Source: Schulman et al. 2016, arXiv:1506.02438, equation 16.
    """
    advantages = torch.zeros_like(rewards)
    discount = gamma if isinstance(gamma, Tensor) else torch.full_like(rewards, gamma)
    later, next_value = rewards.new_zeros(rewards.shape[0]), bootstrap
    for step in reversed(range(rewards.shape[1])):
        delta = rewards[:, step] + discount[:, step] * next_value - values[:, step]
        estimate = delta + discount[:, step] * lam * later
        # Steps a row does not have are passed over, so that its bootstrap reaches its last one.
        later = torch.where(exists[:, step], estimate, later)
        next_value = torch.where(exists[:, step], values[:, step], next_value)
        advantages[:, step] = torch.where(exists[:, step], estimate, 0.0)
    return advantages


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleAverage:
    """A running mean of returns for each role: what the role earns by being that role.

    Source: SPIRAL (Liu et al. 2025, arXiv:2506.24119), role-conditioned advantage: read, then updated.
    """

    decay: float = 0.95

    def advantages(self, returns: Tensor, roles: list[str], state: dict[str, float]) -> tuple[Tensor, dict[str, float]]:
        """Return returns [S] minus their role's average, and the new averages; `state` stays as it is.

        Rows are taken in order: each reads its role's average before it moves it.
        """
        averages = dict(state)
        advantages = torch.zeros_like(returns)
        for row, role in enumerate(roles):
            average = averages.get(role, 0.0)
            advantages[row] = returns[row] - average
            averages[role] = self.decay * average + (1.0 - self.decay) * float(returns[row])
        return advantages, averages


def normalised_parts(
    parts: Mapping[str, Tensor], weights: Mapping[str, float], exists: Tensor, *, gamma: float
) -> Tensor:
    """Return VHRL's returns [S, K]: parts are discounted, standardised over all turns, weighted, then summed.

    parts: name -> raw rewards [S, K].  Source: Saleh et al. 2019, arXiv:1909.07547, and its code
    natashamjaques/neural_chat:HierarchicalRL/hrl_tune.py.
    """
    total = torch.zeros(exists.shape)
    for name, rewards in parts.items():
        total = total + weights[name] * standardise(returns_to_go(rewards * exists, gamma=gamma), exists)
    return total


def _group_sums(returns: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's group's sum [S, K] and size [S, 1]."""
    if group.shape != returns.shape[:1]:
        raise ValueError(
            f"group has shape {tuple(group.shape)}, returns {tuple(returns.shape)}: one label a row is needed"
        )
    labels, place = torch.unique(group, return_inverse=True)
    sums = returns.new_zeros(len(labels), returns.shape[1]).index_add_(0, place, returns)
    sizes = returns.new_zeros(len(labels)).index_add_(0, place, torch.ones_like(returns[:, 0]))
    return sums[place], sizes[place][:, None]
