"""The filter language of page, terminal and export: `reward.question<1 & reason=turn_limit & text~"sorry"`.

A filter becomes SQL on the table of conversations of `selfplay.transcript_tables`.  docs/filters.md is its page.
What is compared with an unknown value is false, and `!` makes it true: nothing is neither.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfplay.dialog import REASONS_OF_STATUS, SPLITS, clean_text
from selfplay.errors import UserError

__all__ = ["NEWEST_FIRST", "OLDEST_FIRST", "Field", "Fields", "Filter", "Kind", "field_in_filter", "narrowed"]

# words: several names, each between SEPARATORs.  texts: what was said; briefs: what roles were told.
Kind = Literal["number", "text", "words", "truth", "texts", "briefs"]
Parameter = str | float

SEPARATOR = "\x1f"  # before and after each of several names
NEWEST_FIRST, OLDEST_FIRST = "newest", "oldest"  # sort keys that are no fields
NUM_NEAREST = 3
NUM_COMPARISONS, NUM_CHARACTERS, DEPTH = 200, 4000, 50  # at most; SQLite has limits of its own beyond
LETTERS_OF_TRIGRAM = 3
SIGNS = "& | ! ( ) , = < > ~"
OPERATORS = ("!=", "!~", "<=", ">=", "=", "<", ">", "~")
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
COMPARED = ("<", "<=", ">", ">=")
# Fields of which every value is known: another one would fit nothing, without a word.
CLOSED: Mapping[str, Sequence[str]] = {
    "split": SPLITS,
    "status": tuple(REASONS_OF_STATUS),
    "reason": tuple(sorted(set().union(*REASONS_OF_STATUS.values()))),
}
MEANS = {"number": "a number", "truth": "true or false"}
PLAIN_SQL: Mapping[str, tuple[Kind, str]] = {
    **{name: ("number", f"c.{name}") for name in ("turns", "tokens", "seconds", "step", "version", "seed")},
    **{name: ("number", f"c.{name}") for name in ("reward", "payoff", "advantage", "kl", "nll", "surprise")},
    **{name: ("number", f"c.{name}") for name in ("cut", "repeats")},
    **{name: ("text", f"c.{name}") for name in ("id", "env", "split", "scenario", "about", "status", "reason")},
    **{name: ("text", f"c.{name}") for name in ("by", "error")},
    "group": ("text", "c.group_id"),
    **{name: ("words", f"c.{name}s") for name in ("role", "player", "model", "flag", "tag")},
    **{name: ("truth", f"c.{name}") for name in ("protocol", "success", "labelled")},
    "text": ("texts", ""),
    "brief": ("briefs", "c.brief"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Something a conversation has: a number, a text, or several names."""

    name: str
    kind: Kind
    sql: str  # an expression on table `conversations c`; of texts and briefs, tables of their own are asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The fields of one run's conversations."""

    by_name: Mapping[str, Field] = field(default_factory=dict)
    has_trigrams: bool = False  # whether table `trigrams` finds text

    @classmethod
    def of(cls, numbers: Mapping[str, str], *, has_trigrams: bool, words: Mapping[str, str] | None = None) -> Fields:
        """Return the fields that every run has, and a run's own: name -> SQL.

        numbers: such as `reward.question`; words: such as `player.sender`.
        """
        plain = {name: Field(name=name, kind=kind, sql=sql) for name, (kind, sql) in PLAIN_SQL.items()}
        own = {name: Field(name=name, kind="number", sql=sql) for name, sql in numbers.items()}
        named = {name: Field(name=name, kind="words", sql=sql) for name, sql in (words or {}).items()}
        return cls(by_name={**plain, **own, **named}, has_trigrams=has_trigrams)

    def with_meaning(self, names: Mapping[str, str]) -> Fields:
        """Return the same fields, of which some mean another's value: ``{"payoff": "payoff.buyer"}``."""
        meant = {name: replace(self.field(name), sql=self.field(other).sql) for name, other in names.items()}
        return replace(self, by_name={**self.by_name, **meant})

    def field(self, name: str) -> Field:
        """Return a field; raises UserError with the nearest ones."""
        if name not in self.by_name:
            raise UserError(f"unknown field {name!r}; {_nearest(name, list(self.by_name))}")
        return self.by_name[name]

    def sort_keys(self) -> list[str]:
        """Return what conversations can be sorted by."""
        numbers = [name for name, one in self.by_name.items() if one.kind == "number"]
        return [NEWEST_FIRST, OLDEST_FIRST, *numbers]

    def sort_sql(self, key: str) -> str:
        """Return the number that a key sorts by, as SQL, "" for newest and oldest; UserError: no such key."""
        if key in (NEWEST_FIRST, OLDEST_FIRST):
            return ""
        if key not in self.sort_keys():
            raise UserError(f"nothing is sorted by {key!r}; {_nearest(key, self.sort_keys())}")
        return self.by_name[key].sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which conversations somebody wants."""

    text: str  # as it was written
    where: str  # SQL on table `conversations c`
    parameters: tuple[Parameter, ...] = ()
    names: frozenset[str] = frozenset()  # of the fields that it compares

    @classmethod
    def parse(cls, text: str, fields: Fields) -> Filter:
        """Read a filter; an empty one wants everything.  Raises UserError: what is wrong, and where."""
        if len(text) > NUM_CHARACTERS:
            raise UserError(f"a filter has at most {NUM_CHARACTERS} characters, this one {len(text)}")
        tokens = list(_tokens(clean_text(text)))
        if not tokens:
            return cls(text=text, where="1")
        return _Parser(text, tokens, fields).filter()


def narrowed(text: str, more: str, fields: Fields) -> str:
    """Return a filter that wants what fits two; raises UserError if the first is none by itself.

    Without that look, "reward>3) | (reward<0" would open what the second one closes.
    """
    Filter.parse(text, fields)
    return more if not text.strip() else f"({text}) & ({more})"


def field_in_filter(name: str) -> str:
    """Return a field's name as a filter writes it: quoted after its first dot where that is needed."""
    if WORD.fullmatch(name):
        return name
    family, _, rest = name.partition(".")
    escaped = rest.replace("\\", "\\\\").replace('"', '\\"')
    return f'{family}."{escaped}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: Literal["word", "quoted", "operator"]
    text: str
    is_after_space: bool


WORD = re.compile(r"""[^\s&|()!=<>~,"']+""")
TOKEN = re.compile(
    r"""(?P<operator>!=|!~|<=|>=|[=<>~&|()!,])
      | "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>(?:[^'\\]|\\.)*)'
      | (?P<word>(?:[^\s&|()!=<>~,"]|!(?![=~]))+)""",
    re.VERBOSE | re.DOTALL,
)


def _tokens(text: str) -> Iterator[_Token]:
    place, is_after_space = 0, True
    while place < len(text):
        if text[place].isspace():
            place, is_after_space = place + 1, True
            continue
        found = TOKEN.match(text, place)
        if found is None:
            raise UserError(f"filter {text!r}: the quote at {text[place:]!r} is never closed")
        group = str(found.lastgroup)
        if group in ("double", "single"):
            written = re.sub(r"\\(.)", r"\1", found[group], flags=re.DOTALL)
            yield _Token(kind="quoted", text=written, is_after_space=is_after_space)
        else:
            kind: Literal["word", "operator"] = "word" if group == "word" else "operator"
            yield _Token(kind=kind, text=found[group], is_after_space=is_after_space)
        place, is_after_space = found.end(), False


class _Parser:
    """Recursive descent: `|` binds least, then `&` or nothing at all between two, then `!`."""

    def __init__(self, text: str, tokens: Sequence[_Token], fields: Fields) -> None:
        self._text = text
        self._tokens = tokens
        self._fields = fields
        self._place = 0
        self._depth = 0
        self._num_comparisons = 0
        self._parameters: list[Parameter] = []
        self._names: set[str] = set()

    def filter(self) -> Filter:
        where = self._either()
        if self._place < len(self._tokens):
            raise self._error(f"{self._here()!r} is not expected here; quote text that holds one of {SIGNS}")
        return Filter(text=self._text, where=where, parameters=tuple(self._parameters), names=frozenset(self._names))

    def _either(self) -> str:
        found = [self._both()]
        while self._takes("|"):
            found.append(self._both())
        return found[0] if len(found) == 1 else f"({' OR '.join(found)})"

    def _both(self) -> str:
        found = [self._one()]
        while self._takes("&") or self._here() == "(" or self._here() == "!" or self._is_word():
            found.append(self._one())
        return found[0] if len(found) == 1 else f"({' AND '.join(found)})"

    def _one(self) -> str:
        self._depth += 1
        if self._depth > DEPTH:
            raise self._error(f"it is nested more than {DEPTH} deep")
        found = self._negated_or_comparison()
        self._depth -= 1
        return found

    def _negated_or_comparison(self) -> str:
        if self._takes("!"):
            return f"NOT {self._one()}"
        if self._takes("("):
            found = self._either()
            if not self._takes(")"):
                raise self._error("a parenthesis is never closed")
            return f"({found})"
        if not self._is_word():
            after = f" after {self._tokens[self._place - 1].text!r}" if self._place else ""
            raise self._error(f"a field or a word is missing{after}")
        return self._comparison()

    def _comparison(self) -> str:
        self._num_comparisons += 1
        if self._num_comparisons > NUM_COMPARISONS:
            raise self._error(f"it compares more than {NUM_COMPARISONS} times")
        token = self._next()
        name = token.text
        if token.kind == "word" and name.endswith(".") and self._is_word(kind="quoted", is_near=True):
            name += self._next().text
        operator = self._here()
        if operator not in OPERATORS:
            return self._said(token.text)
        one = self._fields.field(name)
        self._names.add(name)
        self._next()
        return self._compared(one, operator, self._values(one, operator))

    def _values(self, one: Field, operator: str) -> list[str | None]:
        """Return what a field is compared with; None: null."""
        values: list[str | None] = []
        while True:
            if not self._is_word():
                raise self._error(f"a value is missing after {one.name}{operator}")
            token = self._next()
            values.append(None if token.kind == "word" and token.text == "null" else token.text)
            if not self._takes(","):
                break
        if operator not in ("=", "!=") and (len(values) > 1 or None in values):
            raise self._error(f"{one.name}{operator} takes one value; lists and null go with = and !=")
        return values

    def _compared(self, one: Field, operator: str, values: Sequence[str | None]) -> str:
        if operator in ("!=", "!~"):
            return f"NOT {self._compared(one, operator[1:], values)}"
        if one.kind == "texts":
            if operator != "~" or values[0] is None:
                raise self._error('what was said is searched with ~, as in text~"sorry"')
            return self._said(values[0])
        ways: Mapping[Kind, Callable[[Field, str, Sequence[str | None]], str]] = {
            "number": self._number,
            "truth": self._truth,
        }
        if one.kind in ways:
            return ways[one.kind](one, operator, values)
        if operator in COMPARED:
            raise self._error(f"{one.name} is text: compare it with =, !=, ~ or !~")
        if operator == "=" and one.name in CLOSED:
            values = [value and self._known(one.name, value) for value in values]
        found = [f"({self._same(one, operator, value)}) IS TRUE" for value in values]
        return f"({' OR '.join(found)})"

    def _known(self, name: str, value: str) -> str:
        """Return the value of a field that can have few, written as people read it ("turn limit") or as it is."""
        written = value.lower().replace(" ", "_")
        if written not in CLOSED[name]:
            raise self._error(f"there is no {name} {value!r}; {_nearest(value, CLOSED[name])}")
        return written

    def _number(self, one: Field, operator: str, values: Sequence[str | None]) -> str:
        if operator == "~":
            raise self._error(f"{one.name} is a number: compare it with =, !=, <, <=, > or >=")
        found = []
        for value in values:
            if value is None:
                found.append(f"{one.sql} IS NULL")
                continue
            self._parameters.append(self._as_number(one, value))
            found.append(f"({one.sql} {operator} ?) IS TRUE")
        return f"({' OR '.join(found)})"

    def _as_number(self, one: Field, value: str) -> float:
        if WHOLE_NUMBER.fullmatch(value):
            return int(value)
        if not NUMBER.fullmatch(value) or not math.isfinite(float(value)):
            raise self._error(f"{one.name} is {MEANS['number']}, and {value!r} is none")
        return float(value)

    def _truth(self, one: Field, operator: str, values: Sequence[str | None]) -> str:
        if operator != "=":
            raise self._error(f"{one.name} is {MEANS['truth']}: compare it with = or !=")
        found = []
        for value in values:
            if value not in ("true", "false", None):
                raise self._error(f"{one.name} is {MEANS['truth']}, not {value!r}")
            found.append(f"{one.sql} IS {(value or 'null').upper()}")
        return f"({' OR '.join(found)})"

    def _same(self, one: Field, operator: str, value: str | None) -> str:
        """Return whether a text is, or contains, another; a large letter is the same as a small one."""
        if value is None:
            nothing = {"words": f"{one.sql} = ''", "briefs": f"{one.sql} IS NULL"}
            return nothing.get(one.kind, f"{one.sql} IS NULL")
        lowered = value.lower()
        if one.kind == "briefs":
            self._parameters.append(lowered)
            test = "text = ?" if operator == "=" else "instr(text, ?)"
            return f"{one.sql} IN (SELECT number FROM briefs WHERE {test})"
        # SQLite's own lower() knows ASCII only, and is faster.
        folded = f"lower({one.sql})" if lowered.isascii() else f"folded({one.sql})"
        if one.kind == "words" and operator == "=":
            lowered = f"{SEPARATOR}{lowered}{SEPARATOR}"
        elif operator == "=":
            self._parameters.append(lowered)
            return f"{folded} = ?"
        self._parameters.append(lowered)
        return f"instr({folded}, ?)"

    def _said(self, text: str) -> str:
        lowered = text.lower().replace("\0", " ")  # as the index keeps it
        if self._fields.has_trigrams and len(lowered) >= LETTERS_OF_TRIGRAM:
            self._parameters.append('"' + lowered.replace('"', '""') + '"')
            return "c.number IN (SELECT rowid FROM trigrams WHERE trigrams MATCH ?)"
        self._parameters.append(lowered)
        return "c.number IN (SELECT number FROM texts WHERE instr(text, ?))"

    def _here(self) -> str:
        """Return the operator that comes next, or what else stands there."""
        if self._place == len(self._tokens):
            return ""
        token = self._tokens[self._place]
        return token.text if token.kind == "operator" else ""

    def _is_word(self, *, kind: str = "", is_near: bool = False) -> bool:
        if self._place == len(self._tokens):
            return False
        token = self._tokens[self._place]
        return token.kind != "operator" and kind in ("", token.kind) and not (is_near and token.is_after_space)

    def _takes(self, operator: str) -> bool:
        is_here = self._here() == operator
        self._place += is_here
        return is_here

    def _next(self) -> _Token:
        self._place += 1
        return self._tokens[self._place - 1]

    def _error(self, what: str) -> UserError:
        return UserError(f"filter {self._text!r}: {what}")


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=NUM_NEAREST, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(names)}"
