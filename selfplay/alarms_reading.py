"""One alarm at one step: on or off, by how much, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from selfplay.alarms_settings import AlarmName, AlarmsGroup

ENDS_AT = 0.75  # of the way from the reference to the bound

# Which conversations show it best.
Look = Literal["rewarded", "part_high", "part_low", "short", "long", "repetitive", "far"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a run's alarms depend on besides its metrics."""

    settings: AlarmsGroup
    weights: Mapping[str, float]  # reward -> weight
    kl_target: float | None = None  # nats a token; None: nothing steers to one


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One alarm at one step, on or off.

    Example: ``Reading(name="entropy_collapse", value=1.14, reference=3.1, bound=1.24, what="the entropy is 1.14 ...",
    meaning="the policy says the same again and again", look="rewarded", was_on=False)`` has begun.
    """

    name: AlarmName
    value: float
    reference: float  # what the value is compared with
    bound: float  # on the one side of the reference or the other
    what: str  # the numbers in words
    meaning: str  # what they say if the alarm is on
    look: Look
    part: str = ""  # the reward it is about, if it is about one
    can_begin: bool = True  # whether all else that the alarm asks for is there
    was_on: bool = False  # at the step before

    @property
    def level(self) -> float:
        """How far the value is on the way from the reference to the bound; 1 is there."""
        way = self.bound - self.reference
        return (self.value - self.reference) / way if way else 0.0

    @property
    def is_on(self) -> bool:
        """Whether the alarm is on at this step."""
        return self.level > ENDS_AT if self.was_on else self.can_begin and self.level > 1.0

    @property
    def has_begun(self) -> bool:
        """Whether the alarm came on at this step."""
        return self.is_on and not self.was_on

    @property
    def has_ended(self) -> bool:
        """Whether the alarm went off at this step."""
        return self.was_on and not self.is_on

    def text(self, *, run: str, look_at: Sequence[str]) -> str:
        """Return what a person should know: what, how much, and which conversations of the run to read."""
        if not self.is_on:
            return f"alarm {self.name} is over: {self.what}"
        see = "".join(f"; see `show {run} {id}`" for id in look_at[:1])
        return f"alarm {self.name}: {self.what} (bound {self.bound:.3g}): {self.meaning}{see}"
