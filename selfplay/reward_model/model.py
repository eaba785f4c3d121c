"""A reward model as it is used: dialogs in, what its members say of them out.

Legend: M members, P pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

import numpy as np
import torch

from selfplay.reward_model.dialogs import Dialog, Judged
from selfplay.reward_model.examples import Example
from selfplay.reward_model.judged_pairs import JudgedPair, pairs_of
from selfplay.reward_model.normaliser import Normaliser, Numbers
from selfplay.reward_model.scorer import Scorer, value_of
from selfplay.reward_model.settings import FitSettings, Scope

__all__ = ["ModelInfo", "RewardModel", "Verdict", "accuracy_of", "in_passes", "share_right"]

SIZE_PER_PASS = 4096  # tokens of a language model, messages of sentence vectors, that are read at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reward model says of a turn or a dialog, in deviations from the reference's mean.

    The reference has mean 0 and deviation 1 over turns, or over dialogs for a model that reads conversations.
    """

    mean: float  # of the members
    std: float  # of the members, around their mean; one member has none: 0
    members: tuple[float, ...]  # [M]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a reward model says of itself."""

    name: str = ""  # of its folder; "": it was not saved yet
    settings: FitSettings  # what it was trained with, automatic ones filled in
    scope: Scope
    judged: Judged  # what most of its training examples judge
    num_members: int
    num_train: int  # examples, after max_examples
    num_held_out: int
    sources: Mapping[str, int] = field(default_factory=dict)  # who or what said it -> training examples
    accuracy: float | None = None  # of all members together on clear held-out pairs; None: there are none
    validation_accuracies: tuple[float | None, ...] = ()  # of each member, on what decided when it stops
    tokenizer_hash: str = ""  # of a language model
    reference: str = ""  # the dialogs that set mean 0 and deviation 1, in words
    created: str = ""  # UTC

    @property
    def backbone(self) -> str:
        """What reads the dialogs: minilm, words, or a language model's name."""
        return self.settings.backbone


class RewardModel:
    """Members that were trained alike, on one scale.

    Each member's numbers are normalised before they are averaged, and the average once more, on the same reference.
    """

    def __init__(
        self,
        *,
        info: ModelInfo,
        members: Sequence[Scorer],
        normalisers: Sequence[Normaliser],
        mixture: Normaliser,
        twin: RewardModel | None = None,
        held_out: Sequence[Example] = (),
    ) -> None:
        self.info = info
        self.members = list(members)  # [M]
        self.normalisers = list(normalisers)  # [M]
        self.mixture = mixture  # of the members' mean
        self.twin = twin  # trained on the other half of the labels
        self.held_out = list(held_out)  # examples that it was not trained on
        self.trained_on: Collection[str] | None = None  # digests of the dialogs it was trained on; None: not known

    @property
    def num_truncated(self) -> int:
        """How many dialogs had to lose old messages to fit, of those read so far."""
        return max(member.num_truncated for member in self.members)

    def turn_values(self, dialogs: Sequence[Dialog]) -> list[list[Verdict]]:
        """Return a verdict for each focus message; NaN for old ones that were cut off.

        Raises ValueError for a model that reads whole conversations.
        """
        if self.info.scope != "turn":
            raise ValueError("this reward model gives one number to a conversation, and none to its turns")
        found = {dialog: self._verdicts(numbers) for dialog, numbers in self._read(dialogs)}
        missing = Verdict(mean=np.nan, std=np.nan, members=(np.nan,) * len(self.members))
        return [[missing] * (len(dialog.focus_places) - len(found[dialog])) + found[dialog] for dialog in dialogs]

    def values(self, dialogs: Sequence[Dialog], *, judged: Judged = "conversation") -> list[Verdict]:
        """Return a verdict for each dialog: of its last focus message, or of the whole conversation."""
        return self._verdicts(self.raw_values(dialogs, judged=judged))

    def raw_values(self, dialogs: Sequence[Dialog], *, judged: Judged = "conversation") -> Numbers:
        """Return what each member says of each dialog [dialogs, M], as it was trained: differences are log-odds."""
        found = {dialog: _value_of(numbers, judged) for dialog, numbers in self._read(dialogs)}
        return np.stack([found[dialog] for dialog in dialogs]) if dialogs else np.empty((0, len(self.members)))

    def raw_numbers(self, dialogs: Sequence[Dialog]) -> Numbers:
        """Return each member's raw numbers of all focus messages that fit, or of whole dialogs by scope [n, M]."""
        found = dict(self._read(dialogs))
        return np.concatenate([found[dialog] for dialog in dialogs]) if dialogs else np.empty((0, len(self.members)))

    def probabilities(self, examples: Sequence[Example]) -> Numbers:
        """Return how likely each member finds it that a pair's first dialog is preferred [P, M].

        Raises ValueError for what is no pair.
        """
        if any(example.kind != "pair" for example in examples):
            raise ValueError("only pairs have a first and a second; expand rankings first")
        difference = np.empty((len(examples), len(self.members)))
        for judged in get_args(Judged):
            own = [number for number, example in enumerate(examples) if example.judged == judged]
            first, second = (
                self.raw_values([examples[number].dialogs[side] for number in own], judged=judged) for side in (0, 1)
            )
            difference[own] = first - second
        return cast(Numbers, np.exp(-np.logaddexp(0.0, -difference)))

    def _read(self, dialogs: Sequence[Dialog]) -> Iterator[tuple[Dialog, Numbers]]:
        """Yield each distinct dialog and its members' raw numbers [n, M]."""
        for part in in_passes(list(dict.fromkeys(dialogs)), self.members[0], limit=SIZE_PER_PASS):
            with torch.inference_mode():
                numbers = [member.read(part) for member in self.members]
            for dialog, *own in zip(part, *numbers, strict=True):
                yield dialog, np.stack([each.double().cpu().numpy() for each in own], axis=1)

    def _verdicts(self, raw: Numbers) -> list[Verdict]:
        """Return the verdicts of raw numbers [n, M]."""
        own = np.stack([norm.apply(raw[:, k]) for k, norm in enumerate(self.normalisers)], axis=1)
        members = self.mixture.apply(own)  # so that their mean is the verdict's
        return [Verdict(mean=float(row.mean()), std=float(row.std()), members=tuple(row.tolist())) for row in members]


def _value_of(numbers: Numbers, judged: Judged) -> Numbers:
    return np.array([float(value_of(torch.from_numpy(own), judged)) for own in numbers.T])


def accuracy_of(model: RewardModel, examples: Sequence[Example]) -> float | None:
    """Return in how many of the examples' clear pairs the preferred dialog has the greater value.

    Equal values count half.  None: there is no clear pair.
    """
    pairs = [pair for pair in pairs_of(examples) if pair.is_clear]
    values: dict[tuple[Judged, Dialog], float] = {}
    for judged in get_args(Judged):
        own = [dialog for pair in pairs if pair.judged == judged for dialog in (pair.first, pair.second)]
        dialogs = list(dict.fromkeys(own))
        verdicts = model.values(dialogs, judged=judged)
        values |= {(judged, dialog): verdict.mean for dialog, verdict in zip(dialogs, verdicts, strict=True)}
    return share_right(pairs, values)


def share_right(pairs: Sequence[JudgedPair], values: Mapping[tuple[Judged, Dialog], float]) -> float | None:
    """Return the accuracy of the values of dialogs, as they are judged, on clear pairs; see `accuracy_of`."""
    if not pairs:
        return None
    difference = np.array([values[pair.judged, pair.first] - values[pair.judged, pair.second] for pair in pairs])
    wanted = np.array([1.0 if pair.target > 0.5 else -1.0 for pair in pairs])
    return float(np.mean(0.5 + 0.5 * wanted * np.sign(difference)))


def in_passes(dialogs: Sequence[Dialog], scorer: Scorer, *, limit: int) -> Iterator[list[Dialog]]:
    """Yield the dialogs, in order, in lists that cost at most a limit each; one that costs more is by itself."""
    part: list[Dialog] = []
    total = 0
    for dialog in dialogs:
        size = scorer.size(dialog)
        if part and total + size > limit:
            yield part
            part, total = [], 0
        part.append(dialog)
        total += size
    if part:
        yield part
