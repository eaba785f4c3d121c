"""What only one role was told, left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["without_private", "without_private_tokens"]

Record = Mapping[str, Any]


def without_private(record: Record) -> dict[str, Any]:
    """Return a transcript record without briefs, private facts of the scenario and facts of the outcome.

    Of what a role heard, only what others said aloud stays: an opener may quote its brief.  What players say of their
    secrets stays too.
    """
    players = {role: {**player, "brief": ""} for role, player in record["players"].items()}
    roles = record["scenario"].get("roles", ())
    outcome = record.get("outcome")
    return {
        **record,
        "scenario": {**record["scenario"], "private": {role: {} for role in roles}},
        "players": players,
        "turns": [
            {**turn, "heard_text": _said_aloud(record["turns"], number)} for number, turn in enumerate(record["turns"])
        ],
        "outcome": None if outcome is None else {**outcome, "facts": {}},
    }


def without_private_tokens(answer: Record) -> dict[str, Any]:
    """Return the tokens of a conversation without those heard, a brief among them."""
    return {**answer, "turns": [{**turn, "heard": []} for turn in answer["turns"]]}


def _said_aloud(turns: list[dict[str, Any]], number: int) -> str:
    """Return what the others said since a turn's role last spoke, if that is what it heard; else nothing of it."""
    heard, role = turns[number].get("heard_text") or "", turns[number]["role"]
    before = turns[:number]
    last = max((place for place, turn in enumerate(before) if turn["role"] == role), default=-1)
    texts = [turn["text"] for turn in before[last + 1 :]]
    if heard == "\n".join(texts):
        return heard
    return "\n".join(text for text in texts if text and text in heard)
