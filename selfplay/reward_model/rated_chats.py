"""Ratings of human chats as pairs: which of two chats its people liked better.

The ratings are those of `selfplay.ratings`: of the whole chat, and nobody knows by whom.  A slider left at 5 says
nothing.  Chats are put on a side by their two people before any pair is drawn, so that neither a chat nor two people
are on both sides; single people may be, with other partners.

A pair is judged from one role, the same in both chats, which is drawn: the data cannot tell whom the rating praises.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np

from selfplay.errors import UserError
from selfplay.ratings import PACKAGE, QUESTIONS, ROLES, RatedChat, load_chats
from selfplay.reward_model.dialogs import dialog_of
from selfplay.reward_model.examples import Example, Split
from selfplay.reward_model.loaded import Loaded, ordered
from selfplay.reward_model.settings import FitSettings

__all__ = ["CHATS", "rated_examples", "rated_pairs"]

CHATS = "chitchat"
MOST_PAIRS = 3  # that a chat is in: more of them would say the same again
NUM_QUARTERS = 4
DIGITS = 12
DRAW_PAIRS = 2002  # first part of the spawn key

Group = list[RatedChat]  # the chats of the same two people


def rated_examples(settings: FitSettings, *, package: str = PACKAGE) -> Loaded:
    """Return the pairs of the installed chats; raises UserError if they are not installed."""
    return rated_pairs(load_chats(package), settings)


def rated_pairs(chats: Sequence[RatedChat], settings: FitSettings) -> Loaded:
    """Return pairs of chats whose ratings differ by `min_gap` or more, on the sides that they are drawn for.

    The groups of chats of the same two people are sorted by their mean rating; a block takes one from each quarter,
    so that ratings in it differ; pairs are drawn within a block, each chat in 3 at most.  So what shares a key is a
    block, and blocks have nothing in common.
    """
    question = settings.question
    if question not in QUESTIONS:
        raise UserError(f"question={question[:60]} is none of {', '.join(QUESTIONS)}")
    rated = [chat for chat in chats if question in chat.ratings]
    generator = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(DRAW_PAIRS,)))
    examples: list[Example] = []
    sides = _sides(_groups(rated), settings.held_out, generator)
    for split, groups in zip(get_args(Split), sides, strict=True):
        for block in _blocks(groups, question, generator):
            examples.extend(_pairs(block, settings, split, generator))
    used = {key for example in examples for key in example.keys if key.startswith("chat:")}
    note = f"{len(used)} of {len(chats)} rated chats are in pairs: those with a rating of {question!r} other than 5"
    return Loaded(examples=tuple(examples), num_lines=len(rated), notes=(note,))


def _groups(chats: Sequence[RatedChat]) -> list[Group]:
    groups: dict[tuple[str, str], Group] = {}
    for chat in chats:
        groups.setdefault(chat.people, []).append(chat)
    return list(groups.values())


def _sides(groups: Sequence[Group], held_out: float, generator: np.random.Generator) -> tuple[list[Group], list[Group]]:
    sides: tuple[list[Group], list[Group]] = ([], [])
    wanted = held_out * sum(map(len, groups))
    for number in generator.permutation(len(groups)).tolist():
        group = groups[number]
        # Half of a group too many is nearer to what is wanted than half too few.
        is_held_out = wanted >= len(group) / 2
        wanted -= len(group) * is_held_out
        sides[is_held_out].append(group)
    return sides


def _blocks(groups: Sequence[Group], question: str, generator: np.random.Generator) -> Iterator[Group]:
    """Yield the chats of blocks: one group from each quarter of them all by mean rating."""
    means = [float(np.mean([chat.ratings[question] for chat in group])) for group in groups]
    order = generator.permutation(len(groups))
    # Groups of one mean stay in drawn order.
    order = order[np.argsort(np.array(means)[order], kind="stable")]
    quarters = [generator.permutation(part).tolist() for part in np.array_split(order, NUM_QUARTERS)]
    for numbers in itertools.zip_longest(*quarters):
        yield [chat for number in numbers if number is not None for chat in groups[number]]


def _pairs(
    block: Sequence[RatedChat], settings: FitSettings, split: Split, generator: np.random.Generator
) -> Iterator[Example]:
    question = settings.question
    found = list(itertools.combinations(range(len(block)), 2))
    uses = [0] * len(block)
    for number in generator.permutation(len(found)).tolist():
        pair = sorted(found[number], key=lambda place: block[place].ratings[question])
        worse, better = (block[place] for place in pair)
        is_wanted = better.ratings[question] - worse.ratings[question] >= settings.min_gap
        if is_wanted and max(uses[place] for place in pair) < MOST_PAIRS:
            for place in pair:
                uses[place] += 1
            yield _example(better, worse, question, split, ROLES[int(generator.integers(len(ROLES)))])


def _example(better: RatedChat, worse: RatedChat, question: str, split: Split, role: str) -> Example:
    pair = (better, worse)
    keys = [f"chat:{chat.conversation.scenario.seed}" for chat in pair]
    keys += [f"people:{_digest(chat.people)}" for chat in pair]
    numbers = " over ".join(str(chat.conversation.scenario.seed) for chat in pair)
    return ordered(
        Example(
            dialogs=(dialog_of(better.conversation, role), dialog_of(worse.conversation, role)),
            kind="pair",
            targets=(1.0,),
            source=f"{CHATS}:{question}",
            keys=tuple(dict.fromkeys(keys)),
            split=split,
            where=f"{CHATS}: chat {numbers}, {role} speaker",
        )
    )


def _digest(people: tuple[str, str]) -> str:
    return hashlib.sha256(json.dumps(people).encode("ascii")).hexdigest()[:DIGITS]
