"""Rank correlation, by hand."""

import numpy as np
import pytest

from selfplay.ranks import average_ranks, spearman


def test_ranks_of_equal_values_are_shared():
    # 10 is third; the two 5s are first and second.
    assert average_ranks([5.0, 10.0, 5.0]).tolist() == [1.5, 3.0, 1.5]


def test_rank_correlation_by_hand():
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 (1 + 1 + 1 + 1) / (4 x 15) = 0.6; the NaN is left out.
    assert spearman([1, 2, 3, 4, np.nan], [20, 10, 40, 30, 0]) == pytest.approx(0.6)
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_spearman_compares_ranks_and_shares_them_among_ties():
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    one, other = np.array([1.0, 5.0, 5.0, 9.0]), np.array([10.0, 20.0, 30.0, 1000.0])
    assert spearman(one, other) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert spearman(one, -other) == pytest.approx(-4.5 / np.sqrt(4.5 * 5))


def test_spearman_of_what_is_always_the_same_is_unknown():
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))
    assert np.isnan(spearman(np.empty(0), np.empty(0)))
