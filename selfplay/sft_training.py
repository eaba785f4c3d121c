"""Imitation: cross-entropy on what lessons say, the end of each turn included.

Legend: B streams, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from selfplay.errors import UserError
from selfplay.experience import Trajectory, pad, padded_rows
from selfplay.learn.build import build_policy
from selfplay.learn.model import TokenScores, score_tokens
from selfplay.learn.packing import is_packed, packed_rows
from selfplay.learn.policy import Policy
from selfplay.learn.schedule import Schedule
from selfplay.sft_settings import SftSettings
from selfplay.train_settings import LearnerGroup, TrainSettings

if TYPE_CHECKING:
    from selfplay.models import LoadedModel

__all__ = ["Imitation", "Loss", "Step", "batches", "build_imitation"]

DRAW_ORDER = 3103  # first part of the spawn key


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How unlikely a model finds what was said."""

    nats: float  # summed over tokens
    num_tokens: int  # that were said

    @property
    def per_token(self) -> float:
        """The mean, in nats a token; NaN: nothing was said."""
        return self.nats / self.num_tokens if self.num_tokens else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one update did."""

    loss: Loss  # of its batch, before it
    num_tokens: int  # of its streams, heard ones included
    gradient_norm: float
    learning_rate: float


class Imitation:
    """A policy that learns to say what lessons say."""

    def __init__(self, policy: Policy, settings: SftSettings, *, num_updates: int) -> None:
        """Take over the policy; num_updates: of the whole training, for the schedule."""
        self.policy = policy
        self.version = 0  # updates made
        self._settings = settings
        self._schedule = Schedule(
            shape=settings.schedule, warmup_updates=settings.warmup_steps, num_updates=num_updates
        )
        # Without dropout, as the learner of self-play trains.
        policy.model.eval()
        self._parameters = policy.parameters()
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.rate, weight_decay=settings.weight_decay, fused=True
        )

    def step(self, rows: Sequence[Trajectory]) -> Step:
        """Make one update: the mean over what the batch says, whoever says it.

        Raises UserError if the gradient is not finite; the policy stays as it is.
        """
        num_said = _num_said(rows)
        rate = self._settings.rate * self._schedule.share(self.version)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        nats = 0.0
        for part in self._parts(rows):
            loss = -self._scores(part).logprobs.sum()
            (loss / num_said).backward()  # type: ignore[no-untyped-call]  # torch has not typed it
            nats += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_gradient_norm)
        if not bool(norm.isfinite()):
            raise UserError(f"update {self.version + 1}: the gradient is not finite; lower learning_rate={rate:g}")
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.version += 1
        return Step(
            loss=Loss(nats=nats, num_tokens=num_said),
            num_tokens=sum(row.num_tokens for row in rows),
            gradient_norm=float(norm),
            learning_rate=rate,
        )

    @torch.no_grad()
    def loss(self, rows: Sequence[Trajectory]) -> Loss:
        """Return how unlikely the policy finds what streams say; nothing is learned."""
        nats = [-float(self._scores(part).logprobs.sum()) for part in self._parts(rows)]
        return Loss(nats=math.fsum(nats), num_tokens=_num_said(rows))

    def state(self) -> list[torch.Tensor]:
        """Return a copy of what is trained."""
        return [parameter.detach().clone() for parameter in self._parameters]

    def go_back(self, state: Sequence[torch.Tensor]) -> None:
        """Take over what `state` returned."""
        with torch.no_grad():
            for parameter, tensor in zip(self._parameters, state, strict=True):
                parameter.copy_(tensor)

    def _parts(self, rows: Sequence[Trajectory]) -> Iterator[list[Trajectory]]:
        """Yield micro-batches."""
        if not rows:
            return
        split = packed_rows if is_packed(self.policy.model) else padded_rows
        for part in split(rows, num_minibatches=1, max_tokens=self._settings.tokens_per_microbatch)[0]:
            yield [rows[row] for row in part]

    def _scores(self, rows: Sequence[Trajectory]) -> TokenScores:
        model = self.policy.model
        batch = pad(rows)
        tokens, acted, exists = (part.to(model.device) for part in (batch.tokens, batch.acted, batch.exists))
        return score_tokens(model, tokens, acted, exists=exists)


def build_imitation(loaded: LoadedModel, settings: SftSettings, *, num_updates: int, base_name: str) -> Imitation:
    """Return what trains a loaded model, which it takes over; base_name: where its adapter finds the model without it.

    Raises UserError if the adapter that is asked for does not fit the model.
    """
    learner = LearnerGroup(method=settings.method)
    training = TrainSettings(seed=settings.seed, learner=learner, lora=settings.lora)
    policy = build_policy(loaded, training, base_name=base_name)
    if settings.gradient_checkpointing:
        policy.recompute()
    return Imitation(policy, settings, num_updates=num_updates)


def batches(
    lessons: Sequence[Sequence[Trajectory]], settings: SftSettings, *, epoch: int
) -> Iterator[list[Trajectory]]:
    """Yield the streams of each update of a pass: every lesson once, in an order of the pass's own."""
    sequence = np.random.SeedSequence(settings.seed, spawn_key=(DRAW_ORDER, epoch))
    order = np.random.default_rng(sequence).permutation(len(lessons)).tolist()
    for start in range(0, len(order), settings.batch):
        yield [row for place in order[start : start + settings.batch] for row in lessons[place]]


def _num_said(rows: Sequence[Trajectory]) -> int:
    return int(sum(row.acted.sum() for row in rows))
