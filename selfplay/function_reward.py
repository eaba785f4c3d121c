"""A reward written as a function: `reward` turns one into a plug-in; nothing else is needed.

    @reward(range=(0, 1))
    def asks_back(turn):
        "1 when the message ends in a question."
        return turn.text.rstrip().endswith("?")

The function names what it wants to know (`reward_calls.ARGUMENTS`), and how often it is called follows from that.
Legend: K turns.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, get_args, overload

import numpy as np

from selfplay.dialog import Conversation, Floats, Scores
from selfplay.errors import UserError
from selfplay.reward_calls import Call, Target, calls_of, check_arguments, scope_of, wanted_arguments
from selfplay.score import Scope
from selfplay.trl_reward import Completions, is_trl_function, trl_call

MAX_WAITING = 64  # calls of an async function that wait at the same time
UNBOUNDED = (-math.inf, math.inf)
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class RewardResult:
    """A number with its reason, and what else was measured.

    Example: ``RewardResult(0.5, why="3 of 6 words", parts={"words": 6})``
    """

    value: float | None  # None: does not apply
    _: KW_ONLY
    why: str = ""  # one short line, shown with the turn
    parts: Mapping[str, float] = field(default_factory=dict)  # recorded as NAME.PART; they never count


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReward:
    """A reward made of a function; `reward` makes one.  Called, it is the function that it was."""

    name: str
    function: Function
    scope: Scope = "turn"  # what one call of `score` must hold
    range: tuple[float, float] = UNBOUNDED
    role: str = ""  # whose turns it is about; "": everybody's
    is_slow: bool = False
    completions: Completions = "messages"  # what a function in TRL's form gets

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function itself, as its own tests do."""
        return self.function(*arguments, **named)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn for each conversation.

        Raises ValueError where the function returned something that is no result.
        """
        sheets = [_Sheet(num_turns=conversation.num_turns) for conversation in conversations]
        calls = self._calls(conversations)
        for call, result in zip(calls, self._results(calls), strict=True):
            for target, one in self._apart(call, result):
                for turn, entry in self._entries(conversations[target.index], target, one):
                    sheets[target.index].write(turn, entry, call.logged)
        return [sheet.scores() for sheet in sheets]

    def _calls(self, conversations: Sequence[Conversation]) -> list[Call]:
        if is_trl_function(self.function):
            call = trl_call(self.function, conversations, role=self.role, completions=self.completions)
            return [] if call is None else [call]
        return list(calls_of(conversations, wanted_arguments(self.function), self.scope, role=self.role))

    def _results(self, calls: Sequence[Call]) -> list[Any]:
        if not inspect.iscoroutinefunction(self.function):
            return [self.function(**call.arguments) for call in calls]
        return _awaited([self.function(**call.arguments) for call in calls])

    def _apart(self, call: Call, result: Any) -> Iterator[tuple[Target, Any]]:
        if not call.has_many:
            yield call.targets[0], result
            return
        num = len(call.targets)
        if not _is_list(result) or len(result) != num:
            found = f"a list of {len(result)}" if _is_list(result) else f"{result!r:.80}"
            what = "message" if is_trl_function(self.function) else "conversation"
            raise ValueError(f"{self.name} returned {found}; it must return a list of {num}, one for each {what}")
        yield from zip(call.targets, result, strict=True)

    def _entries(self, conversation: Conversation, target: Target, result: Any) -> Iterator[tuple[int, RewardResult]]:
        """Yield which turns get what."""
        if isinstance(result, Mapping):
            yield from self._by_role(conversation, target, result)
        elif _is_list(result):
            num_turns = conversation.num_turns
            if not target.each or len(result) not in (num_turns, len(target.each)):
                right = f"a list of {num_turns}, one for each turn" if target.each else "one number"
                raise ValueError(f"{self.name} returned a list of {len(result)}; it must return {right}")
            # All turns, or those of the role that it is about.
            entries = [result[turn] for turn in target.each] if len(result) == num_turns else result
            for turn, one in zip(target.each, entries, strict=True):
                yield turn, self._entry(one, turn)
        else:
            for turn in target.last:
                yield turn, self._entry(result, turn)

    def _by_role(
        self, conversation: Conversation, target: Target, result: Mapping[str, Any]
    ) -> Iterator[tuple[int, RewardResult]]:
        roles = conversation.scenario.roles
        unknown = [role for role in result if role not in roles]
        if unknown:
            raise ValueError(f"{self.name} returned a number for role {unknown[0]!r}; roles are {', '.join(roles)}")
        for turn in target.last:
            yield turn, self._entry(result.get(conversation.turns[turn].role), turn)

    def _entry(self, result: Any, turn: int) -> RewardResult:
        if isinstance(result, RewardResult):
            return RewardResult(value=self._number(result.value, turn), why=result.why, parts=result.parts)
        return RewardResult(value=self._number(result, turn))

    def _number(self, value: Any, turn: int) -> float | None:
        if value is None:
            return None
        is_number = not isinstance(value, str) and hasattr(value, "__float__") and getattr(value, "ndim", 0) == 0
        if not is_number:
            raise ValueError(
                f"{self.name} returned {value!r:.80} for turn {turn}; it must be a number, None or RewardResult"
            )
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{self.name} returned {number} for turn {turn}; where it does not apply, return None")
        return number


@overload
def reward(function: Function, /) -> FunctionReward: ...
@overload
def reward(
    *,
    scope: Scope | None = None,
    range: tuple[float, float] = UNBOUNDED,
    role: str = "",
    is_slow: bool | None = None,
    completions: Completions = "messages",
) -> Callable[[Function], FunctionReward]: ...
def reward(
    function: Function | None = None,
    /,
    *,
    scope: Scope | None = None,
    range: tuple[float, float] = UNBOUNDED,
    role: str = "",
    is_slow: bool | None = None,
    completions: Completions = "messages",
) -> FunctionReward | Callable[[Function], FunctionReward]:
    """Turn a function into a reward that has the function's name.

    scope: "turn" is called for every turn; "conversation" once each, or for each role where the function takes `role`;
    "group" sees all conversations of a scenario, "batch" those of a step.  None: what its arguments ask for.
    range: what its numbers are clipped to before they count.  role: whose turns it is about.  is_slow: it belongs in a
    reward worker, and is asked about many conversations at once; None: async functions are.
    completions: what a function in TRL's form gets, messages or text.

    The function returns a number or a bool, None where it does not apply, or a `RewardResult`.  For a conversation it
    may return a list with one of them for each turn, or a mapping from roles; a single number lands on the last turn of
    each role.  For a group or a batch alone it returns a list, one for each conversation.  Functions of TRL,
    `f(prompts, completions, **columns)`, work as they are.  Raises UserError for arguments that no reward gets.

    Example, in `mine.py`, used as ``-r mine.py:short=0.5``::

        @reward(range=(0, 1))
        def short(turn):
            return 1 / max(1, len(turn.text.split()))
    """

    def decorate(function: Function) -> FunctionReward:
        chosen = scope or _default_scope(function)
        _check_claims(function.__name__, chosen, range)
        if not is_trl_function(function):
            check_arguments(function, chosen)
        return FunctionReward(
            name=function.__name__,
            function=function,
            scope=chosen,
            range=(float(range[0]), float(range[1])),
            role=role,
            is_slow=inspect.iscoroutinefunction(function) if is_slow is None else is_slow,
            completions=completions,
        )

    return decorate if function is None else decorate(function)


def _check_claims(name: str, scope: str, bounds: tuple[float, float]) -> None:
    if scope not in get_args(Scope):
        raise UserError(f"reward {name!r}: scope={scope!r} is none of {', '.join(get_args(Scope))}")
    if not isinstance(bounds, Sequence) or len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise UserError(f"reward {name!r}: range={bounds!r} must be two numbers, the lower first, such as (0, 1)")


def _default_scope(function: Function) -> Scope:
    return "turn" if is_trl_function(function) else scope_of(function)


@dataclass(slots=True, kw_only=True)
class _Sheet:
    """The numbers of one conversation as they come in."""

    num_turns: int
    values: dict[int, float] = field(default_factory=dict)
    why: dict[int, str] = field(default_factory=dict)
    parts: dict[str, dict[int, float]] = field(default_factory=dict)

    def write(self, turn: int, entry: RewardResult, logged: Mapping[str, float]) -> None:
        if entry.value is not None:
            self.values[turn] = entry.value
        if entry.why:
            self.why[turn] = str(entry.why)
        for name, number in {**logged, **entry.parts}.items():
            if not math.isfinite(number):
                raise ValueError(f"its part {name!r} is {number} for turn {turn}; leave it out where it does not apply")
            self.parts.setdefault(str(name), {})[turn] = float(number)

    def scores(self) -> Scores:
        why = tuple(self.why.get(turn, "") for turn in range(self.num_turns)) if self.why else ()
        parts = {name: self._array(numbers) for name, numbers in self.parts.items()}
        return Scores(values=self._array(self.values), why=why, parts=parts)

    def _array(self, numbers: Mapping[int, float]) -> Floats:
        return np.array([numbers.get(turn, np.nan) for turn in range(self.num_turns)], dtype=np.float32)


def _is_list(result: Any) -> bool:
    if isinstance(result, str | bytes | Mapping):
        return False
    # Arrays and tensors are no Sequence.
    return isinstance(result, Sequence) or getattr(result, "ndim", 0) > 0


def _awaited(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return what coroutines return; they wait at the same time."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_gathered(coroutines))
    # A notebook's thread has a loop that runs already.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, _gathered(coroutines)).result()


async def _gathered(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    room = asyncio.Semaphore(MAX_WAITING)

    async def one(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async with room:
            return await coroutine

    return list(await asyncio.gather(*(one(coroutine) for coroutine in coroutines)))
