"""Losses of the policy: REINFORCE and the clipped surrogate of PPO, and their corrections.

Everything is per token, [B, T] aligned to the tokens; `acted` [B, T] is True where the policy sampled the token.  A
loss is a sum over acted tokens divided by a count given from outside, the number of acted tokens of the whole batch, so
that splitting the batch into micro-batches changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reinforce_loss(logprobs: Tensor, advantages: Tensor, acted: Tensor, *, num_acted: int) -> Tensor:
    """Return the score-function loss: its gradient is minus the advantage times the gradient of the log-probability.

    Source: Williams 1992.
    """
    return -(logprobs * advantages.detach() * acted).sum() / num_acted


def clipped_loss(
    logprobs: Tensor, sampled: Tensor, advantages: Tensor, acted: Tensor, *, clip: float, num_acted: int
) -> Tensor:
    """Return PPO's clipped surrogate; sampled [B, T] are the log-probabilities when the tokens were drawn.

    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    ratio = importance_ratio(logprobs, sampled, acted)
    kept = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -(torch.minimum(ratio * advantages, kept * advantages) * acted).sum() / num_acted


def importance_ratio(logprobs: Tensor, sampled: Tensor, acted: Tensor) -> Tensor:
    """Return pi(token) / mu(token) [B, T]; 1 where nothing was acted."""
    return torch.where(acted, logprobs - sampled, 0.0).exp()


def truncated_importance(logprobs: Tensor, sampled: Tensor, acted: Tensor, *, largest: float) -> Tensor:
    """Return the detached importance ratio, at most `largest`: corrects conversations of an older policy.

    Source: truncated importance sampling, Ionides 2008; the same bound as IMPALA's (Espeholt et al. 2018).
    """
    return importance_ratio(logprobs, sampled, acted).detach().clamp_max(largest)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, acted: Tensor, *, clip: float, num_acted: int
) -> Tensor:
    """Return half the larger of the squared errors of the value and of the value kept near the old one.

    Source: openai/baselines ppo2, as in openai/lm-human-preferences:lm_human_preferences/train_policy.py.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * (worse * acted).sum() / num_acted


def clip_share(logprobs: Tensor, sampled: Tensor, acted: Tensor, *, clip: float) -> Tensor:
    """Return the share of acted tokens whose ratio lies outside the clip range."""
    ratio = importance_ratio(logprobs, sampled, acted)
    outside = (ratio < 1.0 - clip) | (ratio > 1.0 + clip)
    return (outside & acted).sum() / acted.sum().clamp_min(1)
