"""Keeping a policy near its reference: estimators of the divergence, where each may stand, and the controller.

With l = log pi(token) - log rho(token) at a token sampled from pi, all in nats:

    k1 = l                 unbiased; in the reward its policy gradient is the reverse KL's, KL(pi || rho); as a loss its
                           gradient is 0 on average, so it regularises nothing
    k2 = l^2 / 2           biased; as a loss its gradient is the reverse KL's at the visited states
    k3 = exp(-l) - 1 + l   unbiased and never negative; as a loss its gradient is the forward KL's, KL(rho || pi)
    full                   the exact reverse KL, summed over the vocabulary at the visited states

Source of the estimators: Schulman 2020, "Approximating KL divergence"; the gradients follow by differentiating, and
the tests compare each with the exact one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from selfplay.errors import UserError
from selfplay.learn.placement import WHY_NOT, Estimator, Place, check_placement

__all__ = [
    "WHY_NOT",
    "AdaptiveKL",
    "Estimator",
    "FixedKL",
    "Place",
    "check_placement",
    "estimate",
    "full_divergence",
]

# A controller's step is bounded: an error beyond this share of the target counts as this.
LARGEST_ERROR = 0.2


def estimate(logprobs: Tensor, reference: Tensor, *, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """Return a per-token estimate of the divergence, in nats, with the shape of the log-probabilities.

    logprobs of the tokens under the policy they were sampled from, reference under the frozen one.
    """
    ratio = logprobs - reference
    if estimator == "k1":
        return ratio
    if estimator == "k2":
        return ratio.square() / 2
    return torch.expm1(-ratio) + ratio


def full_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Return KL(policy || reference) [...] in nats, exact over the vocabulary, from logits [..., V] of both."""
    policy, reference = logits.log_softmax(dim=-1), reference_logits.log_softmax(dim=-1)
    return (policy.exp() * (policy - reference)).sum(dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedKL:
    """A coefficient that stays."""

    coefficient: float

    def update(self, measured: float, *, num_conversations: int) -> FixedKL:
        """Return itself."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveKL:
    """A coefficient that steers the measured divergence to a target, in log space.

    Source: Ziegler et al. 2019, arXiv:1909.08593, and openai/lm-human-preferences:lm_human_preferences/train_policy.py.
    There the target is nats a sequence and the published horizon 10,000 episodes; here it is nats a token.
    """

    coefficient: float
    target: float  # nats a token, above 0
    horizon: float  # conversations, above 0: how many it takes to answer an error

    def __post_init__(self) -> None:
        """Refuse what would divide by zero or run away."""
        for name in ("target", "horizon"):
            if getattr(self, name) <= 0:
                raise UserError(f"kl.{name}={getattr(self, name)} must be above 0")

    def update(self, measured: float, *, num_conversations: int) -> AdaptiveKL:
        """Return the controller after a batch: once a batch, whatever the number of minibatches."""
        error = min(max(measured / self.target - 1.0, -LARGEST_ERROR), LARGEST_ERROR)
        # A batch larger than the horizon answers the error once: more would overshoot, and could switch control off.
        share = min(num_conversations / self.horizon, 1.0)
        return replace(self, coefficient=self.coefficient * (1.0 + error * share))
