"""Self-play against past selves, unmerged adapters of one model in one batch, against self-play in mirror.

    python -m benchmarks.league [model=smollm2-135m] [snapshots=8] [conversations=32] [turns=8] [tokens=32] [repeats=3]

All play the same scenarios.  "mirror" has one policy, an adapter merged into its model, in both roles.  "league" has
the policy in one role and a snapshot in the other: the conversations are divided among the snapshots and all are played
in one batch.  "one opponent" is the same with a single snapshot for all of them.  Adapters are random, `rank` wide on
every linear layer.  Every turn says exactly `tokens` tokens.  The arms take turns in one process; each then plays once
more in a process of its own for its memory: what it holds of weights, and its resident size at the most.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.measure import in_turn, machine, peak_gib, ratio, run_alone, table, words
from envs.chitchat import ChitChat
from selfplay import models
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayPlan, PlayWorker
from selfplay.dealing import LEARNER
from selfplay.interfaces import Sampling, Weights
from selfplay.learn.adapters import FACTORS
from selfplay.play import Match, make_matches

DEFAULTS = {
    "model": "smollm2-135m",
    "snapshots": 8,
    "conversations": 32,
    "turns": 8,
    "tokens": 32,
    "repeats": 3,
    "rank": 16,
    "threads": 0,
    "arm": "",
}
MIRROR, LEAGUE, ONE = "mirror", "league", "one opponent"
HEADER = ("arm", "said tokens/s", "of mirror (range)", "weights MiB", "peak RSS GiB")


def main() -> None:
    """Measure all arms in turn, or one alone for its memory."""
    chosen = words(DEFAULTS)
    if chosen["arm"]:
        print(json.dumps(_memory(chosen)))
        return
    arms = Arms(chosen)
    print(machine())
    rates = in_turn({name: partial(arms.rate, name) for name in (MIRROR, LEAGUE, ONE)}, repeats=chosen["repeats"])
    rows = []
    for name in (MIRROR, LEAGUE, ONE):
        held = run_alone("benchmarks.league", {**chosen, "arm": name})
        of_mirror = "1" if name == MIRROR else ratio(rates[name], rates[MIRROR])
        sizes = [f"{held['weight_bytes'] / 2**20:.0f}", f"{held['peak_gib']:.2f}"]
        rows.append([name, f"{statistics.median(rates[name]):.0f}", of_mirror, *sizes])
    print(table(HEADER, rows))


class Arms:
    """A play worker for policies that are merged, and one for those that are not; each is made when it is needed."""

    def __init__(self, chosen: dict[str, Any]) -> None:
        self._chosen = chosen
        self.env = ChitChat(max_turns=chosen["turns"])
        self._model = ModelFiles.of(chosen["model"], runs=Path("runs"), say=lambda _: None)
        self._workers: dict[bool, PlayWorker] = {}

    def rate(self, arm: str) -> float:
        """Play the conversations of an arm once and return the tokens it said a second."""
        worker = self.worker(is_merged=arm == MIRROR)
        start = time.perf_counter()
        said = 0
        for played in worker.play(self.matches(arm)):
            assert played.conversation.error is None, played.conversation.error
            said += sum(len(turn.said) for turn in played.conversation.turns)
        rate = said / (time.perf_counter() - start)
        assert said == self._chosen["conversations"] * self._chosen["turns"] * self._chosen["tokens"]
        print(f"{arm}: {rate:.0f} tokens/s", flush=True)
        return rate

    def worker(self, *, is_merged: bool) -> PlayWorker:
        """Return the worker, which has the adapters and has said something already."""
        if is_merged not in self._workers:
            made = self._workers[is_merged] = PlayWorker(self._plan(is_merged=is_merged))
            made.start()
            made.load(self.adapter(0))
            if not is_merged:
                made.meet({name: self.adapter(seed) for seed, name in enumerate(self._past(LEAGUE), 1)})
            list(made.play(self.matches(MIRROR)[:2]))
        return self._workers[is_merged]

    def matches(self, arm: str) -> list[Match]:
        """Return the arm's matches: the policy has each role in turn where it meets others."""
        num = self._chosen["conversations"]
        plain = make_matches(self.env, dict.fromkeys(self.env.roles, LEARNER), seed=0, num_matches=num, split="train")
        if arm == MIRROR:
            return list(plain)
        past, (first, second) = self._past(arm), self.env.roles
        met = [past[number * len(past) // num] for number in range(num)]
        return [
            replace(match, players={first: LEARNER, second: name} if number % 2 else {first: name, second: LEARNER})
            for number, (match, name) in enumerate(zip(plain, met, strict=True))
        ]

    def adapter(self, seed: int) -> Weights:
        """Return random factors, small enough that the model goes on speaking."""
        generator, rank = torch.Generator().manual_seed(seed), self._chosen["rank"]
        state = {}
        for name, (rows, columns) in self._shapes.items():
            state[name + FACTORS[0]] = torch.randn(rank, columns, generator=generator) / columns**0.5
            state[name + FACTORS[1]] = torch.randn(rows, rank, generator=generator) / 100
        return Weights(version=seed, state=state, adapter_scale=1.0)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        model = models.load(self._chosen["model"], device="cpu").model
        return {
            name: (module.weight.shape[0], module.weight.shape[1])
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module is not model.get_output_embeddings()
        }

    def _past(self, arm: str) -> list[str]:
        return [f"past:{number}" for number in range(1, 2 if arm == ONE else self._chosen["snapshots"] + 1)]

    def _plan(self, *, is_merged: bool) -> PlayPlan:
        chosen = self._chosen
        return PlayPlan(
            env=self.env,
            model=self._model,
            uses_adapters=True,
            plays_adapters=not is_merged,
            sampling=Sampling(max_new_tokens=chosen["tokens"], ignore_end_of_turn=True),
            device="cpu",
            threads=chosen["threads"],
            max_batch=chosen["conversations"],
            concurrency=chosen["conversations"],
        )


def _memory(chosen: dict[str, Any]) -> dict[str, float]:
    arms = Arms(chosen)
    worker = arms.worker(is_merged=chosen["arm"] == MIRROR)
    arms.rate(chosen["arm"])
    assert worker._engine is not None
    # What adapters are merged into is no part of the engine's.
    kept = {tensor.data_ptr(): tensor.nbytes for tensor in worker._first_state.values()}
    return {"weight_bytes": worker._engine.weight_bytes + sum(kept.values()), "peak_gib": peak_gib()}


if __name__ == "__main__":
    main()
