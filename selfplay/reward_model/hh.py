"""Dialogs as HH-RLHF writes them: one text, "Human:" and "Assistant:" before each message.

Source: Bai et al. 2022, arXiv:2204.05862, and its data, anthropics/hh-rlhf.
"""

from __future__ import annotations

import re

from selfplay.dialog import clean_text
from selfplay.reward_model.dialogs import Dialog, Message

__all__ = ["dialog_from_hh", "is_hh"]

SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def is_hh(text: str) -> bool:
    """Whether a text begins as such a dialog does."""
    return SPEAKER.match(text) is not None


def dialog_from_hh(text: str) -> Dialog:
    """Return such a text as a dialog whose focus is the assistant.  Raises ValueError, one sentence, for another."""
    if not is_hh(text):
        raise ValueError("the text begins with neither Human: nor Assistant:")
    # Before the first name there is nothing; then names and messages take turns.
    parts = SPEAKER.split(text)[1:]
    return Dialog(
        messages=tuple(
            Message(text=clean_text(said.strip()), is_focus=name == "Assistant")
            for name, said in zip(parts[::2], parts[1::2], strict=True)
        )
    )
