"""Versions against opponents: means by hand, intervals where they are known without drawing."""

import json
import math

import numpy as np
import pytest

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Turn
from selfplay.evaluate import Measured, compare
from selfplay.evaluate_games import (
    GameEvaluation,
    GameLine,
    evaluate_games,
    fitting,
    game_evaluation_from_json,
    game_evaluation_to_json,
)
from selfplay.interfaces import GameSheet, Likelihood

ROLES = ("buyer", "seller")
WHOLE = "terminated"


def talk(seed: int, role: str | None, payoffs: tuple[float, float], *, has_all: bool = False, status: str = WHOLE):
    """Make a conversation: buyer, then seller; `role` is the policy's, has_all: both are; None: scripts have both."""
    policy, script = PlayerInfo(policy="learner", model="m", trained=True), PlayerInfo(policy="scripted")
    turns = [Turn(role=name, text="a b", heard_text="", player="", said=np.zeros(2, np.int32)) for name in ROLES]
    outcomes = {
        WHOLE: Outcome(
            status="terminated",
            reason="agreement",
            facts={"success": sum(payoffs) > 0},
            payoff=dict(zip(ROLES, payoffs, strict=True)),
        ),
        "truncated": Outcome(status="truncated", reason="token_limit"),
        "failed": Outcome(status="failed", reason="empty_reply", by=role),
    }
    return Conversation(
        id=f"000000-e{seed:02d}-0",
        scenario=Scenario(env="haggle", seed=seed, split="held_out", roles=ROLES),
        players={name: policy if has_all or name == role else script for name in ROLES},
        turns=tuple(turns),
        outcome=outcomes[status],
    )


def measured(*conversations: Conversation, kl: float = 1.0) -> list[Measured]:
    return [
        Measured(
            scored=ScoredConversation(conversation=one, rewards=np.zeros(one.num_turns, np.float32)),
            likelihood=Likelihood(conversation=one.id, num_tokens=2, nll=4.0, kl=kl),
        )
        for one in conversations
    ]


def swapped(*payoffs: tuple[tuple[float, float], tuple[float, float]], **changes) -> list[Measured]:
    """Make two conversations a scenario: the policy buys, then sells."""
    return [
        one
        for seed, (buying, selling) in enumerate(payoffs)
        for one in measured(talk(seed, "buyer", buying), talk(seed, "seller", selling), **changes)
    ]


def numbers(line: GameLine) -> dict[str, float]:
    return {name.removeprefix("game/"): mean.value for name, mean in line.numbers.items() if name.startswith("game/")}


def test_a_line_is_the_mean_over_scenarios_and_both_roles():
    played = swapped(((0.5, 0.25), (0.5, 1.0)), ((0.0, 0.0), (0.25, 0.0)), kl=0.5)
    line = evaluate_games({(3, "base"): played}, env="haggle", seed=0).line(at=3, against="base")
    # The policy: buying 0.5 and 0, selling 1 and 0.  Its opponent: 0.25 and 0 selling, 0.5 and 0.25 buying.
    assert numbers(line) == {
        "payoff": 0.375,  # (0.5 + 1 + 0 + 0) / 4
        "payoff/buyer": 0.25,
        "payoff/seller": 0.5,
        "opponent_payoff": 0.25,  # (0.25 + 0.5 + 0 + 0.25) / 4
        "win": 0.625,  # above 0.25, and above 0.5; 0 to 0 is half a win; below 0.25
        "success": 0.75,
        "protocol_ok": 1.0,
        "fault": 0.0,
        "opponent_fault": 0.0,
        "turns": 2.0,
    }
    assert line.numbers["kl/per_token_nats"].value == 0.25  # 4 x 0.5 over 4 x 2 tokens
    assert line.numbers["play/words_per_turn"].value == 2.0
    # Four times "a b": one pair of words, four times.
    assert line.numbers["play/distinct_2"].value == 0.25
    assert (line.num_scenarios, line.num_conversations, line.num_unpaid, line.num_failed) == (2, 4, 0, 0)


def test_an_interval_is_drawn_over_scenarios_not_conversations():
    # Within each scenario the two roles cancel out: every resample of scenarios has the same mean, 0.5.
    played = swapped(*[((1.0, 0.0), (1.0, 0.0))] * 6)
    mean = evaluate_games({(3, "base"): played}, env="haggle", seed=0).line(at=3, against="base").numbers
    assert (mean["game/payoff"].value, mean["game/payoff"].low, mean["game/payoff"].high) == (0.5, 0.5, 0.5)


def test_a_change_is_paired_by_scenario_and_from_the_earliest_version():
    before = swapped(*[((seed / 8, 0.0), (0.0, seed / 8)) for seed in range(4)])
    after = swapped(*[((seed / 8 + 0.5, 0.0), (0.0, seed / 8 + 0.5)) for seed in range(4)])
    played = {(9, "base"): after, (0, "base"): before, (4, "base"): before}
    evaluation = evaluate_games(played, env="haggle", seed=0)
    assert [(change.since, change.at) for change in evaluation.changes] == [(0, 4), (0, 9)]
    row = evaluation.changes[1].comparison.row("game/payoff")
    # The scenarios differ, and the change is 0.5 on each of them: so it is in every resample.
    assert (row.base, row.trained, row.low, row.high) == (0.1875, 0.6875, 0.5, 0.5)
    assert evaluation.changes[0].comparison.row("game/payoff").is_clear is False


def test_where_any_version_failed_the_scenario_counts_for_none_against_that_opponent():
    kept, broken = ((1.0, 0.0), (0.0, 1.0)), ((0.0, 0.0), (0.0, 0.0))
    failing = [*swapped(kept), *measured(talk(1, "buyer", (0, 0), status="failed"), talk(1, "seller", (0.0, 1.0)))]
    played = {
        (0, "base"): swapped(kept, broken),
        (5, "base"): failing,
        (0, "scripted"): swapped(kept, broken),
    }
    evaluation = evaluate_games(played, env="haggle", seed=0)
    base, trained = (evaluation.line(at=at, against="base") for at in (0, 5))
    assert (base.num_scenarios, base.num_failed, numbers(base)["payoff"]) == (1, 0, 1.0)
    assert (trained.num_scenarios, trained.num_failed, numbers(trained)["payoff"]) == (1, 1, 1.0)
    assert numbers(evaluation.line(at=0, against="scripted"))["payoff"] == 0.5


def test_what_a_limit_cut_is_counted_as_unpaid():
    played = measured(talk(0, "buyer", (0.5, 0.5)), talk(0, "seller", (0, 0), status="truncated"))
    line = evaluate_games({(0, "base"): played}, env="haggle", seed=0).line(at=0, against="base")
    assert (line.num_conversations, line.num_unpaid, numbers(line)["payoff"]) == (2, 1, 0.5)


def test_success_is_no_number_of_the_policy_where_one_wins_what_the_other_loses():
    won, lost, drawn = (1.0, -1.0), (-1.0, 1.0), (0.0, 0.0)
    mirror = measured(talk(0, "buyer", won, has_all=True), talk(1, "buyer", drawn, has_all=True))
    played = {
        (0, "base"): swapped((lost, lost), (drawn, drawn)),
        (4, "base"): swapped((won, lost), (drawn, drawn)),
        (4, "self"): mirror,
    }
    evaluation = evaluate_games(played, env="taboo", seed=0, references={"scripted": [talk(0, None, won)]})
    base, self_play = (evaluation.line(at=4, against=against) for against in ("base", "self"))
    assert (numbers(base)["win"], "success" in numbers(base)) == (0.75, False)  # (1 + 1 + 1/2 + 1/2) / 4
    assert ("win" in numbers(self_play), "success" in numbers(self_play)) == (False, True)
    assert "game/success" in evaluation.references[0].numbers
    (change,) = evaluation.changes
    rows = {row.name: row for row in change.comparison.rows}
    assert "game/success" not in rows
    assert (rows["game/win"].base, rows["game/win"].trained) == (0.5, 0.75)


def test_what_fits_of_a_comparison_is_seen_from_its_own_means():
    won, lost, shared, cheap = (1.0, -1.0), (-1.0, 1.0), (0.5, 0.5), (0.5, 0.25)

    def names(*trained: tuple[tuple[float, float], tuple[float, float]]) -> set[str]:
        comparison = compare(swapped(*[(lost, won)] * len(trained)), swapped(*trained), seed=0)
        return {row.name for row in fitting(comparison).rows} & {"game/win", "game/success"}

    assert names((won, lost), (won, won)) == {"game/win"}
    assert names((won, lost), (shared, cheap)) == {"game/win", "game/success"}
    same = compare(swapped((shared, shared)), swapped((won[:1] * 2, shared)), seed=0)
    assert "game/win" not in {row.name for row in fitting(same).rows}
    assert fitting(same).row("game/success").trained == 1.0


def test_where_all_are_always_paid_the_same_nobody_wins():
    shared, nothing = (1.0, 1.0), (0.0, 0.0)
    line = evaluate_games({(0, "base"): swapped((shared, nothing))}, env="e", seed=0).line(at=0, against="base")
    assert "win" not in numbers(line)
    assert numbers(line)["success"] == 0.5
    # A whole line may be paid 0; that the game pays its roles differently is seen elsewhere.
    other = {"scripted": [talk(0, None, (0.25, 0.75))]}
    line = evaluate_games({(0, "base"): swapped((nothing, nothing))}, env="e", seed=0, references=other).lines[0]
    assert (numbers(line)["win"], numbers(line)["success"]) == (0.5, 0.0)


def test_references_are_means_over_all_roles_with_the_promises_beside():
    scripts = [talk(0, None, (0.5, 1.0)), talk(1, None, (0.5, 0.0)), talk(2, None, (1, 1), status="failed")]
    evaluation = evaluate_games(
        {(0, "base"): swapped(((1.0, 0.0), (0.0, 1.0)))},
        env="haggle",
        seed=0,
        references={"scripted": scripts},
        sheet=GameSheet(payoffs=(0.0, 1.0), ends=("agreement",), chance=0.125, best=0.75),
    )
    (line,) = evaluation.references
    assert (line.num_scenarios, line.num_failed) == (2, 1)
    assert line.numbers["game/payoff"].value == 0.5  # (0.75 + 0.25) / 2
    assert "game/opponent_payoff" not in line.numbers
    assert (evaluation.chance, evaluation.best) == (0.125, 0.75)


def as_text(evaluation: GameEvaluation) -> str:
    return json.dumps(game_evaluation_to_json(evaluation), allow_nan=False)


def test_json_gives_back_the_evaluation():
    played = {(at, name): swapped(((0.5, 0.0), (0.0, 1.0))) for at in (0, 2) for name in ("base", "scripted")}
    evaluation = evaluate_games(played, env="haggle", seed=0, references={"scripted": [talk(0, None, (1.0, 0.0))]})
    found = game_evaluation_from_json(json.loads(as_text(evaluation)))
    assert as_text(found) == as_text(evaluation)
    # One scenario says nothing of others: there is no interval, which JSON writes as null.
    assert math.isnan(found.line(at=0, against="base").numbers["game/payoff"].low)
    assert (found.chance, found.changes[0].since) == (None, 0)


def test_other_schemas_are_refused():
    with pytest.raises(ValueError, match=r"selfplay\.comparison/1"):
        game_evaluation_from_json({"schema": "selfplay.comparison/1"})


def test_a_line_that_was_not_played_is_named():
    evaluation = evaluate_games({(3, "base"): swapped(((1.0, 0.0), (0.0, 1.0)))}, env="haggle", seed=0)
    with pytest.raises(KeyError, match="there is 3 against base"):
        evaluation.line(at=0, against="base")


def test_nothing_played_to_its_end_is_a_line_of_nothing():
    played = {(at, "base"): measured(talk(0, "buyer", (0, 0), status="failed")) for at in (0, 1)}
    evaluation = evaluate_games(played, env="haggle", seed=0)
    assert [line.num_conversations for line in evaluation.lines] == [0, 0]
    assert evaluation.changes[0].comparison.rows == ()
