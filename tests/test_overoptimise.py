"""`study overoptimise`: the estimator, the numbers of the table, and the whole of it on a tiny model."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import pytest

from selfplay.best_of_pool import best_of_curves, chances_of_being_best, order_accuracy
from selfplay.commands import main
from selfplay.commands.building import build_env, build_rewards
from selfplay.commands.study_overoptimise import _settings as settings_from
from selfplay.errors import UserError
from selfplay.overoptimise import (
    BestOfResult,
    Point,
    Tools,
    TrainingResult,
    read_results,
    run_cell,
    run_cells,
)
from selfplay.overoptimise_settings import Cell, Plan
from selfplay.overoptimise_table import best_of_steps, overoptimise_report, training_steps

TINY = (
    "model=tiny:2",
    "env.max_turns=2",
    "env.default_brief={topic}",
    "env.opener=",
    "sampling.max_new_tokens=8",
    *(f"gold.{name}=0" for name in ("question", "sentiment", "ngram_loops")),
    *(f"gold.{name}=0" for name in ("conversation_repetition", "utterance_repetition")),
    "gold.question_marks=1",
    "few=8",
    "many=24",
    "label_scenarios=12",
    "label_conversations=4",
    "scenarios=5",
    "candidates=6",
    "points=1,2",
    "rm.backbone=words",
    "rm.ensemble=2",
    "rm.epochs=3",
    "engine.threads=1",
    "engine.device=cpu",
    "train.conversations=4",
    "train.max_failed_share=0.9",
    "train.evaluation.conversations=8",
)


def plan_of(folder: Path, *words: str) -> Plan:
    return Plan(settings=settings_from([*TINY, f"out={folder}", *words]))


def tools_of(plan: Plan) -> Tools:
    return Tools(env=build_env(plan.settings.env), build_rewards=build_rewards, say=lambda _: None)


# ----- the estimator -----


def test_chances_are_those_of_all_subsets():
    # Subsets of two of 1, 2, 3: their best are 2, 3 and 3.
    assert chances_of_being_best([2.0, 1.0, 3.0], 2).tolist() == pytest.approx([1 / 3, 0.0, 2 / 3])
    # Of 1, 1, 2 the best is 2 in two of three; in the third both ones are.
    assert chances_of_being_best([1.0, 2.0, 1.0], 2).tolist() == pytest.approx([1 / 6, 2 / 3, 1 / 6])


def test_curve_is_the_mean_over_every_subset():
    generator = np.random.default_rng(5)
    proxy, gold = generator.normal(size=(2, 7))
    for n in (1, 3, 7):
        best = [max(chosen, key=lambda i: proxy[i]) for chosen in itertools.combinations(range(7), n)]
        assert best_of_curves([proxy], [gold], [n])[0, 0] == pytest.approx(np.mean([gold[i] for i in best]))


def test_best_of_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="the best of 1 to 2 values"):
        chances_of_being_best([1.0, 2.0], 3)


def test_order_accuracy_counts_pairs_and_halves():
    # Gold orders three pairs: the proxy has one right, one wrong, and cannot tell the third.
    assert order_accuracy([1.0, 1.0, 0.0], [0.0, 1.0, 0.5]) == pytest.approx((0.5 + 0.0 + 1.0) / 3)
    assert math.isnan(order_accuracy([1.0, 2.0], [3.0, 3.0]))


# ----- the table -----


def result_of(arm: str, proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]], seed: int = 0):
    return BestOfResult(
        cell=Cell(arm=arm, seed=seed),
        seconds=60.0,
        num_labels=50,
        gold=[list(one) for one in gold],
        proxy=[list(one) for one in proxy],
    )


def test_best_of_gains_are_in_deviations_and_begin_at_nothing():
    # Both scenarios hold -1 and 1, so the deviation is 1, the mean 0 and the best of two 1; gold is the opposite.
    found = best_of_steps([result_of("few", [[-1, 1], [1, -1]], [[2, -2], [-2, 2]])])
    assert [(step.place, step.proxy.value, step.gold.value) for step in found.steps] == [(1, 0.0, 0.0), (2, 1.0, -1.0)]
    assert found.steps[1].kl == pytest.approx(math.log(2) - 0.5)
    assert (found.steps[1].gap.value, found.fall.value, found.fall.is_clear) == (2.0, -1.0, True)


def test_choosing_by_gold_is_the_best_that_can_be_done():
    generator = np.random.default_rng(0)
    gold, proxy = generator.normal(size=(2, 6, 8))
    one = result_of("few", proxy, gold)
    by_proxy, by_gold = (best_of_steps([one], by_gold=flag) for flag in (False, True))
    assert all(a.gold.value <= b.gold.value + 1e-9 for a, b in zip(by_proxy.steps, by_gold.steps, strict=True))


def test_fall_is_measured_where_its_peak_was_not_picked():
    # Gold is noise alone: a peak that is picked and measured on the same scenarios would show a fall.
    generator = np.random.default_rng(1)
    falls = []
    for _ in range(30):
        noise, proxy = generator.normal(size=(2, 16, 6))
        falls.append(best_of_steps([result_of("few", proxy, noise)]).fall.value)
    assert abs(np.mean(falls)) < 3 * np.std(falls) / math.sqrt(len(falls))


def point(version: int, gold: Sequence[float], proxy: Sequence[float], ids=("a", "b")) -> Point:
    return Point(
        version=version,
        ids=list(ids),
        gold=list(gold),
        proxy=list(proxy),
        kl=[2.0 * version] * len(ids),
        tokens=[10] * len(ids),
    )


def test_training_gains_are_over_the_same_scenarios_before_training():
    points = [point(0, [0, 2], [5, 5]), point(4, [9, 3, 5], [9, 7, 7], ids=("c", "a", "b"))]
    cell = Cell(arm="few", seed=0, is_training=True)
    best = [result_of("few", [[-2, 2], [-2, 2]], [[0, 2], [0, 2]])]  # deviations 2 and 1
    found = training_steps([TrainingResult(cell=cell, seconds=1.0, points=points)], best)
    last = found.steps[-1]
    # Gold: 3 - 0 and 5 - 2 over 1; proxy: 7 - 5 over 2; 8 nats a conversation of 10 tokens.
    assert (last.gold.value, last.proxy.value, last.kl, last.kl_token) == (3.0, 1.0, 8.0, 0.8)


def test_report_says_what_fell_and_how_sure_that_is():
    best = [result_of("few", [[-1, 1], [1, -1]], [[2, -2], [-2, 2]])]
    text = overoptimise_report(best, [], command="study overoptimise", notes=["gold is gold"])
    assert "orders two conversations of a held-out scenario as gold does in 0.0% of pairs" in text
    assert "| 2 | 0.19 | +1.00 (+1.00 to +1.00) | -1.00 (-1.00 to -1.00) | +1.00 (+1.00 to +1.00) |" in text
    assert "never above that of the policy before training" in text


# ----- cells -----


def test_cells_that_finished_are_skipped_and_a_failed_one_holds_nobody_up(tmp_path):
    plan, done = plan_of(tmp_path, "seeds=3"), []

    def launch(name: str, log: Path, run: Path) -> int:
        done.append(name)
        if name == "few-3" and done.count(name) == 1:
            return 2
        plan.cell_file(plan.cell(name)).parent.mkdir(exist_ok=True)
        plan.cell_file(plan.cell(name)).write_text("{}")
        return 0

    problems = run_cells(plan, launch=launch, say=lambda _: None, report=lambda: None)
    assert [problem.partition(" ")[0] for problem in problems] == ["few-3"]
    assert run_cells(plan, launch=launch, say=lambda _: None, report=lambda: None) == []
    assert done == ["few-3", "many-3", "train_few-3", "train_many-3", "few-3"]


def test_interrupted_cell_interrupts_the_study(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_cells(plan_of(tmp_path), launch=lambda *_: 130, say=lambda _: None, report=lambda: None)


def test_folder_of_other_settings_is_refused(tmp_path):
    run_cells(plan_of(tmp_path), launch=lambda *_: 2, say=lambda _: None, report=lambda: None)
    (tmp_path / "runs" / "pool-0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"it was begun with many=24, not 23"):
        run_cells(plan_of(tmp_path, "many=23"), launch=lambda *_: 2, say=lambda _: None, report=lambda: None)
    # Further seeds belong to the same study.
    run_cells(plan_of(tmp_path, "seeds=0,1"), launch=lambda *_: 2, say=lambda _: None, report=lambda: None)


def test_folder_that_another_process_works_in_is_refused(tmp_path):
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process works on this study"):
        run_cells(plan_of(tmp_path), launch=lambda *_: 0, say=lambda _: None, report=lambda: None)


@pytest.mark.slow
def test_whole_study_of_a_tiny_model(tmp_path):
    plan = plan_of(tmp_path)

    def launch(name: str, log: Path, run: Path) -> int:
        run_cell(plan, plan.cell(name), tools_of(plan))
        return 0

    assert run_cells(plan, launch=launch, say=lambda _: None, report=lambda: None) == []
    best, trained = read_results(plan)
    assert [(one.cell.name, one.num_labels) for one in best] == [("few-0", 8), ("many-0", 24)]
    # Both arms chose from one pool, and gold knows nothing of arms.
    assert best[0].gold == best[1].gold
    assert best[0].proxy != best[1].proxy
    assert [[point.version for point in one.points] for one in trained] == [[0, 1, 2], [0, 1, 2]]
    assert all(abs(kl) < 1e-3 for one in trained for kl in one.points[0].kl)
    text = overoptimise_report(best, trained, command="x", notes=[])
    assert "## Best-of-N" in text
    assert "## Training" in text
    # Once more: a cell that lost its result makes it again from what was played and trained.
    cell = plan.cell("train_few-0")
    before = json.loads(plan.cell_file(cell).read_text())
    plan.cell_file(cell).unlink()
    run_cell(plan, cell, tools_of(plan))
    assert json.loads(plan.cell_file(cell).read_text())["points"] == before["points"]


# ----- as it is typed -----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["few=2000"], "few=2000 must be less than many=1600"),
        (["points=4,2"], "points=4,2: must rise"),
        (["seeds=1,1"], "seeds=1,1: must be different numbers"),
        (["cell=x-0"], "there is no such cell"),
        (["gold.qestion=1"], "qestion"),
        (["train.stepss=3"], "stepss: unknown key"),
        (["rm.epoch=3"], "rm.epoch"),
        (["-r", "question=1"], "gold.NAME=WEIGHT"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(words, message, capsys):
    assert main(["study", "overoptimise", *words]) == 2
    assert message in capsys.readouterr().err


def test_dry_run_prints_settings_that_can_be_fed_back(capsys, tmp_path):
    assert main(["study", "overoptimise", "points=[]", "train.learner.clip=0.1", "--dry-run"]) == 0
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    settings = settings_from([f"config={tmp_path / 'again.yaml'}"])
    assert (settings.points, settings.train) == ((), ("learner.clip=0.1",))


def test_policy_trains_against_the_reward_model_and_gold_is_only_measured(tmp_path):
    plan = plan_of(tmp_path)
    settings = plan.train_settings(Cell(arm="few", seed=4, is_training=True), steps=7)
    weights = {name: spec.weight for name, spec in settings.rewards.items()}
    assert weights == {"rm:few-4": 1.0, "question_marks": 0.0}
    assert (settings.seed, settings.steps, settings.model) == (4, 7, "tiny:2")
    assert settings.kl.controller == "fixed"
