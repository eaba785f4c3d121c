"""Rewards against repetition, within a message and across a speaker's messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rewards.words import content_words_of, score_texts
from selfplay.dialog import Conversation, Scores

MOST_REPEATED = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRepetition:
    """Minus the number of content words that the speaker has used in an earlier message.

    Definition: -(distinct content words of this message that are in an earlier message of the same role); 0 on a role's
    first turn.  Content words: everything but function words and contractions; question words count as content.
    Range: any integer up to 0; declared from -50.
    Source: natashamjaques/neural_chat, HierarchicalRL/hrl_rewards.py.
    Exploit: saying little, or only function words.
    Guard: a length reward, KL control.
    """

    name: ClassVar[str] = "conversation_repetition"
    range: ClassVar[tuple[float, float]] = (-MOST_REPEATED, 0.0)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        used: dict[str, set[str]] = {}
        values, why = [], []
        for turn in conversation.turns:
            words = set(content_words_of(turn.text))
            again = words & used.setdefault(turn.role, set())
            used[turn.role] |= words
            values.append(-float(len(again)))
            why.append(f"again: {', '.join(sorted(again)[:5])}" if again else "")
        return Scores(values=np.array(values, dtype=np.float32), why=tuple(why))


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceRepetition:
    """Minus the number of content words that repeat an earlier one of the same message.

    Definition: -(content words - distinct content words).
    Range: any integer up to 0; declared from -50.
    Source: the intention of natashamjaques/neural_chat, HierarchicalRL/hrl_rewards.py, whose code compares a list of
    lists and cannot run.
    Exploit: repeating function words.
    Guard: distinct-n, KL control.
    """

    name: ClassVar[str] = "utterance_repetition"
    range: ClassVar[tuple[float, float]] = (-MOST_REPEATED, 0.0)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        words = content_words_of(text)
        return -float(len(words) - len(set(words)))
