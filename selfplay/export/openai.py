"""OpenAI chat messages: a line for each conversation and role, `{"messages": [...]}`.

A role's brief is the system message, what it heard the user's, what it said the assistant's.
Lost: rewards, tokens, everything that is no message.  Failed conversations and roles that never spoke have no line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from selfplay.export.chosen import Chosen, Played
from selfplay.export.request import Result
from selfplay.records_json import chat_messages

__all__ = ["roles_of", "write_openai"]


def write_openai(chosen: Chosen, draft: Path, *, roles: Sequence[str]) -> Result:
    """Write the lines; roles: whose views, all if there are none."""
    num = num_conversations = num_held_out = 0
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        for played in chosen.played():
            num_conversations += 1
            for role in roles_of(played, roles):
                messages = chat_messages(played.conversation, role)
                if messages[-1:] and messages[-1]["role"] == "assistant":
                    file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
                    num += 1
                    num_held_out += played.conversation.scenario.split == "held_out"
    held_out = (f"{num_held_out} of the lines are of held-out scenarios: where='split=train' leaves them out",)
    notes = (*failed_note(len(chosen.ids) - num_conversations), *(held_out if num_held_out else ()))
    return Result(path=draft, num=num, noun="line", notes=notes)


def roles_of(played: Played, roles: Sequence[str]) -> list[str]:
    """Return which roles of a conversation are asked for; all if none is."""
    return [role for role in played.conversation.scenario.roles if not roles or role in roles]


def failed_note(num: int) -> tuple[str, ...]:
    """Return what is said of conversations that failed."""
    return (f"{num} failed conversations are left out",) if num else ()
