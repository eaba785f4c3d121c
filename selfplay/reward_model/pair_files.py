r"""Lines of preference files: HH-RLHF's, TRL's, and our own examples.

    HH-RLHF                    {"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}
    TRL, explicit prompt       {"prompt": ..., "chosen": ..., "rejected": ...}
    TRL, implicit prompt       {"chosen": [{"role": "user", "content": ...}, ...], "rejected": [...]}
    TRL, unpaired              {"prompt": ..., "completion": ..., "label": true}
    ours                       {"schema": "selfplay.example/1", ...}

Prompts and completions are texts or lists of messages; the assistant's last message is what is judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from selfplay.line_files import RecordError
from selfplay.reward_model.dialogs import Dialog, Message, dialog_from_messages
from selfplay.reward_model.examples import EXAMPLE_SCHEMA, Example, Split, example_from_json
from selfplay.reward_model.hh import dialog_from_hh, is_hh
from selfplay.reward_model.loaded import ordered

__all__ = ["dialog_after", "example_of_line"]

DIGITS = 16
SILENT = "the assistant says nothing in it"
KNOWN = "a line needs chosen and rejected, or prompt, completion and label, or to be a selfplay.example"


def example_of_line(record: Mapping[str, Any], *, source: str, split: Split | None, where: str) -> Example | None:
    """Return the example of a line; None: its two sides are the same.

    Examples with the same prompt, or of which one goes on where another ended, share a key.  The sides of a pair are
    put in an order that says nothing.  An example of ours keeps its own source, and its split if it has one.
    Raises RecordError for a line of no known form.
    """
    if record.get("schema") == EXAMPLE_SCHEMA:
        own = _own(record)
        return own if own.split else replace(own, split=split)
    try:
        dialogs, target = _judged(record)
    except ValueError as error:
        raise RecordError(str(error)) from error
    if not all(dialog.focus_places for dialog in dialogs):
        raise RecordError(SILENT)
    if len(dialogs) == 2 and dialogs[0] == dialogs[1]:
        return None
    example = Example(
        dialogs=dialogs,
        kind="pair" if len(dialogs) == 2 else "rating",
        targets=(target,),
        judged="turn",
        source=source,
        keys=tuple(dict.fromkeys(key for dialog in dialogs for key in _keys(dialog))),
        split=split,
        where=where,
    )
    return ordered(example) if len(dialogs) == 2 else example


def _own(record: Mapping[str, Any]) -> Example:
    example = example_from_json(record)
    if example.split not in (None, *get_args(Split)):
        raise RecordError(f"split {example.split!r} is none of {', '.join(get_args(Split))}")
    if not all(dialog.focus_places for dialog in example.dialogs):
        raise RecordError(SILENT)
    return example


def _judged(record: Mapping[str, Any]) -> tuple[tuple[Dialog, ...], float]:
    """Return what a line is about, and how likely the first is preferred, or the rating of the only one."""
    prompt = record.get("prompt")
    if "chosen" in record or "rejected" in record:
        chosen = dialog_after(prompt, record.get("chosen"), name="chosen")
        return (chosen, _sharing(dialog_after(prompt, record.get("rejected"), name="rejected"), chosen)), 1.0
    if "completion" not in record:
        raise ValueError(f"{KNOWN}; this one has {', '.join(sorted(record)[:6]) or 'nothing'}")
    label = record.get("label")
    if not isinstance(label, int) or label not in (0, 1):
        raise ValueError("label should be true or false")
    if prompt is None:
        raise ValueError("prompt is missing")
    return (dialog_after(prompt, record["completion"], name="completion"),), 1.0 if label else -1.0


def dialog_after(prompt: object, said: object, *, name: str) -> Dialog:
    """Return what was said, after its prompt if there is one, as a dialog; both are texts or lists of messages.

    name: what it is called in errors.  Raises ValueError, one sentence, for what is neither.
    """
    if isinstance(said, str):
        return _dialog_of_text(prompt, said)
    if not isinstance(said, list):
        raise ValueError(f"{name} is {'missing' if said is None else 'neither a text nor a list of messages'}")
    own = dialog_from_messages(said)
    # Some files hold the whole dialog beside its prompt.
    is_whole = prompt is None or bool(own.system) or not own.messages or not own.messages[0].is_focus
    return own if is_whole else _after(_prompt(prompt), own)


def _dialog_of_text(prompt: object, said: str) -> Dialog:
    if prompt is None:
        return dialog_from_hh(said)
    if not isinstance(prompt, str) or not is_hh(prompt):
        return _after(_prompt(prompt), dialog_from_messages([{"role": "assistant", "content": said}]))
    if said.strip().startswith(prompt.strip()):
        return dialog_from_hh(said)
    # The name before the completion stands at the prompt's end, or at the completion's beginning, or nowhere.
    if prompt.rstrip().endswith("Assistant:"):
        return dialog_from_hh(f"{prompt}{said}")
    return dialog_from_hh(f"{prompt}\n\n{said.lstrip() if is_hh(said) else f'Assistant: {said}'}")


def _prompt(prompt: object) -> Dialog:
    if isinstance(prompt, str):
        return dialog_from_messages([{"role": "user", "content": prompt}])
    if not isinstance(prompt, list):
        raise ValueError(f"prompt is {'missing' if prompt is None else 'neither a text nor a list of messages'}")
    return dialog_from_messages(prompt)


def _after(prompt: Dialog, said: Dialog) -> Dialog:
    return Dialog(messages=prompt.messages + said.messages, system=prompt.system)


def _sharing(dialog: Dialog, other: Dialog) -> Dialog:
    """Return a dialog that holds the messages which it has in common with another one only once in memory."""
    pairs = zip(dialog.messages, other.messages, strict=False)
    return Dialog(
        messages=(
            *(two if one == two else one for one, two in pairs),
            *dialog.messages[len(other.messages) :],
        ),
        system=dialog.system,
    )


def _keys(dialog: Dialog) -> Iterator[str]:
    """Yield what stands for the prompt, then for each beginning that ends with what the assistant said."""
    digest = hashlib.sha256(b"%d %s" % (len(dialog.system), dialog.system.encode()))
    last = dialog.focus_places[-1]
    said: list[str] = []
    for place, message in enumerate(dialog.messages[: last + 1]):
        if place == last:
            yield f"prompt:{digest.hexdigest()[:DIGITS]}"
        digest.update(_bytes_of(message))
        if message.is_focus:
            said.append(f"said:{digest.hexdigest()[:DIGITS]}")
    yield from said


def _bytes_of(message: Message) -> bytes:
    text = message.text.encode()
    return b"%d %d %s" % (message.is_focus, len(text), text)
