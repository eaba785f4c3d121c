"""Where an estimator of the divergence may stand, and why not elsewhere; settings read this without torch."""

from __future__ import annotations

import logging
from typing import Literal

from selfplay.errors import UserError

logger = logging.getLogger(__name__)

Estimator = Literal["k1", "k2", "k3", "full"]
Place = Literal["reward", "loss"]
Controller = Literal["off", "fixed", "adaptive"]

WHY_NOT: dict[tuple[Place, Estimator], str] = {
    ("loss", "k1"): "its gradient as a loss is zero on average, so nothing would be controlled",
    ("reward", "k2"): "its policy gradient in the reward is not that of a divergence",
    ("reward", "k3"): "its policy gradient in the reward is not that of a divergence",
    ("reward", "full"): "in the reward k1 has the same gradient on average and needs no sum over the vocabulary",
}


def check_placement(place: Place, estimator: Estimator) -> None:
    """Raise UserError, with the reason, for an estimator that does not do its work at that place."""
    reason = WHY_NOT.get((place, estimator))
    if reason is not None:
        right = "k1" if place == "reward" else "k2, k3 or full"
        raise UserError(f"kl.estimator={estimator} with kl.place={place}: {reason}; use {right}")
    if estimator == "k3":
        logger.info("kl.estimator=k3 as a loss follows the gradient of the forward divergence KL(reference || policy)")
