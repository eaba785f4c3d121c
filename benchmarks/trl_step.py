"""The same self-play step with TRL: GRPOTrainer and a `rollout_func`, for `benchmarks.step`.

It is written to be as fast as TRL lets it be on a CPU: float32, no gradient checkpointing (TRL's default trades time
for memory), batches of `trl_batch` rows, no log-probabilities asked of the rollout, and everything before a row's first
own token counts as prompt, for which TRL computes no logits.  Tokens are never decoded and tokenised again.

A row is what one role sees of a conversation ("perspective": two rows a conversation, the partner's turns masked by
`env_mask`), or the whole conversation ("shared": one row, every turn acted).
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from envs.chitchat import ChitChat
from selfplay import models
from selfplay.dealing import LEARNER
from selfplay.play import Match, make_group

USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"


@dataclass(slots=True, kw_only=True)
class Row:
    """One training row, as it grows."""

    prompt: list[int]  # up to the first own token
    completion: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)  # 1: own token

    def hear(self, tokens: list[int]) -> None:
        """Add what is not the row's own; before its first own token it belongs to the prompt."""
        if self.completion:
            self.completion += tokens
            self.mask += [0] * len(tokens)
        else:
            self.prompt += tokens

    def say(self, tokens: list[int]) -> None:
        """Add what was sampled."""
        self.completion += tokens
        self.mask += [1] * len(tokens)


@dataclass(slots=True, kw_only=True)
class SelfPlay:
    """A `rollout_func` in which the model talks to itself."""

    env: ChitChat
    matches: list[Match]  # [conversations]
    tokenizer: Any
    view: str
    num_tokens: int  # of each turn, whatever the model wants
    group_size: int
    seconds: list[float] = field(default_factory=list)  # of each call
    trained_tokens: int = 0  # of the newest call, prompts included

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Play all conversations, one turn of all of them at a time."""
        start = time.perf_counter()
        rows = [self._rows(match) for match in self.matches]
        model = trainer.accelerator.unwrap_model(trainer.model)
        for turn in range(self.env.max_turns):
            speakers = [row[turn % len(row)] for row in rows]
            for row, said in zip(rows, self._generate(model, speakers), strict=True):
                self._deliver(row, turn, said)
        ordered = self._in_groups(rows)
        assert len(ordered) == len(prompts)
        self.seconds.append(time.perf_counter() - start)
        self.trained_tokens = sum(len(row.prompt) + len(row.completion) for row in ordered)
        return {
            "prompt_ids": [row.prompt for row in ordered],
            "completion_ids": [row.completion for row in ordered],
            "env_mask": [row.mask for row in ordered],
            "logprobs": None,
        }

    def _rows(self, match: Match) -> list[Row]:
        """Return the rows of a conversation before anyone speaks: one a role, or one for all."""
        starts: list[str] = []
        for role in self.env.roles:
            system = f"<|im_start|>system\n{self.env.brief(match.scenario, role)}{END}"
            starts.append(system + USER + (f"{self.env.opener}{END}{ASSISTANT}" if not starts else ""))
        if self.view == "shared":
            starts = [f"<|im_start|>system\n{self.env.brief(match.scenario, self.env.roles[0])}{END}{USER}"]
        return [Row(prompt=self._encode(text)) for text in starts]

    @torch.no_grad()
    def _generate(self, model: Any, rows: list[Row]) -> list[list[int]]:
        batch = self.tokenizer.pad(
            {"input_ids": [row.prompt + row.completion for row in rows]}, padding_side="left", return_tensors="pt"
        )
        output = model.generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            min_new_tokens=self.num_tokens,
            max_new_tokens=self.num_tokens,
        )
        said: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
        return said

    def _deliver(self, rows: list[Row], turn: int, said: list[int]) -> None:
        is_last = turn == self.env.max_turns - 1
        speaker, end = rows[turn % len(rows)], self._encode(END)
        speaker.say(said)
        if is_last:
            return
        if len(rows) == 1:
            speaker.hear(end + self._encode(ASSISTANT if turn % 2 == 0 else USER))
            return
        speaker.hear(end + self._encode(USER))
        rows[(turn + 1) % 2].hear(said + end + self._encode(ASSISTANT))

    def _in_groups(self, rows: list[list[Row]]) -> list[Row]:
        """Return the rows so that those of one scenario and role stand together, as GRPO's groups do."""
        ordered = []
        for start in range(0, len(rows), self.group_size):
            group = rows[start : start + self.group_size]
            ordered += [row[role] for role in range(len(group[0])) for row in group]
        return ordered

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return tokens


def measure(chosen: dict[str, Any], *, view: str) -> dict[str, Any]:
    """Train for `steps` steps after one that is not counted; return what `benchmarks.step` shows."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    disable_progress_bars()
    env = ChitChat(max_turns=chosen["turns"])
    loaded = models.load(chosen["model"], device="cpu", dtype="float32")
    groups = chosen["conversations"] // chosen["group"]
    place = {"seed": 0, "split": "train", "size": chosen["group"]}
    players = dict.fromkeys(env.roles, LEARNER)
    rollout = SelfPlay(
        env=env,
        matches=[match for g in range(groups) for match in make_group(env, players, place=(0, g), **place)],
        tokenizer=loaded.tokenizer,
        view=view,
        num_tokens=chosen["tokens"],
        group_size=chosen["group"],
    )
    rows = chosen["conversations"] * (1 if view == "shared" else 2)
    steps: list[float] = []

    class Clock(TrainerCallback):
        """Takes the time of whole steps."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Start."""
            self.since = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """Stop."""
            steps.append(time.perf_counter() - self.since)

    with tempfile.TemporaryDirectory() as folder:
        # TRL reads the reference from where the model says it came from.
        loaded.model.save_pretrained(f"{folder}/reference")
        loaded.model.config._name_or_path = f"{folder}/reference"
        trainer = GRPOTrainer(
            model=loaded.model.requires_grad_(True),
            processing_class=loaded.tokenizer,
            reward_funcs=_asks,
            rollout_func=rollout,
            callbacks=[Clock()],
            train_dataset=Dataset.from_dict({"prompt": [str(n) for n in range(rows // chosen["group"])]}),
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=chosen["trl_batch"],
                gradient_accumulation_steps=rows // chosen["trl_batch"],
                num_generations=chosen["group"],
                beta=0.1,
                learning_rate=1e-5,
                max_steps=chosen["steps"] + 1,
                shuffle_dataset=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
        )
        assert {parameter.dtype for parameter in trainer.ref_model.parameters()} == {torch.float32}
        trainer.train()
    said = chosen["conversations"] * chosen["turns"] * chosen["tokens"]
    plays = rollout.seconds[1:]
    return {
        "said": said,
        "play": plays,
        "learn": [whole - play for whole, play in zip(steps[1:], plays, strict=True)],
        "trained": rollout.trained_tokens,
    }


def _asks(completions: list[str], **_: Any) -> list[float]:
    return [float("?" in text) for text in completions]
