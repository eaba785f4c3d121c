"""Skill from who came before whom: planted orders, ties, uncertainty."""

import math
from itertools import combinations

import numpy as np
import pytest

from selfplay.skill import BETA, START_SIGMA, Skill, after_update, places, rate

SCALE = BETA * math.sqrt(2)  # of the logistic curve, where skills are known
PLANTED = {"a": 10.0, "b": 4.0, "c": 4.0, "d": -3.0, "e": -15.0}


def play_all(planted: dict[str, float], *, seed: int, games: int = 150, ties: float = 0.2) -> dict[str, Skill]:
    """Return what is believed after every pair has met so often; points a game are as planted, with ties in them."""
    rng = np.random.default_rng(seed)
    skills = dict.fromkeys(planted, Skill())
    for first, second in [pair for _ in range(games) for pair in combinations(planted, 2)]:
        wins = 1 / (1 + math.exp((planted[second] - planted[first]) / SCALE))
        tied = min(ties, wins, 1 - wins)  # half of a tie is taken from each side, so that points stay as planted
        number = rng.random()
        rank = 1.0 if number < wins - tied / 2 else 2.0 if number < wins + tied / 2 else 3.0
        skills |= rate(skills, {first: rank, second: 2.0})
    return skills


def about(skills: dict[str, Skill]) -> dict[str, float]:
    """Return skills above their mean."""
    mean = math.fsum(skill.mu for skill in skills.values()) / len(skills)
    return {name: skill.mu - mean for name, skill in skills.items()}


def test_a_win_between_equals_moves_both_alike_by_the_papers_formula():
    rated = rate({"a": Skill(), "b": Skill()}, {"a": 1, "b": 2})
    # Algorithm 4 with two equals: c^2 = 2 (sigma^2 + beta^2), p = 1/2, omega = sigma^2 / c * (1 - p).
    variance = START_SIGMA**2
    c = math.sqrt(2 * (variance + BETA**2))
    assert rated["a"].mu == pytest.approx(25 + variance / c / 2)
    assert rated["b"].mu == pytest.approx(25 - variance / c / 2)
    # delta = gamma * sigma^2 / c^2 * p (1 - p), gamma = 1, and sigma^2 is multiplied by 1 - delta.
    left = 1 - variance / c**2 / 4
    assert rated["a"].sigma == rated["b"].sigma == pytest.approx(START_SIGMA * math.sqrt(left))


def test_a_tie_between_equals_moves_nobody_and_makes_both_surer():
    rated = rate({"a": Skill(), "b": Skill()}, {"a": 1, "b": 1})
    assert rated["a"].mu == rated["b"].mu == 25
    assert rated["a"].sigma == rated["b"].sigma < START_SIGMA


def test_a_tie_lifts_the_weaker_as_far_as_it_lowers_the_stronger():
    rated = rate({"a": Skill(mu=30, sigma=2), "b": Skill(mu=20, sigma=2)}, {"a": 1, "b": 1})
    assert rated["b"].mu > 20
    assert rated["a"].mu + rated["b"].mu == pytest.approx(50)


def test_ranks_that_are_not_whole_numbers_are_not_cut_to_a_tie():
    skills = {"a": Skill(), "b": Skill()}
    assert rate(skills, {"a": 0.2, "b": 0.7}) == rate(skills, {"a": 1, "b": 2})
    assert rate(skills, {"a": -1.5, "b": -1.9})["b"].mu > 25


def test_three_players_are_rated_together():
    skills = {name: Skill() for name in "abcd"}
    rated = rate(skills, {"c": 3, "a": 1, "b": 2})
    assert list(rated) == ["c", "a", "b"]
    assert rated["a"].mu > rated["b"].mu > rated["c"].mu
    assert rate(skills, {"a": 1, "b": 1, "c": 1})["b"].mu == pytest.approx(25)


def test_one_player_alone_stays_as_it_is():
    assert rate({"a": Skill(mu=3, sigma=1)}, {"a": 1}) == {"a": Skill(mu=3, sigma=1)}


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_order_is_recovered_within_its_intervals(seed: int):
    found = play_all(PLANTED, seed=seed)
    above, planted_mean = about(found), sum(PLANTED.values()) / len(PLANTED)
    for name, skill in found.items():
        assert abs(above[name] - (PLANTED[name] - planted_mean)) < 2 * skill.sigma
    assert above["a"] > max(above["b"], above["c"]) > above["d"] > above["e"]
    # The intervals are short enough to say so: 10 and 4 are told apart from -15 for sure.
    assert found["e"].interval[1] < min(found["a"].interval[0], found["b"].interval[0], found["d"].interval[0])


@pytest.mark.parametrize("seed", range(5))
def test_the_same_player_twice_is_even(seed: int):
    found = play_all({"a": 0.0, "again": 0.0}, seed=seed)
    assert abs(found["a"].mu - found["again"].mu) < 2 * math.hypot(found["a"].sigma, found["again"].sigma)


def test_more_games_make_surer():
    few, many = (play_all(PLANTED, seed=0, games=games)["c"].sigma for games in (20, 150))
    assert many < few < START_SIGMA / 2


def test_an_update_keeps_the_skill_and_costs_certainty_up_to_the_start():
    assert after_update(Skill(mu=31, sigma=1)) == Skill(mu=31, sigma=math.hypot(1, START_SIGMA / 33))
    assert after_update(Skill()).sigma == START_SIGMA


def test_places_are_shared_by_those_that_were_paid_the_same():
    assert places({"a": 1.0, "b": 3.0, "c": 1.0 + 1e-9, "d": 0.1 + 0.2, "e": 0.3}) == {
        "a": 2, "b": 1, "c": 2, "d": 3, "e": 3,
    }  # fmt: skip
