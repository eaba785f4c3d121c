"""How long rewards take: all cheap ones on new texts, scoring a stored run again, and sentence embeddings.

    python -m benchmarks.rewards [conversations=1000] [turns=8] [stored=10000] [embedded=1000] [threads=0]
        [arms=cheap,rescore,coherence]

Messages are 6 to 18 words drawn from the package's word list, so every text is new; each arm runs in a process of its
own.  "cheap" asks every reward that needs no model, first all together, then one after another about other texts: what
several need of one text is computed once, and the first that needs it pays.  "rescore" reads a stored run, scores it
with three cheap rewards, and appends the new scores.  "coherence" embeds messages that were never seen, in calls of 64
conversations.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import machine, run_alone, table, words
from rewards import REWARDS
from rewards.language import VOCABULARY
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, Turn
from selfplay.rescore import ScoreWriter, rescore, stored_conversations
from selfplay.score import Term, WeightedReward, score
from selfplay.store import RunReader, RunWriter

DEFAULTS = {
    "conversations": 1000,
    "turns": 8,
    "stored": 10000,
    "embedded": 1000,
    "threads": 0,
    "arms": "cheap,rescore,coherence",
    "arm": "",
}
CALL = 64  # conversations that coherence is asked about at once
RESCORED = ("question", "utterance_repetition", "sentiment")
MARKS = (".", ".", "?", "!")


def main() -> None:
    """Measure and print the tables, or measure one arm."""
    chosen = words(DEFAULTS)
    if chosen["arm"]:
        if chosen["threads"]:
            torch.set_num_threads(chosen["threads"])
        print(json.dumps(ARMS[chosen["arm"]](chosen)))
        return
    print(machine())
    results = {arm: run_alone("benchmarks.rewards", {**chosen, "arm": arm}) for arm in chosen["arms"].split(",")}
    for arm, result in results.items():
        rows = [
            [name, f"{seconds:.2f}", f"{result['turns'] / seconds:,.0f}"] for name, seconds in result["seconds"].items()
        ]
        print(f"\n{arm}: {result['what']}\n")
        print(table(("what", "s", "turns/s"), rows))


def cheap(chosen: dict[str, int]) -> dict[str, object]:
    """Return the seconds of every cheap reward, in the table's order, and of all together."""
    names = [name for name, kind in REWARDS.items() if not getattr(kind, "is_slow", False)]
    conversations = list(_conversations(chosen["conversations"], chosen["turns"]))
    rewards = [WeightedReward(reward=REWARDS[name]()) for name in names]
    # Patterns, word lists and lexicons are read once.
    score(list(_conversations(2, chosen["turns"], seed=1)), rewards)
    start = time.perf_counter()
    score(conversations, rewards)
    together = time.perf_counter() - start
    # Other texts, so that nothing is remembered.
    others, seconds = list(_conversations(chosen["conversations"], chosen["turns"], seed=2)), {}
    for weighted in rewards:
        start = time.perf_counter()
        score(others, [weighted])
        seconds[weighted.name] = time.perf_counter() - start
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:6]
    shown = {f"all {len(names)} together": together, **{name: seconds[name] for name in slowest}}
    what = f"{len(conversations):,} conversations of {chosen['turns']} turns, and the six slowest of them"
    return {"what": what, "turns": len(conversations) * chosen["turns"], "seconds": shown}


def rescored(chosen: dict[str, int]) -> dict[str, object]:
    """Return the seconds of reading, scoring and appending."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        rewards = [WeightedReward(reward=REWARDS[name]()) for name in RESCORED]
        with RunWriter.create(run, {"kind": "train"}, "") as writer:
            for one in score(list(_conversations(chosen["stored"], chosen["turns"])), rewards[:1]):
                writer.append(one.conversation, one, terms={"question": Term()})
        marks = [time.perf_counter()]
        stored = list(stored_conversations(RunReader(run), with_tokens=False))
        marks.append(time.perf_counter())
        scored = [one for block in rescore(stored, rewards, timeout_seconds=30.0) for one in block]
        marks.append(time.perf_counter())
        writer = ScoreWriter(run, rewards)
        writer.append(scored)
        writer.close()
        marks.append(time.perf_counter())
    steps = dict(zip(("read", "score", "append"), np.diff(marks).tolist(), strict=True))
    what = f"{chosen['stored']:,} stored conversations of {chosen['turns']} turns, with {', '.join(RESCORED)}"
    return {"what": what, "turns": chosen["stored"] * chosen["turns"], "seconds": {"all": sum(steps.values()), **steps}}


def coherence(chosen: dict[str, int]) -> dict[str, object]:
    """Return the seconds that sentence embeddings take."""
    weighted = WeightedReward(reward=REWARDS["coherence"]())
    score(list(_conversations(4, 8, seed=1)), [weighted])
    conversations = list(_conversations(max(1, chosen["embedded"] // chosen["turns"]), chosen["turns"]))
    start = time.perf_counter()
    for first in range(0, len(conversations), CALL):
        score(conversations[first : first + CALL], [weighted])
    seconds = time.perf_counter() - start
    num_turns = len(conversations) * chosen["turns"]
    return {
        "what": f"{num_turns:,} messages on {torch.get_num_threads()} threads",
        "turns": num_turns,
        "seconds": {"all": seconds},
    }


ARMS = {"cheap": cheap, "rescore": rescored, "coherence": coherence}


def _conversations(num: int, num_turns: int, *, seed: int = 0) -> Iterator[Conversation]:
    generator = np.random.default_rng(seed)
    lines = VOCABULARY.read_text(encoding="utf-8").splitlines()
    vocabulary = np.array(sorted(word for line in lines if not line.startswith("#") for word in line.split()))
    players = {role: PlayerInfo(policy="learner", model="m", trained=True) for role in ("host", "guest")}
    for index in range(num):
        texts = [_message(generator, vocabulary) for _ in range(num_turns)]
        heard = ["", *texts]
        turns = [
            Turn(role=("host", "guest")[k % 2], text=text, heard_text=heard[k], player="learner@0", finish="stop")
            for k, text in enumerate(texts)
        ]
        yield Conversation(
            id=f"{index // 1000:06}-g{index % 1000 // 4:02}-{index % 4}",
            scenario=Scenario(env="chitchat", seed=index // 4, split="train", roles=("host", "guest")),
            players=players,
            turns=tuple(turns),
            outcome=Outcome(status="terminated", reason="turn_limit"),
        )


def _message(generator: np.random.Generator, vocabulary: np.ndarray) -> str:
    drawn = generator.choice(vocabulary, size=generator.integers(6, 19)).tolist()
    return " ".join(drawn).capitalize() + str(generator.choice(MARKS))


if __name__ == "__main__":
    main()
