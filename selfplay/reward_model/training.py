"""One member of a reward model learns from examples, and stops when those set aside no longer gain from it.

Legend: B dialogs, n focus messages of a dialog.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfplay.learn.preference import best_of_loss, clamp_target, pair_loss, ranking_loss, rating_loss
from selfplay.learn.schedule import Schedule
from selfplay.reward_model.dialogs import Dialog, Judged
from selfplay.reward_model.examples import Example
from selfplay.reward_model.judged_pairs import pairs_of
from selfplay.reward_model.model import SIZE_PER_PASS, share_right
from selfplay.reward_model.scorer import Scorer
from selfplay.reward_model.settings import FitSettings

__all__ = ["Progress", "Task", "train_member"]

STEPS_PER_REPORT = 20
WARMUP_SHARE = 0.05  # of all steps
MOST_WARMUP = 100
GRADIENT_NORM = 1.0  # longer gradients are scaled down to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the training of one member is."""

    member: int
    epoch: int  # from 0
    step: int  # updates made
    num_steps: int  # at most, of this member
    train_loss: float  # mean over the examples since the last report, in nats
    validation_loss: float | None  # at the last evaluation; None: there was none
    validation_accuracy: float | None  # of clear pairs; None: there are none
    is_twin: bool = False  # of the model on the other half of the labels
    ending: str = ""  # why it is over and which state is kept, in words; "": it goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a member is trained on, and how."""

    train: Sequence[Example]
    validation: Sequence[Example]  # decides when to stop and which state is kept
    settings: FitSettings  # automatic ones filled in
    evaluations_per_epoch: int
    starts_trained: bool  # what it starts from may be the best there is
    on_progress: Callable[[Progress], None]
    is_twin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """How the member did on the validation examples."""

    loss: float
    accuracy: float | None
    step: int  # after which it stood so

    def is_better_than(self, other: _Standing | None) -> bool:
        return other is None or (self.accuracy or 0.0, -self.loss) > (other.accuracy or 0.0, -other.loss)


def train_member(scorer: Scorer, number: int, task: Task, rng: np.random.Generator) -> float | None:
    """Train a member, leave it in its best state, and return that state's accuracy on the validation examples.

    The best state has the greatest accuracy, of equal ones the least loss.  Without validation examples it is the last.
    """
    training = _Training(scorer, number, task, rng)
    training.run()
    return training.finish()


class _Training:
    def __init__(self, scorer: Scorer, number: int, task: Task, rng: np.random.Generator) -> None:
        settings = task.settings
        self._scorer, self._number, self._task, self._rng = scorer, number, task, rng
        self._steps_per_epoch = -(-len(task.train) // settings.batch_size)
        num_steps = settings.epochs * self._steps_per_epoch
        warmup = min(MOST_WARMUP, math.ceil(WARMUP_SHARE * num_steps))
        self._schedule = Schedule(shape="linear", warmup_updates=warmup, num_updates=num_steps)
        self._optimizer = torch.optim.AdamW(
            scorer.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._num_steps, self._step = num_steps, 0
        self._pairs = [pair for pair in pairs_of(task.validation) if pair.is_clear]
        self._losses: list[float] = []  # since the last report
        self._best: _Standing | None = None
        self._best_state: Mapping[str, Tensor] = {}
        self._newest: _Standing | None = None
        self._least_loss, self._num_worse = math.inf, 0

    def run(self) -> None:
        if self._task.starts_trained:
            self._evaluate()
        places = self._evaluated_steps()
        for epoch in range(self._task.settings.epochs):
            for place, batch in enumerate(self._batches(), start=1):
                self._update(batch)
                is_evaluated = place in places and self._evaluate()
                ending = self._ending()
                if is_evaluated or ending or self._step % STEPS_PER_REPORT == 0:
                    self._report(epoch, ending)
                if ending:
                    return

    def finish(self) -> float | None:
        if self._best is None:
            return None
        self._scorer.load(self._best_state)
        return self._best.accuracy

    def _batches(self) -> Iterator[list[Example]]:
        order = self._rng.permutation(len(self._task.train)).tolist()
        size = self._task.settings.batch_size
        for start in range(0, len(order), size):
            yield [self._task.train[number] for number in order[start : start + size]]

    def _evaluated_steps(self) -> set[int]:
        num = self._task.evaluations_per_epoch
        return {math.ceil(self._steps_per_epoch * part / num) for part in range(1, num + 1)}

    def _update(self, batch: Sequence[Example]) -> None:
        settings = self._task.settings
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * self._schedule.share(self._step)
        total = 0.0
        for part in _parts(batch, self._scorer, limit=settings.tokens_per_microbatch):
            loss = loss_of(part, _values(self._scorer, part), settings) / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self._scorer.parameters(), GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._losses.append(total)
        self._step += 1

    def _evaluate(self) -> bool:
        """Try the member on the validation examples; whether there are any."""
        validation = self._task.validation
        if not validation:
            return False
        total = 0.0
        values: dict[tuple[Judged, Dialog], float] = {}
        with torch.no_grad():
            for part in _parts(validation, self._scorer, limit=SIZE_PER_PASS):
                own = _values(self._scorer, part)
                total += float(loss_of(part, own, self._task.settings))
                for example, numbers in zip(part, own, strict=True):
                    values |= zip(((example.judged, each) for each in example.dialogs), numbers.tolist(), strict=True)
        loss = total / len(validation)
        self._num_worse = 0 if loss < self._least_loss else self._num_worse + 1
        self._least_loss = min(loss, self._least_loss)
        self._newest = _Standing(loss=loss, accuracy=share_right(self._pairs, values), step=self._step)
        if self._newest.is_better_than(self._best):
            self._best, self._best_state = self._newest, self._scorer.state()
        return True

    def _ending(self) -> str:
        """Return why training is over, and which state is kept; "": it is not."""
        patience, epochs = self._task.settings.patience, self._task.settings.epochs
        if self._num_worse >= patience:
            why = f"stopped: no better for {patience} evaluation{'s' * (patience > 1)}"
        elif self._step == self._num_steps:
            why = f"all {epochs} epochs" if epochs > 1 else "one epoch"
        else:
            return ""
        if self._best is None:
            return f"{why}; kept the last state"
        epoch = math.ceil(self._best.step / self._steps_per_epoch)
        return f"{why}; kept {f'epoch {epoch}' if epoch else 'what it started from'}"

    def _report(self, epoch: int, ending: str) -> None:
        newest = self._newest
        self._task.on_progress(
            Progress(
                member=self._number,
                epoch=epoch,
                step=self._step,
                num_steps=self._num_steps,
                train_loss=float(np.mean(self._losses)),
                validation_loss=None if newest is None else newest.loss,
                validation_accuracy=None if newest is None else newest.accuracy,
                is_twin=self._task.is_twin,
                ending=ending,
            )
        )
        self._losses.clear()


def _parts(examples: Sequence[Example], scorer: Scorer, *, limit: int) -> Iterator[list[Example]]:
    """Yield examples in lists whose distinct dialogs cost at most a limit; one that costs more is by itself."""
    part: list[Example] = []
    known: set[Dialog] = set()
    total = 0
    for example in examples:
        size = sum(scorer.size(dialog) for dialog in set(example.dialogs) - known)
        if part and total + size > limit:
            yield part
            part, known, total = [], set(), 0
            size = sum(scorer.size(dialog) for dialog in set(example.dialogs))
        part.append(example)
        known.update(example.dialogs)
        total += size
    yield part


def _values(scorer: Scorer, examples: Sequence[Example]) -> list[Tensor]:
    """Return the values of each example's dialogs; each distinct dialog is read once."""
    dialogs = list(dict.fromkeys(dialog for example in examples for dialog in example.dialogs))
    rows = {dialog: row for row, dialog in enumerate(dialogs)}
    numbers = scorer.read(dialogs)
    by_judged = {judged: values_of(numbers, judged) for judged in {example.judged for example in examples}}
    return [by_judged[each.judged][[rows[dialog] for dialog in each.dialogs]] for each in examples]


def values_of(numbers: Sequence[Tensor], judged: Judged) -> Tensor:
    """Return what the numbers of dialogs come to [B]: `scorer.value_of` of each, in few operations."""
    flat = torch.cat(list(numbers))
    lengths = torch.tensor([len(each) for each in numbers], device=flat.device)
    if judged == "turn":
        return flat[lengths.cumsum(0) - 1]
    rows = torch.repeat_interleave(torch.arange(len(numbers), device=flat.device), lengths)
    return flat.new_zeros(len(numbers)).index_add(0, rows, flat) / lengths


def loss_of(examples: Sequence[Example], values: Sequence[Tensor], settings: FitSettings) -> Tensor:
    """Return the sum of the examples' losses, in nats but for ratings; values: those of each example's dialogs."""
    pairs = [number for number, example in enumerate(examples) if example.kind == "pair"]
    ratings = [number for number, example in enumerate(examples) if example.kind == "rating"]
    losses = [_loss_of_many(example, own, settings) for example, own in zip(examples, values, strict=True)
              if example.kind in ("ranking", "best")]  # fmt: skip
    if pairs:
        both = torch.stack([values[number] for number in pairs])
        target = clamp_target(both.new_tensor([examples[number].targets[0] for number in pairs]), settings.clamp)
        losses.append(pair_loss(both[:, 0] - both[:, 1], target, noise=settings.noise).sum())
    if ratings:
        own = torch.cat([values[number] for number in ratings])
        losses.append(rating_loss(own, own.new_tensor([examples[number].targets[0] for number in ratings])).sum())
    return torch.stack(losses).sum()


def _loss_of_many(example: Example, values: Tensor, settings: FitSettings) -> Tensor:
    if example.kind == "best":
        return best_of_loss(values, int(example.targets[0]))
    if not settings.ties:
        ranks = values.new_tensor(example.targets)
        better, worse = (ranks[:, None] < ranks).nonzero(as_tuple=True)
        difference = values[better] - values[worse]
        target = clamp_target(torch.ones_like(difference), settings.clamp)
        return pair_loss(difference, target, noise=settings.noise).mean()
    ranks = values.new_tensor(example.targets)
    # A pair's loss is linear in its target, so a clamped one is a mixture of the ranking and the one turned round.
    loss, turned = (ranking_loss(values, own, noise=settings.noise) for own in (ranks, -ranks))
    return settings.clamp * loss + (1 - settings.clamp) * turned
