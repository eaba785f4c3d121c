"""One update of a policy from trajectories: score, prepare, accumulate gradients, step.

The learner owns the policy, its frozen reference, the optimizer and the algorithm's state; the mathematics is the
algorithm's.
Legend: B trajectories, T tokens, N acted tokens, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfplay.errors import UserError
from selfplay.experience import Batch, Trajectory, map_tensors, pad, padded_rows, rows_of
from selfplay.interfaces import Algorithm, Likelihood, Outputs, Update, Weights
from selfplay.learn import training_file
from selfplay.learn.critic import Critic
from selfplay.learn.likelihood import likelihoods
from selfplay.learn.model import acted_states, score_states
from selfplay.learn.packing import is_packed, packed_rows
from selfplay.learn.policy import Policy, fitting
from selfplay.learn.policy_gradient import importance_ratio
from selfplay.learn.report import FirstPass, Tally, divergence_metrics, notes, token_numbers
from selfplay.learn.schedule import Schedule
from selfplay.learn.vocabulary import Reference

logger = logging.getLogger(__name__)

# The policy that sampled and the policy that learns are the same at the first minibatch; more than this is a defect,
# where both compute in float32.
SAMPLER_TOLERANCE_NATS = 1e-3
HALF_TOLERANCE_NATS = 0.5  # where the sampler computes in half precision

Rows = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """How an update is made."""

    algorithm: str = ""  # the algorithm's name, for checkpoints
    learning_rate: float = 1e-4
    schedule: Schedule = Schedule()  # noqa: RUF009 (frozen)
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0  # of all parameters together
    temperature: float = 1.0  # the one that conversations are sampled at
    epochs: int = 1  # passes over a batch
    minibatches: int = 1  # optimizer steps a pass
    tokens_per_microbatch: int = 2048  # whose activations exist at once: of a flat row, or with padding
    sampler_tolerance_nats: float = SAMPLER_TOLERANCE_NATS  # how far the sampler's log-probabilities may be off


class Learner:
    """Trains one policy; every call of `step` makes the next version."""

    def __init__(
        self, policy: Policy, algorithm: Algorithm, settings: LearnerSettings, *, critic: Critic | None = None
    ) -> None:
        """Take over the policy, and the critic if the algorithm needs values.

        Raises UserError if nothing would be trained.
        """
        self.version = 0
        self.state: Mapping[str, Any] = algorithm.initial_state()
        self._policy = policy
        self._algorithm = algorithm
        self._settings = settings
        self._critic = critic
        parameters, values = policy.parameters(), list(critic.named_parameters().values()) if critic else []
        self._parameters = [*parameters, *values]
        # A critic with a model of its own does not take part in the policy's clipping.
        self._clipped = [parameters, values] if critic and critic.is_separate else [self._parameters]
        if not parameters:
            raise UserError("no parameter of the policy requires a gradient, so nothing would be trained")
        # Dropout would make the first ratio differ from 1, and the published runs train without it.
        policy.model.eval()
        groups = [{"params": group} for group in (parameters, values) if group]
        self._optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def step(self, trajectories: Sequence[Trajectory]) -> Update:
        """Make one update and return what it did; without acted tokens the policy stays as it is.

        Trajectories of an older version are reweighted, or bounded, as the algorithm says.
        Raises UserError if the gradient is not finite; the version stays.
        """
        kept = [trajectory for trajectory in trajectories if trajectory.acted.any()]
        if not kept:
            self.version += 1
            logger.warning("version %d: no token of a trained player, nothing was learned", self.version)
            return Update(version=self.version, metrics={"learn/acted_tokens": 0.0})
        minibatches = self._split(kept)
        batch = pad(kept)
        batch, states = self._score_reference(replace(batch, stale=batch.version < self.version), minibatches)
        if self._critic is not None:
            batch = self._score_values(self._critic, batch, minibatches)
        prepared, state = self._algorithm.prepare(batch, self.state)
        tally, first = Tally(), FirstPass.of(prepared)
        self._set_learning_rate(tally)
        for epoch in range(self._settings.epochs):
            for number, minibatch in enumerate(minibatches):
                moved = replace(prepared, has_moved=epoch + number > 0)
                self._optimize(moved, minibatch, states, tally, first)
        metrics = {**self._metrics(prepared, tally), **divergence_metrics(prepared, kept)}
        metrics["learn/tokens"] = float(sum(trajectory.num_tokens for trajectory in kept))
        metrics["kl/coefficient"] = float(self.state.get("kl_coefficient", 0.0))
        self.version, self.state = self.version + 1, state
        return Update(
            version=self.version,
            metrics=metrics,
            notes=notes(prepared, kept),
            tokens=token_numbers(prepared, kept, first),
        )

    def measure(self, trajectories: Sequence[Trajectory]) -> list[Likelihood]:
        """Return what the reference says of each conversation, summed over its trajectories; nothing is learned."""
        with self._policy.reference() as model:
            return likelihoods(
                model,
                trajectories,
                temperature=self._settings.temperature,
                tokens_per_microbatch=self._settings.tokens_per_microbatch,
            )

    def weights(self) -> Weights:
        """Return the current version's parameters; they are the learner's own: who keeps them copies them."""
        return self._policy.weights(self.version)

    def save(self, folder: Path) -> None:
        """Write the policy's Hugging Face files, and what going on needs, into an existing folder."""
        self.save_policy(folder)
        training_file.write(folder, self._contents())

    def save_policy(self, folder: Path) -> None:
        """Write the policy's Hugging Face files alone into an existing folder."""
        self._policy.save(folder)

    def restore(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote, to the bit.

        Raises UserError, and changes nothing, if it was written by another algorithm, for another model, or in part.
        """
        contents = training_file.read(folder, like=self._contents(), parameters=self._parameters)
        critic = {} if self._critic is None else self._critic.named_parameters()
        values = fitting(contents["critic"], critic, folder)
        self._policy.load(self._policy.read(folder, contents["reference"]))
        with torch.no_grad():
            for name, parameter in critic.items():
                parameter.copy_(values[name])
        self._optimizer.load_state_dict(contents["optimizer"])
        self.version, self.state = contents["version"], contents["state"]

    def _contents(self) -> training_file.Contents:
        return {
            "schema": training_file.SCHEMA,
            "algorithm": self._settings.algorithm,
            "method": self._policy.method,
            "version": self.version,
            "state": dict(self.state),
            "optimizer": self._optimizer.state_dict(),
            "reference": dict(self._policy.state()),
            "critic": {
                name: parameter.detach()
                for name, parameter in (self._critic.named_parameters().items() if self._critic else ())
            },
        }

    def _split(self, trajectories: Sequence[Trajectory]) -> list[list[Rows]]:
        split = packed_rows if is_packed(self._policy.model) else padded_rows
        return split(
            trajectories,
            num_minibatches=self._settings.minibatches,
            max_tokens=self._settings.tokens_per_microbatch,
        )

    def _set_learning_rate(self, tally: Tally) -> None:
        rate = self._settings.learning_rate * self._settings.schedule.share(self.version)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        tally.raise_to("learn/learning_rate", rate)

    def _optimize(
        self,
        batch: Batch,
        minibatch: Sequence[Rows],
        states: Mapping[int, Tensor],
        tally: Tally,
        first: FirstPass,
    ) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        acted = sum(int(batch.acted[rows].sum()) for rows in minibatch)
        for rows in minibatch:
            part = self._part(replace(batch, num_acted=acted), rows)
            outputs = self._outputs(part, states.get(rows[0]))
            loss = self._algorithm.loss(outputs, part)
            loss.value.backward()  # type: ignore[no-untyped-call]  # torch has not typed it
            for name, value in loss.metrics.items():
                tally.add(name, value)
            self._tally_sampler(part, outputs, tally)
            first.meet(rows, outputs, has_moved=batch.has_moved)
        for name, parameters in zip(("learn/gradient_norm", "learn/value_gradient_norm"), self._clipped, strict=False):
            norm = torch.nn.utils.clip_grad_norm_(parameters, self._settings.max_gradient_norm)
            tally.raise_to(name, float(norm))
            if not bool(norm.isfinite()):
                raise UserError(
                    f"version {self.version + 1}: the gradient is not finite; lower "
                    f"learner.learning_rate={self._settings.learning_rate}"
                )
        self._optimizer.step()
        # Gradients as large as the model would only wait while the next conversations are played.
        self._optimizer.zero_grad(set_to_none=True)
        tally.add("steps", 1.0)

    def _part(self, batch: Batch, rows: Rows) -> Batch:
        device = self._policy.model.device
        return map_tensors(rows_of(batch, rows, trimmed=True), lambda tensor: tensor.to(device))

    def _outputs(self, part: Batch, reference_states: Tensor | None) -> Outputs:
        model = self._policy.model
        states = acted_states(model, part.tokens, part.acted, exists=part.exists)
        reference = (
            None
            if reference_states is None
            else Reference(model=self._policy.reference_head(), hidden=reference_states)
        )
        scores = score_states(model, states, temperature=self._settings.temperature, reference=reference)
        values = None if self._critic is None else self._critic.values(part, model, states).before
        return Outputs(logprobs=scores.logprobs, entropy=scores.entropy, divergence=scores.divergence, values=values)

    @torch.no_grad()
    def _score_reference(self, batch: Batch, minibatches: Sequence[Sequence[Rows]]) -> tuple[Batch, dict[int, Tensor]]:
        """Return the batch with the reference's log-probabilities, and its hidden states [N, H] by first row.

        The states are kept only if the exact divergence is asked for.
        """
        reference, states = torch.zeros_like(batch.logprobs), {}
        with self._policy.reference() as model:
            for rows in (rows for minibatch in minibatches for rows in minibatch):
                part = self._part(batch, rows)
                found = acted_states(model, part.tokens, part.acted, exists=part.exists)
                scores = score_states(model, found, temperature=self._settings.temperature)
                reference[rows, : part.tokens.shape[1]] = scores.logprobs.cpu()
                if "divergence" in self._algorithm.needs:
                    states[rows[0]] = found.before
        return replace(batch, reference=reference), states

    @torch.no_grad()
    def _score_values(self, critic: Critic, batch: Batch, minibatches: Sequence[Sequence[Rows]]) -> Batch:
        """Return the batch with what its states are worth before the update."""
        before, last = torch.zeros_like(batch.logprobs), torch.zeros(len(batch.tokens))
        for rows in (rows for minibatch in minibatches for rows in minibatch):
            part = self._part(batch, rows)
            values = critic.values(part, self._policy.model)
            before[rows, : part.tokens.shape[1]], last[rows] = values.before.cpu(), values.last.cpu()
        return replace(batch, values=before, last_values=last)

    def _tally_sampler(self, part: Batch, outputs: Outputs, tally: Tally) -> None:
        """Compare the learner's log-probabilities with the sampler's, and note where older versions spoke."""
        logprobs = outputs.logprobs.detach()
        ratio = importance_ratio(logprobs, part.logprobs, part.acted)
        assert part.stale is not None
        older = part.acted & part.stale[:, None]
        tally.add("entropy", float((outputs.entropy.detach() * part.acted).sum()))
        tally.raise_to("learn/ratio_max", float(ratio.max()))
        tally.lower_to("learn/ratio_min", float(ratio.min()))
        if part.has_moved:
            return
        # Only what this version sampled must agree.
        gap = (logprobs - part.logprobs).abs() * (part.acted & ~older)
        tally.raise_to("learn/sampler_gap_nats", float(gap.max()))

    def _metrics(self, batch: Batch, tally: Tally) -> dict[str, float]:
        sums, steps = dict(tally.sums), tally.sums["steps"]
        metrics = {**tally.largest, **tally.smallest}
        metrics["entropy/per_token_nats"] = sums.pop("entropy") / (self._settings.epochs * batch.num_acted)
        assert batch.stale is not None
        metrics["learn/stale_tokens"] = float((batch.acted & batch.stale[:, None]).sum())
        # The parts of a minibatch add up to its mean; these are means over the minibatches.
        metrics |= {name: value / steps for name, value in sums.items() if name != "steps"}
        metrics["learn/acted_tokens"] = float(batch.num_acted)
        gap = metrics["learn/sampler_gap_nats"]
        if gap > self._settings.sampler_tolerance_nats:
            logger.warning(
                "version %d: the sampler's log-probabilities are %.2g nats from the learner's; were conversations "
                "sampled at this temperature, without top-k, top-p and min-p?",
                self.version + 1,
                gap,
            )
        return metrics
