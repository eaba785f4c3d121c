"""The play workers of a Ray cluster as the driver knows them: who plays what, with which weights, and who died."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from selfplay.cluster.past_policies import PastPolicies
from selfplay.cluster.play_worker import Played
from selfplay.cluster.ray_actors import Place, PlayActor, reserving
from selfplay.cluster.ray_failures import DEAD, MAX_LOSSES, as_user_error, essence, fetch, wait_for_start
from selfplay.cluster.ray_objects import HeldWeights, Sent, put_weights
from selfplay.cluster.resources import Ask
from selfplay.dealing import blocks
from selfplay.errors import UserError
from selfplay.play import Match

WAIT_SECONDS = 1.0  # between looks at whether anything has died or been asked for


@dataclass(slots=True, eq=False)
class _Block:
    """Matches that one worker plays in one piece."""

    matches: list[Match]
    inbox: deque[Played]  # where its conversations go
    seen: set[str] = field(default_factory=set)  # ids that came, of this try or a lost one
    num_losses: int = 0
    is_done: bool = False


@dataclass(slots=True, eq=False)
class _Worker:
    """One play actor."""

    actor: Any
    loading: Any  # handle of its start, or of the newest weights it was given
    place: Place | None = None  # None: it has not started
    stream: Any = None  # of the conversations of its block
    block: _Block | None = None
    meeting: Any = None  # handle of what it was last told of past policies
    known: set[str] = field(default_factory=set)  # past policies that it has, or will when it has read its messages


class PlayWorkers:
    """Deals blocks of matches to play actors; one that dies is replaced, and its block played again."""

    def __init__(
        self,
        plan: Sent,
        ask: Ask,
        *,
        past: PastPolicies,
        block_size: int,
        start_timeout_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        """Remember how many there are to be and what they play; `place` starts them.

        plan: a `PlayPlan`; block_size: how many conversations one plays in one piece.
        """
        self.num_replaced = 0
        self._plan = plan
        self._ask = ask
        self._past = past
        self._past_weights: dict[str, HeldWeights] = {}  # of those that were met
        self._block_size = block_size
        self._start_timeout_seconds = start_timeout_seconds
        self._say = say
        self._weights: HeldWeights | None = None  # the newest
        self._workers: list[_Worker] = []
        self._pending: deque[_Block] = deque()

    def place(self) -> None:
        """Place all of them, and let them start."""
        self._workers = [self._new_worker() for _ in range(self._ask.count)]

    def wait_started(self) -> dict[str, Any]:
        """Wait until all have started; return what the manifest records of their models.

        Raises UserError if one cannot start.
        """
        found: dict[str, Any] = {}
        for worker in self._workers:
            worker.place, facts = self._wait_for(worker.loading, "a play worker")
            found.update(facts)
        return found

    def tokenizers(self) -> Mapping[str, str]:
        """Return the tokenizers of their models: hash -> description."""
        found: Mapping[str, str] = self._wait_for(self._workers[0].actor.tokenizers.remote(), "a play worker")
        return found

    def places(self) -> list[Place]:
        """Return where those that have started run."""
        return [worker.place for worker in self._workers if worker.place is not None]

    def play(self, matches: Sequence[Match]) -> Iterator[Played]:
        """Deal the matches at once; yield conversations as they finish."""
        inbox: deque[Played] = deque()
        dealt = [_Block(block, inbox) for block in blocks(list(matches), size=self._block_size)]
        self._pending.extend(dealt)
        self._hand_out()
        return self._receive(dealt, inbox)

    def play_on(self, *, until: Any) -> None:
        """Play what was dealt ahead, until a handle has its result; who is done with a block gets the next."""
        while any(worker.stream is not None for worker in self._workers):
            streams = [worker.stream for worker in self._workers if worker.stream is not None]
            ready, _ = ray.wait([until, *streams], num_returns=1, timeout=WAIT_SECONDS)
            if until in ready:
                break
            self._pump()

    def load(self, weights: HeldWeights) -> None:
        """Give every worker the handle of the newest weights; the handle of the version before is dropped."""
        self._weights = weights
        for worker in self._workers:
            worker.loading = worker.actor.load.remote(*weights)

    def wait_loaded(self) -> None:
        """Wait until all have the newest weights; raise what went wrong with them."""
        for worker in self._workers:
            with suppress(*DEAD):  # who is dead is replaced when it is to play
                fetch(worker.loading)

    def introduce(self, past: Mapping[str, Path]) -> None:
        """Let matches name these past versions from now on."""
        self._past.introduce(past)
        kept = self._past_weights.items()
        self._past_weights = {name: held for name, held in kept if name in self._past.folders}

    def close(self) -> None:
        """End them."""
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers = []

    # ----- blocks -----

    def _receive(self, dealt: list[_Block], inbox: deque[Played]) -> Iterator[Played]:
        while inbox or not all(block.is_done for block in dealt):
            if inbox:
                yield inbox.popleft()
            else:
                self._pump()

    def _hand_out(self) -> None:
        """Give waiting blocks to idle workers."""
        for worker in self._workers:
            if self._pending and worker.block is None:
                self._check_loaded(worker)
                worker.block = self._pending.popleft()
                self._meet(worker, worker.block.matches)
                worker.stream = worker.actor.play.options(num_returns="streaming").remote(worker.block.matches)

    def _check_loaded(self, worker: _Worker) -> None:
        """Raise what went wrong as a worker took the newest weights, if that is known by now."""
        if worker.loading is not None and ray.wait([worker.loading], timeout=0)[0]:
            with suppress(*DEAD):  # noticed, and mended, when it is to play
                fetch(worker.loading)
            worker.loading = None

    def _meet(self, worker: _Worker, matches: list[Match]) -> None:
        """Tell a worker of the past policies in its next block; it reads messages in their order."""
        missing, gone = self._past.changes(worker.known, matches)
        if not missing and not gone:
            return
        for name in missing:
            if name not in self._past_weights:
                self._past_weights[name] = put_weights(self._past.read(name))
        worker.meeting = worker.actor.meet.remote({name: self._past_weights[name] for name in missing}, gone)
        worker.known = (worker.known - set(gone)) | set(missing)
        if not self._past.keeps_all:
            # Whole models are large: the object store holds those that some worker plays.
            met = set().union(*(one.known for one in self._workers))
            self._past_weights = {name: held for name, held in self._past_weights.items() if name in met}

    def _pump(self) -> None:
        """Wait a little for conversations, and take those that came."""
        busy = {worker.stream: worker for worker in self._workers if worker.stream is not None}
        if not busy:
            raise UserError("no play worker is left and none can be placed; see what Ray's log says of them")
        ready, _ = ray.wait(list(busy), num_returns=1, timeout=WAIT_SECONDS)
        for stream in ready:
            self._take(busy[stream])

    def _take(self, worker: _Worker) -> None:
        """Take one conversation, or the end, of a worker's block."""
        block = worker.block
        assert block is not None
        try:
            played: Played = ray.get(next(worker.stream))
        except StopIteration:
            block.is_done, worker.block, worker.stream = True, None, None
            self._hand_out()
        except DEAD as error:
            self._replace(worker, error)
        except RayTaskError as error:
            if worker.meeting is not None:
                fetch(worker.meeting)  # what it could not read of a past policy explains what it could not play
            raise as_user_error(error) from error
        else:
            # A block that is played again gives the same conversations again.
            if played.conversation.id not in block.seen:
                block.seen.add(played.conversation.id)
                block.inbox.append(played)

    # ----- the workers themselves -----

    def _replace(self, worker: _Worker, error: Exception) -> None:
        """Put a new worker in the place of one that died, and play its block again."""
        block = worker.block
        assert block is not None
        block.num_losses += 1
        if block.num_losses >= MAX_LOSSES:
            raise UserError(
                f"{block.num_losses} play workers died one after another while playing {block.matches[0].id}; "
                f"the machine may be out of memory: {essence(error)}"
            ) from error
        self.num_replaced += 1
        self._say(f"a play worker died; its {len(block.matches)} conversations are played again")
        self._pending.appendleft(block)
        self._workers.remove(worker)
        with suppress(Exception):  # it may only have been out of reach, and would keep what it reserves
            ray.kill(worker.actor)
        fresh = self._new_worker()
        try:
            fresh.place, _ = self._wait_for(fresh.loading, "a new play worker")
            if self._weights is not None:
                self._wait_for(fresh.actor.load.remote(*self._weights), "a new play worker")
        except UserError as error:
            # Its machine may be gone for good: the others go on, if there are any.
            ray.kill(fresh.actor)
            if not self._workers:
                raise
            self._say(f"{error}; going on with {len(self._workers)}")
        else:
            self._workers.append(fresh)
        self._hand_out()

    def _new_worker(self) -> _Worker:
        actor = reserving(PlayActor, self._ask).remote(self._plan)
        return _Worker(actor=actor, loading=actor.start.remote())

    def _wait_for(self, handle: Any, who: str) -> Any:
        return wait_for_start(handle, who, timeout_seconds=self._start_timeout_seconds)
