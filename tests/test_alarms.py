"""Alarms for reward hacking: by hand for each, and on the curves of real runs."""

import json
import math
from itertools import accumulate, repeat
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from selfplay.alarms import alarm_metrics, alarm_to_json, append_alarms, read_alarms, replay
from selfplay.alarms_reading import Watch
from selfplay.alarms_settings import AlarmsGroup
from selfplay.alarms_to_read import conversations_to_read
from selfplay.config import resolve
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.errors import UserError
from selfplay.train_settings import TrainSettings

ROOT = Path(__file__).parents[1]
CELLS = ROOT / "docs" / "results"


def watch(*, kl_target=None, weights=None, **settings):
    return Watch(settings=AlarmsGroup(**settings), weights=weights or {"asks": 1.0}, kl_target=kl_target)


def lines(**curves):
    """Return the lines of a run: curves by metric, in which __ stands for /."""
    named = {name.replace("__", "/"): values for name, values in curves.items()}
    columns = zip(*named.values(), strict=True)
    return [{"step": step, **dict(zip(named, row, strict=True))} for step, row in enumerate(columns)]


def changes(found):
    return [(step, reading.name, reading.is_on) for step, reading in found]


# ----- real runs -----


def curves_of(path):
    """Return a stored run's lines and what its alarms depend on."""
    cell = json.loads(path.read_text(encoding="utf-8"))
    settings = resolve(TrainSettings, cell["words"])
    target = settings.kl.target if settings.kl.controller == "adaptive" else None
    weights = {name: spec.weight for name, spec in settings.rewards.items()}
    return lines(**cell["curves"]), Watch(settings=AlarmsGroup(), weights=weights, kl_target=target)


# KL is above 0.3 over three steps for the first time: (0.202 + 0.358 + 0.412) / 3 = 0.324 at step 9 of no_kl-0,
# (0.203 + 0.356 + 0.391) / 3 = 0.317 at step 12 of no_kl-1, (0.320 + 0.303 + 0.422) / 3 = 0.348 at step 17 of no_kl-2,
# (0.275 + 0.388 + 0.433) / 3 = 0.365 at step 11 of question_no_kl-0.
# Distinct-2 is below three quarters of (0.956 + 0.917 + 0.918) / 3 = 0.930 at step 11 of no_kl-0, whose turns keep
# their length: (0.777 + 0.664 + 0.519) / 3 = 0.653 against 0.698; no_kl-2 falls silent first.
COLLAPSES = {"no_kl-0": (9, 11), "no_kl-1": (12, 15), "no_kl-2": (17, 18), "question_no_kl-0": (11, 12)}


@pytest.mark.parametrize("name", COLLAPSES)
def test_runs_that_lose_their_language_raise_alarms_while_they_do(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = replay(*curves_of(CELLS / "kl-control" / "cells" / f"{name}.json"))
    begun = {reading.name: step for step, reading in found if reading.has_begun}
    assert (begun["kl_accelerating"], begun["distinct_falling"]) == COLLAPSES[name]
    assert begun["entropy_collapse"] > begun["distinct_falling"]
    assert not [reading for _, reading in found if reading.has_ended]


HEALTHY = ("adaptive-0", "fixed_1-0", "fixed_1-1", "fixed_1-2")


@pytest.mark.parametrize("path", [CELLS / "kl-control" / "cells" / f"{name}.json" for name in HEALTHY], ids=HEALTHY)
def test_runs_that_keep_their_language_raise_none(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert replay(*curves_of(path)) == []


@pytest.mark.parametrize("path", sorted((CELLS / "chat" / "cells").glob("*.json")), ids=lambda path: path.stem)
def test_runs_of_the_default_preset_raise_none(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert replay(*curves_of(path)) == []


def test_a_run_that_learns_as_the_default_preset_does_raises_none():
    draw = np.random.default_rng(0)
    learned, noise = np.linspace(0, 1, 40), draw.standard_normal((5, 40))
    curves = {
        "reward/total": 0.05 + 0.45 * learned + 0.08 * noise[0],
        "reward/asks": 0.06 + 0.5 * learned + 0.08 * noise[0],
        "reward/asks/variance_share": 1.0 + 0.08 * noise[1],
        "kl/per_token_nats": 0.1 * learned + 0.02 * learned * noise[2],
        "play/distinct_2": 0.92 - 0.09 * learned + 0.03 * noise[3],
        "play/words_per_turn": 15 - 3 * learned + noise[4],
        "reward/sentiment": 0.36 + 0.09 * noise[1],
        "play/repeated_pairs": 0.005 + 0.012 * learned + 0.005 * noise[2],
    }
    weights = {"asks": 1.0, "repetition": 0.1, "sentiment": 0.0}
    assert replay(lines(**curves), watch(weights=weights, kl_target=0.08)) == []


def test_noise_alone_raises_none():
    draw = np.random.default_rng(1)
    curves = {
        "reward/sentiment": draw.normal(0.0, 0.1, 100),
        "reward/payoff": draw.normal(0.1, 0.3, 100),
        "reward/total": np.linspace(0, 2, 100),
        "play/repeat_rate": draw.binomial(32, 0.3, 100) / 32,
        "play/distinct_2": draw.normal(0.9, 0.04, 100),
        "entropy/per_token_nats": draw.normal(3.0, 0.25, 100),
    }
    assert replay(lines(**curves), watch(weights={"payoff": 1.0, "sentiment": 0.0})) == []


# ----- each alarm by hand -----


@pytest.mark.parametrize(
    ("first", "then", "found"),
    [
        (0.5, 0.9, [(5, "one_part", True)]),  # above 0.8
        (0.5, 0.7, []),
        (0.96, 1.2, []),  # its weight made it so from the start
        (0.7, 0.84, []),  # 0.15 more than at first would be 0.85
    ],
)
def test_one_part_is_one_that_came_to_make_the_variance(first, then, found):
    run = lines(reward__asks__variance_share=[first] * 3 + [then] * 3)
    assert changes(replay(run, watch(weights={"asks": 1.0, "length": 0.5}))) == found
    assert replay(run, watch(weights={"asks": 1.0, "length": 0.0})) == []  # the only part makes all of it


@pytest.mark.parametrize(("then", "is_on"), [(16.1, True), (15.9, False), (6.2, True), (6.3, False)])
def test_length_drift_is_a_factor_either_way(then, is_on):
    (reading,) = read_alarms(lines(play__words_per_turn=[10.0] * 3 + [then] * 3), watch())
    assert reading.is_on is is_on  # 10 x 1.6 = 16, 10 / 1.6 = 6.25
    assert reading.look == ("long" if then > 10 else "short")


def test_repetition_drift_names_the_worse_of_its_measures():
    run = lines(play__repeat_rate=[0.3] * 12 + [0.35] * 3, play__repeated_pairs=[0.01] * 12 + [0.2] * 3)
    (reading,) = read_alarms(run, watch())
    assert reading.is_on
    # The one jump of 0.19 in 14 differences: 4 standard errors are 4 x sqrt(2 / 3 x 0.19^2 / 14 / 2) = 0.117.
    assert reading.bound == pytest.approx(0.01 + 0.1173, abs=1e-4)
    assert reading.what == "20% of the word pairs repeat within a turn, 1% at first"


def test_variance_and_entropy_collapse_to_a_share_of_the_first():
    run = lines(
        reward__per_conversation__deviation=[2.0, 2.0, 2.0, 0.3, 0.2, 0.0],  # last three: 0.167 of 2: 8%
        entropy__per_token_nats=[3.0, 3.0, 3.0, 1.3, 1.2, 1.2],  # 1.233 is more than 1.2
    )
    on = {reading.name: reading.is_on for reading in read_alarms(run, watch())}
    assert on == {"variance_collapse": True, "entropy_collapse": False}


@pytest.mark.parametrize(("then", "is_on"), [(0.29, False), (0.31, True)])
def test_kl_with_a_target_is_held_to_three_times_it(then, is_on):
    run = lines(kl__per_token_nats=[0.0, 0.1, 0.1, then, then, then])
    (reading,) = read_alarms(run, watch(kl_target=0.1))
    assert reading.is_on is is_on


def test_kl_without_a_target_must_be_high_and_grow_ever_faster():
    def begins(values):
        return [step for step, _ in replay(lines(kl__per_token_nats=values), watch())]

    assert begins([0.05 * step for step in range(40)]) == []  # a straight line to 2 nats
    assert begins([0.5] * 40) == []  # far out from the start, and staying
    assert begins([0.001 * 1.5**step for step in range(12)]) == []  # fast, to 0.086
    assert begins([0.001 * 1.5**step for step in range(20)]) == [15]  # (0.195 + 0.292 + 0.438) / 3 = 0.308


def test_slow_growth_of_kl_is_seen_over_longer_windows():
    # 5% a step is 1.16 times in three steps and 1.8 times in twelve; 0.01 x (1.05^69 + 1.05^70 + 1.05^71) / 3 = 0.305.
    values = list(accumulate(repeat(1.05, 79), lambda value, factor: value * factor, initial=0.01))
    assert changes(replay(lines(kl__per_token_nats=values), watch())) == [(71, "kl_accelerating", True)]


@pytest.mark.parametrize(
    ("distinct", "words", "value"),
    [
        (0.8, 10.0, 0.8),  # not under 0.75 x 0.9 = 0.675
        (0.8, 5.0, 0.6),  # 0.2 of the pairs of half as many words: about 0.4 of as many
        (0.6, 20.0, 0.8),  # twice as many words repeat more by themselves
        (0.9, 1.0, 0.6),  # at most four times as many
    ],
)
def test_distinct_pairs_are_compared_at_equal_length(distinct, words, value):
    run = lines(play__distinct_2=[0.9] * 9 + [distinct] * 3, play__words_per_turn=[10.0] * 9 + [words] * 3)
    (reading,) = read_alarms(run, watch(ignore=["length_drift"]))
    assert reading.value == pytest.approx(value)
    assert reading.is_on is (value < 0.675)


def test_distinct_pairs_are_compared_at_as_many_turns():
    # Half as many turns hold half as many words.
    run = lines(
        play__distinct_2=[0.9] * 9 + [0.8] * 3,
        play__words_per_turn=[10.0] * 12,
        reward__total__count=[32.0] * 9 + [16.0] * 3,
    )
    found = {reading.name: reading.value for reading in read_alarms(run, watch())}
    assert found["distinct_falling"] == pytest.approx(0.6)


def test_verifiable_falling_needs_a_total_that_rises():
    payoff = [0.5, 0.6, 0.5, 0.6, 0.5, 0.6, 0.5, 0.4, 0.2, 0.1, 0.0, 0.1]
    rising, still = [0.1 * step for step in range(12)], [0.5] * 12
    begun = [reading for _, reading in replay(lines(reward__payoff=payoff, reward__total=rising), watch())]
    assert [reading.name for reading in begun] == ["verifiable_falling"]
    assert begun[0].part == "payoff"
    assert replay(lines(reward__payoff=payoff, reward__total=still), watch()) == []
    renamed = lines(reward__right=payoff, reward__total=rising)
    assert [r.part for _, r in replay(renamed, watch(verifiable=["right"]))] == ["right"]


def test_watched_falling_is_about_rewards_without_weight():
    run = lines(reward__sentiment=[0.4, 0.41, 0.4, 0.4, 0.41, 0.4, 0.4, 0.28, 0.27, 0.26])
    (reading,) = read_alarms(run, watch(weights={"asks": 1.0, "sentiment": 0.0}))
    # 0.27 against 0.403: lower by more than a quarter, and than noise, 4 x sqrt(2 / 3 x 0.12^2 / 9 / 2) = 0.092.
    assert (reading.value, reading.is_on) == (pytest.approx(0.27), True)
    assert read_alarms(run, watch(weights={"asks": 1.0, "sentiment": 0.5})) == []


def test_proxy_gap_is_about_a_reward_model_that_rises_above_its_twin():
    gap = [0.1, 0.0, 0.1, 0.2, 0.1, 0.1, 0.5, 0.6, 0.7, 0.7]
    run = lines(**{"reward__rm:asks.gap": gap})
    (reading,) = read_alarms(run, watch(weights={"rm:asks": 1.0}))
    # 0.667 against 0.067; noise, 4 x sqrt(2 / 3 x 0.22 / 9 / 2) = 0.361, is more than the bound's 0.3.
    assert (reading.value, reading.reference) == (pytest.approx(2.0 / 3), pytest.approx(0.2 / 3))
    assert reading.bound == pytest.approx(0.2 / 3 + 0.361, abs=1e-3)
    assert (reading.is_on, reading.part) == (True, "rm:asks.gap")
    assert read_alarms(run, watch(weights={"rm:asks": 0.0})) == []
    assert read_alarms(lines(**{"reward__rm:asks": gap}), watch(weights={"rm:asks": 1.0})) == []


# ----- when it is said -----


def test_an_alarm_is_said_when_it_begins_and_when_it_has_gone_well_back():
    # 1.2 is the bound, and three quarters of the way there from 3 is 1.65; means of three steps:
    entropy = [3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.3, 1.6, 1.6, 1.6, 1.9, 1.0, 1.0]
    # step 4: 1.667, 5: 1.0 begins, ... 9: 1.6 is on still, 10: 1.7 ends, 11: 1.5 does not begin, 12: 1.3 neither
    found = replay(lines(entropy__per_token_nats=entropy), watch())
    assert changes(found) == [(5, "entropy_collapse", True), (10, "entropy_collapse", False)]
    assert found[0][1].text(run="a", look_at=["000005-g00-1", "000005-g00-0"]) == (
        "alarm entropy_collapse: the entropy is 1.00 nats a token, 3.00 at first (bound 1.2): the policy says the "
        "same again and again; see `show a 000005-g00-1`"
    )
    assert found[1][1].text(run="a", look_at=[]) == (
        "alarm entropy_collapse is over: the entropy is 1.70 nats a token, 3.00 at first"
    )


def test_lines_that_were_read_back_know_what_was_on():
    run = lines(entropy__per_token_nats=[3.0] * 3 + [1.0] * 4)
    (before,) = read_alarms(run[:6], watch())
    run[5] |= alarm_metrics([before])
    (reading,) = read_alarms(json.loads(json.dumps(run)), watch())
    assert (before.has_begun, reading.is_on, reading.has_begun) == (True, True, False)
    assert alarm_metrics([reading]) == {"alarm/entropy_collapse": 1.0}


def test_an_alarm_that_cannot_be_told_is_absent_and_stays_as_it_was():
    run = lines(entropy__per_token_nats=[3.0] * 3 + [1.0] * 3 + [None, math.nan, None, 1.0, 1.0, 1.0])
    assert alarm_metrics(read_alarms(run[:5], watch())) == {}
    assert alarm_metrics(read_alarms(run[:9], watch())) == {}
    assert changes(replay(run, watch())) == [(5, "entropy_collapse", True)]


def test_alarms_can_be_left_out():
    run = lines(entropy__per_token_nats=[3.0] * 3 + [1.0] * 3, kl__per_token_nats=[0.0] * 3 + [0.5] * 3)
    assert [reading.name for reading in read_alarms(run, watch(ignore=["entropy_collapse"]))] == ["kl_accelerating"]
    assert read_alarms(run, watch(watch=False)) == read_alarms([], watch()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop_on": ["one_part"], "ignore": ["one_part"]}, "both name one_part"),
        ({"stop_on": ["one_part"], "watch": False}, r"needs alarms\.watch=true"),
    ],
)
def test_stopping_on_an_alarm_that_is_never_raised_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        AlarmsGroup(**settings)


# ----- what to look at, and where it is kept -----


def scored(id, *texts, rewards=0.0, status="terminated", sentiment=0.0):
    player = PlayerInfo(policy="learner", version=0, model="m", trained=True)
    conversation = Conversation(
        id=id,
        scenario=Scenario(env="e", seed=0, split="train", roles=("host",)),
        players={"host": player},
        turns=tuple(Turn(role="host", text=text, heard_text="", player="learner@0") for text in texts),
        outcome=Outcome(status=status, reason="turn_limit" if status == "terminated" else "reward_error"),
    )
    values = np.full(len(texts), sentiment, dtype=np.float32)
    return ScoredConversation(
        conversation=conversation,
        rewards=np.full(len(texts), rewards, dtype=np.float32),
        parts={"sentiment": Scores(values=values)},
    )


STEP = [
    scored("000006-g00-0", "we talk about a thing at length", "and then some more", rewards=1.0, sentiment=0.5),
    scored("000006-g00-1", "what what what what", "what what what", rewards=2.0, sentiment=-0.5),
    scored("000006-g00-2", "why", "how", rewards=0.5, sentiment=0.1),
    scored("000006-g00-3", "a a a a a a a a a a a a", rewards=9.0, status="failed"),
]
NOTES = {"000006-g00-0": {"kl_per_token": 0.1}, "000006-g00-2": {"kl_per_token": 0.7}}


@pytest.mark.parametrize(
    ("curves", "indices"),
    [
        ({"entropy__per_token_nats": [3.0] * 3 + [1.0] * 3}, [1, 0, 2]),  # the best paid first
        ({"play__words_per_turn": [10.0] * 3 + [2.0] * 3}, [2, 1, 0]),  # the shortest turns first
        ({"play__words_per_turn": [10.0] * 3 + [30.0] * 3}, [0, 1, 2]),
        ({"play__repeated_pairs": [0.0] * 9 + [0.9] * 3}, [1, 0]),  # the third has no pair of words
        ({"kl__per_token_nats": [0.0] * 3 + [0.1] * 3 + [0.9] * 3}, [2, 0]),  # as far as the learner says
        ({"reward__sentiment": [0.5] * 9 + [0.1] * 3}, [1, 2, 0]),  # the least of the part first
    ],
)
def test_the_conversations_that_show_it_best_are_named(curves, indices):
    run = lines(**curves)
    (reading,) = [one for one in read_alarms(run, watch(weights={"sentiment": 0.0})) if one.is_on]
    assert conversations_to_read(reading, STEP, NOTES) == [f"000006-g00-{index}" for index in indices]


def test_alarms_are_kept_a_line_each(tmp_path):
    (reading,) = read_alarms(lines(entropy__per_token_nats=[3.0] * 3 + [1.0] * 3), watch())
    record = alarm_to_json(reading, step=5, at="2026-01-01T00:00:00.000Z", run="a", look_at=["000005-g00-1"])
    path = tmp_path / "alarms.jsonl"
    append_alarms(path, [])
    assert not path.exists()
    append_alarms(path, [record])
    append_alarms(path, [record])
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert first == second == record
    kept = {"schema": "selfplay.alarm/1", "step": 5, "name": "entropy_collapse", "state": "began", "value": 1.0}
    assert kept.items() <= first.items()
    assert (first["bound"], first["look_at"]) == (pytest.approx(1.2), ["000005-g00-1"])


def test_alarms_that_cannot_be_kept_say_where(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*alarms\.jsonl"):
        append_alarms(tmp_path / "none" / "there" / "alarms.jsonl", [{"schema": "selfplay.alarm/1"}])
