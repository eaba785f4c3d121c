"""What the players without a model say in the pointing game: the competent ones, and those by chance."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from envs.drawing import Draw
from envs.pointing_positions import DETAILS, NAMES
from envs.pointing_selection import tokens_of

DESCRIBE = ("It is the {}.", "The {}.", "Look for the {}.", "Mine is the {}.", "I mean the {}.", "Please take the {}.")
ASK = ("What does it look like?", "What colour is it?", "What is it made of?", "What kind of thing is it?")
FOUND = ("[select] {}", "Got it. [select] {}", "Thanks! [select] {}", "Found it: [select] {}", "I see. [select] {}")
# Who selects first has to say whom in words, for the selection is not heard.
FIRST_KNOWN = (
    *("We both know {0}! [select] {0}", "Yes, I know {0}! [select] {0}"),
    *("It is {0}. [select] {0}", "Our friend is {0}. [select] {0}"),
)
KNOWN = ("[select] {0}", "Yes, I know {0}! [select] {0}", "It is {0}. [select] {0}", "Our friend is {0}. [select] {0}")
TELL = ("Do you know {}?", "I know {}.", "Is it {}?", "How about {}?")
NOT_YET = ("No.", "Sorry.", "Different.", "Nope.")
LIST = ("I know {}. And you?", "My people are {}.", "Do you know {}?", "Here are mine: {}.")
DETAIL_OF = {word.casefold(): place for place, table in enumerate(DETAILS, start=1) for word in table}
NAME_WORDS = frozenset(name.casefold() for name in NAMES)


def describe(entry: Sequence[str], draw: Draw) -> str:
    """Return a sentence for some words of an object, its kind last; "" stands for a word that is left out."""
    words = [word for word in entry if word]
    phrase = " ".join(words if entry[-1] else [*words, "one"])
    return draw.choose(DESCRIBE).format(phrase)


def description_of(target: str, options: tuple[str, ...], draw: Draw) -> str:
    """Return a sentence with as few words of the target as fit it alone."""
    return describe(draw.choose(_shortest(target, options)), draw)


@functools.lru_cache(maxsize=4096)
def _shortest(target: str, options: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    words = target.split()
    others = [set(option.split()) for option in options if option != target]
    for num_words in range(1, len(words) + 1):
        chosen = [
            tuple(word if place in places else "" for place, word in enumerate(words))
            for places in itertools.combinations(range(len(words)), num_words)
            if not any(other.issuperset(words[place] for place in places) for other in others)
        ]
        if chosen:
            return tuple(chosen)
    return (tuple(words),)


def best_matches(heard: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the options that share the most words with what was heard, in the list's order."""
    words = {token for text in heard for token in tokens_of(text)}
    scores = [len(words.intersection(tokens_of(option))) for option in options]
    return [option for option, score in zip(options, scores, strict=True) if score == max(scores)]


def question_about(matches: Sequence[str]) -> str:
    """Return a question whose answer tells some of the objects apart."""
    columns = zip(*(option.split() for option in matches), strict=True)
    return next(question for question, column in zip(ASK, columns, strict=True) if len(set(column)) > 1)


def tell_rows(rows: Sequence[str], draw: Draw, *, is_answer: bool) -> str:
    """Return a message that describes people with all their details."""
    people = []
    for row in rows:
        name, town, job, hobby = row.split()
        people.append(f"{name}, a {job} from {town} who likes {hobby}")
    told = draw.choose(TELL).format(" or ".join(people))
    return f"{draw.choose(NOT_YET)} {told}" if is_answer else told


def tell_names(rows: Sequence[str], draw: Draw) -> str:
    """Return a message with the names of all people."""
    *names, last = (row.split()[0] for row in rows)
    return draw.choose(LIST).format(f"{', '.join(names)} and {last}")


def by_match(own: Sequence[str], heard: Sequence[str]) -> list[str]:
    """Return the own people that nothing heard speaks against, those first of whom most was said."""
    claims = claims_in(heard)
    found = [(row, claims.get(name, set()), details) for row in own for name, *details in [tokens_of(row)]]
    alive = [(row, len(claimed)) for row, claimed, details in found if claimed.issubset(details)]
    return [row for row, _ in sorted(alive, key=lambda item: -item[1])]


def is_confirmed(row: str, heard: Sequence[str]) -> bool:
    """Whether every detail of an own person was heard."""
    name, *details = tokens_of(row)
    return claims_in(heard).get(name) == set(details)


def named(rows: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the people whose names were said."""
    claims = claims_in(texts)
    return [row for row in rows if tokens_of(row)[0] in claims]


def claims_in(texts: Sequence[str]) -> dict[str, set[str]]:
    """Return what texts say of people: the details that follow a name, up to the next name; all in plain form."""
    claims: dict[str, set[str]] = {}
    for text in texts:
        name = ""
        for token in tokens_of(text):
            if token in NAME_WORDS:
                name = token
                claims.setdefault(name, set())
            elif name and token in DETAIL_OF:
                claims[name].add(token)
    return claims
