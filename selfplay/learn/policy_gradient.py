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

    Tokens that another policy sampled need advantages that are weighted with `truncated_importance`.
    Source: Williams 1992.
    """
    return -(logprobs * advantages.detach() * acted).sum() / num_acted


def clipped_loss(ratio: Tensor, advantages: Tensor, acted: Tensor, *, clip: float, num_acted: int) -> Tensor:
    """Return PPO's clipped surrogate; ratio [B, T] is `importance_ratio`, with its gradient.

    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    kept = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -(torch.minimum(ratio * advantages, kept * advantages) * acted).sum() / num_acted


def importance_ratio(logprobs: Tensor, sampled: Tensor, acted: Tensor) -> Tensor:
    """Return pi(token) / mu(token) [B, T]; 1 where nothing was acted."""
    return torch.where(acted, logprobs - sampled, 0.0).exp()


def truncated_importance(ratio: Tensor, older: Tensor, *, largest: float) -> Tensor:
    """Return what corrects tokens of an older policy: the detached ratio, at most `largest`; exactly 1 elsewhere.

    ratio [B, T] is `importance_ratio`; older [B, 1] or [B, T] bool.
    Source: truncated importance sampling, Ionides 2008; the same bound as IMPALA's (Espeholt et al. 2018).
    """
    return torch.where(older, ratio.detach().clamp_max(largest), 1.0)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, acted: Tensor, *, clip: float, num_acted: int
) -> Tensor:
    """Return half the larger of the squared errors of the value and of the value kept near the old one.

    Source: openai/baselines ppo2, as in openai/lm-human-preferences:lm_human_preferences/train_policy.py.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * (worse * acted).sum() / num_acted


def clip_share(ratio: Tensor, acted: Tensor, *, clip: float, num_acted: int) -> Tensor:
    """Return how many acted tokens' ratio lies outside the clip range, divided by a count from outside."""
    outside = (ratio < 1.0 - clip) | (ratio > 1.0 + clip)
    return (outside & acted).sum() / num_acted
