"""Studies: what is trained, skipped, continued and refused, with a stand-in for the training process."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock
import pytest

from selfplay import checkpoint
from selfplay.errors import UserError
from selfplay.evaluate import Comparison, Difference, comparison_to_json
from selfplay.plots import draw_study
from selfplay.study import Cell, CellResult, Plan, read_curves, run_study
from selfplay.study_arms import STUDIES
from selfplay.study_table import study_report


def comparison(base: float, trained: float) -> Comparison:
    row = Difference(
        name="play/question_rate", base=base, trained=trained, difference=trained - base, low=math.nan, high=math.nan
    )
    return Comparison(rows=(row,), num_scenarios=2, num_dropped=0)


def metrics_line(values: dict[str, float | None]) -> str:
    return json.dumps({"schema": "selfplay.metrics/1", "at": "2026-01-01T00:00:00Z", **values}) + "\n"


@dataclass
class Trains:
    """Stands in for the process: writes what `train` writes; ends as told, else well."""

    endings: list[str] = field(
        default_factory=list
    )  # of its first calls: "fails", "dies", "interrupted", "unevaluated"
    asked: list[list[str]] = field(default_factory=list)

    def __call__(self, words: Sequence[str], log: Path, run: Path) -> int:
        self.asked.append(list(words))
        run.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        ending = self.endings.pop(0) if self.endings else ""
        if ending == "fails":
            log.write_text("begun\nerror: the gradient is not finite\n\n")
            return 2
        if ending == "dies":
            return -9
        steps = 1 if ending == "interrupted" else 2
        lines = [{"step": step, "reward/total": 0.5 * step, "kl/per_token_nats": None} for step in range(steps)]
        (run / "metrics.jsonl").write_text("".join(metrics_line(line) for line in lines) + '{"step": 2, "rew')
        checkpoint.write(run, steps, lambda folder: (folder / "model").write_text("m") and None, info={}, keep=1)
        if ending == "interrupted":
            return 130
        if ending != "unevaluated":
            (run / "evaluation.json").write_text(json.dumps(comparison_to_json(comparison(0.1, 0.9))))
        return 0


def plan_of(folder: Path, *words: str, arms: Sequence[str] = ("no_kl",), seeds: Sequence[int] = (0,)) -> Plan:
    words = ("model=tiny", "steps=2", *words)
    return Plan(study=STUDIES["kl"], folder=folder, arms=tuple(arms), seeds=tuple(seeds), words=words)


def study(plan: Plan, launch: Trains) -> tuple[list[str], list[int]]:
    """Run it; return the problems, and how many results each report was given."""
    reported: list[int] = []
    problems = run_study(plan, launch=launch, say=lambda _: None, report=lambda results: reported.append(len(results)))
    return problems, reported


def test_every_arm_of_every_study_has_valid_settings():
    for chosen in STUDIES.values():
        plan = Plan(study=chosen, folder=Path("x"), arms=tuple(chosen.arms), seeds=(0, 1))
        settings = {cell: plan.settings_of(cell) for cell in plan.cells()}
        assert [cell.seed for cell in settings] == [one.seed for one in settings.values()]


def test_arms_of_kl_differ_in_kl_and_rewards_only():
    plan = Plan(study=STUDIES["kl"], folder=Path("x"), arms=tuple(STUDIES["kl"].arms), seeds=(0,))
    found = [plan.settings_of(cell).model_dump(exclude={"kl", "rewards"}) for cell in plan.cells()]
    assert all(one == found[0] for one in found)
    kl = {cell.arm: plan.settings_of(cell).kl for cell in plan.cells()}
    assert [(kl[arm].controller, kl[arm].coefficient) for arm in ("fixed_0.1", "fixed_1")] == [
        ("fixed", 0.1),
        ("fixed", 1),
    ]
    assert [kl[arm].controller for arm in ("no_kl", "adaptive", "question_no_kl")] == ["off", "adaptive", "off"]


def test_cells_are_trained_seed_by_seed_and_each_is_reported(tmp_path):
    trains = Trains()
    problems, reported = study(plan_of(tmp_path, arms=("no_kl", "adaptive"), seeds=(3, 4)), trains)
    assert (problems, reported) == ([], [1, 2, 3, 4])
    names = [words[-1].rpartition("/")[2] for words in trains.asked]
    assert names == ["no_kl-3", "adaptive-3", "no_kl-4", "adaptive-4"]
    assert {"kl.controller=off", "seed=3", "model=tiny", "cluster=local"} <= set(trains.asked[0])


def test_finished_cells_are_skipped(tmp_path):
    study(plan_of(tmp_path), Trains())
    again = Trains()
    study(plan_of(tmp_path, seeds=(0, 1)), again)
    assert [words[-1].rpartition("/")[2] for words in again.asked] == ["no_kl-1"]


def test_result_holds_the_curve_the_evaluation_and_the_seconds(tmp_path):
    plan = plan_of(tmp_path)
    study(plan, Trains())
    [result] = plan.results()
    assert result.curves == {"step": [0, 1], "reward/total": [0.0, 0.5], "kl/per_token_nats": [None, None]}
    assert result.comparison.row("play/question_rate").trained == 0.9
    assert 0 <= result.seconds < 5


def test_interrupted_cell_goes_on_from_its_checkpoint(tmp_path):
    trains = Trains(endings=["interrupted"])
    with pytest.raises(KeyboardInterrupt):
        study(plan_of(tmp_path), trains)
    assert plan_of(tmp_path).results() == []
    study(plan_of(tmp_path), trains)
    assert trains.asked[1] == [f"resume={tmp_path}/runs/no_kl-0", "cluster=local"]
    assert len(plan_of(tmp_path).results()) == 1


def test_cell_without_anything_to_go_on_from_begins_anew_elsewhere(tmp_path):
    trains = Trains(endings=["dies"])
    plan = plan_of(tmp_path)
    study(plan, trains)
    study(plan, trains)
    assert trains.asked[1][-1] == f"out={tmp_path}/runs/no_kl-0-2"
    assert len(plan.results()) == 1


def test_cell_that_was_trained_and_not_evaluated_goes_on_to_its_evaluation(tmp_path):
    trains = Trains(endings=["unevaluated"])
    plan = plan_of(tmp_path)
    [problem], _ = study(plan, trains)
    assert "it ended without an evaluation" in problem
    study(plan, trains)
    assert trains.asked[1] == [f"resume={tmp_path}/runs/no_kl-0", "cluster=local"]
    assert len(plan.results()) == 1


def test_result_that_was_not_stored_is_taken_from_the_run(tmp_path):
    plan = plan_of(tmp_path)
    study(plan, Trains())
    plan.cell_file(plan.cells()[0]).unlink()
    again = Trains()
    study(plan, again)
    assert (again.asked, len(plan.results())) == ([], 1)


def test_cell_that_fails_holds_nobody_up(tmp_path):
    problems, reported = study(plan_of(tmp_path, arms=("no_kl", "adaptive")), Trains(endings=["fails"]))
    assert len(problems) == 1
    assert problems[0].startswith("no_kl-0 failed: error: the gradient is not finite (all of it: ")
    assert reported == [0, 1]


def test_folder_of_other_settings_is_refused(tmp_path):
    study(plan_of(tmp_path), Trains())
    with pytest.raises(UserError, match=r"it holds runs of no_kl with sampling\.temperature=1\.0, not 0\.9"):
        study(plan_of(tmp_path, "sampling.temperature=0.9", seeds=(1,)), Trains())
    study(plan_of(tmp_path, "sampling.temperature=0.9", arms=("adaptive",)), Trains())


def test_wrong_setting_is_refused_before_anything_is_trained(tmp_path):
    trains = Trains()
    with pytest.raises(UserError, match=r"learner\.lr: unknown key"):
        study(plan_of(tmp_path, "learner.lr=1"), trains)
    with pytest.raises(UserError, match=r"evaluation\.conversations=0: no_kl could not be compared"):
        study(plan_of(tmp_path, "evaluation.conversations=0"), trains)
    assert (trains.asked, list(tmp_path.iterdir())) == ([], [])


def test_settings_that_came_later_are_as_by_default_in_an_older_study(tmp_path):
    study(plan_of(tmp_path), Trains())
    file = tmp_path / "study.json"
    record = json.loads(file.read_text())
    del record["arms"]["no_kl"]["league"]
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"with league\.window=8, not 3"):
        study(plan_of(tmp_path, "league.window=3", seeds=(1,)), Trains())
    problems, _ = study(plan_of(tmp_path, seeds=(1,)), Trains())
    assert problems == []


def test_words_about_a_league_go_to_the_arms_that_have_one(tmp_path):
    trains, words = Trains(), ("league.window=3", "model=tiny")
    plan = Plan(study=STUDIES["league"], folder=tmp_path, arms=("kuhn_mirror", "kuhn_league"), seeds=(0,), words=words)
    assert study(plan, trains)[0] == []
    assert [("league.window=3" in words, "model=tiny" in words) for words in trains.asked] == [
        (False, True),
        (True, True),
    ]


def test_folder_where_another_process_works_is_refused(tmp_path):
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process works on this study"):
        study(plan_of(tmp_path), Trains())


def test_curves_end_where_a_line_is_torn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(metrics_line({"step": 0, "play/distinct_2": 0.5}) + '{"step": 1, "pl')
    assert read_curves(tmp_path) == {"step": [0], "play/distinct_2": [0.5]}


def result(arm: str, seed: int, trained: float, *, base: float = 0.25) -> CellResult:
    plan = plan_of(Path("x"), arms=(arm,), seeds=(seed,))
    curves = {"step": [0, 1, 2], "play/question_rate": [base, None, trained]}
    return CellResult(cell=plan.cells()[0], seconds=3600, curves=curves, comparison=comparison(base, trained))


def test_table_has_means_ranges_and_intervals_over_seeds():
    plan = plan_of(Path("x"), arms=("no_kl", "adaptive"), seeds=(0, 1, 2))
    results = [result("no_kl", seed, 0.8 + 0.1 * seed, base=(0.3, 0.2, 0.2)[seed]) for seed in range(3)]
    results.append(result("adaptive", 0, 0.5, base=0.1))
    text = study_report(plan, results, command="selfplay study kl")
    assert "Made by `selfplay study kl`: 4 runs, 4.0 hours; 2 of 6 cells are missing." in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    columns = [row[rows[0].index("turns that ask")] for row in rows]
    # The base of seed 0 is 0.3 and 0.1 in its two arms.
    assert columns[2:5] == ["0.200 (0.200 to 0.200)", "0.900 (0.800 to 1.000)", "0.500"]
    # Student's t with 2 degrees is 4.303, the deviation 0.1: 4.303 * 0.1 / sqrt(3).
    assert columns[7:10] == ["0.200 ± 0.000", "0.900 ± 0.248", "0.500"]
    assert [row[-1] for row in rows[2:5]] == ["", "60", "60"]


def test_table_has_the_change_and_interval_of_every_run():
    plan = plan_of(Path("x"), arms=("no_kl",), seeds=(0, 1))
    row = Difference(name="play/question_rate", base=0.25, trained=0.75, difference=0.5, low=0.375, high=0.625)
    known = Comparison(rows=(row,), num_scenarios=32, num_dropped=0)
    results = [replace(result("no_kl", 0, 0.8), comparison=known), result("no_kl", 1, math.nan)]
    text = study_report(plan, results, command="selfplay study kl")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    column = rows[0].index("turns that ask")
    assert [(row[0], row[column]) for row in rows[-2:]] == [("no_kl-0", "+0.500 (+0.375 to +0.625)"), ("no_kl-1", "-")]


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def game_result(arm: str, **numbers: float) -> CellResult:
    rows = tuple(
        Difference(name=f"game/{name}", base=0.0, trained=value, difference=value, low=math.nan, high=math.nan)
        for name, value in numbers.items()
    )
    found = Comparison(rows=rows, num_scenarios=2, num_dropped=0)
    return replace(result("no_kl", 0, 0.0), cell=Cell(arm=arm, seed=0), comparison=found)


def test_table_says_whom_each_arm_met_where_they_differ():
    # Names that mislead: what counts is what the arms train with.
    arms = {
        "league": ("partner=mirror",),
        "frozen": ("partner=league",),
        "mirror": ("partner=frozen",),
        "script": ("players.second=scripted",),
    }
    chosen = replace(STUDIES["league"], arms={arm: ("env=kuhn", *words) for arm, words in arms.items()})
    plan = Plan(study=chosen, folder=Path("x"), arms=tuple(arms), seeds=(0,))
    text = study_report(plan, [game_result(arm, payoff=0.5) for arm in arms], command="selfplay study league")
    met = ["itself", "its start", "its start", "scripted"]
    rows = rows_of(text)
    assert rows[0][1] == "met"
    assert [row[1] for row in rows[2:10]] == [whom for whom in met for _ in ("base", "trained")]
    assert [row[1] for row in rows[-4:]] == met
    assert {len(row) for row in rows} == {len(rows[0])}
    assert text.count("Arms that met different players cannot be compared by these numbers") == 1


def test_table_says_nothing_of_whom_arms_met_where_all_met_the_same():
    arms = ("kuhn_frozen", "demand_league")
    plan = Plan(study=STUDIES["league"], folder=Path("x"), arms=arms, seeds=(0,))
    text = study_report(plan, [game_result(arm, payoff=0.5) for arm in arms], command="selfplay study league")
    assert "met" not in rows_of(text)[0]
    assert "Arms that met" not in text


def test_table_shows_success_only_where_it_is_the_policys():
    arms = ("kuhn_mirror", "kuhn_frozen")
    plan = Plan(study=STUDIES["league"], folder=Path("x"), arms=arms, seeds=(0,))
    results = [
        game_result("kuhn_mirror", payoff=0.0, success=0.75),
        # Each wins what the other loses: success is somebody's, not the policy's.
        game_result("kuhn_frozen", payoff=0.25, opponent_payoff=-0.25, win=0.625, success=0.75),
    ]
    rows = rows_of(study_report(plan, results, command="selfplay study league"))
    column = rows[0].index("success")
    assert {row[0]: row[column] for row in rows[2:6]} == {
        "base of kuhn_mirror": "0.000",
        "kuhn_mirror": "0.750",
        "base of kuhn_frozen": "-",
        "kuhn_frozen": "-",
    }
    assert [row[column] for row in rows[-2:]] == ["+0.750", "-"]


def test_picture_is_drawn_of_whatever_there_is(tmp_path):
    file = tmp_path / "curves.png"
    results = [result("no_kl", 0, 0.8), result("no_kl", 1, 0.9), result("adaptive", 0, 0.3)]
    draw_study(results, ["no_kl", "adaptive"], file, panels=STUDIES["kl"].panels)
    assert file.read_bytes().startswith(b"\x89PNG")
    draw_study([], ["no_kl"], file, panels=STUDIES["chat"].panels)
