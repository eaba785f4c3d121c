"""How `[select] ...` is read: by a number of the list, by a name, or by a description that fits one entry alone.

And how it is heard where the partner must not know what was selected.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from envs.pointing_positions import DETAILS, NAMES, OBJECTS
from envs.reading import AROUND, is_denied, moves_in, plain, without_doubts

SELECT = ("select",)
CHOSEN = "(has chosen)"  # what is heard in the place of a selection
TOKEN = re.compile(r"[^\W_]+")
# A list's place is given by digits anywhere in the selection, or by a number word that is all of it: in "the red one"
# and "one of the cups" the word is no number.
NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ONLY_A_NUMBER_WORD = re.compile(rf"\W*(?:(?:number|object|option|item)\W+)?({'|'.join(NUMBER_WORDS)})\W*")
OTHER_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(NUMBER_WORDS[1:])})\b|\d\W*\bone\b")
NUMBER_PREFIX = re.compile(r"\bno\.?\s*(?=\d)")  # "no. 2"
# What makes a selection two, or none.
ALTERNATIVE = re.compile(r"\b(?:or|nor|neither|either|except|without|versus|vs)\b")
DENIAL = re.compile(r"(?:\b(not|never|no(?! (?:other|one|doubt)\b))\b|n't\b)([^.,;:!?]*?)(?=$|[.,;:!?]|\b(?:but|if)\b)")
ASIDE = re.compile(r"\b(?:but|if)\b")
SENTENCE_END = re.compile(r"[.!?]+(?:\s+|$)|[!?]+")
# What opens no move opens nothing: "[select] [2], [3]" are two numbers, and "[select] 2 (the red cup)" is one thing.
OTHER_BRACKET = re.compile(r"[\[(<{](?!\s*select(?![^\W_]))", re.IGNORECASE)
SELECTION = re.compile(r"[\[(<{][^\S\n]*select(?![^\W_]).*", re.IGNORECASE)  # to the end of its line
SYNONYMS = {"wood": "wooden", "large": "big", "little": "small"}
VOCABULARY = frozenset(word.casefold() for table in (*OBJECTS, NAMES, *DETAILS) for word in table)
# A later sentence of nothing but these goes on with the selection: "1. The red cup.", "Anna. Or Ben.", "Ben. No!"
CHANGES = frozenset(("or", "no", "not", "wait"))
NAMING = VOCABULARY | CHANGES | frozenset(NUMBER_WORDS)
NAMING |= {
    "the",
    "a",
    "an",
    "and",
    "number",
    "it",
    "is",
    "s",
    "i",
    "m",
    "mean",
    "rather",
    "instead",
    "sorry",
    "actually",
}


@functools.lru_cache(maxsize=4096)
def tokens_of(text: str) -> tuple[str, ...]:
    """Return the words of a text in plain form, cut at hyphens and apostrophes too: "Anna's" is "anna" and "s"."""
    return tuple(SYNONYMS.get(token, token) for token in TOKEN.findall(plain(text)))


@functools.lru_cache(maxsize=4096)
def has_selection(text: str) -> bool:
    """Whether a message holds a `[select]`, whatever it selects."""
    return bool(_arguments(text))


@functools.lru_cache(maxsize=4096)
def selection_in(text: str, options: tuple[str, ...], *, numbered: bool) -> str | None:
    """Return the option that a message selects; None: it selects none, or more than one.

    numbered: whether the options are known by their place in the list, from 1.  A number counts even if the words
    around it fit several options, but not if they fit exactly one that has another number.  What stands behind
    "[select 2]" is read like what stands behind "[select] 2": "[select 2] or 3" selects two.

    Read is the first sentence, and later ones that do nothing but name.  A "not ..." is left out of it, wherever it
    stands, unless it is about the option itself; so are "but ..." and "if ...", unless they name another.
    """
    if is_denied(text, SELECT):
        return None
    found = {_option_in(argument, options, numbered) for argument in _arguments(text)}
    return found.pop() if len(found) == 1 else None


@functools.lru_cache(maxsize=4096)
def heard_of(text: str) -> str:
    """Return what a partner hears of a message: its words without what it selects, and that it does.

    "Yes, I know Ben! [select] Ben" is heard as "Yes, I know Ben! (has chosen)": what is said is no secret.
    """
    if not has_selection(text):
        return text
    lines = unicodedata.normalize("NFKC", text).split("\n")
    words = "\n".join(filter(None, (SELECTION.sub("", line).strip(AROUND) for line in lines)))
    # Of a bracket that is read and not found here, such as one with a letter that is an apostrophe, nothing is heard.
    return CHOSEN if has_selection(words) else f"{words} {CHOSEN}".lstrip()


def _arguments(text: str) -> list[str]:
    moves = moves_in(OTHER_BRACKET.sub(" ", plain(text)), SELECT)
    return [f"{move.argument}, {move.behind}" if move.behind else move.argument for move in moves]


def _option_in(argument: str, options: tuple[str, ...], numbered: bool) -> str | None:
    argument = NUMBER_PREFIX.sub("", without_doubts(argument))
    first = _selecting(argument)
    said, *aside = ASIDE.split(DENIAL.sub(" ", first), maxsplit=1)
    option = None if ALTERNATIVE.search(first) else _named_in(said, options, numbered)
    if option is None or (aside and _names(aside[0]) and not _is_of(option, aside[0], options, numbered)):
        return None
    is_changed = any(_is_change(match[1], match[2]) for match in DENIAL.finditer(first))
    denied = (match[2] for match in DENIAL.finditer(argument) if match[1] != "no")
    return None if is_changed or any(_is_of(option, text, options, numbered) for text in denied) else option


def _selecting(argument: str) -> str:
    first, *later = [sentence for sentence in SENTENCE_END.split(argument) if TOKEN.search(sentence)] or [""]
    return ", ".join((first, *filter(_goes_on, later)))


def _goes_on(sentence: str) -> bool:
    tokens = set(tokens_of(sentence))
    is_naming = all(token in NAMING or token.isdecimal() for token in tokens)
    return is_naming and (_names(sentence) or not tokens.isdisjoint(CHANGES))


def _names(text: str) -> bool:
    return any(token in VOCABULARY or token in NUMBER_WORDS[1:] or token.isdecimal() for token in tokens_of(text))


def _is_change(word: str | None, denied: str) -> bool:
    """Whether a denial takes all back or leads to another: "not", "no", "no, Anna", "no Anna"."""
    return not denied.strip() or (word == "no" and _names(denied))


def _is_of(option: str, text: str, options: tuple[str, ...], numbered: bool) -> bool:
    said = VOCABULARY.intersection(tokens_of(text))
    return (bool(said) and said.issubset(tokens_of(option))) or _named_in(text, options, numbered) == option


def _named_in(argument: str, options: tuple[str, ...], numbered: bool) -> str | None:
    described = _fitting(argument, options)
    if not numbered or not _has_number(argument):
        return described[0] if len(described) == 1 else None
    number = _number_in(argument)
    if number is None or not 1 <= number <= len(options):
        return None
    option = options[number - 1]
    return None if len(described) == 1 and described[0] != option else option


def _fitting(argument: str, options: tuple[str, ...]) -> list[str]:
    said = VOCABULARY.intersection(tokens_of(argument))
    return [option for option in options if said and said.issubset(tokens_of(option))]


def _has_number(argument: str) -> bool:
    return any(letter.isdigit() for letter in argument) or ONLY_A_NUMBER_WORD.fullmatch(argument) is not None


def _number_in(argument: str) -> int | None:
    only = ONLY_A_NUMBER_WORD.fullmatch(argument)
    if only:
        return NUMBER_WORDS.index(only[1]) + 1
    if OTHER_NUMBER_WORD.search(argument):
        return None
    pieces = re.split(r"[\s\u2013\u2014]+", argument)
    numbers = {piece.strip(".,;:!?#()[]{}<>'\"*_`") for piece in pieces if any(letter.isdigit() for letter in piece)}
    # "-2", "2.5", "2nd" and "1/2" are no place in a list.
    if not all(number.isdecimal() and len(number) <= 3 for number in numbers):
        return None
    different = {int(number) for number in numbers}
    return different.pop() if len(different) == 1 else None
