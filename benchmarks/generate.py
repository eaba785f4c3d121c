"""New tokens a second, against transformers' own `generate`, on the same model in the same process.

    python -m benchmarks.generate [batches=1,8,32,64] [tokens=64] [repeats=3] [model=smollm2-135m] [threads=0]

Every row says exactly `tokens` tokens at temperature 1 from the whole vocabulary; prompts are chat prompts of different
lengths.  The two take turns.
"""

from __future__ import annotations

import statistics
import time
from itertools import count

import numpy as np

from benchmarks.measure import in_turn, machine, ratio, table, words
from envs.chitchat import topics_of
from selfplay import models
from selfplay.dialog import Conversation, Scenario
from selfplay.generate.engine import TokenGenerator
from selfplay.interfaces import Request, Sampling

DEFAULTS = {"batches": "1,8,32,64", "tokens": 64, "repeats": 3, "model": "smollm2-135m", "threads": 0}
NOBODY = Conversation(id="000000-g00-0", scenario=Scenario(env="none", seed=0, split="train", roles=("host", "guest")))


def main() -> None:
    """Measure and print the table."""
    chosen = words(DEFAULTS)
    models.use_threads(chosen["threads"])
    loaded = models.load(chosen["model"], device="cpu")
    arms = Arms(loaded, num_tokens=chosen["tokens"])
    print(machine())
    rows = []
    for batch in map(int, chosen["batches"].split(",")):
        prompts = arms.prompts(batch)
        # Once without the clock: the first call of either allocates.
        arms.ours(prompts[:1]), arms.theirs(prompts[:1])
        rates = in_turn(
            {"ours": lambda p=prompts: arms.ours(p), "theirs": lambda p=prompts: arms.theirs(p)},
            repeats=chosen["repeats"],
        )
        medians = [f"{statistics.median(rates[arm]):.0f}" for arm in ("ours", "theirs")]
        rows.append([str(batch), *medians, ratio(rates["ours"], rates["theirs"])])
        print(rows[-1], flush=True)
    print(table(["batch", "tokens/s", "transformers", "ratio (range)"], rows))


class Arms:
    """The two ways, both returning tokens a second."""

    def __init__(self, loaded: models.LoadedModel, *, num_tokens: int) -> None:
        self._model, self._tokenizer, self._num = loaded.model, loaded.tokenizer, num_tokens
        self._tokenizer.padding_side = "left"
        self._engine = TokenGenerator(max_batch=256)
        self._engine.add_policy("policy", loaded.model, end_of_turn=[self._tokenizer.eos_token_id])
        self._names = count()

    def prompts(self, num: int) -> list[list[dict[str, str]]]:
        """Return chat prompts on different topics."""
        topics = topics_of("train")
        return [[{"role": "user", "content": f"Tell me about {topics[i % len(topics)]}."}] for i in range(num)]

    def ours(self, prompts: list[list[dict[str, str]]]) -> float:
        """Answer with the engine."""
        names = [str(next(self._names)) for _ in prompts]
        sampling = Sampling(max_new_tokens=self._num, ignore_end_of_turn=True)
        start = time.perf_counter()
        for name, prompt in zip(names, prompts, strict=True):
            tokens = self._tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
            self._engine.submit(
                Request(
                    conversation=NOBODY,
                    role="host",
                    policy="policy",
                    stream=name,
                    tokens=np.array(tokens, dtype=np.int32),
                    sampling=sampling,
                    seed=int(name),
                )
            )
        said = 0
        finished = 0
        while finished < len(prompts):
            for completion in self._engine.step():
                finished += 1
                said += len(completion.said)
        seconds = time.perf_counter() - start
        for name in names:
            self._engine.close(name)
        assert said == len(prompts) * self._num
        return said / seconds

    def theirs(self, prompts: list[list[dict[str, str]]]) -> float:
        """Answer with transformers."""
        start = time.perf_counter()
        inputs = self._tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        output = self._model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, min_new_tokens=self._num, max_new_tokens=self._num
        )
        seconds = time.perf_counter() - start
        said = output.numel() - inputs["input_ids"].numel()
        assert said == len(prompts) * self._num
        return said / seconds


if __name__ == "__main__":
    main()
