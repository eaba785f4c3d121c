"""The words of taboo with their forbidden words and clues, and which word a message makes one think of."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from envs.drawing import lines_of
from envs.reading import words_in
from selfplay.dialog import Split

TABLE = Path(__file__).with_name("taboo.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the table.

    Example: ``Entry(word="cat", forbidden=("meow", "kitten"), clues=("It chases mice.",))``
    """

    word: str
    forbidden: tuple[str, ...]  # what comes to mind first
    clues: tuple[str, ...]  # sentences that say neither the word nor a forbidden one


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Return the whole table, in its order."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return tuple(_entry(line) for line in lines if line and not line.startswith("#"))


@functools.cache
def entries_of(split: Split) -> tuple[Entry, ...]:
    """Return the entries of a split."""
    return tuple(lines_of(entries(), split))


@functools.cache
def entry_of(word: str) -> Entry | None:
    """Return the entry of a word; None: the table does not have it."""
    return next((entry for entry in entries() if entry.word == word), None)


def meant(clues: Iterable[str]) -> list[str]:
    """Return the words whose clues share words with these, the likeliest first.

    A shared word counts for more the fewer entries have it.
    """
    total: Counter[str] = Counter()
    for clue in clues:
        total.update(_shares(clue))
    return [word for word, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))]


def cues_in(text: str) -> tuple[str, ...]:
    """Return the words of a message that some entry forbids, each once, in order."""
    return tuple(dict.fromkeys(word for word in words_in(text) if word in reminders()))


@functools.cache
def reminders() -> Mapping[str, tuple[str, ...]]:
    """Return, for each forbidden word, the words that it makes one think of."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries():
        for cue in entry.forbidden:
            found[cue.casefold()] = (*found.get(cue.casefold(), ()), entry.word)
    return found


def _entry(line: str) -> Entry:
    word, _, rest = line.partition(":")
    forbidden, *clues = rest.split("|")
    return Entry(
        word=word.strip(),
        forbidden=tuple(cue.strip() for cue in forbidden.split(",")),
        clues=tuple(clue.strip() for clue in clues),
    )


@functools.lru_cache(maxsize=4096)
def _shares(clue: str) -> Mapping[str, float]:
    shares: Counter[str] = Counter()
    for shared in sorted(set(words_in(clue))):  # floats are summed in the same order everywhere
        owners = _owners().get(shared, ())
        shares.update(dict.fromkeys(owners, 1.0 / (len(owners) or 1)))
    return shares


@functools.cache
def _owners() -> Mapping[str, tuple[str, ...]]:
    """Return, for each word of the clues, the words that have it in theirs."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries():
        for shared in sorted({word for clue in entry.clues for word in words_in(clue)}):
            found[shared] = (*found.get(shared, ()), entry.word)
    return found
