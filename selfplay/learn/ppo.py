"""Proximal policy optimisation with a learned value, under KL control.

Legend: B trajectories, T tokens, S rows of the table of steps, K own steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from selfplay.experience import Batch
from selfplay.interfaces import Loss, Need, Outputs
from selfplay.learn.advantages import divide_by_deviation, gae, standardise
from selfplay.learn.objective import KLControlled
from selfplay.learn.policy_gradient import clipped_value_loss
from selfplay.learn.turns import TurnTable

Over = Literal["turns", "tokens"]
Scale = Literal["none", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PPO(KLControlled):
    """The clipped surrogate on generalised advantage estimates over a role's own turns, or its own tokens.

    What the partner says between two steps is no step: the value after a step is that of the state before the role's
    next one.  After the last step it is 0 where the conversation ended, and the value of the state where a limit of the
    engine cut it.  A turn's advantage and return are those of all its tokens.  With steps of tokens the discount
    applies between turns all the same.

    Source: Schulman et al. 2017, arXiv:1707.06347; constants and scaling as in Ziegler et al. 2019, arXiv:1909.08593.
    """

    gae_lambda: float = 0.95
    gae_over: Over = "turns"
    value_coefficient: float = 0.5
    value_clip: float = 0.2  # how far a value may move from what it was before the update, in reward units
    scale: Scale = "batch"  # what advantages are standardised over
    reward_scale: Scale = "none"  # batch: rewards are divided by their deviation, so that values learn one scale

    @property
    def needs(self) -> frozenset[Need]:
        """What `KLControlled` needs, and values."""
        return self.control_needs() | {"value"}

    def initial_state(self) -> Mapping[str, Any]:
        """Return the KL coefficient."""
        return {"kl_coefficient": self.kl.coefficient}

    def prepare(self, batch: Batch, state: Mapping[str, Any]) -> tuple[Batch, Mapping[str, Any]]:
        """Return the batch with advantages and the returns that values learn, and the state after it.

        The divergence in the reward is subtracted from its step; the controller moves once, after the batch.
        """
        if batch.values is None or batch.last_values is None:
            raise ValueError("PPO needs batch.values and batch.last_values: what states are worth before the update")
        coefficient = float(state["kl_coefficient"])
        divergence = self.sampled_divergence(batch)
        table = TurnTable.of(batch) if self.gae_over == "turns" else TurnTable.of_tokens(batch)
        rewards = table.gather(batch.rewards)
        if self.kl_place == "reward":
            rewards = rewards - coefficient * table.gather(divergence)
        if self.reward_scale == "batch":
            rewards = divide_by_deviation(rewards, table.exists)
        values = table.first(batch.values)
        advantages = gae(
            rewards,
            values,
            table.exists,
            gamma=self._discount(batch, table),
            lam=self.gae_lambda,
            bootstrap=(batch.last_values * batch.truncated)[table.trajectory],
        )
        scaled = standardise(advantages, table.exists) if self.scale == "batch" else advantages
        prepared = replace(
            batch,
            advantages=table.spread(scaled),
            returns=table.spread(advantages + values),
            kl_coefficient=self.coefficient_in_loss(coefficient),
        )
        return prepared, {"kl_coefficient": self.moved_coefficient(coefficient, divergence, batch)}

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Return the loss of a micro-batch; the parts of a split batch add up to the whole's."""
        assert outputs.values is not None
        assert batch.values is not None
        assert batch.returns is not None
        policy = self.policy_loss(outputs, batch)
        value = clipped_value_loss(
            outputs.values, batch.values, batch.returns, batch.acted, clip=self.value_clip, num_acted=batch.num_acted
        )
        return Loss(
            value=policy.value + self.value_coefficient * value,
            metrics={**policy.metrics, "loss/value": float(value.detach())},
        )

    def _discount(self, batch: Batch, table: TurnTable) -> Tensor:
        """Return the discount between each step and the next [S, K]: it counts turns, whatever the steps are."""
        turns = table.first(batch.turn)
        discount = torch.full(turns.shape, self.gamma)
        is_same = (turns[:, 1:] == turns[:, :-1]) & table.exists[:, 1:]
        discount[:, :-1][is_same] = 1.0
        return discount
