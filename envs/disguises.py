"""What a text may say in disguise: look-alike letters, digits for letters, first letters, shifted alphabets and codes.

`envs.leaks` looks for a password in these, and `envs.banned` for a word.
"""

from __future__ import annotations

import base64
import functools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator

from envs.reading import QUOTES

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
# Letters of other alphabets that look like Latin ones.  Greek capitals look like others than their small ones do.
GREEK_CAPITALS = str.maketrans(
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7", "abezhikmnoptyx"
)
LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u043a\u043c\u0442\u0432\u043d\u04bb\u0501\u04cf"
    "\u03bf\u03b1\u03b5\u03c1\u03b9\u03ba\u03bd\u03c5\u03c4\u03c7\u0131\u0261",
    "aeopcyxijskmtbhhdloaepikvutxig",
)
# Letters in dark circles, in dark squares and of flags: they have no plain form in Unicode.
BOXED = {
    first + place: chr(ord("A") + place) for first in (0x1F150, 0x1F170, 0x1F1E6) for place in range(len(ALPHABET))
}
UNSEEN = ("Mn", "Me", "Cf")  # categories of accents and of signs without a shape
LEET = "0345678@$92"
LEET_LETTERS = "oeasgtbasgz"
LEETS = tuple(str.maketrans(f"{LEET}1", f"{LEET_LETTERS}{one}") for one in "il")
LEET_SIGN = re.compile(rf"[1{LEET}]")
# A word keeps its contraction, so that the "m" of "I'm" is not a letter that was spelled out.
TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)*")
NOT_A_LETTER = re.compile(r"[^a-z]+")
FIRST_OF_LINE = re.compile(r"(?:^|[\n.!?])[^a-z\n]*([a-z])")
BASE64 = re.compile(r"[A-Za-z0-9+/]{4,}")
NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]+")
HEX = re.compile(r"(?<![^\W_])(?:(?:0x|\\x)?[0-9a-f]{2}[ ,:;-]{0,2}){3,}")
NOT_HEX = re.compile(r"0x|[^0-9a-f]+")
NUMBER = re.compile(r"\d+")


@functools.lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """Return a text in lower case, without accents and invisible signs, and with Latin letters for look-alikes."""
    return undecorated(text).translate(GREEK_CAPITALS).casefold().translate(LOOK_ALIKES)


@functools.lru_cache(maxsize=4096)
def undecorated(text: str) -> str:
    """Return a text without accents, circles and squares around letters, and invisible signs; case stays."""
    if text.isascii():
        return text
    marks = unicodedata.normalize("NFKD", text).translate(QUOTES).translate(BOXED)
    return "".join(sign for sign in marks if unicodedata.category(sign) not in UNSEEN)


def letters_of(text: str) -> str:
    """Return the letters a to z of a text in lower case, without what stands between them."""
    return NOT_A_LETTER.sub("", folded(text))


def tokens_of(text: str) -> list[str]:
    """Return the words of a text in letters a to z; "it's" is one, and "x-ray" two."""
    return TOKEN.findall(folded(text))


def unleeted(text: str) -> tuple[str, ...]:
    """Return a text with letters for the digits and signs that stand for them, once with 1 as i and once as l."""
    shown = folded(text)
    return tuple(shown.translate(leet) for leet in LEETS) if LEET_SIGN.search(shown) else ()


@functools.lru_cache(maxsize=1024)
def shifts_of(letters: str) -> tuple[str, ...]:
    """Return letters moved on by 1 to 25 places in the alphabet, rot13 among them."""
    turned = (ALPHABET[places:] + ALPHABET[:places] for places in range(1, len(ALPHABET)))
    return tuple(letters.translate(str.maketrans(ALPHABET, alphabet)) for alphabet in turned)


def initials_of(text: str) -> tuple[str, str]:
    """Return the first letters of all words, and those of all lines and sentences."""
    return "".join(token[0] for token in tokens_of(text)), "".join(FIRST_OF_LINE.findall(folded(text)))


def are_in_order(pieces: Iterable[str], letters: str, *, strange: Collection[str] | None = None) -> bool:
    """Whether some of the pieces, in their order, are the letters from the first to the last.

    strange: one of these must be among them; None: any will do.
    """
    reached = {(0, strange is None)}
    for piece in pieces:
        if piece in letters:
            is_odd = strange is not None and piece in strange
            reached |= {(at + len(piece), odd or is_odd) for at, odd in reached if letters.startswith(piece, at)}
    return (len(letters), True) in reached


@functools.lru_cache(maxsize=1024)
def from_base64(text: str) -> tuple[str, ...]:
    """Return what a text says in base64: each run of its signs, and all runs as one from each of four starts."""
    visible = unicodedata.normalize("NFKC", text).replace("-", "+").replace("_", "/")
    code = NOT_BASE64.sub("", visible)
    # What stands before the code shifts it by up to three places.
    return tuple(map(_decoded, (*BASE64.findall(visible), *(code[start:] for start in range(4)))))


@functools.lru_cache(maxsize=1024)
def from_hex(text: str) -> tuple[str, ...]:
    """Return what a text says in hexadecimal: each run of pairs of digits, and all runs as one from both starts."""
    shown = folded(text)
    runs = [NOT_HEX.sub("", run) for run in HEX.findall(shown)]
    digits = NOT_HEX.sub("", shown)
    return tuple(_ascii(bytes.fromhex(code[: len(code) // 2 * 2])) for code in (*runs, digits, digits[1:]))


@functools.lru_cache(maxsize=1024)
def from_numbers(text: str) -> tuple[str, ...]:
    """Return the letters that all numbers of a text are, as character codes and as places in the alphabet.

    A blank is a number that is none.
    """
    return tuple("".join(letters) for letters in (_letters_by_code(text), _letters_by_place(text)))


# Codes that are turned back into what they say.
DECODERS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "base64": from_base64,
    "hex": from_hex,
    "numbers": from_numbers,
}


def _decoded(code: str) -> str:
    whole = code[: len(code) - (len(code) % 4 == 1)]
    return _ascii(base64.b64decode(whole + "=" * (-len(whole) % 4)))


def _ascii(found: bytes) -> str:
    return found.decode("ascii", "replace").lower()


def _numbers_in(text: str) -> Iterator[int]:
    return (int(digits[-4:]) for digits in NUMBER.findall(text))


def _letters_by_code(text: str) -> Iterator[str]:
    return (chr(number).lower() if number < 128 and chr(number).isalpha() else " " for number in _numbers_in(text))


def _letters_by_place(text: str) -> Iterator[str]:
    return (ALPHABET[number - 1] if 1 <= number <= len(ALPHABET) else " " for number in _numbers_in(text))
