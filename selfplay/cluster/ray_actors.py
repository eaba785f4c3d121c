"""What runs in Ray's actors, and where: each holds one object of ours and forwards calls."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selfplay.cluster.learner_host import LearnerHost
from selfplay.cluster.play_worker import Played, PlayWorker
from selfplay.cluster.ray_objects import HeldWeights, Sent, open_weights, put_weights, read_files, write_files
from selfplay.cluster.resources import Ask
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.interfaces import Likelihood, Update
from selfplay.play import Match
from selfplay.score import Parts, WeightedReward, parts_of, prepare


def reserving(kind: type, ask: Ask, *, near: str = "") -> Any:
    """Return an actor class with what each of its actors reserves; near: a node it should run on if it can."""
    strategy = NodeAffinitySchedulingStrategy(near, soft=True) if near else "SPREAD"
    return ray.remote(kind).options(
        num_cpus=ask.cpus, num_gpus=ask.gpus, scheduling_strategy=strategy, max_restarts=0, max_task_retries=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an actor runs."""

    pid: int  # of its process
    node: str  # Ray's id of its machine

    @classmethod
    def here(cls) -> Place:
        """Return the place of the process that asks."""
        return cls(pid=os.getpid(), node=str(ray.get_runtime_context().get_node_id()))


class PlayActor:
    """A play worker in a process of its own."""

    def __init__(self, sent: Sent) -> None:
        self._worker = PlayWorker(sent.open())

    def start(self) -> tuple[Place, Mapping[str, Any]]:
        """Load the models; return where, and what the manifest records of them."""
        return Place.here(), self._worker.start()

    def tokenizers(self) -> Mapping[str, str]:
        """Return the models' tokenizers: hash -> description."""
        return self._worker.tokenizers

    def load(self, version: int, held: list[Any], adapter_scale: float | None) -> int:
        """Read a version from the object store, without copying, and give it to the engine."""
        self._worker.load(open_weights(version, held, adapter_scale))
        return version

    def meet(self, missing: dict[str, HeldWeights], gone: list[str]) -> None:
        """Drop past policies, and read others from the object store."""
        self._worker.forget(gone)
        self._worker.meet({name: open_weights(*held) for name, held in missing.items()})

    def play(self, matches: list[Match]) -> Iterator[Played]:
        """Play a block and yield each conversation as it finishes."""
        yield from self._worker.play(matches)


class RewardActor:
    """Scores with rewards that are slow."""

    def __init__(self, sent: Sent, timeout_seconds: float, threads: int) -> None:
        self._rewards: list[WeightedReward] = sent.open()
        self._timeout_seconds = timeout_seconds
        self._timeouts: Counter[str] = Counter()  # of this step
        self._step = -1
        os.environ["OMP_NUM_THREADS"] = str(threads)

    def start(self) -> Place:
        """Load what the rewards need; return where."""
        prepare(self._rewards)
        return Place.here()

    def parts(self, conversations: list[Conversation], names: list[str]) -> list[Parts]:
        """Return what the named rewards say of each conversation."""
        chosen = [weighted for weighted in self._rewards if weighted.name in names]
        if conversations and conversations[0].step != self._step:  # a new step, a new chance
            self._step = conversations[0].step
            self._timeouts.clear()
        return parts_of(conversations, chosen, timeout_seconds=self._timeout_seconds, timeouts=self._timeouts)


class LearnerActor:
    """The learner in a process of its own."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._host: LearnerHost | None = None

    def start(self) -> Place:
        """Load the model and build the learner; return where."""
        settings, model, rewards, threads, run = self._arguments
        self._host = LearnerHost(settings, model, rewards, threads=threads, run=run)
        return Place.here()

    def learn(self, scored: list[ScoredConversation]) -> Update:
        """Make one update."""
        return self._learner().learn(scored)

    def measure(self, conversations: list[Conversation]) -> list[Likelihood]:
        """Return what the frozen reference says of what the trained roles said."""
        return self._learner().measure(conversations)

    def put_weights(self) -> HeldWeights:
        """Put the newest version into the object store."""
        return put_weights(self._learner().weights())

    def save(self, folder: Path, node: str, is_whole: bool) -> dict[str, bytes] | None:
        """Write into the driver's folder if this is its machine, else return the files.

        is_whole: with the learner's state.
        """
        save = self._learner().save if is_whole else self._learner().save_policy
        if ray.get_runtime_context().get_node_id() == node:
            save(folder)
            return None
        with tempfile.TemporaryDirectory(prefix="selfplay-save-") as place:
            save(Path(place))
            return read_files(Path(place))

    def restore(self, folder: Path, files: Mapping[str, bytes]) -> int:
        """Read the driver's folder if this machine has it, else the files that came along."""
        if not files:
            return self._learner().restore(folder)
        with tempfile.TemporaryDirectory(prefix="selfplay-restore-") as place:
            write_files(Path(place), files)
            return self._learner().restore(Path(place))

    def _learner(self) -> LearnerHost:
        assert self._host is not None
        return self._host
