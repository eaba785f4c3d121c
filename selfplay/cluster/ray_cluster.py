"""A cluster of Ray actors: play workers, reward workers and one learner.

Actors are thin: each holds one object of ours and forwards calls.  Conversations stream to the driver as they finish.
Weights never pass through the driver: the learner puts one object per version into the object store, workers read it
there, and the driver only holds the handle of the newest.  Ray is imported in this package's ray_*.py, except
ray_environment.py, and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from selfplay import models
from selfplay.cluster.learner_host import RewardTerms
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.past_policies import PastPolicies
from selfplay.cluster.play_worker import Played, PlayPlan
from selfplay.cluster.ray_actors import LearnerActor, Place, reserving
from selfplay.cluster.ray_failures import fetch_from, wait_for_start
from selfplay.cluster.ray_objects import Sent, read_files, write_files
from selfplay.cluster.ray_play_workers import PlayWorkers
from selfplay.cluster.ray_reward_workers import RewardWorkers
from selfplay.cluster.ray_start import connect
from selfplay.cluster.resources import Layout, check_room, lay_out
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.interfaces import Likelihood, Update
from selfplay.play import Match
from selfplay.plugins import make_portable
from selfplay.score import Parts, WeightedReward, merged, total
from selfplay.train_settings import TrainSettings

logger = logging.getLogger(__name__)


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
        self.facts: dict[str, Any] = {}
        self.tokenizers: Mapping[str, str] = {}  # hash -> description, for the run folder
        self._settings = settings
        self._rewards = list(rewards)
        self._say = say
        self._parts: dict[str, Parts] = {}  # of the cheap rewards, by conversation
        self._endings = ExitStack()  # what `close` does, the newest first
        is_own_ray = connect(settings.ray.address, say)
        if is_own_ray:
            self._endings.callback(ray.shutdown)
        try:
            self._start(plan, model, run.resolve(), is_own_ray=is_own_ray)
        except BaseException:
            self.close()
            raise

    def _start(self, plan: PlayPlan, model: ModelFiles, run: Path, *, is_own_ray: bool) -> None:
        settings = self._settings
        nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        layout = self._lay_out(nodes, is_own_ray=is_own_ray)
        check_room(layout.asks, nodes)
        for plugin in (plan.env, *(weighted.reward for weighted in self._rewards)):
            make_portable(plugin)
        if len(nodes) > 1:
            model = model.with_contents(put=ray.put, fetch=ray.get)
        device = layout.play.device(settings.engine.device)
        self._play_workers = PlayWorkers(
            Sent.of(replace(plan, model=model, threads=layout.play.threads, device=device)),
            layout.play,
            past=PastPolicies(keeps_all=plan.plays_adapters),
            block_size=settings.block_size or _share(settings, layout.play.count),
            start_timeout_seconds=settings.ray.start_timeout_seconds,
            say=self._say,
        )
        self._reward_workers = RewardWorkers(
            [weighted for weighted in self._rewards if not weighted.is_cheap],
            layout.reward,
            timeout_seconds=settings.reward_timeout_seconds,
            say=self._say,
        )
        learning = self._place_all(layout, model, run)
        timeout = settings.ray.start_timeout_seconds
        self._learner_place: Place = wait_for_start(learning, "the learner", timeout_seconds=timeout)
        self.facts.update(self._play_workers.wait_started())
        self.tokenizers = self._play_workers.tokenizers()

    def _lay_out(self, nodes: Sequence[Mapping[str, float]], *, is_own_ray: bool) -> Layout:
        """Return who reserves what; nodes: what each machine has."""
        return lay_out(
            self._settings,
            cores=models.num_cores() if is_own_ray else int(max(node.get("CPU", 1) for node in nodes)),
            gpus=max(node.get("GPU", 0.0) for node in nodes),
            is_one_machine=len(nodes) == 1,
            has_slow_rewards=any(weighted.is_slow for weighted in self._rewards),
        )

    def _place_all(self, layout: Layout, model: ModelFiles, run: Path) -> Any:
        """Place all actors, the learner near the driver, and return the handle of the learner's start."""
        self._node = str(ray.get_runtime_context().get_node_id())
        device = layout.learner.device(self._settings.engine.device)
        engine = self._settings.engine.model_copy(update={"device": device})
        self._learner = reserving(LearnerActor, layout.learner, near=self._node).remote(
            self._settings.model_copy(update={"engine": engine}),
            model,
            RewardTerms.of(self._rewards),
            layout.learner.threads,
            run,
        )
        self._endings.callback(self._end_learner)
        learning = self._learner.start.remote()
        for workers in (self._play_workers, self._reward_workers):
            self._endings.callback(workers.close)
            workers.place()
        return learning

    def _end_learner(self) -> None:
        ray.kill(self._learner)
        del self._learner

    @property
    def events(self) -> dict[str, float]:
        """Return what went wrong and was mended, counted."""
        return {
            "cluster/replaced_play_workers": float(self._play_workers.num_replaced),
            "cluster/replaced_reward_workers": float(self._reward_workers.num_replaced),
        }

    # ----- the verbs -----

    def play(self, matches: Sequence[Match]) -> Iterator[Conversation]:
        """Deal the matches to the play workers at once; yield conversations as they finish."""
        return self._receive(self._play_workers.play(matches))

    def _receive(self, finished: Iterator[Played]) -> Iterator[Conversation]:
        for played in finished:
            conversation = played.conversation
            self._parts[conversation.id] = played.parts
            self._reward_workers.begin(conversation)
            yield conversation

    def score(self, conversations: Sequence[Conversation]) -> list[ScoredConversation]:
        """Return the conversations with their rewards, in order."""
        cheap = [self._parts.pop(conversation.id) for conversation in conversations]
        return total(conversations, merged(cheap, *self._reward_workers.parts(conversations)), self._rewards)

    def learn(self, scored: Sequence[ScoredConversation]) -> Update:
        """Make one update."""
        handle = self._learner.learn.remote(list(scored))
        self._play_workers.play_on(until=handle)
        update: Update = fetch_from(handle, "the learner")
        return update

    def publish(self, update: Update) -> None:
        """Give every play worker the handle of the newest weights; the handle of the version before is dropped."""
        self._play_workers.load(fetch_from(self._learner.put_weights.remote(), "the learner"))
        if self._settings.max_staleness == 0:
            # Nobody plays now, so waiting costs nothing, and what is wrong with the weights is said here.
            self._play_workers.wait_loaded()

    def measure(self, conversations: Sequence[Conversation]) -> list[Likelihood]:
        """Return what the frozen reference says of what the trained roles said."""
        found: list[Likelihood] = fetch_from(self._learner.measure.remote(list(conversations)), "the learner")
        return found

    def save(self, folder: Path) -> None:
        """Write the policy, the tokenizer and the learner's state into an existing folder."""
        self._save(folder, is_whole=True)

    def save_policy(self, folder: Path) -> None:
        """Write the policy and the tokenizer, without the learner's state, into an existing folder."""
        self._save(folder, is_whole=False)

    def _save(self, folder: Path, *, is_whole: bool) -> None:
        files = fetch_from(self._learner.save.remote(folder.resolve(), self._node, is_whole), "the learner")
        write_files(folder, files or {})

    def introduce(self, past: Mapping[str, Path]) -> None:
        """Let matches name these past versions from now on."""
        self._play_workers.introduce(past)

    def restore(self, folder: Path) -> int:
        """Go on from what `save` wrote; return the version."""
        contents = {} if self._learner_place.node == self._node else read_files(folder)
        version = fetch_from(self._learner.restore.remote(folder.resolve(), contents), "the learner")
        self.publish(Update(version=version, metrics={}))
        return int(version)

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        self._endings.close()

    def places(self) -> dict[str, list[Place]]:
        """Return where the actors run, by kind: for whoever looks at what a run costs, or tests what kills it."""
        return {
            "learner": [self._learner_place],
            "play": self._play_workers.places(),
            "reward": self._reward_workers.places(),
        }


def _share(settings: TrainSettings, workers: int) -> int:
    """Return how many conversations a block has by default: whole groups, shared by the workers."""
    groups = settings.conversations // settings.group_size
    return -(-groups // workers) * settings.group_size
