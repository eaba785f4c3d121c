"""What the oracle of twenty questions knows, and which question and which object a message names."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from envs.reading import moves_in, plain, words_in

GUESS = "guess"
SENTENCE = re.compile(r"([^.!?;\n]*)([.!?;\n]*)")
THOUGHT = re.compile(
    r"\b(?:that )?(?:you|i|we)(?:'re| are)? (?:think(?:ing)?|talking)(?: of| about)?\b|\b(?:you )?have in mind\b"
)
# Words that change nothing in a question: who leaves out all of them has asked the same.
FILLER = frozenset(
    """
    a an the it it's that that's this thing things object objects item something is are was does do did can could will
    would has have had be been kind type sort of usually normally often mostly mainly typically generally so ok okay
    well hmm hm then now next question first me let ask tell please alright got very
    """.split()
)
PEOPLE = frozenset("you people person human humans someone somebody anyone anybody we i one".split())
# Behind a question these say that it was meant otherwise.
CORRECTIONS = frozenset("no not or mean meant rather instead sorry wait actually never".split())

CLAUSE_END = re.compile(r"[.,!?;:()\"\n\u2013\u2014]|\s-+\s|\b(?:because|since|as)\b")
GUESS_FILLER = frozenset("a an the it is it's its my i i'm think guess answer final say must be object".split())
NEGATIONS = frozenset(
    "no not never nor neither or either isn't wasn't cannot can't don't doesn't without except".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a message asks.

    Example: "Is it dead?" is ``Question(attribute="alive", opposite=True)``
    """

    attribute: str
    opposite: bool  # whether it asks for the lack of the attribute

    def truth_of(self, name: str) -> bool:
        """Return the true answer for an object."""
        return bool(table().masks[self.attribute] & table().bits[name]) != self.opposite


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Objects and attributes; a mask has one bit an object.

    Example: ``masks["alive"] & bits["cat"]`` is not 0.
    """

    names: tuple[str, ...]  # of all objects, in the order of the file
    aliases: Mapping[str, tuple[str, ...]]  # name -> all names of the object, its own first
    bits: Mapping[str, int]  # name -> its bit
    masks: Mapping[str, int]  # attribute -> the bits of the objects that have it
    wordings: Mapping[str, tuple[str, ...]]  # attribute -> questions that ask it, none of them the opposite
    questions: Mapping[tuple[str, ...], Question]  # the words that count -> what they ask


@functools.cache
def table() -> Table:
    """Return the table of ``twenty_questions.txt``."""
    lines = resources.files("envs").joinpath("twenty_questions.txt").read_text(encoding="utf-8").splitlines()
    written = [line for line in lines if line and not line.startswith("#")]
    first_kind = next(number for number, line in enumerate(written) if number and line.startswith("["))
    implied: dict[str, tuple[str, ...]] = {}
    wordings: dict[str, tuple[str, ...]] = {}
    questions: dict[tuple[str, ...], Question] = {}
    for line in written[1:first_kind]:
        head, _, asked = line.partition(":")
        attribute, *follow = head.replace(">", " ").split()
        texts = [text.strip() for text in asked.split("|")]
        implied[attribute] = tuple(follow)
        wordings[attribute] = tuple(text for text in texts if not text.startswith("!"))
        for text in texts:
            question = Question(attribute=attribute, opposite=text.startswith("!"))
            if questions.setdefault(_core(plain(text)), question) != question:
                raise ValueError(f"twenty_questions.txt: {text!r} asks two things")
    aliases, owned = _objects(written[first_kind:], implied)
    bits = {name: 1 << number for number, name in enumerate(aliases)}
    masks = {attribute: sum(bits[name] for name, own in owned.items() if attribute in own) for attribute in wordings}
    return Table(names=tuple(aliases), aliases=aliases, bits=bits, masks=masks, wordings=wordings, questions=questions)


def _objects(
    lines: list[str], implied: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[str, ...]], dict[str, frozenset[str]]]:
    aliases: dict[str, tuple[str, ...]] = {}
    owned: dict[str, frozenset[str]] = {}
    usual: list[str] = []
    for line in lines:
        head, _, attributes = line.strip("[]").partition(":")
        if line.startswith("["):
            usual = attributes.split()
            continue
        names = tuple(name.strip() for name in head.split(","))
        lacks = {word[1:] for word in attributes.split() if word.startswith("-")}
        has = [word for word in (*usual, *attributes.split()) if not word.startswith("-") and word not in lacks]
        for attribute in has:  # grows while it is read: what follows may have followers
            has += [word for word in implied[attribute] if word not in has and word not in lacks]
        aliases[names[0]], owned[names[0]] = names, frozenset(has)
    return aliases, owned


@functools.lru_cache(maxsize=8192)
def question_in(text: str) -> Question | None:
    """Return the one thing that a message asks, if the table has it; None: nothing, two things, or another.

    The sentences with a question mark count, or all where none has one.  What is left of them without words such as
    "is it a" must be a question of the table, word for word: "is it not alive" and "alive or big" are none.
    """
    sentences = [match.groups() for match in SENTENCE.finditer(plain(text)) if match.group()]
    marked = [number for number, (_, end) in enumerate(sentences) if "?" in end]
    behind = sentences[marked[-1] + 1 :] if marked else []
    if any(not CORRECTIONS.isdisjoint(words_in(sentence)) for sentence, _ in behind):
        return None
    asked = {_core(sentences[number][0]) for number in marked or range(len(sentences))} - {()}
    return table().questions.get(asked.pop()) if len(asked) == 1 else None


def has_question_mark(text: str) -> bool:
    """Whether a message asks anything at all, in words."""
    return "?" in plain(text) and bool(words_in(text))


def _core(sentence: str) -> tuple[str, ...]:
    kept = [word for word in words_in(THOUGHT.sub(" ", sentence)) if word not in FILLER]
    # Nothing in the table is as long: the rest of a long message need not be kept.
    return tuple("you" if word in PEOPLE else word for word in kept[:12])


@functools.lru_cache(maxsize=8192)
def has_guess(text: str) -> bool:
    """Whether a message holds a guess, readable or not."""
    return bool(moves_in(text, (GUESS,)))


@functools.lru_cache(maxsize=8192)
def guess_in(text: str, names: tuple[str, ...]) -> str | None:
    """Return which of the objects a message guesses; None: none of them, or more than one."""
    found = {_named(plain(move.argument), names) for move in moves_in(text, (GUESS,))}
    return found.pop() if len(found) == 1 else None


def _named(argument: str, names: tuple[str, ...]) -> str | None:
    """Return the object that the first words name; None too where more words take it back or name another."""
    words = words_in(argument.replace("'s ", " "))
    if not NEGATIONS.isdisjoint(words):
        return None
    clauses = [clause for clause in CLAUSE_END.split(argument) if words_in(clause)]
    if not clauses:
        return None
    forms = _forms(names)
    first = " ".join(word for word in words_in(clauses[0].replace("-", " ")) if word not in GUESS_FILLER)
    name = forms.get(first)
    if name is None:
        return None
    rest = f" {' '.join(word for clause in clauses[1:] for word in words_in(clause))} "
    others = (form for form, other in forms.items() if other != name)
    return None if len(rest) > 2 and any(f" {form} " in rest for form in others) else name


@functools.lru_cache(maxsize=4096)
def _forms(names: tuple[str, ...]) -> Mapping[str, str]:
    """Return what is read as each object: its names, one or several of the thing."""
    singular = {alias: name for name in names for alias in table().aliases[name]}
    plural = {f"{alias}{ending}": name for alias, name in singular.items() for ending in ("s", "es")}
    return plural | singular
