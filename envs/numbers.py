"""The numbers that a text says, in digits and in words, with their currencies.

The reading never chooses between two meanings.  What could be read in two ways ("twelve-fifty", "1.200", "10-20")
gives its parts as separate numbers, and what is no amount at all ("120th", "B52", "hundreds") gives none.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

from envs.reading import QUOTES

UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SMALL_NUMBERS = (*UNITS, *TEENS)  # each at the place that it names
SCALES = {"dozen": 12, "score": 20, "thousand": 1000, "grand": 1000, "million": 1_000_000}
SCALES |= {f"{word}s": value for word, value in SCALES.items() if word != "grand"}
HUNDREDS = ("hundred", "hundreds")
CARDINALS: dict[str, tuple[str, int]] = {  # word -> its kind and value
    **{word: ("unit" if value < 10 else "teen", value) for value, word in enumerate(SMALL_NUMBERS)},
    **{word: ("tens", value) for value, word in zip(range(20, 100, 10), TENS, strict=True)},
    "fourty": ("tens", 40),
    **dict.fromkeys(HUNDREDS, ("hundred", 100)),
    **{word: ("scale", value) for word, value in SCALES.items()},
}
FOLLOWS = {  # kind -> what may stand behind it in one number; "" is the beginning
    "": ("unit", "teen", "tens"),
    "unit": ("hundred", "scale"),
    "teen": ("hundred", "scale"),
    "tens": ("unit", "hundred", "scale"),
    "hundred": ("unit", "teen", "tens", "scale"),
    "scale": ("unit", "teen", "tens"),
}
CURRENCIES = {
    "$": ("$", "us$", "usd", "dollar", "dollars", "buck", "bucks"),
    "£": ("£", "gbp", "pound", "pounds", "quid"),
    "€": ("€", "eur", "euro", "euros"),
    "¥": ("¥", "jpy", "yen"),
    "¢": ("¢", "cent", "cents"),
    "%": ("%", "percent", "per cent"),
}
UNIT_OF = {name: unit for unit, names in CURRENCIES.items() for name in names}
MAX_CHARACTERS = 15  # of one amount in digits; a float holds as many digits exactly
LOOK_BEHIND = 40  # characters before a number that its reading looks at

END = r"(?![^\W_])"  # no letter and no digit follows
START = r"(?<![^\W_])"
SIGNS = "$£€¥"
JOINTS = r".,'/:_\u2010-\u2015\u2212-"
# A run of letters and digits; points, dashes and the like belong to it between two digits only.
BLOB = re.compile(rf"[^\W_]+(?:(?<=\d)[{JOINTS}](?=\d)[^\W_]+)*")
JOINT = re.compile(rf"[{JOINTS}]")
AMOUNT = re.compile(r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<decimals>\d+))?(?P<suffix>[a-z]*)")
POINT_BEFORE = re.compile(r"(?:^|[^\w.])\.$")  # ".50" may be half a dollar, or fifty behind a full stop
SIGN_BEFORE = re.compile(rf"(?:(?:^|\W)[-\u2212](?:[{SIGNS}][ \t]?)?|{START}(?:minus|negative)[ \t]+[{SIGNS}]?)$")
UNIT_BEFORE = re.compile(rf"(?:{START}(?:us\$|usd|gbp|eur|jpy)|[{SIGNS}])[ \t]?$")
_UNIT_NAMES = "|".join(map(re.escape, sorted(UNIT_OF, key=len, reverse=True)))
UNIT_AFTER = re.compile(rf"[ \t-]?(?P<unit>{_UNIT_NAMES}){END}")
SCALE_AFTER = re.compile(rf"[ \t-]?(?P<scale>k|{'|'.join([*HUNDREDS, *SCALES])}){END}")
_WORD = rf"(?:{'|'.join(sorted(CARDINALS, key=len, reverse=True))})(?![^\W_]|'[a-z])"
WORD = re.compile(_WORD)
# Number words that only a space, a hyphen, or an "and" behind a hundred or a thousand divides.
AND = re.compile(r"(?:[ \t]+|-)and(?:[ \t]+|-)")
RUN = re.compile(
    rf"{START}(?P<article>a[ \t]+(?=(?:hundred|dozen|thousand|million){END}))?"
    rf"{_WORD}(?:(?:(?:(?<=hundred)|(?<=thousand)|(?<=million))[ \t-]and[ \t-]|[ \t]+|-){_WORD})*"
)
POSSESSIVE = re.compile(r"'[a-z]")
PARTS = (  # ordinals that also name a part
    "third|quarter|half|halve|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth"
    "|(?:thir|four|fif|six|seven|eigh|nine)teenth|(?:twen|thir|for|fif|six|seven|eigh|nine)tieth|hundredth|thousandth"
)
ORDINAL_AFTER = re.compile(rf"[ \t-]+(?:and[ \t-]+)?(?:first|second|{PARTS})s?{END}")
PART_AFTER = re.compile(rf"[ \t-]+(?:(?:{PARTS})s?|tens){END}")
POINT_WORD_BEFORE = re.compile(rf"[ \t-]*{START}point[ \t-]+$")
HALF_AFTER = re.compile(rf"[ \t-]+and[ \t-]+(?:a|one)[ \t-]+(?P<half>half){END}")
# "half 120", "a third of 120", "\u00bd 120" and "120 \u00bd"; "the third, 120" counts offers.
FRACTION_SIGNS = "\u00bc-\u00be\u2150-\u215e"
HALF_BEFORE = re.compile(
    rf"(?P<half>{START}(?:half|(?:{PARTS})s?(?=[ \t-]+of[ \t-]))|[{FRACTION_SIGNS}])"
    r"(?:[ \t-]+(?:of|a|an|the|my|your))*[ \t-]*$"
)
SIGN_AFTER = re.compile(rf"[ \t-]+(?P<half>[{FRACTION_SIGNS}])")
# "this one", "the red one" and "one of them" point at something; "number one" and "the price is one" count.
ONE_POINTS_BEFORE = re.compile(
    rf"{START}(?:the|this|that|these|those|which|no|any|some|every|each|another|other|a|an|my|your)[ \t-]+"
    rf"(?:(?!(?:number|option|item|choice|row|line|price|is){END})[^\W_]+[ \t-]+)?$"
)
ONE_POINTS_AFTER = re.compile(rf"[ \t]+(?:of|another){END}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number of a text.

    Example: "I can do $1.2k." has ``Number(value=1200.0, start=9, end=14, unit="$")``
    """

    value: float
    start: int  # where it begins in the text, with its sign of currency
    end: int  # where the text behind it begins
    unit: str  # "$", "£", "€", "¥", "¢", "%", or "" for a bare number


@functools.lru_cache(maxsize=4096)
def numbers_in(text: str) -> tuple[Number, ...]:
    """Return the numbers of a text, in order.

    Read are "1,200.50", "1.2k", "$120", "120 dollars", "£80", digits of any script, "one hundred and twenty", "a
    hundred", "2 hundred", "four score" and "no. 3".  Ordinals ("first", "3rd") and parts ("120 hundredths") are no
    numbers, nor is "half"; beside a number ("two and a half", "half of 80", "a third of 90", "½ 80") it is a second
    one, 0.5 whatever the part, since the text then means another amount than the number says.  "point five" and ".5"
    are no numbers, and "three point five" is two.
    "one" behind "this", "the red" and their like is no number either.
    """
    line, places = _plain(text)
    digits = tuple(_in_digits(line))
    # "hundred" belongs to the digits in "2 hundred and fifty".
    taken = {place for number in digits for place in range(number.start, number.end)}
    words = tuple(number for number in _in_words(line) if number.start not in taken)
    ends = {number.end for number in digits} | {number.end for number in words}
    numbers = [number for number in (*digits, *words) if not _is_decimals(line, number, ends)]
    halves = {half.start: half for number in numbers for half in _halves(line, number)}
    found = list(_apart(sorted([*numbers, *halves.values()], key=lambda number: number.start)))
    if places is None:
        return tuple(found)
    return tuple(replace(number, start=places[number.start], end=places[number.end]) for number in found)


def only_number(text: str) -> float | None:
    """Return the one number of a text, however often it says it; None: there is none, or there are different ones."""
    numbers = numbers_in(text)
    values, units = {number.value for number in numbers}, {number.unit for number in numbers if number.unit}
    return values.pop() if len(values) == 1 and len(units) <= 1 else None


def _apart(numbers: Iterable[Number]) -> Iterator[Number]:
    """Yield the numbers, the sign between two of them as a part of the first alone."""
    end = 0
    for number in numbers:
        yield replace(number, start=max(number.start, end))
        end = number.end


def _plain(text: str) -> tuple[str, list[int] | None]:
    """Return the text in one form and, unless they all stayed, the places its characters come from."""
    if text.isascii():
        return text.lower(), None
    pieces = [_plain_character(character) for character in text]
    places = [place for place, piece in enumerate(pieces) for _ in piece]
    return "".join(pieces), [*places, len(text)]


@functools.lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    # A raised digit or a fraction would stick to the digits before it: 10 squared is not 102.
    if unicodedata.decomposition(character).startswith(("<super>", "<sub>", "<fraction>")):
        return character
    decimal = unicodedata.decimal(character, None)
    if decimal is not None:
        return str(decimal)
    return unicodedata.normalize("NFKC", character).translate(QUOTES).casefold()


def _in_digits(line: str) -> Iterator[Number]:
    for match in BLOB.finditer(line):
        blob, start = match[0], match.start()
        if not any(map(str.isdigit, blob)) or POINT_BEFORE.search(line[max(0, start - 2) : start]):
            continue
        parts = [blob] if _is_one_amount(blob) else JOINT.split(blob)
        starts = itertools.accumulate((len(part) + 1 for part in parts), initial=start)
        amounts = [_amount(part, start=place) for part, place in zip(parts, starts, strict=False)]
        # One part that is no amount spoils them all: "v1.2.3", "10-20th".
        known = [amount for amount in amounts if amount is not None]
        for amount in known if len(known) == len(amounts) else ():
            yield from _completed(line, amount)


def _is_one_amount(blob: str) -> bool:
    match = AMOUNT.fullmatch(blob)
    if match is None:
        return False
    # "1.200" is a thousand and two hundred in much of the world.
    return len(match["decimals"] or "") != 3 or "," in match["whole"] or match["whole"] == "0"


def _amount(part: str, *, start: int) -> Number | None:
    match = AMOUNT.fullmatch(part)
    if match is None or len(part) > MAX_CHARACTERS:
        return None
    suffix = match["suffix"]
    if suffix not in ("", "k") and suffix not in UNIT_OF:
        return None
    value = float(f"{match['whole'].replace(',', '')}.{match['decimals'] or 0}")
    value = round(value * 1000, 6) if suffix == "k" else value
    return Number(value=value, start=start, end=start + len(part), unit=UNIT_OF.get(suffix, ""))


def _completed(line: str, number: Number) -> Iterator[Number]:
    """Yield the amount with the scale and the unit around it; nothing for "2 thirds" and the "80's"."""
    if PART_AFTER.match(line, number.end) or POSSESSIVE.match(line, number.end):
        return
    if scale := SCALE_AFTER.match(line, number.end):
        factor = {"k": 1000, **dict.fromkeys(HUNDREDS, 100), **SCALES}[scale["scale"]]
        number = replace(number, value=round(number.value * factor, 6), end=scale.end())
    yield _with_unit(line, number)


def _with_unit(line: str, number: Number) -> Number:
    value, start, end, unit = number.value, number.start, number.end, number.unit
    before = line[max(0, start - LOOK_BEHIND) : start]
    if SIGN_BEFORE.search(before):
        value = -value
    if sign := UNIT_BEFORE.search(before):
        unit = unit or UNIT_OF[sign[0].strip()]
        start -= len(sign[0])
    if name := UNIT_AFTER.match(line, end):
        unit = unit or UNIT_OF[name["unit"]]
        end = name.end()
    return Number(value=value, start=start, end=end, unit=unit)


def _in_words(line: str) -> Iterator[Number]:
    for run in RUN.finditer(line):
        if ORDINAL_AFTER.match(line, run.end()) or _points(line, run):
            continue
        if (value := _value(run[0])) is not None:
            yield _with_unit(line, Number(value=value, start=run.start(), end=run.end(), unit=""))
        else:
            yield from _pieces(line, run)


def _points(line: str, run: re.Match[str]) -> bool:
    before = line[max(0, run.start() - LOOK_BEHIND) : run.start()]
    return run[0] == "one" and bool(ONE_POINTS_BEFORE.search(before) or ONE_POINTS_AFTER.match(line, run.end()))


def _value(run: str) -> float | None:
    """Return the number that words say together; None: they are not one number."""
    total, current, kind, scale = 0, 0, "", float("inf")
    if run.startswith(("a ", "a\t")):
        current, kind = 1, "unit"
    for word in WORD.findall(run):
        before, (kind, value) = kind, CARDINALS[word]
        if kind not in FOLLOWS[before] or (value == 0 and before) or (kind in ("hundred", "scale") and not current):
            return None
        if kind == "hundred" and current < 100:
            current *= value
        elif kind == "scale" and value < scale:
            total, current, scale = total + current * value, 0, value
        elif kind in ("hundred", "scale"):
            return None
        else:
            current += value
    return float(total + current)


def _pieces(line: str, run: re.Match[str]) -> Iterator[Number]:
    """Yield "two hundred" and "three hundred" of a run that joins them, or else each word by itself."""
    start = run.start()
    for piece in [*AND.finditer(line, run.start(), run.end()), None]:
        end = run.end() if piece is None else piece.start()
        value = _value(line[start:end])
        if value is not None:
            yield _with_unit(line, Number(value=value, start=start, end=end, unit=""))
        elif len(words := list(WORD.finditer(line, start, end))) > 1:
            yield from (_of_word(word) for word in words)
        start = end if piece is None else piece.end()


def _of_word(word: re.Match[str]) -> Number:
    return Number(value=float(CARDINALS[word[0]][1]), start=word.start(), end=word.end(), unit="")


def _is_decimals(line: str, number: Number, ends: Set[int]) -> bool:
    """Whether a number stands behind a "point" that no number stands before."""
    offset = max(0, number.start - LOOK_BEHIND)
    point = POINT_WORD_BEFORE.search(line[offset : number.start])
    return point is not None and offset + point.start() not in ends


def _halves(line: str, number: Number) -> Sequence[Number]:
    offset = max(0, number.start - LOOK_BEHIND)
    found = (
        (0, HALF_AFTER.match(line, number.end) or SIGN_AFTER.match(line, number.end)),
        (offset, HALF_BEFORE.search(line[offset : number.start])),
    )
    return [
        Number(value=0.5, start=place + match.start("half"), end=place + match.end("half"), unit="")
        for place, match in found
        if match is not None
    ]
