"""Whether a message says a word that it must not: plainly, inflected, in pieces, reversed or in base64.

Everything is read on word boundaries: "category" says no "cat", and "sheepdog" no "dog".  What is not seen: rhymes,
other languages, digits for letters, and a word whose letters stand at the beginnings of others.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import unicodedata
from collections.abc import Iterator

from envs.reading import VOWELS, forms_of, plain, words_in

PIECE = re.compile(r"[^\W_]+")
BASE64 = re.compile(r"[A-Za-z0-9+/]{4,}={0,2}")
SIBILANTS = ("s", "x", "z", "ch", "sh", "o")
MAX_LETTERS = 32  # no spelling is longer
MIN_HALF = 3  # letters: "to p" and "be an" are words that happen to stand together, "rain bow" is one cut in two

# Forms that no rule makes, and those that the rules make although they are other words.
IRREGULAR = {
    "beat": "beaten", "bend": "bent", "bite": "bit bitten", "blow": "blew blown", "break": "broke broken",
    "build": "built", "burn": "burnt", "buy": "bought", "child": "children", "draw": "drew drawn", "dream": "dreamt",
    "drink": "drank drunk", "drive": "drove driven", "eat": "ate eaten", "fall": "fell fallen", "fight": "fought",
    "find": "found", "fly": "flew flown", "foot": "feet", "freeze": "froze frozen", "glasses": "glass",
    "grow": "grew grown", "hear": "heard", "hide": "hid hidden", "hold": "held", "kneel": "knelt", "knife": "knives",
    "leaf": "leaves leafy", "man": "men", "mouse": "mice", "mow": "mown", "pants": "pant", "pay": "paid",
    "ride": "rode ridden", "ring": "rang rung", "scarf": "scarves", "scissors": "scissor", "see": "saw seen",
    "shake": "shook shaken", "shoot": "shot", "show": "shown", "sing": "sang sung", "sit": "sat",
    "sleep": "slept asleep", "smell": "smelt", "snowman": "snowmen", "spell": "spelt", "spin": "spun",
    "steal": "stole stolen", "sting": "stung", "sweep": "swept", "swim": "swam swum", "swing": "swung",
    "tear": "tore torn", "thief": "thieves", "think": "thought", "throw": "threw thrown", "tooth": "teeth",
    "wake": "woke woken", "wear": "wore worn", "weave": "wove woven", "wolf": "wolves", "woman": "women",
    "write": "wrote written",
}  # fmt: skip
OTHER_WORDS = {
    "bee": "beer beers", "broth": "brother brothers", "corn": "corner corners cornered", "cow": "cower cowers cowered",
    "ear": "early", "fin": "finest", "flow": "flower flowers", "ham": "hammer hammers", "moth": "mother mothers",
    "pie": "pier piers", "rat": "ratter", "sauce": "saucer saucers", "show": "shower showers", "tie": "tier tiers",
    "tire": "tired",
}  # fmt: skip
# Read backwards these are words too, and a message that holds "step" says no "pets".
BOTH_WAYS = frozenset(
    words_in(
        "bag bat bin dog draw gem god hoop leg mug net pay rail rat room sleep smart span spin spot star step time "
        "tool top war way wolf"
    )
)


@functools.cache
def inflections(word: str) -> frozenset[str]:
    """Return an English word with its inflections, irregular ones included; "hat" gives "hats", and not "hates"."""
    stem = plain(word).strip()
    forms = forms_of(stem) | set(IRREGULAR.get(stem, "").split())
    wrong = set(OTHER_WORDS.get(stem, "").split())
    if not stem.endswith(SIBILANTS):
        wrong.add(f"{stem}es")
    if _doubles(stem):
        wrong |= {f"{stem}{ending}" for ending in ("ed", "ing", "er", "ers", "est")}
    return frozenset(forms - wrong)


def says_word(text: str, word: str) -> bool:
    """Whether a message says a word as it stands, in any inflection: "Cats!" and "cat-like" say "cat"."""
    return not inflections(word).isdisjoint(_pieces(text))


def gives_away(text: str, words: tuple[str, ...]) -> str | None:
    """Return the first of the words that a message says, openly or in disguise; None: it says none."""
    spellings = _spellings(text)
    return next((word for word in words if not _disguises(word).isdisjoint(spellings)), None)


@functools.cache
def _disguises(word: str) -> frozenset[str]:
    """Return the spellings that give a word away."""
    stem = plain(word)
    return inflections(word) if stem in BOTH_WAYS else inflections(word) | {stem[::-1]}


@functools.lru_cache(maxsize=4096)
def _pieces(text: str) -> frozenset[str]:
    return frozenset(PIECE.findall(_bare(text)))


@functools.lru_cache(maxsize=4096)
def _spellings(text: str) -> frozenset[str]:
    """Return all that the pieces of a text spell, as it stands and as base64."""
    return frozenset(spelling for said in (text, *_decoded(text)) for spelling in _joined(_bare(said)))


def _joined(text: str) -> Iterator[str]:
    """Yield each piece of a text, and each run of pieces that may be one word in parts."""
    open_runs: list[str] = []  # what the pieces so far spell that the next one may continue
    end = 0
    before = ""
    for match in PIECE.finditer(text):
        piece = match[0]
        if not _may_join(before, text[end : match.start()], piece):
            open_runs.clear()
        open_runs = [run + piece for run in (*open_runs, "") if len(run) + len(piece) <= MAX_LETTERS]
        yield from open_runs
        before, end = piece, match.end()


def _may_join(before: str, gap: str, after: str) -> bool:
    """Whether two pieces may be parts of one word: letters by themselves, "ele-phant", "rain bow"; not "she'll"."""
    if len(before) == len(after) == 1:
        return True
    if gap.isspace():
        return min(len(before), len(after)) >= MIN_HALF
    return "'" not in gap and not any(character.isspace() for character in gap)


def _decoded(text: str) -> Iterator[str]:
    for found in BASE64.findall(unicodedata.normalize("NFKC", text)):
        code = found.rstrip("=")
        try:
            yield base64.b64decode(code + "=" * (-len(code) % 4)).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            continue


def _bare(text: str) -> str:
    """Return a text in plain form, without accents and characters that cannot be seen."""
    if text.isascii():
        return plain(text)
    spread = unicodedata.normalize("NFKD", plain(text))
    return "".join(character for character in spread if unicodedata.category(character) not in ("Mn", "Me", "Cf"))


def _doubles(stem: str) -> bool:
    """Whether a word of one syllable doubles its last letter: "hat", "hatted"."""
    if len(stem) < MIN_HALF or stem[-1] in f"{VOWELS}wxy" or stem[-2] not in VOWELS or stem[-3] in VOWELS:
        return False
    return not any(letter in f"{VOWELS}y" for letter in stem[:-2])
