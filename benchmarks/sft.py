"""Tokens a second of imitation, against the policy learner of self-play on the same streams.

    python -m benchmarks.sft [conversations=32] [batch=8] [env=chitchat] [microbatch=1024] [repeats=3]
                             [model=smollm2-135m] [threads=0]

The streams are those of games that the environment's scripts play, each on a scenario of its own.  Both arms make one
update of every `batch` conversations; a rate counts each token once, also where a shared beginning is computed once.
The policy learner scores its frozen reference too, as it does in training (KL in the loss, k2).  Every arm runs in a
process of its own, one at a time and in turn; a small update comes first and is not timed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measure import machine, peak_gib, ratio, run_alone, table, words
from selfplay import models
from selfplay.commands.building import build_env
from selfplay.config import PluginSpec
from selfplay.experience import Trajectory, pad
from selfplay.generate.engine import context_of
from selfplay.learn.build import build_learner
from selfplay.learn.model import score_tokens
from selfplay.players import make_bridge
from selfplay.sft_data import scripted_lessons, streams_of
from selfplay.sft_settings import SftSettings
from selfplay.sft_training import batches, build_imitation
from selfplay.train_settings import TrainSettings

DEFAULTS = {
    "conversations": 32,
    "batch": 8,
    "env": "chitchat",
    "microbatch": 1024,
    "repeats": 3,
    "model": "smollm2-135m",
    "threads": 0,
    "arm": "",
}
METHODS = ("lora", "full")
GOAL = "at least 0.9x"
LEARNING_RATE, KL_COEFFICIENT = 1e-5, 0.1

Step = Callable[[Sequence[Trajectory]], object]


def main() -> None:
    """Measure one arm, or all of them in turn."""
    chosen = words(DEFAULTS)
    models.use_threads(chosen["threads"])
    if chosen["arm"]:
        print(json.dumps(_measure(chosen)))
        return
    print(machine())
    rows = [row for method in METHODS for row in _compare(method, chosen)]
    print(table(("arm", "tokens/s", "against the policy learner (range)", "goal", "peak RSS GiB"), rows))


def _compare(method: str, chosen: dict[str, Any]) -> Iterator[list[str]]:
    arms = (f"sft_{method}", f"policy_{method}")
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(chosen["repeats"]):
        for arm in arms:
            results[arm].append(run_alone("benchmarks.sft", {**chosen, "arm": arm}))
            print(arm, json.dumps(results[arm][-1]), flush=True)
    ours, theirs = ([result["rate"] for result in results[arm]] for arm in arms)
    for arm, rates in zip(arms, (ours, theirs), strict=True):
        is_ours = rates is ours
        yield [
            arm,
            f"{statistics.median(rates):.0f}",
            ratio(ours, theirs) if is_ours else "1",
            GOAL if is_ours else "",
            f"{max(result['peak_gib'] for result in results[arm]):.2f}",
        ]


def _measure(chosen: dict[str, Any]) -> dict[str, Any]:
    kind, _, method = chosen["arm"].partition("_")
    loaded = models.load(chosen["model"], device="cpu")
    settings = SftSettings.model_validate(
        {
            "from": "scripted",
            "env": chosen["env"],
            "model": chosen["model"],
            "conversations": chosen["conversations"],
            "batch": chosen["batch"],
            "method": method,
            "learning_rate": LEARNING_RATE,
            "tokens_per_microbatch": chosen["microbatch"],
            "held_out": 0.0,
        }
    )
    lessons = scripted_lessons(build_env(PluginSpec(name=chosen["env"])), settings).train
    rows = streams_of(lessons, make_bridge(loaded, view="perspective"), context=context_of(loaded.model)).rows
    if kind == "policy":
        rows = tuple(_sampled(loaded, own) for own in rows)
    every = list(batches(rows, settings, epoch=1))
    step = _sft(loaded, settings) if kind == "sft" else _policy(loaded, settings)
    step(every[0][:2])
    start, start_cpu = time.perf_counter(), time.process_time()
    for batch in every:
        step(batch)
    # Of all threads; where other programs run too, it says more than the time on the wall.
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}
    num_tokens = sum(row.num_tokens for batch in every for row in batch)
    return {"rate": num_tokens / took["seconds"], "tokens": num_tokens, **took, "peak_gib": peak_gib()}


def _sft(loaded: models.LoadedModel, settings: SftSettings) -> Step:
    return build_imitation(loaded, settings, num_updates=1, base_name=loaded.name).step


def _policy(loaded: models.LoadedModel, settings: SftSettings) -> Step:
    learner = {
        "algorithm": "reinforce",
        "method": settings.method,
        "learning_rate": LEARNING_RATE,
        "tokens_per_microbatch": settings.tokens_per_microbatch,
    }
    kl = {"estimator": "k2", "coefficient": KL_COEFFICIENT}
    return build_learner(loaded, TrainSettings.model_validate({"learner": learner, "kl": kl})).step


@torch.no_grad()
def _sampled(loaded: models.LoadedModel, rows: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
    """Return streams with the log-probabilities that a sampler would have noted, and rewards that differ."""
    found = []
    for number, row in enumerate(rows):
        batch = pad([row])
        logprobs = score_tokens(loaded.model, batch.tokens, batch.acted, exists=batch.exists).logprobs[0]
        found.append(replace(row, logprobs=logprobs.numpy(), rewards=row.rewards + float(number)))
    return tuple(found)


if __name__ == "__main__":
    main()
