"""What can be said of a reward before anything is trained with it: its contract, its speed, who beats it, its kin.

Legend: K turns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from selfplay.contracts.reward import check_reward, sample_conversations
from selfplay.dialog import Conversation, Scores
from selfplay.interfaces import PluginError, Reward
from selfplay.ranks import spearman
from selfplay.reward_attacks import ATTACKS, attack_conversations
from selfplay.score import Parts, Scope, WeightedReward, parts_of, prepare
from selfplay.spoken_words import words_of
from selfplay.time_limit import TimeLimitError, call_within

__all__ = ["AttackResult", "Correlation", "MixedReward", "RewardReport", "report_on"]

FEWEST_PAIRS = 10  # turns that a correlation needs
# Float32 rounds what a declared range bounds.
TOLERANCE = 1e-6

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """What an attack gets."""

    name: str
    idea: str
    value: float | None  # mean over the turns that it applies to; None: it applies to none
    share_below: float | None  # of the chats that get less
    is_winning: bool  # it gets more than the median chat


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """How a reward goes with something else over turns."""

    name: str
    rho: float  # Spearman's
    num_turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardReport:
    """What `report_on` found.  Where the contract is broken, nothing after `broken` was measured."""

    name: str
    scope: Scope
    is_slow: bool
    low: float | None  # declared bounds; None: none
    high: float | None
    broken: str = ""  # the first promise of a reward that it breaks; "": it keeps them all
    num_turns: int = 0  # turns that have a number
    outside: tuple[str, ...] = ()  # conversation, turn and number of each that is outside the declared range
    p50_ms: float | None = None  # a conversation
    p95_ms: float | None = None
    num_chats: int = 0
    median: float | None = None  # of the chats; None: it applies to none of them
    attacks: tuple[AttackResult, ...] = ()  # the highest first
    length: Correlation | None = None  # with the words of a message; None: one of the two is always the same
    correlations: tuple[Correlation, ...] = ()  # with other rewards, the strongest first

    @property
    def is_sound(self) -> bool:
        """Whether the contract is kept and all numbers are inside the declared range."""
        return not self.broken and not self.outside

    @property
    def winning(self) -> list[str]:
        """Names of the attacks that get more than the median chat."""
        return [attack.name for attack in self.attacks if attack.is_winning]

    @property
    def num_equal(self) -> int:
        """How many attacks get what the median chat gets."""
        values = [attack.value for attack in self.attacks if attack.value is not None and not attack.is_winning]
        return sum(self.median is not None and value >= self.median - TOLERANCE for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedReward:
    """Several rewards as one: the weighted sum a turn, as training sees it."""

    name: str
    parts: tuple[WeightedReward, ...]
    scope: Scope = "conversation"

    @property
    def is_slow(self) -> bool:
        """Whether a part is."""
        return any(part.is_slow for part in self.parts)

    @property
    def range(self) -> tuple[float, float]:
        """The sums of the parts' bounds."""
        bounds = [sorted((part.weight * part.range[0], part.weight * part.range[1])) for part in self.parts]
        return sum(low for low, _ in bounds), sum(high for _, high in bounds)

    def prepare(self) -> None:
        """Let the parts load what they need."""
        prepare(self.parts)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return the sums; raises ValueError with the error of a part that fails."""
        sums = []
        for conversation, found in zip(conversations, parts_of(conversations, self.parts), strict=True):
            for failure in found.failures.values():
                raise ValueError(failure.error)
            values = np.zeros(conversation.num_turns, dtype=np.float32)  # [K]
            for part in self.parts:
                values += part.term.value(found.scores[part.name].values)
            sums.append(Scores(values=values))
        return sums


def report_on(
    reward: Reward,
    chats: Sequence[Conversation],
    others: Mapping[str, Reward],
    *,
    name: str = "",
    timeout_seconds: float = 30.0,
) -> RewardReport:
    """Return what is true of a reward on ordinary chats and on the attacks.

    chats: finished, none failed.  others: what it is correlated with; the reward's own name is left out.
    timeout_seconds: how long it may take over the contract's conversations, and over each call after that.
    """
    weighted = WeightedReward(reward=reward, label=name)
    report = _claims(weighted)
    # A model that has to be fetched first is nothing against the reward.
    prepare([weighted])
    try:
        call_within(timeout_seconds, check_reward, reward)
    except PluginError as error:
        return replace(report, broken=str(error))
    except TimeLimitError:
        return replace(report, broken=f"it took longer than {timeout_seconds:g} seconds over four conversations")
    _Clock(reward=reward, timeout_seconds=timeout_seconds).score_all(sample_conversations())
    clock, attacks = _Clock(reward=reward, timeout_seconds=timeout_seconds), attack_conversations()
    found = clock.score_all(chats) + clock.score_all(attacks)
    broken = _failure(found) or ("" if weighted.is_slow else _check(reward, [*chats, *attacks]))
    if broken:
        return replace(report, broken=broken)
    scores = [parts.scores[LABEL] for parts in found]
    chat_scores, attack_scores = scores[: len(chats)], scores[len(chats) :]
    chat_values = [_mean(its, weighted.range) for its in chat_scores]
    median = _median(chat_values)
    return replace(
        report,
        num_turns=sum(int(np.isfinite(its.values).sum()) for its in scores),
        outside=_outside([*chats, *attacks], scores, weighted.range),
        p50_ms=float(np.quantile(clock.milliseconds, 0.5)),
        p95_ms=float(np.quantile(clock.milliseconds, 0.95)),
        num_chats=len(chats),
        median=median,
        attacks=_ranked([_mean(its, weighted.range) for its in attack_scores], chat_values, median),
        length=_with_length(chats, chat_scores),
        correlations=_with_others(chats, chat_scores, {key: one for key, one in others.items() if key != reward.name}),
    )


# ----- measuring -----

LABEL = "measured"


@dataclass(slots=True, kw_only=True)
class _Clock:
    """Asks a reward, in calls as small as may be, and takes the time of each."""

    reward: Reward
    timeout_seconds: float
    milliseconds: list[float] = field(default_factory=list)  # of each conversation

    def score_all(self, conversations: Sequence[Conversation]) -> list[Parts]:
        found: list[Parts] = []
        for call in self._calls(conversations):
            start = time.perf_counter()
            weighted = WeightedReward(reward=self.reward, label=LABEL)
            found += parts_of(call, [weighted], timeout_seconds=self.timeout_seconds)
            self.milliseconds += [1000 * (time.perf_counter() - start) / len(call)] * len(call)
        return found

    def _calls(self, conversations: Sequence[Conversation]) -> list[list[Conversation]]:
        weighted = WeightedReward(reward=self.reward)
        if weighted.is_cheap:
            return [[conversation] for conversation in conversations]
        if weighted.scope == "group":
            return [list(group) for _, group in groupby(conversations, key=lambda conversation: conversation.group)]
        return [list(conversations)] if conversations else []


def _claims(weighted: WeightedReward) -> RewardReport:
    low, high = weighted.range
    return RewardReport(
        name=weighted.name,
        scope=getattr(weighted.reward, "scope", "conversation"),
        is_slow=weighted.is_slow,
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
    )


def _failure(found: Sequence[Parts]) -> str:
    return next((failure.error for parts in found for failure in parts.failures.values()), "")


def _check(reward: Reward, conversations: Sequence[Conversation]) -> str:
    try:
        check_reward(reward, conversations)
    except PluginError as error:
        return str(error)
    return ""


def _outside(
    conversations: Sequence[Conversation], scores: Sequence[Scores], bounds: tuple[float, float]
) -> tuple[str, ...]:
    low, high = bounds[0] - TOLERANCE, bounds[1] + TOLERANCE
    return tuple(
        f"{conversation.scenario.env} {conversation.id}, turn {turn}: {its.values[turn]:g}"
        for conversation, its in zip(conversations, scores, strict=True)
        for turn in np.flatnonzero((its.values < low) | (its.values > high))
    )


def _mean(scores: Scores, bounds: tuple[float, float]) -> float | None:
    """Return the mean of the numbers as they count; None: it applies to no turn."""
    values = scores.values[np.isfinite(scores.values)].astype(np.float64)
    return float(np.clip(values, *bounds).mean()) if len(values) else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _ranked(
    values: Sequence[float | None], chats: Sequence[float | None], median: float | None
) -> tuple[AttackResult, ...]:
    known = np.array([value for value in chats if value is not None])
    results = [
        AttackResult(
            name=attack.name,
            idea=attack.idea,
            value=value,
            share_below=float((known < value - TOLERANCE).mean()) if value is not None and len(known) else None,
            is_winning=value is not None and median is not None and value > median + TOLERANCE,
        )
        for attack, value in zip(ATTACKS, values, strict=True)
    ]
    return tuple(sorted(results, key=lambda one: -np.inf if one.value is None else one.value, reverse=True))


def _with_length(chats: Sequence[Conversation], scores: Sequence[Scores]) -> Correlation | None:
    lengths = np.array([len(words_of(turn.text)) for chat in chats for turn in chat.turns], dtype=np.float64)
    return _correlation("words of the message", _joined(scores), lengths)


def _with_others(
    chats: Sequence[Conversation], scores: Sequence[Scores], others: Mapping[str, Reward]
) -> tuple[Correlation, ...]:
    found = parts_of(chats, [WeightedReward(reward=other, label=name) for name, other in others.items()])
    mine = _joined(scores)
    correlations = [
        _correlation(name, mine, _joined([parts.scores[name] for parts in found]))
        for name in others
        if all(name in parts.scores for parts in found)
    ]
    return tuple(sorted((one for one in correlations if one), key=lambda one: abs(one.rho), reverse=True))


def _joined(scores: Sequence[Scores]) -> Numbers:
    return np.concatenate([np.empty(0), *(its.values for its in scores)])


def _correlation(name: str, one: Numbers, other: Numbers) -> Correlation | None:
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < FEWEST_PAIRS:
        return None
    rho = spearman(one[both], other[both])
    return None if np.isnan(rho) else Correlation(name=name, rho=rho, num_turns=int(both.sum()))
