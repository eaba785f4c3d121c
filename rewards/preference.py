"""A reward model as a reward: what people, a judge or a gold function preferred, learnt and asked again.

Legend: K turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from selfplay.dialog import Conversation, Floats, Scores
from selfplay.errors import UserError
from selfplay.reward_model.dialogs import Dialog, dialog_of

if TYPE_CHECKING:
    from selfplay.reward_model.model import RewardModel, Verdict

__all__ = ["PreferenceReward"]

# Numbers have mean 0 and deviation 1 on the reference's turns: what is farther out is nothing learnt.
MOST = 10.0
MOST_LOADED = 4
# What else is recorded of a turn, as rm:NAME.PART.
SPREAD, HELD_OUT, GAP = "spread", "held_out", "gap"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceReward:
    """What a reward model makes of a message, or of all that a role said.

    Definition: the number of the reward model in `path` (a folder that `reward train` wrote, or its name under
    reward_models/), seen from each role: its mean over the members, minus `pessimism` times their deviation.  A model
    that reads turns gives one number a turn; one that reads conversations gives each role one, at its last turn.
    Also recorded, and never counted: "spread", the members' deviation; where the folder holds a twin, trained on the
    other half of the labels, "held_out", what that says, and "gap", how much more this one says.
    Range: -10 to 10; the turns it was normalised on (of a model of conversations: those) have mean 0 and deviation 1.
    Source: Christiano et al. 2017, arXiv:1706.03741; Stiennon et al. 2020, arXiv:2009.01325; the twin: Bai et al. 2022,
    arXiv:2204.05862, section 4.2.
    Exploit: whatever it was not trained on and happens to like; the longer a policy is trained, the more it finds.
    Guard: KL control; `pessimism`; fresh labels of what the newest policy says; the alarm proxy_gap.
    """

    name: ClassVar[str] = "rm"
    range: ClassVar[tuple[float, float]] = (-MOST, MOST)
    scope: ClassVar[str] = "conversation"
    is_slow: ClassVar[bool] = True

    path: str
    pessimism: float = 0.0  # deviations of the members to take off; needs an ensemble

    def __post_init__(self) -> None:
        """Refuse what is no reward model before anything is played; nothing heavy is loaded."""
        from selfplay.reward_model.folder import info_of

        if not math.isfinite(self.pessimism) or self.pessimism < 0:
            raise UserError(f"pessimism={self.pessimism} must be a number of at least 0")
        folder = _file(self.path).parent
        if self.pessimism and info_of(folder).num_members == 1:
            raise UserError(
                f"pessimism={self.pessimism:g}: {folder.name} has one member, and so no deviation to take off; "
                "train one with ensemble=3"
            )
        # A run that goes on from another folder, or in another process, finds it all the same.
        object.__setattr__(self, "path", str(folder))

    @property
    def file(self) -> Path:
        """What tells this model from others of its name."""
        return _file(self.path)

    def prepare(self) -> None:
        """Load the model, and its twin, now, not when the first conversation waits for them."""
        _loaded(self.path)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn; all dialogs of a call are read together."""
        model = _loaded(self.path)
        mean, spread = _numbers(model, conversations)
        values = [self._value(one, its) for one, its in zip(mean, spread, strict=True)]
        parts: list[dict[str, Floats]] = [{} if np.isnan(its).all() else {SPREAD: its} for its in spread]
        if model.twin is not None:
            others, _ = _numbers(model.twin, conversations)
            for own, one, other in zip(parts, mean, others, strict=True):
                own |= {HELD_OUT: other, GAP: one - other}
        return [Scores(values=its, parts=own) for its, own in zip(values, parts, strict=True)]

    def _value(self, mean: Floats, spread: Floats) -> Floats:
        lowered = mean - np.float32(self.pessimism) * spread if self.pessimism else mean
        return np.clip(lowered, np.float32(-MOST), np.float32(MOST))


def _numbers(model: RewardModel, conversations: Sequence[Conversation]) -> tuple[list[Floats], list[Floats]]:
    """Return what a model says of each turn [K] and how far its members are apart [K]; NaN where it says nothing."""
    places = _places(conversations)
    dialogs = [dialog for _, _, dialog in places]
    if model.info.scope == "turn":
        found = model.turn_values(dialogs)
    else:
        found = [[verdict] for verdict in model.values(dialogs)]
    means = [np.full(one.num_turns, np.nan, dtype=np.float32) for one in conversations]
    spreads = [np.full(one.num_turns, np.nan, dtype=np.float32) for one in conversations]
    is_ensemble = model.info.num_members > 1
    for (number, turns, _), verdicts in zip(places, found, strict=True):
        for turn, verdict in _last_of(turns, verdicts):
            means[number][turn] = verdict.mean
            if is_ensemble:
                spreads[number][turn] = verdict.std
    return means, spreads


def _places(conversations: Sequence[Conversation]) -> list[tuple[int, list[int], Dialog]]:
    """Return for each conversation and role that speaks in it: the conversation's number, its turns, and the dialog."""
    return [
        (number, [k for k, turn in enumerate(conversation.turns) if turn.role == role], dialog_of(conversation, role))
        for number, conversation in enumerate(conversations)
        for role in dict.fromkeys(turn.role for turn in conversation.turns)
    ]


def _last_of(turns: Sequence[int], verdicts: Sequence[Verdict]) -> list[tuple[int, Verdict]]:
    # One verdict for many turns is about the conversation, and stands at its last turn.
    return list(zip(turns[len(turns) - len(verdicts) :], verdicts, strict=True))


def _file(path: str) -> Path:
    from selfplay.reward_model.folder import RECORD, find

    return find(path).resolve() / RECORD


def _loaded(path: str) -> RewardModel:
    file = _file(path)
    return _load(file.parent, file.stat().st_mtime_ns)


@lru_cache(maxsize=MOST_LOADED)
def _load(folder: Path, _written: int) -> RewardModel:
    from selfplay.reward_model.folder import load

    return load(folder)
