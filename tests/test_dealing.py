"""Who meets whom."""

from envs.chitchat import ChitChat
from selfplay.dealing import FROZEN, LEARNER, Dealer, blocks

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
