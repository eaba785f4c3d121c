"""Who meets whom."""

from envs.chitchat import ChitChat
from selfplay.dealing import FROZEN, LEARNER, Dealer, LeagueDealer, blocks
from selfplay.league import League
from selfplay.train_settings import LeagueGroup

ENV = ChitChat(max_turns=2)


def dealer(**settings):
    return Dealer(env=ENV, seed=3, conversations=8, group_size=4, **settings)


def test_training_deals_groups_that_share_scenario_and_players_but_not_draws():
    matches = dealer().training(5)
    assert [match.id for match in matches] == [f"000005-g0{group}-{index}" for group in (0, 1) for index in range(4)]
    assert matches[0].scenario == matches[3].scenario != matches[4].scenario
    assert len({match.seed for match in matches}) == 8


def test_training_depends_on_seed_and_step_alone():
    assert dealer().training(5) == dealer().training(5)
    assert dealer().training(5)[0].scenario != dealer().training(6)[0].scenario


def test_evaluation_gives_every_version_the_same_held_out_games():
    before, after = dealer().evaluation(0, conversations=5), dealer().evaluation(30, conversations=5)
    assert [match.id for match in after] == [f"000030-e0{group}-0" for group in range(5)]
    assert [(m.scenario, m.seed, m.players) for m in before] == [(m.scenario, m.seed, m.players) for m in after]
    assert {match.scenario.split for match in before} == {"held_out"}


def test_mirror_puts_the_policy_in_every_role():
    assert dealer().players("train", 0, 0) == {"host": LEARNER, "guest": LEARNER}


def test_frozen_draws_the_trained_role_once_a_scenario():
    partners = dealer(partner="frozen")
    drawn = [partners.players("train", 0, group) for group in range(200)]
    assert all(sorted(players.values()) == [FROZEN, LEARNER] for players in drawn)
    hosts = sum(players["host"] == LEARNER for players in drawn)
    assert 70 < hosts < 130  # a fair coin: 100 +- 4 deviations of 7
    matches = partners.training(0)
    assert matches[0].players == matches[3].players


def test_a_fixed_player_keeps_its_role_and_is_never_trained():
    assert dealer(fixed={"guest": "scripted"}).players("train", 0, 0) == {"host": LEARNER, "guest": "scripted"}
    frozen = dealer(fixed={"guest": "scripted"}, partner="frozen")
    assert frozen.players("train", 1, 7) == {"host": LEARNER, "guest": "scripted"}


def test_blocks_hold_all_matches_in_order():
    matches = dealer().training(0)
    assert [len(block) for block in blocks(matches, size=4)] == [4, 4]
    assert [len(block) for block in blocks(matches, size=100)] == [8]
    assert [match for block in blocks(matches, size=3) for match in block] == matches


# ----- of a league -----


class Drawn:
    """A league that draws what it is told."""

    def __init__(self, *opponents: str) -> None:
        self._opponents = opponents

    def opponents(self, step: int) -> tuple[str, ...]:
        return self._opponents


def league_dealer(*opponents: str, groups: int = 2, **settings) -> LeagueDealer:
    dealt = Dealer(env=ENV, seed=3, conversations=4 * groups, group_size=4, partner="league", **settings)
    return LeagueDealer(dealer=dealt, league=Drawn(*opponents))


def test_each_opponent_meets_an_equal_part_of_the_groups_in_order():
    matches = league_dealer("past:10", LEARNER, "scripted", groups=9).training(4)
    met = [next((name for name in match.players.values() if name != LEARNER), LEARNER) for match in matches]
    assert met == ["past:10"] * 12 + [LEARNER] * 12 + ["scripted"] * 12
    assert [match.id for match in matches[:5]] == [f"000004-g00-{index}" for index in range(4)] + ["000004-g01-0"]
    mirror = Dealer(env=ENV, seed=3, conversations=36, group_size=4)
    assert [match.scenario for match in matches] == [match.scenario for match in mirror.training(4)]


def test_parts_differ_by_one_group_where_they_cannot_be_equal():
    matches = league_dealer("past:1", "past:2", "past:3", groups=5).training(0)
    groups = [(match.players["host"], match.players["guest"]) for match in matches[::4]]
    assert [sum(f"past:{number}" in players for players in groups) for number in (1, 2, 3)] == [2, 2, 1]


def test_against_itself_the_policy_has_every_role_and_else_one_drawn_for_the_group():
    assert all(set(match.players.values()) == {LEARNER} for match in league_dealer(LEARNER).training(0))
    matches = league_dealer("past:10", groups=200).training(0)
    assert all(sorted(match.players.values()) == [LEARNER, "past:10"] for match in matches)
    assert all(match.players == matches[place // 4 * 4].players for place, match in enumerate(matches))
    hosts = sum(match.players["host"] == LEARNER for match in matches[::4])
    assert 70 < hosts < 130  # a fair coin: 100 +- 4 deviations of 7


def test_a_fixed_player_keeps_its_role_in_a_league():
    found = league_dealer("past:10", fixed={"guest": "chance"})
    assert found.dealer.free_roles == ["host"]
    assert {tuple(match.players.items()) for match in found.training(0)} == {(("host", LEARNER), ("guest", "chance"))}


def test_evaluation_in_a_league_is_that_against_the_policy_before_training():
    found = league_dealer("past:10").evaluation(7, conversations=12)
    assert found == dealer(partner="frozen").evaluation(7, conversations=12)
    assert {name for match in found for name in match.players.values()} == {LEARNER, FROZEN}


def test_a_league_deals_the_same_again_and_from_what_it_was_read_back_as():
    settings = LeagueGroup(opponents=2)
    first = League(settings, seed=3, roles=ENV.roles)
    first.add(10)
    again = League.from_json(first.to_json(), settings=settings, seed=3)
    one, other = (LeagueDealer(dealer=dealer(partner="league"), league=league) for league in (first, again))
    assert [one.training(step) for step in range(20)] == [other.training(step) for step in range(20)]
