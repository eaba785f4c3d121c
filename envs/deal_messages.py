"""What a message of the deal game says: its move, and what a proposal asks for.

A proposal is read clause by clause with a closed vocabulary: what stands before an amount must be understood, so that
"2 books or 1 hat", "half the books" and "not the hat" are refused and not guessed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from envs.numbers import Number, numbers_in
from envs.reading import Move, behind_but, has_condition, is_denied, is_taken_back, moves_in, plain, words_in

Counts = tuple[int, ...]  # how many there are of each item; (): the talks are about a job
Pair = tuple[int, int]  # which thing, and how many of it or which option

ITEMS: Mapping[str, tuple[str, ...]] = {"books": ("book",), "hats": ("hat",), "balls": ("ball",)}
ISSUES: Mapping[str, tuple[str, ...]] = {
    "salary": ("salaries", "pay"),
    "bonus": ("bonuses",),
    "vacation": ("vacations", "holiday", "holidays"),
    "start": ("starting",),
    "moving": ("relocation",),
    "insurance": (),
    "location": ("locations",),
    "team": ("teams",),
}
NUM_OPTIONS = 5

MAX_ARGUMENT = 1000  # characters behind a move that are read: what is longer is no proposal
KINDS = ("propose", "accept", "reject", "walk")
HEAD = rf"\s*(?:{'|'.join(KINDS)})(?![^\W_])"
OPEN = re.compile(rf"[\[({{<]{HEAD}")
OTHER_PAIR = re.compile(rf"[\[({{](?!{HEAD})([^\[({{<\])}}>]*)[\])}}]")
OTHER_BRACKET = re.compile(rf"[\[({{](?!{HEAD})")
LESS_THAN = re.compile(rf"<(?!{HEAD})")
MARKDOWN = str.maketrans(dict.fromkeys("*_`"))
CLAUSE_END = re.compile(r"[;!?|/&\[\](){}]|[.,](?!\d)|(?<!\d)[.,]|\b(?:and|plus|while)\b")
SENTENCE_END = re.compile(r"[.;!?\n]")
# A sign that makes a number something else than how many.
INEXACT = re.compile(r"[<>~^\u2248\u2264\u2265\u00b1]|\d\+")
STUCK = re.compile(r"(?<=\d)(?=(?:x|books?|hats?|balls?)(?![^\W_]))|(?<=[^\W\d_])(?=\d+(?![^\W_]))")
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

SELF = frozenset(words_in("i me my mine i'll i'd i'm myself"))
PARTNER = frozenset(words_in("you your yours you'll you'd u yourself"))
FILLERS = frozenset(
    words_in("keep take get want have receive would will can could like need the of for please just so x")
)
JOB_FILLERS = frozenset(words_in("a an option options number no level at on to is be set date package days"))
# What turns round, or makes uncertain, what was said before.
TWISTS = frozenset(words_in("or not no nor less fewer more each apiece instead except unless without"))
POINTS = frozenset(words_in("point points pts"))
# Amounts that depend on how many there are: all of them, and both where there are two.
ALL, BOTH = -1, -2
AMOUNTS = {"all": ALL, "both": BOTH, "a": 1, "an": 1, "no": 0, "none": 0}
WHOLE = {"everything": ALL, "nothing": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one message says, whatever was said before.

    Example: "I love hats. [propose] 2 hats" is ``Reading(kind="propose", pairs=((0, 0), (1, 2), (2, 0)))``
    """

    kind: str  # one of KINDS, "talk" or "unclear"
    pairs: tuple[Pair, ...] = ()  # as who speaks sees it: of a proposal all things in order, of others what it names
    fault: str = ""  # why it is no move; "": it is one


@functools.lru_cache(maxsize=8192)
def read_message(text: str, counts: Counts) -> Reading:
    """Return what a message says, where there are so many items; without counts it is about the issues of a job."""
    line = _one_line(text)
    moves = moves_in(line, KINDS)
    if len(OPEN.findall(line)) != len(moves):
        return Reading(kind="unclear", fault="a bracket is left open")
    if not moves:
        return Reading(kind="talk") if words_in(text) else Reading(kind="unclear", fault="it says nothing")
    reading, *others = {_read_move(move, counts) for move in moves}
    if others:
        return Reading(kind="unclear", fault="it has different moves")
    if not reading.fault and is_denied(text, KINDS):
        return Reading(kind="unclear", fault="it may mean the opposite, or ask")
    return reading


@functools.lru_cache(maxsize=8192)
def wishes_in(text: str, counts: Counts) -> frozenset[int]:
    """Return the things that a message names in a sentence about who speaks, before any move."""
    talk = OPEN.split(plain(text), maxsplit=1)[0]
    sentences = [words_in(sentence) for sentence in SENTENCE_END.split(talk)]
    own = [words for words in sentences if SELF.intersection(words) and not PARTNER.intersection(words)]
    names = _names(bool(counts))
    return frozenset(names[word] for words in own for word in words if word in names)


def _one_line(text: str) -> str:
    # A list may go over several lines, and what it is made of must not be lost.
    line = " , ".join(plain(text).translate(MARKDOWN).splitlines())
    return LESS_THAN.sub("~", OTHER_BRACKET.sub(" , ", OTHER_PAIR.sub(r" , \1 , ", line)))


def _read_move(move: Move, counts: Counts) -> Reading:
    argument = " ".join(f"{move.argument} , {move.behind}".split())
    if len(argument) > MAX_ARGUMENT:
        return Reading(kind=move.kind, fault="it is too long")
    if move.kind == "accept":
        return _read_acceptance(argument, counts)
    if move.kind != "propose":
        return Reading(kind=move.kind)
    reading = _read_proposal(argument, counts)
    # "[propose 2 books] 1 hat" may be a list that goes on, or another one.
    if _begins_a_list(move.behind, counts) and reading.pairs != _read_proposal(move.argument, counts).pairs:
        return Reading(kind=move.kind, fault="it goes on behind its bracket")
    return reading


def _begins_a_list(text: str, counts: Counts) -> bool:
    first = next(iter(_tokens(text)), "")
    return isinstance(first, Number) or first in AMOUNTS or first in _names(bool(counts))


def _read_acceptance(argument: str, counts: Counts) -> Reading:
    if has_condition(argument) or _restricts(behind_but(argument), counts):
        return Reading(kind="accept", fault="it has a condition")
    named: list[Pair] = []
    for text in _clauses_of(argument):
        clause = _read_clause(text, counts)
        if clause is None and numbers_in(text) and _names(bool(counts)).keys() & set(words_in(text)):
            return Reading(kind="accept", fault="what it names cannot be read in one way")
        named += clause.pairs if clause else ()
    return Reading(kind="accept", pairs=tuple(sorted(set(named))))


def _restricts(text: str, counts: Counts) -> bool:
    """Whether what stands behind a "but" is about things or amounts, or takes back what stands before it."""
    about = _names(bool(counts)).keys() | ((AMOUNTS.keys() - {"a", "an", "no"}) | WHOLE.keys() if counts else set())
    return bool(numbers_in(text)) or not about.isdisjoint(words_in(text)) or is_taken_back(text)


def _read_proposal(argument: str, counts: Counts) -> Reading:
    unclear = Reading(kind="propose", fault="it cannot be read in one way")
    said: dict[tuple[bool, int], int] = {}  # (whether it is the partner's, thing) -> how many
    is_partners = False
    if INEXACT.search(argument):
        return unclear
    for text in _clauses_of(argument):
        clause = _read_clause(text, counts)
        if clause is None:
            return unclear
        if clause.pairs and clause.is_partners is not None:
            is_partners = clause.is_partners
        for thing, amount in clause.pairs:
            if said.setdefault((is_partners, thing), amount) != amount:
                return unclear
    own = {thing: amount for (partners, thing), amount in said.items() if not partners}
    given = {thing: amount for (partners, thing), amount in said.items() if partners}
    fault = _item_fault(own, given, counts) if counts else _job_fault(own)
    num_things = len(counts) or len(ISSUES)
    pairs = () if fault else tuple((thing, own.get(thing, 0)) for thing in range(num_things))
    return Reading(kind="propose", pairs=pairs, fault=fault)


def _item_fault(own: Mapping[int, int], given: Mapping[int, int], counts: Counts) -> str:
    if not own:
        return "it does not say what to keep"
    over = [name for thing, name in enumerate(ITEMS) if own.get(thing, 0) > counts[thing]]
    if over:
        return f"there are not so many {over[0]}"
    if any(amount != counts[thing] - own.get(thing, 0) for thing, amount in given.items()):
        return "what the two get does not add up"
    return ""


def _job_fault(own: Mapping[int, int]) -> str:
    missing = [name for thing, name in enumerate(ISSUES) if thing not in own]
    if missing:
        return f"it leaves out {missing[0]}"
    wrong = [name for thing, name in enumerate(ISSUES) if not 1 <= own[thing] <= NUM_OPTIONS]
    return f"the options of {wrong[0]} are 1 to {NUM_OPTIONS}" if wrong else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A part of an argument that can be read; without pairs it is idle talk."""

    pairs: tuple[Pair, ...] = ()
    is_partners: bool | None = None  # whether it is about what the partner gets; None: it does not say


@dataclass(slots=True, kw_only=True)
class _Progress:
    """Where the reading of a clause is."""

    counts: Counts
    pairs: list[Pair] = field(default_factory=list)
    thing: int | None = None  # named, and its amount is to come
    amounts: list[int] = field(default_factory=list)  # named, and their thing is to come
    is_strange: bool = False  # a word outside the vocabulary, or one that turns the meaning round behind a pair
    is_wrong: bool = False
    owners: set[str] = field(default_factory=set)
    behind_the: bool = False

    def take_thing(self, thing: int) -> None:
        if self.thing is not None:
            self.is_wrong = True
        if not self.amounts and self.behind_the and self.counts and self.counts[thing] == 1:
            self.amounts = [1]
        if self.amounts:
            self._pair(thing, self.amounts)
        else:
            self.thing = thing

    def take_amount(self, amount: int) -> None:
        if self.thing is None:
            self.amounts.append(amount)
        else:
            self._pair(self.thing, [amount])

    def take_whole(self, amount: int) -> None:
        for thing in range(len(self.counts)):
            self._pair(thing, [*self.amounts, amount])

    def take_word(self, word: str) -> None:
        if word in SELF or word in PARTNER:
            # "2 books for you": whose they are is said too late to be sure what else it is about.
            self.is_wrong |= word in PARTNER and bool(self.pairs or self.amounts) and bool(self.counts)
            self.owners.add("self" if word in SELF else "partner")
        elif word in POINTS:
            self.amounts = []
        elif word in TWISTS and self.pairs:
            self.is_wrong = True
        elif word not in FILLERS and (self.counts or word not in JOB_FILLERS):
            self.is_strange = True

    def _pair(self, thing: int, amounts: Sequence[int]) -> None:
        found = {_resolved(amount, self.counts[thing] if self.counts else 0) for amount in amounts}
        # Strange words before an amount may turn it round; behind it they are idle talk.
        self.is_wrong |= self.is_strange or len(found) != 1 or None in found
        self.pairs.append((thing, max(amount or 0 for amount in found)))
        self.thing, self.amounts = None, []


@functools.lru_cache(maxsize=8192)
def _read_clause(text: str, counts: Counts) -> Clause | None:
    """Return what a clause says; None: it cannot be read in one way."""
    progress = _Progress(counts=counts)
    names = _names(bool(counts))
    for token in _tokens(text):
        if isinstance(token, Number):
            progress.is_wrong |= bool(token.unit) or token.value < 0 or token.value != int(token.value)
            progress.take_amount(int(token.value))
        elif token in names:
            progress.take_thing(names[token])
        elif counts and token in AMOUNTS:
            progress.take_amount(AMOUNTS[token])
        elif counts and token in WHOLE:
            progress.take_whole(WHOLE[token])
        else:
            progress.take_word(token)
        progress.behind_the = token == "the"
    is_mixed = bool(progress.pairs) and len(progress.owners) == 2 and bool(counts)
    if progress.is_wrong or is_mixed or progress.thing is not None or progress.amounts:
        return None
    is_partners = progress.owners == {"partner"} if progress.owners else None
    return Clause(pairs=tuple(progress.pairs), is_partners=is_partners if counts else None)


def _clauses_of(argument: str) -> Iterator[str]:
    yield from (text for text in CLAUSE_END.split(STUCK.sub(" ", argument)) if text.strip())


def _tokens(text: str) -> list[Number | str]:
    numbers = numbers_in(text)
    spans = [(number.start, number.end) for number in numbers]
    words = [
        (match.start(), match[0])
        for match in WORD.finditer(text)
        if not any(start < match.end() and match.start() < end for start, end in spans)
    ]
    found: list[tuple[int, Number | str]] = [*((number.start, number) for number in numbers), *words]
    return [token for _, token in sorted(found, key=lambda pair: pair[0])]


def _resolved(amount: int, count: int) -> int | None:
    if amount == ALL:
        return count
    if amount == BOTH:
        return 2 if count == 2 else None
    return amount


@functools.cache
def _names(of_items: bool) -> dict[str, int]:
    table = ITEMS if of_items else ISSUES
    return {word: thing for thing, (name, others) in enumerate(table.items()) for word in (name, *others)}
