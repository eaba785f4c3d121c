"""A language model marks single messages: the expected value of 1 to 5 under its own probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfplay.judge.constitution import Constitution, Principle, Rubric, read_constitution
from selfplay.judge.options import OptionReader, load_options
from selfplay.judge.pairs import check_answers, has_answer
from selfplay.judge.prompts import MARKS, fitting, rubric_prompt, shorter_turn
from selfplay.judge.verdicts import RememberedOptions
from selfplay.reward_model.dialogs import Dialog
from selfplay.run_folder import RUNS

__all__ = ["RubricJudge"]

GRADES = np.array([float(mark) for mark in MARKS])


@dataclass(slots=True, kw_only=True, eq=False)
class RubricJudge:
    """A language model as a judge of messages, by a rubric of a constitution or by one of its principles."""

    model: str  # as model= takes it
    rubric: str = "good_reply"  # its id
    principle: str = ""  # the id of a principle to mark by, in place of the rubric
    constitution: str | Path = ""  # a YAML file; "": the one that comes with the package
    cache: Path | None = None  # a file that remembers answers; None: memory only
    runs: Path = RUNS  # where RUN[@STEP] is looked up
    reader: OptionReader | None = None  # what answers in place of the model
    _rubric: Rubric = field(init=False, repr=False)
    _options: OptionReader | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Read the rubric; raises UserError if there is none of that name."""
        self._rubric = _rubric(read_constitution(str(self.constitution)), self.rubric, self.principle)

    def prepare(self) -> None:
        """Load the model now, not when the first message is judged."""
        if self._options is None:
            self._options = RememberedOptions(self.reader or load_options(self.model, runs=self.runs), self.cache)

    def marks(self, dialogs: Sequence[Dialog]) -> npt.NDArray[np.float64]:
        """Return the mark of each dialog's last message, [N] from 1 to 5.

        NaN: the model put no probability on any number, or there is no room.  Raises UserError if that is most of them.
        """
        self.prepare()
        options = self._options
        assert options is not None
        shown = [fitting(dialog, has_room=self._has_room, shorten=shorter_turn) for dialog in dialogs]
        places = [place for place, dialog in enumerate(shown) if dialog is not None]
        prompts = [rubric_prompt(dialog, self._rubric) for dialog in shown if dialog is not None]
        found = np.full(len(dialogs), np.nan)
        if prompts:
            answers = options.log_probs(prompts, MARKS)  # [N, 5]
            check_answers(options, prompts, answers, what=f"numbers {MARKS[0]} to {MARKS[-1]}")
            shares = np.exp(answers - np.logaddexp.reduce(answers, axis=1)[:, None])
            found[places] = np.where(has_answer(answers), shares @ GRADES, np.nan)
        return found

    def _has_room(self, dialog: Dialog) -> bool:
        assert self._options is not None
        return self._options.has_room(rubric_prompt(dialog, self._rubric))


def _rubric(constitution: Constitution, rubric: str, principle: str) -> Rubric:
    return _rubric_of(constitution.principle(principle)) if principle else constitution.rubric(rubric)


def _rubric_of(principle: Principle) -> Rubric:
    """Return a principle, which compares, as a rubric for one message."""
    return Rubric(
        id=principle.id,
        asks=f'Messages are compared by: "{principle.compare}" How well does the last message of the Speaker do?',
        worst="as badly as a message can",
        best="as well as a message can",
    )
