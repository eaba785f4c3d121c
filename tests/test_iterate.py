"""Rounds without people: what each stage leaves, what is done again and what is not, and what the table says."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock
import pytest
import yaml

from selfplay.commands import main
from selfplay.commands.building import build_env, build_rewards
from selfplay.config import resolve
from selfplay.errors import UserError
from selfplay.evaluate import Comparison, Difference
from selfplay.iterate import ITERATE_SCHEMA, Iteration, Tools
from selfplay.iterate_rounds import Round, read_result, write_result
from selfplay.iterate_settings import (
    IterateSettings,
    fit_settings,
    preset_source,
    reward_model_spec,
    seed_of,
    train_settings,
)
from selfplay.iterate_table import RoundResult, iterate_report, remarks_on, round_to_json, rows_of
from selfplay.label_by import AutoLabel, GoldLabeller
from selfplay.pair_sampling import key_of_preference
from selfplay.preferences import read_preferences
from selfplay.reward_model.folder import held_out_of, trained_on_of
from selfplay.run_reader import RunReader
from selfplay.train_settings import RewardSpec
from selfplay.training_run import Result, TrainingRun

SMALL = (
    "cluster=local",
    "conversations=4",
    "steps=2",
    "evaluation.conversations=4",
    "sampling.max_new_tokens=8",
    "by=gold:own_length",
    "rounds=1",
    "labels=24",
    "talk_conversations=24",
    "talk_group=4",
    "rm.backbone=words",
    "rm.held_out=0.2",
    "rm.ensemble=2",
    "rm.epochs=2",
    "rm.ties=true",
    "rm.learning_rate=0.001",
)
GOLD = {"own_length": RewardSpec()}
STAGES = ["talk", "label", "refit", "train", "measure"]


def settings_of(*words: str) -> IterateSettings:
    return resolve(IterateSettings, [*SMALL, *words], under=preset_source("tiny"))


@contextmanager
def unseen() -> Iterator[object]:
    yield lambda _progress: None


@dataclass
class Shop:
    """Makes tools whose training and labelling can be interrupted."""

    settings: IterateSettings
    gold: str = "own_length"
    stops_training_after: int | None = None  # updates
    stops_labelling_after: int | None = None  # blocks of pairs
    said: list[str] = field(default_factory=list)

    def tools(self) -> Tools:
        return Tools(
            env=build_env(self.settings.env),
            gold=GOLD,
            build_rewards=build_rewards,
            make_labeller=self.labeller,
            heuristics=dict,
            begin=lambda: None,
            train=self.train,
            report=lambda: None,
            say=self.said.append,
            on_label=lambda _done, _all: None,
            fitting=unseen,
        )

    def labeller(self, seed: int) -> GoldLabeller:
        gold = GoldLabeller(build_rewards({self.gold: RewardSpec()}), name=self.gold, seed=seed)
        if self.stops_labelling_after is not None:
            label, left = gold.label, self.stops_labelling_after

            def stopping(pairs: Sequence[object]) -> list[AutoLabel | None]:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return label(pairs)

            gold.label = stopping
        return gold

    def train(self, run: TrainingRun) -> Result:
        if self.stops_training_after is not None:
            after = self.stops_training_after

            class StopsThen(type(run.screen)):
                def end_step(self, step: int, metrics: object) -> None:
                    if step + 1 == after:
                        run.stop()

            run.screen = StopsThen()
        result = run.train()
        if result.is_stopped:
            raise KeyboardInterrupt
        return result

    def iteration(self, folder: Path) -> Iteration:
        return Iteration(folder=folder, settings=self.settings, tools=self.tools())


def stages_of(folder: Path) -> list[str]:
    stages = json.loads((folder / "iterate.json").read_text())["stages"]
    return [f"{stage['round']} {stage['stage']}" for stage in stages]


def both(first: int, second: int) -> list[str]:
    return [f"{number} {stage}" for number in (first, second) for stage in STAGES]


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("iterate") / "two"
    words = [*SMALL, "rounds=2", f"out={folder}", "-r", "question_marks=0"]
    assert main(["iterate", "preset=tiny", *words]) == 0
    return folder


# ----- settings -----


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["by=people"], "by=people: must be gold, gold:REWARD or judge"),
        (["by=gold:"], "by=gold:: must be gold, gold:REWARD or judge"),
        (["sampler=disagreement", "rm.ensemble=1"], "say rm.ensemble=3"),
        (["rm.seed=3"], "rm.seed: each round decides that by itself"),
        (["talk_conversations=10"], "talk_conversations=10 must be a multiple of talk_group=4"),
        (["evaluation.conversations=0"], "evaluation.conversations=0: a round could not be measured"),
        (["transcripts.tokens=none"], "use all or evaluation"),
    ],
)
def test_settings_that_cannot_go_well_are_refused(words, problem):
    with pytest.raises(UserError, match=problem):
        settings_of(*words)


def test_preset_tiny_brings_a_backbone_that_needs_no_network_and_words_win(tmp_path):
    own = resolve(IterateSettings, [], under=preset_source("tiny"))
    assert (own.model, own.rm.backbone, own.rm.method) == ("tiny:2", "tiny:1", "full")
    assert list(own.rewards) == ["question_marks"]
    assert resolve(IterateSettings, ["rm.epochs=7"], under=preset_source("tiny")).rm.method == "full"
    # chat is what `train` does by default: only the number of updates a round is another.
    assert resolve(IterateSettings, ["steps=10"], under=preset_source("chat")) == IterateSettings()


def test_rounds_and_purposes_draw_different_seeds_and_the_first_setting_decides_all():
    settings = settings_of()
    seeds = [seed_of(settings, purpose, number) for purpose in ("talk", "label", "fit", "train") for number in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    again = settings_of("rounds=7")
    assert seed_of(again, "talk", 1) == seed_of(settings, "talk", 1)
    assert fit_settings(settings, number=1).seed == seed_of(settings, "fit", 1)


def test_settings_of_a_round_are_valid_for_train(tmp_path):
    settings = settings_of()
    made = train_settings(settings, number=1, model="tiny:3", rewards=GOLD)
    assert (made.model, made.steps, list(made.rewards), made.out) == ("tiny:3", 2, ["own_length"], None)
    assert type(made).model_validate(made.model_dump()) == made


# ----- what the stages leave -----


def test_every_stage_of_two_rounds_leaves_its_result(two_rounds):
    assert stages_of(two_rounds) == both(1, 2)
    for number in range(2):
        place = Round(folder=two_rounds, number=number)
        assert all(place.has(stage) for stage in STAGES)
        assert len(read_preferences(place.talk).preferences) == 24
        assert (place.rm / "twin" / "reward_model.json").is_file()
    lines = (two_rounds / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][:4] == ["| round", "| ---", "| 1", "| 2"]


def test_the_second_round_starts_from_the_first_ones_policy_and_talks_on_other_scenarios(two_rounds):
    first, second = (Round(folder=two_rounds, number=number) for number in range(2))
    assert RunReader(second.train).manifest["model"] == f"{first.train}@2"
    assert RunReader(second.talk).manifest["model"] == f"{first.train}@2"
    talks = [list(RunReader(place.talk).conversations()) for place in (first, second)]
    scenarios = [{one.scenario.seed for one in talk} for talk in talks]
    assert [len(found) for found in scenarios] == [6, 6]
    assert not scenarios[0] & scenarios[1]
    assert not {one.id for one in talks[0]} & {one.id for one in talks[1]}


def test_the_reward_model_alone_is_trained_on_and_gold_is_measured(two_rounds):
    config = yaml.safe_load((Round(folder=two_rounds, number=1).train / "config.yaml").read_text())
    weights = {name: spec["weight"] for name, spec in config["rewards"].items()}
    assert weights == {"rm": 1.0, "own_length": 0.0, "question_marks": 0.0}
    assert config["rewards"]["rm"]["name"] == f"rm:{(two_rounds / 'rounds/2/rm').resolve()}"


def test_the_old_reward_model_is_measured_before_the_new_one_on_the_same_labels(two_rounds):
    first, second = (read_result(Round(folder=two_rounds, number=number).refit) for number in range(2))
    assert first["before"] is None
    assert second["before"]["num_pairs"] == second["after"]["num_pairs"] > 0


def test_labels_once_held_out_are_never_trained_on(two_rounds):
    first, second = (held_out_of(two_rounds / f"rounds/{number}/rm") for number in (1, 2))
    assert first == second[: len(first)]
    sizes = [read_result(two_rounds / f"rounds/{number}/refit.json") for number in (1, 2)]
    record = json.loads((two_rounds / "rounds/2/rm/reward_model.json").read_text())
    twin = json.loads((two_rounds / "rounds/2/rm/twin/reward_model.json").read_text())
    # Both halves together are the labels of both rounds, without those that are held out.
    assert record["num_train"] + twin["num_train"] == sum(size["num_train"] for size in sizes)
    assert len(second) == sum(size["num_held_out"] for size in sizes)


def test_a_rounds_reward_model_has_a_card_and_a_report_with_baselines(two_rounds, capsys):
    assert main(["reward", "report", str(two_rounds / "rounds/2/rm"), "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)
    stored = json.loads((two_rounds / "rounds/2/rm/report.json").read_text())
    # The baselines were chosen on what the rounds trained on, not on what is held out.
    assert asked["choice"] == stored["choice"]
    assert stored["choice"]["chosen_on"].endswith("training pairs")
    assert [one["name"] for one in asked["baselines"]] == [one["name"] for one in stored["baselines"]]
    card = (two_rounds / "rounds/2/rm/README.md").read_text()
    assert "labels by gold:own_length, of 2 rounds of `iterate`" in card


def test_distance_from_the_first_policy_is_the_rounds_own_in_the_first_round_alone(two_rounds):
    found = [json.loads((two_rounds / f"rounds/{number}/evaluation.json").read_text()) for number in (1, 2)]
    kls = [one["comparison"]["metrics"]["kl/per_token_nats"]["trained"] for one in found]
    # Two programs measure it: the learner its own reference, and `measure` the first policy, loaded anew.
    assert kls[0] == pytest.approx(found[0]["kl_from_start"], abs=1e-5)
    assert abs(kls[1] - found[1]["kl_from_start"]) > 1e-4


def test_gold_of_the_table_is_the_mean_reward_of_the_stored_held_out_turns(two_rounds):
    place = Round(folder=two_rounds, number=0)
    row = read_result(place.evaluation)["comparison"]["metrics"]["reward/total"]
    stored = [one for one in RunReader(place.train).all_scored() if one.conversation.scenario.split == "held_out"]
    for side, step in (("base", 0), ("trained", 2)):
        numbers = [
            value
            for one in stored
            if one.conversation.step == step
            for value in one.parts["own_length"].values.tolist()
        ]
        assert row[side] == pytest.approx(sum(numbers) / len(numbers), abs=1e-6)


# ----- going on -----


def test_what_is_done_is_not_done_again_and_more_rounds_go_on(two_rounds, capsys):
    before = {path: path.stat().st_mtime_ns for path in two_rounds.rglob("*.json*") if path.name != "config.yaml"}
    assert main(["iterate", f"resume={two_rounds}", "--json"]) == 0
    rounds = json.loads(capsys.readouterr().out)["rounds"]
    assert [one["round"] for one in rounds] == [1, 2]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_interrupted_training_run_goes_on_from_its_checkpoint(tmp_path):
    shop = Shop(settings_of("steps=3"), stops_training_after=1)
    with pytest.raises(KeyboardInterrupt):
        shop.iteration(tmp_path).run()
    place = Round(folder=tmp_path, number=0)
    assert not place.has("train")
    Shop(shop.settings).iteration(tmp_path).run()
    assert [again["version"] for again in RunReader(place.train).manifest["resumed"]] == [1]
    assert stages_of(tmp_path) == [f"1 {stage}" for stage in STAGES]


def test_interrupted_labelling_goes_on_without_asking_of_a_pair_twice(tmp_path):
    shop = Shop(settings_of(), stops_labelling_after=1)
    with pytest.raises(KeyboardInterrupt):
        shop.iteration(tmp_path).run()
    place = Round(folder=tmp_path, number=0)
    assert 0 < len(read_preferences(place.talk).preferences) < 24
    assert not place.has("label")
    Shop(shop.settings).iteration(tmp_path).run()
    labels = read_preferences(place.talk).preferences
    assert len({key_of_preference(one) for one in labels}) == len(labels) == 24
    assert read_result(place.labels)["num"] == 24


def test_a_stop_by_an_alarm_is_remembered_where_measuring_was_interrupted(tmp_path):
    @dataclass
    class Alarmed(Shop):
        """Ends training after one update as an alarm does, and is interrupted before that is measured."""

        num_calls: int = 0

        def train(self, run: TrainingRun) -> Result:
            self.num_calls += 1
            if self.num_calls == 2:
                run.writer.close("interrupted")
                raise KeyboardInterrupt

            class StopsThen(type(run.screen)):
                def end_step(self, step: int, metrics: object) -> None:
                    run.stop()

            run.screen = StopsThen()
            return run.train()

    shop = Alarmed(settings_of("steps=3"))
    with pytest.raises(KeyboardInterrupt):
        shop.iteration(tmp_path).run()
    place = Round(folder=tmp_path, number=0)
    assert not place.has("train")
    again = Shop(shop.settings)
    again.iteration(tmp_path).run()
    assert "training ended after 1 of 3 updates" in again.said
    assert read_result(place.evaluation)["version"] == 1


def test_disputed_labels_are_measured_on_uniform_ones_of_other_scenarios(tmp_path):
    shop = Shop(settings_of("rounds=2", "sampler=disagreement", "candidates=2"))
    shop.iteration(tmp_path).run()
    first, second = (Round(folder=tmp_path, number=number) for number in range(2))
    labels = read_preferences(second.talk).preferences
    scenario = {one.id: one.scenario.seed for one in RunReader(second.talk).conversations()}
    uniform = {scenario[one.left] for one in labels if one.sampler == "uniform-same-scenario"}
    disputed = {scenario[one.left] for one in labels if one.sampler.startswith("disagreement")}
    # A fifth of 24 labels, on one of six scenarios.
    assert sum(one.sampler == "uniform-same-scenario" for one in labels) == 5
    assert len(uniform) == 1
    assert not uniform & disputed
    assert len(labels) == 24
    assert read_result(second.refit)["num_held_out"] <= 5
    assert {one.sampler for one in read_preferences(first.talk).preferences} == {"uniform-same-scenario"}


def test_a_label_stays_on_its_side_of_the_twins_when_more_come(two_rounds):
    first, second = (trained_on_of(two_rounds / f"rounds/{number}/rm") for number in (1, 2))
    of_twin = [trained_on_of(two_rounds / f"rounds/{number}/rm/twin") for number in (1, 2)]
    # Round 2 adds to what both have learnt.
    assert first < second
    assert of_twin[0] < of_twin[1]
    assert not second & of_twin[1]


def test_both_reward_models_of_the_table_are_means_and_pessimism_is_trained_on_alone(tmp_path):
    assert reward_model_spec(tmp_path, weight=1.0, pessimism=0.5).model_dump()["pessimism"] == 0.5
    assert "pessimism" not in reward_model_spec(tmp_path, weight=0.0).model_dump()
    text = iterate_report([result()], settings_of("pessimism=0.5"), command="selfplay iterate")
    assert "before the pessimism of 0.5 is taken off" in text


def test_talk_that_was_interrupted_is_done_anew(tmp_path):
    settings = settings_of()
    place = Round(folder=tmp_path, number=0)
    place.talk.mkdir(parents=True)
    (place.talk / "leftover").write_text("x")
    (tmp_path / "iterate.json").write_text(json.dumps({"schema": ITERATE_SCHEMA, "stages": []}))
    Shop(settings).iteration(tmp_path).run()
    assert not (place.talk / "leftover").exists()
    assert len(RunReader(place.talk).ids()) == 24


def test_fewer_pairs_than_labels_wanted_is_said_and_good_enough(tmp_path):
    shop = Shop(settings_of("labels=1000", "talk_conversations=8"))
    shop.iteration(tmp_path).run()
    # Two scenarios of four conversations, and either role may be asked about: 2 x 6 x 2 pairs, those that read alike
    # left out.
    assert 0 < read_result(Round(folder=tmp_path, number=0).labels)["num"] <= 24
    assert any("there are no more pairs" in text for text in shop.said)


def test_two_processes_never_share_a_folder(two_rounds, capsys):
    with filelock.FileLock(two_rounds / ".lock"):
        assert main(["iterate", f"resume={two_rounds}"]) == 2
    output = capsys.readouterr()
    assert "another process works on these rounds" in output.err
    assert output.out == ""


def test_labels_that_are_all_ties_end_the_rounds_without_advice_to_go_on(tmp_path, capsys):
    words = [word for word in SMALL if not word.startswith("by=")]
    (tmp_path / "flat.py").write_text("def flat(turn):\n    return 0.0\n")
    assert main(["iterate", "preset=tiny", *words, f"by=gold:{tmp_path}/flat.py:flat", f"out={tmp_path / 'own'}"]) == 2
    output = capsys.readouterr()
    assert "labels prefers one conversation to another, so nothing can be learnt" in output.err
    assert "24 labels, 24 of them ties" in output.out
    assert "go on:" not in output.out


def test_a_stage_that_fails_is_gone_on_with_only_where_the_call_came_further(tmp_path, capsys):
    words = [word for word in SMALL if not word.startswith("by=")]
    (tmp_path / "broken.py").write_text("def broken(turn):\n    raise ValueError('no')\n")
    own = tmp_path / "own"
    assert main(["iterate", "preset=tiny", *words, f"by=gold:{tmp_path}/broken.py:broken", f"out={own}"]) == 2
    assert f"iterate resume={own}" in capsys.readouterr().out
    assert main(["iterate", f"resume={own}"]) == 2
    output = capsys.readouterr()
    assert "could score none" in output.err
    assert "go on:" not in output.out


def test_rounds_that_another_version_recorded_are_left_alone(tmp_path):
    (tmp_path / "iterate.json").write_text(json.dumps({"schema": "selfplay.iterate/1", "stages": []}))
    with pytest.raises(UserError, match="and this version goes on with"):
        Shop(settings_of()).iteration(tmp_path).run()
    assert not (tmp_path / "rounds").exists()


# ----- arms -----


@pytest.mark.slow
def test_a_frozen_reward_model_is_measured_and_never_fitted_again(tmp_path):
    settings = settings_of("rounds=2", "rm.refit=frozen")
    Shop(settings).iteration(tmp_path).run()
    first, second = (Round(folder=tmp_path, number=number) for number in range(2))
    assert not second.rm.exists()
    refit = read_result(second.refit)
    assert refit["before"] is not None
    assert refit["after"] is None
    config = yaml.safe_load((second.train / "config.yaml").read_text())
    assert config["rewards"]["rm"]["name"] == f"rm:{first.rm.resolve()}"


@pytest.mark.slow
def test_every_round_can_train_the_first_policy_anew_on_what_the_newest_says(tmp_path):
    settings = settings_of("rounds=2", "continue_from=base", "sampler=disagreement", "candidates=2")
    Shop(settings).iteration(tmp_path).run()
    second = Round(folder=tmp_path, number=1)
    assert RunReader(second.train).manifest["model"] == "tiny:2"
    assert RunReader(second.talk).manifest["model"].endswith("rounds/1/train@2")
    samplers = [read_result(Round(folder=tmp_path, number=number).labels)["sampler"] for number in range(2)]
    assert samplers == ["uniform-same-scenario", "disagreement-2x"]


def test_a_judge_labels_softly_and_is_measured(tmp_path, capsys):
    words = [word for word in SMALL if not word.startswith("by=")]
    judge = ["by=judge", "judge.model=tiny:5", "rm.twin=false", f"out={tmp_path / 'judged'}"]
    assert main(["iterate", "preset=tiny", *words, *judge]) == 0
    place = Round(folder=tmp_path / "judged", number=0)
    labels = read_preferences(place.talk).preferences
    assert {one.by for one in labels} == {"judge:tiny:5"}
    assert all(0 < one.probability_left < 1 and one.principle for one in labels)
    assert read_result(place.labels)["judge"]["num"] == len(labels)
    said = capsys.readouterr().out
    assert "looks like the model of the policy" in said
    assert "  length: " in said
    assert f"the judge, round 1: {len(labels)} pairs judged; position: over both orders" in said
    assert "- the judge, round 1: " in (tmp_path / "judged" / "table.md").read_text()
    assert read_result(place.evaluation)["has_gold"] is False


# ----- the command -----


def test_dry_run_prints_settings_that_give_the_same_again(tmp_path, capsys):
    assert main(["iterate", "preset=tiny", "rm=frozen", "by=gold:question", "-r", "copying=0.5", "--dry-run"]) == 0
    file = tmp_path / "own.yaml"
    file.write_text(capsys.readouterr().out)
    settings = resolve(IterateSettings, [f"config={file}"])
    assert (settings.rm.refit, settings.also["copying"].weight, settings.rm.backbone) == ("frozen", 0.5, "tiny:1")
    assert main(["iterate", f"config={file}", "--dry-run"]) == 0
    assert capsys.readouterr().out == file.read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["resume=nowhere"], "resume=nowhere: there are no rounds in this folder"),
        (["by=gold:questoin"], "by=gold:questoin: there is no reward 'questoin'; did you mean question? (`"),
        (["-r", "qxzzy=1"], "-r qxzzy: there is no reward 'qxzzy' (`"),
        (["-r", "rm:nowhere=1"], "-r rm:nowhere: there is no reward model 'nowhere'"),
        (["by=gold:mix:vhlr"], "by=gold:mix:vhlr: there is no mix 'vhlr'"),
        (["rewards.qestion=1"], "there is no reward 'qestion'; did you mean question?"),
        (["by=judge", "judge.model=no-such"], "judge.model=no-such"),
        (["preset=tinny"], "did you mean tiny"),
        (["rm=new"], "rm.refit"),
        (["rm.backbone=minilmm"], "rm.backbone=minilmm"),
        (["rewards.rm.name=question"], "the round's own reward model is recorded under that name"),
    ],
)
def test_wrong_words_are_said_before_anything_is_made(tmp_path, monkeypatch, capsys, words, problem):
    monkeypatch.chdir(tmp_path)
    assert main(["iterate", *words]) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rounds_that_go_on_keep_what_they_compute(two_rounds, capsys):
    assert main(["iterate", f"resume={two_rounds}", "labels=7"]) == 2
    assert "labels: rounds that go on keep what they compute" in capsys.readouterr().err
    assert main(["iterate", "preset=tiny", f"out={two_rounds}"]) == 2
    assert f"go on with resume={two_rounds}" in capsys.readouterr().err


# ----- the table -----


def result(*rows: Difference, **changes: object) -> RoundResult:
    share = {"value": 0.75, "low": 0.6, "high": 0.9, "num_pairs": 40}
    plain = RoundResult(
        number=1,
        labels={"num": 200, "num_ties": 0},
        refit={"before": None, "after": share},
        comparison=Comparison(rows=rows, num_scenarios=9, num_dropped=0),
        kl_from_start=0.0312,
        has_gold=True,
        seconds=90.0,
    )
    return replace(plain, **changes)


def row(name: str, base: float, trained: float) -> Difference:
    half = 0.1
    change = trained - base
    return Difference(name=name, base=base, trained=trained, difference=change, low=change - half, high=change + half)


def test_table_shows_both_sides_of_the_training_and_the_gap_between_the_twins():
    rows = [row("reward/rm", 0.1, 0.9), row("reward/twin", 0.2, 0.5), row("reward/total", 0.5, 0.75)]
    [cells] = rows_of([result(*rows, row("kl/per_token_nats", 0.0, 0.05))])
    assert cells == [
        *("1", "200", "-", "0.75 (0.60 to 0.90), 40"),
        *("0.10 → 0.90", "0.20 → 0.50", "-0.10 → 0.40", "0.500 → 0.750 (+0.150 to +0.350)"),
        *("0.031", "0.050", "-", "-", "1.5"),
    ]


def doubtful(value: float, low: float, high: float, num: int) -> dict[str, object]:
    return {"before": None, "after": {"value": value, "low": low, "high": high, "num_pairs": num}}


def test_a_reward_model_that_a_coin_may_equal_is_marked_and_said():
    results = [
        result(refit=doubtful(0.6, 0.49, 0.7, 90)),
        result(number=2, refit=doubtful(0.9, 0.7, 0.99, 19)),
        result(number=3, refit=doubtful(0.6, 0.51, 0.7, 200)),
    ]
    assert [cells[3][-3:] for cells in rows_of(results)] == ["(?)", "(?)", "200"]
    assert remarks_on(results) == [
        "(?) round 1: the reward model may know nothing: right on 0.60 (0.49 to 0.70), 90 held-out labels, "
        "and a coin would be on 0.50",
        "(?) round 2: the reward model may know nothing: only 19 held-out labels are no tie, and it takes 20 to tell",
    ]
    text = iterate_report(results, settings_of(), command="selfplay iterate")
    assert all(f"- {remark}" in text for remark in remarks_on(results))
    assert [round_to_json(one)["doubt"] is None for one in results] == [False, False, True]


def test_a_frozen_reward_model_is_doubted_by_what_it_knows_of_the_newest_labels():
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "num_pairs": 40}
    [cells] = rows_of([result(number=2, refit={"before": share, "after": None})])
    assert cells[2:4] == ["0.50 (0.40 to 0.60), 40 (?)", "-"]


def test_ties_are_counted_in_the_column_of_labels():
    rows = rows_of([result(labels={"num": 800, "num_ties": ties}) for ties in (312, 1)])
    assert [cells[1] for cells in rows] == ["800 (312 ties)", "800 (1 tie)"]


def test_labels_that_are_mostly_ties_are_said_with_what_may_help(tmp_path):
    # A random model of bytes writes no question mark in eight tokens but by a rare chance.
    shop = Shop(settings_of(), gold="question_marks")
    with suppress(UserError):
        shop.iteration(tmp_path).run()
    labels = read_result(Round(folder=tmp_path, number=0).labels)
    assert labels["num_ties"] > 12
    assert f"  24 labels, {labels['num_ties']} of them ties" in shop.said
    assert any("another gold, or a larger talk_group" in text for text in shop.said)


def test_table_says_nothing_where_nothing_was_measured():
    [cells] = rows_of([result(kl_from_start=math.nan, has_gold=False)])
    assert cells[4:] == ["-", "-", "-", "-", "-", "-", "-", "-", "1.5"]
    record = round_to_json(result(kl_from_start=math.nan, has_gold=False))
    assert (record["gold"], record["proxy"], record["kl_from_start"]) == (None, None, None)
    json.dumps(record, allow_nan=False)


def test_report_names_the_gold_and_the_other_rewards():
    settings = settings_of("also.question=0", "by=gold")
    text = iterate_report([result(row("reward/question", 0.0, 0.5))], settings, command="selfplay iterate")
    assert "gold: 1 question_marks, a turn" in text
    assert "| 1 | 0.000 → 0.500 (+0.400 to +0.600) |" in text


def test_a_damaged_result_names_its_file(tmp_path):
    file = tmp_path / "refit.json"
    write_result(file, {"before": None})
    assert read_result(file)["before"] is None
    file.write_text(file.read_text()[:10])
    with pytest.raises(UserError, match=f"{file} cannot be read"):
        read_result(file)


@pytest.mark.slow
def test_preset_tiny_closes_the_loop_in_two_minutes_and_gold_rises(tmp_path, capsys):
    started = time.process_time()  # of this process alone: everything happens in it, on one thread
    assert main(["iterate", "preset=tiny", "rounds=2", f"out={tmp_path / 'own'}", "--json"]) == 0
    assert time.process_time() - started < 120
    rounds = json.loads(capsys.readouterr().out)["rounds"]
    assert rounds[-1]["gold"]["low"] > 0
    assert rounds[-1]["gold"]["trained"] > rounds[0]["gold"]["base"]
