"""Chat files to imitate: those of OpenAI's and TRL's supervised fine-tuning, among them what `export` writes.

    OpenAI, TRL   {"messages": [{"role": "system"|"user"|"assistant", "content": ...}, ...]}
    TRL           {"prompt": ..., "completion": ...}, both lists of messages or texts

Of messages every turn of the assistant is learnt, but for those with ``"weight": 0``; of prompt and completion the
completion alone.  What the system says is the brief.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, Turn, conversation_id
from selfplay.errors import UserError
from selfplay.line_files import RecordError
from selfplay.reward_model.dialogs import Dialog, dialog_from_messages
from selfplay.reward_model.pair_files import dialog_after
from selfplay.reward_model.readers import SUFFIXES, file_records
from selfplay.sft_data import Lesson, Lessons, drawn, parted
from selfplay.sft_settings import SftSettings

__all__ = ["ASSISTANT", "SUFFIXES", "USER", "file_lessons"]

USER, ASSISTANT = "user", "assistant"
MOST_SHARED = 0.5  # of a file's lines: an opening that more of them share says nothing of what they have in common
KNOWN = "a line needs a list of messages, or prompt and completion"


def file_lessons(path: Path, settings: SftSettings) -> Lessons:
    """Return the chats of a file: equal ones are on one side of the split, and so are those with the same opening.

    Raises UserError, with the line's number, for what is no chat with something to learn.
    """
    for key, is_given in (("filter", bool(settings.filter.strip())), ("roles", bool(settings.roles))):
        if is_given:
            raise UserError(f"{key}= chooses among conversations of games; of a file all assistant's turns are learnt")
    lessons = [_lesson_of(record, number, path) for number, record in file_records(path)]
    if not lessons:
        raise UserError(f"{path} has no lines, so there is nothing to imitate")
    return parted(drawn(_with_own_keys(lessons), settings), settings)


def _lesson_of(record: dict[str, Any] | RecordError, number: int, path: Path) -> Lesson:
    try:
        if isinstance(record, RecordError):
            raise record
        dialog, learnt = _chat_of(record)
        if not any(learnt):
            raise ValueError("the assistant says nothing in it that is to be learnt")
        return _lesson(dialog, learnt, number)
    except (ValueError, RecordError) as error:
        raise UserError(f"{path}:{number} is no chat to learn from: {error}") from error


def _chat_of(record: Mapping[str, Any]) -> tuple[Dialog, list[bool]]:
    """Return a line's dialog, and which of the assistant's messages are learnt."""
    messages, completion = record.get("messages"), record.get("completion")
    if isinstance(messages, list):
        dialog = dialog_from_messages(messages)
        weights = [message.get("weight", 1) for message in messages if message["role"] == ASSISTANT]
        return dialog, [weight != 0 for weight in weights]
    if completion is None or "prompt" not in record:
        raise ValueError(f"{KNOWN}; this one has {', '.join(sorted(record)[:6]) or 'nothing'}")
    said = completion.strip() if isinstance(completion, str) else completion
    dialog = dialog_after(record["prompt"], said, name="completion")
    num_own = 1 if isinstance(said, str) else len(dialog_from_messages(said).focus_places)
    num_before = len(dialog.focus_places) - num_own
    return dialog, [*[False] * num_before, *[True] * num_own]


def _lesson(dialog: Dialog, learnt: Sequence[bool], number: int) -> Lesson:
    turns: list[Turn] = []
    heard: list[str] = []
    for message in dialog.messages:
        role = ASSISTANT if message.is_focus else USER
        heard_text = "\n".join(heard) if message.is_focus else ""
        heard = [] if message.is_focus else [*heard, message.text]
        turns.append(Turn(role=role, text=message.text, heard_text=heard_text, player=role))
    places = [place for place, is_learnt in zip(dialog.focus_places, learnt, strict=True) if is_learnt]
    players = {
        role: PlayerInfo(policy=role, brief=dialog.system if role == ASSISTANT else "") for role in (USER, ASSISTANT)
    }
    conversation = Conversation(
        id=conversation_id(step=0, group=number, index=0),
        scenario=Scenario(env="file", seed=number, split="train", roles=(USER, ASSISTANT)),
        players=players,
        turns=tuple(turns),
        outcome=Outcome(status="terminated", reason="turn_limit"),
    )
    kept = frozenset(place for place in places if turns[place].text.strip())
    if not kept:
        raise ValueError("the assistant says nothing in it that is to be learnt")
    opening = dialog.messages[0].text
    return Lesson(conversation=conversation, learnt=kept, key=f"{dialog.system}\n{opening}")


def _with_own_keys(lessons: Sequence[Lesson]) -> list[Lesson]:
    """Return lessons of which those with too common an opening go with their equals alone."""
    counts = Counter(lesson.key for lesson in lessons)
    common = {key for key, num in counts.items() if num > max(1, MOST_SHARED * len(lessons))}
    return [replace(lesson, key=_digest(lesson)) if lesson.key in common else lesson for lesson in lessons]


def _digest(lesson: Lesson) -> str:
    """Return what equal chats have in common, and no others: a hash of what is told and said, and by whom."""
    chat = lesson.conversation
    content = [chat.players[ASSISTANT].brief, *([turn.role, turn.text] for turn in chat.turns)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
