"""Comparing two policies: means by hand, intervals against other methods."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.evaluate import (
    Comparison,
    Measured,
    _jackknife_half_width,
    compare,
    comparison_from_json,
    comparison_to_json,
    means_of,
)
from selfplay.interfaces import Likelihood

PLAYERS = {
    "a": PlayerInfo(policy="learner", model="m", trained=True),
    "b": PlayerInfo(policy="frozen", model="m", trained=False),
}


def measured(
    scenario: int,
    *texts: str,
    rewards: list[float] | None = None,
    nll: float = 4.0,
    kl: float = 1.0,
    failed: bool = False,
) -> Measured:
    """Make a conversation: a, who is trained, and b take turns; 2 acted tokens."""
    turns = [
        Turn(role="ab"[k % 2], text=text, heard_text="", player="learner@0", said=np.zeros(3, np.int32), finish="stop")
        for k, text in enumerate(texts)
    ]
    conversation = Conversation(
        id=f"000000-e{scenario:02d}-0",
        scenario=Scenario(env="test", seed=scenario, split="held_out", roles=("a", "b")),
        players=PLAYERS,
        turns=tuple(turns),
        outcome=Outcome(status="failed", reason="timeout")
        if failed
        else Outcome(status="terminated", reason="leaving"),
    )
    values = np.array(rewards or [0.0] * len(turns), dtype=np.float32)
    part = Scores(values=np.where(values == 9, np.nan, values / 2).astype(np.float32))
    return Measured(
        scored=ScoredConversation(conversation=conversation, rewards=values, parts={"half": part}),
        likelihood=Likelihood(conversation=conversation.id, num_tokens=2, nll=nll, kl=kl),
    )


def numbers(comparison: Comparison, name: str) -> tuple[float, float, float]:
    row = comparison.row(name)
    return row.base, row.trained, row.difference


def test_rewards_are_means_over_the_turns_of_trained_players():
    base = [measured(0, "x", "y", "z", rewards=[1, 50, 2]), measured(1, "x", rewards=[3])]
    trained = [measured(0, "x", rewards=[4]), measured(1, "x", rewards=[9])]
    comparison = compare(base, trained, seed=0)
    assert numbers(comparison, "reward/per_conversation") == (3.0, 6.5, 3.5)
    # Per turn: (1 + 2 + 3) / 3 and (4 + 9) / 2; the part is half of it, and does not apply where it is 9.
    assert numbers(comparison, "reward/total") == (2.0, 6.5, 4.5)
    assert numbers(comparison, "reward/half") == (1.0, 2.0, 1.0)


def test_likelihoods_are_divided_by_all_tokens():
    comparison = compare(
        [measured(0, "x"), measured(1, "x", nll=8)], [measured(0, "x", kl=3), measured(1, "x")], seed=0
    )
    assert numbers(comparison, "reference/nll_per_token_nats") == (3.0, 2.0, -1.0)
    assert numbers(comparison, "kl/per_token_nats") == (0.5, 1.0, 0.5)


def test_what_was_said_is_counted_by_turn():
    base = [measured(0, "What is it?", "?", "Fine.", "?", "Fine.")]
    comparison = compare(base, [measured(0, "What? Where", "What", "???", "", "what")], seed=0)
    assert numbers(comparison, "play/question_rate") == pytest.approx((1 / 3, 2 / 3, 1 / 3))
    assert numbers(comparison, "play/only_question_share") == (0.0, 1.0, 1.0)
    # The second "Fine." repeats; "what" is not "What".
    assert numbers(comparison, "play/repeat_rate") == pytest.approx((1 / 3, 0, -1 / 3))
    assert numbers(comparison, "play/words_per_turn") == pytest.approx((5 / 3, 1, -2 / 3))
    assert numbers(comparison, "play/said_tokens_per_turn") == (3.0, 3.0, 0.0)


def test_distinct_grams_are_counted_at_equal_numbers_of_words():
    # Scenario 0: 4 words each, the base's fifth to seventh are cut off; scenario 1: 2 each.
    base = [measured(0, "a b c", "-", "a b b b"), measured(1, "a b", "-", "a b")]
    trained = [measured(0, "a a a a"), measured(1, "a b")]
    comparison = compare(base, trained, seed=0)
    # Words: a b c a | a b: 3 of 6 are distinct; a a a a | a b: 2 of 6.
    assert numbers(comparison, "play/distinct_1") == pytest.approx((3 / 6, 2 / 6, -1 / 6))
    # Pairs within turns: ab bc | ab: 2 of 3; aa aa aa | ab: 2 of 4.
    assert numbers(comparison, "play/distinct_2") == pytest.approx((2 / 3, 2 / 4, -1 / 6))


def test_scenario_that_failed_on_one_side_counts_on_neither():
    base = [measured(0, "x", rewards=[1]), measured(1, "x", rewards=[5]), measured(2, "x", rewards=[7])]
    trained = [measured(0, "x", rewards=[2]), measured(1, "x", failed=True)]
    comparison = compare(base, trained, seed=0)
    assert (comparison.num_scenarios, comparison.num_dropped) == (1, 2)
    assert numbers(comparison, "reward/total") == (1.0, 2.0, 1.0)


def test_one_scenario_gives_no_interval_and_none_no_rows():
    row = compare([measured(0, "x")], [measured(0, "x")], seed=0).row("reward/total")
    assert (math.isnan(row.low), math.isnan(row.high), row.is_clear) == (True, True, False)
    assert compare([], [measured(0, "x")], seed=0) == Comparison(rows=(), num_scenarios=0, num_dropped=1)


def test_interval_of_paired_differences_is_the_normal_one():
    draws = np.random.default_rng(3).normal(size=(2, 200)).round(3)
    base = [measured(k, "x", rewards=[float(v)]) for k, v in enumerate(draws[0])]
    trained = [measured(k, "x", rewards=[float(v + 0.5 + w / 4)]) for k, (v, w) in enumerate(draws.T)]
    row = compare(base, trained, seed=1).row("reward/total")
    # What the sides share cancels: the differences are 0.5 + w / 4, and their mean has deviation sd(w) / 4 / sqrt(200).
    half = 1.96 * draws[1].std() / 4 / math.sqrt(200)
    assert row.difference == pytest.approx(0.5 + draws[1].mean() / 4, abs=1e-4)
    assert (row.high - row.low) / 2 == pytest.approx(half, rel=0.06)
    assert (row.high + row.low) / 2 == pytest.approx(row.difference, abs=half / 10)
    assert row.is_clear


def test_conversations_of_one_scenario_are_resampled_together():
    # Ten copies of each of four scenarios say no more than one of each.
    values = [1.0, 3.0, 4.0, 8.0]
    once = [measured(k, "x", rewards=[v]) for k, v in enumerate(values)]
    zero = [measured(k, "x") for k in range(4)]
    one = compare(zero, once, seed=0).row("reward/total")
    ten = compare(zero * 10, once * 10, seed=0).row("reward/total")
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


def test_interval_of_distinct_pairs_stays_within_what_a_share_can_change_by():
    base = [measured(0, "a b c d e"), measured(1, "f g")]
    row = compare(base, [measured(0, "a b a b a"), measured(1, "c d")], seed=0).row("play/distinct_2")
    # 5 of 5 pairs before; a-b, b-a, c-d: 3 of 5 after.  Two scenarios alone tell next to nothing.
    assert (row.base, row.trained) == pytest.approx((1.0, 0.6))
    assert (row.low, row.high) == pytest.approx((-1.0, 0.0))


def test_interval_of_distinct_pairs_is_the_jackknife_by_hand():
    base = [measured(0, "a b c"), measured(1, "a b d"), measured(2, "e f g")]
    row = compare(base, [measured(k, "a b a") for k in range(3)], seed=0).row("play/distinct_2")
    # Base: ab bc | ab bd | ef fg: 5 of 6; without each scenario 4/4, 4/4 and 3/4.  Trained: ab ba each: 2 of 6, 2 of 4.
    assert row.difference == pytest.approx(2 / 6 - 5 / 6)
    # The differences without each: -1/2, -1/2, -1/4; their squared deviations sum to 1/24; t with 2 degrees is 4.3027.
    half = 4.3027 * math.sqrt(2 / 3 / 24)
    assert _jackknife_half_width(np.array([-1 / 2, -1 / 2, -1 / 4])) == pytest.approx(half, rel=1e-4)
    # -1.22 to +.22, of which a share of 5/6 can only reach this.
    assert (row.low, row.high) == pytest.approx((-5 / 6, 1 / 6))


def test_same_seed_gives_the_same_intervals():
    base, trained = (
        [measured(k, "x y") for k in range(9)],
        [measured(k, "x y", rewards=[math.sqrt(k)]) for k in range(9)],
    )
    assert compare(base, trained, seed=5) == compare(base, trained, seed=5)
    assert compare(base, trained, seed=5).row("reward/total") != compare(base, trained, seed=6).row("reward/total")


def test_comparison_survives_json_with_none_for_what_is_unknown():
    comparison = compare([measured(0, "x", rewards=[9])], [measured(0, "x")], seed=0)
    data = json.loads(json.dumps(comparison_to_json(comparison), allow_nan=False))
    assert data["metrics"]["reward/half"] == {
        "base": None, "trained": 0.0, "difference": None, "low": None, "high": None
    }  # fmt: skip
    assert comparison_to_json(comparison_from_json(data)) == data
    with pytest.raises(ValueError, match="'other/1' is no comparison"):
        comparison_from_json({**data, "schema": "other/1"})


def paid(scenario: int, payoff: dict[str, float], *, success: bool) -> Measured:
    one = measured(scenario, "x", "y")
    outcome = Outcome(status="terminated", reason="agreement", facts={"success": success}, payoff=payoff)
    conversation = replace(one.scored.conversation, outcome=outcome)
    return replace(one, scored=replace(one.scored, conversation=conversation))


def test_games_are_compared_by_what_the_trained_role_got():
    base = [paid(0, {"a": 0.0, "b": 1.0}, success=False), paid(1, {"a": 0.5, "b": 0.5}, success=True)]
    trained = [paid(seed, {"a": 1.0, "b": 0.25}, success=True) for seed in (0, 1)]
    comparison = compare(base, trained, seed=0)
    assert numbers(comparison, "game/payoff") == (0.25, 1.0, 0.75)
    assert numbers(comparison, "game/opponent_payoff") == (0.75, 0.25, -0.5)
    assert numbers(comparison, "game/success") == (0.5, 1.0, 0.5)
    # The game stands first, and a comparison without payoffs has no such rows.
    assert comparison.rows[0].name == "game/payoff"
    assert not [row for row in compare([measured(0, "x")], [measured(0, "x")], seed=0).rows if "game" in row.name]


def test_means_of_one_policy_are_those_of_the_comparison():
    side = [measured(0, "x y", "z", "x y z", rewards=[1, 0, 2]), measured(1, "x", rewards=[3])]
    means, comparison = means_of(side, seed=0), compare(side, side, seed=0)
    for row in comparison.rows:
        if row.name not in ("play/distinct_1", "play/distinct_2"):
            assert means[row.name].value == row.base, row.name
    # Word pairs of a: x-y, then x-y and y-z: two of three are distinct.
    assert means["play/distinct_2"].value == pytest.approx(2 / 3)
    # A conversation's reward is 3 in both scenarios, so in every resample.
    reward = means["reward/per_conversation"]
    assert (reward.value, reward.low, reward.high) == (3.0, 3.0, 3.0)
