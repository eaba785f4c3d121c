"""Conversations to imitate: lessons from scripts and runs, and the token streams that a model learns from them.

A lesson's streams are those that playing gives: what a role hears goes through the same bridge, and its turns end as
the model would end them.  Legend: K turns, S tokens said.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from selfplay.dealing import LEARNER
from selfplay.dialog import (
    Conversation,
    PlayerInfo,
    ScoredConversation,
    Split,
    Tokens,
    Turn,
    conversation_id,
    no_tokens,
)
from selfplay.errors import UserError
from selfplay.experience import Trajectory, trace
from selfplay.filters import Filter, narrowed
from selfplay.generate.scripted import ScriptedGenerator
from selfplay.interfaces import Env, stream_of
from selfplay.play import make_matches, play
from selfplay.players import SCRIPTED, Player
from selfplay.records_json import conversation_from_json
from selfplay.score import has_failed
from selfplay.sft_settings import NUM_SCRIPTED, SftSettings
from selfplay.store import RunWriter
from selfplay.transcript_index import TranscriptIndex
from selfplay.written import nearest

if TYPE_CHECKING:
    from selfplay.generate.chat import ChatBridge

__all__ = ["Lesson", "Lessons", "Streams", "drawn", "parted", "run_lessons", "scripted_lessons", "streams_of"]

DRAW_LESSONS, DRAW_PARTS = 3101, 3102  # first parts of the spawn keys
HELD_OUT_LETTER = "h"  # of the ids of scripted conversations that only measure
MOST_FAILED = 0.05  # share of the scripted conversations; more stop it
Unused = Literal["unfit", "failed", "cut", "silent"]  # why nothing of a conversation is imitated
UNUSED: Mapping[Unused, str] = {
    "unfit": "left out by the filter",
    "failed": "failed or unfinished",
    "cut": "with every turn of the imitated roles cut by a limit",
    "silent": "in which the imitated roles say nothing",
}
QUOTED = PlayerInfo(policy="quoted")  # who says what is heard, and not learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A conversation, and which of its turns are imitated."""

    conversation: Conversation  # one that ended
    learnt: frozenset[int]  # numbers of turns
    key: str  # lessons with one key are all learnt, or all held out

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are imitated, in speaking order."""
        speakers = {self.conversation.turns[number].role for number in self.learnt}
        return tuple(role for role in self.conversation.scenario.roles if role in speakers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What a model learns from, and what tells how well."""

    train: tuple[Lesson, ...]
    held_out: tuple[Lesson, ...] = ()
    notes: tuple[str, ...] = ()  # what a person should know of the data
    played: tuple[Conversation, ...] = ()  # what no other place keeps, such as games that scripts have played

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are imitated, in the order of their first lesson."""
        return tuple(dict.fromkeys(role for lesson in (*self.train, *self.held_out) for role in lesson.roles))


# ----- scripts -----


def scripted_lessons(env: Env, settings: SftSettings) -> Lessons:
    """Return games that the environment's own players played: on the train split, and on the held-out one.

    Raises UserError if a role is unknown, over 5% of the games failed, or none survives the filter.
    """
    roles = settings.chosen_roles or env.roles
    _check_roles(roles, env.roles, said=f"env {env.name}")
    num = settings.conversations or NUM_SCRIPTED
    num_held_out = max(1, round(settings.held_out * num)) if settings.held_out else 0
    train = _played(env, settings.seed, split="train", num=num)
    held_out = _played(env, settings.seed, split="held_out", num=num_held_out)
    found = [
        [_lesson(conversation, own) for conversation, own in side]
        for side in _filtered((train, held_out), settings.filter, roles)
    ]
    lessons = [[one for one in side if isinstance(one, Lesson)] for side in found]
    if not lessons[0]:
        raise UserError(
            _nothing(settings.filter, f"the {len(found[0])} scripted conversations of env {env.name}", found[0])
        )
    notes = _left_out([*found[0], *found[1]], settings.filter)
    played = tuple(lesson.conversation for side in lessons for lesson in side)
    return Lessons(train=tuple(lessons[0]), held_out=tuple(lessons[1]), notes=notes, played=played)


def _played(env: Env, seed: int, *, split: Split, num: int) -> list[Conversation]:
    players = {SCRIPTED: Player(policy=SCRIPTED, generator=ScriptedGenerator(env))}
    matches = make_matches(env, dict.fromkeys(env.roles, SCRIPTED), seed=seed, num_matches=num, split=split)
    if split == "held_out":
        # The ids of the two splits must differ, for one folder keeps both.
        matches = (
            replace(match, id=conversation_id(step=0, letter=HELD_OUT_LETTER, group=number, index=0))
            for number, match in enumerate(matches)
        )
    played = sorted(play(matches, env=env, players=players), key=lambda conversation: conversation.id)
    failed = [conversation for conversation in played if has_failed(conversation)]
    if len(failed) > MOST_FAILED * len(played):
        raise UserError(
            f"{len(failed)} of the {len(played)} scripted conversations of env {env.name} failed; the first: "
            f"{failed[0].error}"
        )
    return [conversation for conversation in played if not has_failed(conversation)]


def _filtered(
    sides: Sequence[Sequence[Conversation]], query: str, roles: Sequence[str]
) -> list[list[tuple[Conversation, Collection[str]]]]:
    """Return the conversations of each side, with the roles for which they fit a filter."""
    if not query.strip():
        return [[(conversation, roles) for conversation in side] for side in sides]
    # Filters ask the index of a run folder, so for a moment there is one.
    with tempfile.TemporaryDirectory(prefix="selfplay-sft-") as place:
        folder = Path(place) / SCRIPTED
        with RunWriter.create(folder, {}, "", tokens="none") as writer:
            for side in sides:
                for conversation in side:
                    writer.append(conversation)
        with contextlib.closing(TranscriptIndex(folder)) as index:
            index.refresh()
            fitting = _fitting(index, query, roles)
    return [
        [(conversation, [role for role in roles if conversation.id in fitting[role]]) for conversation in side]
        for side in sides
    ]


def _fitting(index: TranscriptIndex, query: str, roles: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return role -> ids of the conversations that fit a filter, whose payoff and reward are the role's."""
    return {role: frozenset(index.ids_for(query, role)) for role in roles}


# ----- runs -----


def run_lessons(folder: Path, settings: SftSettings) -> Lessons:
    """Return the conversations of a stored run, parted by scenario into those to learn from and those held out.

    Only training conversations count, unless the filter itself speaks of splits.  Turns that a limit cut are heard,
    and not imitated.  Raises UserError if a role is unknown, or nothing survives the filter.
    """
    with contextlib.closing(TranscriptIndex(folder)) as index:
        index.refresh()
        known = index.info().roles
        _check_roles(settings.chosen_roles, known, said=f"run {folder.resolve().name}")
        query = _of_training(settings.filter, index)
        fitting = _fitting(index, query, settings.chosen_roles or known)
        ids = index.ids()
        found = [_stored_lesson(index, id, fitting, settings) for id in ids]
    lessons = [one for one in found if isinstance(one, Lesson)]
    if not lessons:
        raise UserError(_nothing(query, f"the {len(ids)} conversations of run {folder.resolve().name}", found))
    return parted(drawn(lessons, settings), settings, notes=_left_out(found, query))


def _of_training(query: str, index: TranscriptIndex) -> str:
    fields = index.fields()
    return query if "split" in Filter.parse(query, fields).names else narrowed(query, "split=train", fields)


def _stored_lesson(
    index: TranscriptIndex, id: str, fitting: Mapping[str, frozenset[str]], settings: SftSettings
) -> Lesson | Unused:
    roles = [role for role, ids in fitting.items() if id in ids]
    record = index.record(id) if roles else None
    if record is None:
        return "unfit"
    conversation = conversation_from_json(record)
    trained = [role for role, player in conversation.players.items() if player.trained]
    if not settings.roles and trained:
        roles = [role for role in roles if role in trained]
    return _lesson(conversation, roles)


# ----- lessons -----


def _lesson(conversation: Conversation, roles: Collection[str]) -> Lesson | Unused:
    """Return the lesson of a conversation for some of its roles, those that fit the filter; or why there is none."""
    if not roles:
        return "unfit"
    if conversation.outcome is None or has_failed(conversation):
        return "failed"
    said = {k: turn for k, turn in enumerate(conversation.turns) if turn.role in roles and turn.text.strip()}
    learnt = frozenset(k for k, turn in said.items() if not turn.is_cut)
    if not learnt:
        return "cut" if said else "silent"
    scenario = conversation.scenario
    key = f"{scenario.env}/{scenario.split}/{scenario.seed}"
    return Lesson(conversation=conversation, learnt=learnt, key=key)


def drawn(lessons: Sequence[Lesson], settings: SftSettings) -> list[Lesson]:
    """Return at most as many lessons as the settings ask for; fewer are always among more."""
    if settings.conversations is None or settings.conversations >= len(lessons):
        return list(lessons)
    order = _generator(settings.seed, DRAW_LESSONS).permutation(len(lessons))
    return [lessons[place] for place in sorted(order[: settings.conversations].tolist())]


def parted(lessons: Sequence[Lesson], settings: SftSettings, *, notes: Sequence[str] = ()) -> Lessons:
    """Return lessons in two parts that share no key; the held-out one has about the share that is asked for."""
    keys = list(dict.fromkeys(lesson.key for lesson in lessons))
    counts = Counter(lesson.key for lesson in lessons)
    held_out: set[str] = set()
    order = _generator(settings.seed, DRAW_PARTS).permutation(len(keys)).tolist() if settings.held_out else []
    # The last key is always learnt from.
    for place in order[:-1]:
        if sum(counts[key] for key in held_out) >= settings.held_out * len(lessons):
            break
        held_out.add(keys[place])
    return Lessons(
        train=tuple(lesson for lesson in lessons if lesson.key not in held_out),
        held_out=tuple(lesson for lesson in lessons if lesson.key in held_out),
        notes=tuple(notes),
    )


def _generator(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose,)))


def _check_roles(roles: Sequence[str], known: Sequence[str], *, said: str) -> None:
    for role in roles:
        if role not in known:
            raise UserError(f"roles={role}: {said} has no such role{nearest(role, list(known))}")


def _nothing(query: str, what: str, found: Sequence[Lesson | Unused]) -> str:
    """Return why there is nothing to imitate in the conversations that `what` names."""
    if found and query.strip() and all(one == "unfit" for one in found):
        return f"filter={query!r}: none of {what} fits it"
    why = f": {_counts(found, query)}" if found else ""
    return f"there is nothing to imitate in {what}{why}"


def _left_out(found: Sequence[Lesson | Unused], query: str) -> tuple[str, ...]:
    num_kept = sum(isinstance(one, Lesson) for one in found)
    if num_kept == len(found):
        return ()
    return (f"{num_kept} of {len(found)} conversations are used; left out: {_counts(found, query)}",)


def _counts(found: Sequence[Lesson | Unused], query: str) -> str:
    counts = Counter(one for one in found if not isinstance(one, Lesson))
    words = {**UNUSED, "unfit": f"{UNUSED['unfit']} ({query})" if query.strip() else UNUSED["unfit"]}
    return ", ".join(f"{counts[why]} {words[why]}" for why in UNUSED if counts[why])


# ----- tokens -----


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The token streams of lessons."""

    rows: tuple[tuple[Trajectory, ...], ...]  # of each lesson that has any, one for each imitated role
    num_too_long: int = 0  # streams that the model cannot read, and that are left out

    @property
    def all(self) -> list[Trajectory]:
        """Every stream."""
        return [row for rows in self.rows for row in rows]


def streams_of(lessons: Sequence[Lesson], bridge: ChatBridge, *, context: int) -> Streams:
    """Return what a model learns from lessons; context: tokens that it can read."""
    found = [trace(_unscored(_told(lesson, bridge))) for lesson in lessons]
    kept = [tuple(row for row in rows if row.num_tokens <= context) for rows in found]
    num_too_long = sum(map(len, found)) - sum(map(len, kept))
    return Streams(rows=tuple(rows for rows in kept if rows), num_too_long=num_too_long)


def _told(lesson: Lesson, bridge: ChatBridge) -> Conversation:
    """Return a lesson's conversation as if the model had said what it is to learn."""
    conversation = lesson.conversation
    players = {role: _player(conversation, role, lesson, bridge) for role in conversation.scenario.roles}
    told = replace(conversation, players=players, view="perspective", turns=())
    for number, turn in enumerate(conversation.turns):
        said = bridge.saying(turn.text) if number in lesson.learnt else no_tokens()
        # A text of which the model knows no token is heard like those that are not learnt.
        spoken = _spoken(told, turn, said, bridge) if len(said) else _quoted(turn)
        told = replace(told, turns=(*told.turns, spoken))
    return told


def _player(conversation: Conversation, role: str, lesson: Lesson, bridge: ChatBridge) -> PlayerInfo:
    known = conversation.players.get(role, QUOTED)
    if role not in lesson.roles:
        return replace(QUOTED, brief=known.brief)
    return PlayerInfo(policy=LEARNER, model=bridge.model_name, trained=True, brief=known.brief)


def _spoken(told: Conversation, turn: Turn, said: Tokens, bridge: ChatBridge) -> Turn:
    me = told.players[turn.role]
    heard = bridge.heard(told, turn.role, heard_text=turn.heard_text, brief=me.brief, player=me.label)
    return replace(
        turn,
        player=me.label,
        stream=stream_of(turn.role, "perspective"),
        heard=heard,
        said=said,
        logprobs=np.zeros(len(said), dtype=np.float32),
        finish="stop",
    )


def _quoted(turn: Turn) -> Turn:
    return replace(turn, player=QUOTED.label, stream="", heard=no_tokens(), said=no_tokens(), finish="text")


def _unscored(conversation: Conversation) -> ScoredConversation:
    return ScoredConversation(conversation=conversation, rewards=np.zeros(conversation.num_turns, dtype=np.float32))
