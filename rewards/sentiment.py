"""Rewards for how friendly a message sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np

from selfplay.dialog import Conversation, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentiment:
    """How positive a message sounds, by a lexicon.

    Definition: VADER's compound score of the message (of="own"), or of the next message of somebody else, credited to
    the turn it answers (of="next": what a message brings about; it does not apply where nobody answers).  A text
    without words of the lexicon is 0.
    Range: -1 to 1.
    Source: C. J. Hutto and E. Gilbert, VADER, ICWSM 2014, package vaderSentiment; in place of the DeepMoji sentiment of
    natashamjaques/neural_chat, HierarchicalRL/hrl_rewards.py (bot and user sentiment).
    Exploit: "great great great!!!"; with "next", whatever the partner always thanks for.
    Guard: the repetition rewards, KL control.
    """

    name: ClassVar[str] = "sentiment"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    of: Literal["own", "next"] = "own"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        texts = [turn.text for turn in conversation.turns] if self.of == "own" else _answers(conversation)
        values = [np.nan if text is None else _compound(text) for text in texts]
        return Scores(values=np.array(values, dtype=np.float32))


def _answers(conversation: Conversation) -> list[str | None]:
    """Return for each turn the next message of another role; None: there is none."""
    turns = conversation.turns
    return [
        next((later.text for later in turns[k + 1 :] if later.role != turn.role), None) for k, turn in enumerate(turns)
    ]


def _compound(text: str) -> float:
    return float(_analyzer().polarity_scores(text)["compound"])


@cache
def _analyzer() -> Any:
    # Imported when first used: it reads a lexicon, and `list` needs neither.
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # type: ignore[import-untyped]  # has no types

    return SentimentIntensityAnalyzer()
