"""Owns the model that learns, its learner and its tokenizer; knows nothing of where it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay import models
from selfplay.cluster.model_files import ModelFiles
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.experience import Trajectory, trace
from selfplay.interfaces import Likelihood, Update, Weights
from selfplay.score import WeightedReward
from selfplay.train_settings import TrainSettings

if TYPE_CHECKING:
    from selfplay.learn.learner import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerms:
    """What a learner has to know of the rewards: numbers, not the rewards themselves."""

    weights: Mapping[str, float]  # name -> weight
    ranges: Mapping[str, tuple[float, float]]  # name -> what its numbers are clipped to

    @classmethod
    def of(cls, rewards: Sequence[WeightedReward]) -> RewardTerms:
        """Return the terms of rewards."""
        return cls(weights={one.name: one.weight for one in rewards}, ranges={one.name: one.range for one in rewards})


class LearnerHost:
    """Makes a learner from settings and a model, and feeds it scored conversations."""

    def __init__(
        self, settings: TrainSettings, model: ModelFiles, rewards: RewardTerms, *, threads: int, run: Path
    ) -> None:
        """Load the model and build the learner.

        run: the run's folder; a model without a folder is saved there once, so that its adapters can name it.
        """
        from selfplay.learn.build import build_learner

        models.use_threads(threads)
        loaded = model.load(device=settings.engine.device, dtype="float32", merged=False)
        if settings.learner.method == "lora" and loaded.folder is None and run.is_dir():
            loaded = replace(loaded, folder=models.prepare_base(model.name, run))
        self._tokenizer = loaded.tokenizer
        self._rewards = rewards
        self.learner: Learner = build_learner(loaded, settings)

    def learn(self, scored: Sequence[ScoredConversation]) -> Update:
        """Make one update from scored conversations."""
        terms = self._rewards
        rows = [row for one in scored for row in trace(one, weights=terms.weights, ranges=terms.ranges)]
        with _warnings() as said:
            update = self.learner.step(rows)
        return replace(update, warnings=tuple(said))

    def measure(self, conversations: Sequence[Conversation]) -> list[Likelihood]:
        """Return what the frozen reference says of what the trained roles said."""
        rows: list[Trajectory] = [row for conversation in conversations for row in trace(unscored(conversation))]
        return self.learner.measure(rows)

    def weights(self) -> Weights:
        """Return the current version's parameters; they are the learner's own: who keeps them copies them."""
        return self.learner.weights()

    def save(self, folder: Path) -> None:
        """Write the policy, the tokenizer and the learner's state into an existing folder."""
        self.learner.save(folder)
        self._tokenizer.save_pretrained(folder)

    def save_policy(self, folder: Path) -> None:
        """Write the policy and the tokenizer, without the learner's state, into an existing folder."""
        self.learner.save_policy(folder)
        self._tokenizer.save_pretrained(folder)

    def restore(self, folder: Path) -> int:
        """Go on from a folder that `save` wrote; return its version."""
        self.learner.restore(folder)
        return self.learner.version


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what is warned of meanwhile: on another machine nobody reads the log."""
    said: list[str] = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]  # the shortest way
    ours = logging.getLogger("selfplay")
    ours.addHandler(handler)
    try:
        yield said
    finally:
        ours.removeHandler(handler)


def unscored(conversation: Conversation) -> ScoredConversation:
    """Return a conversation with rewards of 0."""
    import numpy as np

    return ScoredConversation(conversation=conversation, rewards=np.zeros(conversation.num_turns, dtype=np.float32))
