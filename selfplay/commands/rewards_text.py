"""The rewards of a stored conversation, and what was learnt of it later, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from selfplay.commands.terminal import SEPARATOR, facts_line, one_line

__all__ = ["ending_lines", "mean_reward", "turn_lines"]

Record = Mapping[str, Any]  # a transcript record whose rewards can be read


def turn_lines(record: Record, turn: int) -> list[Text]:
    """Return what is known of one turn: its reward with the parts that make it, and the annotations of that turn."""
    parts = [part for part in _rewards(record).get("parts", ()) if part["turn"] == turn]
    per_turn = _rewards(record).get("per_turn", ())
    lines = []
    if parts or (turn < len(per_turn) and per_turn[turn]):
        shown = SEPARATOR.join(_part(part) for part in parts)
        lines.append(Text(f"reward {_number(per_turn[turn])}{': ' if shown else ''}{shown}", style="dim green"))
    return lines + _annotations(record, turn)


def ending_lines(record: Record) -> list[Text]:
    """Return what is known of the whole conversation: each role's reward, rewards that failed, annotations."""
    rewards = _rewards(record)
    per_role = rewards.get("per_role", {})
    failed = [part for part in rewards.get("parts", ()) if part["turn"] is None]
    lines = [Text(f"no reward {one_line(str(part['name']))}: it failed", style="red") for part in failed]
    if per_role:
        shown = ", ".join(f"{one_line(role)} {_number(value)}" for role, value in per_role.items())
        lines.append(Text(f"reward {shown}", style="green"))
    return lines + _annotations(record, None)


def mean_reward(record: Record) -> float | None:
    """Return the mean reward of a turn of the trained roles, or of all turns if none is trained; None: no rewards."""
    players = record.get("players") or {}
    trained = {role for role, player in players.items() if player.get("trained")}
    per_turn = _rewards(record).get("per_turn", ())
    roles = [turn["role"] for turn in record["turns"]]
    found = [
        value
        for role, value in zip(roles, per_turn, strict=False)
        if value is not None and (not trained or role in trained)
    ]
    return sum(found) / len(found) if found else None


def _rewards(record: Record) -> Record:
    return record.get("rewards") or {}


def _part(part: Record) -> str:
    name, raw, weight, value = one_line(str(part["name"])), part["raw"], part.get("weight", 1.0), part.get("value")
    if part.get("gate"):
        name = f"gate {name}"
    why = f" ({one_line(str(part['why']))})" if part.get("why") else ""
    if raw is None:
        return f"{name} -{why}"
    counted = f" x {weight:g}" if weight != 1 else ""
    is_clipped = value is not None and abs(value - raw * weight) > 1e-3 * (1 + abs(raw * weight))
    return f"{name} {_number(raw)}{counted}{f' counts {_number(value)}' if is_clipped else ''}{why}"


def _annotations(record: Record, turn: int | None) -> list[Text]:
    found = [annotation for annotation in record.get("annotations", ()) if annotation.get("turn") == turn]
    return [Text(_choice(annotation) or _said_by(annotation), style="dim") for annotation in found]


def _said_by(annotation: Record) -> str:
    return one_line(f"{annotation.get('by')}, {annotation.get('kind')}: ") + _facts(annotation)


def _choice(annotation: Record) -> str:
    """Return what candidates were worth in words; empty: that is not what the annotation holds."""
    data = annotation["data"]
    values, chosen = data.get("values"), data.get("chosen")
    if annotation.get("kind") != "best_of" or not isinstance(values, list) or not isinstance(chosen, int):
        return ""
    if not 0 <= chosen < len(values) or not all(value is None or isinstance(value, int | float) for value in values):
        return ""
    # Of a conversation it is the mean over its turns; its rewards above are sums.
    each = "" if isinstance(annotation.get("turn"), int) or values[chosen] is None else " a turn"
    worth = ", ".join(map(_number, values))
    best = f"the best of {len(values)} by {data.get('by')}: {_number(values[chosen])}{each}"
    return one_line(f"{best}, chosen from {worth}")


def _facts(annotation: Record) -> str:
    data = annotation["data"]
    per_role = data.get("per_role")
    if annotation.get("kind") != "score" or not isinstance(per_role, Mapping):
        return facts_line(data)
    # A later score: what each role has now, and by which rewards.
    weights = data.get("weights") or {}
    shown = ", ".join(f"{name} {value}" if value == "gate" else f"{name} x {value}" for name, value in weights.items())
    sums = ", ".join(f"{role} {_number(value)}" for role, value in per_role.items())
    return one_line(f"{sums} ({shown})")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.2f}"
