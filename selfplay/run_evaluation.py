"""A training run's evaluation: base and trained policy on the same held-out scenarios, played, stored, compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from selfplay import base_evaluation
from selfplay.dialog import Conversation, id_order
from selfplay.evaluate import Comparison, Measured, compare, comparison_to_json
from selfplay.interfaces import Cluster
from selfplay.play import Match
from selfplay.score import Term
from selfplay.store import RunReader, RunWriter
from selfplay.training_screen import Screen
from selfplay.whole_files import write_whole

__all__ = ["EVALUATION", "EvaluationDeals", "RunEvaluation", "evaluated_version"]

EVALUATION = "evaluation.json"


class EvaluationDeals(Protocol):
    """What deals the matches of an evaluation."""

    def evaluation(self, version: int, *, conversations: int) -> list[Match]:
        """Return matches on held-out scenarios, the same for every version but for their ids."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvaluation:
    """Plays and measures versions of a run's policy on held-out scenarios, and stores what it finds."""

    num_conversations: int  # of each version; 0: there is no evaluation
    dealer: EvaluationDeals
    cluster: Cluster
    writer: RunWriter
    screen: Screen
    terms: Mapping[str, Term]  # what every reward counts for, by name
    watch: Callable[[Iterator[Conversation]], Iterator[Conversation]]  # passes on conversations as they finish
    fingerprint: Callable[[Sequence[Match]], str]  # of the base's evaluation, as `selfplay.base_evaluation` has it

    def of_base(self) -> list[Measured]:
        """Return what was measured of version 0: as it was kept, or else, while the cluster still has it, played now.

        It is stored unless the run has stored some of it before.
        """
        if not self.num_conversations:
            return []
        folder, matches = self.writer.folder, self._matches(0)
        of = self.fingerprint(matches)
        kept = base_evaluation.read(folder, of=of)
        if kept is not None:
            self.screen.say("the base was evaluated before: its conversations are taken as they are stored")
            return kept
        is_new = {match.id for match in matches}.isdisjoint(RunReader(folder).ids())
        measured = self._play(0, is_stored=is_new)
        if is_new:
            base_evaluation.write(folder, measured, of=of)
        return measured

    def of_trained(self, version: int) -> list[Measured]:
        """Play the version that the cluster has; return what was measured, after storing it."""
        return self._play(version, is_stored=True) if self.num_conversations else []

    def _matches(self, version: int) -> list[Match]:
        return self.dealer.evaluation(version, conversations=self.num_conversations)

    def _play(self, version: int, *, is_stored: bool) -> list[Measured]:
        num = self.num_conversations
        self.screen.doing(f"evaluating version {version} on held-out scenarios", conversations=num)
        conversations = self.watch(self.cluster.play(self._matches(version)))
        played = sorted(conversations, key=lambda conversation: id_order(conversation.id))
        scored = self.cluster.score(played)
        likelihoods = {found.conversation: found for found in self.cluster.measure(played)}
        if is_stored:
            for one in scored:
                self.writer.append(one.conversation, one, terms=self.terms)
            for conversation in played:
                if conversation.id in likelihoods:
                    likelihood = likelihoods[conversation.id]
                    self.writer.add_likelihood(conversation, likelihood, by=f"learner@{version}")
        return [
            Measured(scored=one, likelihood=likelihoods[one.conversation.id])
            for one in scored
            if one.conversation.id in likelihoods
        ]

    def compare(self, base: Sequence[Measured], trained: Sequence[Measured], *, version: int, seed: int) -> Comparison:
        """Return what training changed up to a version, after storing it."""
        comparison = compare(base, trained, seed=seed)
        record: dict[str, Any] = {"version": version, **comparison_to_json(comparison)}
        write_whole(self.writer.folder / EVALUATION, json.dumps(record, indent=2).encode() + b"\n")
        return comparison


def evaluated_version(folder: Path) -> int | None:
    """Return which version of a run its evaluation is of; None: it has none."""
    try:
        version = json.loads((folder / EVALUATION).read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError, AttributeError):
        return None
    return version if isinstance(version, int) else None
