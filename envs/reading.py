"""What a message says, read on word boundaries: words, inflections and bracketed moves.

Games read moves such as ``[offer] 120`` out of free text.  The reading is forgiving about form (case, brackets or
parentheses, a colon, where the argument stands, Markdown around it) and never guesses between two meanings: a message
with two different moves has none.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201b": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'})
WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
VOWELS = "aeiou"
# Nothing in the pattern can match the same blanks twice: ten thousand of them take no longer than other characters.
MOVE = r"[\[(<{{][^\S\n]{{0,9}}(?P<kind>{kinds})(?P<inside>[^\[\](){{}}<>\n]*)[\])>}}]"
BRACKETS = str.maketrans(dict.fromkeys("[](){}<>", " "))
AROUND = " \t*_:=\"'"  # what may stand around an argument


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A bracketed move in a message.

    Example: "I can do [Offer] $120." has ``Move(kind="offer", argument="$120.")``
    """

    kind: str  # as the game writes it, in lower case
    argument: str  # what stands inside the bracket behind the kind, or else behind the bracket on its line; may be ""


@functools.lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return a text in one form: compatibility characters, quotes and case do not matter any more."""
    return unicodedata.normalize("NFKC", text).translate(QUOTES).casefold()


@functools.lru_cache(maxsize=4096)
def words_in(text: str) -> tuple[str, ...]:
    """Return the words of a text in plain form; "don't" and "well-known" are one word each."""
    return tuple(WORD.findall(plain(text)))


@functools.lru_cache(maxsize=4096)
def forms_of(word: str) -> frozenset[str]:
    """Return an English word with its regular inflections: plural, possessive, -ed, -ing, -er and -est, -ly.

    The table is small on purpose: it takes "dogs", "dog's" and "running" for "dog" and "run", and never "dogma".
    """
    stem = plain(word).strip()
    if not stem:
        return frozenset()
    endings = {stem, f"{stem}s", f"{stem}'s", f"{stem}s'", f"{stem}es", f"{stem}ed", f"{stem}ing"}
    endings |= {f"{stem}er", f"{stem}ers", f"{stem}est", f"{stem}ly"}
    if stem.endswith("e"):
        endings |= {f"{stem}d", f"{stem}r", f"{stem}rs", f"{stem}st", f"{stem[:-1]}ing"}
    if stem.endswith("y") and stem[-2:-1] not in VOWELS:
        endings |= {f"{stem[:-1]}{ending}" for ending in ("ies", "ied", "ier", "iers", "iest", "ily")}
    if len(stem) > 2 and stem[-1] not in f"{VOWELS}wxy" and stem[-2] in VOWELS and stem[-3] not in VOWELS:
        endings |= {f"{stem}{stem[-1]}{ending}" for ending in ("ed", "ing", "er", "ers", "est")}
    return frozenset(endings)


def says(text: str, phrase: str, *, inflected: bool = True) -> bool:
    """Whether a text holds a word or phrase on word boundaries, the last word in any regular inflection.

    A phrase of several words is found across spaces, hyphens and line breaks.
    """
    return _pattern(phrase, inflected).search(plain(text)) is not None


@functools.lru_cache(maxsize=4096)
def _pattern(phrase: str, inflected: bool) -> re.Pattern[str]:
    *first, last = plain(phrase).replace("-", " ").split() or [""]
    if not last:
        return re.compile(r"(?!)")
    forms = sorted(forms_of(last) if inflected else {last}, key=len, reverse=True)
    parts = [*map(re.escape, first), f"(?:{'|'.join(map(re.escape, forms))})"]
    return re.compile(r"(?<![^\W_])" + r"[\s_-]+".join(parts) + r"(?![^\W_])")


def moves_in(text: str, kinds: Sequence[str]) -> tuple[Move, ...]:
    """Return the bracketed moves of a message, in order, each as often as it stands there.

    Read are ``[offer] 120``, ``[offer 120]``, ``[Offer: 120]``, ``(offer) 120``, ``[offer] [120]`` and
    ``**[offer]** 120``.
    """
    return _moves_in(text, tuple(kinds))


def only_move(text: str, kinds: Sequence[str]) -> Move | None:
    """Return the one move of a message; None: it has none, or two that differ.

    The same move said twice is one; ``[offer] 120 ... [accept]`` and ``[offer] 120 ... [offer] 130`` are none.  Use
    `moves_in` to tell no move from too many.
    """
    moves = moves_in(text, kinds)
    different = {(move.kind, plain(move.argument).strip(" .,!;")) for move in moves}
    return moves[0] if len(different) == 1 else None


@functools.lru_cache(maxsize=4096)
def _moves_in(text: str, kinds: tuple[str, ...]) -> tuple[Move, ...]:
    text = text.translate(QUOTES)
    matches = list(_move_pattern(kinds).finditer(text))
    ends = [*(match.start() for match in matches[1:]), len(text)]
    found = []
    for match, end in zip(matches, ends, strict=False):  # without a match there is an end all the same
        # An argument behind the bracket ends with its line, or where the next move begins.
        after = text[match.end() : end].partition("\n")[0].translate(BRACKETS).strip(AROUND)
        found.append(Move(kind=match["kind"].casefold(), argument=match["inside"].strip(AROUND) or after))
    return tuple(found)


@functools.cache
def _move_pattern(kinds: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(kinds, key=len, reverse=True)))
    return re.compile(MOVE.format(kinds=rf"(?:{names})(?![^\W_])"), re.IGNORECASE)
