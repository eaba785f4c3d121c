"""What every policy-gradient algorithm here shares: the loss of a policy under KL control, and how control moves on.

Legend: B trajectories, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selfplay.experience import Batch
from selfplay.interfaces import Loss, Need, Outputs
from selfplay.learn.advantages import masked_mean
from selfplay.learn.kl import AdaptiveKL, Estimator, FixedKL, Place, check_placement, estimate
from selfplay.learn.policy_gradient import (
    clip_share,
    clipped_loss,
    importance_ratio,
    reinforce_loss,
    truncated_importance,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KLControlled:
    """A policy gradient that stays near the reference; subclasses say what the advantages are.

    Tokens that an older policy sampled: without clipping their advantages are weighted with the truncated importance
    ratio; with it the ratio corrects them by itself, and is cut at the same bound, as in dual-clip PPO (Ye et al. 2020,
    arXiv:1912.09729).  So is an estimate of the divergence in the loss; the exact one needs no sample of its token.
    """

    clip: float = 0.0  # PPO's clip range of the ratio; 0: no ratio
    gamma: float = 1.0  # discount per own turn
    entropy_bonus: float = 0.0
    importance_cap: float = 2.0  # largest weight of a token that an older policy sampled
    kl_place: Place = "loss"
    kl_estimator: Estimator = "k2"
    kl: FixedKL | AdaptiveKL = FixedKL(coefficient=0.0)  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        """Refuse a divergence where it controls nothing."""
        check_placement(self.kl_place, self.kl_estimator)

    def control_needs(self) -> frozenset[Need]:
        """Return the reference, for the divergence is always measured; the exact one only where it is in the loss."""
        is_exact = self.kl_estimator == "full" and self.kl.coefficient > 0.0
        return frozenset(("reference", "divergence") if is_exact else ("reference",))

    def sampled_divergence(self, batch: Batch) -> Tensor:
        """Return k1 [B, T] in nats at the acted tokens.  Raises ValueError if the batch has no reference."""
        if batch.reference is None:
            raise ValueError(f"{type(self).__name__} needs batch.reference: log-probabilities under the frozen policy")
        return estimate(batch.logprobs, batch.reference, estimator="k1") * batch.acted

    def moved_coefficient(self, coefficient: float, divergence: Tensor, batch: Batch) -> float:
        """Return the coefficient after a batch: the controller moves once a batch."""
        measured = float(masked_mean(divergence, batch.acted))
        controller = replace(self.kl, coefficient=coefficient)
        return controller.update(measured, num_conversations=batch.num_conversations).coefficient

    def coefficient_in_loss(self, coefficient: float) -> float:
        """Return what the divergence in the loss is multiplied by."""
        return coefficient if self.kl_place == "loss" else 0.0

    def policy_loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Return a micro-batch's loss, without that of values; the parts of a split batch add up to the whole's."""
        assert batch.advantages is not None
        acted, count = batch.acted, batch.num_acted
        ratio = importance_ratio(outputs.logprobs, batch.logprobs, acted)
        older = _older(batch)
        weight = truncated_importance(ratio, older, largest=self.importance_cap)
        if self.clip > 0.0:
            bounded = torch.where(_stale(batch), ratio.clamp_max(self.importance_cap), ratio)
            value = clipped_loss(bounded, batch.advantages, acted, clip=self.clip, num_acted=count)
        else:
            value = reinforce_loss(outputs.logprobs, weight * batch.advantages, acted, num_acted=count)
        capped = older & (ratio.detach() > self.importance_cap) & acted
        metrics = {"loss/policy": float(value.detach()), "learn/capped_share": float(capped.sum() / count)}
        if batch.kl_coefficient:
            penalty = (self._divergence(outputs, batch, weight) * acted).sum() / count
            value = value + batch.kl_coefficient * penalty
            metrics["loss/kl"] = float(penalty.detach())
        if self.entropy_bonus:
            value = value - self.entropy_bonus * (outputs.entropy * acted).sum() / count
        if self.clip > 0.0:
            metrics["learn/clip_share"] = float(clip_share(ratio.detach(), acted, clip=self.clip, num_acted=count))
        return Loss(value=value, metrics=metrics)

    def _divergence(self, outputs: Outputs, batch: Batch, weight: Tensor) -> Tensor:
        if self.kl_estimator == "full":
            assert outputs.divergence is not None
            return outputs.divergence
        assert batch.reference is not None
        assert self.kl_estimator != "k1"
        return weight * estimate(outputs.logprobs, batch.reference, estimator=self.kl_estimator)


def _stale(batch: Batch) -> Tensor:
    """Return [B, 1] bool: whether an older version than the learner's acted."""
    stale = torch.zeros_like(batch.acted[:, 0]) if batch.stale is None else batch.stale
    return stale[:, None]


def _older(batch: Batch) -> Tensor:
    """Return [B, 1] bool: whether another policy acted than the one that learns now."""
    return torch.ones_like(_stale(batch)) if batch.has_moved else _stale(batch)
