"""Time limits: what hangs is ended, what returns is not touched."""

import re
import signal
import threading
import time

import pytest

from selfplay.time_limit import NO_LIMIT, TimeLimitError, call_within


def loop_and_swallow() -> None:
    while True:
        try:
            while True:
                pass
        except Exception:  # noqa: BLE001 (what careless code does)
            continue


def backtrack() -> None:
    re.match(r"(a|a)*b", "a" * 60)


@pytest.mark.parametrize("hang", [loop_and_swallow, backtrack, lambda: time.sleep(60), threading.Event().wait])
def test_hanging_call_in_the_main_thread_is_interrupted(hang):
    started = time.monotonic()
    with pytest.raises(TimeLimitError):
        call_within(0.1, hang)
    assert time.monotonic() - started < 5


def test_hanging_call_in_another_thread_lets_its_caller_go_on():
    ended = threading.Event()

    def ask() -> None:
        with pytest.raises(TimeLimitError):
            call_within(0.1, threading.Event().wait)
        ended.set()

    threading.Thread(target=ask).start()
    assert ended.wait(5)


@pytest.mark.parametrize("in_thread", [False, True])
def test_call_in_time_gives_its_result_or_its_error(in_thread: bool):
    found = []

    def ask() -> None:
        found.append(call_within(5, max, 1, 2))
        with pytest.raises(ValueError, match="invalid literal"):
            call_within(5, int, "x")

    if in_thread:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    else:
        ask()
    assert found == [2]


def test_call_without_limit_sets_no_alarm():
    assert call_within(NO_LIMIT, signal.getitimer, signal.ITIMER_REAL) == (0.0, 0.0)


def test_alarm_of_somebody_else_still_rings():
    rung = []
    previous = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        call_within(5, time.sleep, 0.01)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 0.2
        time.sleep(0.4)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert rung == [1]
