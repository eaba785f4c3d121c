"""Conversations as JSON: the transcript line, the tokens line, and chat messages for other tools.

A transcript line holds the fields of `selfplay.dialog.Conversation` under the same names; token ids live in a line of
their own.  Numbers are finite: NaN and infinity become null, and null comes back as NaN.  They are rounded, but for a
scenario's: who goes on from a stored conversation needs those as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, get_args

import numpy as np

from selfplay import __version__
from selfplay.dialog import (
    OPENER,
    SPLITS,
    Action,
    Conversation,
    Finish,
    Floats,
    Outcome,
    PlayerInfo,
    Scenario,
    Turn,
)
from selfplay.interfaces import TokenNumbers, View
from selfplay.line_files import RecordError

CONVERSATION_SCHEMA = "selfplay.conversation/1"
TOKENS_SCHEMA = "selfplay.tokens/1"
ANNOTATION_SCHEMA = "selfplay.annotation/1"
METRICS_SCHEMA = "selfplay.metrics/1"
ALARM_SCHEMA = "selfplay.alarm/1"
DECIMALS = 4  # of every float in a conversation line outside the scenario, whose floats are exact
TOKENS_DECIMALS = 6  # of every float in a tokens line or an annotation
# The finishes of which `Turn.is_cut` says so.
CUT = frozenset(
    finish for finish in get_args(Finish) if Turn(role="", text="", heard_text="", player="", finish=finish).is_cut
)
COUNTS = ("conversations", "failed", "turns", "cut_turns", "tokens")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """How many tokens one turn heard and said; kept when the tokens themselves are not."""

    heard: int
    said: int


def conversation_to_json(
    conversation: Conversation,
    *,
    run: str = "",
    package: str = __version__,
    git: str | None = None,
    rewards: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the conversation's transcript record; ``json.dumps(..., allow_nan=False)`` accepts it.

    rewards: the block of `selfplay.rewards_json.rewards_to_json`; None: it was not scored.
    Raises RecordError if an environment put something into it that JSON cannot hold.
    """
    record = {
        "schema": CONVERSATION_SCHEMA,
        "id": conversation.id,
        "run": run,
        "step": conversation.step,
        "group": conversation.group,
        "seed": conversation.seed,
        "scenario": None,  # set below: its numbers are not rounded
        "view": conversation.view,
        "players": {role: _player_to_json(player) for role, player in conversation.players.items()},
        "turns": [_turn_to_json(number, turn) for number, turn in enumerate(conversation.turns)],
        "outcome": _outcome_to_json(conversation.outcome),
        **({} if rewards is None else {"rewards": rewards}),
        "timing": {"started_at": conversation.started_at, "play_seconds": conversation.seconds},
        "origin": {"package": package, "git": git},
        "error": conversation.error,
        "tags": [],
    }
    try:
        plain: dict[str, Any] = plain_json(record)
        plain["scenario"] = plain_json(_scenario_to_json(conversation.scenario), decimals=None)
    except TypeError as error:
        raise RecordError(f"conversation {conversation.id} cannot be stored: {error}") from error
    return plain


def tokens_to_json(
    conversation: Conversation, *, tokenizer: str | None = None, found: Mapping[int, TokenNumbers] | None = None
) -> dict[str, Any] | None:
    """Return the conversation's tokens record; None: no turn has tokens, as with scripts and humans.

    found: what was found of the tokens since they were said, by the turn's number.
    """
    turns = [
        _tokens_of_turn(number, turn, (found or {}).get(number, TokenNumbers()))
        for number, turn in enumerate(conversation.turns)
        if turn.said.size or turn.heard.size
    ]
    if not turns:
        return None
    return {"schema": TOKENS_SCHEMA, "conversation": conversation.id, "tokenizer": tokenizer, "turns": turns}


def annotation_to_json(
    conversation: str, *, by: str, kind: str, data: Mapping[str, Any], turn: int | None, at: str
) -> dict[str, Any]:
    """Return the line of something that was learnt of a stored conversation later, or of one of its turns.

    Raises RecordError if the data holds what JSON cannot.
    """
    record = {"schema": ANNOTATION_SCHEMA, "at": at, "conversation": conversation, "turn": turn, "by": by, "kind": kind}
    try:
        return {**record, "data": plain_json(data, decimals=TOKENS_DECIMALS)}
    except TypeError as error:
        raise RecordError(f"annotation of conversation {conversation} cannot be stored: {error}") from error


def metrics_to_json(step: int, metrics: Mapping[str, float], *, at: str) -> dict[str, Any]:
    """Return the line of a step's metrics; what is not finite becomes null, nothing is rounded."""
    record = {"schema": METRICS_SCHEMA, "step": step, "at": at}
    return record | {path: plain_json(value, decimals=None) for path, value in metrics.items()}


def conversation_from_json(record: Mapping[str, Any], tokens_record: Mapping[str, Any] | None = None) -> Conversation:
    """Return the conversation of a transcript record, with its tokens if their record is given.

    Unknown fields are ignored.  Raises RecordError if the schema is another one, a field is missing or of the wrong
    kind, or the tokens are not those of this conversation.
    """
    check_schema(record, CONVERSATION_SCHEMA)
    try:
        conversation = _conversation(record)
        return conversation if tokens_record is None else _with_tokens(conversation, record, tokens_record)
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordError(f"conversation {record.get('id')!r}: {error}") from error


def check_schema(record: Mapping[str, Any], schema: str) -> None:
    """Refuse a record of another schema or version: raises RecordError."""
    found = record.get("schema")
    if found == schema:
        return
    family, version = schema.split("/")
    if isinstance(found, str) and found.startswith(f"{family}/"):
        raise RecordError(f"schema {found!r} is not version {version}, the one this selfplay reads")
    raise RecordError(f"schema {found!r} is not {schema!r}")


def token_counts(record: Mapping[str, Any]) -> list[TokenCounts]:
    """Return how many tokens each turn of a transcript record heard and said."""
    return [
        TokenCounts(heard=_field(turn, "num_heard_tokens", int, 0), said=_field(turn, "num_tokens", int, 0))
        for turn in record["turns"]
    ]


def record_counts(record: Mapping[str, Any]) -> dict[str, int]:
    """Return what one transcript record adds to the counts of its run; the keys are COUNTS."""
    return {
        "conversations": 1,
        "failed": int((record.get("outcome") or {}).get("status") == "failed"),
        "turns": len(record["turns"]),
        "cut_turns": sum(turn.get("finish") in CUT for turn in record["turns"]),
        "tokens": sum(counts.said for counts in token_counts(record)),
    }


def total_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of counts, key by key; the keys are COUNTS."""
    total = dict.fromkeys(COUNTS, 0)
    for one in counts:
        for name in COUNTS:
            total[name] += one[name]
    return total


def chat_messages(conversation: Conversation, role: str) -> list[dict[str, str]]:
    """Return the conversation as a chat seen by one role: its brief is the system, its turns are the assistant.

    What the partner said after the role's last turn is not part of it.  Messages of the user never neighbour each
    other, because a turn's heard text is everything since the role last spoke.
    Raises ValueError for a role that the scenario does not have.
    """
    roles = conversation.scenario.roles
    if role not in roles:
        raise ValueError(f"role {role!r} is none of {', '.join(roles)}")
    player = conversation.players.get(role)
    messages = [_message("system", player.brief)] if player and player.brief else []
    for number, turn in enumerate(conversation.turns_of(role)):
        heard = turn.heard_text or (OPENER if number == 0 else "")
        if heard:
            messages.append(_message("user", heard))
        messages.append(_message("assistant", turn.text))
    return messages


def plain_json(value: Any, *, decimals: int | None = DECIMALS) -> Any:
    """Return a value as JSON holds it: floats rounded, NaN and infinity null, tuples lists, keys text.

    decimals: to which floats are rounded; None: not at all.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _rounded(value, decimals)
    if isinstance(value, Mapping):
        return {str(key): plain_json(item, decimals=decimals) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, decimals=decimals) for item in value]
    raise TypeError(f"{value!r} is a {type(value).__name__}; use text, numbers, lists and mappings")


def _rounded(number: float, decimals: int | None) -> float | None:
    if not math.isfinite(number):
        return None
    return number if decimals is None else round(number, decimals)


def _message(chat_role: str, content: str) -> dict[str, str]:
    return {"role": chat_role, "content": content}


def _scenario_to_json(scenario: Scenario) -> dict[str, Any]:
    return {
        "env": scenario.env,
        "seed": scenario.seed,
        "split": scenario.split,
        "roles": scenario.roles,
        "public": scenario.public,
        "private": scenario.private,
    }


def _player_to_json(player: PlayerInfo) -> dict[str, Any]:
    return {
        "policy": player.policy,
        "version": player.version,
        "trained": player.trained,
        "model": player.model,
        "brief": player.brief,
        "sampling": player.sampling,
    }


def _turn_to_json(number: int, turn: Turn) -> dict[str, Any]:
    return {
        "turn": number,
        "role": turn.role,
        "player": turn.player,
        "stream": turn.stream,
        "heard_text": turn.heard_text,
        "text": turn.text,
        "finish": turn.finish,
        "num_heard_tokens": len(turn.heard),
        "num_tokens": len(turn.said),
        "action": _action_to_json(turn.action),
        "seconds": turn.seconds,
    }


def _action_to_json(action: Action | None) -> dict[str, Any] | None:
    if action is None:
        return None
    value = {} if action.value is None else {"value": action.value}
    return {"kind": action.kind, **value, "legal": action.legal}


def _outcome_to_json(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "by": outcome.by,
        "protocol_ok": outcome.protocol_ok,
        "payoff": outcome.payoff,
        "facts": outcome.facts,
    }


def _tokens_of_turn(number: int, turn: Turn, found: TokenNumbers) -> dict[str, Any]:
    return {
        "turn": number,
        "stream": turn.stream,
        "heard": turn.heard.tolist(),
        "said": turn.said.tolist(),
        "logprobs": [_rounded(value, TOKENS_DECIMALS) for value in turn.logprobs.tolist()],
        # What only the learner knows is null until its own line replaces this one.
        **{field.name: _numbers_to_json(getattr(found, field.name), turn) for field in fields(found)},
    }


def _numbers_to_json(numbers: Floats | None, turn: Turn) -> list[float | None] | None:
    if numbers is None:
        return None
    assert numbers.shape == turn.said.shape, f"{numbers.shape} numbers of {turn.said.shape} tokens"
    # Adding 0 makes the minus zero that rounding leaves a plain one.
    rounded = np.round(numbers.astype(np.float64), TOKENS_DECIMALS) + 0.0
    return [value if math.isfinite(value) else None for value in rounded.tolist()]


def _conversation(record: Mapping[str, Any]) -> Conversation:
    players = {role: _player(player) for role, player in _mappings(record, "players").items()}
    outcome, error = record.get("outcome"), record.get("error")
    timing = _field(record, "timing", dict, {})
    return Conversation(
        id=_field(record, "id", str),
        scenario=_scenario(_field(record, "scenario", dict)),
        players=players,
        turns=tuple(_turn(turn, players) for turn in _field(record, "turns", list)),
        outcome=None if outcome is None else _outcome(_mapping("outcome", outcome)),
        seed=_field(record, "seed", int, 0),
        view=_one_of(record, "view", get_args(View), "perspective"),
        error=None if error is None else _field(record, "error", str),
        started_at=_field(timing, "started_at", str, ""),
        seconds=_field(timing, "play_seconds", float, 0.0),
    )


def _scenario(record: Mapping[str, Any]) -> Scenario:
    roles = _field(record, "roles", list)
    if not all(isinstance(role, str) for role in roles):
        raise ValueError("roles must be names")
    return Scenario(
        env=_field(record, "env", str),
        seed=_field(record, "seed", int),
        split=_one_of(record, "split", SPLITS, "train"),
        roles=tuple(roles),
        public=_field(record, "public", dict, {}),
        private=_mappings(record, "private"),
    )


def _player(record: Mapping[str, Any]) -> PlayerInfo:
    return PlayerInfo(
        policy=_field(record, "policy", str),
        version=_field(record, "version", int, 0),
        model=_field(record, "model", str, ""),
        trained=_field(record, "trained", bool, False),
        brief=_field(record, "brief", str, ""),
        sampling=_field(record, "sampling", dict, {}),
    )


def _turn(value: Any, players: Mapping[str, PlayerInfo]) -> Turn:
    record = _mapping("a turn", value)
    role, action = _field(record, "role", str), record.get("action")
    label = players[role].label if role in players else ""
    if not {type(record.get("num_heard_tokens")), type(record.get("num_tokens"))} <= {int, type(None)}:
        raise ValueError("num_heard_tokens and num_tokens should be whole numbers")
    return Turn(
        role=role,
        text=_field(record, "text", str),
        heard_text=_field(record, "heard_text", str, ""),
        player=_field(record, "player", str, label),
        stream=_field(record, "stream", str, ""),
        finish=_one_of(record, "finish", get_args(Finish), "text"),
        action=None if action is None else _action(_mapping("action", action)),
        seconds=_field(record, "seconds", float, 0.0),
    )


def _action(record: Mapping[str, Any]) -> Action:
    return Action(
        kind=_field(record, "kind", str), value=record.get("value"), legal=_field(record, "legal", bool, True)
    )


def _outcome(record: Mapping[str, Any]) -> Outcome:
    by, payoff = record.get("by"), _field(record, "payoff", dict, {})
    return Outcome(
        status=_field(record, "status", str),  # type: ignore[arg-type]  # Outcome itself checks status and reason
        reason=_field(record, "reason", str),  # type: ignore[arg-type]
        by=None if by is None else _field(record, "by", str),
        protocol_ok=_field(record, "protocol_ok", bool, True),
        facts=_field(record, "facts", dict, {}),
        payoff={role: _field(payoff, role, float, math.nan) for role in payoff},
    )


def _with_tokens(
    conversation: Conversation, record: Mapping[str, Any], tokens_record: Mapping[str, Any]
) -> Conversation:
    check_schema(tokens_record, TOKENS_SCHEMA)
    if tokens_record.get("conversation") != conversation.id:
        raise ValueError(f"the tokens are those of conversation {tokens_record.get('conversation')!r}")
    turns = list(conversation.turns)
    for value in _field(tokens_record, "turns", list):
        tokens = _mapping("a turn's tokens", value)
        number = _field(tokens, "turn", int)
        if not 0 <= number < len(turns):
            raise ValueError(f"there are tokens of turn {number}, but only {len(turns)} turns")
        turns[number] = _turn_with_tokens(turns[number], tokens)
        num_tokens = _field(record["turns"][number], "num_tokens", int, len(turns[number].said))
        if len(turns[number].said) != num_tokens:
            raise ValueError(f"turn {number} said {num_tokens} tokens, {len(turns[number].said)} are stored")
    return replace(conversation, turns=tuple(turns))


def _turn_with_tokens(turn: Turn, tokens: Mapping[str, Any]) -> Turn:
    said = np.asarray(_field(tokens, "said", list), dtype=np.int32)
    logprobs = np.asarray(_field(tokens, "logprobs", list, []), dtype=np.float32)
    heard = np.asarray(_field(tokens, "heard", list, []), dtype=np.int32)
    if said.ndim != 1 or heard.ndim != 1 or logprobs.shape not in (said.shape, (0,)):
        raise ValueError(f"token arrays of shapes {heard.shape}, {said.shape} and {logprobs.shape} do not fit")
    stream = _field(tokens, "stream", str, turn.stream)
    return replace(turn, stream=stream, heard=heard, said=said, logprobs=logprobs)


def _field(record: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    """Return a field of the given kind; absent or null it is the default, and without one that is a ValueError."""
    value = record.get(name)
    if value is None:
        value = default
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "missing" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{name!r} should be a {kind.__name__}, but is {found}")
    return value


def _one_of(record: Mapping[str, Any], name: str, options: tuple[str, ...], default: str) -> Any:
    value = _field(record, name, str, default)
    if value not in options:
        raise ValueError(f"{name} {value!r} is none of {', '.join(options)}")
    return value


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} should be a mapping, but is a {type(value).__name__}")
    return value


def _mappings(record: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    return {role: _mapping(f"{name}.{role}", value) for role, value in _field(record, name, dict, {}).items()}
