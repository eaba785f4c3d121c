"""Tokens a second of one update, against a plain step with transformers and AdamW.

    python -m benchmarks.learn [conversations=16] [turns=6] [said=32] [lengths=fixed,natural] [microbatch=1024]
                               [repeats=3] [model=smollm2-135m] [threads=0]

The streams have the shape of chit-chat in the perspective view, four conversations a scenario: a brief, then by turns
what the partner said and what the policy said, exactly `said` tokens a turn ("fixed") or a quarter to all of it
("natural").  Their tokens are drawn at random, since arithmetic takes the same time for all.  All arms learn from the
same tokens, and a rate counts each of them once.

"ours" and the plain arms train every parameter, "lora" trains adapters of rank 16.  The plain ones are what one writes
first: pad a micro-batch, full logits, log_softmax, gather, backward, AdamW; "plain_kl" scores the frozen reference too,
as ours do, and "plain" leaves that out.  Every arm runs in a process of its own, one at a time and in turn, so that its
peak memory is its own; a small update comes first and is not timed.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.measure import alone_in_turn, machine, peak_gib, ratio, table, words
from selfplay import models
from selfplay.dialog import Tokens
from selfplay.experience import Batch, Trajectory, pad
from selfplay.learn.build import build_learner
from selfplay.learn.model import score_tokens
from selfplay.train_settings import TrainSettings

DEFAULTS = {
    "conversations": 16,
    "turns": 6,
    "said": 32,
    "microbatch": 1024,
    "lengths": "fixed,natural",
    "repeats": 3,
    "model": "smollm2-135m",
    "threads": 0,
    "arm": "",
}
ARMS = ("ours", "lora", "plain_kl", "plain")
METHODS = {"ours": "full", "lora": "lora"}
ROLES = ("host", "guest")
# Tokens of a chit-chat brief that all scenarios share, that a scenario adds, and of the template around a heard turn.
BRIEF_TOKENS, TOPIC_TOKENS, FRAME_TOKENS = 12, 25, 12
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
    rows = [row for lengths in chosen["lengths"].split(",") for row in _compare({**chosen, "lengths": lengths})]
    header = ["lengths", "arm", "tokens/s", *(f"against {other} (range)" for other in ARMS[2:]), "peak RSS GiB"]
    print(table(header, rows))


def _compare(chosen: dict[str, Any]) -> list[list[str]]:
    results = alone_in_turn("benchmarks.learn", ARMS, chosen, repeats=chosen["repeats"])
    rates = {arm: [result["rate"] for result in results[arm]] for arm in ARMS}
    return [
        [
            chosen["lengths"],
            arm,
            f"{statistics.median(rates[arm]):.0f}",
            *("1" if arm == other else ratio(rates[arm], rates[other]) for other in ARMS[2:]),
            f"{max(result['peak_gib'] for result in results[arm]):.2f}",
        ]
        for arm in ARMS
    ]


def _measure(chosen: dict[str, Any]) -> dict[str, Any]:
    loaded = models.load(chosen["model"], device="cpu")
    trajectories = sampled(loaded.model, _streams(chosen, vocabulary=len(loaded.tokenizer)))
    method = METHODS.get(chosen["arm"])
    step = (
        _plain(loaded.model, chosen)
        if method is None
        else policy_step(loaded, method=method, microbatch=chosen["microbatch"])
    )
    step(trajectories[:2])
    start = time.perf_counter()
    step(trajectories)
    seconds = time.perf_counter() - start
    num_tokens = sum(trajectory.num_tokens for trajectory in trajectories)
    return {"rate": num_tokens / seconds, "tokens": num_tokens, "seconds": seconds, "peak_gib": peak_gib()}


def policy_step(loaded: models.LoadedModel, *, method: str, microbatch: int) -> Step:
    """Return one update of the policy learner, which scores its frozen reference too: KL in the loss, k2."""
    settings = TrainSettings.model_validate(
        {
            "model": loaded.name,
            "learner": {
                "algorithm": "reinforce",
                "method": method,
                "learning_rate": LEARNING_RATE,
                "tokens_per_microbatch": microbatch,
            },
            "kl": {"estimator": "k2", "coefficient": KL_COEFFICIENT},
        }
    )
    return build_learner(loaded, settings).step


def _plain(model: PreTrainedModel, chosen: dict[str, Any]) -> Step:
    reference = copy.deepcopy(model) if chosen["arm"] == "plain_kl" else None
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    def step(trajectories: Sequence[Trajectory]) -> None:
        num_acted = sum(int(trajectory.acted.sum()) for trajectory in trajectories)
        longest = max(trajectory.num_tokens for trajectory in trajectories)
        size = max(chosen["microbatch"] // longest, 1)
        for start in range(0, len(trajectories), size):
            _plain_loss(model, reference, pad(trajectories[start : start + size]), num_acted).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _plain_loss(model: PreTrainedModel, reference: PreTrainedModel | None, batch: Batch, num_acted: int) -> Tensor:
    logprobs = _plain_logprobs(model, batch)
    acted = batch.acted[:, 1:]
    loss = -(logprobs * batch.rewards.sum(dim=1, keepdim=True) * acted).sum() / num_acted
    if reference is None:
        return loss
    with torch.no_grad():
        theirs = _plain_logprobs(reference, batch)
    return loss + KL_COEFFICIENT * (0.5 * (logprobs - theirs).square() * acted).sum() / num_acted


def _plain_logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    logits = model(input_ids=batch.tokens, attention_mask=batch.exists.long()).logits
    return logits[:, :-1].log_softmax(dim=-1).gather(2, batch.tokens[:, 1:, None])[:, :, 0]


def _streams(chosen: dict[str, Any], *, vocabulary: int) -> list[Trajectory]:
    """Return a stream for each role of each conversation."""
    generator = np.random.default_rng(0)
    shortest = chosen["said"] if chosen["lengths"] == "fixed" else max(chosen["said"] // 4, 1)
    brief = generator.integers(vocabulary, size=BRIEF_TOKENS)
    rows = []
    for number in range(chosen["conversations"]):
        topic = np.random.default_rng([1, number // 4]).integers(vocabulary, size=TOPIC_TOKENS)
        said = generator.integers(shortest, chosen["said"] + 1, size=chosen["turns"]).tolist()
        opening = np.concatenate([brief, topic])
        rows += [_stream(number, place, opening, said, generator.integers(vocabulary, size=10_000)) for place in (0, 1)]
    return rows


def _stream(number: int, place: int, opening: Tokens, said: Sequence[int], drawn: Tokens) -> Trajectory:
    """Return what one role sees of a conversation: every second turn is its own, the others are framed and heard."""
    sizes, start = [], len(opening)
    for turn, size in enumerate(said):
        if turn % 2 == place:
            sizes += [start, size]
            start = 0
        else:
            start += size + FRAME_TOKENS
    ends = np.cumsum(sizes)
    acted = np.repeat([False, True] * (len(sizes) // 2), sizes)
    rewards = np.zeros(len(acted), dtype=np.float32)
    rewards[ends[1::2] - 1] = np.cos(drawn[: len(ends) // 2])
    group = f"000000-g{number // 4:02d}"
    return Trajectory(
        conversation=f"{group}-{number % 4}",
        group=group,
        version=0,
        truncated=False,
        roles=ROLES,
        tokens=np.concatenate([opening, drawn])[: len(acted)].astype(np.int32),
        acted=acted,
        role_index=np.full(len(acted), place, dtype=np.int8),
        turn=np.repeat(np.arange(len(sizes)) // 2 * 2 + place, sizes).astype(np.int32),
        logprobs=np.zeros(len(acted), dtype=np.float32),
        rewards=rewards,
    )


@torch.no_grad()
def sampled(model: PreTrainedModel, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return the streams with the log-probabilities that a sampler would have noted."""
    rows = []
    for trajectory in trajectories:
        batch = pad([trajectory])
        logprobs = score_tokens(model, batch.tokens, batch.acted, exists=batch.exists).logprobs[0]
        rows.append(replace(trajectory, logprobs=logprobs.numpy()))
    return rows


if __name__ == "__main__":
    main()
