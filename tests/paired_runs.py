"""Small stored runs whose rewards are written by hand, for tests of comparing and labelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Split, Turn
from selfplay.score import Term
from selfplay.store import RunWriter

TERMS = {"tone": Term(weight=2.0), "length": Term(weight=0.0)}
ROLES = ("host", "guest")


def played(
    id: str,
    *,
    seed: int,
    version: int,
    tone: Sequence[float] = (0.5,),
    split: Split = "held_out",
    has_failed: bool = False,
    says: str = "Hello",
) -> ScoredConversation:
    """Make a conversation in which the trained host says one turn for each tone, and the guest answers each.

    The reward of a turn is twice its tone; a guest's turn has a reward of 100, which must never count.
    """
    turns: list[Turn] = []
    for number, _ in enumerate(tone):
        text = f"{says} {number} of {id}"
        turns.append(Turn(role="host", text=text, heard_text="", player=f"learner@{version}", finish="stop"))
        turns.append(Turn(role="guest", text="Yes.", heard_text=text, player="scripted"))
    values = np.array([number for one in tone for number in (one, 50.0)], dtype=np.float32)
    ended = Outcome(status="failed", reason="timeout") if has_failed else Outcome(status="terminated", reason="leaving")
    conversation = Conversation(
        id=id,
        scenario=Scenario(env="chitchat", seed=seed, split=split, roles=ROLES, public={"topic": f"topic {seed}"}),
        players={
            "host": PlayerInfo(policy="learner", version=version, model="tiny", trained=True, brief="A secret."),
            "guest": PlayerInfo(policy="scripted"),
        },
        turns=tuple(turns),
        outcome=ended,
    )
    parts = {"tone": Scores(values=values), "length": Scores(values=values * 0 + len(tone))}
    return ScoredConversation(conversation=conversation, rewards=2 * values, parts=parts)


def write_run(
    folder: Path,
    conversations: Iterable[ScoredConversation],
    *,
    is_scored: bool = True,
    terms: Mapping[str, Term] = TERMS,
) -> Path:
    manifest = {"env": "chitchat", "model": "tiny", "created_at": "2026-01-01T10:00:00.000Z"}
    with RunWriter.create(folder, manifest, "") as writer:
        for one in conversations:
            writer.append(one.conversation, one if is_scored else None, terms=terms)
    return folder


def two_versions() -> list[ScoredConversation]:
    """Return version 0 and 7 on scenarios 1 to 3; rewards of a: 1, 2, 3, of b: 3, 2, 2."""
    rewards = {0: (1.0, 2.0, 3.0), 7: (3.0, 2.0, 2.0)}
    return [
        played(f"{version:06d}-e{seed:02d}-0", seed=seed, version=version, tone=(reward / 2,))
        for version, row in rewards.items()
        for seed, reward in enumerate(row, start=1)
    ]
