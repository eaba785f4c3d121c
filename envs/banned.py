"""Whether messages say a word that they must not, taken together: plainly, inflected, in pieces or in disguise.

Everything is read in plain letters (case, accents, circles, common look-alikes and invisible signs do not matter; see
`envs.disguises`) and on word boundaries: "category" says no "cat".

Of any length: a word is seen inflected, with digits for letters, backwards, letter by letter (over several messages
too), parted by signs ("ca-t"), in base64, hexadecimal and numbers (character codes and places in the alphabet).
From five letters on: as a part of a longer word ("theelephant", "sheepdog"), with one letter wrong ("elefant"), shifted
(rot13 and the other 24), and in parts of which one is no word ("ele-" in one message and "phant" in the next).
From six letters on: with a letter left out, cut in two by a blank ("rain bow"; three letters at least in each part),
and as the first letters of words or lines.
Ordinary words do not count where they only look so ("hearth" for "earth", "wolf" for "flow"): those of the clues, and
of ``taboo_neighbours.txt``.

Not seen is all else: rhymes, riddles, other languages, parts that are all words in their own right ("butter ... fly"),
two disguises at once, codes of one's own, and a word of up to four letters (71 of the 256) glued to others ("thecat"),
misspelt ("kat"), shifted, in initials, or in parts by blanks or over messages ("ca" and "t").
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from envs.disguises import (
    are_in_order,
    folded,
    from_base64,
    from_hex,
    from_numbers,
    initials_of,
    shifts_of,
    tokens_of,
    undecorated,
    unleeted,
)
from envs.reading import VOWELS, forms_of, plain
from envs.taboo_words import entries

NEIGHBOURS = Path(__file__).with_name("taboo_neighbours.txt")
PIECE = re.compile(r"[^\W_]+")
LONG_NUMBER = re.compile(r"(?<![^\W_])\d\d+(?![^\W_])")  # "200 animals" is no "zoo animals"
# A message without the signs around it; "$un" keeps its first letter.
CORE = re.compile(r"[\w@$](?:.*[\w@$])?", re.DOTALL)
SIBILANTS = ("s", "x", "z", "ch", "sh", "o")
MAX_LETTERS = 32  # no spelling is longer
MIN_HALF = 3  # letters: "to p" and "be an" are words that happen to stand together, "rain bow" is one cut in two
MIN_INITIALS = 6  # letters: "The order of the heuristics" begins like a tooth
LONG = 5  # letters of a word that few others hold or resemble by chance

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


@functools.lru_cache(maxsize=4096)
def says_word(text: str, word: str) -> bool:
    """Whether a message says a word as it stands, in any inflection: "Cats!" and "cat-like" say "cat"."""
    return not inflections(word).isdisjoint(PIECE.findall(folded(text)))


@functools.lru_cache(maxsize=4096)
def gives_away(text: str, words: tuple[str, ...], *, earlier: tuple[str, ...] = ()) -> str | None:
    """Return the first of the words that a message says, openly or in disguise; None: it says none.

    earlier: what the same role said before, and what the message may continue.
    """
    said = _said("\n".join(map(_core, (*earlier, text))))
    return next((word for word in words if _is_told(word, said)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    spellings: frozenset[str]  # what pieces of the text spell, by themselves and joined
    coded: frozenset[str]  # pieces of what it says in base64 and hexadecimal
    numbers: tuple[str, ...]  # letters that its numbers stand for
    odd: frozenset[str]  # words that are none, of five characters or more
    tokens: tuple[str, ...]
    fragments: frozenset[str]  # tokens that are no words
    singles: tuple[str, ...]  # tokens of one letter
    initials: tuple[str, str]


@functools.lru_cache(maxsize=4096)
def _said(text: str) -> _Said:
    shown = (folded(text), *unleeted(LONG_NUMBER.sub(" ", text)))
    pieces = frozenset(piece for reading in shown for piece in PIECE.findall(reading))
    codes = (*from_base64(text), *from_hex(text))
    tokens = tuple(tokens_of(text))
    return _Said(
        spellings=frozenset().union(*map(_joined, shown)),
        coded=frozenset(piece for code in codes for piece in PIECE.findall(code)),
        numbers=from_numbers(text),
        odd=frozenset(piece for piece in pieces - _known_words() if len(piece) >= LONG),
        tokens=tokens,
        fragments=frozenset(token for token in tokens if len(token) > 1) - _known_words(),
        singles=tuple(token for token in tokens if len(token) == 1),
        initials=initials_of(text),
    )


def _core(message: str) -> str:
    found = CORE.search(undecorated(message))
    return found[0] if found else ""


def _is_told(word: str, said: _Said) -> bool:
    stem = folded(word)
    if not _disguises(word).isdisjoint(said.spellings) or not inflections(word).isdisjoint(said.coded):
        return True
    if any(stem in letters for letters in said.numbers):
        return True
    return are_in_order(said.singles, stem) or (len(stem) >= LONG and _is_hidden(stem, said))


def _is_hidden(stem: str, said: _Said) -> bool:
    """Whether a long word is inside others, misspelt, shifted, in initials, or in parts that are no words."""
    if any(_is_in(stem, odd) or _is_one_edit(stem, odd) or odd in shifts_of(stem) for odd in said.odd):
        return True
    if len(stem) >= MIN_INITIALS and any(stem in letters for letters in said.initials):
        return True
    return any(part in stem for part in said.fragments) and are_in_order(said.tokens, stem, strange=said.fragments)


def _is_in(stem: str, odd: str) -> bool:
    return stem in odd or stem[::-1] in odd


def _is_one_edit(stem: str, other: str) -> bool:
    """Whether one letter was changed, left out, put in, or swapped with its neighbour."""
    if stem == other or abs(len(stem) - len(other)) > 1:
        return False
    short, long = sorted((stem, other), key=len)
    at = next((at for at, letter in enumerate(short) if letter != long[at]), len(short))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :]
    is_swap = short[at : at + 2] == long[at : at + 2][::-1] and short[at + 2 :] == long[at + 2 :]
    return is_swap or short[at + 1 :] == long[at + 1 :]


@functools.cache
def _known_words() -> frozenset[str]:
    lines = NEIGHBOURS.read_text(encoding="utf-8").splitlines()
    found = {word for line in lines if not line.startswith("#") for word in line.split()}
    for entry in entries():
        found.update(map(folded, (entry.word, *entry.forbidden)))
        found.update(piece for clue in entry.clues for piece in PIECE.findall(folded(clue)))
    return frozenset(found)


@functools.cache
def _disguises(word: str) -> frozenset[str]:
    """Return the spellings that give a word away."""
    # Many words are words backwards too: a message that holds "step" says no "pets", nor does a "wolf" say "flow".
    return inflections(word) | ({plain(word)[::-1]} - _known_words())


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


def _doubles(stem: str) -> bool:
    """Whether a word of one syllable doubles its last letter: "hat", "hatted"."""
    if len(stem) < MIN_HALF or stem[-1] in f"{VOWELS}wxy" or stem[-2] not in VOWELS or stem[-3] in VOWELS:
        return False
    return not any(letter in f"{VOWELS}y" for letter in stem[:-2])
