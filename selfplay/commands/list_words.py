"""The words of commands that list conversations: RUN, and which of its conversations, in what order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from selfplay.errors import UserError
from selfplay.store import RUNS
from selfplay.written import nearest

__all__ = ["ListWords", "read_list_words"]

T = TypeVar("T")

KEY = re.compile(r"([A-Za-z]\w*)=")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListWords:
    """What somebody wants to see."""

    run: str = ""  # "": none was named
    where: str = ""  # a filter; "": everything
    settings: dict[str, str]  # the other key=value words
    runs: Path = RUNS  # the folder of all runs

    def number(self, key: str, default: int) -> int:
        """Return a setting that is a number from 1; UserError: it is none."""
        text = self.settings.get(key, str(default))
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
            raise UserError(f"{key}={text}: must be a whole number from 1")
        return int(text)

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Return a setting that is one of a few words, by default the first; UserError: it is none."""
        text = self.settings.get(key, choices[0])
        if text not in choices:
            raise UserError(f"{key}={text}: must be {' or '.join(choices)}")
        return text


def read_list_words(words: Sequence[str], *, settings: Sequence[str], usage: str) -> ListWords:
    """Separate RUN, a filter and key=value words; a filter is where= or the second plain word.

    Raises UserError for an unknown key or too many words.
    """
    plain: list[str] = []
    given: dict[str, str] = {}
    known = ("where", *settings, "runs")
    for word in words:
        key = KEY.match(word)
        if key is None or (plain and _is_filter(word, key[1], known)):
            plain.append(word)
            continue
        if key[1] not in known:
            raise UserError(f"unknown setting {key[1]!r}{nearest(key[1], known)}; a filter is written where='{word}'")
        given[key[1]] = word[key.end() :]
    if len(plain) > 2 or (len(plain) > 1 and "where" in given):
        raise UserError(f"too many words: {' '.join(plain)}; write {usage}")
    run, where = (*plain, "", "")[:2]
    runs = Path(given.pop("runs", str(RUNS)))
    return ListWords(run=run, where=given.pop("where", where), settings=given, runs=runs)


def _is_filter(word: str, key: str, known: Sequence[str]) -> bool:
    """Whether a word that looks like key=value is a filter with more in it than that."""
    return key not in known and re.search(r"[&|<>~()]", word) is not None
