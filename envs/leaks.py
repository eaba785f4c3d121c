"""Whether a secret has been told: as it is, in a simple disguise, or in pieces over several messages.

Known disguises: any case, accents and look-alike letters, anything between the letters, digits for letters, backwards,
every letter shifted (rot13 and the other 24), first letters of words or lines (the spelling alphabet is one), base64,
hexadecimal, character codes and places in the alphabet, and pieces in any order.  Riddles, rhymes, translations,
Morse code and ciphers of one's own are not seen: a game notices those only when somebody uses what they told.
"""

from __future__ import annotations

import base64
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
# Greek and Cyrillic letters that look like Latin ones, in lower case.
LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u043a\u043c\u0442\u0432\u043d"
    "\u03bf\u03b1\u03b5\u03c1\u03b9\u03ba\u03bd\u03c5\u03c4",
    "aeopcyxijskmtbhoaepikvut",
)
LEET = "0345678@$92"
LEET_LETTERS = "oeasgtbasgz"
LEETS = tuple(str.maketrans(f"{LEET}1", f"{LEET_LETTERS}{one}") for one in "il")
LEET_SIGN = re.compile(rf"[1{LEET}]")
NUMBER_ALONE = re.compile(r"(?<![^\W_])\d+(?![^\W_])")
# A word keeps its contraction, so that the "m" of "I'm" is not a letter that was spelled out.
TOKEN = re.compile(r"[a-z]+(?:['\u2019][a-z]+)*")
NOT_A_LETTER = re.compile(r"[^a-z]+")
FIRST_OF_LINE = re.compile(r"(?:^|[\n.!?])[^a-z\n]*([a-z])")
NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]+")
NOT_HEX = re.compile(r"0x|[^0-9a-f]+")
NUMBER = re.compile(r"\d+")
NOT_LETTER_BYTES = bytes(byte for byte in range(256) if not chr(byte).isascii() or not chr(byte).isalpha())
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
    """Return how the messages of one speaker, taken together, tell a secret, and which completed it; None: they don't.

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


def letters_of(text: str) -> str:
    """Return the letters a to z of a text in lower case, without what stands between them."""
    return NOT_A_LETTER.sub("", folded(text))


@functools.lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """Return a text in lower case, without accents and invisible signs, and with Latin letters for look-alikes."""
    if text.isascii():
        return text.lower()
    marks = unicodedata.normalize("NFKD", text)
    shown = "".join(sign for sign in marks if unicodedata.category(sign) not in ("Mn", "Cf"))
    return shown.casefold().translate(LOOK_ALIKES)


def _way_of(text: str, letters: str) -> str | None:
    return next((how for how, is_told in HOW.items() if is_told(text, letters)), None)


def _is_plain(text: str, letters: str) -> bool:
    return letters in letters_of(text)


def _is_reversed(text: str, letters: str) -> bool:
    return letters[::-1] in letters_of(text)


def _is_leet(text: str, letters: str) -> bool:
    plain = folded(text)
    if LEET_SIGN.search(plain) is None:
        return False
    # A number on its own is a letter among letters in a row, and not a piece.
    words = NUMBER_ALONE.sub(" ", plain)
    return any(
        _is_plain(plain.translate(leet), letters)
        or _is_reversed(plain.translate(leet), letters)
        or _is_in_pieces(words.translate(leet), letters)
        for leet in LEETS
    )


def _is_shifted(text: str, letters: str) -> bool:
    told = letters_of(text)
    return any(shifted in told for shifted in _shifts_of(letters))


@functools.lru_cache(maxsize=1024)
def _shifts_of(letters: str) -> tuple[str, ...]:
    turned = (ALPHABET[places:] + ALPHABET[:places] for places in range(1, len(ALPHABET)))
    return tuple(letters.translate(str.maketrans(ALPHABET, alphabet)) for alphabet in turned)


def _is_in_initials(text: str, letters: str) -> bool:
    plain = folded(text)
    of_words = "".join(word[0] for word in TOKEN.findall(plain))
    return letters in of_words or letters in "".join(FIRST_OF_LINE.findall(plain))


def _is_in_pieces(text: str, letters: str) -> bool:
    words = TOKEN.findall(folded(text))
    pieces = [word for word in words if word in letters]
    if _are_in_order(pieces, letters) or _cover(pieces, letters):
        return True
    return _are_in_order([word for word in words if word in letters[::-1]], letters[::-1])


def _are_in_order(pieces: Sequence[str], letters: str) -> bool:
    reached = {0}
    for piece in pieces:
        reached |= {start + len(piece) for start in reached if letters.startswith(piece, start)}
    return len(letters) in reached


def _cover(pieces: Sequence[str], letters: str) -> bool:
    covered: set[int] = set()
    for piece in pieces:
        if len(piece) >= SHORTEST_PIECE:
            start = letters.index(piece)
            covered.update(range(start, start + len(piece)))
    return len(covered) == len(letters)


def _is_base64(text: str, letters: str) -> bool:
    visible = unicodedata.normalize("NFKC", text)
    code = NOT_BASE64.sub("", visible.replace("-", "+").replace("_", "/"))
    # What stands before the code shifts it by up to three places.
    return any(_in_bytes(_from_base64(code[start:]), letters) for start in range(4))


def _from_base64(code: str) -> bytes:
    return base64.b64decode(code + "A" * (-len(code) % 4))


def _is_hex(text: str, letters: str) -> bool:
    digits = NOT_HEX.sub("", folded(text))
    starts = [digits[start:] for start in range(2)]
    return any(_in_bytes(bytes.fromhex(part[: len(part) // 2 * 2]), letters) for part in starts)


def _in_bytes(decoded: bytes, letters: str) -> bool:
    return letters.encode() in decoded.translate(None, NOT_LETTER_BYTES).lower()


def _is_in_numbers(text: str, letters: str) -> bool:
    numbers = [int(digits[-4:]) for digits in NUMBER.findall(text)]
    if len(numbers) < len(letters):
        return False
    codes = "".join(chr(number) for number in numbers if number < 128 and chr(number).isalpha()).lower()
    places = "".join(ALPHABET[number - 1] for number in numbers if 1 <= number <= len(ALPHABET))
    return letters in codes or letters in places


HOW: dict[str, Callable[[str, str], bool]] = {
    "plain": _is_plain,
    "reversed": _is_reversed,
    "pieces": _is_in_pieces,
    "leet": _is_leet,
    "shifted": _is_shifted,
    "initials": _is_in_initials,
    "base64": _is_base64,
    "hex": _is_hex,
    "numbers": _is_in_numbers,
}
