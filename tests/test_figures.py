"""Learning curves: how runs become groups and bands, what is drawn of them, and what is refused."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from six_conversations import write_six

from selfplay.commands import main
from selfplay.curves import Band, Group, RunCurves, grouped, read_curves, repeated_seeds, smoothed
from selfplay.errors import UserError
from selfplay.figure_sheet import Look, for_page, printable
from selfplay.figures import caption, contributions, draw_all, reward_against_kl, svg_figures
from selfplay.league_curves import rating_band, so_far
from selfplay.run_report import FIGURE_WORDS

PNG = b"\x89PNG\r\n\x1a\n"
SVG = "{http://www.w3.org/2000/svg}"
STUDY = Path(__file__).parents[1] / "docs" / "results" / "kl-control"


def store(folder: Path, *values: float | None, seed: int = 0, **settings: Any) -> Path:
    """Write a run whose reward and question part have these values, KL a tenth of them."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "kl": {"controller": "adaptive", "target": 0.5}, "steps": 9, **settings}
    config["rewards"] = {"question": {"name": "", "weight": 2.0}, "sentiment": {"name": "", "weight": -0.5}}
    (folder / "config.yaml").write_text(json.dumps(config))
    manifest = {"schema": "selfplay.run/1", "name": folder.name, "status": "finished", "created_at": f"2026-01-0{seed}"}
    (folder / "run.json").write_text(json.dumps(manifest))
    with (folder / "metrics.jsonl").open("w") as file:
        for step, value in enumerate(values):
            numbers = {"reward/per_conversation": value, "reward/question": value, "reward/sentiment": value}
            kl = None if value is None else value / 10
            line = {"schema": "selfplay.metrics/1", "step": step, "at": "", **numbers, "kl/per_token_nats": kl}
            file.write(json.dumps({**line, "play/conversations": 12.0, "play/words_per_turn": 8.0}) + "\n")
    return folder


def group_of(*values: tuple[float, ...]) -> Group:
    runs = [
        RunCurves(name=str(number), settings={}, series={"reward/total": dict(enumerate(one))})
        for number, one in enumerate(values)
    ]
    return Group(label="x", runs=tuple(runs))


def test_band_of_three_runs_is_their_mean_lowest_and_highest():
    band = group_of((1.0, 4.0), (2.0, 5.0), (6.0, 0.0, 9.0)).band("reward/total")
    # The third run is a step further; there is no mean over three there.
    assert band == Band(steps=(0, 1), mean=(3.0, 3.0), low=(1.0, 0.0), high=(6.0, 5.0), num_runs=3)


def test_band_as_an_interval_has_the_width_of_students_t():
    band = group_of((1.0,), (2.0,), (3.0,)).band("reward/total", kind="interval")
    # Deviation 1, so its error is 1 / sqrt(3); Student's t with 2 degrees of freedom, 97.5%, is 4.3027.
    assert band is not None
    assert band.high[0] - band.mean[0] == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert band.mean[0] - band.low[0] == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)


def test_band_where_one_run_measured_nothing_has_a_gap():
    band = group_of((1.0, math.nan, 3.0), (3.0, 2.0, 5.0)).band("reward/total")
    assert band is not None
    assert [math.isnan(value) for value in (*band.mean, *band.low, *band.high)] == [False, True, False] * 3


def test_smoothing_takes_the_mean_around_each_update_and_leaves_gaps():
    # Three wide; at the ends there are only two, and what is not known counts for nothing.
    series = {0: 1.0, 1: 3.0, 2: 8.0, 3: math.nan, 4: 2.0}
    found = smoothed(series, 3)
    assert [found[step] for step in (0, 1, 2, 4)] == [2.0, 4.0, 5.5, 2.0]
    assert math.isnan(found[3])
    assert smoothed({0: 1.0, 1: 2.0}, 1) == {0: 1.0, 1: 2.0}


def test_runs_that_differ_only_in_seed_are_one_group_named_after_what_differs(tmp_path):
    for seed, name in enumerate(("a", "b", "c")):
        words = {"learner": {"learning_rate": 0.1 if name != "c" else 0.2}, "runs": name, "out": name}
        store(tmp_path / name, 1.0, 2.0, seed=seed, **words)
    groups = grouped(read_curves(["a", "b", "c"], tmp_path))
    assert [group.label for group in groups] == ["learning_rate=0.1", "learning_rate=0.2"]
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b"], ["c"]]
    words = caption(groups, look=Look())
    assert "learning_rate=0.1: 2 runs (seeds 0, 1); learning_rate=0.2: 1 run (seed 2)." in words
    assert "n = 12 conversations an update." in words
    assert "lowest to highest run" in words


def test_a_run_that_is_named_twice_counts_once(tmp_path):
    store(tmp_path / "a", 1.0)
    (group,) = grouped(read_curves(["a", str(tmp_path / "a"), "a"], tmp_path))
    assert [run.name for run in group.runs] == ["a"]


def test_two_runs_of_one_seed_in_a_group_are_said(tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        store(tmp_path / name, 1.0, seed=seed)
    groups = grouped(read_curves(["a", "b", "c"], tmp_path))
    assert repeated_seeds(groups) == ["a and c have the same seed, 0: the band counts each as one more seed"]
    assert repeated_seeds(grouped(read_curves(["a", "b"], tmp_path))) == []


def test_filter_of_curves_cannot_open_what_the_split_closes(tmp_path):
    write_six(tmp_path / "six")
    with pytest.raises(UserError, match="filter"):
        read_curves(["six"], tmp_path, where="reward>3) | (reward<9")


def test_a_study_without_runs_is_read_from_its_cells_in_the_order_of_its_arms():
    groups = grouped(read_curves([str(STUDY)], Path("runs")))
    arms = list(json.loads((STUDY / "study.json").read_text())["arms"])
    assert [group.label for group in groups] == arms
    assert [len(group.runs) for group in groups] == [3] * len(arms)
    cells = [json.loads((STUDY / "cells" / f"no_kl-{seed}.json").read_text()) for seed in range(3)]
    last = [cell["curves"]["kl/per_token_nats"][-1] for cell in cells]
    band = groups[arms.index("no_kl")].band("kl/per_token_nats")
    assert band is not None
    assert (band.mean[-1], band.low[-1], band.high[-1]) == pytest.approx((sum(last) / 3, min(last), max(last)))


def test_a_study_with_runs_takes_the_newest_run_of_each_cell(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"arms": {"b_arm": {}, "a_arm": {}}}))
    for name, value in (("a_arm-0", 1.0), ("b_arm-0", 2.0), ("b_arm-0-2", 3.0)):
        store(tmp_path / "runs" / name, value)
    groups = grouped(read_curves([str(tmp_path)], Path("runs")))
    assert [(group.label, group.runs[0].name) for group in groups] == [("b_arm", "b_arm-0-2"), ("a_arm", "a_arm-0")]


def test_contributions_are_weight_times_mean_with_ends_in_order(tmp_path):
    store(tmp_path / "a", 1.0, 2.0, seed=0)
    store(tmp_path / "b", 3.0, 4.0, seed=1)
    (group,) = grouped(read_curves(["a", "b"], tmp_path))
    found = contributions(group)
    assert found["question"].mean == (4.0, 6.0)
    # The weight is -0.5: what was lowest, 1 and 2, is now highest.
    assert (found["sentiment"].low, found["sentiment"].high) == ((-1.5, -2.0), (-0.5, -1.0))


def test_reward_against_kl_leaves_out_updates_where_either_is_unknown(tmp_path):
    store(tmp_path / "a", 1.0, None, 2.0)
    (group,) = grouped(read_curves(["a"], tmp_path))
    assert reward_against_kl(group, "reward/per_conversation") == [(0.1, 1.0), (0.2, 2.0)]


def test_figures_are_valid_png_and_svg(tmp_path):
    store(tmp_path / "a", 1.0, 2.0, 1.5)
    files = draw_all(grouped(read_curves(["a"], tmp_path)), tmp_path / "out", look=Look(smooth=2))
    names = ("learning", "kl", "parts", "drift")
    assert [file.name for file in files] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(PNG)
        else:
            assert ElementTree.parse(file).getroot().tag == f"{SVG}svg"


def test_the_same_runs_give_the_same_files(tmp_path):
    first, again = (draw_all([group_of((1.0, 2.0))], tmp_path / name, look=Look()) for name in ("one", "two"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in again]


def test_what_no_run_measured_is_not_drawn(tmp_path):
    group = group_of((1.0, 2.0))
    files = draw_all([group], tmp_path, look=Look())
    assert {file.stem for file in files} == {"learning"}


def test_names_from_elsewhere_are_text_in_a_figure(tmp_path):
    name = '_$x^2$ <script>alert(1)</script> \u202e"&\x07'
    groups = [Group(label=name, runs=group_of((1.0, 2.0)).runs), Group(label="b", runs=group_of((1.0, 3.0)).runs)]
    (panel,) = svg_figures(groups, look=Look(is_for_page=True))["learning"]
    root = ElementTree.fromstring(panel)
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert printable(name) in texts
    assert printable(name) == '_$x^2$ <script>alert(1)</script> \ufffd"&\ufffd'
    assert not list(root.iter(f"{SVG}script"))


def test_a_panel_for_a_page_has_the_pages_colours_and_ids_of_its_own():
    panels = svg_figures([group_of((1.0, 2.0))], look=Look(is_for_page=True))["learning"]
    assert "var(--text)" in panels[0]
    assert "var(--line0)" in panels[0]
    assert "#0404" not in panels[0]
    ids = [element.get("id") for element in ElementTree.fromstring(panels[0]).iter() if element.get("id")]
    assert ids
    assert all(id.startswith("learning-0-") for id in ids)


def test_for_page_drops_sizes_and_rules_that_are_not_the_pages():
    svg = '<?xml?><svg width="3pt" height="2pt" viewBox="0 0 3 2"><style>*{}</style><use href="#a"/><g id="a"/></svg>'
    assert for_page(svg, name="n") == '<svg viewBox="0 0 3 2"><use href="#n-a"/><g id="n-a"/></svg>'


def test_a_run_without_metrics_is_refused_in_a_sentence(tmp_path):
    store(tmp_path / "a")
    with pytest.raises(UserError, match="run a has no metrics: only runs of `train` have curves"):
        read_curves(["a"], tmp_path)


def test_too_many_groups_for_one_picture_are_refused(tmp_path):
    groups = [Group(label=str(number), runs=group_of((1.0,)).runs) for number in range(13)]
    with pytest.raises(UserError, match="13 groups, of which one picture shows at most 12"):
        draw_all(groups, tmp_path, look=Look())


def test_a_damaged_cell_is_refused_with_its_place(tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "study.json").write_text('{"arms": {"a": {}}}')
    (tmp_path / "cells" / "a-0.json").write_text('{"schema": "selfplay.cell/9"}')
    with pytest.raises(UserError, match=r"a-0\.json is no result of a study: its schema is 'selfplay\.cell/9'"):
        read_curves([str(tmp_path)], Path("runs"))


def test_plot_says_what_it_wrote_beside_the_run(tmp_path, capsys):
    run = store(tmp_path / "a", 1.0, 2.0)
    assert main(["plot", "a", f"runs={tmp_path}", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["groups"] == {"a": ["a"]}
    assert all(Path(file).parent == run / "figures" and Path(file).is_file() for file in said["files"])


def test_plot_of_a_word_that_is_no_setting_says_so(tmp_path, capsys):
    store(tmp_path / "a", 1.0, 2.0)
    assert main(["plot", "a", f"runs={tmp_path}", "smoth=3"]) == 2
    assert "smooth" in capsys.readouterr().err


def game_of(others: float, *, won: float = 0.75) -> Group:
    """Make a run at a game whose policy is paid 0.5, and the others so much."""
    numbers = {"payoff": 0.5, "opponent_payoff": others, "win": won, "success": 0.25, "protocol_ok": 1.0}
    series = {f"game/{name}": {0: value, 1: value} for name, value in numbers.items()}
    return Group(label=f"others {others:g}", runs=(RunCurves(name="game", series=series, settings={}),))


@pytest.mark.parametrize(
    ("groups", "drawn"),
    [
        ([game_of(-0.5)], {"Won"}),
        ([game_of(0.25)], {"Won", "Success"}),
        ([game_of(0.5, won=0.5)], {"Success"}),
        ([game_of(-0.5), game_of(0.5, won=0.5)], {"Won", "Success"}),  # each in the panel that fits it
    ],
)
def test_learning_curves_of_a_game_are_those_that_fit_its_contest(groups, drawn):
    panels = svg_figures(groups, look=Look(is_for_page=True))["learning"]
    titles = {title for title in ("Won", "Success") if any(f">{title}<" in panel for panel in panels)}
    assert titles == drawn
    assert len(panels) == len(drawn) + 2  # payoff and form


def league_of(*sigmas: float) -> Group:
    def run(sigma: float) -> RunCurves:
        series = {
            "league/rating/buyer": {0: 25.0, 1: 26.0 + sigma},
            "league/rating_sigma/buyer": {0: 8.0, 1: sigma},
            "league/win_rate/past": {1: 0.75},
            "league/mirror_share": {0: 1.0, 1: 0.5},
            "league/past_share": {0: 0.0, 1: 0.5},
        }
        return RunCurves(name=f"run-{sigma}", series=series, settings={})

    return Group(label="league", runs=tuple(map(run, sigmas)))


def test_rating_of_one_run_has_two_deviations_around_it():
    band = rating_band(league_of(1.0), "league/rating/buyer")
    assert (band.mean, band.low, band.high) == ((25.0, 27.0), (9.0, 25.0), (41.0, 29.0))


def test_rating_of_several_runs_has_the_lowest_and_the_highest_around_it():
    band = rating_band(league_of(1.0, 3.0), "league/rating/buyer")
    assert (band.mean, band.low, band.high) == ((25.0, 28.0), (25.0, 27.0), (25.0, 29.0))


def test_figures_of_a_league_are_its_ratings_results_and_opponents():
    found = svg_figures([league_of(1.0)], look=Look(is_for_page=True))
    assert {name: len(panels) for name, panels in found.items()} == {"league": 2, "opponents": 1}
    assert "Rating as buyer" in found["league"][0]
    assert "Against its past" in found["league"][1]
    assert set(found) <= set(FIGURE_WORDS)


def test_opponents_so_far_are_the_mean_of_all_updates_and_pass_over_gaps():
    values = (math.nan, 1.0, 0.5, math.nan, 0.0)
    found = so_far(Band(steps=(0, 1, 2, 3, 4), mean=values, low=values, high=values, num_runs=1))
    assert math.isnan(found.mean[0])
    assert found.mean[1:] == found.low[1:] == found.high[1:] == (1.0, 0.75, 0.75, 0.5)
