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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.learn import LEARNING_RATE, Step, policy_step, sampled
from benchmarks.measure import alone_in_turn, machine, peak_gib, ratio, table, words
from selfplay import models
from selfplay.commands.building import build_env
from selfplay.config import PluginSpec
from selfplay.experience import Trajectory
from selfplay.generate.served import context_of
from selfplay.players import make_bridge
from selfplay.sft_data import scripted_lessons, streams_of
from selfplay.sft_settings import SftSettings
from selfplay.sft_training import batches, build_imitation

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
    results = alone_in_turn("benchmarks.sft", arms, chosen, repeats=chosen["repeats"])
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
        rows = tuple(_rewarded(sampled(loaded.model, own)) for own in rows)
    every = list(batches(rows, settings, epoch=1))
    step = (
        _sft(loaded, settings) if kind == "sft" else policy_step(loaded, method=method, microbatch=chosen["microbatch"])
    )
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


def _rewarded(rows: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
    """Return streams with rewards that differ, for equal ones give no advantage."""
    return tuple(replace(row, rewards=row.rewards + float(number)) for number, row in enumerate(rows))


if __name__ == "__main__":
    main()
