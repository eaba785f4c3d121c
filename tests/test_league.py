"""Whom a policy meets, what it came to against each of them, and what of it survives a restart."""

import json
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from selfplay.config import resolve
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario
from selfplay.errors import UserError
from selfplay.league import League, Result, past_name, past_version
from selfplay.skill import BETA, Skill, after_update, rate
from selfplay.train_settings import LeagueGroup, TrainSettings

ROLES = ("first", "second")


def league(**settings) -> League:
    return League(LeagueGroup(**settings), seed=5, roles=ROLES)


def game(opponent: str, *payoff: float, role: str = "first", step: int = 0, index: int = 0) -> Conversation:
    """A conversation in which the policy has one role, or both against itself; payoff by role, empty: none."""
    names = {name: opponent if name != role else "learner" for name in ROLES}
    return Conversation(
        id=f"{step:06d}-g{index:02d}-0",
        scenario=Scenario(env="toy", seed=0, split="train", roles=ROLES),
        players={
            name: PlayerInfo(policy=player, version=step, model="m", trained=player == "learner")
            for name, player in names.items()
        },
        outcome=Outcome(
            status="terminated", reason="agreement", payoff=dict(zip(ROLES, payoff, strict=True)) if payoff else {}
        ),
    )


def shares(of: League, *, steps: int = 2000) -> dict[str, float]:
    drawn = Counter(player for step in range(steps) for player in of.opponents(step))
    return {player: number / drawn.total() for player, number in drawn.items()}


# ----- draws -----


def test_names_of_past_snapshots_are_read_back():
    assert past_version(past_name(10)) == 10
    assert [past_version(name) for name in ("learner", "frozen", "scripted")] == [None] * 3


def test_the_same_seed_draws_the_same_and_another_seed_others():
    def drawn(seed: int) -> list[tuple[str, ...]]:
        found = League(LeagueGroup(opponents=2), seed=seed, roles=ROLES)
        found.add(10)
        return [found.opponents(step) for step in range(40)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_draws_of_a_step_do_not_depend_on_which_were_asked_for_before():
    one, other = league(opponents=3), league(opponents=3)
    forwards = [one.opponents(step) for step in range(20)]
    assert [other.opponents(step) for step in reversed(range(20))] == forwards[::-1]


def test_shares_of_draws_approach_the_ratios():
    found = league(play_against_latest_model_ratio=0.4, frozen_ratio=0.2, scripted_ratio=0.1)
    for version in (10, 20, 30):
        found.add(version)
    # Binomial deviations of 2,000 draws are 0.011 at most: five of them.
    expected = {"learner": 0.4, "frozen": 0.2, "scripted": 0.1, "past:10": 0.1, "past:20": 0.1, "past:30": 0.1}
    assert shares(found) == pytest.approx(expected, abs=0.055)


def test_without_snapshots_the_policy_before_training_stands_in_for_the_past():
    assert shares(league(play_against_latest_model_ratio=0.3)) == pytest.approx(
        {"learner": 0.3, "frozen": 0.7}, abs=0.055
    )


def test_a_ratio_of_1_leaves_nothing_to_the_past():
    found = league(play_against_latest_model_ratio=0.7, frozen_ratio=0.1, scripted_ratio=0.2)
    found.add(10)
    assert "past:10" not in shares(found)


def test_the_window_holds_the_newest_and_0_all():
    narrow, wide = league(window=2, play_against_latest_model_ratio=0), league(window=0)
    for version in (30, 10, 20):
        narrow.add(version)
        wide.add(version)
    assert narrow.snapshots == (10, 20, 30) == wide.pool
    assert narrow.pool == (20, 30)
    assert set(shares(narrow, steps=100)) == {"past:20", "past:30"}


def test_an_opponent_stays_for_its_steps_even_if_it_leaves_the_window():
    found = league(swap_steps=4, window=1, play_against_latest_model_ratio=0)
    found.add(10)
    assert found.opponents(4) == ("past:10",)
    found.add(20)
    assert found.opponents(7) == ("past:10",)
    assert found.opponents(8) == ("past:20",)


def test_a_new_draw_comes_every_swap_steps():
    found = league(swap_steps=5, opponents=20)
    drawn = [found.opponents(step) for step in range(15)]
    assert drawn[0:5] == [drawn[0]] * 5
    assert drawn[5:10] == [drawn[5]] * 5
    assert len({drawn[0], drawn[5], drawn[10]}) == 3


def test_prioritised_draws_go_to_those_that_win_as_the_paper_weighs_them():
    found = league(choose="prioritised", play_against_latest_model_ratio=0)
    found.add(10)
    found.add(20)
    # Against 10: 3 wins of 3, (3 + .5) / 4 = .875 with the tie before; against 20: 3 losses, .125.
    found.record([game("past:10", 1, -1)] * 3 + [game("past:20", -1, 1)] * 3)
    assert found.win_rate("past:10") == 0.875
    assert found.win_rate("past:20") == 0.125
    assert found.win_rate("past:30") == 0.5
    # Weights (1 - .875)^2 = 1/64 and (1 - .125)^2 = 49/64.
    assert shares(found)["past:10"] == pytest.approx(1 / 50, abs=0.015)


def test_win_rate_is_the_mean_over_roles_however_often_each_was_played():
    found = league()
    found.record([game("frozen", 1, 0)] * 3 + [game("frozen", 1, 0, role="second")])
    # First 3.5 points of 4 games, second half a point of 2, each with its tie.
    assert found.win_rate("frozen") == pytest.approx((0.875 + 0.25) / 2)


def test_a_dropped_snapshot_is_met_no_more_not_even_where_it_was_drawn():
    found = league(play_against_latest_model_ratio=0.2, opponents=4, swap_steps=10)
    found.add(10)
    found.add(20)
    found.record([game("past:10", 1, 0)])
    before = found.opponents(0)
    found.drop(10)
    after = found.opponents(0)
    assert "past:10" in before
    assert "past:10" not in after
    assert [b for a, b in zip(before, after, strict=True) if a != "past:10"] == [a for a in before if a != "past:10"]
    assert found.pool == (20,)
    assert found.results["past:10"]["first"].wins == 1


def test_adding_twice_and_dropping_what_is_not_there_are_refused():
    found = league()
    found.add(10)
    with pytest.raises(ValueError, match="version 10 is in the league already"):
        found.add(10)
    with pytest.raises(ValueError, match="version 20 is not in the league; it has"):
        found.drop(20)


def test_a_league_needs_two_roles():
    with pytest.raises(UserError, match="partner=league needs a role for the policy and one for its opponent"):
        League(LeagueGroup(), seed=0, roles=("first",))


def test_ratios_that_sum_to_more_than_1_are_refused_by_their_names():
    words = ["league.frozen_ratio=0.4", "league.scripted_ratio=0.2"]
    with pytest.raises(UserError, match=r"league.play_against_latest_model_ratio, .* 1 or less; it is 1\.1"):
        resolve(TrainSettings, words)
    full = resolve(TrainSettings, ["partner=league", "league.frozen_ratio=0.3", "league.scripted_ratio=0.2"])
    assert full.league.scripted_ratio == 0.2


# ----- results and ratings -----


def test_results_count_wins_ties_and_losses_by_opponent_and_role():
    found = league()
    found.record(
        [
            game("frozen", 3, 1),
            game("frozen", 2, 2 + 1e-9),
            game("frozen", 0.5, 4, role="second"),
            game("learner", 1, 0),
        ]
    )
    assert found.results["frozen"] == {
        "first": Result(wins=1, ties=1, payoff=5.0, opponent_payoff=3.0 + 1e-9),
        "second": Result(wins=1, payoff=4.0, opponent_payoff=0.5),
    }
    assert found.results["learner"]["first"].wins == found.results["learner"]["second"].losses == 1


def test_a_third_role_counts_the_best_of_the_opponents():
    three = ("a", "b", "c")
    found = League(LeagueGroup(), seed=0, roles=three)
    players = {role: PlayerInfo(policy="learner" if role == "b" else "frozen", trained=role == "b") for role in three}
    paid = Outcome(status="terminated", reason="agreement", payoff={"a": 0.0, "b": 1.0, "c": 2.0})
    scenario = Scenario(env="toy", seed=0, split="train", roles=three)
    found.record([Conversation(id="000000-g00-0", scenario=scenario, players=players, outcome=paid)])
    assert found.results["frozen"]["b"] == Result(losses=1, payoff=1.0, opponent_payoff=1.0)
    ratings = [found.ratings[name][role].mu for name, role in (("frozen", "a"), ("learner", "b"), ("frozen", "c"))]
    assert ratings == sorted(ratings)


def test_conversations_without_payoff_and_failed_ones_say_nothing():
    found = league()
    failed = Conversation(
        id="000000-g01-0",
        scenario=Scenario(env="toy", seed=0, split="train", roles=ROLES),
        players=game("frozen").players,
        outcome=Outcome(status="failed", reason="timeout", payoff={"first": 1.0, "second": 0.0}),
    )
    found.record([game("frozen"), failed])
    assert found.results == found.ratings == {}
    assert found.metrics() == {
        "league/pool": 0, "league/snapshots": 0, "league/mirror_share": 0, "league/frozen_share": 1,
        "league/scripted_share": 0, "league/past_share": 0, "league/games": 0,
    }  # fmt: skip


def test_one_game_rates_the_policy_and_its_opponent_in_their_roles():
    found = league()
    found.record([game("frozen", 1, 0)])
    rated = rate({"us": Skill(), "them": Skill()}, {"us": 1, "them": 2})
    assert found.ratings == {"learner": {"first": after_update(rated["us"])}, "frozen": {"second": rated["them"]}}


def test_a_snapshot_starts_as_the_policy_is_and_keeps_that_when_the_policy_goes_on():
    found = league()
    found.record([game("frozen", 1, 0)])
    found.add(1)
    was = found.ratings["learner"]["first"]
    found.record([game("frozen", 1, 0, step=1)])
    assert found.ratings["past:1"] == {"first": was}
    assert found.ratings["learner"]["first"].mu > was.mu


def test_metrics_are_of_the_newest_step():
    found = league()
    found.record([game("frozen", 0, 1)])
    found.add(10)
    found.record(
        [
            game("learner", 1, 0, step=1),
            game("past:10", 1, 0, step=1),
            game("past:10", 1, 1, step=1),
            game("scripted", 0, 1, step=1, role="second"),
        ]
    )
    numbers = found.metrics()
    # Others than itself: a win, a tie and a win in the second role; the loss of the step before is over.
    assert numbers["league/win_rate"] == pytest.approx(2.5 / 3)
    assert numbers["league/win_rate/past"] == 0.75
    assert numbers["league/win_rate/scripted"] == 1
    assert "league/win_rate/frozen" not in numbers
    assert (numbers["league/games"], numbers["league/mirror_share"], numbers["league/past_share"]) == (3, 0.25, 0.5)
    assert numbers["league/rating/first"] == found.ratings["learner"]["first"].mu
    assert numbers["league/rating_sigma/second"] == found.ratings["learner"]["second"].sigma


def won(rng: np.random.Generator, lead: float) -> tuple[float, float]:
    """Payoffs of the first role and the second, where the first is better by so much; one game of five is a tie."""
    wins = 1 / (1 + math.exp(-lead / (BETA * math.sqrt(2))))
    tied, number = min(0.2, wins, 1 - wins), rng.random()
    return (1, -1) if number < wins - tied / 2 else (0, 0) if number < wins + tied / 2 else (-1, 1)


# The policy does not learn here: it is as good as past:3.
PLANTED, OWN = {"frozen": -8.0, "past:1": -3.0, "past:2": 2.0, "past:3": 7.0, "scripted": 13.0}, 7.0


def planted_league(seed: int) -> League:
    rng, found = np.random.default_rng(seed), league()
    for step in range(50):
        games = []
        for number in range(20):
            opponent, role = list(PLANTED)[rng.integers(5)], ROLES[number % 2]
            lead = (OWN - PLANTED[opponent]) * (1 if role == "first" else -1)
            games.append(game(opponent, *won(rng, lead), role=role, step=step, index=number))
        found.record(games)
    return found


@pytest.mark.slow
def test_a_planted_order_is_recovered_and_intervals_hold_what_was_planted_as_often_as_they_say():
    errors = []  # in deviations
    for ratings in [planted_league(seed).ratings for seed in range(4)]:
        for mine, theirs in (ROLES, ROLES[::-1]):
            us = ratings["learner"][mine]
            for name, skill in PLANTED.items():
                them = ratings[name][theirs]
                errors.append(((us.mu - them.mu) - (OWN - skill)) / math.hypot(us.sigma, them.sigma))
            assert sorted(PLANTED, key=lambda name: ratings[name][theirs].mu) == list(PLANTED)
            # Told apart for sure: past:1 from past:3.
            assert ratings["past:1"][theirs].interval[1] < ratings["past:3"][theirs].interval[0]
    assert len(errors) == 40
    assert sum(abs(error) < 2 for error in errors) >= 36  # 95% of 40 are 38


@pytest.mark.parametrize("opponent", ["learner", "past:10"])
def test_the_same_policy_on_both_sides_is_even_but_for_its_roles(opponent: str):
    # The first role is worth 6 points of skill to anybody: a win rate of 73%.
    rng, found = np.random.default_rng(2), league()
    for step in range(60):
        games = [
            game(opponent, *won(rng, 6.0), role=ROLES[number % 2], step=step, index=number) for number in range(20)
        ]
        found.record(games)
    us, them = found.ratings["learner"], found.ratings[opponent]
    for mine, theirs in ((us["first"], them["second"]), (them["first"], us["second"])):
        sigma = math.hypot(mine.sigma, theirs.sigma)
        assert mine.mu - theirs.mu == pytest.approx(6.0, abs=2 * sigma)
        assert mine.mu - theirs.mu > 2 * sigma
    ours, others = (sum(found.ratings[name][role].mu for role in ROLES) / 2 for name in ("learner", opponent))
    assert ours == pytest.approx(others, abs=1.0)
    assert found.win_rate(opponent) == pytest.approx(0.5, abs=0.03)


def test_nobody_is_rated_while_all_roles_are_always_paid_the_same():
    found = league()
    found.record([game("frozen", 1, 1), game("frozen", 0, 0, role="second"), game("learner", 1, 1)])
    found.add(1)
    assert found.ratings == {"past:1": {}}
    assert found.results["frozen"] == {
        "first": Result(ties=1, payoff=1.0, opponent_payoff=1.0),
        "second": Result(ties=1),
    }
    assert not any("rating" in name for name in found.metrics())
    # Once somebody has won, a tie counts, also one that came before in the same step.
    found.record([game("frozen", 1, 1, step=1), game("frozen", 1, 0, step=1, index=1)])
    tied = rate({"us": Skill(), "them": Skill()}, {"us": 1, "them": 1})
    won = rate(tied, {"us": 1, "them": 2})
    assert found.ratings["learner"]["first"] == after_update(won["us"])
    found.record([game("scripted", 1, 1, step=2)])
    assert found.ratings["scripted"]["second"].sigma < Skill().sigma


def test_whether_anybody_ever_won_is_read_back_also_from_a_league_that_does_not_say_it():
    for payoffs, num in (((1, 1), 0), ((1, 0), 2)):
        found = league()
        found.record([game("frozen", *payoffs)])
        tree = found.to_json()
        older = {name: value for name, value in tree.items() if name != "has_winners"}
        for stored in (tree, older):
            again = League.from_json(stored, settings=LeagueGroup(), seed=5)
            again.record([game("frozen", 1, 1, step=1)])
            assert sum("rating" in name for name in again.metrics()) == num
            assert len(again.ratings) == num


def test_ratings_that_an_older_league_made_of_ties_alone_are_not_told():
    ratings = {"learner": {"first": [25.0, 3.0]}, "frozen": {"second": [25.0, 3.0]}}
    older = {**league().to_json(), "ratings": ratings}
    del older["has_winners"]
    again = League.from_json(older, settings=LeagueGroup(), seed=5)
    again.record([game("frozen", 1, 1)])
    assert not any("rating" in name for name in again.metrics())


# ----- restarts -----


@dataclass
class Toy:
    """A run whose games depend on the step alone; the policy gets better."""

    league: League

    def step(self, step: int) -> tuple[tuple[str, ...], dict[str, float]]:
        drawn = self.league.opponents(step)
        self.league.opponents(step + 2)  # some deal ahead
        rng = np.random.default_rng(step)
        self.league.record(
            [
                game(opponent, *won(rng, 0.2 * step), role=ROLES[number % 2], step=step, index=number)
                for number, opponent in enumerate(drawn * 3)
            ]
        )
        if (step + 1) % 4 == 0:
            self.league.add(step + 1)
        if step == 21:
            self.league.drop(12)
        return drawn, self.league.metrics()


SETTINGS = LeagueGroup(choose="prioritised", swap_steps=3, opponents=2, window=4, scripted_ratio=0.1, frozen_ratio=0.1)


@pytest.mark.parametrize("stopped", [1, 10, 13, 22])
def test_a_league_that_is_read_back_goes_on_exactly(stopped: int):
    whole = Toy(League(SETTINGS, seed=3, roles=ROLES))
    expected = [whole.step(step) for step in range(40)]

    before = Toy(League(SETTINGS, seed=3, roles=ROLES))
    found = [before.step(step) for step in range(stopped)]
    stored = json.dumps(before.league.to_json(), allow_nan=False)
    after = Toy(League.from_json(json.loads(stored), settings=SETTINGS, seed=3))
    assert after.league.metrics() == before.league.metrics()
    found += [after.step(step) for step in range(stopped, 40)]
    assert found == expected
    assert after.league.to_json() == whole.league.to_json()
    assert (after.league.ratings, after.league.results) == (whole.league.ratings, whole.league.results)
    # The run met everybody, so that what is compared is not empty.
    assert {past_version(player) is not None for drawn, _ in found for player in drawn} == {True, False}


def test_draws_that_are_over_are_not_kept():
    found = Toy(League(SETTINGS, seed=3, roles=ROLES))
    for step in range(30):
        found.step(step)
    # After step 29: steps 30 and 31, which was dealt ahead, are period 10.
    assert list(found.league.to_json()["standing"]) == ["10"]


@pytest.mark.parametrize(
    "tree", [{}, [], {"roles": ROLES, "snapshots": 3}, {**league().to_json(), "results": {"frozen": {"first": 2}}}]
)
def test_what_is_no_league_is_refused(tree: object):
    with pytest.raises((ValueError, KeyError, TypeError)):
        League.from_json(tree, settings=LeagueGroup(), seed=0)
