"""What the index keeps of one conversation: the numbers people sort by, and the words they look for.

Legend: K turns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfplay.dialog import Conversation, Outcome, clean_text, id_order
from selfplay.line_files import RecordError
from selfplay.records_json import conversation_from_json, token_counts
from selfplay.rewards_json import LARGEST, TOLERANCE, scored_from_json
from selfplay.run_folder import ID
from selfplay.spoken_words import WORD

__all__ = ["Facts", "PartFacts", "facts_of", "place_of", "problem_of_rewards"]

NUM_FIRST_WORDS, NUM_ABOUT = 60, 200  # characters
DECIMALS = 6  # of sums and means, so that 0.1 + 0.2 is found as 0.3

MOST_COUNTED = 2**53  # tokens of a turn; JavaScript knows no larger integers
NUMBERS = frozenset((int, float, type(None)))

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFacts:
    """What one reward said of the turns that count, those of the trained roles."""

    raw: float | None = None  # mean over the turns where it applies; None: nowhere
    value: float | None = None  # what it added to the reward; None: it applies nowhere, or is a gate
    weight: float | None = 0.0  # None: a gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the index keeps of one conversation; text as it was, and of several names each."""

    id: str
    place: str  # sorts conversations as their ids do
    step: int | None  # None: the id does not tell
    group: str
    env: str
    seed: int
    split: str
    scenario: str  # "ENV/SEED"
    about: str  # what every role may see, on one line
    public: Mapping[str, Any]  # the same as it was stored
    roles: tuple[str, ...]
    players: tuple[str, ...]  # "learner@12", one a role
    names: tuple[str, ...]  # what `player=` finds: "learner@12", "learner"
    cast: Mapping[str, tuple[str, ...]]  # role -> the same of its player
    models: tuple[str, ...]
    model: str  # of the trained player, else of the first that has one
    version: int | None  # of the trained player, else of the first
    turns: int
    tokens: int  # said
    seconds: float
    status: str | None  # None: it never ended
    reason: str | None
    by: str | None
    protocol: bool | None
    error: str | None
    cut_turns: int  # that a limit ended
    cut: float  # their share
    repeats: float  # share of the turns whose text an earlier one has
    said: Mapping[str, int]  # of the turns that count: turns, words, tokens, cut, repeated
    tags: tuple[str, ...]
    flags: tuple[str, ...]
    text: str  # what was said, a line a turn, with spaces for NULs
    brief: str  # what the roles were told, a line each
    first_words: str
    reward: float | None = None  # what the trained roles' turns add up to
    per_role: Mapping[str, float] = field(default_factory=dict)
    payoff: float | None = None  # of the trained roles, mean; of all, if none is trained
    payoffs: Mapping[str, float] = field(default_factory=dict)  # role -> env units
    success: bool | None = None  # whether the game's aim was reached; None: the env does not say
    parts: Mapping[str, PartFacts] = field(default_factory=dict)


def facts_of(record: Record) -> tuple[Facts, str]:
    """Return the facts of a transcript record, and what is wrong with its rewards, "" if nothing is.

    Rewards that cannot be read count as none.  Raises RecordError if the conversation cannot be read.
    """
    conversation = conversation_from_json(record)
    rewards, problem = _of_rewards(record, conversation)
    players = [player for role in _roles(conversation) if (player := conversation.players.get(role))]
    trained = [player for player in players if player.trained]
    first = next(iter((*trained, *players)), None)
    outcome, texts = conversation.outcome, [turn.text for turn in conversation.turns]
    cut = _share([turn.is_cut for turn in conversation.turns])
    repeats = (len(texts) - len(set(texts))) / max(len(texts), 1)
    flags = _flags(outcome, cut=cut, repeats=repeats, is_invalid=rewards.pop("has_failed_part", False))
    facts = Facts(
        id=_clean(conversation.id),
        place=place_of(conversation.id),
        step=conversation.step if ID.fullmatch(conversation.id) else None,
        group=_clean(conversation.group or conversation.id),
        env=_clean(conversation.scenario.env),
        seed=conversation.scenario.seed,
        split=conversation.scenario.split,
        scenario=_clean(f"{conversation.scenario.env}/{conversation.scenario.seed}"),
        about=_about(conversation.scenario.public),
        public=conversation.scenario.public,
        roles=_all_clean(_roles(conversation)),
        players=_all_clean(player.label for player in players),
        names=_all_clean(name for player in players for name in (player.label, player.policy)),
        cast={_clean(role): _all_clean((player.label, player.policy)) for role, player in conversation.players.items()},
        models=_all_clean(player.model for player in players if player.model),
        model=_clean(next((player.model for player in (*trained, *players) if player.model), "")),
        version=first.version if first else None,
        turns=conversation.num_turns,
        tokens=sum(counts.said for counts in token_counts(record)),
        seconds=conversation.seconds,
        status=outcome.status if outcome else None,
        reason=outcome.reason if outcome else None,
        by=_clean(outcome.by) if outcome and outcome.by is not None else None,
        protocol=outcome.protocol_ok if outcome else None,
        error=_clean(conversation.error) if conversation.error is not None else None,
        cut_turns=sum(turn.is_cut for turn in conversation.turns),
        cut=cut,
        repeats=repeats,
        said=_said(record, conversation),
        tags=_tags(record),
        flags=flags,
        text=_clean("\n".join(texts)).replace("\0", " "),  # at a NUL, SQLite's search would see its end
        brief=_clean("\n".join(player.brief for player in players)),
        first_words=_clean(" ".join(texts[0][: 4 * NUM_FIRST_WORDS].split())[:NUM_FIRST_WORDS]) if texts else "",
        **rewards,
        **_of_outcome(conversation),
    )
    return facts, problem


def place_of(id: str) -> str:
    """Return what sorts ids as text: by step, letter, group and index; what is no id comes last."""
    if not ID.fullmatch(id):
        return _clean(f"~{id}")
    step, letter, group, index = id_order(id)
    return f"{step:012d}{letter} {group:012d}{index:012d}"


def problem_of_rewards(record: Record) -> str:
    """Return what is wrong with a readable record's rewards, "" if nothing is."""
    return _problem_of_rewards(record, conversation_from_json(record))


def _problem_of_rewards(record: Record, conversation: Conversation) -> str:
    try:
        scored_from_json(record, conversation)
    except RecordError as error:
        return str(error)
    return ""


def _of_outcome(conversation: Conversation) -> dict[str, Any]:
    """Return payoff, payoffs and success, as far as the env says them."""
    outcome = conversation.outcome
    if outcome is None:
        return {}
    payoffs = {_clean(role): value for role, value in outcome.payoff.items() if math.isfinite(value)}
    trained = [role for role, player in conversation.players.items() if player.trained]
    counted = [payoffs[role] for role in map(_clean, trained or outcome.payoff) if role in payoffs]
    success = outcome.facts.get("success")
    return {
        "payoff": round(math.fsum(counted) / len(counted), DECIMALS) if counted else None,
        "payoffs": payoffs,
        "success": success if isinstance(success, bool) else None,
    }


def _roles(conversation: Conversation) -> list[str]:
    return list(dict.fromkeys((*conversation.scenario.roles, *(turn.role for turn in conversation.turns))))


def _about(public: Record) -> str:
    if "topic" in public:
        text = str(public["topic"])
    else:
        text = " · ".join(f"{name}: {_word(value)}" for name, value in public.items())
    return _clean(" ".join(text.split())[:NUM_ABOUT])


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _clean(text: str) -> str:
    return text if text.isascii() else clean_text(text)


def _all_clean(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(_clean(name) for name in names)


def _share(holds: Sequence[bool]) -> float:
    return sum(holds) / len(holds) if holds else 0.0


def _said(record: Record, conversation: Conversation) -> dict[str, int]:
    """Count what was said in the turns that count."""
    seen: set[str] = set()
    said = dict.fromkeys(("turns", "words", "tokens", "cut", "repeated"), 0)
    for turn, counts, is_counted in zip(
        conversation.turns, token_counts(record), _is_counted(conversation), strict=True
    ):
        if is_counted:
            said["turns"] += 1
            said["words"] += len(WORD.findall(turn.text))
            said["tokens"] += min(counts.said, MOST_COUNTED)
            said["cut"] += turn.is_cut
            said["repeated"] += turn.text in seen
        seen.add(turn.text)
    return said


def _tags(record: Record) -> tuple[str, ...]:
    tags = record.get("tags")
    return tuple(_clean(tag) for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ()


def _flags(outcome: Outcome | None, *, cut: float, repeats: float, is_invalid: bool) -> tuple[str, ...]:
    holds = {
        "failed": outcome is not None and outcome.status == "failed",
        "truncated": outcome is not None and outcome.status == "truncated",
        "cut": cut > 0,
        "repeats": repeats > 0,
        "protocol": outcome is not None and not outcome.protocol_ok,
        "invalid part": is_invalid,
    }
    return tuple(flag for flag, is_so in holds.items() if is_so)


def _of_rewards(record: Record, conversation: Conversation) -> tuple[dict[str, Any], str]:
    """Return reward, per_role and parts, over the turns of the trained roles, or all turns if none is trained.

    The second is what is wrong with the rewards; "": nothing.
    """
    block = record.get("rewards")
    if block is None:
        return {}, ""
    read = None
    try:
        read = _read_block(block, conversation)
        if _adds_up(read, block, conversation):
            return _totals(read, block, conversation), ""
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError):
        pass
    # Only the exact check, which is slower, knows what is allowed and how to say what is not.
    problem = _problem_of_rewards(record, conversation)
    if problem or read is None:
        return {}, problem or f"conversation {conversation.id!r}: its rewards cannot be read"
    return _totals(read, block, conversation), ""


@dataclass(slots=True)
class _Sums:
    """What one reward says of the turns that count."""

    weight: float | None
    number: int = 0  # turns where it applies
    raw: float = 0.0
    value: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A rewards block, read once."""

    added: list[float]  # [K] what the parts add to each turn
    num_added: list[int]  # [K] of how many parts
    parts: dict[str, _Sums]


def _read_block(block: Record, conversation: Conversation) -> _Block:
    num_turns, lines = conversation.num_turns, block.get("parts", ())
    is_counted = _is_counted(conversation)
    gated = _gated(lines, num_turns) if any(line.get("gate") for line in lines) else [1.0] * num_turns
    read = _Block(added=[0.0] * num_turns, num_added=[0] * num_turns, parts={})
    for line in lines:
        name, turn, raw, value = line["name"], line["turn"], line["raw"], line.get("value")
        weight = None if line.get("gate") else line.get("weight") or 0.0
        if name not in read.parts:
            read.parts[name] = _Sums(weight)
        if not {type(weight), type(raw), type(value)} <= NUMBERS:
            raise TypeError
        if (weight and abs(weight) > LARGEST) or (raw and abs(raw) > LARGEST) or (value and abs(value) > LARGEST):
            raise OverflowError
        if None in (raw, turn) or line["status"] != "ok":
            continue
        if turn < 0:
            raise IndexError
        added = value * gated[turn] if weight else 0.0
        read.added[turn] += added
        read.num_added[turn] += 1
        if is_counted[turn]:
            sums = read.parts[name]
            sums.number, sums.raw, sums.value = sums.number + 1, sums.raw + raw, sums.value + added
    return read


def _is_counted(conversation: Conversation) -> list[bool]:
    trained = {role for role, player in conversation.players.items() if player.trained}
    return [not trained or turn.role in trained for turn in conversation.turns]


def _gated(lines: Sequence[Record], num_turns: int) -> list[float]:
    """Return by what the gates of each turn multiply its sum: one that is not above zero stays as it is."""
    sums, gates = [0.0] * num_turns, [1.0] * num_turns
    for line in lines:
        if None in (line["raw"], line["turn"]) or line["status"] != "ok":
            continue
        if line.get("gate"):
            gates[line["turn"]] *= line["value"]
        elif line.get("weight"):
            sums[line["turn"]] += line["value"]
    return [gate if total > 0 else 1.0 for gate, total in zip(gates, sums, strict=True)]


def _adds_up(read: _Block, block: Record, conversation: Conversation) -> bool:
    """Whether the block's sums are surely right; `scored_from_json` allows a little more."""
    per_turn = block["per_turn"]
    if len(per_turn) != len(read.added) or not set(map(type, per_turn)) <= {int, float}:
        return False
    if max(map(abs, per_turn), default=0) > LARGEST:
        return False
    sums = zip(per_turn, read.added, read.num_added, strict=True)
    if read.parts and not all(abs(total - added) <= TOLERANCE * (1 + number) for total, added, number in sums):
        return False
    by_role = dict.fromkeys(block["per_role"], 0.0)
    for turn, reward in zip(conversation.turns, per_turn, strict=True):
        by_role[turn.role] += reward
    return all(abs(by_role[role] - total) <= TOLERANCE for role, total in block["per_role"].items())


def _totals(read: _Block, block: Record, conversation: Conversation) -> dict[str, Any]:
    rewards = [value for value, counts in zip(block["per_turn"], _is_counted(conversation), strict=True) if counts]
    has_total = bool(rewards) and None not in rewards
    roles = block.get("per_role", {}).items()
    return {
        "reward": round(math.fsum(rewards), DECIMALS) if has_total else None,
        "per_role": {_clean(str(role)): float(value) for role, value in roles if value is not None},
        "parts": {_clean(str(name)): _part(sums) for name, sums in read.parts.items()},
        "has_failed_part": any(part.get("status") == "failed" for part in block.get("parts", ())),
    }


def _part(sums: _Sums) -> PartFacts:
    if not sums.number:
        return PartFacts(weight=sums.weight)
    value = None if sums.weight is None else _rounded(sums.value)
    return PartFacts(raw=_rounded(sums.raw / sums.number), value=value, weight=sums.weight)


def _rounded(number: float) -> float | None:
    return round(number, DECIMALS) if math.isfinite(number) else None
