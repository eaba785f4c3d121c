"""A language model says which of two dialogs follows a principle better.

Constitutional AI (Bai et al. 2022, arXiv:2212.08073): the label is P(A) / (P(A) + P(B)) of a two-option question, and
the principle is drawn anew for each label.  That both orders are asked and averaged is ours.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.errors import UserError
from selfplay.judge.constitution import Constitution, Principle, read_constitution
from selfplay.judge.options import LogProbs, OptionReader, Prompt, load_options
from selfplay.judge.prompts import LETTERS, fitting, pair_prompt, shorter_pair
from selfplay.judge.verdicts import RememberedOptions
from selfplay.reward_model.dialogs import Dialog
from selfplay.run_folder import RUNS

__all__ = ["FLOOR", "LABELLING", "PairJudge", "PairVerdict", "check_answers", "has_answer"]

logger = logging.getLogger(__name__)

# Below a thousandth for all options together, the model was not answering the question.
FLOOR = math.log(1e-3)
FEWEST = 4  # questions, of which most must have an answer
LABELLING = 64  # the same of a whole labelling: four blocks of it, which a bad beginning does not end
DRAW_PRINCIPLE = 2101  # first part of the spawn key
LETTERS_NAMED = "letters A and B"

Pair = tuple[Dialog, Dialog]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """What a judge said of two dialogs.

    Example: ``PairVerdict(probability_first=0.7, principle="answers", first_order=0.9, second_order=0.5)``: the first
    one has 0.9 when it is (A) and 0.5 when it is (B).
    """

    probability_first: float  # that the first is better: the mean of first_order and 1 - second_order, clamped
    principle: str  # its id
    first_order: float | None  # P(A) / (P(A) + P(B)) where the first dialog is (A); None: not asked
    second_order: float | None  # the same where the second dialog is (A)
    is_truncated: bool = False  # old messages had to go, for there was no room

    def detail(self) -> dict[str, Any]:
        """Return what a record of preferences keeps besides the probability."""
        measured = {"first_order": self.first_order, "second_order": self.second_order}
        return {**measured, "is_truncated": True} if self.is_truncated else measured


@dataclass(slots=True, kw_only=True, eq=False)
class PairJudge:
    """A language model as a judge of pairs, by the principles of a constitution."""

    model: str  # as model= takes it
    constitution: str | Path = ""  # a YAML file; "": the one that comes with the package
    principle: str = ""  # the id of one; "": drawn for each pair, by seed and content
    few_shot: int = 0  # how many of the constitution's examples stand before the question
    clamp: float = 1.0  # probabilities stay within 1 - clamp and clamp
    seed: int = 0
    cache: Path | None = None  # a file that remembers answers, such as RUN/verdicts.jsonl; None: memory only
    both_orders: bool = True  # false: one, drawn by seed and content
    runs: Path = RUNS  # where RUN[@STEP] is looked up
    reader: OptionReader | None = None  # what answers in place of the model
    patience: int = FEWEST  # questions of all calls together, from which on most must have had an answer
    _constitution: Constitution = field(init=False, repr=False)
    _options: OptionReader | None = field(init=False, repr=False, default=None)
    _num_asked: int = field(init=False, repr=False, default=0)
    _num_unanswered: int = field(init=False, repr=False, default=0)
    _unanswered: Prompt = field(init=False, repr=False, default=())  # the first

    def __post_init__(self) -> None:
        """Read the constitution; raises UserError for settings that cannot be."""
        if not 0.5 < self.clamp <= 1.0:
            raise UserError(f"clamp={self.clamp:g}: must be above 0.5 and at most 1")
        if self.few_shot < 0:
            raise UserError(f"few_shot={self.few_shot}: must be at least 0")
        self._constitution = read_constitution(str(self.constitution))
        self._constitution.shots(self.few_shot)
        if self.principle:
            self._constitution.principle(self.principle)

    @property
    def by(self) -> str:
        """Who says it, as records of preferences name it."""
        return f"judge:{self.model}"

    def prepare(self) -> None:
        """Load the model now, not when the first pair is judged."""
        if self._options is None:
            self._options = RememberedOptions(self.reader or load_options(self.model, runs=self.runs), self.cache)

    def judge(self, pairs: Sequence[Pair]) -> list[PairVerdict | None]:
        """Return a verdict a pair; None: the model put no probability on either letter, or there is no room for it.

        Swapping a pair gives 1 - probability_first.  Raises UserError if most questions of all calls so far, and
        those are `patience` or more, had no answer; warns once if some had none.
        """
        self.prepare()
        assert self._options is not None
        questions = [self._question(pair) for pair in pairs]
        prompts = [prompt for question in questions for prompt in question.prompts]
        answers = self._options.log_probs(prompts, LETTERS) if prompts else np.zeros((0, len(LETTERS)))
        self._count(prompts, answers)
        self._check(self.patience)
        verdicts: list[PairVerdict | None] = []
        for question in questions:
            num = len(question.prompts)
            verdicts.append(self._verdict(question, answers[:num]))
            answers = answers[num:]
        return verdicts

    def finish(self) -> None:
        """Raise UserError if most questions had no answer, and were too few for `judge` to say so."""
        self._check(FEWEST)

    def _count(self, prompts: Sequence[Prompt], answers: LogProbs) -> None:
        assert self._options is not None
        missing = np.flatnonzero(~has_answer(answers)).tolist()
        self._num_asked += len(prompts)
        if missing and not self._num_unanswered:
            self._unanswered = prompts[missing[0]]
            problem = _problem(self._options, len(missing), len(prompts), what=LETTERS_NAMED)
            logger.warning("%s: they have no verdict", problem)
        self._num_unanswered += len(missing)

    def _check(self, fewest: int) -> None:
        if self._options is not None and _is_mostly(self._num_unanswered, self._num_asked, fewest=fewest):
            problem = _problem(self._options, self._num_unanswered, self._num_asked, what=LETTERS_NAMED)
            raise _refusal(self._options, problem, self._unanswered)

    def _question(self, pair: Pair) -> _Question:
        draw = self._draw(pair)
        principle = self._constitution.principle(self.principle) if self.principle else self._drawn(draw)
        orders = (True, False) if self.both_orders else (bool(draw.integers(2)) == _is_first(pair),)
        shown = fitting(pair, has_room=lambda pair: self._has_room(pair, principle), shorten=shorter_pair)
        prompts = () if shown is None else tuple(self._prompt(shown, principle, order) for order in orders)
        return _Question(prompts=prompts, orders=orders, principle=principle.id, is_truncated=shown != pair)

    def _draw(self, pair: Pair) -> np.random.Generator:
        """Return a generator that is the same for a pair in either order, wherever it stands."""
        content = "".join(sorted(dialog.key for dialog in pair))
        number = int(hashlib.sha256(content.encode("ascii")).hexdigest()[:8], 16)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(DRAW_PRINCIPLE, number)))

    def _drawn(self, draw: np.random.Generator) -> Principle:
        principles = self._constitution.principles
        return principles[int(draw.integers(len(principles)))]

    def _prompt(self, pair: Pair, principle: Principle, is_first_a: bool) -> Prompt:
        shots = [
            (s, self._constitution.principle(s.principle).compare) for s in self._constitution.shots(self.few_shot)
        ]
        first, second = pair if is_first_a else pair[::-1]
        return pair_prompt(first, second, principle, shots=shots)

    def _has_room(self, pair: Pair, principle: Principle) -> bool:
        assert self._options is not None
        # Both orders, so that what is cut does not depend on which one comes first.
        return all(self._options.has_room(self._prompt(pair, principle, order)) for order in (True, False))

    def _verdict(self, question: _Question, answers: LogProbs) -> PairVerdict | None:
        """Return the verdict from [1 or 2 orders, 2 letters] log-probabilities."""
        if not question.prompts or not has_answer(answers).all():
            return None
        # p / (p + q) from logarithms, without leaving their range.
        of_a = (1.0 / (1.0 + np.exp(np.clip(answers[:, 1] - answers[:, 0], -700.0, 700.0)))).tolist()
        asked = dict(zip(question.orders, of_a, strict=True))
        of_first = [value if is_first_a else 1.0 - value for is_first_a, value in asked.items()]
        probability = sum(of_first) / len(of_first)
        return PairVerdict(
            probability_first=min(max(probability, 1.0 - self.clamp), self.clamp),
            principle=question.principle,
            first_order=asked.get(True),
            second_order=asked.get(False),
            is_truncated=question.is_truncated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A pair as it is asked."""

    prompts: tuple[Prompt, ...]  # one an order; none: there is no room
    orders: tuple[bool, ...]  # whether the first dialog is (A)
    principle: str
    is_truncated: bool


def has_answer(answers: LogProbs) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return [N] whether any probability to speak of is on the options [N, O]."""
    return np.asarray(np.logaddexp.reduce(answers, axis=1) >= FLOOR)


def check_answers(reader: OptionReader, prompts: Sequence[Prompt], answers: LogProbs, *, what: str) -> None:
    """Raise UserError, with what the model would rather say, if most questions got no answer; warn if some did."""
    missing = np.flatnonzero(~has_answer(answers))
    if not len(missing):
        return
    problem = _problem(reader, len(missing), len(prompts), what=what)
    if _is_mostly(len(missing), len(prompts), fewest=FEWEST):
        raise _refusal(reader, problem, prompts[missing[0]])
    logger.warning("%s: they have no verdict", problem)


def _is_mostly(num: int, num_all: int, *, fewest: int) -> bool:
    return num_all >= fewest and 2 * num > num_all


def _problem(reader: OptionReader, num: int, num_all: int, *, what: str) -> str:
    return (
        f"{reader.identity.partition(' ')[0]} put less than {math.exp(FLOOR):.1%} of probability on the {what} in "
        f"{num} of {num_all} questions"
    )


def _refusal(reader: OptionReader, problem: str, prompt: Prompt) -> UserError:
    instead = reader.said_instead(prompt)
    return UserError(f"{problem}; it would rather say {instead}: use another model as the judge, or few_shot=2")


def _is_first(pair: Pair) -> bool:
    return pair[0].key <= pair[1].key
