"""Self-play of whole conversations, against a plain loop over transformers.

    python -m benchmarks.play [conversations=32] [turns=8] [repeats=2] [lengths=fixed,natural] [model=smollm2-135m]

The plain loop is what one writes first: for each turn, render every conversation's chat template from the speaker's
side, tokenise, and call `generate` on the padded batch.  Lengths: "fixed" says 32 tokens a turn whatever the model
wants, "natural" lets it stop, at 48 at the latest.  Every arm runs in a process of its own, one at a time and in turn,
so that its peak memory is its own; loading is not timed.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from benchmarks.measure import alone_in_turn, machine, peak_gib, ratio, table, words
from envs.chitchat import ChitChat
from selfplay import models
from selfplay.interfaces import Sampling
from selfplay.play import Match, make_matches, play
from selfplay.players import PlayerSettings, make_players

DEFAULTS = {
    "conversations": 32,
    "turns": 8,
    "repeats": 2,
    "lengths": "fixed,natural",
    "model": "smollm2-135m",
    "threads": 0,
    "arm": "",
}
ARMS = ("perspective", "shared", "plain")
MAX_NEW_TOKENS = {"fixed": 32, "natural": 48}


def main() -> None:
    """Measure one arm, or all of them in turn."""
    chosen = words(DEFAULTS)
    models.use_threads(chosen["threads"])
    if chosen["arm"]:
        print(json.dumps(_measure(chosen)))
        return
    print(machine())
    rows = []
    for length in chosen["lengths"].split(","):
        results = alone_in_turn("benchmarks.play", ARMS, {**chosen, "lengths": length}, repeats=chosen["repeats"])
        plain = [result["rate"] for result in results["plain"]]
        rows += [_row(length, arm, results[arm], plain) for arm in ARMS]
    header = (
        "lengths",
        "arm",
        "said tokens/s",
        "ratio (range)",
        "prefilled tokens",
        "shared",
        "cache MiB",
        "peak RSS GiB",
    )
    print(table(header, rows))


def _row(length: str, arm: str, results: list[dict[str, Any]], plain: list[float]) -> list[str]:
    rates, first = [result["rate"] for result in results], results[0]
    return [
        length,
        arm,
        f"{statistics.median(rates):.0f}",
        "1" if arm == "plain" else ratio(rates, plain),
        str(first["prefilled"]),
        str(first["shared"]),
        f"{first['cache_bytes'] / 2**20:.0f}" if first["cache_bytes"] else "-",
        f"{max(result['peak_gib'] for result in results):.2f}",
    ]


def _measure(chosen: dict[str, Any]) -> dict[str, Any]:
    env = ChitChat(max_turns=chosen["turns"])
    roles = dict.fromkeys(env.roles, chosen["model"])
    matches = list(make_matches(env, roles, seed=0, num_matches=chosen["conversations"], split="train"))
    sampling = Sampling(
        max_new_tokens=MAX_NEW_TOKENS[chosen["lengths"]], ignore_end_of_turn=chosen["lengths"] == "fixed"
    )
    arm = _plain if chosen["arm"] == "plain" else _ours
    return {**arm(env, matches, sampling, chosen), "peak_gib": peak_gib()}


def _ours(env: ChitChat, matches: list[Match], sampling: Sampling, chosen: dict[str, Any]) -> dict[str, Any]:
    settings = PlayerSettings(view=chosen["arm"], sampling=sampling, device="cpu", max_batch=64)
    table = make_players([chosen["model"]], env=env, settings=settings, say=lambda _: None, write=lambda _: None)
    assert table.engine is not None
    start = time.perf_counter()
    said = 0
    for conversation in play(matches, env=env, players=table.players, view=chosen["arm"], concurrency=len(matches)):
        assert conversation.error is None or conversation.error.startswith("empty_reply"), conversation.error
        said += sum(len(turn.said) for turn in conversation.turns)
    seconds = time.perf_counter() - start
    counts = table.engine.statistics
    return {
        "rate": said / seconds,
        "said": said,
        "prefilled": counts.prefilled_tokens,
        "shared": counts.shared_tokens,
        "cache_bytes": counts.cache_bytes,
    }


def _plain(env: ChitChat, matches: list[Match], sampling: Sampling, chosen: dict[str, Any]) -> dict[str, Any]:
    loaded = models.load(chosen["model"], device="cpu")
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    texts: list[list[str]] = [[] for _ in matches]
    said = prefilled = 0
    start = time.perf_counter()
    for turn in range(chosen["turns"]):
        role = env.roles[turn % 2]
        dialogs = [_messages(env, match, role, spoken) for match, spoken in zip(matches, texts, strict=True)]
        inputs = tokenizer.apply_chat_template(
            dialogs, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        output = loaded.model.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=sampling.max_new_tokens if sampling.ignore_end_of_turn else 1,
        )
        replies = output[:, inputs["input_ids"].shape[1] :]
        prefilled += int(inputs["attention_mask"].sum())
        for spoken, reply in zip(texts, replies.tolist(), strict=True):
            said += _num_said(reply, tokenizer.eos_token_id, sampling)
            spoken.append(tokenizer.decode(reply, skip_special_tokens=True))
    seconds = time.perf_counter() - start
    return {"rate": said / seconds, "said": said, "prefilled": prefilled, "shared": 0, "cache_bytes": 0}


def _messages(env: ChitChat, match: Match, role: str, spoken: list[str]) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": env.brief(match.scenario, role)}]
    if role == env.roles[0]:
        messages.append({"role": "user", "content": env.opener})
    for turn, text in enumerate(spoken):
        messages.append({"role": "assistant" if env.roles[turn % 2] == role else "user", "content": text})
    return messages


def _num_said(reply: list[int], end_of_turn: int, sampling: Sampling) -> int:
    if sampling.ignore_end_of_turn or end_of_turn not in reply:
        return len(reply)
    return reply.index(end_of_turn) + 1


if __name__ == "__main__":
    main()
