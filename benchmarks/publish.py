"""How long new weights take from the learner to the engine of a play worker, through Ray's object store.

    python -m benchmarks.publish [model=smollm2-135m] [method=full] [workers=1] [repeats=10] [threads=0]

Publishing is complete when every play worker would answer with the new version.  With method=full that is the whole
model in float32 (540 MB for SmolLM2-135M), with method=lora the adapters.  The first one, which opens the pages of the
store, is shown apart.  Memory is each process's own, without the object store, after the second and the last.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, table, words
from benchmarks.processes import memory_gib
from envs.chitchat import ChitChat
from rewards.asking import Question
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.ray_cluster import RayCluster
from selfplay.interfaces import Update
from selfplay.play_plan import play_plan
from selfplay.score import WeightedReward
from selfplay.train_settings import TrainSettings

DEFAULTS = {"model": "smollm2-135m", "method": "full", "workers": 1, "repeats": 10, "threads": 0}
HEADER = ("method", "workers", "first s", "median s", "range s", "learner GiB", "play worker GiB")


def main() -> None:
    """Measure and print the table."""
    chosen = words(DEFAULTS)
    print(machine())
    settings = TrainSettings.model_validate(
        {
            "model": chosen["model"],
            "learner": {"method": chosen["method"]},
            "engine": {"device": "cpu", "threads": chosen["threads"]},
            "ray": {"play_workers": chosen["workers"]},
        }
    )
    env, rewards = ChitChat(), [WeightedReward(reward=Question())]
    model = ModelFiles.of(settings.model, runs=Path("runs"), say=lambda _: None)
    plan = play_plan(settings, env=env, model=model, rewards=rewards)
    with tempfile.TemporaryDirectory() as run:
        cluster = RayCluster(settings, plan=plan, model=model, rewards=rewards, run=Path(run))
        try:
            print(table(HEADER, [_measure(cluster, chosen)]))
        finally:
            cluster.close()


def _measure(cluster: RayCluster, chosen: dict[str, Any]) -> list[str]:
    places = cluster.places()
    seconds, held = [], []
    for _ in range(1 + chosen["repeats"]):
        start = time.perf_counter()
        cluster.publish(Update(version=0, metrics={}))
        seconds.append(time.perf_counter() - start)
        held.append(
            {kind: max(memory_gib(place.pid, "RssAnon") for place in places[kind]) for kind in ("learner", "play")}
        )
    first, *others = seconds
    return [
        chosen["method"],
        str(chosen["workers"]),
        f"{first:.2f}",
        f"{statistics.median(others):.2f}",
        f"{min(others):.2f} to {max(others):.2f}",
        *(f"{held[1][kind]:.2f} -> {held[-1][kind]:.2f}" for kind in ("learner", "play")),
    ]


if __name__ == "__main__":
    main()
