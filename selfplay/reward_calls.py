"""What a reward's function is called with: arguments by name, and where its numbers land.  Legend: K turns.

How often a function is called follows from its scope and from what it asks for: once a turn, once a role of a
conversation, once a conversation, or once for all conversations of a scenario or a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from selfplay.dialog import Conversation, Turn
from selfplay.errors import UserError
from selfplay.score import Scope
from selfplay.written import nearest

Level = Literal["turn", "role", "conversation", "collection"]

# Argument -> what a function gets under that name.
ARGUMENTS = {
    "turn": "the message: text, role, said, finish, ...",
    "conversation": "all of it: turns, scenario, outcome, players, ...",
    "role": "whose turn it is; without `turn`: the function is called for each role",
    "scenario": "what was set up: public, private, roles",
    "partner_turn": "the last message of another role before this one; None: there is none",
    "next_turn": "the next message of another role; None: nobody answered",
    "messages": "the chat as the role saw it, its own messages as the assistant, up to this one",
    "group": 'a list of conversations: those of one scenario, or with scope="batch" of the whole step',
    "history": "the turns before this one",
    "log": "log(name, number) records another number, which never counts",
}
OF_A_TURN = frozenset(("turn", "partner_turn", "next_turn", "history"))
OF_A_ROLE = frozenset(("role", "messages"))
OF_A_CONVERSATION = frozenset(("conversation", "scenario"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a number of one conversation lands."""

    index: int  # of the conversation
    last: tuple[int, ...]  # turns that a single number lands on
    each: tuple[int, ...] = ()  # turns that a list has a number for


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a function."""

    arguments: dict[str, Any]
    targets: tuple[Target, ...]
    has_many: bool = False  # it returns a list with a result for each target
    logged: dict[str, float] = field(default_factory=dict)  # what it measured beside


def scope_of(function: Callable[..., Any]) -> Scope:
    """Return the scope that a function's arguments ask for."""
    wanted = wanted_arguments(function)
    if "group" in wanted:
        return "group"
    return "turn" if wanted & OF_A_TURN else "conversation"


def level_of(wanted: frozenset[str], scope: Scope) -> Level:
    """Return what one call of a function is about."""
    if scope == "turn" or wanted & OF_A_TURN:
        return "turn"
    if wanted & OF_A_ROLE:
        return "role"
    return "conversation" if scope == "conversation" or wanted & OF_A_CONVERSATION else "collection"


def wanted_arguments(function: Callable[..., Any]) -> frozenset[str]:
    """Return which of `ARGUMENTS` a function takes."""
    return frozenset(name for name, _ in _parameters(function) if name in ARGUMENTS)


def check_arguments(function: Callable[..., Any], scope: Scope) -> None:
    """Raise UserError if a function takes what no reward gets, or what its scope does not have."""
    label = f"reward {getattr(function, '__name__', function)!r}"
    kinds = inspect.signature(function).parameters.values()
    if any(parameter.kind is inspect.Parameter.POSITIONAL_ONLY for parameter in kinds):
        raise UserError(f"{label} takes arguments by position only; they are given by name, so leave out the /")
    for name, is_needed in _parameters(function):
        if name not in ARGUMENTS and is_needed:
            known = f"a reward's arguments are {', '.join(ARGUMENTS)}, or prompts and completions as in TRL"
            raise UserError(f"{label} takes {name!r}{nearest(name, list(ARGUMENTS), is_list_shown=False)} ({known})")
    wanted = wanted_arguments(function)
    if not wanted:
        raise UserError(f"{label} takes nothing to score; its arguments may be {', '.join(ARGUMENTS)}")
    if "group" in wanted and scope in ("turn", "conversation"):
        raise UserError(f'{label} takes \'group\', so it needs scope="group" or scope="batch"')
    if scope == "conversation" and wanted & OF_A_TURN:
        raise UserError(f'{label} takes {min(wanted & OF_A_TURN)!r}, so it needs scope="turn"')
    if "log" in wanted and level_of(wanted, scope) == "collection":
        raise UserError(f"{label} takes 'log' but no conversation; return RewardResult with parts instead")


def calls_of(
    conversations: Sequence[Conversation], wanted: frozenset[str], scope: Scope, *, role: str
) -> Iterator[Call]:
    """Yield the calls of a function about conversations; role: whose turns it is about, "" everybody's."""
    level = level_of(wanted, scope)
    for together in _together(conversations, scope):
        group = [conversations[index] for index in together]
        if level == "collection":
            yield _Place(conversations=conversations, group=group, wanted=wanted, role=role).of_collection(together)
            continue
        for index in together:
            place = _Place(conversations=conversations, group=group, wanted=wanted, role=role)
            yield from place.of_conversation(index, level)


def last_turns(conversation: Conversation, role: str) -> tuple[int, ...]:
    """Return the number of each role's last turn; role: of that one alone."""
    last = {turn.role: number for number, turn in enumerate(conversation.turns) if role in ("", turn.role)}
    return tuple(last.values())


def messages_of(conversation: Conversation, role: str, num_turns: int) -> list[dict[str, str]]:
    """Return the first turns of a conversation as chat messages, as a role saw them: its own are the assistant's."""
    player = conversation.players.get(role)
    messages = [{"role": "system", "content": player.brief}] if player is not None and player.brief else []
    for turn in conversation.turns[:num_turns]:
        if turn.role != role:
            continue
        if turn.heard_text:
            messages.append({"role": "user", "content": turn.heard_text})
        messages.append({"role": "assistant", "content": turn.text})
    return messages


# ----- calls -----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What the calls about some conversations share."""

    conversations: Sequence[Conversation]
    group: list[Conversation]  # those that are looked at together
    wanted: frozenset[str]
    role: str

    def of_collection(self, together: Sequence[int]) -> Call:
        targets = [self._target(index, self.role) for index in together]
        return Call(arguments={"group": self.group}, targets=tuple(targets), has_many=True)

    def of_conversation(self, index: int, level: Level) -> Iterator[Call]:
        conversation = self.conversations[index]
        if level == "turn":
            for number, turn in enumerate(conversation.turns):
                if self.role in ("", turn.role):
                    yield self._call(_about_turn(conversation, number), Target(index=index, last=(number,)))
        elif level == "role":
            spoke = dict.fromkeys(turn.role for turn in conversation.turns)
            for role in [role for role in spoke if self.role in ("", role)]:
                yield self._call(_about_role(conversation, role), self._target(index, role))
        else:
            yield self._call(_about_conversation(conversation), self._target(index, self.role))

    def _target(self, index: int, role: str) -> Target:
        conversation = self.conversations[index]
        each = tuple(number for number, turn in enumerate(conversation.turns) if role in ("", turn.role))
        return Target(index=index, last=last_turns(conversation, role), each=each)

    def _call(self, known: dict[str, Callable[[], Any]], target: Target) -> Call:
        logged: dict[str, float] = {}

        def log(name: str, number: float) -> None:
            logged[name] = number

        known |= {"group": lambda: self.group, "log": lambda: log}
        arguments = {name: known[name]() for name in self.wanted}
        return Call(arguments=arguments, targets=(target,), logged=logged)


def _about_conversation(conversation: Conversation) -> dict[str, Callable[[], Any]]:
    return {"conversation": lambda: conversation, "scenario": lambda: conversation.scenario}


def _about_role(conversation: Conversation, role: str) -> dict[str, Callable[[], Any]]:
    return _about_conversation(conversation) | {
        "role": lambda: role,
        "messages": lambda: messages_of(conversation, role, conversation.num_turns),
    }


def _about_turn(conversation: Conversation, number: int) -> dict[str, Callable[[], Any]]:
    turn, turns = conversation.turns[number], conversation.turns
    return _about_role(conversation, turn.role) | {
        "turn": lambda: turn,
        "partner_turn": lambda: _first_of_others(turns[:number][::-1], turn.role),
        "next_turn": lambda: _first_of_others(turns[number + 1 :], turn.role),
        "history": lambda: turns[:number],
        "messages": lambda: messages_of(conversation, turn.role, number + 1),
    }


def _first_of_others(turns: Sequence[Turn], role: str) -> Turn | None:
    return next((turn for turn in turns if turn.role != role), None)


def _together(conversations: Sequence[Conversation], scope: Scope) -> list[list[int]]:
    """Return the numbers of the conversations that are looked at together."""
    numbers = list(range(len(conversations)))
    if scope == "batch":
        return [numbers] if numbers else []
    if scope != "group":
        return [[number] for number in numbers]

    def group_of(number: int) -> str:
        return conversations[number].group

    return [list(same) for _, same in groupby(sorted(numbers, key=group_of), key=group_of)]


def _parameters(function: Callable[..., Any]) -> list[tuple[str, bool]]:
    """Return each argument a function can be given by name, and whether it has to be."""
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        (parameter.name, parameter.default is inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind not in skipped
    ]
