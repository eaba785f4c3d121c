"""What puts a reward model's numbers on a scale that means something: mean 0, deviation 1 on a reference.

The numbers are those that the reward returns: of all turns of the reference, or of its dialogs by scope.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Normaliser", "Numbers", "normaliser_of"]

Numbers = npt.NDArray[np.float64]

LEAST_DEVIATION = 1e-8  # what is below is a constant with rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """Turns a number x into gain * x + bias."""

    gain: float = 1.0
    bias: float = 0.0

    def apply(self, numbers: Numbers) -> Numbers:
        """Return the numbers on the new scale."""
        return self.gain * numbers + self.bias


def normaliser_of(numbers: Numbers) -> Normaliser:
    """Return what gives these numbers mean 0 and deviation 1; constant ones only lose their mean.

    Source: `gain = 1 / sd, bias = -gain * mean`, as lm-human-preferences/train_reward.py sets them for (0, 1).
    """
    mean, deviation = float(np.mean(numbers)), float(np.std(numbers))
    gain = 1.0 / deviation if deviation > LEAST_DEVIATION * max(1.0, abs(mean)) else 1.0
    return Normaliser(gain=gain, bias=-gain * mean)
