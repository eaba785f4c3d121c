"""A run of six conversations that are known by heart, for tests of filters and exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.score import Term
from selfplay.store import RunWriter

TERMS = {"question": Term(weight=1.0, range=(0.0, 1.0)), "praise": Term(weight=0.5)}
IDS = ("000000-g00-0", "000000-g00-1", "000003-g00-0", "000003-e00-0", "000005-g00-0", "000005-g01-0")
TOPICS = {7: "rainy days", 8: "rivers that change", 9: "old maps", 10: "tea", 11: "an empty room"}


def write_six(folder: Path, *, config: str = "steps: 6\n") -> Path:
    """Write the run and return its folder.

    0 and 1 share a scenario, and their host says the same first; 2 has a scripted guest that repeats it; 3 is held out,
    and its last turn is cut; 4 failed; 5 was truncated in its only turn.  Only 0 is annotated.
    """
    manifest = {"kind": "train", "env": "chitchat", "model": "smollm2-135m", "command": "train secret=1", "seed": 0}
    with RunWriter.create(folder, manifest, config) as writer:
        for scored in six():
            writer.append(scored.conversation, scored, terms=TERMS)
        data = {"advantage": {"host": 0.5, "guest": 0.25}, "kl_per_token": 0.04}
        writer.annotate(IDS[0], by="learner@1", kind="learner", data=data)
        writer.annotate(IDS[0], by="person:anon-3f", kind="tag", data={"tag": "odd one", "remove": False})
    return folder


def six() -> list[ScoredConversation]:
    return [
        _scored(0, ["Hello there, rain?", "What do you like?"], question=[1, 1], praise=[0, 0], seed=7, version=0),
        _scored(
            1,
            ["Hello there, rain?", "I am so sorry."],
            question=[0, 0],
            praise=[-1, -2],
            seed=7,
            version=0,
            brief="Keep it secret.",
            outcome=Outcome(status="terminated", reason="leaving", by="guest", protocol_ok=False),
        ),
        _scored(
            2, ["Rivers move.", "Rivers move."], question=[1, 0], praise=[1, 0], seed=8, version=3, guest="scripted"
        ),
        _scored(3, ["=1+1 costs a|b", "It was"], question=[0, 0], praise=[0, None], seed=9, version=3, last="length"),
        _failed(),
        _truncated(),
    ]


def _scored(
    number, texts, *, question, praise, seed, version, guest="learner", brief="Chat.", last="stop", outcome=None
) -> ScoredConversation:
    conversation = _conversation(
        number, texts, seed=seed, version=version, guest=guest, brief=brief, last=last, outcome=outcome
    )
    asked = np.array(question, dtype=np.float32)
    praised = np.array([np.nan if value is None else value for value in praise], dtype=np.float32)
    why = tuple("nothing to praise" if value is None else "" for value in praise)
    return ScoredConversation(
        conversation=conversation,
        rewards=asked + 0.5 * np.nan_to_num(praised),
        parts={"question": Scores(values=asked), "praise": Scores(values=praised, why=why)},
    )


def _failed() -> ScoredConversation:
    outcome = Outcome(status="failed", reason="empty_reply", by="guest")
    conversation = _conversation(
        4, ["ok, sorry"], seed=10, version=5, outcome=outcome, error="empty_reply: said nothing"
    )
    return ScoredConversation(conversation=conversation, rewards=np.full(1, np.nan, dtype=np.float32))


def _truncated() -> ScoredConversation:
    outcome = Outcome(status="truncated", reason="context_full", by="host")
    conversation = _conversation(5, ["Grüße, ÜBER alles"], seed=11, version=5, last="context_full", outcome=outcome)
    return ScoredConversation(conversation=conversation, rewards=np.full(1, np.nan, dtype=np.float32))


def _conversation(
    number, texts, *, seed, version, guest="learner", brief="Chat.", last="stop", outcome=None, error=None
) -> Conversation:
    learner = PlayerInfo(policy="learner", version=version, model="smollm2-135m", trained=True, brief=brief)
    players = {"host": learner, "guest": learner if guest == "learner" else PlayerInfo(policy="scripted", brief=brief)}
    turns = []
    for place, text in enumerate(texts):
        role = ("host", "guest")[place % 2]
        player, is_last = players[role], place == len(texts) - 1
        turns.append(
            Turn(
                role=role,
                text=text,
                heard_text=texts[place - 1] if place else f"{brief} Begin.",
                player=player.label,
                stream=role if player.model else "",
                said=np.arange(3 if player.model else 0, dtype=np.int32),
                logprobs=np.full(3 if player.model else 0, -1.0, dtype=np.float32),
                finish=last if is_last else "stop",
                seconds=1.0,
            )
        )
    return Conversation(
        id=IDS[number],
        scenario=Scenario(
            env="chitchat",
            seed=seed,
            split="held_out" if number == 3 else "train",
            roles=("host", "guest"),
            public={"topic": TOPICS[seed]},
            private={"host": {"persona": f"likes {number}"}, "guest": {}},
        ),
        players=players,
        turns=tuple(turns),
        outcome=outcome or Outcome(status="terminated", reason="turn_limit", facts={"said": texts[0]}),
        error=error,
        started_at="2026-11-22T08:19:41.495Z",
        seconds=3.5 if number == 2 else 2.0,
    )
