"""How many actors there are, what each reserves, and how torch's threads are shared among them; no ray in here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfplay.errors import UserError
from selfplay.train_settings import TrainSettings

CORES_PER_PLAY_WORKER = 4  # by default, from 8 cores on
FEW_CORES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Actors of one kind and what each of them reserves."""

    kind: str  # "play worker", "learner", "reward worker"
    count: int
    cpus: float
    gpus: float = 0.0
    threads: int = 1  # of torch

    def device(self, chosen: str) -> str:
        """Return the torch device of such an actor: who reserves no GPU keeps off it, unless the user chose one."""
        return chosen if chosen != "auto" else "cuda" if self.gpus else "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All actors of a run."""

    play: Ask
    learner: Ask
    reward: Ask

    @property
    def asks(self) -> tuple[Ask, ...]:
        """Return those that there are any of."""
        return tuple(ask for ask in (self.learner, self.play, self.reward) if ask.count)


def lay_out(
    settings: TrainSettings, *, cores: int, gpus: float = 0, is_one_machine: bool, has_slow_rewards: bool
) -> Layout:
    """Return who reserves what.

    On one machine the actors share its cores: with max_staleness=0 playing and learning take turns, so each may use
    all cores and reserves half of them; above 0 they work at the same time, so the threads are divided.  Its GPUs,
    where the settings give nobody any, are shared too: with one, learner and players have half each; with more, the
    learner has one and the players the others.  On several machines each actor has what the settings say, and as many
    threads as it reserves CPUs.
    """
    ray = settings.ray
    workers = ray.play_workers or (1 if cores < FEW_CORES else cores // CORES_PER_PLAY_WORKER)
    if is_one_machine and workers > cores and not ray.play_cpus:
        raise UserError(
            f"ray.play_workers={workers} are more than the {cores} cores of this machine; ask for {cores} at most, or "
            "say with ray.play_cpus what part of a core each gets"
        )
    takes_turns = settings.max_staleness == 0
    fair = cores / 2
    play_cpus = ray.play_cpus or (_whole(fair / workers) if is_one_machine else 1.0)
    learner_cpus = ray.learner_cpus or (_whole(fair) if is_one_machine else 1.0)
    if is_one_machine:
        for_learning = cores if takes_turns else max(1, cores // 2)
        for_playing = max(1, (cores if takes_turns else cores - for_learning) // workers)
    else:
        for_learning, for_playing = max(1, int(learner_cpus)), max(1, int(play_cpus))
    learner_gpus, play_gpus = ray.learner_gpus, ray.play_gpus
    if is_one_machine and gpus and not (learner_gpus or play_gpus) and settings.engine.device == "auto":
        learner_gpus = 0.5 if gpus < 2 else 1.0
        play_gpus = _whole((gpus - learner_gpus) / workers)
    fixed = settings.engine.threads
    num_reward = ray.reward_workers or (1 if has_slow_rewards else 0)
    return Layout(
        play=Ask(kind="play worker", count=workers, cpus=play_cpus, gpus=play_gpus, threads=fixed or for_playing),
        learner=Ask(kind="learner", count=1, cpus=learner_cpus, gpus=learner_gpus, threads=fixed or for_learning),
        # A reward worker waits most of the time: it reserves nothing, and must not take a core from the others.
        reward=Ask(kind="reward worker", count=num_reward, cpus=0.0),
    )


def _whole(cpus: float) -> float:
    """Return what Ray accepts: above 1, whole numbers only; a part is rounded down, so that all parts fit."""
    return float(int(cpus)) if cpus >= 1 else math.floor(cpus * 100) / 100


def check_room(asks: Sequence[Ask], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise UserError with the exact shortfall if the actors do not fit.

    nodes: what each machine of the cluster has, by Ray's names CPU and GPU.  An actor needs one machine for itself.
    """
    for name, amount in (("CPU", "cpus"), ("GPU", "gpus")):
        asked = sum(ask.count * getattr(ask, amount) for ask in asks)
        there = sum(node.get(name, 0.0) for node in nodes)
        if asked > there + 1e-9:
            whose = " + ".join(
                f"{ask.count} {ask.kind}{'s' if ask.count > 1 else ''} x {getattr(ask, amount):g}"
                for ask in asks
                if getattr(ask, amount)
            )
            raise UserError(
                f"the cluster has {there:g} {name}s and this run asks for {asked:g} ({whose}): "
                f"{asked - there:g} too few; lower ray.play_workers, ray.play_{amount} or ray.learner_{amount}, or add "
                "machines"
            )
    left = [dict(node) for node in nodes]
    for ask in sorted(asks, key=lambda ask: (-ask.gpus, -ask.cpus)):
        for number in range(ask.count):
            home = next((node for node in left if _fits(ask, node)), None)
            if home is None:
                raise UserError(
                    f"no machine of the cluster has room for {ask.kind} {number + 1} of {ask.count}, which asks for "
                    f"{ask.cpus:g} CPUs and {ask.gpus:g} GPUs on one machine (they have {_shown(nodes)}); "
                    "ask for less for each"
                )
            home["CPU"] = home.get("CPU", 0.0) - ask.cpus
            home["GPU"] = home.get("GPU", 0.0) - ask.gpus


def _fits(ask: Ask, node: Mapping[str, float]) -> bool:
    return node.get("CPU", 0.0) + 1e-9 >= ask.cpus and node.get("GPU", 0.0) + 1e-9 >= ask.gpus


def _shown(nodes: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
