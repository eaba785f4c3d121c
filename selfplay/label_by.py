"""Labels without people: a known reward, or a language model, says which of two stored conversations is better."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from selfplay.dialog import SPLITS, Conversation, ScoredConversation, Split
from selfplay.errors import UserError
from selfplay.pair_sampling import PairToLabel, Sampling, dialogs_of, key_of_pair, key_of_preference, sample_pairs
from selfplay.preferences import Choice, Preference, append_entries, read_preferences
from selfplay.rescore import stored_conversations
from selfplay.reward_model.dialogs import Dialog
from selfplay.run_folder import now
from selfplay.run_reader import RunReader
from selfplay.score import WeightedReward, has_failed, prepare, reads_tokens, score
from selfplay.written import nearest

__all__ = [
    "AutoLabel",
    "AutoLabeller",
    "GoldLabeller",
    "JudgeLabeller",
    "LabelSummary",
    "Labelled",
    "OnProgress",
    "PairToLabel",
    "Splits",
    "is_mostly_ties",
    "label_run",
    "labels_text",
]

Splits = Literal["train", "held_out", "all"]
OnProgress = Callable[[int, int], None]  # pairs done, of how many

BLOCK = 8  # pairs that are labelled together, and stored as soon as they are
TIE = 1e-6  # rewards are summed in single precision
ID_DIGITS = 12
DRAW_ERROR = 2303  # first part of the spawn key


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoLabel:
    """What was said of a pair.

    Example: ``AutoLabel(probability=0.81, choice="left", principle="listens")``
    """

    probability: float  # how likely the left one is preferred
    choice: Choice
    principle: str | None = None  # id of what it was judged by
    detail: Mapping[str, Any] = field(default_factory=dict)  # JSON values: what was measured


class AutoLabeller(Protocol):
    """What says which of two is better."""

    @property
    def by(self) -> str:
        """What its preferences are stored under: "judge:smollm2-135m", "gold:question"."""
        ...

    @property
    def question(self) -> str:
        """What it is asked."""
        ...

    @property
    def needs_tokens(self) -> bool:
        """Whether it reads the tokens of turns."""
        ...

    def label(self, pairs: Sequence[PairToLabel]) -> list[AutoLabel | None]:
        """Return a label for each pair; None: it has nothing to say of that one."""
        ...

    def finish(self) -> None:
        """All pairs were asked about.  Raises UserError if the labeller proved to be of no use."""
        ...


class GoldLabeller:
    """Prefers the one with more of a known reward: the mean over the turns of the role that is judged.

    Of a judged turn it is that turn's own reward, as it was scored within the whole conversation.  Equal rewards are
    a tie.  A labeller that errs, as people do, draws what it says: with temperature T the left one is preferred with
    probability sigmoid(difference / T), and a share `noise` of all labels is drawn blindly.  The same pair gets the
    same label, whoever stands left.
    """

    needs_tokens: bool

    def __init__(
        self,
        rewards: Sequence[WeightedReward],
        *,
        name: str,
        noise: float = 0.0,
        temperature: float = 0.0,
        seed: int = 0,
        timeout_seconds: float = 30.0,
    ) -> None:
        """Raise UserError for no reward, or for one that compares conversations with others."""
        _check_rewards(rewards)
        self.by, self.question = f"gold:{name}", f"Which has more of {name}?"
        self.needs_tokens = any(reads_tokens(weighted.reward) for weighted in rewards)
        self._rewards, self._noise, self._temperature = list(rewards), noise, temperature
        self._seed, self._timeout_seconds = seed, timeout_seconds
        self._known: dict[str, ScoredConversation] = {}  # by id
        self._num_scored = 0
        self._is_prepared = False

    def label(self, pairs: Sequence[PairToLabel]) -> list[AutoLabel | None]:
        """Return labels; None: a conversation could not be scored.

        Raises UserError if none of the conversations could, nor any before.
        """
        self._score({one.id: one for pair in pairs for one in (pair.left, pair.right)})
        return [self._label(pair) for pair in pairs]

    def finish(self) -> None:
        """Do nothing: what cannot score anything was refused by then."""

    def _score(self, conversations: Mapping[str, Conversation]) -> None:
        new = [conversation for id, conversation in conversations.items() if id not in self._known]
        if not self._is_prepared:
            prepare(self._rewards)
            self._is_prepared = True
        scored = score(new, self._rewards, timeout_seconds=self._timeout_seconds)
        failed = [one.conversation for one in scored if has_failed(one.conversation)]
        self._num_scored += len(new) - len(failed)
        if failed and not self._num_scored:
            raise UserError(
                f"{self.by} could score none of {len(new)} conversations; {failed[0].id}: {failed[0].error}"
            )
        self._known |= {one.conversation.id: one for one in scored}

    def _label(self, pair: PairToLabel) -> AutoLabel | None:
        turns = pair.turns or (None, None)
        left, right = (
            _value(self._known[one.id], pair.focus, turn)
            for one, turn in zip((pair.left, pair.right), turns, strict=True)
        )
        if not math.isfinite(left - right):
            return None
        choice, is_blind = self._choice(pair, left - right)
        detail: dict[str, Any] = {"left": left, "right": right} | ({"is_blind": True} if is_blind else {})
        return AutoLabel(probability={"left": 1.0, "right": 0.0}.get(choice, 0.5), choice=choice, detail=detail)

    def _choice(self, pair: PairToLabel, difference: float) -> tuple[Choice, bool]:
        """Return the choice, and whether it was drawn blindly."""
        # Draws speak of the conversation whose id comes first, so that they do not know who stands left.
        names: tuple[Choice, Choice] = ("left", "right") if pair.left.id <= pair.right.id else ("right", "left")
        difference = difference if names[0] == "left" else -difference
        blind, coin = self._generator(pair).random(2).tolist()
        if blind < self._noise:
            return names[coin >= 0.5], True
        if abs(difference) <= TIE:
            return "tie", False
        return names[coin >= self._probability(difference)], False

    def _probability(self, difference: float) -> float:
        if self._temperature == 0:
            return float(difference > 0)
        return 0.5 + 0.5 * math.tanh(difference / (2 * self._temperature))  # the sigmoid, without overflow

    def _generator(self, pair: PairToLabel) -> np.random.Generator:
        focus, sides = key_of_pair(pair)
        content = zlib.crc32(json.dumps([self.by, focus, sorted(sides)]).encode("ascii"))
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(DRAW_ERROR, content)))


def _check_rewards(rewards: Sequence[WeightedReward]) -> None:
    if not rewards:
        raise UserError("gold needs a reward that says what is better, as in by=gold:question")
    for weighted in rewards:
        if weighted.scope in ("group", "batch"):
            raise UserError(
                f"reward {weighted.name!r} compares a conversation with the others of its {weighted.scope}, "
                "so it cannot say which of two is better; leave it out"
            )


def _value(scored: ScoredConversation, focus: str, turn: int | None) -> float:
    """Return the reward of a turn, or of the role's turns on average; NaN: it could not be scored."""
    if turn is not None:
        return float(scored.rewards[turn])
    own = [number for number, one in enumerate(scored.conversation.turns) if one.role == focus]
    return float(np.mean(scored.rewards[own], dtype=np.float64))


class Verdict(Protocol):
    """What a judge says of a pair; `PairVerdict` is one."""

    @property
    def probability_first(self) -> float:
        """How likely the first is preferred."""
        ...

    @property
    def principle(self) -> str:
        """Id of the principle it was judged by."""
        ...

    def detail(self) -> dict[str, Any]:
        """Return what else was measured: JSON values."""
        ...


class Judge(Protocol):
    """What compares dialogs; `PairJudge` is one."""

    @property
    def by(self) -> str:
        """What its preferences are stored under."""
        ...

    def judge(self, pairs: Sequence[tuple[Dialog, Dialog]]) -> Sequence[Verdict | None]:
        """Return a verdict for each pair; None: the judge gave no answer."""
        ...

    def finish(self) -> None:
        """All pairs were asked about.  Raises UserError if most had no answer."""
        ...


class JudgeLabeller:
    """Asks a language model; what it says is a soft label."""

    needs_tokens = False
    question = "Which follows the principle better?"

    def __init__(self, judge: Judge) -> None:
        self.by = judge.by
        self._judge = judge

    def label(self, pairs: Sequence[PairToLabel]) -> list[AutoLabel | None]:
        """Return labels; None: the judge gave no answer."""
        verdicts = self._judge.judge([dialogs_of(pair) for pair in pairs])
        return [None if verdict is None else _label_of(verdict) for verdict in verdicts]

    def finish(self) -> None:
        """Raise UserError if the judge had no answer to most of what it was asked."""
        self._judge.finish()


def _label_of(verdict: Verdict) -> AutoLabel:
    probability = verdict.probability_first
    choice: Choice = "tie" if abs(probability - 0.5) <= TIE else "left" if probability > 0.5 else "right"
    return AutoLabel(probability=probability, choice=choice, principle=verdict.principle, detail=verdict.detail())


# ----- labelling a run -----


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A pair and what was said of it."""

    pair: PairToLabel
    label: AutoLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary:
    """What one labelling of a run came to."""

    by: str
    labelled: tuple[Labelled, ...]
    num_skipped: int  # pairs of which nothing was said
    num_wanted: int  # that were asked for; fewer pairs: there were no more
    num_before: int  # labels of the same labeller that the run had before
    num_clear_before: int  # of these, the ones that prefer one

    @property
    def num_labels(self) -> int:
        """Labels that were stored."""
        return len(self.labelled)

    @property
    def num_ties(self) -> int:
        """Labels that prefer neither."""
        return sum(one.label.choice == "tie" for one in self.labelled)

    @property
    def has_clear(self) -> bool:
        """Whether any of the labeller's labels of the run prefers one."""
        return self.num_clear_before > 0 or self.num_ties < self.num_labels


def label_run(
    folder: Path,
    labeller: AutoLabeller,
    *,
    n: int,
    sampling: Sampling,
    split: Splits = "train",
    on_progress: OnProgress | None = None,
) -> LabelSummary:
    """Draw n pairs of a run, ask about them, and add what is said to its preferences.

    Labels are stored block by block: an interrupt loses at most the last.  No pair that this labeller labelled before
    comes again, so that the same call goes on.  Raises UserError if there is no pair.
    """
    before = [one for one in read_preferences(folder).preferences if one.by == labeller.by]
    conversations = _conversations(folder, split, with_tokens=labeller.needs_tokens)
    _check_focus(sampling.focus, conversations)
    exclude = {key_of_preference(one) for one in before}
    pairs = sample_pairs(conversations, n=n, sampling=sampling, exclude=exclude)
    if not pairs:
        raise UserError(_why_no_pair(folder, labeller.by, sampling, num_before=len(before)))
    found: list[Labelled] = []
    num_done = 0
    for block in _blocks(pairs):
        labels = labeller.label(block)
        new = [Labelled(pair=pair, label=label) for pair, label in zip(block, labels, strict=True) if label is not None]
        append_entries(folder, [_preference(one, labeller) for one in new])
        found += new
        num_done += len(block)
        if on_progress is not None:
            on_progress(num_done, len(pairs))
    labeller.finish()
    return LabelSummary(
        by=labeller.by,
        labelled=tuple(found),
        num_skipped=len(pairs) - len(found),
        num_wanted=n,
        num_before=len(before),
        num_clear_before=sum(one.choice != "tie" for one in before),
    )


def labels_text(num: int, num_ties: int) -> str:
    """Return how many labels there are, and how many of them prefer neither: ``800 labels, 312 of them ties``."""
    what = "1 label" if num == 1 else f"{num} labels"
    return f"{what}, {num_ties} of them {'a tie' if num_ties == 1 else 'ties'}" if num_ties else what


def is_mostly_ties(num: int, num_ties: int) -> bool:
    """Whether over half of the labels prefer neither, so that little can be learnt from them."""
    return 2 * num_ties > num


def _conversations(folder: Path, split: Splits, *, with_tokens: bool) -> list[Conversation]:
    wanted: tuple[Split, ...] = SPLITS if split == "all" else (split,)
    stored = stored_conversations(RunReader(folder), with_tokens=with_tokens)
    found = [one.conversation for one in stored if one.conversation.scenario.split in wanted]
    if not found:
        raise UserError(f"run {folder} holds no conversation that did not fail with split={split}")
    return found


def _check_focus(focus: str, conversations: Sequence[Conversation]) -> None:
    roles = list(dict.fromkeys(role for one in conversations for role in one.scenario.roles))
    if focus and focus not in roles:
        raise UserError(
            f"focus={focus}: the run's roles are {', '.join(roles)}{nearest(focus, roles, is_list_shown=False)}"
        )


def _why_no_pair(folder: Path, by: str, sampling: Sampling, *, num_before: int) -> str:
    if num_before:
        return f"{by} labelled every pair of run {folder} that there is: {num_before} before, no other is left"
    if sampling.unit == "turn":
        return (
            f"in run {folder} no role answered one and the same past in two ways; write unit=conversation, or play "
            "several conversations on each scenario"
        )
    return (
        f"no two conversations of run {folder} are on one scenario and differ; play or train with group_size=2 or "
        "more, which plays so many on each"
    )


def _blocks(pairs: Sequence[PairToLabel]) -> Iterator[list[PairToLabel]]:
    waiting = iter(pairs)
    while block := list(itertools.islice(waiting, BLOCK)):
        yield block


def _preference(one: Labelled, labeller: AutoLabeller) -> Preference:
    pair, label, at = one.pair, one.label, now()
    disagreement = {} if pair.disagreement is None else {"disagreement": pair.disagreement}
    return Preference(
        at=at,
        left=pair.left.id,
        right=pair.right.id,
        focus=pair.focus,
        question=labeller.question,
        choice=label.choice,
        by=labeller.by,
        probability=None if label.choice == "both_bad" else label.probability,
        turns=pair.turns,
        principle=label.principle,
        sampler=pair.sampler,
        detail={**label.detail, **disagreement},
        # Both roles of a pair may be judged within a millisecond.
        stored_id=_id(at, labeller.by, pair),
    )


def _id(at: str, by: str, pair: PairToLabel) -> str:
    content = json.dumps([at, by, pair.left.id, pair.right.id, pair.focus, pair.turns])
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:ID_DIGITS]
