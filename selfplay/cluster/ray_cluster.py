"""A cluster of Ray actors: play workers, reward workers and one learner.  The only module that imports ray.

Actors are thin: each holds one object of ours and forwards calls.  Conversations stream to the driver as they finish.
Weights never pass through the driver: the learner puts one object per version into the object store, workers read it
there, and the driver only holds the handle of the newest.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selfplay import models
from selfplay.cluster.learner_host import LearnerHost, RewardTerms
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.past_policies import PastPolicies
from selfplay.cluster.play_worker import Played, PlayPlan, PlayWorker
from selfplay.cluster.ray_environment import start_here
from selfplay.cluster.resources import Ask, Layout, check_room, lay_out
from selfplay.dealing import blocks
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.errors import UserError
from selfplay.interfaces import Likelihood, Update, Weights
from selfplay.play import Match
from selfplay.plugins import make_portable
from selfplay.score import Parts, WeightedReward, merged, parts_of, prepare, total
from selfplay.train_settings import TrainSettings

logger = logging.getLogger(__name__)

QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
# What comes instead of a result from a process or a machine that died, memory's guard included.
DEAD = (RayActorError, OutOfMemoryError, ObjectLostError, NodeDiedError, WorkerCrashedError)
MAX_LOSSES = 3  # of one block: what kills three workers will kill the fourth
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 1.0  # between looks at whether anything has died or been asked for
PACKAGES = ("selfplay", "envs", "rewards")  # what other machines get of us: no run, no cache, no repository
EXCLUDED = ("__pycache__", "*.pyc")


# Version, the handle of its weights boxed so that nobody opens it on the way, and the adapters' scale.
HeldWeights = tuple[int, list[Any], float | None]


# ----- what runs in the actors -----


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an actor runs."""

    pid: int  # of its process
    node: str  # Ray's id of its machine

    @classmethod
    def here(cls) -> Place:
        """Return the place of the process that asks."""
        return cls(pid=os.getpid(), node=str(ray.get_runtime_context().get_node_id()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Something with plug-ins in it, which can be unpickled only where their modules are found."""

    held: tuple[Any, ...]  # its handle in the object store, boxed so that nobody opens it on the way
    search: tuple[str, ...]  # where the driver imports from

    @classmethod
    def of(cls, value: object) -> Sent:
        """Put it into the object store."""
        return cls(held=(ray.put(value),), search=tuple(sys.path))

    def open(self) -> Any:
        """Return it; modules beside the driver's script are found on the driver's machine."""
        sys.path.extend(place for place in self.search if place not in sys.path and Path(place).is_dir())
        return ray.get(self.held[0])


class _PlayActor:
    """A play worker in a process of its own."""

    def __init__(self, sent: Sent) -> None:
        self._worker = PlayWorker(sent.open())

    def start(self) -> tuple[Place, Mapping[str, Any]]:
        return Place.here(), self._worker.start()

    def tokenizers(self) -> Mapping[str, str]:
        return self._worker.tokenizers

    def load(self, version: int, held: list[Any], adapter_scale: float | None) -> int:
        """Read a version from the object store, without copying, and give it to the engine."""
        self._worker.load(_open_weights(version, held, adapter_scale))
        return version

    def meet(self, missing: dict[str, HeldWeights], gone: list[str]) -> None:
        """Drop past policies, and read others from the object store."""
        self._worker.forget(gone)
        self._worker.meet({name: _open_weights(*held) for name, held in missing.items()})

    def play(self, matches: list[Match]) -> Iterator[Played]:
        yield from self._worker.play(matches)


class _RewardActor:
    """Scores with rewards that are slow."""

    def __init__(self, sent: Sent, timeout_seconds: float, threads: int) -> None:
        self._rewards: list[WeightedReward] = sent.open()
        self._timeout_seconds = timeout_seconds
        self._timeouts: Counter[str] = Counter()  # of this step
        self._step = -1
        os.environ["OMP_NUM_THREADS"] = str(threads)

    def start(self) -> Place:
        prepare(self._rewards)
        return Place.here()

    def parts(self, conversations: list[Conversation], names: list[str]) -> list[Parts]:
        chosen = [weighted for weighted in self._rewards if weighted.name in names]
        if conversations and conversations[0].step != self._step:  # a new step, a new chance
            self._step = conversations[0].step
            self._timeouts.clear()
        return parts_of(conversations, chosen, timeout_seconds=self._timeout_seconds, timeouts=self._timeouts)


class _LearnerActor:
    """The learner in a process of its own."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._host: LearnerHost | None = None

    def start(self) -> Place:
        settings, model, rewards, threads, run = self._arguments
        self._host = LearnerHost(settings, model, rewards, threads=threads, run=run)
        return Place.here()

    def learn(self, scored: list[ScoredConversation]) -> Update:
        return self._learner().learn(scored)

    def measure(self, conversations: list[Conversation]) -> list[Likelihood]:
        return self._learner().measure(conversations)

    def put_weights(self) -> HeldWeights:
        """Put the newest version into the object store."""
        return _put_weights(self._learner().weights())

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
            return {
                str(file.relative_to(place)): file.read_bytes() for file in Path(place).rglob("*") if file.is_file()
            }

    def restore(self, folder: Path, files: Mapping[str, bytes]) -> int:
        """Read the driver's folder if this machine has it, else the files that came along."""
        if not files:
            return self._learner().restore(folder)
        with tempfile.TemporaryDirectory(prefix="selfplay-restore-") as place:
            _write_files(Path(place), files)
            return self._learner().restore(Path(place))

    def _learner(self) -> LearnerHost:
        assert self._host is not None
        return self._host


def _put_weights(weights: Weights) -> HeldWeights:
    """Put weights into the object store."""
    arrays, seen = {}, set()
    for name, tensor in weights.state.items():
        if tensor.data_ptr() not in seen:  # tied weights travel once
            seen.add(tensor.data_ptr())
            arrays[name] = tensor.detach().float().cpu().numpy()
    return weights.version, [ray.put(arrays)], weights.adapter_scale


def _open_weights(version: int, held: list[Any], adapter_scale: float | None) -> Weights:
    """Read weights from the object store, without copying."""
    import torch

    arrays = ray.get(held[0])
    with warnings.catch_warnings():
        # Shared memory is read-only; the engine copies what it keeps.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Weights(version=version, state=state, adapter_scale=adapter_scale)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


# ----- what the driver knows of them -----


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


class RayCluster:
    """Implements `selfplay.interfaces.Cluster` with Ray actors."""

    def __init__(
        self,
        settings: TrainSettings,
        *,
        plan: PlayPlan,
        model: ModelFiles,
        rewards: Sequence[WeightedReward],
        run: Path,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        """Start or join Ray, check that there is room, and place and start all actors.

        Raises UserError with the exact shortfall if there is no room, or if an actor cannot start.
        """
        self.events: dict[str, float] = {"cluster/replaced_play_workers": 0.0, "cluster/replaced_reward_workers": 0.0}
        self.facts: dict[str, Any] = {}
        self.tokenizers: Mapping[str, str] = {}  # hash -> description, for the run folder
        self._settings = settings
        self._rewards = list(rewards)
        self._slow = [weighted for weighted in self._rewards if not weighted.is_cheap]
        self._say = say
        self._is_own_ray = _connect(settings, say)
        try:
            self._start(plan, model, run.resolve())
        except BaseException:
            self.close()
            raise

    def _start(self, plan: PlayPlan, model: ModelFiles, run: Path) -> None:
        settings = self._settings
        nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        cores = models.num_cores() if self._is_own_ray else int(max(node.get("CPU", 1) for node in nodes))
        is_one = len(nodes) == 1
        has_slow = any(weighted.is_slow for weighted in self._rewards)
        gpus = max(node.get("GPU", 0.0) for node in nodes)
        layout = lay_out(settings, cores=cores, gpus=gpus, is_one_machine=is_one, has_slow_rewards=has_slow)
        check_room(layout.asks, nodes)
        self._layout: Layout = layout
        for plugin in (plan.env, *(weighted.reward for weighted in self._rewards)):
            make_portable(plugin)
        if not is_one:
            model = model.with_contents(put=ray.put, fetch=ray.get)
        device = layout.play.device(settings.engine.device)
        self._plan = Sent.of(replace(plan, model=model, threads=layout.play.threads, device=device))
        self._slow_rewards = Sent.of(self._slow)
        self._block_size = settings.block_size or _share(settings, layout.play.count)
        self._node = str(ray.get_runtime_context().get_node_id())
        engine = settings.engine.model_copy(update={"device": layout.learner.device(settings.engine.device)})
        self._learner = _place(_LearnerActor, layout.learner, near=self._node).remote(
            settings.model_copy(update={"engine": engine}),
            model,
            RewardTerms.of(self._rewards),
            layout.learner.threads,
            run,
        )
        self._weights: HeldWeights | None = None
        self._past = PastPolicies(keeps_all=plan.plays_adapters)
        self._past_weights: dict[str, HeldWeights] = {}  # of those that were met
        self._pending: deque[_Block] = deque()
        learning = self._learner.start.remote()
        self._workers = [self._new_worker() for _ in range(layout.play.count)]
        self._reward_workers = [self._new_reward_worker() for _ in range(layout.reward.count)]
        self._next_reward_worker = 0
        self._parts: dict[str, Parts] = {}  # of the cheap rewards, by conversation
        self._asked: dict[str, _SlowParts] = {}  # of the slow ones that look at one conversation
        self._learner_place: Place = self._wait_for(learning, "the learner")
        for worker in self._workers:
            worker.place, facts = self._wait_for(worker.loading, "a play worker")
            self.facts.update(facts)
        self.tokenizers = self._wait_for(self._workers[0].actor.tokenizers.remote(), "a play worker")

    # ----- the verbs -----

    def play(self, matches: Sequence[Match]) -> Iterator[Conversation]:
        """Deal the matches to the play workers at once; yield conversations as they finish."""
        inbox: deque[Played] = deque()
        dealt = [_Block(block, inbox) for block in blocks(list(matches), size=self._block_size)]
        self._pending.extend(dealt)
        self._hand_out()
        return self._receive(dealt, inbox)

    def score(self, conversations: Sequence[Conversation]) -> list[ScoredConversation]:
        """Return the conversations with their rewards, in order."""
        found = [[self._parts.pop(conversation.id) for conversation in conversations]]
        one_each = [weighted.name for weighted in self._slow if weighted.scope == "conversation"]
        if one_each:
            found.append([self._answer(self._asked.pop(conversation.id)) for conversation in conversations])
        together = [weighted for weighted in self._slow if weighted.scope != "conversation"]
        if together:
            found.append(self._compare(list(conversations), together))
        return total(conversations, merged(*found), self._rewards)

    def learn(self, scored: Sequence[ScoredConversation]) -> Update:
        """Make one update."""
        handle = self._learner.learn.remote(list(scored))
        # Meanwhile blocks that were dealt ahead are played on: who is done with one gets the next.
        while any(worker.stream is not None for worker in self._workers):
            streams = [worker.stream for worker in self._workers if worker.stream is not None]
            ready, _ = ray.wait([handle, *streams], num_returns=1, timeout=WAIT_SECONDS)
            if handle in ready:
                break
            self._pump()
        update: Update = _get(handle, "the learner")
        return update

    def publish(self, update: Update) -> None:
        """Give every play worker the handle of the newest weights; the handle of the version before is dropped."""
        self._weights = _get(self._learner.put_weights.remote(), "the learner")
        for worker in self._workers:
            worker.loading = worker.actor.load.remote(*self._weights)
        if self._settings.max_staleness == 0:
            # Nobody plays now, so waiting costs nothing, and what is wrong with the weights is said here.
            for worker in self._workers:
                with suppress(*DEAD):  # who is dead is replaced when it is to play
                    _get_task(worker.loading)

    def measure(self, conversations: Sequence[Conversation]) -> list[Likelihood]:
        """Return what the frozen reference says of what the trained roles said."""
        found: list[Likelihood] = _get(self._learner.measure.remote(list(conversations)), "the learner")
        return found

    def save(self, folder: Path) -> None:
        """Write the policy, the tokenizer and the learner's state into an existing folder."""
        self._save(folder, is_whole=True)

    def save_policy(self, folder: Path) -> None:
        """Write the policy and the tokenizer, without the learner's state, into an existing folder."""
        self._save(folder, is_whole=False)

    def introduce(self, past: Mapping[str, Path]) -> None:
        """Let matches name these past versions from now on."""
        self._past.introduce(past)
        kept = self._past_weights.items()
        self._past_weights = {name: held for name, held in kept if name in self._past.folders}

    def _save(self, folder: Path, *, is_whole: bool) -> None:
        files = _get(self._learner.save.remote(folder.resolve(), self._node, is_whole), "the learner")
        _write_files(folder, files or {})

    def restore(self, folder: Path) -> int:
        """Go on from what `save` wrote; return the version."""
        is_here = self._learner_place.node == self._node
        files = [] if is_here else [file for file in folder.rglob("*") if file.is_file()]
        contents = {str(file.relative_to(folder)): file.read_bytes() for file in files}
        version = _get(self._learner.restore.remote(folder.resolve(), contents), "the learner")
        self.publish(Update(version=version, metrics={}))
        return int(version)

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        for actor in [
            *(worker.actor for worker in getattr(self, "_workers", [])),
            *getattr(self, "_reward_workers", []),
            *([self._learner] if hasattr(self, "_learner") else []),
        ]:
            ray.kill(actor)
        self._workers, self._reward_workers = [], []
        self.__dict__.pop("_learner", None)
        if self._is_own_ray:
            ray.shutdown()
            self._is_own_ray = False

    def places(self) -> dict[str, list[Place]]:
        """Return where the actors run, by kind: for whoever looks at what a run costs, or tests what kills it."""
        return {
            "learner": [self._learner_place],
            "play": [worker.place for worker in self._workers if worker.place is not None],
            "reward": _get_task([actor.start.remote() for actor in self._reward_workers]),
        }

    # ----- playing -----

    def _receive(self, dealt: list[_Block], inbox: deque[Played]) -> Iterator[Conversation]:
        while inbox or not all(block.is_done for block in dealt):
            if not inbox:
                self._pump()
                continue
            played = inbox.popleft()
            conversation = played.conversation
            self._parts[conversation.id] = played.parts
            self._ask_slowly(conversation)
            yield conversation

    def _hand_out(self) -> None:
        """Give waiting blocks to idle workers."""
        for worker in self._workers:
            if self._pending and worker.block is None:
                self._check_loaded(worker)
                worker.block = self._pending.popleft()
                self._meet(worker, worker.block.matches)
                worker.stream = worker.actor.play.options(num_returns="streaming").remote(worker.block.matches)

    def _meet(self, worker: _Worker, matches: list[Match]) -> None:
        """Tell a worker of the past policies in its next block; it reads messages in their order."""
        missing, gone = self._past.changes(worker.known, matches)
        if not missing and not gone:
            return
        for name in missing:
            if name not in self._past_weights:
                self._past_weights[name] = _put_weights(self._past.read(name))
        worker.meeting = worker.actor.meet.remote({name: self._past_weights[name] for name in missing}, gone)
        worker.known = (worker.known - set(gone)) | set(missing)
        if not self._past.keeps_all:
            # Whole models are large: the object store holds those that some worker plays.
            met = set().union(*(one.known for one in self._workers))
            self._past_weights = {name: held for name, held in self._past_weights.items() if name in met}

    def _check_loaded(self, worker: _Worker) -> None:
        """Raise what went wrong as a worker took the newest weights, if that is known by now."""
        if worker.loading is not None and ray.wait([worker.loading], timeout=0)[0]:
            with suppress(*DEAD):  # noticed, and mended, when it is to play
                _get_task(worker.loading)
            worker.loading = None

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
                _get_task(worker.meeting)  # what it could not read of a past policy explains what it could not play
            raise _as_user_error(error) from error
        else:
            # A block that is played again gives the same conversations again.
            if played.conversation.id not in block.seen:
                block.seen.add(played.conversation.id)
                block.inbox.append(played)

    def _replace(self, worker: _Worker, error: Exception) -> None:
        """Put a new worker in the place of one that died, and play its block again."""
        block = worker.block
        assert block is not None
        block.num_losses += 1
        if block.num_losses >= MAX_LOSSES:
            raise UserError(
                f"{block.num_losses} play workers died one after another while playing {block.matches[0].id}; "
                f"the machine may be out of memory: {_essence(error)}"
            ) from error
        self.events["cluster/replaced_play_workers"] += 1
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
        actor = _place(_PlayActor, self._layout.play).remote(self._plan)
        return _Worker(actor=actor, loading=actor.start.remote())

    # ----- scoring -----

    def _ask_slowly(self, conversation: Conversation) -> None:
        names = [weighted.name for weighted in self._slow if weighted.scope == "conversation"]
        if names:
            self._asked[conversation.id] = self._ask([conversation], names)

    def _compare(self, conversations: list[Conversation], together: Sequence[WeightedReward]) -> list[Parts]:
        """Score what needs several conversations at once: whole groups, or the whole step."""
        names = [weighted.name for weighted in together]
        if self._reward_workers:
            asked = self._ask(conversations, names)
            return self._answers(asked)
        return parts_of(conversations, together, timeout_seconds=self._settings.reward_timeout_seconds)

    def _ask(self, conversations: list[Conversation], names: list[str]) -> _SlowParts:
        assert self._reward_workers, "a slow reward has at least one worker"
        number = self._next_reward_worker % len(self._reward_workers)
        self._next_reward_worker += 1
        actor = self._reward_workers[number]
        handle = actor.parts.remote(conversations, names)
        return _SlowParts(conversations=conversations, names=names, actor=actor, handle=handle)

    def _answer(self, asked: _SlowParts) -> Parts:
        [parts] = self._answers(asked)
        return parts

    def _answers(self, asked: _SlowParts) -> list[Parts]:
        why = ""
        for _ in range(MAX_LOSSES):
            try:
                found: list[Parts] = ray.get(asked.handle)
            except DEAD as error:
                why = _essence(error)
                if asked.actor in self._reward_workers:
                    self.events["cluster/replaced_reward_workers"] += 1
                    self._say("a reward worker died; what it was asked is asked again")
                    self._reward_workers[self._reward_workers.index(asked.actor)] = self._new_reward_worker()
                asked = self._ask(asked.conversations, asked.names)
            except RayTaskError as error:
                raise _as_user_error(error) from error
            else:
                return found
        raise UserError(f"{MAX_LOSSES} reward workers died on conversation {asked.conversations[0].id}: {why}")

    def _new_reward_worker(self) -> Any:
        ask, timeout = self._layout.reward, self._settings.reward_timeout_seconds
        return _place(_RewardActor, ask).remote(self._slow_rewards, timeout, ask.threads)

    def _wait_for(self, handle: Any, who: str) -> Any:
        timeout = self._settings.ray.start_timeout_seconds
        try:
            return ray.get(handle, timeout=timeout)
        except GetTimeoutError as error:
            free = ray.available_resources()
            raise UserError(
                f"{who} did not start within ray.start_timeout_seconds={timeout:g}: {free.get('CPU', 0):g} CPUs and "
                f"{free.get('GPU', 0):g} GPUs of the cluster are free; others may be using it"
            ) from error
        except DEAD as error:
            raise UserError(f"{who} died as it started: {_essence(error)}") from error
        except RayTaskError as error:
            raise _as_user_error(error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _SlowParts:
    """What a reward worker was asked."""

    conversations: list[Conversation]
    names: list[str]
    actor: Any
    handle: Any


# ----- ray itself -----


def _connect(settings: TrainSettings, say: Callable[[str], None]) -> bool:
    """Start Ray on this machine, or join a cluster; return whether it was started here."""
    if ray.is_initialized():
        return False
    address = settings.ray.address
    with _own_signals():
        if not address:
            say("starting Ray on this machine")
            start_here(lambda: ray.init(num_cpus=models.num_cores(), include_dashboard=False, **QUIET))
        else:
            _join(address, say)
    return True


def _join(address: str, say: Callable[[str], None]) -> None:
    _check_address(address)
    say(f"joining the Ray cluster at {address}")
    packages = [str(_folder_of(name)) for name in PACKAGES]
    environment = {"py_modules": packages, "excludes": list(EXCLUDED)}
    try:
        ray.init(address=address, runtime_env=environment, **QUIET)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"ray.address={address}: there is no Ray cluster to join ({_essence(error)}); one that is protected by a "
            "token wants RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN here too"
        ) from error


def _check_address(address: str) -> None:
    """Raise UserError if nobody answers at HOST:PORT: Ray itself would wait for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"ray.address={address}: must be auto, or HOST:PORT such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"ray.address={address}: nobody answers there: {error}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of who started the run: Ray puts its own in the place of SIGTERM's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder_of(package: str) -> Path:
    return Path(str(importlib.import_module(package).__file__)).parent


def _place(kind: type, ask: Ask, *, near: str = "") -> Any:
    """Return an actor class with what each of its actors reserves; near: a node it should run on if it can."""
    strategy = NodeAffinitySchedulingStrategy(near, soft=True) if near else "SPREAD"
    return ray.remote(kind).options(
        num_cpus=ask.cpus, num_gpus=ask.gpus, scheduling_strategy=strategy, max_restarts=0, max_task_retries=0
    )


def _share(settings: TrainSettings, workers: int) -> int:
    """Return how many conversations a block has by default: whole groups, shared by the workers."""
    groups = settings.conversations // settings.group_size
    return -(-groups // workers) * settings.group_size


def _get(handle: Any, who: str) -> Any:
    try:
        return _get_task(handle)
    except DEAD as error:
        raise UserError(
            f"{who} died: {_essence(error)}; go on from the newest checkpoint with train resume=RUN"
        ) from error


def _get_task(handle: Any) -> Any:
    try:
        return ray.get(handle)
    except RayTaskError as error:
        raise _as_user_error(error) from error


def _as_user_error(error: RayTaskError) -> Exception:
    """Return what an actor raised, if it is for the user; else the error itself."""
    cause = getattr(error, "cause", None)
    return UserError(str(cause)) if isinstance(cause, UserError) else error


def _essence(error: BaseException) -> str:
    """Return the line of an error that says what happened: of a traceback the last, of Ray's sentences the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    place = -1 if any(line.startswith("File ") for line in lines) else 0
    return lines[place].rstrip(".") if lines else type(error).__name__
