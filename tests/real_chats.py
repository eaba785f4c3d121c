"""What the mixes of rewards say of chats between people; `python tests/real_chats.py` writes data/real_chats.json.

It needs the package chitchat_dataset (7,168 chats, MIT licence).  Only numbers are kept, no text of anybody.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from selfplay.commands.building import build_rewards, chosen_rewards
from selfplay.dialog import Conversation
from selfplay.reward_attacks import NUM_TURNS, as_conversations
from selfplay.score import score

FILE = Path(__file__).with_name("data") / "real_chats.json"
PACKAGE = "chitchat_dataset"
MIXES = ("vhrl", "way_off_policy")
NUM_CHATS, SEED = 200, 0
SELECTION = (
    f"{NUM_CHATS} of the chats of two people who take turns for at least {NUM_TURNS} messages, cut after {NUM_TURNS} "
    "as the attacks are; what one of them sends in a row is one message; drawn by random.Random(seed).sample"
)


def is_installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def real_chats() -> list[Conversation]:
    found = [(topic, texts) for topic, texts in _talks() if len(texts) == NUM_TURNS]
    picked = sorted(random.Random(SEED).sample(range(len(found)), NUM_CHATS))
    return as_conversations([found[number] for number in picked], env="real")


def mean_rewards(mix: str, conversations: Sequence[Conversation]) -> list[float]:
    """Return the mean weighted reward a turn of each conversation."""
    rewards = build_rewards(chosen_rewards({}, [f"mix:{mix}=1"]))
    return [float(np.mean(scored.rewards)) for scored in score(conversations, rewards)]


def parts_of(mix: str) -> dict[str, dict[str, object]]:
    return {name: spec.model_dump(mode="json") for name, spec in chosen_rewards({}, [f"mix:{mix}=1"]).items()}


def summary() -> dict[str, object]:
    chats = real_chats()
    return {
        "made_by": "python tests/real_chats.py",
        "dataset": f"{PACKAGE} {importlib.metadata.version(PACKAGE)} (MIT)",
        "python": platform.python_version(),
        "vaderSentiment": importlib.metadata.version("vaderSentiment"),
        "selection": SELECTION,
        "seed": SEED,
        "mixes": {mix: _of_mix(mix, chats) for mix in MIXES},
    }


def _of_mix(mix: str, chats: Sequence[Conversation]) -> dict[str, object]:
    scores = sorted(mean_rewards(mix, chats))
    low, middle, high = (round(float(np.quantile(scores, share)), 4) for share in (0.25, 0.5, 0.75))
    return {
        "parts": parts_of(mix),
        "lower_quartile": low,
        "median": middle,
        "upper_quartile": high,
        "scores": [round(one, 4) for one in scores],
    }


def _talks() -> list[tuple[str, list[str]]]:
    # Not through the package: it leaves the file open.
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    data = json.loads(Path(spec.origin).with_name("dataset.json").read_text(encoding="utf-8"))
    talks = []
    for key in sorted(data):
        blocks = [block for block in data[key]["messages"] if block]
        senders = [block[0]["sender"] for block in blocks]
        takes_turns = all(one != other for one, other in pairwise(senders))
        if len(set(senders)) == 2 and takes_turns:
            texts = [" ".join(message["text"] for message in block) for block in blocks]
            talks.append((str(data[key].get("prompt") or ""), texts[:NUM_TURNS]))
    return talks


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(summary(), indent=1) + "\n", encoding="utf-8")
