"""Reward functions written for TRL: `f(prompts, completions, **columns) -> list[float | None]`.

Every turn is a sample: its prompt is the chat as the speaker saw it, its completion what it said.  Columns are the
scenario's public values, `role`, and `completion_ids`, the tokens said.  Source: trl's documentation of GRPOTrainer's
`reward_funcs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from selfplay.dialog import Conversation
from selfplay.reward_calls import Call, Target, messages_of

# messages: lists of chat messages, as in TRL's conversational datasets; text: strings, as in its standard ones.
Completions = Literal["messages", "text"]


# What tells a function of TRL's from others.
TELLING = frozenset(("prompts", "completions", "completion_ids"))


def is_trl_function(function: Callable[..., Any]) -> bool:
    """Whether a function takes prompts, completions or their tokens, as TRL's do."""
    return bool(TELLING & set(inspect.signature(function).parameters))


def trl_call(
    function: Callable[..., Any], conversations: Sequence[Conversation], *, role: str, completions: Completions
) -> Call | None:
    """Return the one call about all turns of the conversations; None: there is no turn."""
    samples = [
        (index, number)
        for index, conversation in enumerate(conversations)
        for number, turn in enumerate(conversation.turns)
        if role in ("", turn.role)
    ]
    if not samples:
        return None
    columns = _columns(conversations, samples, completions)
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {name: values for name, values in columns.items() if takes_all or name in parameters}
    for name, parameter in parameters.items():
        if (
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            and parameter.default is parameter.empty
            and name not in columns
        ):
            has = f"the scenarios have {', '.join(columns)}"
            raise ValueError(f"{getattr(function, '__name__', 'it')} needs a column {name!r}; {has}")
    targets = tuple(Target(index=index, last=(number,)) for index, number in samples)
    return Call(arguments=arguments, targets=targets, has_many=True)


def _columns(
    conversations: Sequence[Conversation], samples: Sequence[tuple[int, int]], completions: Completions
) -> dict[str, Any]:
    chats = [_chat(conversations[index], number) for index, number in samples]
    scenarios = [conversations[index].scenario for index, _ in samples]
    public = dict.fromkeys(name for scenario in scenarios for name in scenario.public)
    turns = [conversations[index].turns[number] for index, number in samples]
    return {
        **{name: [scenario.public.get(name) for scenario in scenarios] for name in public},
        "role": [turn.role for turn in turns],
        "prompts": [chat[:-1] if completions == "messages" else _as_text(chat[:-1]) for chat in chats],
        "completions": [
            chat[-1:] if completions == "messages" else turn.text for chat, turn in zip(chats, turns, strict=True)
        ],
        "completion_ids": [turn.said.tolist() for turn in turns],
        "trainer_state": None,
    }


def _chat(conversation: Conversation, number: int) -> list[dict[str, str]]:
    return messages_of(conversation, conversation.turns[number].role, number + 1)


def _as_text(messages: Sequence[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)
