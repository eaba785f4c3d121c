"""What Ray reads from the environment as it is imported; no ray in here."""

from __future__ import annotations

import os


def prepare_ray(address: str) -> None:
    """Set what Ray reads as it is imported, where the user has not; address: "" starts Ray on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine unasked
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by default, without its warning
    if not address:
        # What Ray does by default on one machine, said so that it need not tell the user.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
