import json

import pytest
from rich.cells import cell_len
from six_conversations import IDS, write_six

from selfplay.commands import top
from selfplay.commands.words import read_words
from selfplay.errors import UserError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "runs").mkdir()
    write_six(tmp_path / "runs" / "six")
    return tmp_path / "runs"


def answer(capsys, *words):
    status = top.run(read_words(words))
    output = capsys.readouterr()
    assert status == 0
    return output.out


def found(capsys, *words):
    answered = json.loads(answer(capsys, *words, "--json"))
    kinds = ("best", "worst", "surprising")
    return {kind: [(row["id"], row["number"]) for row in answered[kind]] for kind in kinds}


def test_top_finds_best_worst_and_most_surprising(runs, capsys):
    # Rewards: 0: 1 + 1 = 2; 1: -0.5 - 1 = -1.5; 2: its host alone, 1 + 0.5; 3: 0.  0 and 1 are a group, of mean 0.25.
    assert found(capsys, "six", "n=2") == {
        "best": [(IDS[0], 2), (IDS[2], 1.5)],
        "worst": [(IDS[1], -1.5), (IDS[3], 0)],
        "surprising": [(IDS[1], 1.75), (IDS[0], 1.75)],
    }


def test_top_goes_by_a_reward_or_any_other_number(runs, capsys):
    assert found(capsys, "six", "by=question", "n=1")["worst"] == [(IDS[1], 0)]
    # the trained turns' praise: 1: (-1 - 2) / 2; 2: 1
    assert found(capsys, "six", "by=praise", "n=1")["worst"] == [(IDS[1], -1.5)]
    assert found(capsys, "six", "by=value.praise", "n=1")["best"] == [(IDS[2], 0.5)]
    assert found(capsys, "six", "by=seconds", "n=1")["best"] == [(IDS[2], 3.5)]
    assert found(capsys, "six", "by=kl") == {
        "best": [(IDS[0], 0.04)],
        "worst": [(IDS[0], 0.04)],
        "surprising": [(IDS[1], 1.75), (IDS[0], 1.75)],
    }


def test_top_looks_among_what_fits_a_filter(runs, capsys):
    assert found(capsys, "six", "where=reward<1 | split=held_out", "n=1") == {
        "best": [(IDS[3], 0)],
        "worst": [(IDS[1], -1.5)],
        "surprising": [(IDS[1], 1.75)],
    }
    assert found(capsys, "", "reward<0")["best"] == [(IDS[1], -1.5)]


def test_filter_cannot_open_what_the_number_closes(runs):
    with pytest.raises(UserError, match="filter"):
        top.run(read_words(["six", "where=reward>3) | (reward<9"]))


@pytest.mark.parametrize("words", [["six"], ["six", "by=question"], ["six", "by=seconds"]])
@pytest.mark.parametrize("width", [20, 30, 40, 80])
def test_top_prints_no_line_wider_than_the_terminal(runs, capsys, monkeypatch, words, width):
    file = next((runs / "six" / "conversations").glob("*.jsonl"))
    # A conversation that took very long.
    file.write_text(file.read_text().replace('"play_seconds": 3.5', '"play_seconds": 1e300'))
    monkeypatch.setenv("COLUMNS", str(width))
    lines = answer(capsys, *words).splitlines()
    assert max(map(cell_len, lines)) <= width
    # What to type next is never cut, but may stand in two lines.
    assert "".join(IDS[0].split("-")) in "".join(line.split(" ")[0] for line in lines).replace("-", "")


def test_top_prints_tables_with_first_words(runs, capsys):
    lines = answer(capsys, "by=question", "n=1").splitlines()
    assert lines[0] == "most reward.question"
    assert lines[1].split()[:3] == ["id", "value", "reward"]
    assert lines[3].split()[:3] == [IDS[2], "1.000", "1.50"]  # of those that are equal, the newest
    assert "Rivers move." in lines[3]
    assert lines[5] == "least reward.question"
    surprising = lines.index("most surprising: reward far from the mean of its group")
    assert lines[surprising + 3].split()[:3] == [IDS[1], "-1.50", "0.250"]


def test_top_says_when_there_is_nothing(runs, capsys):
    assert answer(capsys, "six", "reward>99") == "no conversation of run six that fits has a reward\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["six", "by=qestion"], r"by=qestion: the run has no such number; did you mean .*question"),
        (["six", "by=newest"], r"by=newest: the run has no such number"),
        (["six", "n=0"], r"n=0: must be a whole number from 1"),
        (["six", "rewrad<1"], r"unknown field 'rewrad'; did you mean reward"),
        (["six", "sort=reward"], r"unknown setting 'sort'"),
        (["sx"], r"there is no run 'sx'; did you mean six"),
    ],
)
def test_wrong_words_are_refused_with_what_is_right(runs, words, message):
    with pytest.raises(UserError, match=message):
        top.run(read_words(words))


def test_help_is_there_with_an_example():
    assert "\n" not in top.SUMMARY
    assert "Examples:" in top.USAGE
