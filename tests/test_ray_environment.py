"""What a user reads if Ray does not come up."""

import pytest

from selfplay.cluster.ray_environment import start_here
from selfplay.errors import UserError


def test_ray_that_does_not_come_up_is_one_sentence_with_what_to_do():
    # As Ray has it, its most general type included.
    words = "The current node timed out during startup. This could happen because some of the raylet failed to start."

    def start() -> None:
        raise Exception(words)

    with pytest.raises(UserError) as caught:
        start_here(start)
    said = str(caught.value)
    assert "(The current node timed out during startup)" in said
    assert "try again" in said
    assert "cluster=local" in said
    assert "\n" not in said


def test_ray_that_says_nothing_is_named_by_its_error():
    def start() -> None:
        raise TimeoutError

    with pytest.raises(UserError, match=r"\(TimeoutError\)"):
        start_here(start)


def test_interrupt_while_ray_starts_is_an_interrupt():
    def start() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start_here(start)
