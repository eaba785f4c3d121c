"""Where a proof stands, what its errors say, and calling a plug-in so that it cannot hide a fault."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from selfplay.dialog import Conversation, Turn, clean_text
from selfplay.interfaces import PluginError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where a proof stands, for its message.

    Example: ``Spot(plugin="env 'taboo'", seed=17, split="train", turn=3)``
    """

    plugin: str  # kind and name
    seed: int | None = None  # the scenario's; None: not about one scenario
    split: str = ""  # the scenario's; "": not about one scenario
    turn: int | None = None  # turns spoken before the call, or the index of the turn asked about

    def at(self, conversation: Conversation) -> Spot:
        """Return the spot after the turns of a conversation."""
        scenario = conversation.scenario
        return replace(self, seed=scenario.seed, split=scenario.split, turn=conversation.num_turns)

    def broken(self, method: str, problem: str, right: str) -> PluginError:
        """Return the error to raise."""
        known = {"seed": self.seed, "split": self.split or None, "turn": self.turn}
        where = ", ".join(f"{word} {value}" for word, value in known.items() if value is not None)
        return PluginError(f"{self.plugin}: {method} {problem}{f' ({where})' if where else ''}; {right}")


def plugin_label(plugin: object, kind: str) -> str:
    """Return the kind and name of a plug-in: "env 'taboo'"."""
    name = getattr(plugin, "name", None)
    return f"{kind} {name!r}" if isinstance(name, str) and name else f"{kind} {type(plugin).__name__}"


def check_attributes(plugin: object, protocol: type, kind: str) -> None:
    """Raise PluginError for the first thing of the protocol that the plug-in lacks."""
    for name in vars(protocol):
        if not name.startswith("_") and not hasattr(plugin, name):
            spot = Spot(plugin=plugin_label(plugin, kind))
            raise spot.broken(name, "is missing", f"see selfplay.interfaces.{protocol.__name__}")


def call(spot: Spot, method: str, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a method; whatever it raises becomes a PluginError."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        one_line = " ".join(f"{type(error).__name__}: {error}".split())
        raise spot.broken(method, f"raised {one_line}", "it must accept this") from error


def call_twice(spot: Spot, method: str, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call twice, the second time with copies: the answers must be the same and the arguments untouched."""
    # A pickle is an exact snapshot to compare with, and the source of the copies.
    before = _snapshot(arguments)
    answer = call(spot, method, function, *arguments)
    if _snapshot(arguments) != before:
        raise spot.broken(method, "changed what it was given", "it must only read it")
    again = call(spot, method, function, *_copied(arguments, before))
    if plain_value(again) != plain_value(answer):
        problem = f"returned {_short(again)} the second time, {_short(answer)} the first"
        raise spot.broken(method, problem, "it must depend on its arguments only")
    return answer


class _Pickler(pickle.Pickler):
    """Leaves out turns in which nothing can change: otherwise a proof takes the square of a game's turns."""

    def persistent_id(self, value: Any) -> int | None:
        return id(value) if type(value) is Turn and _is_constant(value) else None


class _Unpickler(pickle.Unpickler):
    """Puts the turns that were left out back, as they are."""

    def __init__(self, stream: io.BytesIO, arguments: Sequence[Any]) -> None:
        super().__init__(stream)
        conversations = (value for value in arguments if isinstance(value, Conversation))
        self._turns = {id(turn): turn for conversation in conversations for turn in conversation.turns}

    def persistent_load(self, key: int) -> Turn:
        return self._turns[key]


def _is_constant(turn: Turn) -> bool:
    value = None if turn.action is None else turn.action.value
    has_tokens = turn.heard.size or turn.said.size or turn.logprobs.size
    return not has_tokens and (value is None or isinstance(value, str | int | float))


def _snapshot(arguments: Sequence[Any]) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream).dump(arguments)
    return stream.getvalue()


def _copied(arguments: Sequence[Any], snapshot: bytes) -> Sequence[Any]:
    copies: Sequence[Any] = _Unpickler(io.BytesIO(snapshot), arguments).load()
    return copies


def check_text(spot: Spot, method: str, text: str) -> None:
    """Raise PluginError unless a method returned a text."""
    if not isinstance(text, str):
        raise spot.broken(method, f"returned {kind_of(text)}", "it must return a text")
    if clean_text(text) != text:
        raise spot.broken(method, f"returned {_short(text)}", "it must be text that UTF-8 can encode")


def check_json(spot: Spot, method: str, parts: Mapping[str, object]) -> None:
    """Raise PluginError unless all parts survive a round trip through JSON."""
    for name, value in parts.items():
        right = "it must be made of JSON values: dict with text keys, list, str, int, finite float, bool, None"
        try:
            restored = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise spot.broken(method, f"has {name}={_short(value)}, which JSON cannot hold", right) from error
        if restored != value:
            raise spot.broken(method, f"has {name}={_short(value)}, which JSON gives back changed", right)


def plain_value(value: object) -> object:
    """Return nested lists and dicts that can be compared with ==: arrays have no truth value, NaN is not itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: plain_value(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return [type(value).__name__, fields]
    if isinstance(value, np.ndarray):
        return ["array", str(value.dtype), list(value.shape), plain_value(value.tolist())]
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def is_finite(value: object) -> bool:
    """Whether a value is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def kind_of(value: object) -> str:
    """Return what a value is, in words: "a list"."""
    return "None" if value is None else f"a {type(value).__name__}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
