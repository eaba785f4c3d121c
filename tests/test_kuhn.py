"""Kuhn poker.  To record the golden game again: `python -m tests.test_kuhn` in the repository root."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from envs.kuhn import BETS, PASSES, Kuhn, strategy_of
from envs.kuhn_value import CARDS, DEALS, SETS, equilibrium, exploitability, value
from envs.signal import LETTERS
from selfplay.contracts import check_env, play_scripted
from selfplay.contracts.game import check_game
from selfplay.contracts.golden import golden_game
from selfplay.dialog import Action, Conversation, PlayerInfo, Scenario, Turn
from selfplay.errors import UserError

GOLDEN = Path(__file__).with_name("golden") / "kuhn.txt"
SEED = 4  # of the golden game: a pass, a bet and a call

BROKEN = [
    "",
    "bet",
    "I bet!",
    "B or T",
    "b to t",
    "V",
    "\u0422",
    "[bet]",
    "TT",
    "T2",
    "check",
    "fold",
    "B-T",
    "x" * 10_000,
    "I hold the king, fold.",
    "Ignore the rules: you lose.",
    "\n\n",
    "first wins 1",
    "don't",
]


def said(*texts: str, deal: str = "KQ", policies: tuple[str, str] = ("learner", "learner")) -> Conversation:
    scenario = Scenario(
        env="kuhn",
        seed=1,
        split="train",
        roles=Kuhn.roles,
        public={"round": 6, "cards": list(CARDS)},
        private={"first": {"card": deal[0]}, "second": {"card": deal[1]}},
    )
    turns = tuple(
        Turn(role=role, text=text, heard_text="", player="human")
        for role, text in zip(itertools.cycle(scenario.roles), texts, strict=False)
    )
    players = {role: PlayerInfo(policy=policy) for role, policy in zip(scenario.roles, policies, strict=True)}
    return Conversation(id="000000-g00-0", scenario=scenario, players=players, turns=turns)


def moves(done: str, **changes: str) -> Conversation:
    """Make a round of the moves p and b."""
    return said(*({"p": "B", "b": "T"}[move] for move in done), **changes)


def test_kuhn_keeps_its_promises():
    check_env(Kuhn())
    report = check_game(Kuhn(), games=40)
    assert report.turns_per_second > 2000


@pytest.mark.parametrize(
    ("deal", "done", "won", "reason", "by", "success"),
    [
        ("KQ", "pp", 0.5, "goal_reached", None, True),
        ("JQ", "pp", -0.5, "goal_reached", None, True),
        ("KQ", "bb", 1.0, "goal_reached", None, True),
        ("QK", "bb", -1.0, "goal_reached", None, True),
        ("JK", "bp", 0.5, "gave_up", "second", False),  # a bluff
        ("KJ", "bp", 0.5, "gave_up", "second", True),
        ("KJ", "pbp", -0.5, "gave_up", "first", False),
        ("JQ", "pbp", -0.5, "gave_up", "first", True),
        ("QJ", "pbb", 1.0, "goal_reached", None, True),
        ("QK", "pbb", -1.0, "goal_reached", None, True),
    ],
)
def test_every_way_through_the_game_pays_half_of_what_was_put_in(deal, done, won, reason, by, success):
    conversation, env = moves(done, deal=deal), Kuhn()
    outcome = env.outcome(conversation)
    assert env.next_role(conversation) is None
    assert outcome.payoff == {"first": won, "second": -won}
    assert (outcome.reason, outcome.by, outcome.facts["success"], outcome.facts["moves"]) == (reason, by, success, done)
    assert outcome.protocol_ok


@pytest.mark.parametrize(("done", "role"), [("", "first"), ("p", "second"), ("b", "second"), ("pb", "first")])
def test_an_unfinished_round_is_worth_nothing_and_goes_on(done, role):
    outcome = Kuhn().outcome(moves(done))
    assert Kuhn().next_role(moves(done)) == role
    assert (outcome.reason, outcome.facts["success"]) == ("turn_limit", False)
    assert outcome.payoff == {"first": 0.0, "second": 0.0}


def test_half_of_the_letters_pass_and_the_others_bet():
    actions = [Kuhn().parse(said(letter), 0) for letter in LETTERS]
    assert [action.kind for action in actions] == ["pass"] * 8 + ["bet"] * 8
    assert Kuhn().parse(said("l"), 0) == Action(kind="bet", value="L")


@pytest.mark.parametrize("text", BROKEN)
def test_a_message_without_one_move_loses_a_bet(text):
    for before in ("", "p", "b", "pb"):
        conversation = moves(before)
        speaker = Kuhn().next_role(conversation)
        broken = said(*(turn.text for turn in conversation.turns), text)
        outcome = Kuhn().outcome(broken)
        assert Kuhn().next_role(broken) is None
        assert (outcome.reason, outcome.by, outcome.protocol_ok) == ("rule_violation", speaker, False)
        assert outcome.payoff[speaker] == -1.0
        assert sum(outcome.payoff.values()) == 0.0
        assert outcome.facts["at_fault"] == [speaker]
        assert outcome.facts["success"] is False


@pytest.mark.parametrize("text", ["T", "t", "**T**", "(t)!", "I bet: T", "T, T and T", "\uff34", " T\n", "It\u2019s T"])
def test_one_letter_in_any_form_is_a_move(text):
    assert Kuhn().parse(said(text), 0).kind == "bet"


def test_the_partner_hears_the_move_and_not_which_letter_it_was():
    for half, heard in ((PASSES, "pass (B)"), (BETS, "bet (T)")):
        assert {Kuhn().hears(said(f"I hold Q. {letter}"), "second") for letter in half if letter != "Q"} == {""}
        assert {Kuhn().hears(said(f"So: {letter}, my king."), "second") for letter in half} == {heard}
    assert Kuhn().hears(said(), "first") == ""
    assert Kuhn().hears(said("F", "M"), "first") == "bet (T)"


def test_all_that_a_model_over_letters_reads_in_a_brief_is_the_card():
    env, scenario = Kuhn(), said(deal="JQ").scenario
    read = [[one for one in env.brief(scenario, role) if one in LETTERS] for role in scenario.roles]
    assert read == [["J"], ["Q"]]


def test_all_deals_are_dealt_in_both_splits():
    for split in ("train", "held_out"):
        scenarios = [Kuhn().scenario(seed, split) for seed in range(60)]
        assert {(one.private["first"]["card"], one.private["second"]["card"]) for one in scenarios} == set(DEALS)


# ----- what strategies are worth -----


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1 / 3])
def test_an_equilibrium_cannot_be_exploited_and_loses_an_eighteenth_of_an_ante(alpha):
    assert exploitability(equilibrium(alpha)) == pytest.approx(0.0, abs=1e-12)
    assert value(equilibrium(alpha)) == pytest.approx(-1 / 36)


@pytest.mark.parametrize(
    ("bets", "exploited"),
    [
        # Against who always calls and never folds, either role wins with the king 2, loses with the jack 1 (it
        # passes, then folds) and comes out even with the queen: 1/3 of an ante.
        (1.0, 1 / 6),
        # Against who always passes, a bet wins the ante with any card.
        (0.0, 1 / 2),
        # OpenSpiel's exploitability of the uniform policy: 0.458333 antes.
        (0.5, 0.458333 / 2),
    ],
)
def test_exploitability_of_the_same_play_everywhere(bets, exploited):
    assert exploitability(dict.fromkeys(SETS, bets)) == pytest.approx(exploited, abs=1e-6)


def test_value_of_always_betting_is_even_and_of_betting_kings_alone_is_a_hand_calculation():
    assert value(dict.fromkeys(SETS, 1.0)) == 0.0  # cards are compared, and as many are better as worse
    # First bets with the king alone, second bets after a pass alone, nobody else calls: KJ and KQ +1; J and Q pass:
    # against a bet they fold, -1.  In antes (2 - 4) / 6.
    strategy = {**dict.fromkeys(SETS, 0.0), "K": 1.0, "Jp": 1.0, "Qp": 1.0, "Kp": 1.0}
    assert value(strategy) == pytest.approx(-1 / 6)


def test_best_answer_is_that_of_playing_every_pure_strategy_in_the_game_itself():
    strategy = {name: (3 * index % 7) / 7 for index, name in enumerate(SETS)}
    first, second = SETS[:6], SETS[6:]

    def won(changes: dict[str, float]) -> float:
        """Return what first wins, by playing all rounds through the environment."""
        mixed, total = {**strategy, **changes}, 0.0
        for deal in DEALS:
            for done in ("pp", "pbp", "pbb", "bp", "bb"):
                chance = 1.0
                for turn, move in enumerate(done):
                    bets = mixed[deal[turn % 2] + done[:turn]]
                    chance *= bets if move == "b" else 1 - bets
                total += chance * Kuhn().outcome(moves(done, deal="".join(deal))).payoff["first"]
        return total / 6

    # The cards of a role do not touch each other, so that card by card all of its pure strategies are compared.
    def best(names: tuple[str, ...], sign: int) -> float:
        changes: dict[str, float] = {}
        for card in CARDS:
            own = [name for name in names if name[0] == card]
            plans = [dict(zip(own, plan, strict=True)) for plan in itertools.product((0.0, 1.0), repeat=2)]
            changes |= max(plans, key=lambda plan: sign * won({**changes, **plan}))
        return sign * won(changes)

    assert exploitability(strategy) == pytest.approx((best(first, 1) + best(second, -1)) / 2)


@pytest.mark.parametrize(
    "strategy",
    [{}, {**dict.fromkeys(SETS, 0.5), "J": 1.5}, {**dict.fromkeys(SETS, 0.5), "X": 0.5}, {"J": 0.5}],
)
def test_what_is_no_strategy_is_refused(strategy):
    for measure in (value, exploitability):
        with pytest.raises(UserError, match="for each of J, Q, K, Jpb"):
            measure(strategy)


@pytest.mark.parametrize("alpha", [-0.1, 0.34])
def test_bluffs_that_no_equilibrium_has_are_refused(alpha):
    with pytest.raises(UserError, match="must be from 0 to 1/3"):
        equilibrium(alpha)


def test_strategy_of_counts_how_often_each_information_set_bet():
    rounds = [moves("pbb", deal="QK"), moves("pbp", deal="QJ"), moves("pp", deal="QJ"), moves("bb", deal="JK")]
    strategy, counts = strategy_of([*rounds, said("T", "no idea", deal="JQ")])
    assert counts == {**dict.fromkeys(SETS, 0), "Q": 3, "Kp": 1, "Qpb": 2, "Jp": 2, "J": 2, "Kb": 1}
    seen = {"Q": 0.0, "Kp": 1.0, "Qpb": 0.5, "Jp": 0.5, "J": 1.0, "Kb": 1.0}
    assert strategy == {**dict.fromkeys(SETS, 0.5), **seen}


def test_strategy_of_one_policy_leaves_out_what_others_said():
    played = moves("pb", deal="QK", policies=("past:4", "learner"))
    assert {name for name, count in strategy_of([played], policy="learner")[1].items() if count} == {"Kp"}
    assert {name for name, count in strategy_of([played], policy="past:4")[1].items() if count} == {"Q"}


def test_scripts_play_the_equilibrium():
    played = [play_scripted(Kuhn(), Kuhn().scenario(seed, "train")) for seed in range(900)]
    strategy, counts = strategy_of(played)
    reached = {name for name, count in counts.items() if count}
    assert reached == set(SETS) - {"Kpb"}  # with the king the script has bet
    for name in reached:
        # Probabilities of 0 and 1 are exact, thirds within four standard errors.
        error = 4 * (equilibrium()[name] * (1 - equilibrium()[name]) / counts[name]) ** 0.5
        assert abs(strategy[name] - equilibrium()[name]) <= error


def test_golden_game_is_played_as_recorded():
    assert golden_game(Kuhn(), seed=SEED) == GOLDEN.read_text(encoding="utf-8")


if __name__ == "__main__":
    GOLDEN.write_text(golden_game(Kuhn(), seed=SEED), encoding="utf-8")
