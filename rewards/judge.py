"""What a language model thinks of a message, as a reward."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from selfplay.dialog import Conversation, Scores

if TYPE_CHECKING:
    from selfplay.judge.rubric import RubricJudge

logger = logging.getLogger(__name__)

LOWEST, HIGHEST = 1.0, 5.0  # marks


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeReward:
    """What mark a language model gives a message.

    Definition: `model` is shown what reached the speaker, what it said, and its message, and is asked for a mark from 1
    to 5 by a rubric (or by the principle of an id) of a constitution, ours or that of a file.  The score is the
    expected mark under the model's probabilities of the five numbers, less 1, over 4.  It does not apply where these
    get less than a thousandth of the probability together.
    Range: 0 to 1; a small model uses a tenth of that, so its differences count and not its level.
    Source: Y. Bai et al., Constitutional AI, 2022, feedback from option probabilities; the expected mark as in Y. Liu
    et al., G-Eval, 2023.  Rubrics and principles are our own words.
    Exploit: whatever flatters the judge: length, a confident tone, words of the rubric, text that tells the judge what
    to say; a model that judges itself prefers its own phrases.  Small models mark the form and not the sense.
    Guard: a judge of another family, best a larger one; the repetition rewards, a held-out judge, KL control.
    """

    name: ClassVar[str] = "judge"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"
    is_slow: ClassVar[bool] = True

    model: str = "smollm2-135m"  # as for playing; the larger, the better it judges
    rubric: str = "good_reply"  # good_reply, sense or kindness, or one of the file's
    principle: str = ""  # a principle's id, in place of the rubric
    constitution: str = ""  # a YAML file of principles and rubrics
    cache: str = ""  # a file that remembers marks over runs

    def __post_init__(self) -> None:
        """Refuse what the constitution does not hold, before anything is loaded."""
        if self.constitution:
            # A worker has another current folder, and a run that is gone on with may have.
            object.__setattr__(self, "constitution", str(Path(self.constitution).expanduser().absolute()))
        self._judge()

    def prepare(self) -> None:
        """Fetch and load the model now, not when the first conversation waits for it."""
        self._judge().prepare()

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn, and the mark that it comes from."""
        from selfplay.reward_model.dialogs import dialog_of

        self._warn_of_kin(conversations)
        dialogs = [
            dialog_of(conversation, turn.role, through=number)
            for conversation in conversations
            for number, turn in enumerate(conversation.turns)
        ]
        marks = self._judge().marks(dialogs) if dialogs else np.zeros(0)
        ends = np.cumsum([conversation.num_turns for conversation in conversations])
        return [_scores(part) for part in np.split(marks, ends[:-1])] if len(ends) else []

    def _judge(self) -> RubricJudge:
        return _rubric_judge(self)

    def _warn_of_kin(self, conversations: Sequence[Conversation]) -> None:
        speakers = {player.model for conversation in conversations for player in conversation.players.values()}
        for speaker in sorted(speakers - {""}):
            _warn_once(self.model, speaker)


@lru_cache(maxsize=4)
def _rubric_judge(reward: JudgeReward) -> RubricJudge:
    # Imported when used: configuration and yaml are of no use to those who only list rewards.
    from selfplay.judge.rubric import RubricJudge

    return RubricJudge(
        model=reward.model,
        rubric=reward.rubric,
        principle=reward.principle,
        constitution=reward.constitution,
        cache=Path(reward.cache).expanduser() if reward.cache else None,
    )


@lru_cache(maxsize=256)
def _warn_once(judge: str, speaker: str) -> None:
    from selfplay.judge.families import kinship

    problem = kinship(judge, speaker)
    if problem:
        logger.warning("%s", problem)


def _scores(marks: np.ndarray) -> Scores:
    values = ((marks - LOWEST) / (HIGHEST - LOWEST)).astype(np.float32)
    why = tuple("" if np.isnan(mark) else f"{mark:.1f} of {HIGHEST:.0f}" for mark in marks.tolist())
    return Scores(values=values, why=why)
