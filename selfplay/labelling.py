"""Blind labelling: a person sees two conversations on one scenario and says which is better, not knowing who played.

A pair is drawn uniformly: first the scenario, then two of its conversations, then who stands left.  About one in ten
comes back later with sides swapped: whoever then says the same again agrees with themself.
"""

from __future__ import annotations

import getpass
import hashlib
import itertools
import json
import re
import socket
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfplay.errors import UserError
from selfplay.filters import Fields
from selfplay.preferences import (
    Choice,
    PairEntry,
    Preference,
    PreferenceLines,
    Skip,
    Strength,
    append_entry,
    read_preferences,
    withdraw,
)
from selfplay.run_folder import now
from selfplay.transcript_index import Row, TranscriptIndex

__all__ = [
    "QUESTION",
    "REASONS",
    "Labeller",
    "Pair",
    "Progress",
    "Revealed",
    "Verdict",
    "blind",
    "check_person",
    "local_person",
]

QUESTION = "Who would you rather keep talking to?"
SAMPLER = "uniform-same-scenario"
REASONS = ("clear", "kind", "true", "on task")
PERSON = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
REPEAT_SHARE = 0.1  # of the pairs shown: earlier ones with sides swapped
REPEAT_AFTER = 5  # so many choices lie between a pair and its repeat, or the person would just remember
ROUND = 50  # choices that make a round
PAGE_ROWS = 500  # read from the index at once
NUM_TRIES = 100  # draws of a pair, where a scenario has too many to list them all
MOST_LISTED = 64  # conversations of a scenario
MOST_COMPARED = 2000  # pairs whose texts are compared to tell how many there are; the rest are taken to differ
PLAYABLE = "status!=failed & turns>0"
DRAW_PAIR = 1001  # first part of the spawn key: drawing pairs draws nothing that playing draws
TOKEN_DIGITS = 32

Verdict = Literal["left", "left_much", "right", "right_much", "tie", "both_bad", "skip"]
CHOICES: Mapping[str, tuple[Choice, Strength | None]] = {
    "left": ("left", None),
    "left_much": ("left", "much"),
    "right": ("right", None),
    "right_much": ("right", "much"),
    "tie": ("tie", None),
    "both_bad": ("both_bad", None),
}
SKIP = "skip"

Record = Mapping[str, Any]  # a transcript record


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two conversations to choose from."""

    token: str  # names the pair in an answer, and says nothing of who played
    left: str  # id
    right: str
    focus: str  # the role that is asked about
    scenario: str  # env/seed
    about: str
    swap_of: str | None = None  # id of the preference that it repeats
    question: str = QUESTION


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a person is.  Example: ``Progress(done=12, of=50, agreement=0.83, num_repeats=6)``."""

    done: int  # choices, repeats among them
    of: int  # choices that complete the round; fewer where there are fewer pairs
    agreement: float | None  # share of swapped repeats with the same verdict; None: no repeats yet
    num_repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed:
    """What was hidden before the choice; None: a conversation is no longer there."""

    left: Row | None
    right: Row | None


class Labeller:
    """Gives one person pairs of one run, and stores what they say.

    What comes next depends on the run's conversations and on what the person said so far, and on nothing else: asking
    twice gives the same pair, also after a restart.  While a run goes on its new conversations change what comes
    next; a pair that this object gave stays good all the same.  It is not for two threads at once.
    """

    def __init__(self, folder: Path, index: TranscriptIndex, *, person: str, seed: int = 0) -> None:
        """person: as `check_person` has it; raises UserError for another one."""
        self.by = f"person:{check_person(person)}"
        self._folder = folder
        self._index = index
        self._seed = seed
        self._given: dict[str, Pair] = {}  # token -> pair
        self._pool = _Pool()
        self._count = _PairCount(index, ())

    def next_pair(self) -> Pair | None:
        """Return the pair to show; None: this person has seen all there are."""
        pair = self._draw(read_preferences(self._folder))
        if pair is not None:
            self._given[pair.token] = pair
        return pair

    def progress(self) -> Progress:
        """Return how far the person is, and how well they agree with themself."""
        own = _Own(read_preferences(self._folder), self.by)
        done, same = len(own.preferences), own.agreements()
        round_end = ROUND * (done // ROUND + 1)
        self._fresh_pool()
        return Progress(
            done=done,
            of=max(done, self._count.up_to(round_end)),
            agreement=sum(same) / len(same) if same else None,
            num_repeats=len(same),
        )

    def shown(self, pair: Pair) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return both sides of a pair without what would tell who played.

        Raises UserError if a conversation is no longer there.
        """
        left, right = self._index.record(pair.left), self._index.record(pair.right)
        if left is None or right is None:
            raise UserError("a conversation of this pair is no longer there; ask for another pair")
        return blind(left), blind(right)

    def answer(self, token: str, verdict: str, *, why: Sequence[str] = (), seconds: float | None = None) -> Revealed:
        """Store what the person says of a pair, and return what it hid.

        Saying the same again changes nothing, so an answer may be sent twice.
        Raises UserError for an unknown verdict, a pair that is not known any more, one that was answered otherwise
        before, or if it cannot be written.
        """
        if verdict not in (*CHOICES, SKIP):
            raise UserError(f"choice {verdict!r} is none of {', '.join((*CHOICES, SKIP))}")
        lines = read_preferences(self._folder)
        before = next((entry for entry in _Own(lines, self.by).entries if self._token_of(entry) == token), None)
        if before is None:
            entry = self._entry(self._known(token, lines), verdict, why=why, seconds=seconds)
            append_entry(self._folder, entry)
            return self._reveal(entry)
        if _verdict_of(before) != verdict:
            raise UserError(f"this pair was answered before, with {_verdict_of(before)}; undo that to change it")
        return self._reveal(before)

    def undo(self) -> str | None:
        """Take back the person's last answer and return its id; its pair comes next.  None: there is none."""
        entries = _Own(read_preferences(self._folder), self.by).entries
        if not entries:
            return None
        withdraw(self._folder, entries[-1], at=now())
        return entries[-1].id

    def _known(self, token: str, lines: PreferenceLines) -> Pair:
        pair = self._given.get(token) or self._draw(lines)
        if pair is None or pair.token != token:
            raise UserError("this pair is not known any more and nothing was stored; ask for another pair")
        return pair

    def _entry(self, pair: Pair, verdict: str, *, why: Sequence[str], seconds: float | None) -> PairEntry:
        known: dict[str, Any] = {"at": now(), "left": pair.left, "right": pair.right, "focus": pair.focus}
        known |= {"by": self.by, "swap_of": pair.swap_of}
        if verdict == SKIP:
            return Skip(**known)
        choice, strength = CHOICES[verdict]
        ticked = tuple(reason for reason in REASONS if reason in why)
        return Preference(
            **known,
            question=pair.question,
            choice=choice,
            strength=strength,
            why=ticked,
            sampler=SAMPLER,
            seconds=seconds,
        )

    def _reveal(self, entry: PairEntry) -> Revealed:
        return Revealed(left=self._index.row(entry.left), right=self._index.row(entry.right))

    # ----- drawing -----

    def _draw(self, lines: PreferenceLines) -> Pair | None:
        own = _Own(lines, self.by)
        reopened = lines.reopened.get(self.by)
        if isinstance(reopened, PairEntry) and (pair := self._pair_of(reopened)) is not None:
            return pair
        place = (DRAW_PAIR, zlib.crc32(self.by.encode("ascii")), len(own.entries))
        generator = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=place))
        repeat = self._repeat(own, generator) if generator.random() < REPEAT_SHARE else None
        return repeat or self._new_pair(own, generator)

    def _repeat(self, own: _Own, generator: np.random.Generator) -> Pair | None:
        earlier = own.repeatable()
        if not earlier:
            return None
        chosen = earlier[int(generator.integers(len(earlier)))]
        return self._pair(left=chosen.right, right=chosen.left, focus=chosen.focus, swap_of=chosen.id)

    def _new_pair(self, own: _Own, generator: np.random.Generator) -> Pair | None:
        scenarios = self._fresh_pool().scenarios
        for number in generator.permutation(len(scenarios)).tolist():
            for ids in _pairs(scenarios[number], generator):
                if frozenset(ids) not in own.seen and (pair := self._sided(ids, generator)) is not None:
                    return pair
        return None

    def _sided(self, ids: Sequence[str], generator: np.random.Generator) -> Pair | None:
        """Return two conversations as a pair; None: they cannot be told apart, or no role speaks in both."""
        records = [record for id in ids if (record := self._index.record(id)) is not None]
        roles = _roles_to_ask_about(*records) if len(records) == 2 else []
        if not roles:
            return None
        left, right = generator.permutation(np.array(ids)).tolist()
        return self._pair(left=left, right=right, focus=roles[int(generator.integers(len(roles)))], swap_of=None)

    def _pair_of(self, entry: PairEntry) -> Pair | None:
        return self._pair(left=entry.left, right=entry.right, focus=entry.focus, swap_of=entry.swap_of)

    def _pair(self, *, left: str, right: str, focus: str, swap_of: str | None) -> Pair | None:
        """Return a pair; None: a conversation is no longer there."""
        row = self._index.row(left)
        if row is None or self._index.row(right) is None:
            return None
        return Pair(
            token=self._token(left, right, focus, swap_of),
            left=left,
            right=right,
            focus=focus,
            scenario=row.scenario,
            about=row.about,
            swap_of=swap_of,
        )

    def _token_of(self, entry: PairEntry) -> str:
        return self._token(entry.left, entry.right, entry.focus, entry.swap_of)

    def _token(self, *words: str | None) -> str:
        return hashlib.sha256(json.dumps([self.by, *words]).encode("ascii")).hexdigest()[:TOKEN_DIGITS]

    def _fresh_pool(self) -> _Pool:
        # The index makes new ones whenever anything has changed in it.
        state = self._index.fields()
        if self._pool.state is not state:
            before, self._pool = self._pool.scenarios, _Pool.of(self._index, state=state)
            if self._pool.scenarios != before:
                self._count = _PairCount(self._index, self._pool.scenarios)
        return self._pool


def check_person(person: str) -> str:
    """Return who labels or tags; raises UserError unless it is up to 40 small letters, digits and dashes."""
    if PERSON.fullmatch(person) is None:
        raise UserError(f"person={person[:60]}: use up to 40 small letters, digits and dashes, such as anon-3f")
    return person


def blind(record: Record) -> dict[str, Any]:
    """Return what a person may see of a conversation who must not know who played: public facts, roles and texts."""
    scenario = record["scenario"]
    return {
        "scenario": {"env": scenario["env"], "roles": scenario["roles"], "public": scenario.get("public") or {}},
        "turns": [
            {"turn": number, "role": turn["role"], "text": turn["text"]} for number, turn in enumerate(record["turns"])
        ],
    }


def local_person() -> str:
    """Return what this machine's user is called in what they say: the same every time, and nobody's name."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in the system's list
        user = ""
    return "anon-" + hashlib.sha256(f"{user}@{socket.gethostname()}".encode("utf-8", "replace")).hexdigest()[:2]


class _Own:
    """What one person said so far."""

    def __init__(self, lines: PreferenceLines, by: str) -> None:
        self.entries = [entry for entry in lines.entries if entry.by == by and isinstance(entry, PairEntry)]
        self.preferences = [entry for entry in self.entries if isinstance(entry, Preference)]
        self.seen = {frozenset((entry.left, entry.right)) for entry in self.entries}

    def repeatable(self) -> list[Preference]:
        """Return the choices that may come back swapped: once each, and not too soon."""
        repeated = {entry.swap_of for entry in self.entries}
        return [
            preference
            for preference in self.preferences[: max(0, len(self.preferences) - REPEAT_AFTER)]
            if preference.swap_of is None and preference.id not in repeated
        ]

    def agreements(self) -> list[bool]:
        """Return for each swapped repeat whether it says the same; how much better does not matter."""
        by_id = {preference.id: preference for preference in self.preferences}
        repeats = [preference for preference in self.preferences if preference.swap_of in by_id]
        return [_meant(repeat) == _meant(by_id[str(repeat.swap_of)]) for repeat in repeats]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """The conversations that pairs are drawn from, by scenario; scenarios with a single one are left out."""

    scenarios: tuple[tuple[str, ...], ...] = ()  # ids
    state: Fields | None = None  # the index's, from when it was made

    @classmethod
    def of(cls, index: TranscriptIndex, *, state: Fields) -> _Pool:
        found: dict[str, list[str]] = {}
        # In training each group has a scenario of its own, and the id tells the group: rows are not needed.
        for id in index.ids(f"{PLAYABLE} & split=train"):
            found.setdefault(id.rpartition("-")[0], []).append(id)
        for row in _held_out(index):
            found.setdefault(row.scenario, []).append(row.id)
        return cls(scenarios=tuple(tuple(ids) for ids in found.values() if len(ids) > 1), state=state)


class _PairCount:
    """How many pairs there are to show, counted only as far as somebody asks: that reads conversations."""

    def __init__(self, index: TranscriptIndex, scenarios: Sequence[Sequence[str]]) -> None:
        self._index = index
        self._found = self._fitting(scenarios)
        self._num_found = 0

    def up_to(self, most: int) -> int:
        """Return how many pairs there are, or `most` if there are more."""
        self._num_found += sum(1 for _ in itertools.islice(self._found, max(0, most - self._num_found)))
        return min(self._num_found, most)

    def _fitting(self, scenarios: Sequence[Sequence[str]]) -> Iterator[None]:
        left = MOST_COMPARED
        for ids in scenarios:
            records: dict[str, Record | None] = {}
            for pair in itertools.combinations(ids, 2):
                left -= 1
                if left < 0 or self._is_fitting(pair, records):
                    yield None

    def _is_fitting(self, pair: Sequence[str], records: dict[str, Record | None]) -> bool:
        for id in pair:
            if id not in records:
                records[id] = self._index.record(id)
        one, other = (records[id] for id in pair)
        return one is not None and other is not None and bool(_roles_to_ask_about(one, other))


def _held_out(index: TranscriptIndex) -> Iterator[Row]:
    for offset in itertools.count(step=PAGE_ROWS):
        rows = index.page(f"{PLAYABLE} & split=held_out", sort="oldest", offset=offset, limit=PAGE_ROWS).rows
        yield from rows
        if len(rows) < PAGE_ROWS:
            return


def _pairs(ids: Sequence[str], generator: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield pairs of a scenario's conversations in uniformly random order, all of them unless there are very many."""
    if len(ids) <= MOST_LISTED:
        pairs = list(itertools.combinations(ids, 2))
        yield from (pairs[number] for number in generator.permutation(len(pairs)).tolist())
        return
    for _ in range(NUM_TRIES):
        first, second = generator.choice(len(ids), size=2, replace=False).tolist()
        yield ids[first], ids[second]


def _roles_to_ask_about(left: Record, right: Record) -> list[str]:
    """Return the roles that speak in both, the trained ones if there are any; none if both read the same."""
    if blind(left)["turns"] == blind(right)["turns"]:
        return []
    spoke = [{turn["role"] for turn in record["turns"]} for record in (left, right)]
    both = [role for role in left["scenario"]["roles"] if role in spoke[0] & spoke[1]]
    return [role for role in both if all(_is_trained(record, role) for record in (left, right))] or both


def _is_trained(record: Record, role: str) -> bool:
    return bool(((record.get("players") or {}).get(role) or {}).get("trained"))


def _meant(preference: Preference) -> str:
    """Return what a verdict comes to, whoever stood left."""
    return preference.chosen or preference.choice


def _verdict_of(entry: PairEntry) -> str:
    if isinstance(entry, Skip):
        return SKIP
    known = (verdict for verdict, meant in CHOICES.items() if meant == (entry.choice, entry.strength))
    return next(known, entry.choice)
