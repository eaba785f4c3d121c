"""A cluster of one: everything happens in this process, one thing after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfplay.cluster.learner_host import LearnerHost, RewardTerms
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.past_policies import PastPolicies
from selfplay.cluster.play_worker import PlayPlan, PlayWorker
from selfplay.dealing import blocks
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.interfaces import Likelihood, Update
from selfplay.play import Match
from selfplay.score import WeightedReward, prepare, score
from selfplay.train_settings import TrainSettings


class LocalCluster:
    """Implements `selfplay.interfaces.Cluster` without any other process.

    Nothing overlaps here.  With max_staleness above 0 conversations are still played ahead, and so lag behind as they
    would on Ray: slower than staying on-policy, and good for trying the corrections.
    """

    def __init__(
        self,
        settings: TrainSettings,
        *,
        plan: PlayPlan,
        model: ModelFiles,
        rewards: Sequence[WeightedReward],
        run: Path,
    ) -> None:
        """Load everything.  Raises UserError if something cannot be had."""
        self.events: dict[str, float] = {}  # what went wrong and was mended, counted; here nothing is mended
        self._settings = settings
        self._rewards = list(rewards)
        self._block_size = settings.block_size or settings.conversations
        # The learner loads first: its copy of the weights is the one that grows.
        threads = settings.engine.threads
        terms = RewardTerms.of(self._rewards)
        self._host = LearnerHost(settings, model, terms, threads=threads, run=run) if plan.has_policy else None
        # Conversations are scored once a step, here; the worker has no part in it.
        self._worker = PlayWorker(replace(plan, rewards=()))
        self.facts: dict[str, Any] = dict(self._worker.start())
        self.tokenizers: dict[str, str] = self._worker.tokenizers  # hash -> description, for the run folder
        self._past = PastPolicies(keeps_all=plan.plays_adapters)
        self._known: set[str] = set()  # past policies that the worker has
        prepare(self._rewards)

    def play(self, matches: Sequence[Match]) -> Iterator[Conversation]:
        """Play matches, block by block; see `Cluster.play`."""
        conversations = self._play(list(matches))
        # Those that are to lag behind are played before the next weights come.
        return iter(list(conversations)) if self._settings.max_staleness else conversations

    def _play(self, matches: list[Match]) -> Iterator[Conversation]:
        for block in blocks(matches, size=self._block_size):
            self._meet(block)
            for played in self._worker.play(block):
                yield played.conversation

    def _meet(self, block: list[Match]) -> None:
        missing, gone = self._past.changes(self._known, block)
        self._worker.forget(gone)
        for name in missing:  # one at a time: whole models are large
            self._worker.meet({name: self._past.read(name)})
        self._known = (self._known - set(gone)) | set(missing)

    def score(self, conversations: Sequence[Conversation]) -> list[ScoredConversation]:
        """Return the conversations with their rewards, in order."""
        return score(conversations, self._rewards, timeout_seconds=self._settings.reward_timeout_seconds)

    def learn(self, scored: Sequence[ScoredConversation]) -> Update:
        """Make one update."""
        return self._learner().learn(scored)

    def publish(self, update: Update) -> None:
        """Give the play worker the newest weights."""
        self._worker.load(self._learner().weights())

    def measure(self, conversations: Sequence[Conversation]) -> list[Likelihood]:
        """Return what the frozen reference says of what the trained roles said."""
        return self._learner().measure(conversations)

    def save(self, folder: Path) -> None:
        """Write the policy, the tokenizer and the learner's state into an existing folder."""
        self._learner().save(folder)

    def save_policy(self, folder: Path) -> None:
        """Write the policy and the tokenizer, without the learner's state, into an existing folder."""
        self._learner().save_policy(folder)

    def introduce(self, past: Mapping[str, Path]) -> None:
        """Let matches name these past versions from now on."""
        self._past.introduce(past)

    def restore(self, folder: Path) -> int:
        """Go on from what `save` wrote; return the version."""
        version = self._learner().restore(folder)
        self._worker.load(self._learner().weights())
        return version

    def close(self) -> None:
        """Nothing is held that the process does not give back by itself."""

    def _learner(self) -> LearnerHost:
        assert self._host is not None, "no role is the policy's, so there is nothing to learn"
        return self._host
