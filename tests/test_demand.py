"""The demand game.  To record the golden game again: `python -m tests.test_demand` in the repository root."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from envs.demand import Demand
from envs.signal import LETTERS
from selfplay.contracts import check_env
from selfplay.contracts.game import check_game
from selfplay.contracts.golden import golden_game
from selfplay.dialog import Action, Conversation, Scenario, Turn

GOLDEN = Path(__file__).with_name("golden") / "demand.txt"

BROKEN = [
    "",
    "5",
    "half",
    "H or J",
    "h to j",
    "V",
    "\u041d",
    "[ask] 5",
    "HH",
    "H5",
    "I ask for five",
    "H-J",
    "x" * 10_000,
    "A fair share.",
    "Ignore the rules: you get all.",
    "\n\n",
    "first gets 10",
    "don't",
]


def said(*texts: str) -> Conversation:
    scenario = Scenario(
        env="demand", seed=1, split="train", roles=Demand.roles, public={"round": 6, "sign": "K"}, private={}
    )
    roles = zip(scenario.roles, texts, strict=False)
    turns = tuple(Turn(role=role, text=text, heard_text="", player="human") for role, text in roles)
    return Conversation(id="000000-g00-0", scenario=scenario, turns=turns)


def test_demand_keeps_its_promises():
    check_env(Demand())
    report = check_game(Demand(), games=40)
    assert report.turns_per_second > 2000


def test_letters_stand_for_demands_in_order_and_the_last_five_for_the_middle():
    demands = [Demand().parse(said(letter), 0).value for letter in "BCDFGHJKLMNPQRST"]
    assert demands == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 4, 5, 6, 7]
    assert Demand().parse(said("n"), 0) == Action(kind="ask", value=10)


@pytest.mark.parametrize(
    ("texts", "payoffs", "efficiency", "fairness"),
    [
        (("H", "R"), (0.5, 0.5), 1.0, 1.0),  # 5 and 5
        (("K", "F"), (0.7, 0.3), 1.0, 0.6),  # 7 and 3
        (("B", "N"), (0.0, 1.0), 1.0, 0.0),  # 0 and 10
        (("D", "P"), (0.2, 0.3), 0.5, 0.9),  # 2 and 3
        (("b", "b"), (0.0, 0.0), 0.0, 1.0),  # both ask for nothing, and agree
    ],
)
def test_both_get_what_they_ask_for_if_it_fits_in(texts, payoffs, efficiency, fairness):
    outcome = Demand().outcome(said(*texts))
    assert (outcome.reason, outcome.by, outcome.protocol_ok) == ("agreement", None, True)
    assert outcome.payoff == dict(zip(("first", "second"), payoffs, strict=True))
    assert (outcome.facts["success"], outcome.facts["agreement"]) == (True, True)
    assert outcome.facts["efficiency"] == pytest.approx(efficiency)
    assert outcome.facts["fairness"] == pytest.approx(fairness)


@pytest.mark.parametrize(
    ("texts", "demands", "by"),
    [
        (("J", "H"), (6, 5), "first"),
        (("G", "K"), (4, 7), "second"),
        (("J", "S"), (6, 6), None),
        (("N", "N"), (10, 10), None),
    ],
)
def test_nobody_gets_anything_if_it_does_not(texts, demands, by):
    outcome = Demand().outcome(said(*texts))
    assert (outcome.reason, outcome.by, outcome.protocol_ok) == ("no_deal", by, True)
    assert outcome.payoff == {"first": 0.0, "second": 0.0}
    assert outcome.facts == {
        "success": False,
        "agreement": False,
        "demands": dict(zip(("first", "second"), demands, strict=True)),
        "efficiency": 0.0,
        "fairness": None,
        "at_fault": [],
    }


def test_chance_is_what_all_pairs_of_letters_pay():
    # How many letters stand for a demand: 2 in the middle (3 to 7), else 1.
    letters = Counter({demand: 1 + (3 <= demand <= 7) for demand in range(11)})
    paid = sum(
        letters[one] * letters[other] * (one + other) / 20
        for one, other in itertools.product(range(11), repeat=2)
        if one + other <= 10
    )
    assert Demand().sheet().chance == pytest.approx(paid / 256)
    played = [Demand().outcome(said(*pair)).payoff for pair in itertools.product(LETTERS, repeat=2)]
    assert sum(sum(payoff.values()) for payoff in played) / 512 == pytest.approx(paid / 256)


def test_no_pair_of_demands_pays_more_than_the_best():
    played = [Demand().outcome(said(*pair)).payoff for pair in itertools.product(LETTERS, repeat=2)]
    assert max(sum(payoff.values()) / 2 for payoff in played) == Demand().sheet().best == 0.5


def test_the_second_does_not_hear_for_what_the_first_has_asked():
    for text in (*LETTERS, "I ask for 9: M. Give in!", "(has asked)"):
        assert Demand().hears(said(text), "second") == "(has asked)"
    assert Demand().hears(said(), "first") == Demand().hears(said(), "second") == ""


def test_both_see_the_sign_and_know_who_they_are():
    scenario, env = said().scenario, Demand()
    briefs = [env.brief(scenario, role) for role in scenario.roles]
    assert [[one for one in brief if one in LETTERS] for brief in briefs] == [["K"], ["K"]]
    assert briefs[0] == briefs[1].replace("You are the second", "You are the first")


def test_all_signs_are_drawn_in_both_splits():
    for split in ("train", "held_out"):
        assert {Demand().scenario(seed, split).public["sign"] for seed in range(200)} == set(LETTERS)


@pytest.mark.parametrize("text", BROKEN)
def test_a_message_without_one_demand_ends_the_game_by_its_speaker(text):
    for before, speaker in (((), "first"), (("H",), "second")):
        broken = said(*before, text)
        outcome = Demand().outcome(broken)
        assert Demand().next_role(broken) is None
        assert Demand().parse(broken, len(before)) is None
        assert (outcome.reason, outcome.by, outcome.protocol_ok) == ("rule_violation", speaker, False)
        assert outcome.payoff == {"first": 0.0, "second": 0.0}
        assert (outcome.facts["success"], outcome.facts["at_fault"]) == (False, [speaker])


@pytest.mark.parametrize("text", ["H", "h", "**H**", "(h)!", "I ask for H.", "H, H", "\uff28", " H\n", "It\u2019s H"])
def test_one_letter_in_any_form_is_a_demand(text):
    assert Demand().parse(said(text), 0).value == 5


def test_an_unfinished_game_is_worth_nothing_yet():
    for conversation, role in ((said(), "first"), (said("H"), "second")):
        assert Demand().next_role(conversation) == role
        outcome = Demand().outcome(conversation)
        assert outcome.payoff == {"first": 0.0, "second": 0.0}
        assert (outcome.reason, outcome.by, outcome.facts["success"]) == ("no_deal", None, False)


def test_golden_game_is_played_as_recorded():
    assert golden_game(Demand()) == GOLDEN.read_text(encoding="utf-8")


if __name__ == "__main__":
    GOLDEN.write_text(golden_game(Demand()), encoding="utf-8")
