"""A reward written as a function of one conversation.

Legend: K turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from selfplay.dialog import Conversation, Floats, Scores

Function = Callable[[Conversation], Sequence[float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReward:
    """A reward made of a function; `reward_function` makes one."""

    name: str
    function: Function  # conversation -> [K] a number a turn; None: does not apply
    range: tuple[float, float] = (-math.inf, math.inf)
    is_slow: bool = False

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn; raises ValueError where the function returned NaN or an infinite number."""
        return [Scores(values=self._numbers(conversation)) for conversation in conversations]

    def _numbers(self, conversation: Conversation) -> Floats:
        numbers: object = self.function(conversation)
        if not isinstance(numbers, Sequence | np.ndarray) or isinstance(numbers, str):
            raise ValueError(f"{self.name} returned {numbers!r}; it must return a list with a number for each turn")
        for turn, number in enumerate(numbers):
            if number is not None and not isinstance(number, int | float | np.number):
                raise ValueError(f"{self.name} returned {number!r} for turn {turn}; it must be a number, or None")
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{self.name} returned {number} for turn {turn}; where it does not apply, return None")
        return np.array([np.nan if number is None else number for number in numbers], dtype=np.float32)


class Decorator(Protocol):
    """What `reward_function` returns."""

    def __call__(self, function: Function, /) -> FunctionReward:
        """Return the function as a reward of its name."""
        ...


def reward_function(*, range: tuple[float, float] = (-math.inf, math.inf), is_slow: bool = False) -> Decorator:
    """Turn a function of a conversation into a reward that has the function's name.

    The function returns a number for each turn, or None where it does not apply.  ``range`` bounds what counts;
    ``is_slow`` gives it to a reward worker.

    Example, in `rewards_of_mine.py`, for ``rewards.short.name=rewards_of_mine.py:short``::

        @reward_function(range=(0, 1))
        def short(conversation):
            return [1 / max(1, len(turn.text.split())) for turn in conversation.turns]
    """

    def decorate(function: Function) -> FunctionReward:
        return FunctionReward(name=function.__name__, function=function, range=range, is_slow=is_slow)

    return decorate
