"""Labels without people: what a known reward or a judge prefers, and what is stored of it."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from selfplay.dialog import Scores
from selfplay.errors import UserError
from selfplay.judge.stored import measures_of_run
from selfplay.label_by import AutoLabel, GoldLabeller, JudgeLabeller, label_run
from selfplay.pair_sampling import PairToLabel, Sampling
from selfplay.preferences import Preference, append_entry, read_preferences
from selfplay.score import WeightedReward
from tests.paired_runs import played, write_run


class Tone:
    """As many points as a turn's text has exclamation marks, and 100 for a guest."""

    name = "tone"
    scope = "turn"

    def score(self, conversations):
        return [
            Scores(values=np.array([self.of(turn) for turn in one.turns], dtype=np.float32)) for one in conversations
        ]

    def of(self, turn):
        return turn.text.count("!") if turn.role == "host" else 100.0


class Broken:
    name = "broken"

    def score(self, conversations):
        raise ValueError("no such word")


class Compares(Tone):
    scope = "batch"


def talk(id, *, says="Hello", num_turns=1, seed=0):
    return played(id, seed=seed, version=0, tone=(0.0,) * num_turns, says=says, split="train").conversation


def pair(left, right, *, turns=None):
    sides = (talk("000001-g00-0", says=left, num_turns=2), talk("000001-g00-1", says=right, num_turns=2))
    return PairToLabel(left=sides[0], right=sides[1], focus="host", turns=turns)


def swapped(one):
    return PairToLabel(left=one.right, right=one.left, focus=one.focus)


def gold(**changes):
    return GoldLabeller([WeightedReward(reward=Tone(), weight=0.5)], name="tone", **changes)


@pytest.fixture
def folder(tmp_path):
    siblings = [
        played(f"000001-g{group:02d}-{k}", seed=group, version=0, split="train", says="Hey" + "!" * k)
        for group in range(20)
        for k in range(3)
    ]
    return write_run(tmp_path / "chat", siblings)


# ----- gold -----


def test_gold_prefers_the_higher_mean_over_the_turns_of_the_focus():
    [label] = gold().label([pair("Hey!", "Hey!!!")])
    # Two host turns with 1 and with 3 points, weight a half; the guest's hundreds do not count.
    assert label == AutoLabel(probability=0.0, choice="right", detail={"left": 0.5, "right": 1.5})


def test_gold_of_a_judged_turn_is_that_turns_reward():
    [label] = gold().label([pair("Hey!", "Hey!!", turns=(2, 0))])
    assert (label.choice, label.detail) == ("right", {"left": 0.5, "right": 1.0})


def test_gold_of_a_mix_is_the_weighted_sum():
    class Words(Tone):
        name = "words"

        def of(self, turn):
            return len(turn.text.split())

    rewards = [WeightedReward(reward=Tone()), WeightedReward(reward=Words(), weight=-0.1)]
    [label] = GoldLabeller(rewards, name="mix").label([pair("A b c!", "A!")])
    # "A b c! 0 of ID" has six words and "A! 0 of ID" four: 1 - .6 against 1 - .4.
    assert label.choice == "right"
    assert label.detail == pytest.approx({"left": 0.4, "right": 0.6})


def test_gold_calls_equal_rewards_a_tie():
    [label] = gold(temperature=1.0).label([pair("Hey!", "You!")])
    assert (label.probability, label.choice) == (0.5, "tie")


def many(num, *, left="Hey!", right="Hey!!!"):
    return [
        PairToLabel(
            left=talk(f"000001-g{number:02d}-0", says=left),
            right=talk(f"000001-g{number:02d}-1", says=right),
            focus="host",
        )
        for number in range(num)
    ]


def test_gold_with_noise_draws_that_share_blindly():
    labels = gold(noise=0.5).label(many(400))
    blind = [label for label in labels if label.detail.get("is_blind")]
    # Binomial(400, 1/2) has a deviation of 10, and half of the blind ones are right by luck.
    assert abs(len(blind) - 200) < 40
    assert abs(sum(label.choice == "left" for label in labels) - 100) < 35
    assert all(label.choice == "right" for label in labels if label not in blind)


def test_gold_with_temperature_errs_as_the_sigmoid_says():
    labels = gold(temperature=1.0).label(many(400))
    # Half a point against one and a half: sigmoid(1) = .731; the deviation of 400 such is 8.9.
    assert abs(sum(label.choice == "right" for label in labels) - 400 / (1 + math.exp(-1.0))) < 36


def test_gold_that_errs_says_the_same_of_a_pair_whoever_stands_left():
    pairs = many(50)
    labels, others = (gold(noise=0.3, temperature=2.0, seed=7).label(own) for own in (pairs, map_swapped(pairs)))
    names = {"left": "right", "right": "left", "tie": "tie"}
    assert [label.choice for label in labels] == [names[other.choice] for other in others]
    assert {label.choice for label in labels} == {"left", "right"}


def map_swapped(pairs):
    return [swapped(one) for one in pairs]


def test_gold_scores_each_conversation_once():
    class Counting(Tone):
        num = 0

        def score(self, conversations):
            Counting.num += len(conversations)
            return super().score(conversations)

    labeller = GoldLabeller([WeightedReward(reward=Counting())], name="tone")
    one = pair("Hey!", "Hey")
    labeller.label([one, swapped(one)])
    labeller.label([one])
    assert Counting.num == 2


def test_gold_that_can_score_nothing_says_the_first_error():
    with pytest.raises(UserError, match=r"gold:x could score none of 2 conversations; 000001-g00-0: .*no such word"):
        GoldLabeller([WeightedReward(reward=Broken())], name="x").label([pair("a", "b")])


def test_gold_that_could_score_others_before_skips_what_it_cannot():
    class Picky(Tone):
        def score(self, conversations):
            if any("Hm" in turn.text for one in conversations for turn in one.turns):
                raise ValueError("no such word")
            return super().score(conversations)

    labeller = GoldLabeller([WeightedReward(reward=Picky())], name="tone")
    assert labeller.label([pair("Hey!", "Hey")])[0].choice == "left"
    bad = [
        replace(one, left=talk("000001-g07-0", says="Hm"), right=talk("000001-g07-1", says="Hm!"))
        for one in [pair("a", "b")]
    ]
    assert labeller.label(bad) == [None]


def test_gold_refuses_what_compares_conversations_and_nothing_at_all():
    with pytest.raises(UserError, match="compares a conversation with the others of its batch"):
        GoldLabeller([WeightedReward(reward=Compares())], name="x")
    with pytest.raises(UserError, match="by=gold:question"):
        GoldLabeller([], name="x")


# ----- judge -----


@dataclass(frozen=True)
class Said:
    probability_first: float
    principle: str = "kind"

    def detail(self):
        return {"first_order": 0.9, "second_order": 0.5}


class ScriptedJudge:
    """Prefers the dialog with more exclamation marks, has nothing to say of equal ones, and keeps what it read."""

    by = "judge:tiny"

    def __init__(self):
        self.read = []

    def judge(self, pairs):
        self.read += pairs
        return [self.verdict(*(sum(m.text.count("!") for m in dialog.messages) for dialog in one)) for one in pairs]

    def finish(self):
        pass

    def verdict(self, first, second):
        return None if first == second else Said(probability_first=0.5 + 0.1 * (first - second))


def test_judge_label_is_soft_and_says_its_principle():
    judge = ScriptedJudge()
    labels = JudgeLabeller(judge).label([pair("Hey!", "Hey"), pair("Hey", "Hi")])
    # Two turns with one mark each against none: .5 + .2.
    detail = {"first_order": 0.9, "second_order": 0.5}
    assert labels == [AutoLabel(probability=0.7, choice="left", principle="kind", detail=detail), None]


def test_judge_of_turns_reads_dialogs_that_end_there():
    judge = ScriptedJudge()
    JudgeLabeller(judge).label([pair("Hey!", "Hey", turns=(0, 2))])
    [(left, right)] = judge.read
    assert [message.text for message in left.messages] == ["Hey! 0 of 000001-g00-0"]
    assert [message.is_focus for message in right.messages] == [True, True]


# ----- a run -----


def test_label_run_stores_what_was_said(folder):
    summary = label_run(folder, gold(), n=30, sampling=Sampling())
    found = read_preferences(folder).preferences
    assert len(found) == summary.num_labels == 30
    assert {(one.by, one.sampler, one.focus) for one in found} == {("gold:tone", "uniform-same-scenario", "host")}
    # The conversation whose id ends with the higher number has more marks.
    assert all((one.choice == "left") == (one.left > one.right) for one in found)
    assert all(one.detail["left"] != one.detail["right"] for one in found)


def test_label_run_again_labels_no_pair_twice_and_says_when_there_is_none(folder):
    # 20 scenarios of 3 conversations have 60 pairs.
    first, second = (label_run(folder, gold(), n=40, sampling=Sampling()) for _ in range(2))
    assert (first.num_labels, second.num_labels, second.num_before) == (40, 20, 40)
    assert len({frozenset((one.left, one.right)) for one in read_preferences(folder).preferences}) == 60
    with pytest.raises(UserError, match="60 before, no other is left"):
        label_run(folder, gold(), n=1, sampling=Sampling())


def test_label_run_may_label_what_others_labelled(folder):
    label_run(folder, gold(), n=60, sampling=Sampling())
    judged = label_run(folder, JudgeLabeller(ScriptedJudge()), n=60, sampling=Sampling())
    assert judged.num_labels == 60
    soft = [one for one in read_preferences(folder).preferences if one.by == "judge:tiny"]
    assert {one.principle for one in soft} == {"kind"}
    assert {round(one.probability_left, 6) for one in soft} == {0.3, 0.4, 0.6, 0.7}


def test_label_run_counts_what_the_judge_did_not_answer(tmp_path):
    same = [played(f"000001-g00-{k}", seed=0, version=0, split="train", says="Hey!") for k in range(3)]
    same.append(played("000001-g00-3", seed=0, version=0, split="train", says="Hey"))
    folder = write_run(tmp_path / "chat", same)
    summary = label_run(folder, JudgeLabeller(ScriptedJudge()), n=9, sampling=Sampling())
    # Of six pairs three are among the same.
    assert (summary.num_labels, summary.num_skipped, summary.num_wanted) == (3, 3, 9)


def test_label_run_keeps_what_was_said_before_an_interrupt(folder):
    class Interrupted(ScriptedJudge):
        def judge(self, pairs):
            if self.read:
                raise KeyboardInterrupt
            return super().judge(pairs)

    with pytest.raises(KeyboardInterrupt):
        label_run(folder, JudgeLabeller(Interrupted()), n=40, sampling=Sampling())
    kept = read_preferences(folder).preferences
    assert len(kept) == 8
    rest = label_run(folder, JudgeLabeller(ScriptedJudge()), n=32, sampling=Sampling())
    assert rest.num_labels == 32
    assert len({one.id for one in read_preferences(folder).preferences}) == 40


def test_measures_of_labelling_that_went_on_are_of_all_labels(folder):
    # Of 60 pairs the first attempt labels 40; what is measured afterwards is what was stored by both.
    label_run(folder, JudgeLabeller(ScriptedJudge()), n=40, sampling=Sampling())
    label_run(folder, JudgeLabeller(ScriptedJudge()), n=20, sampling=Sampling())
    found = measures_of_run(folder, "judge:tiny", gold=gold())
    assert (found.num, found.num_clear, found.agreement.value) == (60, 60, 1.0)
    assert found.position.value == pytest.approx(0.4)
    # 20 scenarios of three pairs, all alike: Wilson of 20.
    assert found.agreement.low == pytest.approx(20 / (20 + 1.959964**2))
    assert measures_of_run(folder, "judge:other").num == 0


def test_label_run_tells_how_far_it_is(folder):
    told = []
    label_run(folder, gold(), n=40, sampling=Sampling(), on_progress=lambda done, of: told.append((done, of)))
    assert told == [(8, 40), (16, 40), (24, 40), (32, 40), (40, 40)]


def test_label_run_records_disagreement(folder):
    class Members:
        def probabilities(self, examples):
            return np.tile([0.2, 0.6], (len(examples), 1))

    sampling = Sampling(sampler="disagreement", model=Members(), candidates=2)
    label_run(folder, gold(), n=5, sampling=sampling)
    found = read_preferences(folder).preferences
    assert {one.sampler for one in found} == {"disagreement-2x"}
    assert all(one.detail["disagreement"] == pytest.approx(0.04) for one in found)


def test_label_run_reads_one_split_and_one_focus(folder, tmp_path):
    held_out = [played(f"000001-e{k:02d}-0", seed=k // 2, version=0, says=f"Hey{k}") for k in range(4)]
    other = write_run(tmp_path / "held", held_out)
    assert label_run(other, gold(), n=9, sampling=Sampling(), split="held_out").num_labels == 2
    with pytest.raises(UserError, match="no conversation that did not fail with split=train"):
        label_run(other, gold(), n=9, sampling=Sampling())
    assert label_run(folder, gold(), n=3, sampling=Sampling(focus="guest")).num_ties == 3
    with pytest.raises(UserError, match="focus=hoost: the run's roles are host, guest; did you mean host"):
        label_run(folder, gold(), n=3, sampling=Sampling(focus="hoost"))


def test_label_run_without_pairs_says_why(tmp_path):
    folder = write_run(
        tmp_path / "alone", [played(f"000001-g{k:02d}-0", seed=k, version=0, split="train") for k in range(3)]
    )
    with pytest.raises(UserError, match="group_size=2"):
        label_run(folder, gold(), n=3, sampling=Sampling())
    with pytest.raises(UserError, match="unit=conversation"):
        label_run(folder, gold(), n=3, sampling=Sampling(unit="turn"))


def test_labels_of_both_roles_of_a_pair_have_ids_of_their_own(tmp_path):
    both = [played(f"000001-g00-{k}", seed=0, version=0, split="train") for k in range(2)]
    folder = write_run(tmp_path / "chat", both)
    for focus in ("host", "guest"):
        label_run(folder, gold(), n=1, sampling=Sampling(focus=focus))
    lines = [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(read_preferences(folder).preferences) == 2


def test_labels_of_people_stay_as_they_are(folder):
    said = Preference(
        at="2026-01-01T00:00:00.000Z",
        left="000001-g00-0",
        right="000001-g00-1",
        focus="host",
        question="?",
        choice="tie",
        by="person:anon-3f",
    )
    append_entry(folder, said)
    label_run(folder, gold(), n=60, sampling=Sampling())
    assert read_preferences(folder).preferences[0].choice == "tie"
    assert len(read_preferences(folder).preferences) == 61
