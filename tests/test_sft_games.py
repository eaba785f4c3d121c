"""Held-out games of imitation, counted: all sides on the same scenarios."""

import math

import pytest

from selfplay.dialog import Conversation, Outcome
from selfplay.sft_games import changes_to_json, sides_to_json, tally_of
from tests.duel import duel

FAILED = Outcome(status="failed", reason="empty_reply")
TRUNCATED = Outcome(status="truncated", reason="context_full")


def ended(number: int, *, form: bool = True, aim: bool = True, left: float = 0.0, right: float = 0.0) -> Conversation:
    payoff = {"left": left, "right": right}
    facts = {"success": aim}
    return duel(
        number, outcome=Outcome(status="terminated", reason="agreement", facts=facts, payoff=payoff, protocol_ok=form)
    )


def tally(base: list[Conversation], trained: list[Conversation], scripted: list[Conversation] | None = None):
    scripts = [ended(game.scenario.seed, left=1, right=1) for game in base] if scripted is None else scripted
    return tally_of({"base": base, "trained": trained, "scripted": scripts}, seed=0)


def values(found, side: str) -> dict[str, float]:
    return {name: mean.value for name, mean in found.sides[side].numbers.items()}


def row(found, name: str):
    return next(one for one in found.changes if one.name == name)


def test_failed_and_cut_games_kept_no_form_and_reached_no_aim():
    cut = duel(3, finishes=("stop", "length"), outcome=TRUNCATED)
    base = [ended(1), ended(2, aim=False), cut, duel(4, outcome=FAILED)]
    found = tally(base, [ended(number) for number in (1, 2, 3, 4)])
    numbers = values(found, "base")
    # Two of four games came to an end of their own, and one of these reached its aim.
    assert (numbers["game/protocol_ok"], numbers["game/success"]) == (0.5, 0.25)
    # 4 + 4 + 2 + 4 turns, of which one was cut.
    assert (numbers["game/turns"], numbers["play/cut_share"]) == (3.5, 1 / 14)
    assert [found.sides[side].failed for side in ("base", "trained", "scripted")] == [1, 0, 0]
    assert row(found, "game/success").difference == 0.75


def test_payoffs_are_over_the_scenarios_where_every_side_was_paid():
    # The base fails where it would have lost: its survivors alone are better than what training made of it.
    base = [ended(1, left=1, right=1), duel(2, outcome=FAILED), duel(3, outcome=FAILED), ended(4, left=1)]
    trained = [ended(1, left=1, right=1), ended(2), ended(3), ended(4, left=0.5)]
    found = tally(base, trained)
    assert (found.games, found.paid, found.partly_paid) == (4, 2, 2)
    # Scenarios 1 and 4: left 1 and 1, right 1 and 0; trained: left 1 and 0.5, right 1 and 0.
    assert values(found, "base")["game/payoff"] == 0.75
    assert values(found, "trained")["game/payoff"] == 0.625
    assert values(found, "scripted")["game/payoff/right"] == 1.0
    change = row(found, "game/payoff/left")
    assert (change.base, change.trained, change.difference) == (1.0, 0.75, -0.25)


def test_interval_of_a_change_is_paired_by_scenario():
    # Payoffs differ much between scenarios, and by exactly 0.1 between sides.
    base = [ended(number, left=float(number), right=float(number)) for number in range(8)]
    trained = [ended(number, left=number + 0.1, right=number + 0.1) for number in reversed(range(8))]
    found = tally(base, trained)
    change, mean = row(found, "game/payoff"), found.sides["base"].numbers["game/payoff"]
    assert (change.difference, change.low, change.high) == pytest.approx((0.1, 0.1, 0.1))
    # The mean of 0 to 7 has a standard error of 0.81, so 95% are about 3.2 wide.
    assert mean.high - mean.low == pytest.approx(3.2, abs=0.3)


def test_nothing_that_every_side_was_paid_for_leaves_payoffs_unknown():
    found = tally([duel(1, outcome=FAILED), duel(2, outcome=FAILED)], [ended(1), ended(2)])
    assert (found.paid, found.partly_paid) == (0, 2)
    assert "game/payoff" not in values(found, "trained")
    sides = sides_to_json(found)
    assert (sides["base"]["failed"], sides["trained"]["payoff"], sides["trained"]["protocol"]) == (2, None, 1.0)


def test_one_scenario_has_no_intervals_and_json_has_no_nan():
    found = tally([ended(1, form=False)], [ended(1)])
    assert math.isnan(row(found, "game/protocol_ok").low)
    assert changes_to_json(found)["game/protocol_ok"] == {
        "base": 0.0,
        "trained": 1.0,
        "difference": 1.0,
        "low": None,
        "high": None,
    }
    assert sides_to_json(found)["base"]["intervals"]["protocol"] == [None, None]


def test_game_without_truth_says_nothing_of_it():
    talk = [duel(number, outcome=Outcome(status="terminated", reason="turn_limit")) for number in (1, 2)]
    found = tally(talk, talk, talk)
    assert [one.name for one in found.changes] == ["game/protocol_ok", "game/turns", "play/cut_share"]
    assert (found.paid, found.partly_paid) == (0, 0)
    assert values(found, "trained")["game/protocol_ok"] == 1.0


def test_rows_have_one_order_whatever_the_first_scenario_says():
    base = [duel(1, outcome=FAILED), ended(2)]
    names = [one.name for one in tally(base, [ended(1), ended(2)]).changes]
    assert names == [
        *("game/protocol_ok", "game/success", "game/payoff", "game/payoff/left", "game/payoff/right"),
        *("game/turns", "play/cut_share"),
    ]


def test_sides_of_other_scenarios_are_an_error():
    with pytest.raises(AssertionError, match="other scenarios"):
        tally([ended(1)], [ended(2)])
