"""Calling somebody else's code with a time limit."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

NO_LIMIT = math.inf
# The alarm rings again for code that swallowed the first: `except BaseException` around a loop.
RING_AGAIN_SECONDS = 1.0


class TimeLimitError(BaseException):
    """The time was up.  No Exception, so that code which catches those cannot swallow it."""


def call_within(seconds: float, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function; raise TimeLimitError where it has not returned after `seconds`.

    In the main thread of a Unix process an alarm interrupts it: loops, sleeping, waiting for a network and regular
    expressions all end there; compiled code that never looks at signals does not.  In other threads and systems it runs
    in a thread of its own, which cannot be stopped: the caller goes on, the thread stays behind until the process ends,
    and code that keeps the interpreter's lock, such as a regular expression, holds the caller up all the same.
    """
    if seconds == NO_LIMIT:
        return function(*arguments)
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _with_alarm(seconds, function, *arguments)
    return _in_thread(seconds, function, *arguments)


def _with_alarm(seconds: float, function: Callable[..., Result], *arguments: Any) -> Result:
    started = time.monotonic()
    previous = signal.signal(signal.SIGALRM, _ring)
    waiting, interval = signal.setitimer(signal.ITIMER_REAL, seconds, RING_AGAIN_SECONDS)
    try:
        try:
            return function(*arguments)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL if previous is None else previous)
        if waiting:
            # Somebody else's alarm was set before: it rings when it should have, or at once.
            left = max(waiting - (time.monotonic() - started), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def _ring(_number: int, _frame: object) -> None:
    raise TimeLimitError


def _in_thread(seconds: float, function: Callable[..., Result], *arguments: Any) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:  # noqa: BLE001 (raised again where it was called)
            errors.append(error)

    thread = threading.Thread(target=work, name="selfplay-time-limit", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeLimitError
    return results[0]
