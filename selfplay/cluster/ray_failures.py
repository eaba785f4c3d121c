"""Waiting for actors: what comes from one that fails, dies or never starts, and what the user reads of it."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from selfplay.errors import UserError

# What comes instead of a result from a process or a machine that died, memory's guard included.
DEAD = (RayActorError, OutOfMemoryError, ObjectLostError, NodeDiedError, WorkerCrashedError)
MAX_LOSSES = 3  # of one block, or one question: what kills three workers will kill the fourth


def fetch(handle: Any) -> Any:
    """Wait for a result.  Raises what the actor did, as UserError if it is for the user; one of DEAD if it died."""
    try:
        return ray.get(handle)
    except RayTaskError as error:
        raise as_user_error(error) from error


def fetch_from(handle: Any, who: str) -> Any:
    """Wait for the result of an actor that the run cannot do without.  Raises UserError if it died."""
    try:
        return fetch(handle)
    except DEAD as error:
        raise UserError(
            f"{who} died: {essence(error)}; go on from the newest checkpoint with train resume=RUN"
        ) from error


def wait_for_start(handle: Any, who: str, *, timeout_seconds: float) -> Any:
    """Wait for what an actor says as it starts.  Raises UserError if it died, failed or is not there in time."""
    try:
        return ray.get(handle, timeout=timeout_seconds)
    except GetTimeoutError as error:
        free = ray.available_resources()
        raise UserError(
            f"{who} did not start within ray.start_timeout_seconds={timeout_seconds:g}: {free.get('CPU', 0):g} CPUs "
            f"and {free.get('GPU', 0):g} GPUs of the cluster are free; others may be using it"
        ) from error
    except DEAD as error:
        raise UserError(f"{who} died as it started: {essence(error)}") from error
    except RayTaskError as error:
        raise as_user_error(error) from error


def as_user_error(error: RayTaskError) -> Exception:
    """Return what an actor raised, if it is for the user; else the error itself."""
    cause = getattr(error, "cause", None)
    return UserError(str(cause)) if isinstance(cause, UserError) else error


def essence(error: BaseException) -> str:
    """Return the line of an error that says what happened: of a traceback the last, of Ray's sentences the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    place = -1 if any(line.startswith("File ") for line in lines) else 0
    return lines[place].rstrip(".") if lines else type(error).__name__
