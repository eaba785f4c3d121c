"""What a report says of a reward model, by hand-made verdicts."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from rich.console import Console

from rewards.asking import QuestionMarks
from selfplay.commands.reward_report import print_report
from selfplay.reward_model.accuracy import PairCounts, clear_pairs, measured_accuracy
from selfplay.reward_model.baselines import Choice, choose_baselines, conversation_of, means_of, num_words
from selfplay.reward_model.card import card_of
from selfplay.reward_model.dialogs import Dialog, Message, count_words
from selfplay.reward_model.examples import Example
from selfplay.reward_model.judged_pairs import pairs_of
from selfplay.reward_model.model import ModelInfo, Verdict
from selfplay.reward_model.report import choice_from_json, report_on, report_to_json
from selfplay.reward_model.settings import FitSettings


def dialog(text: str, heard: str = "Hello.") -> Dialog:
    return Dialog(messages=(Message(text=heard, is_focus=False), Message(text=text, is_focus=True)))


def pair(first: str, second: str, target: float = 1.0, **fields) -> Example:
    dialogs = (dialog(first), dialog(second))
    return Example(dialogs=dialogs, kind="pair", targets=(target,), **{"judged": "turn", "source": "test", **fields})


@dataclass
class ByNumber:
    """A model that reads its members' numbers off the last message: "0.5 1.5" is two members'."""

    num_read: int = 0

    def values(self, dialogs: Sequence[Dialog], *, judged: str = "conversation") -> list[Verdict]:
        self.num_read += len(dialogs)
        return [verdict(one.messages[-1].text) for one in dialogs]

    def probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        both = [[verdict(one.messages[-1].text).members for one in example.dialogs] for example in examples]
        differences = np.array(both)[:, 0] - np.array(both)[:, 1]
        return 1.0 / (1.0 + np.exp(-differences))


def verdict(text: str) -> Verdict:
    members = tuple(float(word) for word in text.split())
    return Verdict(mean=float(np.mean(members)), std=float(np.std(members)), members=members)


CLEAR = [pair("1", "0", keys=(f"{n}",)) for n in range(40)]
NEITHER = Choice(length_sign=1, heuristic="", heuristic_sign=1, chosen_on="nothing")


def test_ranking_and_best_give_their_pairs_and_ties_stay_ties():
    dialogs = tuple(dialog(text) for text in "abc")
    ranking = Example(dialogs=dialogs, kind="ranking", targets=(2.0, 1.0, 2.0))
    best = Example(dialogs=dialogs, kind="best", targets=(1.0,))
    assert [one.target for one in pairs_of([ranking])] == [0.0, 0.5, 1.0]
    found = pairs_of([best])
    assert [(one.first.messages[-1].text, one.second.messages[-1].text) for one in found] == [("b", "a"), ("b", "c")]
    assert {one.group for one in pairs_of([ranking])} == {0}


def test_ratings_are_matched_with_different_ones_of_their_source_once():
    rated = [
        Example(dialogs=(dialog(f"{n}"),), kind="rating", targets=(float(n % 2),), source="ab"[n // 6], judged="turn")
        for n in range(12)
    ]
    found = pairs_of(rated, seed=3)
    texts = [one.messages[-1].text for each in found for one in (each.first, each.second)]
    assert sorted(texts, key=int) == [str(n) for n in range(12)]
    for each in found:
        first, second = int(each.first.messages[-1].text), int(each.second.messages[-1].text)
        assert first // 6 == second // 6
        assert each.target == float(first % 2 > second % 2)


def test_groups_join_what_shares_a_key_through_others():
    examples = [pair("1", "0", keys=keys) for keys in (("x", "y"), ("y",), ("z",), ("z", "w"), ())]
    groups = [one.group for one in pairs_of(examples)]
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert len(set(groups)) == 3


def test_accuracy_counts_equal_values_half_and_leaves_ties_out():
    examples = [pair("2", "1"), pair("1", "2"), pair("1", "1"), pair("3", "1"), pair("9", "1", target=0.5)]
    share = measured_accuracy(ByNumber(), examples)
    # right, wrong, half, right of 4; the tie does not count
    assert share.value == pytest.approx(2.5 / 4)
    assert share.num_pairs == 4


def test_each_dialog_is_read_once():
    model = ByNumber()
    ranking = Example(
        dialogs=tuple(dialog(f"{n}") for n in range(5)), kind="ranking", targets=(5.0, 4.0, 3.0, 2.0, 1.0)
    )
    assert measured_accuracy(model, [ranking]).value == 1.0
    assert model.num_read == 5


def test_interval_is_wider_where_pairs_belong_together():
    apart = [pair(f"{n % 2}", "0.5", keys=(f"{n}",)) for n in range(200)]
    together = [pair(f"{n % 2}", "0.5", keys=(f"{n % 2}{n // 20}",)) for n in range(200)]
    one, other = measured_accuracy(ByNumber(), apart), measured_accuracy(ByNumber(), together)
    assert one.value == other.value == 0.5
    # Binomial: 1.96 sqrt(.25 / 200) = .069; of 20 groups of ten alike, 1.96 sqrt(.25 / 20) = .219.
    assert (one.high - one.low) / 2 == pytest.approx(0.069, abs=0.01)
    assert (other.high - other.low) / 2 == pytest.approx(0.219, abs=0.03)


def test_interval_of_all_right_is_wilsons():
    share = measured_accuracy(ByNumber(), [pair("1", "0", keys=(f"{n}",)) for n in range(10)])
    # Wilson for 10 of 10: 10 / (10 + 1.96^2) = .722
    assert (share.value, share.high) == (1.0, 1.0)
    assert share.low == pytest.approx(0.7225, abs=1e-3)


def test_calibration_by_hand():
    # P(first) is sigmoid(ln 3) = .75 for each; preferred in three of four, so it is as right as it says.
    examples = [pair(f"{math.log(3)}", "0", target=target) for target in (1.0, 1.0, 1.0, 0.0)]
    found = report_on(ByNumber(), examples, (), {}, choice=NEITHER).calibration
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert [(one.num_pairs, one.predicted, one.observed) for one in found.bins] == [(4, pytest.approx(0.75), 0.75)]
    # -(3 ln .75 + ln .25) / 4 = .5623
    assert found.log_loss == pytest.approx(0.5623, abs=1e-4)


def test_calibration_does_not_depend_on_which_dialog_comes_first():
    examples = [pair("2", "0", 0.9), pair("0", "1", 0.3), pair("1", "0", 0.5)]
    turned = [pair(e.dialogs[1].messages[-1].text, e.dialogs[0].messages[-1].text, 1 - e.targets[0]) for e in examples]
    one, other = (report_on(ByNumber(), each, (), {}, choice=NEITHER).calibration for each in (examples, turned))
    assert one.log_loss == pytest.approx(other.log_loss)
    assert one.error == pytest.approx(other.error)


def test_agreement_of_members_by_hand():
    # Members prefer: both the first (right), first against second (mean .5 to 0: right), both the second (wrong).
    examples = [pair("1 1", "0 0"), pair("2 -1", "0 0"), pair("0 0", "1 1")]
    found = report_on(ByNumber(), examples, (), {}, choice=NEITHER).agreement
    assert found.share == pytest.approx(2 / 3)
    assert found.accuracies == pytest.approx((2 / 3, 1 / 3))
    assert (found.when_unanimous.value, found.when_unanimous.num_pairs) == (0.5, 2)
    assert (found.when_divided.value, found.when_divided.num_pairs) == (1.0, 1)


def test_baselines_are_chosen_and_signed_on_training_examples_only():
    train = [pair("short", "a much longer one?")] * 3 + [pair("a longer one", "short?")]
    heuristics = {"marks": means_of(QuestionMarks())}
    choice = choose_baselines(train, heuristics)
    # The shorter is preferred in three of four, the one without a question mark in all.
    assert (choice.length_sign, choice.heuristic, choice.heuristic_sign) == (-1, "marks", -1)
    assert choice.chosen_on == "4 training pairs"


def test_report_says_so_if_the_model_and_a_baseline_cannot_be_told_apart():
    longer = [pair("1 " * 2, "0", keys=(f"{n}",)) for n in range(40)]
    found = report_on(ByMean(), longer, longer, {})
    length = found.baselines[0]
    assert (length.name, length.accuracy.value, length.difference.value) == ("length alone", 1.0, 0.0)
    assert length.standing == "alike"
    # Wilson for 40 alike: 3.84 / 43.84 = 8.8 points of the 100 to either side.
    assert found.verdicts == (
        "The model and length alone cannot be told apart on 40 pairs: 100.0% and 100.0% right (model minus baseline "
        "+0.0 points, 95% interval -8.8 to +8.8).",
    )
    assert found.findings == ()


def test_report_says_so_if_the_model_is_better():
    examples = [pair("1", "0", keys=(f"{n}",)) for n in range(40)]
    found = report_on(ByNumber(), examples, examples, {})
    assert found.findings == ()
    assert (found.baselines[0].accuracy.value, found.baselines[0].standing) == (0.5, "model")
    assert found.verdicts[0].startswith(
        "The model is better than length alone: 100.0% against 50.0% right (+50.0 points"
    )


def test_report_says_so_if_a_baseline_is_better():
    shorter = [pair("0", "1 1", keys=(f"{n}",)) for n in range(40)]
    found = report_on(ByMean(), shorter, shorter, {})
    assert found.baselines[0].standing == "baseline"
    assert found.verdicts[0].startswith(
        "The baseline length alone (the less, the better) is better than the model: 100.0% against 0.0% right (-100.0"
    )
    assert "better than a coin" in found.findings[0]


@pytest.mark.parametrize(("num", "num_groups", "is_enough"), [(20, 10, True), (19, 19, False), (40, 9, False)])
def test_too_few_pairs_or_groups_say_nothing(num, num_groups, is_enough):
    examples = [pair("1", "0", keys=(f"{n % num_groups}",)) for n in range(num)]
    found = report_on(ByNumber(), examples, examples, {})
    assert found.has_too_few != is_enough
    assert bool(found.verdicts) == is_enough
    said = f"too few held-out pairs to say anything: {num} pairs with a clear label, from {num_groups} groups"
    assert any(said in finding for finding in found.findings) != is_enough
    console = Console(record=True, width=200)
    print_report(console, found)
    text = console.export_text()
    # Neither an interval nor a comparison stands beside it.
    assert (("%" in text), ("baseline" in text)) == (is_enough, is_enough)


def test_calibration_says_which_pairs_it_counts():
    ties = [pair("1", "0", target=0.5, keys=(f"t{n}",)) for n in range(3)]
    console = Console(record=True, width=200)
    print_report(console, report_on(ByNumber(), [*CLEAR, *ties], CLEAR, {}))
    text = console.export_text()
    assert "of 40 pairs from 40 groups, 3 ties left out" in text
    assert "of 43 pairs (the accuracy's and 3 ties)" in text


def test_report_says_so_if_nothing_shows_that_it_learnt():
    examples = [pair(f"{n % 2}", "0.5", keys=(f"{n}",)) for n in range(40)]
    found = report_on(ByNumber(), examples, examples, {})
    assert "nothing shows that it is better than a coin" in found.findings[0].lower()


def test_length_buckets_are_of_the_preferred_one():
    examples = [pair("1 1 1 1 1", "0 0"), pair("1", "2 2 2", target=0.0), pair("1 1", "0 0"), pair("1", "0 0 0 0")]
    found = report_on(ByMean(), examples, (), {}, choice=NEITHER).by_length
    # 3/5 longer, 2/3 longer, equal, 3/4 shorter
    assert {label: share.num_pairs for label, share in found.items()} == {
        "preferred under half as long": 1,
        "about as long": 1,
        "preferred over twice as long": 2,
    }


def test_sources_are_told_apart():
    examples = [pair("1", "0", source="person"), pair("0", "1", source="judge")]
    found = report_on(ByNumber(), examples, (), {}, choice=NEITHER).by_source
    assert {source: share.value for source, share in found.items()} == {"judge": 0.0, "person": 1.0}


def test_words_of_a_turn_are_those_of_the_last_message():
    said = [("Hi there you.", True), ("What?", False), ("No.", True), ("Oh dear.", False)]
    one = Dialog(messages=tuple(Message(text=text, is_focus=is_focus) for text, is_focus in said))
    assert num_words(one, "turn") == 1
    assert num_words(one, "conversation") == 4


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("", 0),
        ("I don't know -- do you?", 5),
        ("你好吗。", 3),
        ("私はお茶をPython で飲む。", 9),  # eight letters and a word
        ("ขอบคุณ", 5),  # five letters, one with a vowel below it
        ("네, 정말 그래요.", 3),  # Korean parts words
    ],
)
def test_words_of_scripts_without_spaces_are_their_letters(text, num):
    assert count_words(text) == num


def test_dialog_becomes_a_conversation_that_rewards_read():
    said = [("Begin.", False), ("Who?", True), ("Me.", False), ("And you.", False), ("Why? How?", True)]
    one = Dialog(messages=tuple(Message(text=text, is_focus=is_focus) for text, is_focus in said), system="Be kind.")
    conversation = conversation_of(one)
    assert conversation.scenario.roles == ("other", "focus")
    assert conversation.players["focus"].brief == "Be kind."
    assert [turn.heard_text for turn in conversation.turns] == ["", "Begin.", "Who?", "", "Me.\nAnd you."]
    marks = means_of(QuestionMarks())
    # Both of the focus's turns have question marks, none of the other's has; nobody spoke in the last dialog.
    values = marks([one, Dialog(messages=())])
    assert values[0] > 0
    assert math.isnan(values[1])


def test_nothing_held_out_is_said_and_is_valid_json():
    found = report_on(ByNumber(), (), (), {})
    assert found.findings == ("No held-out pair has a clear label, so there is no accuracy.",)
    text = json.dumps(report_to_json(found), allow_nan=False)
    assert json.loads(text)["accuracy"]["value"] is None


def test_choice_comes_back_from_a_report():
    choice = Choice(length_sign=-1, heuristic="question", heuristic_sign=1, chosen_on="9 training pairs")
    record = report_to_json(report_on(ByNumber(), [pair("1", "0")], (), {}, choice=choice))
    assert choice_from_json(json.loads(json.dumps(record))) == choice
    assert choice_from_json({"schema": "other"}) is None
    assert choice_from_json({**record, "choice": {"length_sign": 3}}) is None


def test_preferences_below_half_count_for_the_second():
    counts = PairCounts(clear_pairs([pair("a", "b", 0.2), pair("a", "b", 0.9)], seed=0), seed=0)
    assert counts.right([1.0, 1.0], [0.0, 0.0]).tolist() == [0.0, 1.0]
    assert counts.right([math.nan, 2.0], [1.0, 2.0]).tolist() == [0.5, 0.5]


def test_card_says_what_it_is_how_good_and_how_to_use_it():
    info = ModelInfo(
        settings=FitSettings(backbone="words"),
        scope="turn",
        judged="turn",
        num_members=1,
        num_train=3,
        num_held_out=1,
        sources={"per|son": 3},
    )
    report = report_on(ByNumber(), CLEAR, CLEAR, {})
    card = card_of(info, report, name="mine", folder="rm/mine", data=["a.jsonl"], notes=["2 ties"])
    assert card.startswith("---\nlibrary_name: selfplay-dialog\n")
    for said in (
        "# mine",
        "train -r rm:rm/mine=0.5",
        "| this model | 100.0%",
        "| per/son | 3 |",
        "- 2 ties",
        "**The model is better than length alone",
        "## Limits",
    ):
        assert said in card
    few = report_on(ByNumber(), CLEAR[:5], CLEAR, {})
    card = card_of(info, few, name="mine", folder="rm/mine", data=["a.jsonl"], notes=[])
    assert "**There are too few held-out pairs to say anything: 5 pairs" in card
    assert "| this model |" not in card


class ByMean(ByNumber):
    """One member: the mean of the numbers in the last message."""

    def values(self, dialogs: Sequence[Dialog], *, judged: str = "conversation") -> list[Verdict]:
        means = [verdict(one.messages[-1].text).mean for one in dialogs]
        return [Verdict(mean=mean, std=0.0, members=(mean,)) for mean in means]

    def probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        first, second = ([one.mean for one in self.values([e.dialogs[k] for e in examples])] for k in (0, 1))
        return 1.0 / (1.0 + np.exp(np.array(second) - np.array(first)))[:, None]
