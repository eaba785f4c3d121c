"""Which conversations of a step show an alarm best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from selfplay.alarms_curves import finite, mean
from selfplay.alarms_reading import Look, Reading
from selfplay.dialog import ScoredConversation
from selfplay.score import has_failed
from selfplay.spoken_words import words_of

NUM_TO_READ = 3


def conversations_to_read(
    reading: Reading, scored: Sequence[ScoredConversation], notes: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the ids of the step's conversations that show an alarm best, at most three.

    notes: what the learner says of each conversation, by id.
    """
    score = _scores_of(reading, notes)
    played = [one for one in scored if one.conversation.turns and not has_failed(one.conversation)]
    telling = [(score(one), one.conversation.id) for one in played]
    best = sorted((pair for pair in telling if math.isfinite(pair[0])), key=lambda pair: -pair[0])
    return [id for _, id in best[:NUM_TO_READ]]


def _scores_of(reading: Reading, notes: Mapping[str, Mapping[str, Any]]) -> Callable[[ScoredConversation], float]:
    """Return what is highest where an alarm shows best; NaN: it cannot show there."""
    choices: Mapping[Look, Callable[[ScoredConversation], float]] = {
        "rewarded": lambda one: _sum(one.rewards.tolist()),
        "part_high": lambda one: _part(one, reading.part),
        "part_low": lambda one: -_part(one, reading.part),
        "short": lambda one: -_words_per_turn(one),
        "long": _words_per_turn,
        "repetitive": _repetition,
        "far": lambda one: float(notes.get(one.conversation.id, {}).get("kl_per_token", math.nan)),
    }
    return choices[reading.look]


def _part(one: ScoredConversation, name: str) -> float:
    return _sum(one.parts[name].values.tolist()) if name in one.parts else math.nan


def _sum(values: Sequence[float]) -> float:
    known = finite(values)
    return math.fsum(known) if known else math.nan


def _words_per_turn(one: ScoredConversation) -> float:
    return mean([len(words_of(turn.text)) for turn in _turns(one)] or [math.nan])


def _repetition(one: ScoredConversation) -> float:
    """Return the share of a conversation's word pairs that it has had before."""
    pairs = [pair for turn in _turns(one) for pair in pairwise(words_of(turn.text))]
    return 1 - len(set(pairs)) / len(pairs) if pairs else math.nan


def _turns(one: ScoredConversation) -> list[Any]:
    players = one.conversation.players
    return [turn for turn in one.conversation.turns if turn.role in players and players[turn.role].trained]
