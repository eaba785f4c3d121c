"""How well many Ray play workers keep busy: players that wait instead of thinking, against the ideal.

    python -m benchmarks.scale [workers=32] [conversations=16] [turns=6] [wait_ms=50] [repeats=3]

Both roles are scripts that sleep `wait_ms` a turn, so a worker that loses no time says 1000 / wait_ms turns a second,
and all of them as many times that, whatever the machine's cores do.  `conversations` is each worker's share.  Also
shown: whether workers imported torch, which they need not for scripts, and what a worker holds in memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, table, words
from benchmarks.processes import has_torch, memory_gib
from envs.chitchat import ChitChat
from rewards.asking import Question
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayPlan
from selfplay.cluster.ray_cluster import RayCluster
from selfplay.dealing import Dealer
from selfplay.dialog import Conversation
from selfplay.players import SCRIPTED
from selfplay.score import WeightedReward
from selfplay.train_settings import TrainSettings

DEFAULTS = {"workers": 32, "conversations": 16, "turns": 6, "wait_ms": 50.0, "repeats": 3}
HEADER = ("workers", "turns", "seconds", "turns/s", "ideal", "share (range)", "torch in workers", "a worker's RSS MiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowTalk(ChitChat):
    """Chit-chat whose scripts take their time."""

    wait_seconds: float = 0.05

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return the next message, later."""
        time.sleep(self.wait_seconds)
        return ChitChat.scripted(self, conversation, role)


def main() -> None:
    """Measure and print the table."""
    chosen = words(DEFAULTS)
    print(machine())
    env = SlowTalk(max_turns=chosen["turns"], wait_seconds=chosen["wait_ms"] / 1000)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as run:
        cluster = _cluster(env, chosen, run=Path(run))
    try:
        print(f"started in {time.perf_counter() - start:.1f} s", flush=True)
        print(table(HEADER, [_measure(cluster, env, chosen)]))
    finally:
        cluster.close()


def _cluster(env: SlowTalk, chosen: dict[str, Any], *, run: Path) -> RayCluster:
    settings = TrainSettings.model_validate(
        {
            "model": "tiny",  # the learner's; nobody plays with it
            "conversations": chosen["workers"] * chosen["conversations"],
            "group_size": 1,
            "engine": {"device": "cpu", "threads": 1},
            "ray": {
                "play_workers": chosen["workers"],
                "play_cpus": 0.01,
                "learner_cpus": 0.1,
                "start_timeout_seconds": 600,
            },
        }
    )
    rewards = [WeightedReward(reward=Question())]
    model = ModelFiles.of(settings.model, runs=Path("runs"), say=lambda _: None)
    plan = PlayPlan(
        env=env,
        model=model,
        rewards=tuple(rewards),
        fixed=dict.fromkeys(env.roles, SCRIPTED),
        has_policy=False,
        concurrency=chosen["conversations"],
    )
    return RayCluster(settings, plan=plan, model=model, rewards=rewards, run=run)


def _measure(cluster: RayCluster, env: SlowTalk, chosen: dict[str, Any]) -> list[str]:
    num = chosen["workers"] * chosen["conversations"]
    dealer = Dealer(env=env, seed=0, conversations=num, fixed=dict.fromkeys(env.roles, SCRIPTED))
    ideal = chosen["workers"] / (chosen["wait_ms"] / 1000)
    turns, took = 0, []
    for step in range(chosen["repeats"]):
        matches = dealer.training(step)
        start = time.perf_counter()
        played = list(cluster.play(matches))
        took.append(time.perf_counter() - start)
        turns = sum(one.num_turns for one in played)
        assert len(played) == num
        assert turns == num * chosen["turns"], [one.error for one in played if one.error][:1]
    shares = [turns / seconds / ideal for seconds in took]
    pids = [place.pid for place in cluster.places()["play"]]
    return [
        str(chosen["workers"]),
        str(turns),
        f"{statistics.median(took):.2f}",
        f"{statistics.median(turns / seconds for seconds in took):.0f}",
        f"{ideal:.0f}",
        f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})",
        f"{sum(has_torch(pid) for pid in pids)} of {len(pids)}",
        f"{1024 * statistics.median(memory_gib(pid, 'VmRSS') for pid in pids):.0f}",
    ]


if __name__ == "__main__":
    main()
