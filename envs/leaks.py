"""Whether a secret has been told: as it is, in a simple disguise, or in pieces over several messages.

Known disguises (most are in `envs.disguises`): any case, accents and look-alike letters, anything between the letters,
digits for letters, backwards, every letter shifted (rot13 and the other 24), first letters of words or lines (the
spelling alphabet is one), base64, hexadecimal, character codes and places in the alphabet, and pieces.  Pieces of three
letters or more count in any order; with shorter ones, in the order of the secret, or backwards in the reverse of it.
Not seen are shorter pieces in another order ("ki, be, va, to"), two disguises at once (but for digits backwards or in
pieces), riddles, rhymes, translations, Morse code and ciphers of one's own: a game notices those only when somebody
uses what they told.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envs.disguises import DECODERS, are_in_order, folded, initials_of, letters_of, shifts_of, tokens_of, unleeted

NUMBER_ALONE = re.compile(r"(?<![^\W_])\d+(?![^\W_])")
SHORTEST_PIECE = 3  # letters of a piece that counts wherever it stands; shorter ones count in their order alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Where a secret got out.

    Example: ``Leak(how="reversed", message=1)``: the second message has the secret backwards
    """

    how: str  # a name of HOW
    message: int  # the message that completed it, from 0


@functools.lru_cache(maxsize=1024)
def find_leak(secret: str, messages: tuple[str, ...]) -> Leak | None:
    """Return how the messages of one role, taken together, tell a secret, and which completed it; None: they don't.

    Raises ValueError for a secret of fewer than 6 letters: too much would look like it.
    """
    letters = letters_of(secret)
    if len(letters) < 6:
        raise ValueError(f"the secret {secret!r} has fewer than 6 letters")
    if _way_of("\n".join(messages), letters) is None:
        return None
    for index in range(len(messages)):
        how = _way_of("\n".join(messages[: index + 1]), letters)
        if how is not None:
            return Leak(how=how, message=index)
    return None


def _way_of(text: str, letters: str) -> str | None:
    return next((how for how, is_told in HOW.items() if is_told(text, letters)), None)


def _is_plain(text: str, letters: str) -> bool:
    return letters in letters_of(text)


def _is_reversed(text: str, letters: str) -> bool:
    return letters[::-1] in letters_of(text)


def _is_leet(text: str, letters: str) -> bool:
    if any(_is_plain(shown, letters) or _is_reversed(shown, letters) for shown in unleeted(text)):
        return True
    # A number on its own is a letter among letters in a row, and not a piece.
    return any(_is_in_pieces(shown, letters) for shown in unleeted(NUMBER_ALONE.sub(" ", folded(text))))


def _is_shifted(text: str, letters: str) -> bool:
    told = letters_of(text)
    return any(shifted in told for shifted in shifts_of(letters))


def _is_in_initials(text: str, letters: str) -> bool:
    return any(letters in initials for initials in initials_of(text))


def _is_in_pieces(text: str, letters: str) -> bool:
    words = tokens_of(text)
    return are_in_order(words, letters) or _cover(words, letters) or are_in_order(words, letters[::-1])


def _cover(words: Sequence[str], letters: str) -> bool:
    covered: set[int] = set()
    for word in words:
        if len(word) >= SHORTEST_PIECE and word in letters:
            start = letters.index(word)
            covered.update(range(start, start + len(word)))
    return len(covered) == len(letters)


def _is_in_code(code: str, text: str, letters: str) -> bool:
    return any(letters in letters_of(said) for said in DECODERS[code](text))


HOW: dict[str, Callable[[str, str], bool]] = {
    "plain": _is_plain,
    "reversed": _is_reversed,
    "pieces": _is_in_pieces,
    "leet": _is_leet,
    "shifted": _is_shifted,
    "initials": _is_in_initials,
    **{code: functools.partial(_is_in_code, code) for code in DECODERS},
}
