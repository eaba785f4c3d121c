"""How fast reward models are: trained, asked, on pairs that begin alike, on sentence vectors, and in a `chat` step.

    python -m benchmarks.reward_model [arms=train,score,pairs,minilm,chat] [conversations=16] [turns=6] [words=22]
        [scored=64] [pairs=5000] [steps=3] [microbatch=1024] [repeats=3] [model=smollm2-135m] [threads=0]

Messages are words drawn from the package's word list, a quarter of `words` to all of them; four conversations share
their instructions.  Every arm runs in a process of its own, one at a time and in turn; rates count each token once,
also where a shared beginning is computed once.

"train" is one update: a language model as a reward model, and as a policy (with its KL to the reference), from the same
tokens.  "score" reads dialogs that it never saw, tokenising included; "plain" is the forward pass of transformers'
sequence classifier over as many tokens, in batches of about equal length, tokenised beforehand.  "pairs" trains on
pairs that differ in their last reply: "packed" computes what they share once, "padded" is the same scorer without that.
"minilm" fits the default ensemble to pairs that differ in their last reply, vectors included.  "chat" plays and learns
steps of the preset with one process, and scores the conversations of a later step than the first: its seconds, which
nothing hides here, against those of playing and learning.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import machine, peak_gib, ratio, run_alone, table, words
from rewards.language import VOCABULARY
from rewards.preference import PreferenceReward
from selfplay import models
from selfplay.dialog import Tokens
from selfplay.experience import Trajectory, pad
from selfplay.learn.build import build_learner
from selfplay.learn.model import score_tokens
from selfplay.learn.preference import pair_loss
from selfplay.rescore import stored_conversations
from selfplay.reward_model import folder
from selfplay.reward_model.dialogs import Dialog, Message
from selfplay.reward_model.examples import Example, split_examples
from selfplay.reward_model.fit import fit
from selfplay.reward_model.lm_scorer import LMScorer, build_lm_scorer
from selfplay.reward_model.lm_tokens import DialogTokens
from selfplay.reward_model.model import SIZE_PER_PASS, in_passes
from selfplay.reward_model.scorer import value_of
from selfplay.reward_model.settings import FitSettings
from selfplay.store import RunReader
from selfplay.train_settings import TrainSettings

DEFAULTS = {
    "arms": "train,score,pairs,minilm,chat",
    "conversations": 16,
    "turns": 6,
    "words": 22,
    "scored": 64,
    "pairs": 5000,
    "steps": 3,
    "microbatch": 1024,
    "repeats": 3,
    "model": "smollm2-135m",
    "threads": 0,
    "arm": "",
}
# What is compared with what: the first of each over the second.
COMPARED = {
    "train": (("reward_lora", "policy_lora"), ("reward_full", "policy_full")),
    "score": (("ours", "plain"),),
    "pairs": (("packed", "padded"),),
}
GOALS = {"train": "at least 0.9x", "score": "at least 0.8x", "pairs": "-"}
TOPIC_WORDS, GROUP, REPLIES = 20, 4, 2
LEARNING_RATE, KL_COEFFICIENT = 1e-5, 0.1

Words = Iterator[str]


def main() -> None:
    """Measure one arm, or all of them in turn."""
    chosen = words(DEFAULTS)
    models.use_threads(chosen["threads"])
    if chosen["arm"]:
        print(json.dumps({**ARMS[chosen["arm"]](chosen), "peak_gib": peak_gib()}))
        return
    print(machine())
    wanted = chosen["arms"].split(",")
    rows = [row for name in wanted if name in COMPARED for row in _compare(name, chosen)]
    if rows:
        print(table(("what", "arm", "tokens/s", "against", "ratio (range)", "goal", "peak RSS GiB"), rows))
    for name in wanted:
        if name not in COMPARED:
            print(f"\n{name}: {json.dumps(run_alone('benchmarks.reward_model', {**chosen, 'arm': name}))}")


def _compare(name: str, chosen: dict[str, Any]) -> list[list[str]]:
    arms = [arm for both in COMPARED[name] for arm in both]
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(chosen["repeats"]):
        for arm in arms:
            results[arm].append(run_alone("benchmarks.reward_model", {**chosen, "arm": arm}))
            print(arm, json.dumps(results[arm][-1]), flush=True)
    rates = {arm: [result["rate"] for result in results[arm]] for arm in arms}
    return [
        [
            name,
            arm,
            f"{statistics.median(rates[arm]):.0f}",
            other,
            "1" if arm == other else ratio(rates[arm], rates[other]),
            "" if arm == other else GOALS[name],
            f"{max(result['peak_gib'] for result in results[arm]):.2f}",
        ]
        for ours, other in COMPARED[name]
        for arm in (ours, other)
    ]


# ----- training -----


def _reward(chosen: dict[str, Any]) -> dict[str, Any]:
    method = chosen["arm"].removeprefix("reward_")
    scorer = _scorer(chosen, method=method)
    dialogs = _talks(chosen, num=chosen["conversations"])
    # Each conversation against the next of its scenario, seen from the same role.
    pairs = [(dialogs[n + side], dialogs[n + 2 + side]) for n in range(0, len(dialogs) - 2, 4) for side in (0, 1)]
    return _timed_update(scorer, pairs, chosen["microbatch"])


def _policy(chosen: dict[str, Any]) -> dict[str, Any]:
    loaded = models.load(chosen["model"], device="cpu")
    tokens = DialogTokens(loaded.tokenizer, model_name=chosen["model"], scope="turn", max_tokens=1 << 20)
    rows = []
    for number, dialog in enumerate(_talks(chosen, num=chosen["conversations"])):
        stream = tokens.stream(dialog)
        said = [message.text for message in dialog.messages if message.is_focus]
        # A place is that of the line break behind a turn's end.
        ends = zip(stream.places, loaded.tokenizer(said, add_special_tokens=False)["input_ids"], strict=True)
        rows.append(_trajectory(number, stream.tokens, [(end - len(ids) - 1, end) for end, ids in ends], loaded))
    group = {"algorithm": "reinforce", "method": chosen["arm"].removeprefix("policy_"), "learning_rate": LEARNING_RATE}
    settings = TrainSettings.model_validate(
        {
            "model": chosen["model"],
            "learner": {**group, "tokens_per_microbatch": chosen["microbatch"]},
            "kl": {"estimator": "k2", "coefficient": KL_COEFFICIENT},
        }
    )
    learner = build_learner(loaded, settings)
    learner.step(rows[:2])
    start = time.perf_counter()
    learner.step(rows)
    return _rate(sum(row.num_tokens for row in rows), time.perf_counter() - start)


@torch.no_grad()
def _trajectory(
    number: int, tokens: Tokens, turns: Sequence[tuple[int, int]], loaded: models.LoadedModel
) -> Trajectory:
    """Return a dialog as what a policy learns from: it said what the focus role did."""
    acted, turn = np.zeros(len(tokens), dtype=bool), np.zeros(len(tokens), dtype=np.int32)
    rewards = np.zeros(len(tokens), dtype=np.float32)
    for k, (first, end) in enumerate(turns):
        acted[first:end], turn[first:], rewards[end - 1] = True, 2 * k, np.cos(number + k)
    group = f"000000-g{number // (2 * GROUP):02d}"
    row = Trajectory(
        conversation=f"{group}-{number % (2 * GROUP)}",
        group=group,
        version=0,
        truncated=False,
        roles=("host", "guest"),
        tokens=tokens,
        acted=acted,
        role_index=np.zeros(len(tokens), dtype=np.int8),
        turn=turn,
        rewards=rewards,
        logprobs=np.zeros(len(tokens), dtype=np.float32),
    )
    batch = pad([row])
    # What a sampler would have noted.
    logprobs = score_tokens(loaded.model, batch.tokens, batch.acted, exists=batch.exists).logprobs[0]
    return replace(row, logprobs=logprobs.numpy())


def _pairs(chosen: dict[str, Any]) -> dict[str, Any]:
    scorer = _scorer(chosen, method="lora")
    if chosen["arm"] == "padded":
        scorer.model.set_attn_implementation("sdpa")
    return _timed_update(scorer, list(_forks(chosen, num=chosen["conversations"])), chosen["microbatch"])


def _timed_update(scorer: LMScorer, pairs: Sequence[tuple[Dialog, Dialog]], microbatch: int) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=LEARNING_RATE)

    def update(some: Sequence[tuple[Dialog, Dialog]]) -> None:
        for part in _parts(scorer, some, microbatch):
            numbers = scorer.read([dialog for pair in part for dialog in pair])
            both = torch.stack([value_of(one, "conversation") for one in numbers]).view(-1, 2)
            loss = pair_loss(both[:, 0] - both[:, 1], torch.ones(len(part))).sum() / len(some)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has not typed it
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    update(pairs[:1])
    start = time.perf_counter()
    update(pairs)
    seconds = time.perf_counter() - start
    return _rate(sum(scorer.size(dialog) for pair in pairs for dialog in pair), seconds)


def _parts(
    scorer: LMScorer, pairs: Sequence[tuple[Dialog, Dialog]], limit: int
) -> Iterator[Sequence[tuple[Dialog, Dialog]]]:
    part: list[tuple[Dialog, Dialog]] = []
    total = 0
    for pair in pairs:
        size = sum(map(scorer.size, pair))
        if part and total + size > limit:
            yield part
            part, total = [], 0
        part.append(pair)
        total += size
    yield part


# ----- scoring -----


def _score(chosen: dict[str, Any]) -> dict[str, Any]:
    scorer = _scorer(chosen, method="full")
    # Nothing is shared but the template's own beginning.
    dialogs = [dialog for seed in range(chosen["scored"]) for dialog in _talks(chosen, num=1, seed=1 + seed)[:1]]
    with torch.inference_mode():
        scorer.read(_talks(chosen, num=1)[:1])
        start = time.perf_counter()
        for part in in_passes(dialogs, scorer, limit=SIZE_PER_PASS):
            scorer.read(part)
        seconds = time.perf_counter() - start
    sizes = [scorer.size(dialog) for dialog in dialogs]
    return _rate(sum(sizes), seconds) if chosen["arm"] == "ours" else _plain(scorer, sizes)


@torch.inference_mode()
def _plain(scorer: LMScorer, sizes: Sequence[int]) -> dict[str, Any]:
    model: Any = scorer.model
    model.set_attn_implementation("sdpa")
    model.config.pad_token_id = 0
    batches: list[list[int]] = [[]]
    for size in sorted(sizes, reverse=True):
        if batches[-1] and batches[-1][0] * (len(batches[-1]) + 1) > SIZE_PER_PASS:
            batches.append([])
        batches[-1].append(size)
    inputs = []
    for batch in batches:
        exists = torch.arange(batch[0]) < torch.tensor(batch)[:, None]
        inputs.append({"input_ids": torch.randint(1, 250, exists.shape) * exists, "attention_mask": exists.long()})
    model(**{name: value[:1, :64] for name, value in inputs[0].items()}, use_cache=False)
    start = time.perf_counter()
    for each in inputs:
        model(**each, use_cache=False)
    return _rate(sum(sizes), time.perf_counter() - start)


# ----- sentence vectors -----


def _minilm(chosen: dict[str, Any]) -> dict[str, Any]:
    # Words that are in no other text of a pair decide, so that there is something to learn and no early stop at once.
    examples = [
        Example(dialogs=pair, kind="pair", targets=(float(_is_first_better(pair)),), judged="turn", keys=(str(n),))
        for n, pair in enumerate(_forks(chosen, num=chosen["pairs"]))
    ]
    train, held_out = split_examples(examples, held_out=0.2, seed=0)
    start, start_cpu = time.perf_counter(), time.process_time()
    model = fit(train, held_out, FitSettings(), say=lambda line: None)
    # Of all threads; where other programs run too, it says more than the time on the wall.
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}
    return {"pairs": len(train), **took, "members": len(model.members), "accuracy": model.info.accuracy}


def _is_first_better(pair: tuple[Dialog, Dialog]) -> bool:
    one, other = (dialog.messages[-1].text.count("?") - dialog.num_words / 1000 for dialog in pair)
    return one > other


def _chat(chosen: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        rm, run = Path(place) / "rm", Path(place) / "run"
        _small_reward_model(chosen, rm)
        settings = ("preset=chat", "cluster=local", "evaluation.conversations=0", f"steps={chosen['steps']}")
        command = [sys.executable, "run.py", "train", *settings, f"model={chosen['model']}", f"out={run}"]
        subprocess.run([*command, f"engine.threads={chosen['threads']}"], capture_output=True, check=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [line["play/seconds"] + line["learn/seconds"] for line in lines if "learn/seconds" in line]
        by_step: dict[str, list[Any]] = {}
        for stored in stored_conversations(RunReader(run), with_tokens=False):
            by_step.setdefault(stored.conversation.id.partition("-")[0], []).append(stored.conversation)
        reward = PreferenceReward(path=str(rm))
        reward.prepare()
        first, *later = list(by_step.values())
        reward.score(first)
        seconds = []
        for conversations in later:
            start = time.perf_counter()
            reward.score(conversations)
            seconds.append(time.perf_counter() - start)
    step, added = statistics.median(steps[1:]), statistics.median(seconds)
    return {"step_seconds": step, "reward_seconds": added, "added": added / step, "conversations": len(first)}


def _small_reward_model(chosen: dict[str, Any], place: Path) -> None:
    examples = [
        Example(dialogs=pair, kind="pair", targets=(1.0,), judged="turn", keys=(str(number),))
        for number, pair in enumerate(_forks(chosen, num=50))
    ]
    folder.save(fit(examples[:40], examples[40:], FitSettings(epochs=2), say=lambda line: None), place)


# ----- what is read -----


def _scorer(chosen: dict[str, Any], *, method: str) -> LMScorer:
    settings = FitSettings.model_validate({"backbone": chosen["model"], "method": method})
    return build_lm_scorer(chosen["model"], scope="turn", settings=settings, seed=0, say=lambda line: None)


def _talks(chosen: dict[str, Any], *, num: int, seed: int = 0) -> list[Dialog]:
    """Return conversations seen from each role, in groups that share their instructions."""
    drawn = _messages(chosen["words"], seed)
    found = []
    for number in range(num):
        topic = " ".join(_drawn(np.random.default_rng([seed, number // GROUP]), TOPIC_WORDS))
        texts = [next(drawn) for _ in range(chosen["turns"])]
        for side in (0, 1):
            messages = tuple(Message(text=text, is_focus=k % 2 == side) for k, text in enumerate(texts))
            found.append(Dialog(messages=messages, system=f"Talk about this: {topic}"))
    return found


def _forks(chosen: dict[str, Any], *, num: int) -> Iterator[tuple[Dialog, Dialog]]:
    """Yield pairs of dialogs of which only the last reply differs."""
    drawn = _messages(chosen["words"], 7)
    for _ in range(num):
        asked = [Message(text=next(drawn), is_focus=k % 2 == 1) for k in range(chosen["turns"] // 2 * 2 - 1)]
        one, other = (Dialog(messages=(*asked, Message(text=next(drawn), is_focus=True))) for _ in range(REPLIES))
        yield one, other


def _messages(most: int, seed: int) -> Words:
    generator = np.random.default_rng([2, seed])
    while True:
        size = int(generator.integers(max(most // 4, 1), most + 1))
        yield " ".join(_drawn(generator, size)).capitalize() + str(generator.choice([".", ".", "?"]))


def _drawn(generator: np.random.Generator, num: int) -> list[str]:
    return [str(word) for word in generator.choice(_VOCABULARY, num)]


def _rate(num_tokens: int, seconds: float) -> dict[str, Any]:
    return {"rate": num_tokens / seconds, "tokens": num_tokens, "seconds": seconds}


_VOCABULARY = np.array(
    sorted(
        word
        for line in VOCABULARY.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
        for word in line.split()
    )
)
ARMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "reward_lora": _reward,
    "reward_full": _reward,
    "policy_lora": _policy,
    "policy_full": _policy,
    "ours": _score,
    "plain": _score,
    "packed": _pairs,
    "padded": _pairs,
    "minilm": _minilm,
    "chat": _chat,
}

if __name__ == "__main__":
    main()
