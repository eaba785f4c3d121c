"""What is nobody else's business, left out: what one role alone was told, what quotes it, people's words, places.

Everything here is an allow-list: what is not known to be harmless goes.  What roles said stays, whatever they said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfplay.transcript_index import Row

__all__ = [
    "LEFT_OUT",
    "last_name",
    "without_private",
    "without_private_alarm",
    "without_private_comparison",
    "without_private_row",
    "without_private_run",
    "without_private_tokens",
]

Record = Mapping[str, Any]
LEFT_OUT = "left out"  # stands for a text of which only its being there is said

OF_RECORD = ("schema", "id", "run", "step", "group", "seed", "view")
OF_SCENARIO = ("seed", "split", "roles", "public")
OF_PLAYER = ("version", "trained")
OF_TURN = ("turn", "role", "stream", "text", "finish", "num_heard_tokens", "num_tokens", "seconds")
OF_ACTION = ("kind", "legal")
OF_OUTCOME = ("status", "reason", "by", "protocol_ok", "payoff")
OF_REWARDS = ("set", "per_turn", "per_role")
OF_PART = ("scope", "turn", "role", "raw", "weight", "gate", "value", "status")
OF_TIMING = ("started_at", "play_seconds", "reward_seconds")
OF_ANNOTATION = ("schema", "at", "conversation", "turn", "kind")
# Of the annotations these hold numbers alone; the others are people's words, or quote a reward's reasons.
MEASURED = ("learner", "likelihood")
OF_ALARM = ("schema", "at", "step", "name", "state", "value", "bound", "look_at")
OF_RUN = (
    *("run", "status", "is_live", "since", "step", "created_at", "ended_at", "package", "seed", "view", "kind"),
    *("kl", "steps", "checkpoints", "evaluation", "heat", "num_preferences", "readonly"),
)
OF_INFO = (
    *("conversations", "parts", "weights", "roles", "splits", "reasons", "statuses", "steps", "versions", "newest"),
    "has",
)
OF_REWARD = ("label", "weight", "gate", "role")


def without_private(record: Record) -> dict[str, Any]:
    """Return a transcript record of known fields, without briefs, private facts, reasons, errors, tags and places.

    Of what a role heard, only what others said aloud stays: an opener may quote its brief.  What players say of their
    secrets stays too.
    """
    scenario, turns = record["scenario"], record["turns"]
    roles, annotations = scenario.get("roles", ()), record.get("annotations") or ()
    kept = {
        **_of(record, OF_RECORD),
        "scenario": {
            "env": last_name(scenario["env"]),
            **_of(scenario, OF_SCENARIO),
            "private": {role: {} for role in roles},
        },
        "players": {role: _player(player) for role, player in record["players"].items()},
        "turns": [_turn(turns, number) for number in range(len(turns))],
        "outcome": None if record.get("outcome") is None else {**_of(record["outcome"], OF_OUTCOME), "facts": {}},
        "timing": _of(record.get("timing") or {}, OF_TIMING),
        "origin": _of(record.get("origin") or {}, ("package",)),
        "error": None if record.get("error") is None else LEFT_OUT,
        "tags": [],
    }
    if record.get("rewards") is not None:
        kept["rewards"] = _rewards(record["rewards"])
    measured = [_annotation(one) for one in annotations if one.get("kind") in MEASURED]
    return {**kept, "annotations": measured} if measured else kept


def without_private_row(row: Row, record: Record) -> Row:
    """Return what a list shows of a conversation without people's tags and without places.

    record: as `without_private` returned it.
    """
    players = record["players"]
    return replace(
        row,
        scenario=_scenario(row.scenario),
        model=last_name(row.model),
        players="/".join(_label(players[role]) for role in record["scenario"].get("roles", ()) if role in players),
        tags=(),
        flags=tuple(_flags(row.flags)),
    )


def without_private_tokens(answer: Record) -> dict[str, Any]:
    """Return the tokens of a conversation without those heard, a brief among them."""
    return {**answer, "turns": [{**turn, "heard": []} for turn in answer["turns"]]}


def without_private_run(answer: Record) -> dict[str, Any]:
    """Return what the page says of a run without its configuration, command, places, and the texts of its alarms."""
    info, rewards = answer["info"], answer.get("rewards") or ()
    num_problems = len(answer.get("problems") or ())
    return {
        **_of(answer, OF_RUN),
        "path": answer["run"],
        "env": _names(answer.get("env")),
        "model": _names(answer.get("model")),
        "problems": [f"{num_problems} things could not be read"] if num_problems else [],
        "rewards": [_reward(one) for one in rewards],
        "alarms": [without_private_alarm(alarm) for alarm in answer.get("alarms") or ()],
        "info": {
            **_of(info, OF_INFO),
            "envs": [last_name(env) for env in info["envs"]],
            "models": [last_name(model) for model in info["models"]],
            "flags": _flags(info["flags"]),
            "tags": [],
        },
        "config": "",
        "command": None,
        "git": None,
        "resumed": [],
        "sources": {},
    }


def without_private_alarm(alarm: Record) -> dict[str, Any]:
    """Return an alarm with its name for its text, which may quote a conversation."""
    return {**_of(alarm, OF_ALARM), "text": str(alarm.get("name", "")).replace("_", " ")}


def without_private_comparison(answer: Record) -> dict[str, Any]:
    """Return a comparison whose scenarios name no places."""
    scenarios = [{**one, "scenario": _scenario(one["scenario"])} for one in answer["scenarios"]]
    return {**answer, "scenarios": scenarios}


def last_name(value: object) -> str:
    """Return the last name of what may be a path: "/home/me/models/base" is "base"."""
    return re.split(r"[/\\]", str(value or "").rstrip("/\\"))[-1]


def _of(record: Record, names: Sequence[str]) -> dict[str, Any]:
    return {name: record[name] for name in names if name in record}


def _names(value: object) -> str | None:
    """Return the last name of each of several that are written after one another."""
    return None if value is None else ", ".join(last_name(name) for name in str(value).split(", "))


def _scenario(name: str) -> str:
    env, _, seed = name.rpartition("/")
    return f"{last_name(env)}/{seed}"


def _flags(flags: Iterable[str]) -> list[str]:
    return [flag for flag in flags if not flag.startswith("tagged:")]


def _reward(reward: Record) -> dict[str, Any]:
    name = last_name(reward.get("name"))
    # What a reward of somebody's own says of itself was written for nobody else.
    summary = "" if ":" in name else reward.get("summary", "")
    return {**_of(reward, OF_REWARD), "name": name, "summary": summary}


def _player(player: Record) -> dict[str, Any]:
    sampling = player.get("sampling") or {}
    return {
        "policy": last_name(player.get("policy")),
        "model": last_name(player.get("model")),
        **_of(player, OF_PLAYER),
        "brief": "",
        "sampling": {name: value for name, value in sampling.items() if isinstance(value, int | float)},
    }


def _label(player: Record) -> str:
    return f"{player['policy']}@{player.get('version', 0)}" if player["model"] else str(player["policy"])


def _turn(turns: Sequence[Record], number: int) -> dict[str, Any]:
    turn = turns[number]
    action = turn.get("action")
    return {
        **_of(turn, OF_TURN),
        "player": last_name(turn.get("player")),
        "heard_text": _said_aloud(turns, number),
        "action": None if action is None else _of(action, OF_ACTION),
    }


def _rewards(block: Record) -> dict[str, Any]:
    parts = [{"name": part["name"], **_of(part, OF_PART), "why": ""} for part in block.get("parts") or ()]
    return {**_of(block, OF_REWARDS), "parts": parts}


def _annotation(annotation: Record) -> dict[str, Any]:
    return {**_of(annotation, OF_ANNOTATION), "by": annotation["kind"], "data": _numbers(annotation.get("data"))}


def _numbers(value: object) -> dict[str, Any]:
    """Return the numbers of a mapping, and those of the mappings in it: {"advantage": {"host": 0.5}}."""
    if not isinstance(value, Mapping):
        return {}
    plain = {key: item for key, item in value.items() if item is None or isinstance(item, int | float)}
    return {**plain, **{key: _numbers(item) for key, item in value.items() if isinstance(item, Mapping)}}


def _said_aloud(turns: Sequence[Record], number: int) -> str:
    """Return what the others said since a turn's role last spoke, if that is what it heard; else nothing of it."""
    heard, role = turns[number].get("heard_text") or "", turns[number]["role"]
    before = turns[:number]
    last = max((place for place, turn in enumerate(before) if turn["role"] == role), default=-1)
    texts = [turn["text"] for turn in before[last + 1 :]]
    if heard == "\n".join(texts):
        return heard
    return "\n".join(text for text in texts if text and text in heard)
