"""How the learning rate moves over a run: a function of how many updates were made, so nothing of it needs saving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A share of the learning rate for every update: it rises, then stays or falls."""

    shape: Shape = "constant"
    warmup_updates: int = 0  # over which it rises evenly; the last of them has the whole rate
    num_updates: int = 1  # of the whole run; linear and cosine would be 0 at the one after the last

    def share(self, update: int) -> float:
        """Return the share for an update, counted from 0; an update after the last has the last one's."""
        if update < self.warmup_updates:
            return (update + 1) / self.warmup_updates
        if self.shape == "constant":
            return 1.0
        last = max(self.num_updates - 1, 0)
        gone = (min(update, last) - self.warmup_updates) / max(self.num_updates - self.warmup_updates, 1)
        gone = max(gone, 0.0)
        return 1.0 - gone if self.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))
