"""The main loop of training: match, play, score, learn, publish, record."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from selfplay.dialog import Conversation, ScoredConversation, id_order
from selfplay.interfaces import Cluster, Update
from selfplay.play import Match
from selfplay.score import check_failures
from selfplay.train_settings import TrainSettings


class Record(Protocol):
    """What is told of every stage; it may end the loop between stages by raising `Stopped`."""

    def start(self, step: int) -> None:
        """A step begins."""
        ...

    def watch(self, conversations: Iterator[Conversation]) -> Iterator[Conversation]:
        """Pass on conversations as they finish."""
        ...

    def keep(self, scored: Sequence[ScoredConversation]) -> None:
        """Store a step's conversations with their rewards."""
        ...

    def finish(self, step: int, scored: Sequence[ScoredConversation], update: Update, *, num_stale: int) -> None:
        """A step is over."""
        ...

    def save(self, version: int, fill: Callable[[Path], None]) -> None:
        """Write a checkpoint, whose contents `fill` puts into a folder."""
        ...


class Deals(Protocol):
    """What deals a step's matches; it may look at what was recorded of the steps before."""

    def training(self, step: int) -> list[Match]:
        """Return the matches of one step, group by group."""
        ...


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Somebody asked the run to end; the learner is between two updates."""


@dataclass(slots=True)
class StopRequest:
    """The wish of a person or an alarm that a run end between two stages, with a checkpoint."""

    is_made: bool = False

    def make(self) -> None:
        """Ask for it; may be called from a signal handler."""
        self.is_made = True

    def check(self) -> None:
        """Raise `Stopped` if it was asked for."""
        if self.is_made:
            raise Stopped


def train(settings: TrainSettings, *, dealer: Deals, cluster: Cluster, record: Record, first: int = 0) -> None:
    """Make the updates `first` to `settings.steps`; step s makes version s + 1.

    With max_staleness=0 a step is played by the version it updates.  Above 0 that many steps are dealt ahead, so that
    playing overlaps learning; a conversation keeps the version it began with.
    Raises UserError if too many of a step's conversations failed, and passes on `Stopped`.
    """
    dealt, ahead = first, deque[Iterator[Conversation]]()
    for step in range(first, settings.steps):
        record.start(step)
        while dealt < min(step + 1 + settings.max_staleness, settings.steps):
            ahead.append(cluster.play(dealer.training(dealt)))
            dealt += 1
        conversations = sorted(record.watch(ahead.popleft()), key=lambda conversation: id_order(conversation.id))
        scored = cluster.score(conversations)
        record.keep(scored)
        check_failures(scored, settings.max_failed_share)
        fresh = [one for one in scored if step - version_of(one.conversation) <= settings.max_staleness]
        update = cluster.learn(fresh)
        cluster.publish(update)
        record.finish(step, scored, update, num_stale=len(scored) - len(fresh))
        if update.version % settings.checkpoints.save_every == 0 or update.version == settings.steps:
            record.save(update.version, cluster.save)


def version_of(conversation: Conversation) -> int:
    """Return the version that the trained roles of a conversation were played by."""
    return min((player.version for player in conversation.players.values() if player.trained), default=0)
