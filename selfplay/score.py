"""From conversations to scored ones: every reward's numbers a turn, weighted and summed; nothing is discounted here.

A turn's reward is the sum of weight x raw number, each number clipped to its reward's range first; where that sum is
positive, it is multiplied by every gate's number, clipped to [0, 1].  A penalty, whose range ends at 0, is as a gate
1 + its number: open where it finds nothing.

`score` does it in one place.  `parts_of` and `total` are its two halves, for work that is spread: cheap rewards run
where conversations are played, slow ones and those that compare conversations elsewhere, and the sum is made at last.

Legend: K turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from selfplay.dialog import (
    REASONS_OF_STATUS,
    Conversation,
    Floats,
    Outcome,
    Reason,
    ScoredConversation,
    Scores,
)
from selfplay.errors import UserError
from selfplay.interfaces import Reward
from selfplay.plugins import own_line
from selfplay.time_limit import NO_LIMIT, TimeLimitError, call_within

Scope = Literal["turn", "conversation", "group", "batch"]

# Metrics of all rewards together: reward/total.
RESERVED = ("total", "per_conversation")
# Fact of a conversation that failed in scoring: how it had ended.
ENDED = "ended"
# A reward that hangs on two conversations of a call hangs on all: the others fail without waiting for each.
MAX_TIMEOUTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """What a reward's numbers count for in the sum of a turn.

    Example: ``Term(weight=0.5, range=(0.0, 1.0))``
    """

    weight: float = 1.0  # 0: measured only
    range: tuple[float, float] = (-np.inf, np.inf)  # what numbers are clipped to before they count
    is_gate: bool = False  # it multiplies positive sums by its number in [0, 1], and has no weight
    source: str = ""  # "sha256:..." of the file it was written in; "": it comes from a package

    def value(self, raw: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
        """Return what raw numbers [K] add [K], or as a gate multiply by; a NaN neither adds nor takes away."""
        low, high = self.range
        numbers = np.asarray(raw)
        counted: npt.NDArray[np.floating[Any]] = np.minimum(np.maximum(numbers, low), high)
        if not self.is_gate:
            return np.where(np.isnan(numbers), 0.0, self.weight * counted)
        if high <= 0.0:
            counted = 1.0 + counted
        return np.where(np.isnan(numbers), 1.0, np.minimum(np.maximum(counted, 0.0), 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedReward:
    """A reward and what it counts for; weight 0: it is measured only.

    A reward may say more of itself than `Reward` asks: ``is_slow`` (default False), that it belongs in a reward worker;
    ``scope`` (default "conversation"), what one call must hold: a turn's conversation, the conversation, its whole
    group, or the whole step; ``range``, the bounds that its numbers are clipped to before they count; ``prepare()``,
    which loads what it needs.
    """

    reward: Reward
    weight: float = 1.0
    label: str = ""  # what its part is recorded as; "": the reward's own name
    role: str = ""  # whose turns it is about; "": everybody's
    is_gate: bool = False  # it multiplies what the others add up to, by its number in [0, 1]; its weight means nothing
    source: str = ""  # "sha256:..." of the file it was written in; "": it comes from a package

    @property
    def name(self) -> str:
        """Name under which the part is recorded."""
        return self.label or self.reward.name

    @property
    def is_slow(self) -> bool:
        """Whether it belongs in a reward worker."""
        return bool(getattr(self.reward, "is_slow", False))

    @property
    def scope(self) -> Scope:
        """What one call must hold: a reward of turns needs their conversation."""
        scope: Scope = getattr(self.reward, "scope", "conversation")
        return "conversation" if scope == "turn" else scope

    @property
    def range(self) -> tuple[float, float]:
        """The bounds its numbers are clipped to; infinite: there are none."""
        low, high = getattr(self.reward, "range", (-np.inf, np.inf))
        return float(low), float(high)

    @property
    def term(self) -> Term:
        """What its numbers count for."""
        return Term(weight=self.weight, range=self.range, is_gate=self.is_gate, source=self.source)

    @property
    def is_cheap(self) -> bool:
        """Whether it can be computed where a conversation is played, as soon as that has ended."""
        return not self.is_slow and self.scope == "conversation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a reward has no numbers for a conversation."""

    reason: Reason  # reward_error or timeout
    error: str  # one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What some rewards say of one conversation, by name; both empty: it had failed before."""

    scores: Mapping[str, Scores] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)


def reads_tokens(reward: Reward) -> bool:
    """Whether a reward may read the tokens of a turn; those of the package say so with ``needs_tokens``."""
    is_own = type(reward).__module__.startswith("rewards.")
    return bool(getattr(reward, "needs_tokens", not is_own))


def prepare(rewards: Sequence[WeightedReward]) -> None:
    """Let rewards fetch and load what they need, such as a model, before the first conversation waits for it."""
    for weighted in rewards:
        make_ready = getattr(weighted.reward, "prepare", None)
        if make_ready is not None:
            make_ready()


def score(
    conversations: Sequence[Conversation], rewards: Sequence[WeightedReward], *, timeout_seconds: float = NO_LIMIT
) -> list[ScoredConversation]:
    """Return the conversations with their rewards, in order.

    A failed conversation is not scored.  Where a reward raises, takes too long, or returns numbers that are infinite or
    not one a turn, that conversation comes back as failed ("reward_error" or "timeout") with the error recorded; the
    others are scored all the same.  A failed conversation's rewards are NaN.  Raises UserError if two rewards have one
    name.
    """
    return total(conversations, parts_of(conversations, rewards, timeout_seconds=timeout_seconds), rewards)


def parts_of(
    conversations: Sequence[Conversation],
    rewards: Sequence[WeightedReward],
    *,
    timeout_seconds: float = NO_LIMIT,
    timeouts: Counter[str] | None = None,
) -> list[Parts]:
    """Return what each reward says of each conversation, in order.

    Cheap rewards are asked about one conversation at a time, slow ones about all at once, those of a group about each
    group, those of a batch about everything.  `timeout_seconds` limits each such call; a reward that takes longer is
    not asked again about the same conversations, and after two calls that took too long about none of the rest.
    timeouts: how often each has taken too long so far, counted on; None: this call stands alone.
    """
    _check_names(rewards)
    counts: Counter[str] = Counter() if timeouts is None else timeouts
    playable = [i for i, conversation in enumerate(conversations) if not has_failed(conversation)]
    found = [_Ask(weighted, conversations, timeout_seconds, counts).all(playable) for weighted in rewards]
    return [
        Parts(
            scores={w.name: f.scores[i] for w, f in zip(rewards, found, strict=True) if i in f.scores},
            failures={w.name: f.failures[i] for w, f in zip(rewards, found, strict=True) if i in f.failures},
        )
        for i in range(len(conversations))
    ]


def merged(*parts: Sequence[Parts]) -> list[Parts]:
    """Return what several places found of the same conversations, put together."""
    return [
        Parts(
            scores={name: scores for one in same for name, scores in one.scores.items()},
            failures={name: failure for one in same for name, failure in one.failures.items()},
        )
        for same in zip(*parts, strict=True)
    ]


def total(
    conversations: Sequence[Conversation], parts: Sequence[Parts], rewards: Sequence[WeightedReward]
) -> list[ScoredConversation]:
    """Return conversations with their rewards: each part clipped to its reward's range, weighted and summed.

    The parts are kept as they were found, not clipped.  The result does not depend on where they were found.
    """
    return [_total(conversation, its, rewards) for conversation, its in zip(conversations, parts, strict=True)]


def has_failed(conversation: Conversation) -> bool:
    """Whether a conversation failed, in play or in scoring."""
    return conversation.outcome is not None and conversation.outcome.status == "failed"


def as_played(conversation: Conversation) -> Conversation:
    """Return a conversation that failed in scoring as it was before; any other as it is."""
    outcome = conversation.outcome
    if outcome is None or outcome.status != "failed" or ENDED not in outcome.facts:
        return conversation
    reason = outcome.facts[ENDED]
    status = next(status for status, reasons in REASONS_OF_STATUS.items() if reason in reasons)
    facts = {name: fact for name, fact in outcome.facts.items() if name != ENDED}
    return replace(
        conversation, outcome=Outcome(status=status, reason=reason, facts=facts, payoff=outcome.payoff), error=None
    )


def failed_share(scored: Sequence[ScoredConversation]) -> float:
    """Return the share of conversations that failed; 0 if there are none."""
    return sum(has_failed(one.conversation) for one in scored) / max(1, len(scored))


def check_failures(scored: Sequence[ScoredConversation], max_failed_share: float) -> None:
    """Raise UserError, with the first error, if more conversations failed than may.

    One alone stops nothing, however few a step has, unless the share is 0.
    """
    failed = [one.conversation for one in scored if has_failed(one.conversation)]
    if failed_share(scored) <= max_failed_share or (len(failed) == 1 and max_failed_share > 0):
        return
    raise UserError(
        f"{len(failed)} of {len(scored)} conversations failed, more than max_failed_share={max_failed_share:g}; "
        f"the first, {failed[0].id}: {failed[0].error or 'no error was recorded'}"
    )


def _check_names(rewards: Sequence[WeightedReward]) -> None:
    names = [weighted.name for weighted in rewards]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two rewards are called {twice!r}; parts are recorded by name, so give one of them another")
    taken = [name for name in names if name in RESERVED]
    if taken:
        raise UserError(f"no reward can be called {taken[0]!r}: the sum of all is recorded under that name")


@dataclass(slots=True)
class _Ask:
    """Asks one reward about some of the conversations."""

    weighted: WeightedReward
    conversations: Sequence[Conversation]
    timeout_seconds: float
    timeouts: Counter[str]
    scores: dict[int, Scores] = field(default_factory=dict)  # index of the conversation -> what was said of it
    failures: dict[int, Failure] = field(default_factory=dict)

    def all(self, playable: Sequence[int]) -> _Ask:
        for call in self._calls(playable):
            self._ask(call)
        return self

    def _calls(self, playable: Sequence[int]) -> list[list[int]]:
        if self.weighted.is_cheap:
            return [[i] for i in playable]
        if self.weighted.scope != "group":
            return [list(playable)] if playable else []

        def group_of(i: int) -> str:
            return self.conversations[i].group

        return [list(group) for _, group in groupby(sorted(playable, key=group_of), key=group_of)]

    def _ask(self, call: Sequence[int]) -> None:
        if self.timeouts[self.weighted.name] >= MAX_TIMEOUTS:
            self._fail(call, "timeout", f"was not asked: it took too long {MAX_TIMEOUTS} times before")
            return
        asked = [self.conversations[i] for i in call]
        try:
            scores: Any = call_within(self.timeout_seconds, self.weighted.reward.score, asked)
        except TimeLimitError:
            self.timeouts[self.weighted.name] += 1
            self._fail(call, "timeout", f"took longer than {self.timeout_seconds:g} seconds")
            return
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (it may raise anything: sys.exit(), a cancelled task)
            self._ask_apart(call, f"raised {type(error).__name__}: {error}{own_line(self.weighted.reward, error)}")
            return
        if not isinstance(scores, Sequence) or len(scores) != len(call):
            count = len(scores) if isinstance(scores, Sequence) else type(scores).__name__
            self._ask_apart(call, f"returned {count} for {len(call)} conversations")
            return
        for i, its in zip(call, scores, strict=True):
            self._take(i, its)

    def _ask_apart(self, call: Sequence[int], error: str) -> None:
        """Find out whose fault an error is where that can be known; else it is everybody's."""
        if self.weighted.scope != "conversation" or len(call) == 1:
            self._fail(call, "reward_error", error)
            return
        for i in call:
            self._ask([i])

    def _take(self, i: int, scores: Any) -> None:
        problem = _problem(scores, self.conversations[i].num_turns)
        if problem is None:
            self.scores[i] = self._of_its_role(scores, self.conversations[i])
        else:
            self._fail([i], "reward_error", f"returned {problem}")

    def _of_its_role(self, scores: Scores, conversation: Conversation) -> Scores:
        role = self.weighted.role
        if not role:
            return scores
        is_other = np.array([turn.role != role for turn in conversation.turns], dtype=bool)  # [K]
        return Scores(
            values=np.where(is_other, np.float32(np.nan), scores.values),
            why=tuple("" if other else why for other, why in zip(is_other, scores.why, strict=True))
            if scores.why
            else (),
            parts={name: np.where(is_other, np.float32(np.nan), values) for name, values in scores.parts.items()},
        )

    def _fail(self, call: Iterable[int], reason: Reason, error: str) -> None:
        line = " ".join(f"reward {self.weighted.name!r} {error}".split())
        self.failures |= dict.fromkeys(call, Failure(reason=reason, error=line))


def _problem(scores: Any, num_turns: int) -> str | None:
    if not isinstance(scores, Scores) or not isinstance(scores.values, np.ndarray):
        return f"{type(getattr(scores, 'values', scores)).__name__} instead of Scores with an array"
    values = scores.values  # [K]
    if values.shape != (num_turns,):
        return f"shape {values.shape} for {num_turns} turns"
    if values.dtype.kind != "f":
        return f"numbers of type {values.dtype} instead of floats"
    # What is stored and learnt from is float32, where 1e39 is infinite.
    with np.errstate(over="ignore"):
        if np.isinf(values.astype(np.float32)).any():
            return "an infinite number"
    return _problem_of_reasons(scores.why, num_turns) or _problem_of_parts(scores.parts, num_turns)


def _problem_of_reasons(why: Any, num_turns: int) -> str | None:
    if not isinstance(why, tuple | list) or not all(isinstance(text, str) for text in why):
        return f"why={why!r:.80} instead of a tuple of texts"
    return None if len(why) in (0, num_turns) else f"{len(why)} reasons for {num_turns} turns"


def _problem_of_parts(parts: Any, num_turns: int) -> str | None:
    if not isinstance(parts, Mapping):
        return f"{type(parts).__name__} instead of a mapping of parts"
    for name, values in parts.items():
        if not isinstance(values, np.ndarray) or values.shape != (num_turns,) or values.dtype.kind != "f":
            return f"a part {name!r} that is no array of {num_turns} floats"
        if np.isinf(values).any():
            return f"an infinite number in its part {name!r}"
    return None


def _total(conversation: Conversation, parts: Parts, rewards: Sequence[WeightedReward]) -> ScoredConversation:
    failures = [parts.failures[weighted.name] for weighted in rewards if weighted.name in parts.failures]
    if failures:
        conversation = _fail(conversation, failures[0])
    return ScoredConversation(
        conversation=conversation,
        rewards=_sum(conversation, parts, rewards),
        parts={
            name: scores
            for weighted in rewards
            if weighted.name in parts.scores
            for name, scores in _with_its_parts(weighted.name, parts.scores[weighted.name])
        },
    )


def _with_its_parts(name: str, scores: Scores) -> Iterator[tuple[str, Scores]]:
    """Yield a reward's numbers, then what else it measured, as "NAME.PART"."""
    yield name, Scores(values=scores.values, why=scores.why)
    for part, values in scores.parts.items():
        yield f"{name}.{part}", Scores(values=values)


def _sum(conversation: Conversation, parts: Parts, rewards: Sequence[WeightedReward]) -> Floats:
    if has_failed(conversation):
        return np.full(conversation.num_turns, np.nan, dtype=np.float32)
    rewarded = np.zeros(conversation.num_turns, dtype=np.float32)  # [K]
    gate = np.ones(conversation.num_turns, dtype=np.float32)  # [K]
    for weighted in rewards:
        value = weighted.term.value(parts.scores[weighted.name].values)
        if weighted.is_gate:
            gate *= value
        else:
            rewarded += value
    # A gate takes away and never forgives: closed, it would turn a negative sum into a better one.
    return np.where(rewarded > 0, rewarded * gate, rewarded)


def _fail(conversation: Conversation, failure: Failure) -> Conversation:
    played = conversation.outcome
    # How it was played stays known: a mended reward may score it later.
    facts = {} if played is None else {**played.facts, ENDED: played.reason}
    payoff = {} if played is None else played.payoff
    return replace(
        conversation,
        outcome=Outcome(status="failed", reason=failure.reason, facts=facts, payoff=payoff),
        error=f"{failure.reason}: {failure.error} (seed {conversation.scenario.seed})",
    )
