"""The configuration of a stored run, read to be shown: whatever the file says, this ends soon and stays small.

YAML can repeat a value without end in a few lines, and nest until the parser's stack is used up.  Here values are put
together from the parser's events, so both are noticed while they are small; keys are not merged in (`<<`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selfplay.run_folder import CONFIG

__all__ = ["MOST_BYTES", "config_from_text", "read_stored_config"]

MOST_BYTES = 256_000  # a configuration of every setting has a few thousand
MOST_DEPTH = 50  # of lists and mappings within each other
MOST_REPEATED = 50_000  # values that aliases stand for, written out
MOST_DIGITS = 400  # of a number; longer ones are larger than any floating-point number
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast, and not everywhere
RESOLVER, CONSTRUCTOR = yaml.resolver.Resolver(), yaml.constructor.SafeConstructor()
MERGE = "<<"
KIND = re.compile(r"tag:yaml\.org,2002:(null|bool|int|float)")


def read_stored_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run folder as `config_from_text` does; empty if it cannot be read."""
    path = folder / CONFIG
    try:
        if not path.is_file():  # a pipe would never end
            return {}
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    return config_from_text(text)


def config_from_text(text: str) -> dict[str, Any]:
    """Return what a YAML mapping says as JSON could: text, finite numbers, truth, null, lists and mappings.

    Of what cannot be read to its end, these are the keys before that.  null stands for a number that is not finite,
    and for an alias of what is too large, or is not finished yet.
    """
    tree = _Tree()
    try:
        for event in yaml.parse(text[:MOST_BYTES], Loader=LOADER):
            tree.take(event)
    except (yaml.YAMLError, _EndError, RecursionError, ValueError):
        pass
    return tree.root


class _EndError(Exception):
    """What follows is not read."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A finished value, and what it would be written out."""

    value: Any
    size: int = 1  # values in it, itself among them
    depth: int = 0  # of lists and mappings in it


NOTHING = _Value(None)


class _Open:
    """A list or mapping that is being read."""

    def __init__(self, *, is_mapping: bool, anchor: str | None) -> None:
        self.value: Any = {} if is_mapping else []
        self.anchor = anchor
        self.size, self.depth = 1, 1
        self._is_mapping = is_mapping
        self._key: str | None = None
        self._has_key = False

    def add(self, one: _Value, *, key: str | None) -> None:
        """Take the next item; of a mapping, keys and values in turn.  key: the text of a scalar."""
        if not self._is_mapping:
            self.value.append(one.value)
        elif not self._has_key:
            self._has_key, self._key = True, key
            return
        else:
            # A key that is a list or a mapping is no setting.
            if self._key is not None and self._key != MERGE:
                self.value[self._key] = one.value
            self._has_key = False
        self.size += one.size
        self.depth = max(self.depth, 1 + one.depth)


class _Tree:
    """What the events so far say."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}
        self._open: list[_Open] = []
        self._anchors: dict[str, _Value] = {}
        self._num_repeated = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event; raises _EndError where reading should end."""
        if isinstance(event, yaml.ScalarEvent):
            self._add(_Value(_value_of_scalar(event)), key=event.value, anchor=event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._repeated(str(event.anchor)))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(_Open(is_mapping=isinstance(event, yaml.MappingStartEvent), anchor=event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._open.pop()
            self._add(_Value(done.value, done.size, done.depth), anchor=done.anchor)
        elif isinstance(event, yaml.DocumentEndEvent):
            raise _EndError  # the first document is the configuration

    def _start(self, one: _Open) -> None:
        if len(self._open) >= MOST_DEPTH:
            raise _EndError
        if not self._open and isinstance(one.value, dict):
            self.root = one.value
        self._open.append(one)

    def _repeated(self, anchor: str) -> _Value:
        """Return what an anchor named; nothing if that is still open, or too large to be written out once more."""
        named = self._anchors.get(anchor, NOTHING)
        if self._num_repeated + named.size > MOST_REPEATED or len(self._open) + named.depth > MOST_DEPTH:
            return NOTHING
        self._num_repeated += named.size
        return named

    def _add(self, one: _Value, *, key: str | None = None, anchor: str | None = None) -> None:
        if anchor is not None:
            self._anchors[anchor] = one
        if self._open:
            self._open[-1].add(one, key=key)


def _value_of_scalar(event: yaml.ScalarEvent) -> str | int | float | None:
    """Return text, or what plain text stands for; dates stay text, as does a number that is none after all."""
    # The stubs leave this one method out.
    tag = event.tag or RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
    kind = KIND.fullmatch(tag)
    if kind is None:
        return event.value
    if kind[1] == "null" or len(event.value) > MOST_DIGITS:
        return None
    try:
        value = getattr(CONSTRUCTOR, f"construct_yaml_{kind[1]}")(yaml.ScalarNode(tag, event.value))
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number that is larger than any other
        return None
    except (ValueError, KeyError):
        return event.value
