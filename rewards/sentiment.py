"""Rewards for how friendly a message sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, ClassVar

import numpy as np

from rewards.words import REMEMBERED_TEXTS, Of, answers_of, score_texts
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
    scope: ClassVar[str] = "turn"

    of: Of = "own"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, _compound, of=self.of) for conversation in conversations]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentimentTransition:
    """Whether a message changes how positive its partner sounds.

    Definition: half of VADER's compound score of the next message of somebody else, minus half of that of the last
    message of the same role before the turn.  It does not apply where nobody answers, nor where who answers had said
    nothing yet.
    Range: -1 to 1.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py (emotional transition), with VADER in place of DeepMoji and
    halved, so that it is bounded by 1.
    Exploit: an opening that makes the partner sad, then praise; it saturates: a loop of praise earns nothing more, for
    over a conversation the changes add up to the partner's last score minus its first.
    Guard: sentiment of the next message, which counts the sad one too; the repetition rewards, KL control.
    """

    name: ClassVar[str] = "sentiment_transition"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        last_said: dict[str, str] = {}  # role -> its last message so far
        values = []
        for turn, answer in zip(conversation.turns, answers_of(conversation), strict=True):
            if answer is None or answer.role not in last_said:
                values.append(np.nan)
            else:
                values.append((_compound(answer.text) - _compound(last_said[answer.role])) / 2)
            last_said[turn.role] = turn.text
        return Scores(values=np.array(values, dtype=np.float32))


@lru_cache(maxsize=REMEMBERED_TEXTS)
def _compound(text: str) -> float:
    return float(_analyzer().polarity_scores(text)["compound"])


@cache
def _analyzer() -> Any:
    # Imported when first used: it reads a lexicon, and `list` needs neither.
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # type: ignore[import-untyped]  # has no types

    return SentimentIntensityAnalyzer()
