"""A dialog as a reward model or a judge reads it: messages, seen from the role that is judged.

What a role may not know is not in it: neither briefs nor private facts, but for what reached the role.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfplay.dialog import Conversation, clean_text
from selfplay.spoken_words import words_of

__all__ = ["Dialog", "Judged", "Message", "count_words", "dialog_from_messages", "dialog_of", "dialog_to_messages"]

# What a verdict is about: the focus role's last message, after all before it, or everything it said.
Judged = Literal["turn", "conversation"]
DIGITS = 32
# Thai, Lao, Burmese, Khmer; kana; Chinese characters, and their rarer ones.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a dialog."""

    text: str
    is_focus: bool  # said by the role that is judged; else it is what reached that role


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialog:
    """What was said, seen from one role.

    Example: ``Dialog(messages=(Message(text="Hi!", is_focus=False), Message(text="Hello.", is_focus=True)))``
    """

    messages: tuple[Message, ...]
    system: str = ""  # instructions that stand before the first message; "": there are none

    @property
    def focus_places(self) -> list[int]:
        """Where the focus role's messages stand among all."""
        return [place for place, message in enumerate(self.messages) if message.is_focus]

    @property
    def num_words(self) -> int:
        """Words of the focus role, as `count_words` counts them."""
        return sum(count_words(message.text) for message in self.messages if message.is_focus)

    @property
    def key(self) -> str:
        """What tells its content from any other: a hash."""
        content = [self.system, *([message.is_focus, message.text] for message in self.messages)]
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()[:DIGITS]

    def before_last(self) -> Dialog:
        """Return all that stands before the focus role's last message, the prompt of a judged turn."""
        places = self.focus_places
        return Dialog(messages=self.messages[: places[-1]] if places else self.messages, system=self.system)


def count_words(text: str) -> int:
    """Return the words of a text; in scripts that put no space between words each letter counts as one."""
    letters = sum(letter.isalnum() for letter in "".join(UNSPACED.findall(text)))
    return letters + len(words_of(UNSPACED.sub(" ", text)))


def dialog_of(conversation: Conversation, focus: str, *, through: int | None = None) -> Dialog:
    """Return a conversation seen from a role: what reached it, what it said, and what was said after its last turn.

    through: the last turn that counts; None: all do.  The role's n-th message is its n-th turn.
    """
    turns = conversation.turns if through is None else conversation.turns[: through + 1]
    messages: list[Message] = []
    last = max((k for k, turn in enumerate(turns) if turn.role == focus), default=-1)
    for turn in turns[: last + 1]:
        if turn.role == focus:
            if turn.heard_text:
                messages.append(Message(text=clean_text(turn.heard_text), is_focus=False))
            messages.append(Message(text=clean_text(turn.text), is_focus=True))
    messages += [Message(text=clean_text(turn.text), is_focus=False) for turn in turns[last + 1 :]]
    return Dialog(messages=tuple(messages))


def dialog_from_messages(messages: Iterable[Mapping[str, Any]]) -> Dialog:
    """Return chat messages, ``{"role", "content"}``, as a dialog whose focus is the assistant.

    Raises ValueError, one sentence, for what is no message.
    """
    system: list[str] = []
    found: list[Message] = []
    for number, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError(f"message {number} needs a role and a content of text")
        if role == "system":
            system.append(clean_text(content))
        elif role in ("user", "assistant"):
            found.append(Message(text=clean_text(content), is_focus=role == "assistant"))
        else:
            raise ValueError(f"message {number} has the role {role[:40]!r}; system, user and assistant are known")
    return Dialog(messages=tuple(found), system="\n".join(system))


def dialog_to_messages(dialog: Dialog) -> list[dict[str, str]]:
    """Return a dialog as chat messages: the focus role is the assistant."""
    system = [{"role": "system", "content": dialog.system}] if dialog.system else []
    names: Sequence[str] = ("user", "assistant")
    return [*system, *({"role": names[message.is_focus], "content": message.text} for message in dialog.messages)]
