"""Rewards for keeping a conversation going: how much it draws out, how long it is, and how long its messages are.

Legend: K turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rewards.words import score_texts, words_of
from selfplay.dialog import Conversation, Scores, Turn
from selfplay.errors import UserError

MOST_ELICITED = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsElicited:
    """How much the partner says in reply.

    Definition: words of the next message of somebody else, at most 30, divided by 30.  It does not apply where nobody
    answers.
    Range: 0 to 1.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py (answer length), which gives 0 where nobody answers and
    scales by the buffer's extremes.
    Exploit: whatever makes the partner ramble, such as "Tell me everything."; it saturates at 30 words.  Where both
    roles are trained, the partner has its own reasons to ramble.
    Guard: own_length; the repetition rewards; a partner that is not trained.
    """

    name: ClassVar[str] = "words_elicited"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of, of="next") for conversation in conversations]

    def _of(self, text: str) -> float:
        return min(MOST_ELICITED, len(words_of(text))) / MOST_ELICITED


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationLength:
    """How long the conversation became.

    Definition: turns of the conversation divided by `target`, at most 1, on the last turn of each role, and `discount`
    times as much for each turn of that role further back.
    Range: 0 to 1.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py, which counts exchanges, has no target and leaves out the
    last one, where the user left; the discount of 0.95 is its own.
    Exploit: never saying goodbye; it saturates at `target`, and is the same for all where turns end at a fixed number.
    Every turn has its share already: a discount of returns comes on top, and `discount=0` leaves the last turns alone.
    Guard: the repetition rewards; an environment that can be left.
    """

    name: ClassVar[str] = "conversation_length"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    target: int = 20  # turns of all roles together that earn everything, at least 1
    discount: float = 0.95  # for each turn of the role that comes before its last, 0 to 1

    def __post_init__(self) -> None:
        """Refuse settings without a meaning."""
        if self.target < 1:
            raise UserError(f"target={self.target} must be at least 1")
        if not 0.0 <= self.discount <= 1.0:
            raise UserError(f"discount={self.discount:g} must be from 0 to 1")

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        length = min(1.0, conversation.num_turns / self.target)
        values = np.empty(conversation.num_turns, dtype=np.float32)  # [K]
        share: dict[str, float] = {}  # role -> what its turn before the one at hand has of the length
        for k in reversed(range(conversation.num_turns)):
            role = conversation.turns[k].role
            values[k] = length * share.get(role, 1.0)
            share[role] = share.get(role, 1.0) * self.discount
        return Scores(values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLength:
    """Whether a message has a length that suits a conversation.

    Definition: 1 from `low` to `high` words, falling in a straight line to 0 at 0 words and at twice `high`.
    Range: 0 to 1.
    Source: made here; natashamjaques/neural_chat, HierarchicalRL/hrl_rewards.py rewards each word without an end.
    Exploit: filling up to `low` words with anything; it saturates there.
    Guard: the repetition rewards, coherence, KL control.
    """

    name: ClassVar[str] = "own_length"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"

    low: int = 5  # words, at least 0
    high: int = 25  # words, at least `low` and 1

    def __post_init__(self) -> None:
        """Refuse bounds that are not in order."""
        if self.low < 0:
            raise UserError(f"low={self.low} must be at least 0")
        if self.high < max(1, self.low):
            raise UserError(f"high={self.high} must be at least {max(1, self.low)}, for low={self.low}")

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        num_words = len(words_of(text))
        if num_words < self.low:
            return num_words / self.low
        return min(1.0, max(0.0, 2.0 - num_words / self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """Whether a speaker ended its message by itself.

    Definition: 1 if the speaker's model ended its message by itself, 0 if a limit cut it.  It does not apply to scripts
    and people, who have no tokens.
    Range: 0 to 1.
    Source: made here; models that are trained without their end-of-turn token never learn to stop.
    Exploit: stopping at once, after a word or two; it saturates there.
    Guard: own_length.
    """

    name: ClassVar[str] = "stopping"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [
            Scores(values=np.array([_stopped(turn) for turn in conversation.turns], dtype=np.float32))
            for conversation in conversations
        ]


def _stopped(turn: Turn) -> float:
    return np.nan if turn.finish == "text" else float(not turn.is_cut)
