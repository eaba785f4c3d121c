"""What turns dialogs into numbers: one member of a reward model, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from selfplay.reward_model.dialogs import Dialog, Judged
from selfplay.reward_model.settings import Scope

__all__ = ["Scorer", "value_of"]


class Scorer(Protocol):
    """A backbone with a head.  Its numbers are raw: their scale and offset mean nothing."""

    @property
    def scope(self) -> Scope:
        """Whether it reads one number a focus message, or one a dialog."""
        ...

    @property
    def num_truncated(self) -> int:
        """How many of the dialogs read so far had to lose old messages to fit."""
        ...

    def read(self, dialogs: Sequence[Dialog]) -> list[Tensor]:
        """Return each dialog's numbers, in order, with gradient where torch keeps one.

        Scope "turn": [n], one for each focus message; a dialog whose oldest messages were cut off has fewer, the last
        ones.  Scope "conversation": [1].  Raises UserError for a dialog without a focus message.
        """
        ...

    def size(self, dialog: Dialog) -> int:
        """Return what reading a dialog costs: its tokens."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained, always in the same order."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Return a copy of what is trained, to go back to."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        ...

    def save(self, folder: Path) -> None:
        """Write its files into an existing folder."""
        ...


def value_of(numbers: Tensor, judged: Judged) -> Tensor:
    """Return what a dialog's numbers [n] come to: its last for a judged turn, else their mean; a scalar.

    A mean, not a sum: who says more would be better for that alone.
    """
    return numbers[-1] if judged == "turn" else numbers.mean()
