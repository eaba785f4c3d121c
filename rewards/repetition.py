"""Rewards against repetition: within a message, across a conversation, and across the conversations of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np

from rewards.words import content_words_of, score_texts, words_of
from selfplay.dialog import Conversation, Scores
from selfplay.errors import UserError

MOST_REPEATED = 50.0
LONGEST_LOOP = 4  # words that repeat together

Gram = tuple[str, ...]  # words that follow one another


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRepetition:
    """Minus the number of content words that the speaker has used in an earlier message.

    Definition: -(distinct content words of this message that are in an earlier message of the same role); 0 on a role's
    first turn.  Content words: everything but function words and contractions; question words count as content.
    Range: -50 to 0, whole numbers; more than 50 count as 50.
    Source: natashamjaques/neural_chat, HierarchicalRL/hrl_rewards.py.
    Exploit: saying little, or only function words.
    Guard: a length reward, KL control.
    """

    name: ClassVar[str] = "conversation_repetition"
    range: ClassVar[tuple[float, float]] = (-MOST_REPEATED, 0.0)
    scope: ClassVar[str] = "turn"

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
            values.append(0.0 - min(len(again), MOST_REPEATED))
            why.append(f"again: {', '.join(sorted(again)[:5])}" if again else "")
        return Scores(values=np.array(values, dtype=np.float32), why=tuple(why))


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceRepetition:
    """Minus the number of content words that repeat an earlier one of the same message.

    Definition: -(content words - distinct content words).
    Range: -50 to 0, whole numbers; more than 50 count as 50.
    Source: the intention of natashamjaques/neural_chat, HierarchicalRL/hrl_rewards.py, whose code compares a list of
    lists and cannot run.
    Exploit: repeating function words.
    Guard: ngram_loops, which counts all words; KL control.
    """

    name: ClassVar[str] = "utterance_repetition"
    range: ClassVar[tuple[float, float]] = (-MOST_REPEATED, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        words = content_words_of(text)
        return 0.0 - min(len(words) - len(set(words)), MOST_REPEATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramLoops:
    """Minus the share of a message that goes round in a loop.

    Definition: -(words inside a loop / words); a loop is 1 to 4 words said at least `times` times back to back, with
    what follows of one more round.  0 for a message without words.
    Range: -1 to 0.
    Source: made here.
    Exploit: loops of five words and more, or one other word in each round; it is a penalty and ends at 0.
    Guard: distinct_words, which counts repeats at any distance; said_before.
    """

    name: ClassVar[str] = "ngram_loops"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    times: int = 3

    def __post_init__(self) -> None:
        """Refuse to call anything a loop."""
        if self.times < 2:
            raise UserError(f"times={self.times} must be at least 2: what is said once is no loop")

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [score_texts(conversation, self._of) for conversation in conversations]

    def _of(self, text: str) -> float:
        words = words_of(text)
        looping = {i for length in range(1, LONGEST_LOOP + 1) for i in _looping(words, length, self.times)}
        return -len(looping) / max(1, len(words))


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """Minus the share of a message that its partner has said before.

    Definition: -(word `n`-grams of the message that are in an earlier message of another role / word `n`-grams of the
    message); -1 if the whole message is one that another role has said, however short.  Case and punctuation do not
    count; 0 for what is shorter, and for what has no words.
    Range: -1 to 0.
    Source: made here.
    Exploit: copying with every fourth word changed, or echoes of three words; it is a penalty and ends at 0.
    Guard: a coherence reward is what makes copying pay; weigh this one at least as much.
    """

    name: ClassVar[str] = "copying"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    n: int = 4

    def __post_init__(self) -> None:
        """Refuse n-grams of nothing."""
        _check_n(self.n)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        said: dict[str, set[Gram]] = {turn.role: set() for turn in conversation.turns}  # n-grams and whole messages
        values, why = [], []
        for turn in conversation.turns:
            words = tuple(words_of(turn.text))
            grams = ngrams_of(words, self.n)
            # The end, which no word is, tells a whole message from an n-gram.
            whole = (*words, "")
            by_others = [grams_of_role for role, grams_of_role in said.items() if role != turn.role]
            copied = [gram for gram in grams if any(gram in theirs for theirs in by_others)]
            is_whole = bool(words) and any(whole in theirs for theirs in by_others)
            values.append(-1.0 if is_whole else -len(copied) / max(1, len(grams)))
            why.append("the whole message" if is_whole else f"copied: {' '.join(copied[0])}" if copied else "")
            said[turn.role].update(grams, (whole,))
        return Scores(values=np.array(values, dtype=np.float32), why=tuple(why))


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfOverlap:
    """Minus how much a message is what all conversations say, whatever they began with.

    Definition: minus the share of the batch's conversations of other scenarios that hold a word `n`-gram of the
    message, averaged over its `n`-grams; a shorter message is one `n`-gram.  0 without words; it does not apply where
    the batch has no other scenario.
    Range: -1 (every conversation says it) to 0.
    Source: made here; Self-BLEU (Zhu et al. 2018, arXiv:1802.01886) asks the same, at quadratic cost.
    Exploit: differing from the rest by nonsense; how common phrases are in usual talk is a floor that is not 0.
    Guard: unknown_words, coherence, KL control.
    """

    name: ClassVar[str] = "self_overlap"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "batch"

    n: int = 3

    def __post_init__(self) -> None:
        """Refuse n-grams of nothing."""
        _check_n(self.n)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        said = [[self._grams(turn.text) for turn in conversation.turns] for conversation in conversations]
        scenarios = [_scenario_of(conversation) for conversation in conversations]
        everywhere: Counter[Gram] = Counter()  # n-gram -> how many conversations hold it
        held: dict[object, Counter[Gram]] = {}  # the same of each scenario
        for scenario, turns in zip(scenarios, said, strict=True):
            grams = set(chain.from_iterable(turns))
            everywhere.update(grams)
            held.setdefault(scenario, Counter()).update(grams)
        sizes = Counter(scenarios)
        return [
            _overlaps(turns, everywhere, held[scenario], num_others=len(scenarios) - sizes[scenario])
            for scenario, turns in zip(scenarios, said, strict=True)
        ]

    def _grams(self, text: str) -> list[Gram]:
        words = tuple(words_of(text))
        return ngrams_of(words, min(self.n, len(words))) if words else []


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidBefore:
    """Whether a message has been said before in its conversation.

    Definition: -1 if an earlier message of the conversation, of whatever role, has the same words in the same order,
    else 0; case and punctuation do not count.  Messages without words are compared as they are; an empty one is 0.
    Range: -1 to 0.
    Source: made here.
    Exploit: one changed word makes another message; it is a penalty and ends at 0.
    Guard: conversation_repetition, copying.
    """

    name: ClassVar[str] = "said_before"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        said: set[Gram] = set()
        values = []
        for turn in conversation.turns:
            message = tuple(words_of(turn.text)) or tuple(turn.text.split())
            values.append(-1.0 if message in said else 0.0)
            said |= {message} if message else set()
        return Scores(values=np.array(values, dtype=np.float32))


def ngrams_of(words: Sequence[str], n: int) -> list[Gram]:
    """Return every run of n words, in order; none if there are fewer words."""
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def _looping(words: Sequence[str], length: int, times: int) -> list[int]:
    """Return the positions of the words that a loop of a length covers."""
    found: list[int] = []
    same = 0  # how many words up to here equal the one a round before
    for i in range(length, len(words) + 1):
        if i < len(words) and words[i] == words[i - length]:
            same += 1
            continue
        if same >= (times - 1) * length:
            found.extend(range(i - same - length, i))
        same = 0
    return found


def _scenario_of(conversation: Conversation) -> object:
    scenario = conversation.scenario
    return scenario.env, scenario.split, scenario.seed


def _overlaps(turns: list[list[Gram]], everywhere: Counter[Gram], own: Counter[Gram], *, num_others: int) -> Scores:
    values = np.full(len(turns), np.nan, dtype=np.float32)  # [K]
    if num_others:
        for turn, grams in enumerate(turns):
            elsewhere = sum(everywhere[gram] - own[gram] for gram in grams)
            values[turn] = -elsewhere / (max(1, len(grams)) * num_others)
    return Scores(values=values)


def _check_n(n: int) -> None:
    if n < 1:
        raise UserError(f"n={n} must be at least 1: an n-gram has a word")
