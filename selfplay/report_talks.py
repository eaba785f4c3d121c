"""Conversations for a report: which ones are shown, and what is shown of each.

Which: the best, the worst and some drawn at random, before and after training on the same scenario; and those whose
reward was farthest from what their group got.
"""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.records_json import CUT
from selfplay.transcript_index import Row, TranscriptIndex

__all__ = ["Exhibit", "Line", "Talk", "choose", "exhibits", "surprising", "talk_of"]

Record = Mapping[str, Any]
NUM_EACH = 2  # conversations, of the best, of the worst, and at random
NUM_SURPRISING = 2
MAX_CHARACTERS = 1500  # of a text
MAX_TURNS = 40  # of a conversation
NUM_COLOURS = 5
PAGE = 200  # rows read at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One turn as it is shown."""

    number: int
    role: str
    colour: int
    heard: str  # what was heard that the turn before did not say; "": nothing
    text: str
    reward: float | None
    parts: tuple[tuple[str, float], ...]  # what counted: name, and what it added
    remarks: tuple[str, ...]  # "cut", "not legal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One conversation as it is shown."""

    id: str
    version: int | None  # updates of the policy that played it
    about: str
    reward: float | None
    group_mean: float | None
    ended: str
    told: tuple[tuple[str, int, str], ...]  # what a role alone was told: role, its colour, text
    lines: tuple[Line, ...]
    num_more: int  # turns that are not shown
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """Conversations on one scenario, and why they are shown."""

    title: str  # "best", "worst", "drawn at random"
    about: str
    talks: tuple[Talk, ...]  # before and after training, or just one
    is_open: bool  # whether it is shown at once: the first of its kind is


def exhibits(index: TranscriptIndex, *, run: str, private: bool = True) -> list[Exhibit]:
    """Return the best, the worst and random held-out conversations after training, each beside the one before it.

    A run that was not evaluated shows conversations of its training instead, alone.  private: with what roles alone
    were told.
    """
    pairs = _held_out(index)
    chosen = choose(pairs or [(row,) for row in _rows(index, "split=train", whole_run=False)], run=run)
    found: list[Exhibit] = []
    for title, rows in chosen:
        talks = [talk for row in rows if (talk := _load(index, row, private=private))]
        if len(talks) == len(rows):
            is_first = all(one.title != title for one in found)
            found.append(Exhibit(title=title, about=rows[-1].about, talks=tuple(talks), is_open=is_first))
    return found


def surprising(index: TranscriptIndex, *, private: bool = True) -> list[Talk]:
    """Return the training conversations whose reward was farthest from their group's mean."""
    rows = index.page("split=train", sort="surprise", limit=NUM_SURPRISING).rows
    found = [_load(index, row, private=private) for row in rows if row.surprise]
    return [talk for talk in found if talk is not None]


def choose(scenarios: Sequence[Sequence[Row]], *, run: str) -> list[tuple[str, Sequence[Row]]]:
    """Return (title, rows) for the best, the worst and random scenarios by the reward of their last row.

    The draw depends on the name of the run alone.  No scenario is chosen twice.  Without rewards all are random.
    """
    draw = random.Random(zlib.crc32(run.encode("utf-8", "surrogatepass")))
    known = [rows for rows in scenarios if rows[-1].reward is not None]
    ranked = sorted(known, key=lambda rows: (-(rows[-1].reward or 0.0), rows[-1].id))
    num = min(NUM_EACH, len(ranked) // 2) if len(ranked) > 1 else len(ranked)
    best, rest = ranked[:num], ranked[num:]
    worst, between = rest[len(rest) - num :][::-1], rest[: max(0, len(rest) - num)]
    between = between if known else list(scenarios)
    drawn = draw.sample(between, min(NUM_EACH, len(between)))
    titled = (("best", best), ("worst", worst), ("drawn at random", drawn))
    return [(title, rows) for title, of_title in titled for rows in of_title]


def talk_of(record: Record, row: Row, *, private: bool = True) -> Talk:
    """Return what is shown of one conversation."""
    turns, outcome = record["turns"], record.get("outcome") or {}
    return Talk(
        id=record["id"],
        version=row.version,
        about=row.about,
        reward=row.reward,
        group_mean=row.group_mean,
        ended=_ended(outcome),
        told=tuple(_told(record)) if private else (),
        lines=tuple(_lines(record, private=private)),
        num_more=max(0, len(turns) - MAX_TURNS),
        error=_shortened(str(record.get("error") or "")) if private else "",
    )


# ----- which -----


def _held_out(index: TranscriptIndex) -> list[tuple[Row, ...]]:
    """Return (before, after) of each scenario that the first and the last version played, first conversation each."""
    rows = _rows(index, "split=held_out", whole_run=True)
    versions = sorted({row.version for row in rows if row.version is not None})
    if len(versions) < 2:
        return [(row,) for row in rows]
    sides: list[dict[str, Row]] = [{}, {}]
    for row in rows:
        for side, version in zip(sides, (versions[0], versions[-1]), strict=True):
            if row.version == version:
                side.setdefault(row.scenario, row)
    return [(sides[0][scenario], after) for scenario, after in sides[1].items() if scenario in sides[0]]


def _rows(index: TranscriptIndex, query: str, *, whole_run: bool) -> list[Row]:
    """Return conversations that did not fail, the oldest first; or, not of the whole run, its newest ones."""
    query = f"{query} & !status=failed"
    if not whole_run:
        return list(index.page(query, sort="newest", limit=PAGE).rows)
    rows: list[Row] = []
    while page := index.page(query, sort="oldest", offset=len(rows), limit=PAGE).rows:
        rows += page
    return rows


def _load(index: TranscriptIndex, row: Row, *, private: bool) -> Talk | None:
    record = index.record(row.id)
    return None if record is None else talk_of(record, row, private=private)


# ----- what of each -----


def _lines(record: Record, *, private: bool) -> Iterator[Line]:
    turns, rewards = record["turns"], record.get("rewards") or {}
    per_turn = rewards.get("per_turn") or ()
    for number, turn in enumerate(turns[:MAX_TURNS]):
        heard = str(turn.get("heard_text") or "")
        is_known = number > 0 and heard == turns[number - 1]["text"]
        yield Line(
            number=number,
            role=turn["role"],
            colour=_colour(record, turn["role"]),
            # What the environment says may quote what a role alone was told.
            heard=_shortened(heard) if private and not is_known else "",
            text=_shortened(turn["text"]),
            reward=_finite(per_turn[number]) if number < len(per_turn) else None,
            parts=tuple(_parts(rewards, number)),
            remarks=tuple(_remarks(turn)),
        )


def _parts(rewards: Record, turn: int) -> Iterator[tuple[str, float]]:
    for part in rewards.get("parts") or ():
        value = _finite(part.get("value"))
        if part.get("turn") == turn and value is not None and (part.get("weight") or part.get("gate")):
            yield (f"{part['name']} ×" if part.get("gate") else str(part["name"])), value  # noqa: RUF001 (times)


def _remarks(turn: Record) -> Iterator[str]:
    action = turn.get("action")
    if turn.get("finish") in CUT:
        yield "cut"
    if action and not action.get("legal", True):
        yield "not legal"


def _told(record: Record) -> Iterator[tuple[str, int, str]]:
    facts = record["scenario"].get("private") or {}
    for role in record["scenario"]["roles"]:
        player = (record.get("players") or {}).get(role) or {}
        known = " · ".join(f"{key}: {_word(value)}" for key, value in (facts.get(role) or {}).items())
        text = "\n".join(filter(None, [player.get("brief", ""), known]))
        if text:
            yield role, _colour(record, role), _shortened(text)


def _ended(outcome: Record) -> str:
    if not outcome:
        return "unfinished"
    reason, status = str(outcome.get("reason", "")).replace("_", " "), outcome.get("status")
    by = f" by {outcome['by']}" if outcome.get("by") else ""
    return f"{reason}{by}" if status == "terminated" else f"{status}: {reason}{by}"


def _colour(record: Record, role: str) -> int:
    roles = record["scenario"]["roles"]
    return roles.index(role) % NUM_COLOURS if role in roles else 0


def _shortened(text: str) -> str:
    more = len(text) - MAX_CHARACTERS
    return text if more <= 0 else f"{text[:MAX_CHARACTERS]}… ({more} more characters)"


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
