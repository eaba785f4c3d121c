"""The rewards of a conversation as the `rewards` block of its transcript line.

A part is a line of the block for each turn of which a reward says something: a number, or a reason why there is none.
Legend: K turns.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from selfplay.dialog import Conversation, Floats, ScoredConversation, Scores
from selfplay.line_files import RecordError
from selfplay.score import Term

__all__ = ["LARGEST", "TOLERANCE", "rewards_to_json", "scored_from_json"]

# What a reward measured beside its own number ("short.words") never counts.
MEASURED = Term(weight=0.0)
TOLERANCE = 1e-4  # for each number in a sum: they are stored rounded
LARGEST = float(np.finfo(np.float32).max)  # rewards are float32


def rewards_to_json(scored: ScoredConversation, *, terms: Mapping[str, Term]) -> dict[str, Any] | None:
    """Return the `rewards` block of a scored conversation, not rounded yet; None: it was never scored.

    terms: of every reward that was asked; a reward without numbers failed, and its part says so.
    """
    if not scored.parts and not _failed_in_scoring(scored.conversation):
        return None
    has_total = bool(np.isfinite(scored.rewards).all())
    sources = {name: term.source for name, term in terms.items() if term.source}
    return {
        "set": _digest(terms),
        **({"sources": sources} if sources else {}),
        "per_turn": scored.rewards.tolist(),
        "per_role": _per_role(scored) if has_total else {},
        "parts": [*_parts(scored, terms), *_failed_parts(scored, terms)],
    }


def scored_from_json(record: Mapping[str, Any], conversation: Conversation) -> ScoredConversation | None:
    """Return a stored conversation with its rewards; None: its record has none.

    Raises RecordError if the block is malformed, or its sums are not those of its parts.
    """
    block = record.get("rewards")
    if block is None:
        return None
    try:
        scored = _scored(block, conversation)
        _check_sums(block, scored)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise RecordError(f"conversation {conversation.id!r}: its rewards cannot be read: {error!r}") from error
    return scored


def _failed_in_scoring(conversation: Conversation) -> bool:
    outcome = conversation.outcome
    return outcome is not None and outcome.reason in ("reward_error", "timeout")


def _digest(terms: Mapping[str, Term]) -> str:
    """Return what tells two sets of rewards apart: their names, weights, ranges, gates and sources."""
    # As text, for JSON has no infinity.
    described = sorted(
        (name, repr(term.weight), repr(term.range), *(["gate"] if term.is_gate else []), *filter(None, [term.source]))
        for name, term in terms.items()
    )
    return "sha256:" + hashlib.sha256(json.dumps(described).encode("ascii")).hexdigest()[:16]


def _per_role(scored: ScoredConversation) -> dict[str, float]:
    roles = dict.fromkeys(scored.conversation.scenario.roles, 0.0)
    for turn, reward in zip(scored.conversation.turns, scored.rewards.tolist(), strict=True):
        roles[turn.role] = roles.get(turn.role, 0.0) + reward
    return roles


def _parts(scored: ScoredConversation, terms: Mapping[str, Term]) -> Iterator[dict[str, Any]]:
    for name, scores in scored.parts.items():
        term = terms.get(name, MEASURED)
        for turn, raw in enumerate(scores.values.tolist()):
            why = scores.why[turn] if scores.why else ""
            if math.isnan(raw) and not why:
                continue
            yield {
                "name": name,
                "turn": turn,
                "role": scored.conversation.turns[turn].role,
                "raw": raw + 0.0,  # minus nothing is nothing: no -0.0
                **({"gate": True} if term.is_gate else {"weight": float(term.weight)}),
                "value": None if math.isnan(raw) else float(term.value(raw)),
                "status": "skipped" if math.isnan(raw) else "ok",
                "why": why,
            }


def _failed_parts(scored: ScoredConversation, terms: Mapping[str, Term]) -> Iterator[dict[str, Any]]:
    if not _failed_in_scoring(scored.conversation):
        return
    nothing = dict.fromkeys(("turn", "role", "raw", "value"))
    for name, term in terms.items():
        if name not in scored.parts:
            why = scored.conversation.error or ""
            counting = {"gate": True} if term.is_gate else {"weight": float(term.weight)}
            yield {"name": name, **nothing, **counting, "status": "failed", "why": why}


def _scored(block: Mapping[str, Any], conversation: Conversation) -> ScoredConversation:
    num_turns = conversation.num_turns
    rewards = np.array([_number(value) for value in block["per_turn"]], dtype=np.float32)  # [K]
    if rewards.shape != (num_turns,):
        raise ValueError(f"{len(rewards)} rewards for {num_turns} turns")
    values: dict[str, Floats] = {}
    reasons: dict[str, list[str]] = {}
    for part in block.get("parts", ()):
        name = str(part["name"])
        _check_numbers([part.get("weight"), part.get("value")])
        if part["turn"] is None:
            continue
        turn = int(part["turn"])
        if not 0 <= turn < num_turns:
            raise ValueError(f"a part of turn {turn}, but only {num_turns} turns")
        values.setdefault(name, np.full(num_turns, np.nan, dtype=np.float32))[turn] = _number(part["raw"])
        reasons.setdefault(name, [""] * num_turns)[turn] = str(part.get("why", ""))
    parts = {name: Scores(values=values[name], why=tuple(why) if any(why) else ()) for name, why in reasons.items()}
    return ScoredConversation(conversation=conversation, rewards=rewards, parts=parts)


def _check_sums(block: Mapping[str, Any], scored: ScoredConversation) -> None:
    """Hold the block to its own arithmetic; a conversation that failed in scoring has no sums."""
    rewards = scored.rewards.tolist()
    _check_numbers(block.get("per_role", {}).values())
    if not np.isfinite(scored.rewards).all():
        return
    parts = block.get("parts", ())
    for turn, reward in enumerate(rewards if parts else ()):
        counted = [part for part in parts if part["turn"] == turn and part["status"] == "ok"]
        values = [_number(part["value"]) for part in counted if not part.get("gate") and part.get("weight")]
        gates = [_number(part["value"]) for part in counted if part.get("gate")]
        gated = [math.prod(gates) * value for value in values] if sum(values) > 0 else values
        # A gate is stored rounded, and multiplies.
        _check_sum(f"turn {turn}", reward, gated, slack=len(gates) * sum(map(abs, values)))
    for role, total in block.get("per_role", {}).items():
        turns = enumerate(scored.conversation.turns)
        _check_sum(f"role {role}", _number(total), [rewards[number] for number, turn in turns if turn.role == role])


def _check_sum(what: str, total: float, addends: list[float], *, slack: float = 0.0) -> None:
    rounding = TOLERANCE * (1 + len(addends) + sum(map(abs, addends)) + slack)
    # Gates may have multiplied to what is not finite any more.
    if not abs(sum(addends) - total) <= rounding < math.inf:
        raise ValueError(f"{what} has {total:g}, but what it is made of sums to {sum(addends):g}")


def _check_numbers(values: Iterable[object]) -> None:
    for value in values:
        _number(value)


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if abs(value) > LARGEST:
        raise OverflowError("a number is too large")
    return float(value)
