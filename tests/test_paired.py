"""Versions compared scenario by scenario: means by hand, intervals against another method and against `evaluate`."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from selfplay.dialog import Scores
from selfplay.errors import UserError
from selfplay.paired import Side, compare_versions, split_reference, versions_of
from selfplay.paired_json import paired_to_json
from selfplay.records_json import ANNOTATION_SCHEMA
from selfplay.score import Term
from selfplay.transcript_index import TranscriptIndex
from tests.paired_runs import played, two_versions, write_run
from tests.tiny_runs import train

HALVES = (slice(3), slice(3, 6))


@pytest.fixture
def side(tmp_path):
    """Return what makes a side of a new run that holds these conversations."""
    indexes = []

    def make(conversations, *, version=None, run="run", is_scored=True, terms=None, source=""):
        weights = {"tone": 2.0, "length": 0.0} if terms is None else terms
        made = {name: Term(weight=weight, source=source if weight else "") for name, weight in weights.items()}
        folder = tmp_path / f"{run}-{len(indexes)}"
        indexes.append(TranscriptIndex(write_run(folder, conversations, is_scored=is_scored, terms=made)))
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


# ----- what was rewarded, and what it was bought with -----


def scored_by(term, conversation):
    """Return a conversation whose only reward is the named one, of the same numbers as `tone`, doubled."""
    return replace(conversation, parts={term: conversation.parts["tone"], "length": conversation.parts["length"]})


def test_sides_that_were_rewarded_for_different_things_are_not_compared(side):
    a = side([scored_by("question", one) for one in two_versions()[:3]], terms={"question": 2.0, "length": 0.0})
    b = side([scored_by("density", one) for one in two_versions()[3:]], terms={"density": 2.0, "length": 0.0})
    told = paired_to_json(compare_versions(a, b))
    assert told["why_not"] == (
        "a was rewarded for question, b for density: their rewards are in different units; "
        "below are the numbers both have"
    )
    assert [told[key] for key in ("is_comparable", "wins", "ties", "losses", "difference")] == [False, *4 * [None]]
    assert [one["difference"] for one in told["scenarios"]] == [None, None, None]
    # Length was measured on both sides, and moved neither reward.
    assert [(part["name"], part["weight"], part["value"]) for part in told["parts"]] == [
        ("length", {"a": 0.0, "b": 0.0}, None)
    ]


def test_sides_that_weigh_a_part_differently_are_compared_only_by_the_part(side):
    lighter = [replace(one, rewards=one.rewards / 4) for one in two_versions()[3:]]
    a, b = side(two_versions()[:3]), side(lighter, terms={"tone": 0.5, "length": 0.0})
    assert "a was rewarded for tone x 2, b for tone x 0.5:" in compare_versions(a, b).why_not
    by_part = paired_to_json(compare_versions(a, b, part="tone"))
    # Tones of a: .5, 1, 1.5; of b: 1.5, 1, 1.
    assert [by_part[key] for key in ("is_comparable", "wins", "ties", "losses")] == [True, 1, 1, 1]
    assert by_part["difference"]["value"] == pytest.approx(0.5 / 3)
    assert by_part["parts"][0]["weight"] == {"a": 2.0, "b": 0.5}


def test_sides_whose_reward_had_other_code_are_not_compared(side):
    sources = ("sha256:aa", "sha256:bb")
    a, b = (side(two_versions()[half], source=source) for half, source in zip(HALVES, sources, strict=True))
    assert compare_versions(a, b).why_not.startswith("tone had other code in a than in b")
    assert compare_versions(a, side(two_versions()[3:], source="sha256:aa")).is_comparable
    assert not compare_versions(a, b, part="tone").is_comparable
    assert compare_versions(a, b, part="length").is_comparable


def test_side_without_rewards_is_not_compared_with_one_that_has_some(side):
    a, b = side(two_versions()[:3]), side(two_versions()[3:], is_scored=False)
    assert "a was rewarded for tone, b for nothing" in compare_versions(a, b).why_not


def test_part_that_only_one_side_has_decides_nothing(side):
    a = side(two_versions()[:3])
    b = side([scored_by("density", one) for one in two_versions()[3:]], terms={"density": 2.0, "length": 0.0})
    assert compare_versions(a, b, part="tone").why_not.startswith("only a's conversations have the part tone;")


def test_part_that_never_applied_makes_no_difference(side):
    terms = {"tone": 2.0, "length": 0.0, "payoff": 1.0}
    silent = [
        replace(one, parts={**one.parts, "payoff": Scores(values=np.full(2, np.nan, np.float32))})
        for one in two_versions()[3:]
    ]
    assert compare_versions(side(two_versions()[:3]), side(silent, terms=terms)).is_comparable


def test_measures_are_of_what_the_trained_roles_said(side):
    # The host says 2 turns of 4 words and a turn of 1 word twice; the guest's "Yes." twice never counts.
    def told(id, version, *texts):
        one = played(id, seed=1, version=version, tone=(0.5,) * len(texts))
        turns = [
            replace(turn, text=texts[number // 2]) if number % 2 == 0 else turn
            for number, turn in enumerate(one.conversation.turns)
        ]
        cut = replace(turns[0], finish="length")
        return replace(one, conversation=replace(one.conversation, turns=(cut, *turns[1:])))

    run = side([told("000000-e01-0", 0, "It's a nice day", "Why is it so"), told("000007-e01-0", 7, "No", "no", "No")])
    found = {one.difference.name: one for one in compare_versions(of(run, 0), of(run, 7)).measures}
    numbers = {name: (one.difference.a, one.difference.b, one.way) for name, one in found.items()}
    assert numbers.pop("repeats") == (0.0, pytest.approx(1 / 3), -1)
    assert numbers == {
        "words_per_turn": (4.0, 1.0, 0),
        "cut": (0.5, pytest.approx(1 / 3), -1),
    }


def test_kl_and_nll_are_those_of_the_annotations(side):
    run = side(two_versions())
    likelihoods = {"000000-e01-0": (0.0, 30.0), "000007-e01-0": (2.0, 50.0), "000007-e02-0": (9.0, 90.0)}
    with (run.index.folder / "annotations.jsonl").open("a") as file:
        for id, (kl, nll) in likelihoods.items():
            data = {"num_tokens": 10, "kl": kl, "nll": nll}
            line = {"schema": ANNOTATION_SCHEMA, "conversation": id, "kind": "likelihood", "data": data}
            file.write(json.dumps(line) + "\n")
    run.index.refresh()
    found = {one.difference.name: one.difference for one in compare_versions(of(run, 0), of(run, 7)).measures}
    # Only scenario 1 was measured on both sides: .2 - 0 and 5 - 3 a token.
    assert [found[name].difference for name in ("kl", "nll")] == pytest.approx([0.2, 2.0])
    assert math.isnan(found["kl"].low)


def test_version_against_itself_differs_by_nothing(tmp_path):
    train(tmp_path / "run", "steps=1", "evaluation.conversations=4")
    index = TranscriptIndex(tmp_path / "run")
    index.refresh()
    base = Side(run="run", index=index, version=0)
    told = paired_to_json(compare_versions(base, base))
    index.close()
    assert [told[key] for key in ("wins", "ties", "losses", "is_comparable")] == [0, 4, 0, True]
    names = [measure["name"] for measure in told["measures"]]
    assert names == ["kl", "nll", "words_per_turn", "tokens_per_turn", "cut", "repeats"]
    rows = [*told["measures"], *told["parts"]]
    assert {row[key] for row in rows for key in ("difference", "low", "high")} == {0.0}
    assert told["difference"]["value"] == 0.0
