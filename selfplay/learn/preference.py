"""What a reward model learns from: losses of what was said of dialogs, given the numbers it gives them.

A preference is a logistic function of a difference of two numbers (Bradley and Terry), so a constant added to all
numbers changes no loss but that of ratings.

Legend: P pairs, K dialogs that were compared with each other, B rated dialogs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = [
    "best_of_loss",
    "best_of_n_kl",
    "clamp_target",
    "pair_loss",
    "preference_probability",
    "ranking_loss",
    "rating_loss",
]


def preference_probability(difference: Tensor, *, noise: float = 0.0) -> Tensor:
    """Return how likely it is that the first is preferred; difference: its number minus the other's, any shape.

    noise: the share of labels that are taken to be drawn blindly, which keeps every probability within noise / 2 of
    0 and 1.  Source: Christiano et al. 2017, arXiv:1706.03741, section 2.2.3, with noise=0.1: 0.9 P + 0.05.
    """
    return (1 - noise) * torch.sigmoid(difference) + noise / 2


def pair_loss(difference: Tensor, target: Tensor, *, noise: float = 0.0) -> Tensor:
    """Return each pair's cross-entropy [P] in nats.

    difference [P]; target [P] in [0, 1]: how likely the first is preferred; 0.5 is a tie.
    With noise the loss of a pair is at most -log(noise / 2), however wrong the numbers are.
    """
    return -(target * _log_probability(difference, noise) + (1 - target) * _log_probability(-difference, noise))


def clamp_target(target: Tensor, clamp: float) -> Tensor:
    """Return targets kept within 1 - clamp and clamp, so that no difference is driven beyond logit(clamp).

    Source: Bai et al. 2022, arXiv:2212.08073, section 4.1, with clamp=0.6.
    """
    return target.clamp(1 - clamp, clamp)


def ranking_loss(scores: Tensor, ranks: Tensor, *, noise: float = 0.0) -> Tensor:
    """Return the mean loss of the K (K - 1) / 2 pairs of one comparison, in nats.

    scores [K]; ranks [K]: 1 is the best, and equal ranks are ties.
    Source: Ouyang et al. 2022, arXiv:2203.02155, equation 1.
    """
    first, second = torch.triu_indices(len(scores), len(scores), offset=1, device=scores.device)
    target = 0.5 + 0.5 * torch.sign(ranks[second] - ranks[first]).to(scores.dtype)
    return pair_loss(scores[first] - scores[second], target, noise=noise).mean()


def best_of_loss(scores: Tensor, winner: int) -> Tensor:
    """Return the loss in nats of one winner among scores [K], of whose others nothing was said.

    Source: Ziegler et al. 2019, arXiv:1909.08593, equation 1.
    """
    return -scores.log_softmax(dim=0)[winner]


def rating_loss(values: Tensor, ratings: Tensor) -> Tensor:
    """Return the squared error [B] of numbers [B] against ratings [B]."""
    return (values - ratings).square()


def best_of_n_kl(n: int) -> float:
    """Return the divergence in nats of the best of n draws from a draw: an upper bound where numbers can be equal.

    Source: Stiennon et al. 2020, arXiv:2009.01325, appendix G.3.
    """
    if n < 1:
        raise ValueError(f"n={n}: the best of at least one draw can be taken")
    return math.log(n) - (n - 1) / n


def _log_probability(difference: Tensor, noise: float) -> Tensor:
    if noise == 0:
        # The logarithm of a sigmoid that has become 0 would be lost.
        return logsigmoid(difference)
    return preference_probability(difference, noise=noise).log()
