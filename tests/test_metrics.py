import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.errors import UserError
from selfplay.metrics import Loggers, open_loggers, step_metrics
from selfplay.score import WeightedReward
from selfplay.train_settings import LogGroup

NAN = float("nan")


def turn(role, text, *, num_said=2, finish="stop"):
    return Turn(role=role, text=text, heard_text="", player="", said=np.arange(num_said, dtype=np.int32), finish=finish)


def scored(turns, rewards, *, trained=("host", "guest"), status="terminated", reason="turn_limit", **parts):
    conversation = Conversation(
        id="000000-g00-0",
        scenario=Scenario(env="e", seed=0, split="train", roles=("host", "guest")),
        players={r: PlayerInfo(policy="learner", model="m", trained=r in trained) for r in ("host", "guest")},
        turns=tuple(turns),
        outcome=Outcome(status=status, reason=reason),
    )
    scores = {name: Scores(values=np.array(values, dtype=np.float32)) for name, values in parts.items()}
    return ScoredConversation(
        conversation=conversation, rewards=np.array(rewards, dtype=np.float32)[: len(turns)], parts=scores
    )


def measure(*played, **more):
    return step_metrics(played, **{"play_seconds": 2.0, "learn_seconds": 4.0, **more})


def test_rewards_are_means_over_turns_with_their_counts():
    first = scored([turn("host", "a"), turn("guest", "b")], [1, 2], asks=[1, NAN])
    second = scored([turn("host", "c")], [6], asks=[0])
    metrics = measure(first, second)
    assert metrics["reward/total"] == 3.0  # (1 + 2 + 6) / 3
    assert (metrics["reward/total/host"], metrics["reward/total/guest"]) == (3.5, 2.0)
    assert (metrics["reward/asks"], metrics["reward/asks/count"]) == (0.5, 2.0)  # NaN does not apply
    assert metrics["reward/per_conversation"] == 4.5  # (3 + 6) / 2


def test_reward_that_applies_nowhere_is_nan_with_count_zero():
    metrics = measure(scored([turn("host", "a")], [0], asks=[NAN]))
    assert math.isnan(metrics["reward/asks"])
    assert metrics["reward/asks/count"] == 0.0


def test_turns_of_untrained_players_are_not_in_the_means():
    metrics = measure(scored([turn("host", "a?"), turn("guest", "b")], [1, 5], trained=["host"], asks=[1, 0]))
    assert (metrics["reward/total"], metrics["reward/asks"], metrics["play/question_rate"]) == (1.0, 1.0, 1.0)
    assert "reward/total/host" not in metrics  # one role: the mean says it


def test_failed_conversations_are_counted_and_in_no_mean():
    good = scored([turn("host", "a")], [1])
    failed = scored([turn("host", "b")], [9], status="failed", reason="reward_error")
    metrics = measure(good, failed)
    assert (metrics["play/conversations"], metrics["play/failed"], metrics["reward/total"]) == (2.0, 1.0, 1.0)
    assert metrics["play/tokens_per_second"] == 2.0  # 4 tokens in 2 s: its tokens took their time


def test_texts_are_measured_on_trained_turns():
    turns = [turn("host", "The cat saw the cat."), turn("guest", "the cat?", finish="length"), turn("host", "What?")]
    metrics = measure(scored(turns, [0, 0, 0], status="truncated", reason="context_full"))
    # the-cat, cat-saw, saw-the, the-cat; the-cat: three different ones of five
    assert metrics["play/distinct_2"] == pytest.approx(0.6)
    thirds = ("play/cut_share", "play/only_question_share", "play/question_rate", "play/words_per_turn")
    assert [round(3 * metrics[name]) for name in thirds] == [1, 1, 2, 8]
    assert metrics["play/truncated"] == 1.0


def test_repetition_within_and_across_turns_is_a_share():
    turns = [turn("host", "so it is so it is"), turn("guest", "Yes."), turn("host", "Yes."), turn("guest", "yes")]
    metrics = measure(scored(turns, [0, 0, 0, 0]))
    # so-it and it-is come twice among so-it, it-is, is-so, so-it, it-is; of four turns "Yes." alone is said again.
    assert (metrics["play/repeated_pairs"], metrics["play/repeat_rate"]) == (pytest.approx(0.4), 0.25)


class Part:
    range = (0.0, 2.0)

    def __init__(self, name):
        self.name = name


def test_parts_share_the_variance_of_what_they_add_up_to():
    first = scored([turn("host", "a"), turn("guest", "b")], [1, 0], asks=[1, 0], long=[NAN, 0], gate=[1, 1])
    second = scored([turn("host", "c")], [5], asks=[9], long=[3], gate=[1])
    weights = {"asks": 2.0, "long": 0.5, "seen": 0.0}
    rewards = [WeightedReward(reward=Part(name), weight=weight) for name, weight in weights.items()]
    gate = WeightedReward(reward=Part("gate"), is_gate=True)
    metrics = measure(first, second, rewards=[*rewards, gate])
    # asks counts 2 x 1 and 2 x 2 (its range ends at 2), long 0 and 0.5 x 2: they add up to 2 and 5.  From their means
    # they are -1, 1 and -0.5, 0.5 away, together -1.5, 1.5: shares 1.5 / 2.25 and 0.75 / 2.25.
    shares = {name: value for name, value in metrics.items() if name.endswith("variance_share")}
    assert shares == {
        "reward/asks/variance_share": pytest.approx(2 / 3),
        "reward/long/variance_share": pytest.approx(1 / 3),
    }
    assert metrics["reward/per_conversation/deviation"] == 2.0  # 1 and 5


def test_one_part_that_counts_has_no_share_and_equal_conversations_have_no_variance():
    same = [scored([turn("host", "a")], [1], asks=[1], long=[1])] * 2
    asks, long = WeightedReward(reward=Part("asks")), WeightedReward(reward=Part("long"))
    assert "reward/asks/variance_share" not in measure(*same, rewards=[asks])
    assert math.isnan(measure(*same, rewards=[asks, long])["reward/asks/variance_share"])


def test_update_metrics_are_passed_on_and_give_the_learning_rate_in_tokens():
    metrics = measure(scored([turn("host", "a")], [1]), update={"learn/tokens": 100.0, "kl/per_token_nats": 0.01})
    assert (metrics["kl/per_token_nats"], metrics["learn/tokens_per_second"]) == (0.01, 25.0)


def test_step_of_nothing_has_no_means():
    metrics = step_metrics([], play_seconds=0.0, learn_seconds=0.0, stale_dropped=3)
    assert math.isnan(metrics["reward/total"])
    assert math.isnan(metrics["play/tokens_per_second"])
    assert metrics["play/stale_dropped"] == 3.0


class FakeWandb(types.ModuleType):
    """The few names of wandb that are used; remembers what it was told."""

    def __init__(self):
        super().__init__("wandb")
        self.heard = []

    def init(self, **given):
        self.heard.append([given["project"], given["config"], given["id"]])
        self.id = given["id"] or "abc"
        return self

    def define_metric(self, *words, **more):
        pass

    def log(self, metrics):
        self.heard.append(metrics)

    def finish(self):
        self.heard.append("finish")


class Recorder:
    def __init__(self, *, fails=False):
        self.seen, self.closed, self.fails = [], 0, fails

    def log(self, step, metrics):
        if self.fails:
            raise OSError("no\nroute")
        self.seen.append((step, dict(metrics)))

    def close(self):
        self.closed += 1


def test_logger_that_fails_is_reported_once_and_left_out():
    said, good, bad = [], Recorder(), Recorder(fails=True)
    loggers = Loggers([bad, good], say=said.append)
    loggers.log(0, {"a": 1.0})
    loggers.log(1, {"a": 2.0})
    assert said == ["Recorder failed and gets no more metrics; the run goes on: OSError: no route"]
    assert good.seen == [(0, {"a": 1.0}), (1, {"a": 2.0})]
    assert bad.closed == 1


def test_loggers_get_finite_numbers_only():
    recorder = Recorder()
    Loggers([recorder], say=print).log(0, {"a": NAN, "b": math.inf, "c": np.float32(1)})
    assert recorder.seen == [(0, {"c": 1.0})]


def test_loggers_are_closed_once():
    recorder = Recorder()
    loggers = Loggers([recorder], say=print)
    loggers.close()
    loggers.close()
    assert recorder.closed == 1


def test_no_logger_is_opened_unless_asked(tmp_path):
    assert open_loggers(LogGroup(), tmp_path, {}) == []
    assert list(tmp_path.iterdir()) == []


def curve(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_curve_of_a_resumed_run_holds_every_step_once(tmp_path):
    settings = LogGroup(tensorboard=True)
    for first, steps in ((0, (0, 1, 2)), (2, (2, 3))):
        [logger] = open_loggers(settings, tmp_path, {}, first_step=first)
        for step in steps:
            logger.log(step, {"reward/total": 10.0 * first + step})
        logger.close()
    assert curve(tmp_path / "tensorboard", "reward/total") == [(0, 0.0), (1, 1.0), (2, 22.0), (3, 23.0)]


def test_logger_whose_package_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"log.wandb=talk: the package wandb is not installed; pip install wandb"):
        open_loggers(LogGroup(wandb="talk"), tmp_path, {})


def test_logger_that_cannot_start_stops_the_run(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"log.tensorboard=true: cannot start: "):
        open_loggers(LogGroup(tensorboard=True), tmp_path, {})


def test_wandb_run_goes_on_under_its_id(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for step in (0, 1):
        [logger] = open_loggers(LogGroup(wandb="talk"), tmp_path, {"seed": 3}, first_step=step)
        logger.log(step, {"reward/total": 0.5})
        logger.close()
    first, second = {"step": 0, "reward/total": 0.5}, {"step": 1, "reward/total": 0.5}
    started, resumed = ["talk", {"seed": 3}, None], ["talk", {"seed": 3}, "abc"]
    assert wandb.heard == [started, first, "finish", resumed, second, "finish"]


def paid(payoff, *, trained=("host", "guest"), success=True, **outcome):
    played = scored([turn("host", "a"), turn("guest", "b")], [0, 0], trained=trained)
    ended = Outcome(status="terminated", reason="agreement", facts={"success": success}, payoff={**payoff}, **outcome)
    return replace(played, conversation=replace(played.conversation, outcome=ended))


def test_games_are_measured_where_they_are_paid():
    first = paid({"host": 1.0, "guest": 0.0})
    second = paid({"host": 0.0, "guest": 0.5}, success=False, protocol_ok=False)
    cut = scored([turn("host", "a")], [0], status="truncated", reason="context_full")
    found = {name: value for name, value in measure(first, second, cut).items() if name.startswith("game/")}
    assert found == {
        "game/payoff": 0.375,  # (0.5 + 0.25) / 2
        "game/payoff/host": 0.5,
        "game/payoff/guest": 0.25,
        "game/success": 0.5,
        "game/protocol_ok": 0.5,
        "game/fault": 0.0,  # the form was broken, and nobody is named
        "game/turns": 2.0,
        "game/count": 2.0,
    }


def test_games_against_a_frozen_partner_count_what_the_trained_role_got():
    plays = [paid({"host": 1.0, "guest": 0.25}, trained=["host"]), paid({"host": 0.5, "guest": 0.0}, trained=["guest"])]
    found = measure(*plays)
    assert (found["game/payoff"], found["game/opponent_payoff"]) == (0.5, 0.375)  # (1 + 0) / 2, (0.25 + 0.5) / 2


def test_without_a_payoff_there_is_no_metric_of_games():
    assert not [name for name in measure(scored([turn("host", "a")], [0])) if name.startswith("game/")]
