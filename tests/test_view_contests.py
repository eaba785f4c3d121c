"""What the page's server says of tournaments and leagues, and that nothing in their files can harm it."""

import json
from dataclasses import replace

import pytest
from contest_runs import ODD, ROLES, write_elo, write_league, write_tournament
from starlette.testclient import TestClient

from selfplay.bradley_terry import PairResult, fit_elo
from selfplay.league import Result
from selfplay.league_run import LEAGUE_FILE
from selfplay.preferences import PREFERENCES, append_entries, read_preferences
from selfplay.tournament_by import EloTournament
from selfplay.tournament_json import ELO as STORED_ELO
from selfplay.tournament_json import TOURNAMENT as STORED_TOURNAMENT
from selfplay.tournament_json import elo_tournament_to_json
from selfplay.view import contests
from selfplay.view.contests import ELO, LEAGUE, TOURNAMENT, contests_of
from selfplay.view.server import create_app

NAMES = ("best", ODD, "worst")
MANY = contests.MOST_ENTRIES + 3


@pytest.fixture
def cup(tmp_path):
    return tmp_path / "cup", write_tournament(tmp_path / "cup", NAMES)


@pytest.fixture
def league(tmp_path):
    return tmp_path / "league", write_league(tmp_path / "league", steps=6)


def answer(folder, rest, **params):
    client = TestClient(create_app(folder.parent, port=8600), base_url="http://127.0.0.1:8600")
    found = client.get(f"/api/r/{folder.name}{rest}", params=params)
    assert found.status_code == 200, found.text
    return found.json()


def ids(folder, where):
    found = answer(folder, "/conversations", q=where, limit=200)
    return {row[found["columns"].index("id")] for row in found["rows"]}


def rewritten(folder, name, change):
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))
    return contests_of(folder)


def test_files_are_called_what_their_writers_call_them():
    assert (TOURNAMENT, ELO, LEAGUE) == (STORED_TOURNAMENT, STORED_ELO, LEAGUE_FILE)


def test_tournament_is_told_with_the_best_first_and_means_as_they_were_found(cup):
    folder, found = cup
    told = answer(folder, "/contests")
    assert (told["problems"], told["elo"], told["league"]) == ([], None, None)
    shown = told["tournament"]
    assert [one["name"] for one in shown["standings"]] == found.names == list(NAMES)
    assert shown["standings"][0]["rating"]["mu"] == found.standings[0].skill.mu
    for at, row in enumerate(found.names):
        for to, column in enumerate(found.names):
            cell, payoff = shown["matrix"][at][to], found.cell(row, column).payoff
            assert cell["payoff"] == {"value": payoff.value, "low": payoff.low, "high": payoff.high}


def test_each_cell_and_role_leads_to_its_conversations_whatever_players_are_called(cup):
    folder, _ = cup
    matrix = answer(folder, "/contests")["tournament"]["matrix"]
    # Every two meet on two scenarios, once with each casting; an entry meets itself once on each.
    sizes = [[len(ids(folder, cell["filter"])) for cell in row] for row in matrix]
    assert sizes == [[2 if at == to else 4 for to in range(3)] for at in range(3)]
    as_seller, as_buyer = (ids(folder, matrix[0][1]["roles"][role]["filter"]) for role in ROLES)
    assert as_seller | as_buyer == ids(folder, matrix[0][1]["filter"])
    assert not as_seller & as_buyer
    assert answer(folder, "")["has_contests"] is True


def test_standing_leads_to_all_conversations_of_an_entry(cup):
    folder, _ = cup
    for one in answer(folder, "/contests")["tournament"]["standings"]:
        assert len(ids(folder, one["filter"])) == 2 * (4 + 1)  # two castings with each of two others, and itself


def test_tournament_of_very_many_shows_the_best(cup):
    folder, _ = cup

    def add(data):
        data["standings"] += [{**data["standings"][0], "name": f"more-{number}"} for number in range(MANY - 3)]

    shown = rewritten(folder, TOURNAMENT, add)["tournament"]
    assert (len(shown["standings"]), shown["num_left_out"]) == (contests.MOST_ENTRIES, 3)
    assert {len(row) for row in shown["matrix"]} == {contests.MOST_ENTRIES}
    assert shown["matrix"][0][5] is None


def test_league_tells_results_ratings_and_where_to_read_them(league):
    folder, found = league
    told = answer(folder, "/contests")["league"]
    names = [one["name"] for one in told["players"]]
    assert names[0] == "learner"
    assert [name for name in names if name.startswith("past:")] == ["past:6", "past:3"]
    counted = 0
    for one in told["players"]:
        for role, shown in one["results"].items():
            result: Result = found.results[one["name"]][role]
            assert (shown["wins"], shown["ties"], shown["losses"]) == (result.wins, result.ties, result.losses)
            assert shown["payoff"] == pytest.approx(result.payoff / result.num_games)
            assert len(ids(folder, shown["filter"])) == result.num_games
            counted += result.num_games
    assert counted > 0


def test_league_where_all_were_always_paid_the_same_says_so(league):
    folder, _ = league
    assert not contests_of(folder)["league"]["nobody_wins"]

    def level(data):
        for roles in data["results"].values():
            for one in roles.values():
                one.update(wins=0, losses=0, ties=one["wins"] + one["ties"] + one["losses"])

    assert not rewritten(folder, LEAGUE, level)["league"]["nobody_wins"]  # it says that it had winners
    assert rewritten(folder, LEAGUE, lambda data: data.pop("has_winners"))["league"]["nobody_wins"]
    assert rewritten(folder, LEAGUE, lambda data: data.update(has_winners=False))["league"]["nobody_wins"]
    assert not rewritten(folder, LEAGUE, lambda data: data.update(results={}))["league"]["nobody_wins"]


def test_run_that_will_have_a_league_says_so_before_its_first_step(league):
    folder, _ = league
    (folder / LEAGUE).unlink()
    assert answer(folder, "")["has_contests"] is True
    assert answer(folder, "/contests") == {"tournament": None, "elo": None, "league": None, "problems": []}


def test_elo_is_told_with_its_intervals(cup):
    folder, _ = cup
    results = [
        PairResult(first="best", second="worst", scenario=f"s{seed}", first_won=float(seed != 0), tied=float(seed == 0))
        for seed in range(4)
    ]
    found = EloTournament(by="judge:tiny", table=fit_elo(results, seed=0))
    (folder / ELO).write_text(json.dumps(elo_tournament_to_json(found)))
    told = answer(folder, "/contests")
    assert told["problems"] == []
    assert [one["name"] for one in told["elo"]["entries"]] == ["best", "worst"]
    assert [(one["first_won"], one["tied"]) for one in told["elo"]["pairs"]] == [(3.0, 1.0)]
    assert told["elo"]["entries"][0]["elo"] == found.table.entry("best").elo


@pytest.fixture
def preferred(tmp_path):
    return tmp_path / "elo", write_elo(tmp_path / "elo", NAMES)


def test_each_pair_leads_to_its_conversations_and_to_what_was_said_of_them(preferred):
    folder, found = preferred
    told = answer(folder, "/contests")
    assert told["problems"] == []
    assert told["elo"]["question"] == "Which follows the principle better?"
    assert {len(ids(folder, pair["filter"])) for pair in told["elo"]["pairs"]} == {2 * 2}
    rests_on = {(one.first, one.second, one.first_id, one.role): one for one in found.judged}
    for pair in told["elo"]["pairs"]:
        assert pair["num_judged"] == len(pair["judged"]) == 2 * 2
        for one in pair["judged"]:
            first, second = (answer(folder, f"/c/{id}")["record"]["players"] for id in one["ids"])
            assert (first["buyer"]["policy"], second["buyer"]["policy"]) == (pair["first"], pair["second"])
            same = rests_on.get((pair["first"], pair["second"], one["ids"][0], one["role"]))
            swapped = rests_on.get((pair["second"], pair["first"], one["ids"][1], one["role"]))
            assert same or swapped
            wanted = same.probability_first if same else 1 - swapped.probability_first
            assert one["probability"] == pytest.approx(wanted)


def test_orders_of_a_judge_are_those_of_the_first_entry(preferred):
    folder, _ = preferred
    pairs = {(one["first"], one["second"]): one["judged"] for one in answer(folder, "/contests")["elo"]["pairs"]}
    # "best" sorts first: as seller it has 0.75, and 0.125 more as (A), as much less as (B).
    assert [one["orders"] for one in pairs["best", "worst"] if one["role"] == "seller"] == [[0.875, 0.625]] * 2
    assert [one["is_same"] for one in pairs["best", "worst"]] == [False] * 4
    alike = pairs.get((ODD, "worst")) or pairs["worst", ODD]
    assert [one["is_same"] for one in alike] == [True, True, False, False]
    assert alike[0]["orders"] == [None, None]


def test_swapped_pair_is_told_from_the_other_side(preferred):
    folder, _ = preferred

    def turn(data):
        for pair in data["pairs"]:
            pair["first"], pair["second"] = pair["second"], pair["first"]

    before = {(one["first"], one["second"]): one["judged"] for one in contests_of(folder)["elo"]["pairs"]}
    for pair in rewritten(folder, ELO, turn)["elo"]["pairs"]:
        for one, other in zip(pair["judged"], before[pair["second"], pair["first"]], strict=True):
            assert one["ids"] == other["ids"][::-1]
            assert one["probability"] == pytest.approx(1 - other["probability"])
            # The first as (A) is the second as (B), from the other side.
            assert [1 - value for value in reversed(one["orders"]) if value is not None] == pytest.approx(
                [value for value in other["orders"] if value is not None]
            )


def test_what_others_said_later_is_no_part_of_an_elo(preferred):
    folder, _ = preferred
    entry = read_preferences(folder).preferences[0]
    append_entries(folder, [replace(entry, by="person:ann", stored_id=""), replace(entry, sampler="", stored_id="x")])
    assert {one["num_judged"] for one in contests_of(folder)["elo"]["pairs"]} == {2 * 2}


def test_elo_of_before_is_shown_without_its_comparisons(preferred):
    folder, _ = preferred
    told = rewritten(folder, ELO, lambda data: data.pop("talks"))
    assert told["problems"] == []
    assert [(pair["num_judged"], pair["judged"]) for pair in told["elo"]["pairs"]] == [(0, [])] * 3
    assert len(ids(folder, told["elo"]["pairs"][0]["filter"])) == 2 * 2


def test_of_very_many_comparisons_each_pair_has_some(preferred, monkeypatch):
    folder, _ = preferred
    monkeypatch.setattr(contests, "MOST_JUDGED", 6)
    pairs = contests_of(folder)["elo"]["pairs"]
    assert [(len(pair["judged"]), pair["num_judged"]) for pair in pairs] == [(2, 4)] * 3


def test_line_that_cannot_be_read_is_counted(preferred):
    folder, _ = preferred
    with (folder / PREFERENCES).open("a") as file:
        file.write('{"schema": "other"}\n')
    told = contests_of(folder)
    assert told["problems"] == ["preferences.jsonl: 1 line cannot be read, so is in no list of comparisons"]
    assert told["elo"] is not None


@pytest.mark.parametrize(
    ("talks", "says"),
    [([], "talks is no object"), ({"best": 3}, "is no list"), ({"best": [3]}, "id of a talk of 'best'")],
)
def test_elo_with_wrong_talks_is_left_out_with_a_sentence(preferred, talks, says):
    folder, _ = preferred
    told = rewritten(folder, ELO, put("talks", talks))
    assert told["elo"] is None
    assert says in told["problems"][0]


HUGE = "x" * (contests.MOST_NAME + 1)


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(data):
        for key in path:
            data = data[key]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("schema", "other/1"), "schema"),
        (put("standings", None), "standings is no list"),
        (put("standings", 0, 7), "one of the standings is no object"),
        (put("standings", 0, "name", HUGE), "name of an entry"),
        (put("standings", 0, "rating", "mu", "high"), "mu of rating of 'best' is no number"),
        (put("standings", 0, "rating", "sigma", 10**400), "sigma of rating"),
        (put("standings", 0, "numbers", "game/payoff", "low", True), "low of game/payoff of 'best' is no number"),
        (put("standings", 0, "wins", -1), "wins of 'best' is no count"),
        (put("cells", 0, "filter", ["a"]), "filter of cell"),
        (put("cells", 0, "filter", "x" * 5000), "filter of cell"),
        (put("cells", 0, "role_filters", "seller", None), "filter of cell"),
        (put("cells", 0, "numbers", []), "numbers of cell"),
        (put("roles", ["a"] * 99), "more than"),
        (put("contest", {"none": 1}), "contest"),
    ],
)
def test_tournament_with_a_wrong_value_is_left_out_with_a_sentence(cup, change, says):
    folder, _ = cup
    told = rewritten(folder, TOURNAMENT, change)
    assert told["tournament"] is None
    assert len(told["problems"]) == 1
    assert told["problems"][0].startswith(f"{TOURNAMENT}: ")
    assert says in told["problems"][0]
    assert answer(folder, "/contests") == told


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("roles", "seller"), "roles is no list"),
        (put("ratings", []), "ratings is no object"),
        (put("ratings", "learner", "seller", [1.0]), "no pair"),
        (put("ratings", "learner", "seller", [None, 1.0]), "mu of rating"),
        (put("results", "learner", 3), "results against 'learner' is no object"),
        (put("results", "learner", "seller", "wins", 0.5), "wins of results"),
        (put("results", HUGE, {}), "name of a player"),
        (put("snapshots", 3), "snapshots is no list"),
    ],
)
def test_league_with_a_wrong_value_is_left_out_with_a_sentence(league, change, says):
    folder, _ = league
    told = rewritten(folder, LEAGUE, change)
    assert told["league"] is None
    assert says in told["problems"][0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"{}", b"null"])
@pytest.mark.parametrize("name", [TOURNAMENT, ELO, LEAGUE])
def test_ruined_file_is_a_notice_and_the_others_are_shown(cup, name, content):
    folder, _ = cup
    (folder / name).write_bytes(content)
    told = answer(folder, "/contests")
    assert [problem.partition(":")[0] for problem in told["problems"]] == [name]
    assert (told["tournament"] is None) == (name == TOURNAMENT)


def test_file_that_is_too_large_is_not_read(cup, monkeypatch):
    folder, _ = cup
    monkeypatch.setattr(contests, "MOST_BYTES", 1000)
    assert "larger than" in contests_of(folder)["problems"][0]


def test_file_that_leads_out_of_the_run_is_not_shown(cup, tmp_path):
    folder, _ = cup
    (tmp_path / "secret.json").write_text("{}")
    (folder / TOURNAMENT).unlink()
    (folder / TOURNAMENT).symlink_to(tmp_path / "secret.json")
    client = TestClient(create_app(folder.parent, port=8600), base_url="http://127.0.0.1:8600")
    assert client.get(f"/api/r/{folder.name}/contests").status_code == 403


def test_run_without_any_says_so(tmp_path):
    folder = tmp_path / "league"
    write_league(folder, steps=1)
    (folder / LEAGUE).unlink()
    (folder / "config.yaml").write_text("steps: 1\n")
    assert answer(folder, "")["has_contests"] is False
