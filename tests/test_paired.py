"""Versions compared scenario by scenario: means by hand, intervals against another method and against `evaluate`."""

import json
import math

import numpy as np
import pytest

from selfplay.errors import UserError
from selfplay.paired import Side, compare_versions, paired_to_json, split_reference, versions_of
from selfplay.transcript_index import TranscriptIndex
from tests.paired_runs import played, two_versions, write_run
from tests.tiny_runs import train


@pytest.fixture
def side(tmp_path):
    """Return what makes a side of a new run that holds these conversations."""
    indexes = []

    def make(conversations, *, version=None, run="run", is_scored=True):
        folder = tmp_path / f"{run}-{len(indexes)}"
        indexes.append(TranscriptIndex(write_run(folder, conversations, is_scored=is_scored)))
        indexes[-1].refresh()
        return Side(run=run, index=indexes[-1], version=version)

    yield make
    for index in indexes:
        index.close()


def of(side, version):
    return Side(run=side.run, index=side.index, version=version)


def test_rewards_are_compared_scenario_by_scenario(side):
    run = side(two_versions())
    comparison = compare_versions(of(run, 0), of(run, 7))
    # b minus a: +2, 0, -1.
    found = [(one.scenario, one.reward_a, one.reward_b, one.result) for one in comparison.scenarios]
    assert found == [
        ("chitchat/3", 3.0, 2.0, "loss"),
        ("chitchat/2", 2.0, 2.0, "tie"),
        ("chitchat/1", 1.0, 3.0, "win"),
    ]
    assert [comparison.count(result) for result in ("win", "tie", "loss")] == [1, 1, 1]
    assert comparison.difference.difference == pytest.approx(1 / 3)
    assert (comparison.split, comparison.scenarios[0].about) == ("held_out", "topic 3")


def test_interval_is_that_of_all_27_resamples(side):
    run = side(two_versions())
    found = compare_versions(of(run, 0), of(run, 7)).difference
    # All equally likely ways to draw three of +2, 0, -1, instead of random ones: their 2.5% and 97.5% points.
    means = [(x + y + z) / 3 for x in (2, 0, -1) for y in (2, 0, -1) for z in (2, 0, -1)]
    assert (found.low, found.high) == tuple(np.quantile(means, [0.025, 0.975], method="inverted_cdf"))
    assert not found.is_clear


def test_one_scenario_has_no_interval(side):
    run = side([one for one in two_versions() if one.conversation.scenario.seed == 1])
    found = compare_versions(of(run, 0), of(run, 7)).difference
    assert found.difference == 2.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_scenario_counts_once_however_often_it_was_played(side):
    b = [played(f"000007-e01-{k}", seed=1, version=7, tone=(tone,)) for k, tone in enumerate((1.0, 2.0, 4.5))]
    run = side([*two_versions()[:3], *b, played("000007-e02-0", seed=2, version=7, tone=(0.5,))])
    comparison = compare_versions(of(run, 0), of(run, 7))
    # Scenario 1: mean of 2, 4, 9 is 5 against 1; scenario 2: 1 against 2; scenario 3 was played by one side only.
    assert comparison.difference.difference == pytest.approx((4.0 - 1.0) / 2)
    assert comparison.scenarios[1].b == ("000007-e01-0", "000007-e01-1", "000007-e01-2")
    assert (len(comparison.scenarios), comparison.num_unpaired, comparison.num_failed) == (2, 1, 0)


def test_reward_is_the_sum_over_turns_of_trained_roles_and_parts_are_means(side):
    a = played("000000-e01-0", seed=1, version=0, tone=(0.5, 1.0))
    b = played("000007-e01-0", seed=1, version=7, tone=(1.0, 1.0, 4.0))
    comparison = compare_versions(of(run := side([a, b]), 0), of(run, 7))
    parts = {part.name: part for part in comparison.parts}
    assert (comparison.difference.a, comparison.difference.b) == (3.0, 12.0)
    assert (parts["tone"].a, parts["tone"].b, parts["tone"].difference) == (0.75, 2.0, 1.25)
    # Tone made all of the difference; length counts nothing.
    assert [part.name for part in comparison.parts] == ["tone", "length"]
    assert (parts["tone"].value, parts["length"].value, parts["length"].difference) == (9.0, 0.0, 1.0)


def test_part_decides_who_wins_when_asked(side):
    longer = [played(f"000007-e0{seed}-0", seed=seed, version=7, tone=(0.1, 0.1)) for seed in (1, 2, 3)]
    run = side([*two_versions()[:3], *longer])
    comparison = compare_versions(of(run, 0), of(run, 7), part="length")
    assert (comparison.count("win"), comparison.difference.name, comparison.difference.difference) == (3, "length", 1.0)
    with pytest.raises(UserError, match=r"part=lenth: .* did you mean length"):
        compare_versions(of(run, 0), of(run, 7), part="lenth")


def test_failed_conversation_leaves_its_scenario_out_on_both_sides(side):
    failed = played("000007-e02-1", seed=2, version=7, has_failed=True)
    run = side([*two_versions(), failed])
    comparison = compare_versions(of(run, 0), of(run, 7))
    assert [one.scenario for one in comparison.scenarios] == ["chitchat/3", "chitchat/1"]
    assert comparison.num_failed == 1
    assert comparison.difference.difference == pytest.approx(0.5)


def test_conversations_without_rewards_are_paired_but_not_judged(side):
    run = side(two_versions(), is_scored=False)
    comparison = compare_versions(of(run, 0), of(run, 7))
    assert [one.result for one in comparison.scenarios] == [None, None, None]
    told = json.dumps(paired_to_json(comparison), allow_nan=False)
    assert json.loads(told)["difference"] == {"value": None, "low": None, "high": None, "a": None, "b": None}


def test_two_runs_are_compared_on_what_they_share(side):
    a, b = side(two_versions()[:3], run="old"), side(two_versions()[3:], run="new")
    told = paired_to_json(compare_versions(a, b))
    assert (told["a"], told["b"]) == ({"run": "old", "version": 0}, {"run": "new", "version": 7})
    assert (told["wins"], told["ties"], told["losses"]) == (1, 1, 1)


def test_training_scenarios_count_only_where_no_held_out_ones_are_shared(side):
    def trained(version, tone):
        return played("000003-g00-0", seed=9, version=version, tone=(tone,), split="train")

    a, b = side([*two_versions()[:3], trained(3, 1.0)]), side([trained(3, 2.0)])
    comparison = compare_versions(of(a, 3), of(b, 3))
    assert (comparison.split, comparison.difference.difference) == ("train", 2.0)
    both = compare_versions(of(a, 0), of(side(two_versions()), 7))
    assert both.split == "held_out"


def test_version_that_never_played_is_refused_with_those_that_did(side):
    run = side(two_versions())
    with pytest.raises(UserError, match="run run has no held-out conversations of version 5; it has 0, 7"):
        compare_versions(of(run, 5), of(run, 7))
    other = side([played("000000-e01-0", seed=99, version=0)], run="other")
    with pytest.raises(UserError, match="run@0 and other have no scenario in common"):
        compare_versions(of(run, 0), other)


def test_versions_are_counted_with_their_scenarios(side):
    again = played("000007-e01-1", seed=1, version=7)
    run = side([*two_versions(), again])
    found = [(one.version, one.conversations, one.scenarios) for one in versions_of(run.index)]
    assert found == [(0, 3, 3), (7, 4, 3)]
    assert compare_versions(of(run, 0), of(run, None)).b.version == 7


def test_reference_names_run_and_version():
    assert split_reference("chat@20") == ("chat", 20)
    assert split_reference("chat@") == ("chat", None)
    assert split_reference("chat") == ("chat", None)
    assert split_reference("runs/a@b/chat@0") == ("runs/a@b/chat", 0)
    assert split_reference("runs/a@b/chat") == ("runs/a@b/chat", None)


def test_differences_agree_with_the_evaluation_of_the_run(tmp_path):
    train(tmp_path / "run", "steps=2", "evaluation.conversations=4")
    measured = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]["reward/per_conversation"]
    index = TranscriptIndex(tmp_path / "run")
    index.refresh()
    side = Side(run="run", index=index, version=2)
    comparison = compare_versions(of(side, 0), side)
    index.close()
    found = comparison.difference
    assert len(comparison.scenarios) == 4
    # Stored rewards are rounded to 4 decimals a turn.
    expected = [measured[name] for name in ("base", "trained", "difference", "low", "high")]
    assert [found.a, found.b, found.difference, found.low, found.high] == pytest.approx(expected, abs=1e-3)
