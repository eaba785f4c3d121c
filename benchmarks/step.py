"""One whole self-play step: play, score, learn, publish; against TRL's GRPOTrainer on the same work.

    pip install -e ".[bench]"
    python -m benchmarks.step [conversations=16] [turns=6] [tokens=32] [steps=1] [repeats=2] [model=smollm2-135m]
        [arms=perspective,shared,ray,trl_perspective,trl_shared] [method=full] [threads=0] [trl_batch=4]

Every turn says exactly `tokens` tokens at temperature 1 from the whole vocabulary; GRPO in groups of `group`, KL to the
starting policy in the loss.  Every arm runs in a process of its own, one at a time and in turn; a step before the
measured ones pays for what is only paid once.  "ray" is the perspective arm on Ray actors, `trl_batch` TRL's rows in a
forward pass.  Ratios are of said tokens per second of the whole step, against TRL in the same view.

"ceiling" is what the step's matrix products alone would take at the rate at which this machine multiplies large
matrices: 2 operations a parameter for each token read, said or scored, 6 for each token trained.  Peak memory on Ray is
the sum of every process's own peak.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import trl_step
from benchmarks.measure import machine, peak_gib, ratio, run_alone, table, words
from benchmarks.processes import memory_gib
from envs.chitchat import ChitChat
from rewards.asking import Question
from selfplay import models
from selfplay.cluster.model_files import ModelFiles
from selfplay.dealing import Dealer
from selfplay.dialog import Conversation, id_order
from selfplay.interfaces import Sampling, Update
from selfplay.play_plan import play_plan
from selfplay.score import WeightedReward
from selfplay.train_settings import TrainSettings

DEFAULTS = {
    "conversations": 16,
    "turns": 6,
    "tokens": 32,
    "group": 4,
    "steps": 1,
    "repeats": 2,
    "model": "smollm2-135m",
    "method": "full",
    "arms": "perspective,shared,ray,trl_perspective,trl_shared",
    "threads": 0,
    "trl_batch": 4,
    "arm": "",
}
RAY, TRL = "ray", "trl_"
HEADER = ("arm", "said tokens/s", "ratio (range)", "play s", "learn s", "ceiling s", "tokens trained", "peak RSS GiB")


def main() -> None:
    """Measure one arm, or all of them in turn."""
    chosen = words(DEFAULTS)
    models.use_threads(chosen["threads"])
    if chosen["arm"]:
        print(json.dumps(_measure(chosen)))
        return
    print(machine())
    arms = chosen["arms"].split(",")
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(chosen["repeats"]):
        for arm in arms:
            results[arm].append(run_alone("benchmarks.step", {**chosen, "arm": arm}))
            print(arm, json.dumps(results[arm][-1]), flush=True)
    print(table(HEADER, [_row(arm, results) for arm in arms]))


def _row(arm: str, results: dict[str, list[dict[str, Any]]]) -> list[str]:
    rates = [rate for result in results[arm] for rate in _rates(result)]
    theirs = results.get(TRL + _view_of(arm), [])
    first = results[arm][0]
    return [
        arm,
        f"{statistics.median(rates):.1f}",
        ratio(rates, [rate for result in theirs for rate in _rates(result)]) if theirs else "-",
        f"{statistics.median(second for result in results[arm] for second in result['play']):.1f}",
        f"{statistics.median(second for result in results[arm] for second in result['learn']):.1f}",
        f"{first['ceiling_play']:.1f} + {first['ceiling_learn']:.1f}" if "ceiling_play" in first else "-",
        str(first["trained"]),
        f"{max(result['peak_gib'] for result in results[arm]):.2f}",
    ]


def _rates(result: dict[str, Any]) -> list[float]:
    return [result["said"] / (play + learn) for play, learn in zip(result["play"], result["learn"], strict=True)]


def _view_of(arm: str) -> str:
    return "shared" if arm.endswith("shared") else "perspective"


def _measure(chosen: dict[str, Any]) -> dict[str, Any]:
    if chosen["arm"].startswith(TRL):
        result = trl_step.measure(chosen, view=_view_of(chosen["arm"]))
        return {**result, "peak_gib": peak_gib()}
    return _ours(chosen)


def _settings(chosen: dict[str, Any]) -> TrainSettings:
    return TrainSettings.model_validate(
        {
            "steps": 1000,
            "model": chosen["model"],
            "view": _view_of(chosen["arm"]),
            "conversations": chosen["conversations"],
            "group_size": chosen["group"],
            "sampling": {"temperature": 1.0, "max_new_tokens": chosen["tokens"]},
            "engine": {"device": "cpu", "threads": chosen["threads"]},
            "learner": {"algorithm": "grpo", "method": chosen["method"], "learning_rate": 1e-5},
            "kl": {"place": "loss", "estimator": "k3", "coefficient": 0.1},
            "cluster": "ray" if chosen["arm"] == RAY else "local",
        }
    )


def _ours(chosen: dict[str, Any]) -> dict[str, Any]:
    settings, env = _settings(chosen), ChitChat(max_turns=chosen["turns"])
    dealer = Dealer(env=env, seed=0, conversations=chosen["conversations"], group_size=chosen["group"])
    with tempfile.TemporaryDirectory() as run:
        return _timed(_cluster(settings, env, chosen, run=Path(run)), dealer, chosen)


def _timed(cluster: Any, dealer: Dealer, chosen: dict[str, Any]) -> dict[str, Any]:
    try:
        took = [_step(cluster, dealer, step) for step in range(chosen["steps"] + 1)][1:]
        peak = peak_gib() + _peak_of_actors(cluster)
    finally:
        cluster.close()
    conversations, update = took[-1]["conversations"], took[-1]["update"]
    return {
        "said": sum(len(turn.said) for one in conversations for turn in one.turns),
        "play": [one["play"] for one in took],
        "learn": [one["learn"] for one in took],
        "trained": int(update.metrics["learn/tokens"]),
        "peak_gib": peak,
        **_ceiling(chosen, conversations, update),
    }


def _cluster(settings: TrainSettings, env: ChitChat, chosen: dict[str, Any], *, run: Path) -> Any:
    rewards = [WeightedReward(reward=Question())]
    model = ModelFiles.of(settings.model, runs=Path("runs"), say=lambda _: None)
    plan = play_plan(settings, env=env, model=model, rewards=rewards)
    # A setting of its own would be of no use but to benchmarks.
    plan = replace(plan, sampling=Sampling(max_new_tokens=chosen["tokens"], ignore_end_of_turn=True))
    if settings.cluster == "ray":
        from selfplay.cluster.ray_cluster import RayCluster

        return RayCluster(settings, plan=plan, model=model, rewards=rewards, run=run)
    from selfplay.cluster.local import LocalCluster

    return LocalCluster(settings, plan=plan, model=model, rewards=rewards, run=run)


def _step(cluster: Any, dealer: Dealer, step: int) -> dict[str, Any]:
    start = time.perf_counter()
    conversations = sorted(cluster.play(dealer.training(step)), key=lambda one: id_order(one.id))
    scored = cluster.score(conversations)
    played = time.perf_counter()
    update = cluster.learn(scored)
    cluster.publish(update)
    end = time.perf_counter()
    assert not any(one.conversation.error for one in scored)
    return {"conversations": conversations, "update": update, "play": played - start, "learn": end - played}


def _ceiling(chosen: dict[str, Any], conversations: list[Conversation], update: Update) -> dict[str, float]:
    """Return the seconds that the products need: all layers for every token, the vocabulary where one was sampled."""
    model = models.load(chosen["model"], device="cpu", dtype="float32").model
    head = model.get_output_embeddings().weight.numel()  # the embedding too, where they are tied; it multiplies nothing
    layers = sum(parameter.numel() for parameter in model.parameters()) - head
    turns = [turn for one in conversations for turn in one.turns]
    heard, said = sum(len(turn.heard) for turn in turns), sum(len(turn.said) for turn in turns)
    trained, acted = update.metrics["learn/tokens"], update.metrics["learn/acted_tokens"]
    # The policy forward and backward, the reference forward: 3 + 1 passes; adapters need no gradient of the weights.
    passes = 4 if chosen["method"] == "full" else 3
    rate = _products_per_second()
    return {
        "ceiling_play": 2 * (layers * (heard + said) + head * said) / rate,
        "ceiling_learn": 2 * passes * (layers * trained + head * acted) / rate,
    }


def _products_per_second(size: int = 2048, repeats: int = 5) -> float:
    """Return floating-point operations a second of a large matrix product."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, right)
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return max(rates)


def _peak_of_actors(cluster: Any) -> float:
    places: Mapping[str, Sequence[Any]] = cluster.places() if hasattr(cluster, "places") else {}
    return sum(memory_gib(place.pid, "VmHWM") for kind in places.values() for place in kind)


if __name__ == "__main__":
    main()
