"""REINFORCE and its critic-free relatives with turn-level credit, under KL control.

They differ in two settings: what is subtracted from a return (the baseline) and what the difference is divided by:

    name          baseline       scale    clip   source
    reinforce     batch          none     0      Williams 1992
    rloo          leave_one_out  none     0      Ahmadian et al. 2024, arXiv:2402.14740
    grpo          group_mean     group    0.2    Shao et al. 2024, arXiv:2402.03300
    dr_grpo       group_mean     none     0.2    Liu et al. 2025, arXiv:2503.20783
    reinforce++   group_mean     batch    0.2    Hu 2025, arXiv:2501.03262, the variant with a baseline
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from selfplay.errors import UserError
from selfplay.experience import Batch
from selfplay.interfaces import Loss, Need, Outputs
from selfplay.learn.advantages import (
    RoleAverage,
    group_mean,
    leave_one_out,
    masked_mean,
    returns_to_go,
    scale_by_group_deviation,
    standardise,
)
from selfplay.learn.kl import AdaptiveKL, Estimator, FixedKL, Place, check_placement, estimate
from selfplay.learn.policy_gradient import clip_share, clipped_loss, reinforce_loss
from selfplay.learn.turns import TurnTable

Baseline = Literal["none", "batch", "group_mean", "leave_one_out", "role_average"]
Scale = Literal["none", "batch", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce:
    """Score-function policy gradient; a turn's advantage is that of all its tokens."""

    baseline: Baseline = "leave_one_out"
    scale: Scale = "none"
    clip: float = 0.0  # PPO's clip range of the ratio; 0: no ratio
    gamma: float = 1.0  # discount per own turn
    entropy_bonus: float = 0.0
    kl_place: Place = "loss"
    kl_estimator: Estimator = "k2"
    kl: FixedKL | AdaptiveKL = FixedKL(coefficient=0.0)  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        """Refuse a divergence where it controls nothing."""
        check_placement(self.kl_place, self.kl_estimator)

    @property
    def needs(self) -> frozenset[Need]:
        """The reference, for the divergence is always measured."""
        return frozenset(("reference",))

    def initial_state(self) -> Mapping[str, Any]:
        """Return the KL coefficient and the roles' averages."""
        return {"kl_coefficient": self.kl.coefficient, "role_averages": {}}

    def prepare(self, batch: Batch, state: Mapping[str, Any]) -> tuple[Batch, Mapping[str, Any]]:
        """Return the batch with advantages, and the state after it.

        The divergence in the reward is subtracted from its turn; the controller moves once, after the batch.
        """
        if batch.reference is None:
            raise ValueError("Reinforce needs batch.reference: log-probabilities under the frozen policy")
        coefficient = float(state["kl_coefficient"])
        divergence = estimate(batch.logprobs, batch.reference, estimator="k1") * batch.acted
        table = TurnTable.of(batch)
        rewards = table.gather(batch.rewards)
        if self.kl_place == "reward":
            rewards = rewards - coefficient * table.gather(divergence)
        returns = returns_to_go(rewards, gamma=self.gamma) * table.exists
        advantages, averages = self._subtract_baseline(returns, table, state["role_averages"])
        if self.scale == "batch":
            advantages = standardise(advantages, table.exists)
        elif self.scale == "group":
            advantages = scale_by_group_deviation(advantages, table.exists, table.group)
        in_loss = coefficient if self.kl_place == "loss" else 0.0
        measured = float(masked_mean(divergence, batch.acted))
        moved = replace(self.kl, coefficient=coefficient).update(measured, num_conversations=batch.num_conversations)
        prepared = replace(batch, advantages=table.spread(advantages * table.exists), kl_coefficient=in_loss)
        return prepared, {"kl_coefficient": moved.coefficient, "role_averages": averages}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Return the loss of a micro-batch; the parts of a split batch add up to the whole's."""
        assert batch.advantages is not None
        acted, count = batch.acted, batch.num_acted
        if self.clip > 0.0:
            value = clipped_loss(
                outputs.logprobs, batch.logprobs, batch.advantages, acted, clip=self.clip, num_acted=count
            )
        else:
            value = reinforce_loss(outputs.logprobs, batch.advantages, acted, num_acted=count)
        metrics = {"loss/policy": float(value.detach())}
        if batch.kl_coefficient:
            penalty = (self._divergence(outputs, batch) * acted).sum() / count
            value = value + batch.kl_coefficient * penalty
            metrics["loss/kl"] = float(penalty.detach())
        if self.entropy_bonus:
            value = value - self.entropy_bonus * (outputs.entropy * acted).sum() / count
        if self.clip > 0.0:
            metrics["clip_share"] = float(clip_share(outputs.logprobs.detach(), batch.logprobs, acted, clip=self.clip))
        return Loss(value=value, metrics=metrics)

    def _divergence(self, outputs: Outputs, batch: Batch) -> Tensor:
        if self.kl_estimator == "full":
            assert outputs.divergence is not None
            return outputs.divergence
        assert batch.reference is not None
        assert self.kl_estimator != "k1"
        return estimate(outputs.logprobs, batch.reference, estimator=self.kl_estimator)

    def _subtract_baseline(
        self, returns: Tensor, table: TurnTable, averages: Mapping[str, float]
    ) -> tuple[Tensor, Mapping[str, float]]:
        if self.baseline == "group_mean":
            return returns - group_mean(returns, table.group), averages
        if self.baseline == "leave_one_out":
            return returns - leave_one_out(returns, table.group), averages
        if self.baseline == "batch":
            return returns - masked_mean(returns, table.exists), averages
        if self.baseline == "role_average":
            # The average is of whole games: the return of a role's first turn.
            names = [str(role) for role in table.role]
            first = returns[:, 0]
            advantages, moved = RoleAverage().advantages(first, names, dict(averages))
            return returns - (first - advantages)[:, None], moved
        return returns, averages


ALGORITHMS: dict[str, Reinforce] = {
    "reinforce": Reinforce(baseline="batch"),
    "rloo": Reinforce(baseline="leave_one_out"),
    "grpo": Reinforce(baseline="group_mean", scale="group", clip=0.2),
    "dr_grpo": Reinforce(baseline="group_mean", clip=0.2),
    "reinforce++": Reinforce(baseline="group_mean", scale="batch", clip=0.2),
}


def algorithm(name: str) -> Reinforce:
    """Return the algorithm of that name.  Raises UserError for an unknown one."""
    if name not in ALGORITHMS:
        raise UserError(f"learner.algorithm={name}: there is no such algorithm; choose from {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
