"""What the oracle of twenty questions knows, and which question and which object a message names."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from envs.reading import is_denied, moves_in, plain, words_in

GUESS = "guess"
SENTENCE = re.compile(r"([^.!?;\n]*)([.!?;\n]*)")
# What stands around a question: "do you think", "that you have in mind", "can you tell me whether", "is it something".
AROUND = (
    re.compile(r"\b(?:do |are |that ){0,3}(?:you|i|we)(?:'re| are)? (?:think(?:ing)?|talking)\b(?: of| about)?"),
    re.compile(r"\b(?:that )?you have in mind\b"),
    re.compile(r"^(?:[\s,:]|can|could|please|tell|me|i|you|wonder|want|to|know|would|like)*\b(?:if|whether)\b"),
    re.compile(r"\b(?:is|it's) (?:it |this |that )?(?:something|a thing|an object|an item)\b(?: that| which)?"),
)
# Words that change nothing in a question: who leaves out all of them has asked the same.
FILLING = """
a an the it it's that that's this thing object item something has have had be been kind type sort of usually normally
often mostly mainly typically generally so ok okay well hmm hm then now next question first me let ask tell please
alright got very out
"""
FILLER = frozenset(FILLING.split())
# "Is it a fly?" is not "Does it fly?"
VERBS = dict.fromkeys(("is", "are", "was", "it's", "that's"), "is")
VERBS |= dict.fromkeys(("does", "do", "did", "can", "could", "will", "would", "has", "have"), "does")
PEOPLE = frozenset(("you", "people", "person", "human", "humans", "someone", "somebody", "anyone", "we", "i"))
# Behind a question these say that it was meant otherwise.
CORRECTIONS = frozenset(("no", "not", "or", "mean", "meant", "rather", "instead", "sorry", "wait", "never"))

CLAUSE_END = re.compile(r"[.,!?;:()\"\n\u2013\u2014]|\s-+\s|\b(?:because|since|as)\b")
GUESSING = "a an the it is it's its my i i'm think guess answer final say must be object"
GUESS_FILLER = frozenset(GUESSING.split())
DENYING = "no not never nor neither or either isn't wasn't cannot can't don't doesn't without except"
NEGATIONS = frozenset(DENYING.split())


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
    "a" and "usually" must be a question of the table, word for word: "is it not alive" and "alive or big" are none.
    """
    sentences = [match.groups() for match in SENTENCE.finditer(plain(text)) if match.group()]
    marked = [number for number, (_, end) in enumerate(sentences) if "?" in end]
    behind = sentences[marked[-1] + 1 :] if marked else []
    if any(not CORRECTIONS.isdisjoint(words_in(sentence)) for sentence, _ in behind):
        return None
    asked = {_core(sentences[number][0]) for number in marked or range(len(sentences))} - {()}
    found = {_lookup(core) for core in asked}
    return found.pop() if len(found) == 1 else None


def has_question_mark(text: str) -> bool:
    """Whether a message asks anything at all, in words."""
    return "?" in plain(text) and bool(words_in(text))


def _core(sentence: str) -> tuple[str, ...]:
    """Return the words that count, the verb's kind first; () if there are none."""
    for pattern in AROUND:
        sentence = pattern.sub(" ", sentence)
    words = words_in(sentence)
    kept = [word for word in words if word not in FILLER and word not in VERBS]
    verb = next((VERBS[word] for word in words if word in VERBS), "")
    # Nothing in the table is as long: the rest of a long message need not be kept.
    return (verb, *("you" if word in PEOPLE else word for word in kept[:12])) if kept else ()


def _lookup(core: tuple[str, ...]) -> Question | None:
    """Return the table's question; without a verb ("alive?", "you eat?") that of either kind, if it is one."""
    verbs = (core[0],) if core[0] else ("", "is", "does")
    found = {table().questions.get((verb, *core[1:])) for verb in verbs} - {None}
    return found.pop() if len(found) == 1 else None


@functools.lru_cache(maxsize=8192)
def has_guess(text: str) -> bool:
    """Whether a message holds a guess, readable or not."""
    return bool(moves_in(plain(text), (GUESS,)))


@functools.lru_cache(maxsize=8192)
def guess_in(text: str, names: tuple[str, ...]) -> str | None:
    """Return which of the objects a message guesses; None: none of them, more than one, or it denies or asks it.

    What stands behind "[guess cat]" is read like what stands behind "[guess] cat".
    """
    if is_denied(text, (GUESS,)):
        return None
    moves = moves_in(plain(text), (GUESS,))
    found = {_named(f"{move.argument}, {move.behind}", names) for move in moves}
    return found.pop() if len(found) == 1 else None


def _named(argument: str, names: tuple[str, ...]) -> str | None:
    """Return the object that the first words name; None too where more words take it back or name another.

    Another is a candidate anywhere, or a clause that is nothing but an object of the table: "cat, dog".
    """
    words = words_in(argument.replace("'s ", " "))
    if not NEGATIONS.isdisjoint(words):
        return None
    clauses = [clause for clause in CLAUSE_END.split(argument) if words_in(clause)]
    if not clauses:
        return None
    forms = _forms(names)
    first, *more = (
        " ".join(word for word in words_in(clause.replace("-", " ")) if word not in GUESS_FILLER) for clause in clauses
    )
    name, everything = forms.get(first), _forms(table().names)
    if name is None or any(everything.get(clause, name) != name for clause in more):
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
