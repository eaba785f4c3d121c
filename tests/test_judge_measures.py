"""Measures of judges whose bias is known, because it was put in."""

import json
import math
import tracemalloc

import numpy as np
import pytest

from selfplay.judge.measures import Measures, agreement, length_bias, measure, measures_text, position_bias
from selfplay.judge.pairs import PairVerdict
from selfplay.reward_model.dialogs import Dialog, Message


def words(num: int) -> Dialog:
    return Dialog(
        messages=(Message(text="one two three four", is_focus=False), Message(text="w " * num, is_focus=True))
    )


def verdict(first_order: float | None, second_order: float | None = None, probability: float = 0.5) -> PairVerdict:
    return PairVerdict(probability_first=probability, principle="p", first_order=first_order, second_order=second_order)


def test_position_bias_is_what_goes_beyond_one():
    # .9 + .5 - 1 = .4, .6 + .4 - 1 = 0; the third was asked in one order only.
    found = position_bias([verdict(0.9, 0.5), verdict(0.6, 0.4), verdict(0.9)])
    assert (found.value, found.num) == (pytest.approx(0.2), 2)
    assert found.low <= 0.2 <= found.high
    assert position_bias([verdict(1.0, 1.0)] * 3).value == 1.0


def test_interval_of_a_share_is_near_the_normal_one():
    rng = np.random.default_rng(0)
    gold = [1.0] * 400
    right = (rng.random(400) < 0.7).astype(float).tolist()
    found = agreement(right, gold)
    half = 1.96 * math.sqrt(found.value * (1 - found.value) / 400)
    assert found.low == pytest.approx(found.value - half, abs=0.01)
    assert found.high == pytest.approx(found.value + half, abs=0.01)


def test_agreement_counts_no_preference_half_and_leaves_unclear_gold_out():
    found = agreement([0.8, 0.2, 0.5, 0.9], [1.0, 1.0, 0.0, 0.5])
    assert (found.value, found.num) == (pytest.approx(0.5), 3)


def test_length_bias_of_a_judge_that_counts_words():
    pairs = [(words(2), words(9)), (words(8), words(3)), (words(4), words(4))]
    found = length_bias(pairs, [0.2, 0.8, 0.9], gold=[0.0, 0.0, 1.0])
    # Equal lengths tell nothing; by gold the longer one wins once of two.
    assert (found.longer_preferred.value, found.longer_preferred.num) == (1.0, 2)
    assert (found.base_rate.value, found.base_rate.num) == (0.5, 2)
    assert found.correlation == pytest.approx(1.0)
    assert length_bias(pairs, [0.2, 0.8, 0.9]).base_rate.num == 0


def test_all_measures_come_together_and_pass_over_pairs_without_verdict():
    pairs = [(words(2), words(9)), (words(5), words(3)), (words(4), words(1))]
    verdicts = [verdict(0.6, 0.8, 0.4), None, verdict(0.7, 0.5, 0.6)]
    found = measure(pairs, verdicts, gold=[0.0, 1.0, 1.0])
    assert (found.num, found.num_without, found.num_clear) == (2, 1, 2)
    assert found.position.value == pytest.approx((0.4 + 0.2) / 2)
    # In the order given it says the first both times, and gold says the second, then the first.
    assert (found.agreement.value, found.agreement_one_order.value) == (1.0, 0.5)
    text = "\n".join(measures_text(found))
    assert "2 pairs judged, 1 without a verdict" in text
    assert "length: too few pairs differ in it to say anything (2)" in text
    assert "gold: too few pairs on which it has a preference to say anything (2)" in text


def test_text_of_enough_pairs_names_the_letter_that_gets_more_and_both_agreements():
    # P(A) is .4 in one order and .5 in the other, .1 short of an even share: B has it.
    found = measure([(words(2), words(9))] * 10, [verdict(0.4, 0.5, 0.45)] * 10, gold=[0.0] * 10)
    assert measures_text(found) == [
        "10 pairs judged",
        "position: over both orders 0.100 (0.100 to 0.100) of probability goes to the letter B beyond an even share",
        "length: the longer one is preferred in 100% (72% to 100%) of 10; by gold 100% (72% to 100%)",
        "gold: agrees in 100% (72% to 100%) of 10 clear pairs; with one order only 100% (72% to 100%)",
    ]


def test_a_share_of_which_all_are_alike_is_bounded_as_wilson_has_it():
    # All of n = 10: z^2 / (n + z^2) = 3.8415 / 13.8415 = .2775 of what could have been.
    all_of_them, none = agreement([0.9] * 10, [1.0] * 10), agreement([0.1] * 10, [1.0] * 10)
    assert (all_of_them.low, all_of_them.high) == (pytest.approx(0.7225, abs=1e-4), 1.0)
    assert (none.low, none.high) == (0.0, pytest.approx(0.2775, abs=1e-4))


def test_interval_counts_pairs_of_one_scenario_once():
    # 40 scenarios, of each of which the judge is right in all ten pairs or in none: 40 draws, not 400.
    gold = [1.0] * 400
    right = np.repeat((np.random.default_rng(3).random(40) < 0.7).astype(float), 10).tolist()
    scenarios = [f"s{number // 10}" for number in range(400)]
    found, alone = agreement(right, gold, groups=scenarios), agreement(right, gold)
    half = 1.96 * math.sqrt(found.value * (1 - found.value) / 40)
    assert (found.value, found.num) == (alone.value, 400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert alone.high - alone.low == pytest.approx(2 * half / math.sqrt(10), rel=0.1)
    pairs, verdicts = [(words(2), words(9))] * 400, [verdict(value, value, value) for value in right]
    measured = measure(pairs, verdicts, gold=gold, groups=scenarios)
    assert measured.agreement == found
    # P(A) of both orders is 2 or 0: -1 or 1 beyond an even share, twice as wide as the share.
    assert measured.position.high - measured.position.low == pytest.approx(2 * (found.high - found.low), rel=1e-6)
    # All that is known is one scenario: as Wilson has it of one.
    assert agreement([1.0, 0.0], [1.0, 1.0], groups=["s", "s"]).low == pytest.approx(
        0.5 * (1 - 3.8415 / 4.8415), abs=1e-4
    )


def test_very_many_pairs_take_fewer_resamples_and_little_memory():
    tracemalloc.start()
    found = agreement([0.6, 0.4] * 10_000, [1.0] * 20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 200 resamples of 20,000 numbers of 8 bytes are 32 MB, and twice that while they are made.
    assert peak < 100e6
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(20_000), rel=0.2)


def test_measures_come_back_from_json():
    known = measure([(words(2), words(9))] * 3, [verdict(0.6, 0.8, 0.4), verdict(0.7), None], gold=[0.0, 1.0, 1.0])
    for found in (known, measure([], [])):
        record = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert Measures.from_json(record).to_json() == record
    assert Measures.from_json(known.to_json()) == known


def test_measures_of_nothing_are_null_in_json():
    found = measure([], [])
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["agreement"]["value"] is None
    assert measures_text(found)[0] == "0 pairs judged"
