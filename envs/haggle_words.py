"""What a haggler's message says: its one move, and the price in it."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

from envs.numbers import Number, numbers_in
from envs.reading import Move, behind_but, has_condition, is_denied, is_taken_back, moves_in, plain
from selfplay.dialog import Action

KINDS = ("offer", "accept", "reject")
MAX_CHARACTERS = 2000  # a longer message is no offer that anybody would read
# Wide and heavy brackets are brackets.
BRACKETS = str.maketrans("［］【】〔〕｛｝（）＜＞：", "[][][]{}()<>:")  # noqa: RUF001
# A number beside such words is a difference, a bound or a rate, and no price.
NO_PRICE_BEFORE = re.compile(
    r"(?:(?<!\w)(?:plus|minus|add|by|up to|at least|at most|under|over|below|above|not|than|between|from|another"
    r"|extra|twice|double)|[+~<>])\s*$"
)
NO_PRICE_AFTER = re.compile(
    r"\s*(?:(?:more|less|off|extra|higher|lower|each|apiece|per|an? (?:piece|day|week|month|year)|or (?:more|less|so))"
    r"(?!\w)|[+/])"
)
SENTENCE_END = re.compile(r"[.!;](?!\d)")
MONEY = ("", "$", "£", "€", "¥")
# "[accept] 120?" settles nothing, nor does "[accept] 120 but not today".
IS_ASKED = re.compile(r"[\s\])}>*_`\"]*\?")
NOT = re.compile(r"\W*(?:not|never)(?!\w)")
# What may stand between an offer inside a bracket and another price behind it: "[offer 120] or 130".
BETWEEN_PRICES = re.compile(r"(?:(?:or|and|to|no|wait|rather|maybe|make it|say)(?!\w)|[\W_])*")
# What may stand between an acceptance and the price that it names.
LEAD = re.compile(r"(?:(?:at|for|your|the|my|last|offer|price|deal|of|is|it)(?!\w)|[\s:=,@-])*")


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Action:
    """Return the one move of a message: offer (its price), accept (the price it names, or None), reject, or talk.

    The move is illegal, and of the kind "unclear" if even that is open, where the message has different ones.
    """
    if len(text) > MAX_CHARACTERS:
        return Action(kind="unclear", legal=False)
    text = text.translate(BRACKETS)
    moves = moves_in(text, KINDS)
    if not moves:
        return Action(kind="talk")
    kinds = {move.kind for move in moves}
    kind = kinds.pop() if len(kinds) == 1 else "unclear"
    if kind == "unclear" or _is_open(kind, moves):
        return Action(kind=kind, legal=False)
    prices = {_price_of(move) for move in moves}
    if len(prices) > 1 or (kind == "offer" and None in prices) or (kind != "reject" and any(map(_goes_on, moves))):
        return Action(kind=kind, legal=False)
    return Action(kind="unclear", legal=False) if is_denied(text, KINDS) else Action(kind=kind, value=prices.pop())


def price_in(argument: str) -> float | None:
    """Return the one price that an offer names; None: none, several, or a number that is not clearly a price."""
    numbers = numbers_in(argument)
    if len({number.value for number in numbers}) != 1 or len({number.unit for number in numbers} - {""}) > 1:
        return None
    if not all(_is_price(argument, number) for number in numbers):
        return None
    return _money(numbers[0].value)


def named_price(argument: str) -> float | None:
    """Return the price that stands right behind an acceptance, as in "[accept] for $120"."""
    lead = LEAD.match(plain(argument))
    numbers = numbers_in(argument)
    if lead is None or not numbers or numbers[0].start > lead.end():
        return None
    return _money(numbers[0].value)


def _price_of(move: Move) -> float | None:
    if move.kind == "reject":
        return None
    return price_in(move.argument) if move.kind == "offer" else named_price(move.argument)


def _is_open(kind: str, moves: Sequence[Move]) -> bool:
    """Whether what stands behind an answer makes it a condition or a question, changes its price or takes it back."""
    if kind == "offer":
        return False
    behind = [f"{move.argument} {move.behind}" for move in moves]
    return any(map(_leaves_open, behind)) or (kind == "accept" and any(map(_is_restricted, behind)))


def _leaves_open(argument: str) -> bool:
    first = SENTENCE_END.split(plain(argument), maxsplit=1)[0]
    price = numbers_in(argument)
    named = argument[price[0].end :] if named_price(argument) is not None else argument
    return has_condition(first) or bool(numbers_in(behind_but(first)) or IS_ASKED.match(named))


def _is_restricted(argument: str) -> bool:
    """Whether what stands behind an acceptance denies its price, or takes it back at once or behind a "but"."""
    first = SENTENCE_END.split(plain(argument), maxsplit=1)[0]
    denied = NOT.match(first)
    is_price_denied = denied is not None and named_price(first[denied.end() :]) is not None
    return is_price_denied or is_taken_back(argument) or is_taken_back(behind_but(first))


def _goes_on(move: Move) -> bool:
    """Whether what stands behind a price inside the bracket changes it: "[offer 120] 130", "[offer 20] % off"."""
    inside = numbers_in(move.argument)
    if not inside or not move.behind:
        return False
    whole = f"{move.argument} {move.behind}"
    numbers = numbers_in(whole)[len(inside) - 1 :]
    # Behind "[offer 120]" the word "hundredths" leaves no number at all.
    if not numbers or numbers[0].value != inside[-1].value or not _is_price(whole, numbers[0]):
        return True
    listed = itertools.takewhile(lambda pair: _is_next(whole, *pair), itertools.pairwise(numbers))
    return any(number.value != numbers[0].value for _, number in listed)


def _is_next(text: str, number: Number, other: Number) -> bool:
    return BETWEEN_PRICES.fullmatch(plain(text[number.end : other.start])) is not None


def _is_price(argument: str, number: Number) -> bool:
    before, after = plain(argument[: number.start]), plain(argument[number.end :])
    is_beside = NO_PRICE_BEFORE.search(before) or NO_PRICE_AFTER.match(after)
    return number.unit in MONEY and number.value > 0 and not is_beside


def _money(value: float) -> float:
    """Return an amount to the cent, without a point where there are no cents."""
    amount = round(value, 2)
    return int(amount) if amount == int(amount) else amount
