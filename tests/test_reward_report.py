"""What is measured of a reward, on rewards whose faults are known."""

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from rewards.asking import Question
from rewards.repetition import SaidBefore
from selfplay import reward
from selfplay.dialog import Scores
from selfplay.reward_attacks import ATTACKS, as_conversations, ordinary_conversations
from selfplay.reward_report import MixedReward, report_on
from selfplay.score import WeightedReward, score


@reward(range=(0, 1))
def short(turn):
    return 1 / max(1, len(turn.text.split()))


@reward(range=(0, 5))
def characters(turn):
    return len(turn.text)


@reward(range=(0, 1))
def never(turn):
    return None


@reward
def words(turn):
    return len(turn.text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Impatient:
    """Breaks where a message is long; the contract's own samples are all shorter."""

    name: ClassVar[str] = "impatient"

    def score(self, conversations):
        if any(len(turn.text) > 6000 for talk in conversations for turn in talk.turns):
            raise RuntimeError("too much to read")
        return [Scores(values=np.zeros(talk.num_turns, dtype=np.float32)) for talk in conversations]


@dataclass(slots=True)
class Moody:
    name: ClassVar[str] = "moody"
    calls: int = 0

    def score(self, conversations):
        self.calls += 1
        return [Scores(values=np.full(talk.num_turns, self.calls, dtype=np.float32)) for talk in conversations]


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeBatch:
    """The share of all messages of the call that are shorter: only a whole batch can say."""

    name: ClassVar[str] = "whole_batch"
    scope: ClassVar[str] = "batch"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, conversations):
        lengths = np.array([len(turn.text) for talk in conversations for turn in talk.turns])
        return [
            Scores(values=np.array([(lengths < len(turn.text)).mean() for turn in talk.turns], dtype=np.float32))
            for talk in conversations
        ]


def test_report_of_short_messages_says_who_wins_and_what_it_goes_along_with():
    report = report_on(short, ordinary_conversations(), {"question": Question(), "said_before": SaidBefore()})
    assert report.is_sound
    assert (report.low, report.high, report.num_chats) == (0.0, 1.0, 12)
    assert report.num_turns == 8 * (12 + len(ATTACKS))
    # One word in every message is 1, as much as there is.
    values = {attack.name: attack.value for attack in report.attacks}
    assert values["one_word"] == values["one_letter"] == 1.0
    assert {"one_word", "one_letter", "long_letters"} < set(report.winning)
    assert report.attacks[0].value == 1.0
    assert report.attacks[0].share_below == 1.0
    assert report.length.rho == pytest.approx(-1.0, abs=0.02)
    # Nothing is said twice in ordinary chats, so there is no correlation with that.
    assert [row.name for row in report.correlations] == ["question"]
    assert 0 < report.p50_ms <= report.p95_ms


def test_median_is_of_the_means_of_conversations():
    # Means a turn: 1, 1/2 and (1 + 1/3) / 2 = 2/3.
    talks = as_conversations([("a", ["one", "two"]), ("b", ["a b", "c d"]), ("c", ["one", "a b c"])], env="test")
    report = report_on(short, talks, {})
    assert report.median == pytest.approx(2 / 3)
    # Six turns are too few for a correlation.
    assert report.length is None


def test_numbers_outside_the_range_are_named():
    talks = as_conversations([("a", ["four", "longer"])], env="test")
    report = report_on(characters, talks, {})
    assert not report.is_sound
    assert report.broken == ""
    assert report.outside[0] == "test 000000-g00-0, turn 1: 6"
    # What counts is clipped: 4 and 5.
    assert report.median == 4.5


def test_reward_without_a_range_has_no_bounds():
    report = report_on(words, ordinary_conversations(), {})
    assert (report.low, report.high, report.is_sound) == (None, None, True)


def test_reward_that_breaks_on_an_attack_is_broken():
    report = report_on(Impatient(), ordinary_conversations(), {})
    assert not report.is_sound
    assert "too much to read" in report.broken


def test_reward_that_answers_differently_the_second_time_is_broken():
    assert "first asked" in report_on(Moody(), ordinary_conversations(), {}).broken


def test_reward_that_never_applies_has_no_median_and_no_winner():
    report = report_on(never, ordinary_conversations(), {})
    assert report.is_sound
    assert (report.median, report.winning, report.num_turns) == (None, [], 0)


def test_reward_of_a_batch_gets_all_chats_at_once():
    talks = as_conversations([("a", ["1", "22"]), ("b", ["333", "4444"])], env="test")
    report = report_on(WholeBatch(), talks, {})
    # Shares 0, 1/4, 2/4, 3/4: means 1/8 and 5/8.
    assert report.median == pytest.approx(3 / 8)


def test_penalty_is_beaten_by_nobody_and_met_by_many():
    report = report_on(SaidBefore(), ordinary_conversations(), {})
    assert report.winning == []
    assert report.num_equal == sum(attack.value == 0.0 for attack in report.attacks) > 5


def test_mix_is_what_scoring_adds_up_with_the_bounds_of_its_parts():
    parts = (WeightedReward(reward=Question(), weight=0.5), WeightedReward(reward=SaidBefore(), weight=2.0))
    mix = MixedReward(name="mix", parts=parts)
    talks = as_conversations([("a", ["What is it?", "What is it?", "Fine."])], env="test")
    assert mix.range == (-2.0, 0.5)
    assert mix.score(talks)[0].values.tolist() == [0.5, -1.5, 0.0]
    assert mix.score(talks)[0].values.tolist() == score(talks, parts)[0].rewards.tolist()


def test_mix_with_a_part_that_fails_says_so():
    mix = MixedReward(name="mix", parts=(WeightedReward(reward=Impatient()),))
    with pytest.raises(ValueError, match="too much to read"):
        mix.score(as_conversations([("a", ["x" * 7000])], env="test"))


def test_slow_reward_is_asked_about_all_chats_in_one_call_and_about_all_attacks_in_another():
    sizes = []

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Slow:
        name: ClassVar[str] = "slow"
        is_slow: ClassVar[bool] = True

        def score(self, conversations):
            sizes.append(len(conversations))
            return [Scores(values=np.zeros(talk.num_turns, dtype=np.float32)) for talk in conversations]

    assert report_on(Slow(), ordinary_conversations(), {}).is_slow
    # The contract's four samples come first; no attack is paid for twice.
    assert sizes[-2:] == [12, len(ATTACKS)]
    assert max(sizes[:-2]) == 4


def test_reward_is_prepared_first_however_long_that_takes():
    class Loads:
        name = "loads"
        is_ready = False

        def prepare(self):
            time.sleep(0.3)
            self.is_ready = True

        def score(self, conversations):
            assert self.is_ready
            return [Scores(values=np.zeros(one.num_turns, dtype=np.float32)) for one in conversations]

    assert report_on(Loads(), ordinary_conversations(), {}, timeout_seconds=0.25).is_sound
    mixed = Loads()
    MixedReward(name="mix", parts=(WeightedReward(reward=mixed),)).prepare()
    assert mixed.is_ready


def test_reward_that_leaves_the_program_is_broken():
    @reward
    def leaves(turn):
        raise SystemExit

    assert "raised SystemExit" in report_on(leaves, ordinary_conversations(), {}).broken


def test_reward_that_hangs_is_broken():
    @reward
    def hangs(turn):
        time.sleep(60)

    report = report_on(hangs, ordinary_conversations(), {}, timeout_seconds=0.1)
    assert report.broken == "it took longer than 0.1 seconds over four conversations"
