"""Chance for environments: draws that are the same on every machine and with every version of numpy.

They come from the words of a seed sequence, because what a numpy Generator draws from a seed may change between
versions, and the words may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from selfplay.dialog import SPLITS, Conversation, Split
from selfplay.errors import UserError

Item = TypeVar("Item")

HELD_OUT_EVERY = 5  # one position, or one line of a table, in five is held out
SCENARIO, MOVE = range(2)  # what a draw is for: the first part of its key
MAX_ATTEMPTS = 1000


class Draw:
    """A stream of draws from one seed and key."""

    def __init__(self, seed: int, key: tuple[int, ...]) -> None:
        """Start the stream; raises UserError for a negative seed."""
        if seed < 0:
            raise UserError(f"seed={seed} must be 0 or more")
        self._sequence = np.random.SeedSequence(seed, spawn_key=key)
        self._words: list[int] = []
        self._used = 0

    def below(self, limit: int) -> int:
        """Return a whole number from 0 to limit - 1, each as likely (to 1 in 10**17)."""
        if self._used == len(self._words):
            # The words of a longer state begin with those of a shorter one.
            self._words = self._sequence.generate_state(max(8, 2 * self._used), np.uint64).tolist()
        self._used += 1
        return self._words[self._used - 1] % limit

    def choose(self, items: Sequence[Item]) -> Item:
        """Return one of the items."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], num: int) -> list[Item]:
        """Return `num` different items in random order.  Raises ValueError if there are fewer."""
        if num > len(items):
            raise ValueError(f"{num} of {len(items)} items cannot be drawn")
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(num)]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """Return all items in random order."""
        return self.some(items, len(items))


def move_draw(conversation: Conversation) -> Draw:
    """Return the draw of a player's next message: it depends on the scenario's seed and the turns so far alone."""
    scenario = conversation.scenario
    return Draw(scenario.seed, (MOVE, SPLITS.index(scenario.split), conversation.num_turns))


def draw_position(seed: int, split: Split, make: Callable[[Draw], Item], *, key: Callable[[Item], str]) -> Item:
    """Return a starting position of a split, drawn until its key falls there.

    A key decides which split its positions belong to, by its hash, so that the two splits have no key in common
    whatever the seeds.  key: says what must not be shared, such as all values that matter.  Raises UserError for a
    split that does not exist, and ValueError if no position of the split is found.
    """
    check_split(split)
    for attempt in range(MAX_ATTEMPTS):
        position = make(Draw(seed, (SCENARIO, SPLITS.index(split), attempt)))
        if split_of(key(position)) == split:
            return position
    raise ValueError(f"no position of the split {split} was found in {MAX_ATTEMPTS} draws")


def split_of(key: str) -> Split:
    """Return the split that a key belongs to: one in five is held out."""
    digest = hashlib.sha256(key.encode()).digest()
    return "held_out" if int.from_bytes(digest[:4], "big") % HELD_OUT_EVERY == 0 else "train"


def lines_of(table: Sequence[Item], split: Split) -> list[Item]:
    """Return the lines of a table that belong to a split: of each five the fifth is held out."""
    check_split(split)
    wanted = split == "held_out"
    return [line for index, line in enumerate(table, start=1) if (index % HELD_OUT_EVERY == 0) == wanted]


def check_split(split: Split) -> None:
    """Raise UserError for a split that does not exist."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is none of {', '.join(SPLITS)}")
