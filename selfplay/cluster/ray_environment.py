"""What Ray reads from the environment as it is imported, and how its start may fail; no ray in here."""

from __future__ import annotations

import os
from collections.abc import Callable

from selfplay.errors import UserError

__all__ = ["prepare_ray", "start_here"]


def prepare_ray(address: str) -> None:
    """Set what Ray reads as it is imported, where the user has not; address: "" starts Ray on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine unasked
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by default, without its warning
    if not address:
        # What Ray does by default on one machine, said so that it need not tell the user.
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def start_here(start: Callable[[], object]) -> None:
    """Start Ray on this machine.  Raises UserError, one sentence, if it does not come up."""
    try:
        start()
    except Exception as error:  # Ray raises nothing more exact where its own processes are too slow or die
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[0].partition(". ")[0].rstrip(".")
        raise UserError(
            f"Ray could not be started on this machine ({reason}); a busy machine is often the cause: try again, or "
            "run everything in one process with cluster=local"
        ) from error
