"""Trajectories for tests of learning: drawn at random, with the log-probabilities of the model that acts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from selfplay.experience import Trajectory, pad
from selfplay.learn.model import score_tokens

ROLES = ("host", "guest")


def stream(
    runs: Sequence[tuple[int, int]], rewards: Sequence[float], *, name: str = "000000-g00-0", **changes: object
) -> Trajectory:
    """One stream of one role's turns, each (tokens heard, tokens said); rewards one a turn."""
    sizes = [size for run in runs for size in run]
    acted = np.repeat([False, True] * len(runs), sizes)
    values = np.zeros(sum(sizes), dtype=np.float32)
    values[np.cumsum(sizes)[1::2] - 1] = rewards
    made = Trajectory(
        conversation=name,
        group=name.rpartition("-")[0],
        version=0,
        truncated=False,
        roles=ROLES,
        tokens=np.arange(1, sum(sizes) + 1, dtype=np.int32),
        acted=acted,
        role_index=np.zeros(sum(sizes), dtype=np.int8),
        turn=np.repeat(2 * np.arange(len(runs)), [sum(run) for run in runs]).astype(np.int32),
        logprobs=np.where(acted, -0.5, 0.0).astype(np.float32),
        rewards=values,
    )
    return replace(made, **changes)


def sampled(model, *, num: int = 8, seed: int = 0, turns: int = 2) -> list[Trajectory]:
    """Streams of random tokens in groups of four, as if the model had said them; rewards are drawn too."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(num):
        opening = np.random.default_rng([seed, number // 4]).integers(250, size=10)
        runs = [(10, int(generator.integers(2, 6))), *[(int(generator.integers(2, 6)), 3)] * (turns - 1)]
        made = stream(runs, generator.normal(size=turns), name=f"000000-g{number // 4:02d}-{number % 4}")
        tokens = generator.integers(250, size=made.num_tokens).astype(np.int32)
        tokens[:10] = opening
        batch = pad([replace(made, tokens=tokens)])
        with torch.no_grad():
            logprobs = score_tokens(model, batch.tokens, batch.acted, exists=batch.exists).logprobs[0]
        rows.append(replace(made, tokens=tokens, logprobs=logprobs.numpy()))
    return rows
