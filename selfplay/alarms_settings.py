"""When a run says that its reward may be gamed: the alarms by name, and their bounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from selfplay.config import Settings
from selfplay.errors import UserError

AlarmName = Literal[
    "one_part",
    "length_drift",
    "repetition_drift",
    "variance_collapse",
    "entropy_collapse",
    "kl_accelerating",
    "distinct_falling",
    "verifiable_falling",
    "watched_falling",
    "proxy_gap",
]


class AlarmsGroup(Settings):
    """When a run says that its reward may be gamed."""

    watch: bool = True  # false: no alarms
    ignore: tuple[AlarmName, ...] = ()  # alarms that are not raised
    stop_on: tuple[AlarmName, ...] = ()  # alarms that end the run, with a checkpoint, when they begin
    window: int = Field(default=3, ge=2)  # steps whose mean is compared with that of as many first ones
    part_share: float = Field(default=0.8, gt=0, le=1)  # one_part: of the reward's variance
    length_band: float = Field(default=1.6, gt=1)  # length_drift: factor of the first words a turn, either way
    repetition_margin: float = Field(default=0.1, gt=0, le=1)  # repetition_drift: more than the first share by
    deviation_share: float = Field(default=0.1, gt=0, lt=1)  # variance_collapse: of the first deviation
    entropy_share: float = Field(default=0.4, gt=0, lt=1)  # entropy_collapse: of the first entropy
    kl_factor: float = Field(default=3.0, gt=1)  # kl_accelerating: of the target, where the controller has one
    kl_nats: float = Field(default=0.3, gt=0)  # kl_accelerating, without a target: a token, where it grows ever faster
    distinct_share: float = Field(default=0.75, gt=0, lt=1)  # distinct_falling: of the first distinct-2
    fall: float = Field(default=0.25, gt=0)  # verifiable_falling, watched_falling: of what the part was, beyond noise
    verifiable: tuple[str, ...] = ("payoff",)  # rewards that cannot be gamed
    gap: float = Field(default=0.3, gt=0)  # proxy_gap: a reward model above its twin, in deviations, more than at first

    @model_validator(mode="after")
    def _check(self) -> AlarmsGroup:
        if self.stop_on and not self.watch:
            raise UserError("alarms.stop_on needs alarms.watch=true")
        both = [name for name in self.stop_on if name in self.ignore]
        if both:
            raise UserError(f"alarms.stop_on and alarms.ignore both name {both[0]}; leave it out of one")
        return self
