"""The learning rate over a run, by hand."""

import pytest

from selfplay.learn.schedule import Schedule


def shares(schedule: Schedule, num: int) -> list[float]:
    return [round(schedule.share(update), 6) for update in range(num)]


def test_warm_up_rises_evenly_and_its_last_update_has_the_whole_rate():
    assert shares(Schedule(warmup_updates=4, num_updates=10), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_falls_evenly_and_never_wastes_an_update():
    # Four updates after one of warm-up: 1, 3/4, 1/2, 1/4; the one after the last would be 0.
    assert shares(Schedule(shape="linear", warmup_updates=1, num_updates=5), 5) == [1.0, 1.0, 0.75, 0.5, 0.25]


def test_cosine_is_half_way_down_in_the_middle():
    schedule = Schedule(shape="cosine", num_updates=4)
    # (1 + cos(pi n / 4)) / 2
    assert shares(schedule, 4) == [1.0, 0.853553, 0.5, 0.146447]


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_a_run_that_is_only_warm_up_or_goes_on_past_its_end_keeps_a_finite_rate(shape):
    schedule = Schedule(shape=shape, warmup_updates=3, num_updates=2)
    assert all(0.0 < share <= 1.0 for share in shares(schedule, 6))
