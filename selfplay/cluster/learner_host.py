"""Owns the model that learns, its learner and its tokenizer; knows nothing of where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay import models
from selfplay.cluster.model_files import ModelFiles
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.experience import Trajectory, trace
from selfplay.interfaces import Likelihood, Update, Weights
from selfplay.train_settings import TrainSettings

if TYPE_CHECKING:
    from selfplay.learn.learner import Learner


class LearnerHost:
    """Makes a learner from settings and a model, and feeds it scored conversations."""

    def __init__(self, settings: TrainSettings, model: ModelFiles, *, threads: int, run: Path) -> None:
        """Load the model and build the learner.

        run: the run's folder; a model without a folder is saved there once, so that its adapters can name it.
        """
        from selfplay.learn.build import build_learner

        models.use_threads(threads)
        loaded = model.load(device=settings.engine.device, dtype="float32", merged=False)
        if settings.learner.method == "lora" and loaded.folder is None and run.is_dir():
            loaded = replace(loaded, folder=models.prepare_base(model.name, run))
        self._tokenizer = loaded.tokenizer
        self._weights = {name: spec.weight for name, spec in settings.rewards.items()}
        self.learner: Learner = build_learner(loaded, settings)

    def learn(self, scored: Sequence[ScoredConversation]) -> Update:
        """Make one update from scored conversations."""
        return self.learner.step([row for one in scored for row in trace(one, weights=self._weights)])

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

    def restore(self, folder: Path) -> int:
        """Go on from a folder that `save` wrote; return its version."""
        self.learner.restore(folder)
        return self.learner.version


def unscored(conversation: Conversation) -> ScoredConversation:
    """Return a conversation with rewards of 0."""
    import numpy as np

    return ScoredConversation(conversation=conversation, rewards=np.zeros(conversation.num_turns, dtype=np.float32))
