"""What outcomes of games say of some of the roles: every number by hand."""

import math

import pytest

from selfplay.dialog import Action, Conversation, Outcome, PlayerInfo, Scenario, Turn
from selfplay.game_numbers import add_up, breakers, contest_of, game_sums, is_scored, unfitting, unfitting_means


def talk(outcome: Outcome | None, *actions: Action | None, trained: tuple[str, ...] = ()) -> Conversation:
    """Make a conversation in which buyer and seller take turns; trained: the policy's roles."""
    roles = ("buyer", "seller")
    turns = [
        Turn(role=roles[k % 2], text="x", heard_text="", player="scripted", action=action)
        for k, action in enumerate(actions)
    ]
    scenario = Scenario(env="e", seed=1, split="train", roles=roles)
    players = {role: PlayerInfo(policy="x", trained=role in trained) for role in roles}
    return Conversation(id="000000-g00-0", scenario=scenario, players=players, turns=tuple(turns), outcome=outcome)


def deal(**changes) -> Outcome:
    values = {"facts": {"success": True}, "payoff": {"buyer": 0.25, "seller": 0.75}, **changes}
    return Outcome(status="terminated", reason=values.pop("reason", "agreement"), **values)


def test_one_role_has_its_payoff_and_its_opponents():
    sums = game_sums(talk(deal(), None, None, None), ["seller"])
    assert sums == {
        "game/payoff": (0.75, 1.0),
        "game/payoff/seller": (0.75, 1.0),
        "game/opponent_payoff": (0.25, 1.0),
        "game/win": (1.0, 1.0),
        "game/success": (1.0, 1.0),
        "game/protocol_ok": (1.0, 1.0),
        "game/fault": (0.0, 1.0),
        "game/opponent_fault": (0.0, 1.0),
        "game/turns": (3.0, 1.0),
    }


def test_all_roles_have_the_mean_payoff_and_no_opponent():
    sums = game_sums(talk(deal(), None), ["buyer", "seller"])
    assert sums["game/payoff"] == (0.5, 1.0)  # (0.25 + 0.75) / 2
    assert (sums["game/payoff/buyer"], sums["game/payoff/seller"]) == ((0.25, 1.0), (0.75, 1.0))
    assert not [name for name in sums if "opponent" in name or name == "game/win"]


@pytest.mark.parametrize(
    ("payoff", "roles", "win"),
    [
        ({"a": 1.0, "b": -1.0}, ["a"], 1.0),
        ({"a": 1.0, "b": -1.0}, ["b"], 0.0),
        ({"a": 0.5, "b": 0.5}, ["b"], 0.5),
        ({"a": 0.1 + 0.2, "b": 0.3}, ["b"], 0.5),  # as equal as floats can be
        ({"a": 0.5, "b": 0.5, "c": 0.25}, ["a"], 0.5),  # with the best of the others
        ({"a": 0.5, "b": 0.75, "c": 0.25}, ["a"], 0.0),  # above one of them alone
        ({"a": 0.5, "b": 0.75, "c": 0.5}, ["a", "b"], 0.75),  # (1/2 + 1) / 2 over the third
    ],
)
def test_a_win_is_a_payoff_above_that_of_all_others(payoff: dict[str, float], roles: list[str], win: float):
    scenario = Scenario(env="e", seed=1, split="train", roles=tuple(payoff))
    ended = Outcome(status="terminated", reason="agreement", payoff=payoff)
    sums = game_sums(Conversation(id="000000-g00-0", scenario=scenario, outcome=ended), roles)
    assert sums["game/win"] == (win, 1.0)


def test_where_one_role_is_paid_or_plays_nobody_wins():
    assert "game/win" not in game_sums(talk(deal(payoff={"seller": 1.0})), ["seller"])
    assert "game/win" not in game_sums(talk(deal(payoff={"seller": 1.0})), ["buyer"])


WON, LOST, DRAWN = ({"buyer": value, "seller": -value} for value in (1.0, -0.2, 0.0))
SHARED = {"buyer": 1.0, "seller": 1.0}


@pytest.mark.parametrize(
    ("payoffs", "contest"),
    [
        ((WON, LOST, DRAWN), "zero_sum"),
        ((DRAWN, DRAWN), "none"),
        ((SHARED, DRAWN), "none"),
        ((WON, SHARED), "general"),
        (({"buyer": 0.25, "seller": 0.75}, DRAWN), "general"),
        ((), "none"),
    ],
)
def test_how_far_roles_play_against_each_other_shows_in_all_outcomes(payoffs, contest):
    cut = Outcome(status="truncated", reason="context_full")
    assert contest_of([*(talk(deal(payoff=paid)) for paid in payoffs), talk(cut), talk(None)]) == contest


def test_success_tells_nothing_of_who_has_one_side_of_a_zero_sum_game():
    both, one = talk(deal(), trained=("buyer", "seller")), talk(deal(), trained=("buyer",))
    assert unfitting([one], contest="zero_sum") == unfitting([both, one], contest="zero_sum") == {"game/success"}
    assert unfitting([both], contest="zero_sum") == unfitting([one], contest="general") == set()
    assert unfitting([one], contest="none") == {"game/win"}


def means(own: object, others: object, win: object, **more: object) -> dict[str, object]:
    """Make what a step stores of a game, with the names of a league given without their paths."""
    paths = {"games": "league/games", "count": "game/count"}
    paid = {"game/payoff": own, "game/opponent_payoff": others, "game/win": win, "game/success": 0.75}
    return {
        **{name: value for name, value in paid.items() if value is not None},
        **{paths[k]: v for k, v in more.items()},
    }


@pytest.mark.parametrize(
    ("lines", "unfit"),
    [
        ([means(0.25, -0.25, 0.625), means(0.0, 0.0, 0.5)], {"game/success"}),
        ([means(0.1 + 0.2, -0.3, 0.5)], {"game/success"}),  # as equal as floats can be
        ([means(0.0, 0.0, 0.75)], {"game/success"}),  # won more often, lost higher
        ([means(0.25, -0.25, 0.625), means(0.25, 0.25, 0.5)], set()),
        ([means(0.25, 0.5, 0.375)], set()),
        ([means(0.25, 0.25, 0.5), means(0.75, 0.75, 0.5)], {"game/win"}),
        ([means(0.25, 0.25, 0.5), means(0.75, 0.75, 0.25)], set()),  # one was paid more, another time less
        ([means(0.0, 0.0, 0.5)], {"game/win"}),  # nothing was ever paid but 0
        ([means(0.0, None, None)], set()),  # all were trained
        ([means(None, None, None), {}], set()),
        ([means(0.25, -0.25, 0.625), means(math.nan, math.nan, math.nan), {}], {"game/success"}),
        ([means(0.25, -0.25, 0.625), means("1", True, 10**400), means(10**400, 1, 1)], {"game/success"}),
    ],
)
def test_stored_means_tell_which_contest_it_was(lines: list[dict[str, object]], unfit: set[str]):
    assert unfitting_means(lines) == unfit


def test_in_a_league_the_policy_met_others_in_a_share_of_the_games():
    # Two games of eight against others, with 1 and 0.5; the six with itself sum to 0: 1.5 / 8 and -1.5 / 2.
    some, none = means(0.1875, -0.75, 1.0, games=2.0, count=8.0), means(0.0, None, None, games=0.0, count=8.0)
    assert unfitting_means([none, some]) == {"game/success"}
    # Had the policy and itself gained together, their games would not sum to 0.
    assert unfitting_means([{**none, "game/payoff": 0.5}, some]) == set()
    # Both are always paid the same, and more against others.
    assert unfitting_means([means(0.5, 0.75, 0.5, games=2.0, count=8.0)]) == {"game/win"}


def test_means_tell_the_same_as_the_conversations_that_made_them():
    def line(*talks: Conversation) -> dict[str, float]:
        sums = add_up(game_sums(one, ["buyer"]) for one in talks)
        return {name: top / count for name, (top, count) in sums.items() if count}

    for payoffs in ((0.5, -0.5), (-1.0, 1.0)), ((0.5, 0.5), (1.0, 1.0)), ((0.5, 0.25), (1.0, 0.0)):
        paid = [deal(payoff=dict(zip(("buyer", "seller"), pair, strict=True))) for pair in payoffs]
        talks = [talk(one, trained=("buyer",)) for one in paid]
        assert unfitting_means([line(*talks)]) == unfitting(talks, contest=contest_of(talks))


def test_who_broke_the_form_is_whom_the_game_names_or_whose_move_was_refused():
    named = talk(deal(reason="rule_violation", by="seller", protocol_ok=False), None)
    assert breakers(named) == {"seller"}
    assert game_sums(named, ["seller"])["game/fault"] == (1.0, 1.0)
    assert game_sums(named, ["buyer"])["game/fault"] == (0.0, 1.0)
    assert game_sums(named, ["buyer"])["game/opponent_fault"] == (1.0, 1.0)
    refused = Action(kind="offer", value=3, legal=False)
    assert breakers(talk(deal(reason="turn_limit", protocol_ok=False), refused, None)) == {"buyer"}


SAID, REFUSED = Action(kind="offer", value=3), Action(kind="offer", value=3, legal=False)


@pytest.mark.parametrize(
    ("outcome", "actions", "at_fault"),
    [
        # Blamed for the turn limit: the seller, who never moved, not the buyer, whose talk is no breach.
        (deal(reason="turn_limit", by="seller", protocol_ok=False), (None, None, SAID), {"seller"}),
        # Nobody is named: whose turn has no move.
        (deal(reason="turn_limit", protocol_ok=False), (SAID, None, SAID), {"seller"}),
        (deal(reason="gave_up", by="buyer", protocol_ok=False), (SAID, None, SAID), {"seller"}),
        (deal(reason="turn_limit", protocol_ok=False), (None, None, SAID), {"buyer", "seller"}),
        # Talk blames nobody beside a refused move, nor does the end that somebody brought about.
        (deal(reason="no_deal", by="buyer", protocol_ok=False), (None, REFUSED, None), {"seller"}),
        (deal(reason="turn_limit", by="buyer", protocol_ok=False), (SAID, REFUSED, SAID), {"seller"}),
        (deal(reason="rule_violation", by="buyer", protocol_ok=False), (SAID, REFUSED, None), {"buyer", "seller"}),
        # A form that is kept is broken by nobody, whatever has no move.
        (deal(), (SAID, None, SAID), set()),
    ],
)
def test_breakers_without_a_named_breach_are_told_from_moves_or_the_turn_limit(
    outcome: Outcome, actions: tuple[Action | None, ...], at_fault: set[str]
):
    assert breakers(talk(outcome, *actions)) == at_fault


@pytest.mark.parametrize(
    ("told", "at_fault"),
    [
        (["buyer"], {"buyer"}),  # not the seller, whose move was refused
        (("buyer", "seller"), {"buyer", "seller"}),
        ([], set()),
        # What is no list of roles is passed over.
        ("buyer", {"seller"}),
        (["guest"], {"seller"}),
        ([1, ["buyer"]], {"seller"}),
        (None, {"seller"}),
    ],
)
def test_whom_the_game_itself_finds_at_fault_comes_before_all_signs(told: object, at_fault: set[str]):
    broken = deal(reason="no_deal", protocol_ok=False, facts={"success": False, "at_fault": told})
    assert breakers(talk(broken, None, REFUSED)) == at_fault
    kept = deal(facts={"success": False, "at_fault": told})
    assert breakers(talk(kept, None, REFUSED)) == set()


@pytest.mark.parametrize(
    "outcome",
    [
        deal(protocol_ok=True, reason="no_deal", by="buyer"),  # whoever walks away breaks no form
        deal(protocol_ok=False, reason="turn_limit"),  # broken, and nothing tells by whom
    ],
)
def test_nobody_is_at_fault_where_nobody_is_named(outcome: Outcome):
    assert breakers(talk(outcome, None)) == set()


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        Outcome(status="terminated", reason="turn_limit"),
        Outcome(status="truncated", reason="context_full"),
        Outcome(status="failed", reason="timeout", payoff={"buyer": 1.0}),
    ],
)
def test_what_is_not_paid_has_no_numbers(outcome: Outcome | None):
    assert not is_scored(talk(outcome, None))
    assert game_sums(talk(outcome, None), ["buyer"]) == {}


def test_roles_that_nobody_fills_have_no_numbers():
    assert game_sums(talk(deal(), None), []) == {}


def test_a_game_that_does_not_say_whether_it_succeeded_has_no_success():
    assert "game/success" not in game_sums(talk(deal(facts={})), ["buyer"])


def test_sums_add_up_name_by_name():
    assert add_up([{"a": (1.0, 1.0)}, {"a": (2.0, 1.0), "b": (5.0, 1.0)}]) == {"a": (3.0, 2.0), "b": (5.0, 1.0)}
