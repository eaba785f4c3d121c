"""Elo of comparisons, with numbers by hand."""

import math
from itertools import combinations

import numpy as np
import pytest

from selfplay.bradley_terry import (
    PairResult,
    connected,
    fit_elo,
    outcome_probabilities,
    win_probability,
)
from selfplay.errors import UserError


def results_of(first, second, *, won=0, tied=0, lost=0, start=0):
    """Return so many comparisons of two entries, each on its own scenario."""
    kinds = [(1.0, 0.0, 0.0)] * won + [(0.0, 1.0, 0.0)] * tied + [(0.0, 0.0, 1.0)] * lost
    return [
        PairResult(first=first, second=second, scenario=f"duel/{start + n}", first_won=w, tied=t, second_won=s)
        for n, (w, t, s) in enumerate(kinds)
    ]


def test_win_probability_of_100_points_is_64_percent():
    assert win_probability(100.0) == pytest.approx(0.6401, abs=5e-5)
    assert win_probability(400.0) == pytest.approx(10 / 11)
    assert win_probability(0.0) == 0.5
    assert win_probability(-1e6) == 0.0


def test_one_unit_of_a_preference_model_is_174_points():
    # Bai et al. 2022: E = (400 / ln 10) r, and a difference of 1 is preferred in 73.1%.
    assert win_probability(173.72) == pytest.approx(0.7311, abs=5e-5)


def test_outcome_probabilities_between_equals_share_as_the_tie_parameter_says():
    # p = q = 1, v = 2: 1/4, 2/4, 1/4.
    assert outcome_probabilities(0.0, tie=2.0) == pytest.approx((0.25, 0.5, 0.25))
    # Ten times as strong, v = 1: 10, sqrt(10), 1.
    total = 11 + math.sqrt(10)
    assert outcome_probabilities(400.0, tie=1.0) == pytest.approx((10 / total, math.sqrt(10) / total, 1 / total))
    # Far apart nothing overflows.
    assert outcome_probabilities(1e6, tie=1.0) == pytest.approx((1.0, 0.0, 0.0))


def test_fit_of_64_to_36_is_100_points():
    table = fit_elo(results_of("a", "b", won=64, lost=36), seed=0)
    # 400 log10(64 / 36) = 99.95; the prior takes 0.07 of it.
    assert table.pairs[0].difference == pytest.approx(99.95, abs=0.1)
    assert [entry.name for entry in table.entries] == ["a", "b"]
    assert [entry.elo for entry in table.entries] == pytest.approx([49.97, -49.97], abs=0.05)
    assert [entry.win_share for entry in table.entries] == [0.64, 0.36]
    assert table.tie == 0.0


def test_interval_of_64_to_36_is_that_of_the_binomial():
    pair = fit_elo(results_of("a", "b", won=64, lost=36), seed=0).pairs[0]
    # The deviation of log-odds is 1 / sqrt(100 * 0.64 * 0.36) = 0.208 nats, 36.2 points; 1.96 of them are 71.
    assert pair.low == pytest.approx(99.95 - 71, abs=8)
    assert pair.high == pytest.approx(99.95 + 71, abs=8)
    assert pair.is_clear


def test_fit_with_ties_has_davidsons_closed_form():
    table = fit_elo(results_of("a", "b", won=50, tied=30, lost=20), seed=0)
    # Of two entries: p / q = 50 / 20 and v = 30 / sqrt(50 * 20).
    assert table.pairs[0].difference == pytest.approx(400 * math.log10(2.5), abs=0.2)
    assert table.tie == pytest.approx(30 / math.sqrt(1000), abs=1e-3)
    assert table.entry("a").win_share == 0.65
    assert table.entry("a").tie_share == 0.3


def test_fit_reproduces_each_entrys_wins_and_all_ties():
    # What is at the maximum of the likelihood: expected scores and ties are those that were seen.
    seen = [
        *results_of("a", "b", won=12, tied=6, lost=9),
        *results_of("b", "c", won=10, tied=3, lost=8),
        *results_of("a", "c", won=15, tied=2, lost=4),
    ]
    table = fit_elo(seen, seed=0, num_resamples=0)
    counts = {("a", "b"): 27, ("b", "c"): 21, ("a", "c"): 21}
    score, ties = dict.fromkeys("abc", 0.0), 0.0
    for (first, second), num in counts.items():
        difference = table.entry(first).elo - table.entry(second).elo
        win, tied, loss = outcome_probabilities(difference, tie=table.tie)
        score[first] += num * (win + tied / 2)
        score[second] += num * (loss + tied / 2)
        ties += num * tied
    # That of a is 12 + 3 + 15 + 1, of b 9 + 3 + 10 + 1.5, of c 8 + 1.5 + 4 + 1.
    assert score == pytest.approx({"a": 31.0, "b": 23.5, "c": 14.5}, abs=0.05)
    assert ties == pytest.approx(11.0, abs=0.05)


def test_fit_of_probabilities_gives_their_mean():
    soft = [
        PairResult(first="a", second="b", scenario=str(n), first_won=p, second_won=1 - p)
        for n, p in enumerate([0.9, 0.6, 0.7, 0.4, 0.55, 0.69] * 10)
    ]
    # The mean is 0.64.
    assert fit_elo(soft, seed=0).pairs[0].difference == pytest.approx(99.95, abs=0.2)


def test_entry_against_itself_under_two_names_is_even():
    generator = np.random.default_rng(5)
    won = int(generator.binomial(200, 0.5))
    pair = fit_elo(results_of("a", "twin", won=won, lost=200 - won), seed=0).pairs[0]
    assert pair.low < 0.0 < pair.high
    assert not pair.is_clear
    even = fit_elo(results_of("a", "twin", won=20, tied=5, lost=20), seed=0)
    assert [entry.elo for entry in even.entries] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_only_ties_are_even_without_doubt():
    table = fit_elo(results_of("a", "twin", tied=12), seed=0)
    assert [(entry.elo, entry.low, entry.high) for entry in table.entries] == [(0.0, 0.0, 0.0)] * 2
    assert table.entry("a").win_share == 0.5
    assert table.entry("a").tie_share == 1.0


def test_entry_that_won_all_has_bounded_points_and_an_honest_interval():
    pair = fit_elo(results_of("a", "b", won=10), seed=0).pairs[0]
    # 10 / (1 + e^d) = d / (2 s^2), s = 5.756 nats: d = 4.9, 851 points.
    assert pair.difference == pytest.approx(851, abs=8)
    # Clopper and Pearson of 10 of 10: 69.2% or more, 140 points; with 3.69 / 13.69 lost it is 73%, 173.
    assert pair.low == pytest.approx(175, abs=25)
    # No data bounds it above: the estimate, which the prior made, is what it says.
    assert pair.high == pair.difference


def test_planted_order_is_recovered_within_its_intervals():
    true = {"a": 150.0, "b": 60.0, "c": 0.0, "d": -60.0, "e": -150.0}
    num_held = num_all = 0
    for seed in range(4):
        table = fit_elo(planted(true, num_scenarios=60, seed=seed, tie=0.5), seed=seed, num_resamples=400)
        held = [entry.low <= true[entry.name] <= entry.high for entry in table.entries]
        num_held, num_all = num_held + sum(held), num_all + len(held)
        assert table.entries[0].name == "a"
        assert table.entries[-1].name == "e"
        assert table.tie == pytest.approx(0.5, abs=0.15)
    # 95% of 20, less two deviations.
    assert num_held >= 0.85 * num_all


def planted(true, *, num_scenarios, seed, tie):
    """Return results drawn from known points, every pair on every scenario."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(num_scenarios):
        for first, second in combinations(true, 2):
            odds = 10 ** ((true[first] - true[second]) / 400)
            chances = np.array([odds, tie * math.sqrt(odds), 1.0]) / (odds + tie * math.sqrt(odds) + 1.0)
            won, tied, lost = generator.multinomial(1, chances).tolist()
            found.append(
                PairResult(first=first, second=second, scenario=str(number), first_won=won, tied=tied, second_won=lost)
            )
    return found


def test_order_of_results_and_of_sides_changes_nothing():
    results = planted({"a": 80.0, "b": 0.0, "c": -80.0}, num_scenarios=20, seed=3, tie=0.3)
    soft = [
        PairResult(first="a", second="c", scenario="7", first_won=0.1 * n, second_won=1 - 0.1 * n) for n in range(9)
    ]
    generator = np.random.default_rng(0)
    shuffled = [(results + soft)[place] for place in generator.permutation(len(results + soft))]
    turned = [one.swapped() if generator.random() < 0.5 else one for one in shuffled]
    assert fit_elo(turned, seed=1, num_resamples=50) == fit_elo(results + soft, seed=1, num_resamples=50)


def test_comparisons_of_one_scenario_are_no_independent_evidence():
    apart = results_of("a", "b", won=30, lost=20)
    # The same comparisons, five times each on the scenario: nothing new is known.
    together = [one for one in apart for _ in range(5)]
    one, five = (fit_elo(results, seed=0).pairs[0] for results in (apart, together))
    assert five.difference == pytest.approx(one.difference, abs=0.2)
    assert five.low == pytest.approx(one.low, abs=1.0)
    assert five.num == 250


def test_one_scenario_alone_has_no_interval():
    entry = fit_elo([PairResult(first="a", second="b", scenario="7", first_won=1.0)], seed=0).entries[0]
    assert math.isnan(entry.low)
    assert math.isnan(entry.high)
    assert entry.elo > 0


def test_anchor_is_at_0_with_certainty():
    seen = [*results_of("a", "base", won=64, lost=36), *results_of("b", "base", won=36, lost=64)]
    table = fit_elo(seen, seed=0, anchor="base")
    base = table.entry("base")
    assert (base.elo, base.low, base.high) == (0.0, 0.0, 0.0)
    assert table.entry("a").elo == pytest.approx(99.95, abs=0.2)
    assert table.entry("b").elo == pytest.approx(-99.95, abs=0.2)
    # By way of base, though the two never met.
    between = next(pair for pair in table.pairs if (pair.first, pair.second) == ("a", "b"))
    assert between.num == 0
    assert between.difference == pytest.approx(199.9, abs=0.4)
    with pytest.raises(UserError, match=r"anchor=bass: .* did you mean base"):
        fit_elo(seen, seed=0, anchor="bass")


def test_groups_that_nothing_connects_are_named_and_stay_around_the_same_mean():
    seen = [*results_of("a", "b", won=64, lost=36), *results_of("c", "d", won=50, lost=50)]
    assert connected([*seen, *results_of("e", "d", won=1)]) == [["c", "d", "e"], ["a", "b"]]
    assert connected(seen[:100]) == [["a", "b"]]
    table = fit_elo(seen, seed=0, num_resamples=0)
    assert {entry.name: round(entry.elo) for entry in table.entries} == {"a": 50, "b": -50, "c": 0, "d": 0}


def test_a_result_without_weight_connects_nothing():
    assert connected([PairResult(first="a", second="b", scenario="1")]) == []


def test_nothing_compared_is_refused():
    with pytest.raises(UserError, match="nothing was compared"):
        fit_elo([], seed=0)
    with pytest.raises(UserError, match="nothing was compared"):
        fit_elo([PairResult(first="a", second="b", scenario="1")], seed=0)


def test_what_is_no_comparison_is_refused():
    with pytest.raises(ValueError, match="compared with itself"):
        PairResult(first="a", second="a", scenario="1")
    with pytest.raises(ValueError, match="finite"):
        PairResult(first="a", second="b", scenario="1", first_won=math.nan)


def test_many_comparisons_of_far_apart_entries_have_an_end():
    seen = [PairResult(first="a", second="b", scenario=str(n), first_won=1e6) for n in range(3)]
    chain = [
        PairResult(first=f"{n:02d}", second=f"{n + 1:02d}", scenario=str(s), first_won=50.0, tied=1.0)
        for n in range(20)
        for s in range(4)
    ]
    for results in (seen, chain):
        table = fit_elo(results, seed=0, num_resamples=20)
        assert all(math.isfinite(entry.elo) for entry in table.entries)
    assert [entry.name for entry in table.entries] == [f"{n:02d}" for n in range(21)]
