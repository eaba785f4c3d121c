"""The words in which a judge is asked.

Everything that is judged stands between ``[[[`` and ``]]]``, a line a message, and can neither close that nor begin a
line of its own: what a policy says cannot look like a part of the question.  It may still try to persuade.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from selfplay.judge.constitution import PARTNER, SPEAKER, FewShot, Principle, Rubric
from selfplay.judge.options import Prompt
from selfplay.reward_model.dialogs import Dialog, Message

__all__ = ["LETTERS", "MARKS", "fitting", "pair_prompt", "rubric_prompt", "shorter_pair", "shorter_turn"]

LETTERS = ("A", "B")
MARKS = ("1", "2", "3", "4", "5")
COMPARING = "You compare what people say in conversations, and answer with one letter."
MARKING = "You mark what people say in conversations, and answer with one number."
# Measured on SmolLM2-135M-Instruct: 93% of the probability is on A and B behind these words, and 6% behind none.
BEGUN = "The answer is: ("
NOTHING, CUT = "(says nothing)", " ..."
_BRACKETS = re.compile(r"\[(?=\[)|\](?=\])")

Shown = TypeVar("Shown")


def pair_prompt(first: Dialog, second: Dialog, principle: Principle, *, shots: Sequence[tuple[FewShot, str]]) -> Prompt:
    """Return the question which of two dialogs follows a principle better; the first one is (A).

    shots: examples, each with the question of its principle.  The better option is (A) in every second of them.
    """
    messages = [{"role": "system", "content": COMPARING}]
    for number, (shot, compare) in enumerate(shots):
        better, worse = shot.options
        both = (better, worse) if number % 2 == 0 else (worse, better)
        answer = f"{BEGUN}{LETTERS[number % 2]})"
        messages += [_message("user", _question(*both, compare)), _message("assistant", answer)]
    return [*messages, _message("user", _question(first, second, principle.compare)), _message("assistant", BEGUN)]


def rubric_prompt(dialog: Dialog, rubric: Rubric) -> Prompt:
    """Return the question how good the last message of a dialog is, from 1 to 5.

    What is the same for all messages of a conversation stands first, where it is read once.
    """
    *before, last = dialog.messages
    scale = f"{MARKS[0]} means: {rubric.worst}. {MARKS[-1]} means: {rubric.best}."
    parts = [f"{rubric.asks} {scale}", *_context(dialog.system, before)]
    parts += [
        f"The {SPEAKER}'s last message:\n{_block([last])}",
        f"Answer with a number from {MARKS[0]} to {MARKS[-1]}.",
    ]
    asked = _message("user", "\n\n".join(parts))
    return [_message("system", MARKING), asked, _message("assistant", BEGUN)]


def fitting(
    shown: Shown, *, has_room: Callable[[Shown], bool], shorten: Callable[[Shown], Shown | None]
) -> Shown | None:
    """Return what is to be judged, shortened until there is room for it; None: there is none for the shortest."""
    found: Shown | None = shown
    while found is not None and not has_room(found):
        found = shorten(found)
    return found


def shorter_pair(pair: tuple[Dialog, Dialog]) -> tuple[Dialog, Dialog] | None:
    """Return two dialogs without an old message: the oldest both begin with, else that of the longer one.

    It treats both alike, in either order.
    """
    first, second = pair
    if _num_shared(first, second):
        return _without_oldest(first), _without_oldest(second)
    sizes = [_num_characters(dialog) for dialog in pair]
    shortened = [
        shorter_turn(dialog) if size == max(sizes) else dialog for dialog, size in zip(pair, sizes, strict=True)
    ]
    if shortened[0] is None or shortened[1] is None:
        return None
    return shortened[0], shortened[1]


def shorter_turn(dialog: Dialog) -> Dialog | None:
    """Return a dialog without its oldest message, or with half of its only one; None: nothing is left to cut."""
    if len(dialog.messages) > 1:
        return _without_oldest(dialog)
    if dialog.system:
        return replace(dialog, system="")
    [message] = dialog.messages
    kept = message.text.removesuffix(CUT)
    if len(kept) < 2:
        return None
    return replace(dialog, messages=(replace(message, text=kept[: len(kept) // 2] + CUT),))


def _question(first: Dialog, second: Dialog, compare: str) -> str:
    num = _num_shared(first, second)
    shared = first.messages[:num]
    system = first.system if first.system == second.system else ""
    parts = _context(system, shared)
    if shared:
        parts.append("It goes on in one of two ways.")
    parts.append(compare)
    for letter, dialog in zip(LETTERS, (first, second), strict=True):
        parts.append(f"({letter}) {_block(dialog.messages[num:])}")
    return "\n\n".join([*parts, f"Answer with {LETTERS[0]} or {LETTERS[1]}."])


def _context(system: str, messages: Sequence[Message]) -> list[str]:
    told = [f"The {SPEAKER} was told:\n[[[\n{_line(system)}\n]]]"] if system else []
    return [*told, f"The conversation so far:\n{_block(messages)}"] if messages else told


def _block(messages: Sequence[Message]) -> str:
    names = (PARTNER, SPEAKER)
    lines = [f"{names[message.is_focus]}: {_line(message.text)}" for message in messages]
    return "\n".join(["[[[", *lines, "]]]"])


def _line(text: str) -> str:
    return _BRACKETS.sub(r"\g<0> ", " ".join(text.split())) or NOTHING


def _num_shared(first: Dialog, second: Dialog) -> int:
    """Return how many first messages two dialogs have in common, where something is left of both."""
    most = min(len(first.messages), len(second.messages)) - 1
    pairs = zip(first.messages[:most], second.messages[:most], strict=True)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), max(most, 0))


def _without_oldest(dialog: Dialog) -> Dialog:
    return replace(dialog, messages=dialog.messages[1:])


def _num_characters(dialog: Dialog) -> int:
    return sum(len(message.text) for message in dialog.messages) + len(dialog.system)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
