"""REINFORCE and its critic-free relatives with turn-level credit, under KL control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from selfplay.experience import Batch
from selfplay.interfaces import Loss, Need, Outputs
from selfplay.learn.advantages import (
    RoleAverage,
    group_mean,
    leave_one_out,
    masked_mean,
    normalised_parts,
    returns_to_go,
    scale_by_group_deviation,
    standardise,
)
from selfplay.learn.objective import KLControlled
from selfplay.learn.turns import TurnTable

Baseline = Literal["none", "batch", "group_mean", "leave_one_out", "role_average"]
Scale = Literal["none", "batch", "group"]
Returns = Literal["sum", "normalised_parts"]  # normalised_parts: VHRL's, each part standardised over the batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce(KLControlled):
    """Score-function policy gradient; a turn's advantage is that of all its tokens."""

    baseline: Baseline = "leave_one_out"
    scale: Scale = "none"
    returns: Returns = "sum"

    @property
    def needs(self) -> frozenset[Need]:
        """What `KLControlled` needs, and the rewards' parts if returns are made of them."""
        parts: frozenset[Need] = frozenset(("parts",) if self.returns == "normalised_parts" else ())
        return self.control_needs() | parts

    def initial_state(self) -> Mapping[str, Any]:
        """Return the KL coefficient and the roles' averages."""
        return {"kl_coefficient": self.kl.coefficient, "role_averages": {}}

    def prepare(self, batch: Batch, state: Mapping[str, Any]) -> tuple[Batch, Mapping[str, Any]]:
        """Return the batch with advantages, and the state after it.

        The divergence in the reward is subtracted from its turn; the controller moves once, after the batch.
        """
        coefficient = float(state["kl_coefficient"])
        divergence = self.sampled_divergence(batch)
        table = TurnTable.of(batch)
        returns = self._returns(batch, table)
        if self.kl_place == "reward":
            returns = returns - coefficient * returns_to_go(table.gather(divergence), gamma=self.gamma) * table.exists
        advantages, averages = self._subtract_baseline(returns, table, state["role_averages"])
        if self.scale == "batch":
            advantages = standardise(advantages, table.exists)
        elif self.scale == "group":
            advantages = scale_by_group_deviation(advantages, table.exists, table.group)
        prepared = replace(
            batch,
            advantages=table.spread(advantages * table.exists),
            kl_coefficient=self.coefficient_in_loss(coefficient),
        )
        moved = self.moved_coefficient(coefficient, divergence, batch)
        return prepared, {"kl_coefficient": moved, "role_averages": averages}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Return the loss of a micro-batch; the parts of a split batch add up to the whole's."""
        return self.policy_loss(outputs, batch)

    def _returns(self, batch: Batch, table: TurnTable) -> Tensor:
        if self.returns == "sum":
            return returns_to_go(table.gather(batch.rewards), gamma=self.gamma) * table.exists
        missing = [name for name, weight in batch.weights.items() if weight and name not in batch.parts]
        if missing or not batch.weights:
            what = f"has no part {missing[0]!r}" if missing else "has no weights"
            raise ValueError(f"returns=normalised_parts: the batch {what}; give `trace` the rewards' weights")
        parts = {name: table.gather(batch.parts[name]) for name, weight in batch.weights.items() if weight}
        return normalised_parts(parts, batch.weights, table.exists, gamma=self.gamma)

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
