"""Student's t against the printed tables."""

import pytest

from selfplay.student import t_quantile


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.95, 4, 2.132),
        (0.975, 31, 2.040),
        (0.995, 10, 3.169),
        (0.975, 1000, 1.962),
        (0.5, 5, 0.0),
    ],
)
def test_quantile_is_the_one_of_the_tables(probability: float, degrees: int, expected: float):
    assert t_quantile(probability, degrees) == pytest.approx(expected, abs=5e-4)


def test_quantile_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="degrees=0 at least 1"):
        t_quantile(0.975, 0)
    with pytest.raises(ValueError, match=r"probability=0\.2"):
        t_quantile(0.2, 3)
