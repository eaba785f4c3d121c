"""One update of a policy from trajectories: score, prepare, accumulate gradients, step.

The learner owns the model, its frozen reference, the optimizer and the algorithm's state; the mathematics is the
algorithm's.
Legend: B trajectories, T tokens.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.errors import UserError
from selfplay.experience import Batch, Trajectory, by_length, pad, rows_of
from selfplay.interfaces import Algorithm, Outputs, Update, Weights
from selfplay.learn.advantages import masked_mean
from selfplay.learn.kl import estimate
from selfplay.learn.model import TokenScores, hidden_states, score_tokens

logger = logging.getLogger(__name__)

# The policy that sampled and the policy that learns are the same at the first minibatch; more than this is a defect.
SAMPLER_TOLERANCE_NATS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """How an update is made."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0  # of all parameters together
    temperature: float = 1.0  # the one that conversations are sampled at
    epochs: int = 1  # passes over a batch
    minibatches: int = 1  # optimizer steps a pass
    tokens_per_microbatch: int = 2048  # padded tokens whose activations exist at once
    scores_divergence: bool = False  # whether the loss wants the exact divergence over the vocabulary


class Learner:
    """Trains one policy; every call of `step` makes the next version."""

    def __init__(
        self,
        model: PreTrainedModel,
        algorithm: Algorithm,
        settings: LearnerSettings,
        *,
        reference: PreTrainedModel | None = None,
    ) -> None:
        """Take over the model; its parameters that require a gradient are trained.

        reference: the frozen policy; None: the model as it is now.
        Raises UserError if nothing would be trained.
        """
        self.model = model
        self.version = 0
        self.state = algorithm.initial_state()
        self._reference = reference if reference is not None else copy.deepcopy(model)
        self._reference.requires_grad_(requires_grad=False).eval()
        self._algorithm = algorithm
        self._settings = settings
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise UserError("no parameter of the policy requires a gradient, so nothing would be trained")
        # Dropout would make the first ratio differ from 1, and the published runs train without it.
        model.eval()
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def step(self, trajectories: Sequence[Trajectory]) -> Update:
        """Make one update and return what it did; without acted tokens the policy stays as it is."""
        self.version += 1
        kept = [trajectory for trajectory in trajectories if trajectory.acted.any()]
        if not kept:
            logger.warning("version %d: no token of a trained player, nothing was learned", self.version)
            return Update(version=self.version, metrics={"learn/acted_tokens": 0.0})
        # Long and short trajectories apart, so that little of a micro-batch is padding.
        microbatches = list(by_length(kept, max_tokens=self._settings.tokens_per_microbatch))
        batch = pad([trajectory for rows in microbatches for trajectory in rows])
        rows = _row_numbers(microbatches)
        batch = replace(batch, reference=self._score_reference(batch, rows))
        prepared, self.state = self._algorithm.prepare(batch, self.state)
        sums: dict[str, float] = {}
        for epoch in range(self._settings.epochs):
            for minibatch in _split(rows, self._settings.minibatches):
                self._optimize(prepared, minibatch, sums, is_first=epoch == 0 and minibatch[0] == rows[0])
        return Update(version=self.version, metrics=self._metrics(prepared, sums))

    def weights(self) -> Weights:
        """Return the current version's parameters; they are the learner's own: who keeps them copies them."""
        return Weights(version=self.version, state=self.model.state_dict())

    def _optimize(
        self, batch: Batch, minibatch: Sequence[list[int]], sums: dict[str, float], *, is_first: bool
    ) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        acted = sum(int(batch.acted[rows].sum()) for rows in minibatch)
        for number, rows in enumerate(minibatch):
            part = _trim(replace(rows_of(batch, rows), num_acted=max(acted, 1)))
            scores = self._score(part)
            if is_first and number == 0:
                self._check_sampler(part, scores.logprobs.detach(), sums)
            loss = self._algorithm.loss(
                Outputs(logprobs=scores.logprobs, entropy=scores.entropy, divergence=scores.divergence), part
            )
            loss.value.backward()  # type: ignore[no-untyped-call]  # torch has not typed it
            for name, value in (*loss.metrics.items(), ("entropy/sum", float(scores.entropy.detach().sum()))):
                sums[name] = sums.get(name, 0.0) + value
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_gradient_norm)
        sums["learn/gradient_norm"] = max(sums.get("learn/gradient_norm", 0.0), float(norm))
        if not bool(norm.isfinite()):
            raise UserError(f"version {self.version}: the gradient is not finite; lower learner.learning_rate")
        self._optimizer.step()

    def _score(self, part: Batch) -> TokenScores:
        settings = self._settings
        reference = None
        if settings.scores_divergence:
            with torch.no_grad():
                hidden = hidden_states(self._reference, part.tokens, exists=part.exists)
            reference = (self._reference, hidden)
        return score_tokens(
            self.model,
            part.tokens,
            part.acted,
            exists=part.exists,
            temperature=settings.temperature,
            reference_hidden=reference,
        )

    @torch.no_grad()
    def _score_reference(self, batch: Batch, rows: Sequence[list[int]]) -> Tensor:
        reference = torch.zeros_like(batch.logprobs)
        for numbers in rows:
            part = _trim(rows_of(batch, numbers))
            scores = score_tokens(
                self._reference,
                part.tokens,
                part.acted,
                exists=part.exists,
                temperature=self._settings.temperature,
            )
            reference[numbers, : part.tokens.shape[1]] = scores.logprobs
        return reference

    def _check_sampler(self, part: Batch, logprobs: Tensor, sums: dict[str, float]) -> None:
        """Measure how far the sampler's log-probabilities are from the learner's before anything has moved."""
        difference = ((logprobs - part.logprobs).abs() * part.acted).max()
        sums["learn/sampler_gap_nats"] = float(difference)
        if difference > SAMPLER_TOLERANCE_NATS and bool((part.version == self.version - 1).all()):
            logger.warning(
                "version %d: the sampler's log-probabilities are %.2g nats from the learner's; were conversations "
                "sampled at learner.temperature, without top-k, top-p and min-p?",
                self.version,
                float(difference),
            )

    def _metrics(self, batch: Batch, sums: Mapping[str, float]) -> dict[str, float]:
        assert batch.reference is not None
        passes = self._settings.epochs
        per_token = {"entropy/sum": "entropy/per_token_nats"}
        metrics = {
            per_token.get(name, name): value / (passes * batch.num_acted) if name in per_token else value
            for name, value in sums.items()
        }
        k1 = estimate(batch.logprobs, batch.reference, estimator="k1")
        metrics["kl/per_token_nats"] = float(masked_mean(k1, batch.acted))
        metrics["kl/coefficient"] = float(self.state.get("kl_coefficient", 0.0))
        metrics["learn/acted_tokens"] = float(batch.num_acted)
        return metrics

    def training_state(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the model: plain data and tensors."""
        return {"version": self.version, "state": dict(self.state), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `training_state`; the model's parameters are loaded apart."""
        self.version = int(state["version"])
        self.state = state["state"]
        self._optimizer.load_state_dict(state["optimizer"])


def _row_numbers(microbatches: Sequence[Sequence[Trajectory]]) -> list[list[int]]:
    numbers = iter(range(sum(len(rows) for rows in microbatches)))
    return [[next(numbers) for _ in rows] for rows in microbatches]


def _split(rows: Sequence[list[int]], num: int) -> Iterator[list[list[int]]]:
    """Yield micro-batches in `num` minibatches of about equal size; fewer if there are fewer micro-batches."""
    num = min(num, len(rows))
    for part in range(num):
        yield list(rows[part * len(rows) // num : (part + 1) * len(rows) // num])


def _trim(batch: Batch) -> Batch:
    """Drop columns that are padding in every row."""
    longest = int(batch.exists.sum(dim=1).max())
    columns = {
        name: getattr(batch, name)[:, :longest]
        for name in ("tokens", "exists", "acted", "role_index", "turn", "logprobs", "rewards")
    }
    columns |= {
        name: value[:, :longest]
        for name in ("reference", "values", "advantages")
        if (value := getattr(batch, name)) is not None
    }
    return replace(batch, **columns)
