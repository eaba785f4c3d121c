"""What a haggler's message says: its one move, and the price in it."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from envs.numbers import Number, numbers_in
from envs.reading import Move, moves_in, plain
from selfplay.dialog import Action

KINDS = ("offer", "accept", "reject")
MAX_CHARACTERS = 2000  # a longer message is no offer that anybody would read
# Wide and heavy brackets are brackets.
BRACKETS = str.maketrans("［］【】〔〕｛｝（）＜＞：", "[][][]{}()<>:")  # noqa: RUF001
_MOVE = rf"[\s*_`\"]*[\[(<{{]\s*(?:{'|'.join(KINDS)})(?![^\W_])"
_ANSWER = r"[\s*_`\"]*[\[(<{]\s*(?:accept|reject)(?![^\W_])"
# "I can't [accept] that" and "will you [accept]?" say the word and do not make the move.
NOT_MEANT = re.compile(
    rf"(?:(?<!\w)(?:not|never|cannot|cant|wont|dont)|n't){_MOVE}"
    rf"|(?<!\w)(?:(?:can|could|will|would|do|did|should|if|when) you){_MOVE}"
    rf"|(?<!\w)(?:please|you (?:can|could|may|must|should|will|would)){_ANSWER}"
)
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
# "[accept] if you go to 50", "[reject] unless ..." and "[accept]?" settle nothing, and "[accept] not" takes it back.
IS_OPEN = re.compile(r"(?<!\w)(?:if|unless|only|except|but|provided|not|never)(?!\w)")
IS_ASKED = re.compile(r"[\s\])}>*_`\"]*\?")
# What may stand between an acceptance and the price that it names.
LEAD = re.compile(r"(?:(?:at|for|your|the|my|last|offer|price|deal|of|is|it)(?!\w)|[\s:=,@-])*")


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Action:
    """Return the one move of a message: offer (its price), accept (the price it names, or None), reject, or talk.

    The move is illegal, and of the kind "unclear" if even that is open, where the message has different ones.
    """
    if len(text) > MAX_CHARACTERS:
        return Action(kind="unclear", legal=False)
    moves = moves_in(text.translate(BRACKETS), KINDS)
    if not moves:
        return Action(kind="talk")
    kinds = {move.kind for move in moves}
    if len(kinds) > 1 or NOT_MEANT.search(plain(text)):
        return Action(kind="unclear", legal=False)
    kind = kinds.pop()
    if kind == "reject" or _is_open(kind, moves):
        return Action(kind=kind, legal=not _is_open(kind, moves))
    prices = {price_in(move.argument) if kind == "offer" else named_price(move.argument) for move in moves}
    if len(prices) > 1 or (kind == "offer" and None in prices):
        return Action(kind=kind, legal=False)
    return Action(kind=kind, value=prices.pop())


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


def _is_open(kind: str, moves: Sequence[Move]) -> bool:
    """Whether what stands behind an answer makes it a condition or a question, or takes it back."""
    return kind != "offer" and any(_leaves_open(move.argument) for move in moves)


def _leaves_open(argument: str) -> bool:
    first = SENTENCE_END.split(plain(argument), maxsplit=1)[0]
    price = numbers_in(argument)
    named = argument[price[0].end :] if named_price(argument) is not None else argument
    return bool(IS_OPEN.search(first) or IS_ASKED.match(argument) or IS_ASKED.match(named))


def _is_price(argument: str, number: Number) -> bool:
    before, after = plain(argument[: number.start]), plain(argument[number.end :])
    is_beside = NO_PRICE_BEFORE.search(before) or NO_PRICE_AFTER.match(after)
    return number.unit in MONEY and number.value > 0 and not is_beside


def _money(value: float) -> float:
    """Return an amount to the cent, without a point where there are no cents."""
    amount = round(value, 2)
    return int(amount) if amount == int(amount) else amount
