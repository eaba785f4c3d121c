import json
from dataclasses import replace

import pytest

from selfplay.commands import diff
from selfplay.commands.words import read_words
from selfplay.errors import UserError
from selfplay.score import Term
from tests.paired_runs import TERMS, played, two_versions, write_run

HOSTILE = "\x1b[2J\u202e[red]x[/]"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "runs").mkdir()
    write_run(tmp_path / "runs" / "chat", two_versions())
    return tmp_path / "runs"


def answer(capsys, *words):
    assert diff.run(read_words(words)) == 0
    return capsys.readouterr().out


def test_diff_prints_the_numbers_and_the_scenarios_lost_most(runs, capsys):
    output = answer(capsys, "chat@0", "chat@7", "n=2")
    assert output.startswith("a chat@0   b chat@7\n3 held-out scenarios\nb won 1, tied 1, lost 1\n")
    # Means 2 and 7/3.
    assert [line.split()[:4] for line in output.splitlines() if line.startswith("reward ")] == [
        ["reward", "2.000", "2.333", "+0.333"]
    ]
    shown = [line for line in output.splitlines() if line.startswith("chitchat/")]
    assert shown == ["chitchat/3 · topic 3", "chitchat/2 · topic 2"]


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (40, ["part", "b - a"]),
        (80, ["part", "b - a", "95% interval"]),
        (120, ["part", "b - a", "95% interval", "moved the reward by"]),
    ],
)
def test_diff_names_every_part_whole_however_narrow_the_terminal(runs, capsys, monkeypatch, width, heads):
    name = "a_long_name_of_a_reward"
    for file in (write_run(runs / "named", two_versions()) / "conversations").iterdir():
        file.write_text(file.read_text().replace('"tone"', f'"{name}"'))
    monkeypatch.setenv("COLUMNS", str(width))
    lines = answer(capsys, "named@0", "named@7", "n=0").splitlines()
    head = next(line for line in lines if line.startswith("part"))
    assert [word for word in ("part", "b - a", "95% interval", "moved the reward by") if word in head] == heads
    assert any(line.startswith(f"{name} ") for line in lines)
    assert max(map(len, lines)) <= width


def test_diff_of_different_rewards_says_so_and_prints_what_both_have(runs, capsys):
    light = [replace(one, rewards=one.rewards / 4) for one in two_versions()]
    write_run(runs / "light", light, terms={**TERMS, "tone": Term(weight=0.5)})
    output = " ".join(answer(capsys, "chat@0", "light@7", "n=0").split())
    assert "a was rewarded for tone x 2, b for tone x 0.5: their rewards are in different units" in output
    assert "won" not in output
    # Tones of 1 and 7/6, and no row of the reward.
    assert "tone 1.000 1.167 +0.167" in output
    assert "reward 2.000" not in output
    by_tone = answer(capsys, "chat@0", "light@7", "n=0", "part=tone")
    assert "b won 1, tied 1, lost 1 by tone" in by_tone


def test_diff_prints_measures_under_the_parts(runs, capsys):
    lines = answer(capsys, "chat@0", "chat@7", "n=0").splitlines()
    names = [line.partition("  ")[0] for line in lines[5:]]
    assert names[:3] == ["reward", "tone", "length"]
    # Their tokens were never counted.
    assert names[3:6] == ["words a turn", "share of turns cut", "share of repeated turns"]
    told = json.loads(answer(capsys, "chat@0", "chat@7", "--json"))
    assert told["measures"][0] | {"a": 0} == {
        "name": "words_per_turn",
        "words": "words a turn",
        "way": 0,
        "a": 0,
        "b": 6.0,
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
    }


def test_turns_stand_beside_each_other_where_there_is_room_and_below_where_not(runs, capsys, monkeypatch):
    wide = answer(capsys, "chat@0", "chat@7", "scenario=3")
    assert [line for line in wide.splitlines() if line.count("Hello 0 of") == 2]
    monkeypatch.setenv("COLUMNS", "60")
    narrow = answer(capsys, "chat@0", "chat@7", "scenario=chitchat/3")
    assert not [line for line in narrow.splitlines() if line.count("Hello 0 of") == 2]
    assert "a: host Hello 0 of 000000-e03-0  +3.00" in narrow
    assert "b: host Hello 0 of 000007-e03-0  +2.00" in narrow
    assert max(map(len, narrow.splitlines())) <= 60


def test_longer_side_goes_on_alone(runs, capsys):
    write_run(runs / "long", [played("000009-e01-0", seed=1, version=9, tone=(1.0, 1.0))])
    output = answer(capsys, "chat@0", "long@")
    assert [line.split()[0] for line in output.splitlines() if "Hello 1 of 000009-e01-0" in line] == ["(over)"]


def test_one_run_alone_is_compared_from_its_oldest_version(runs, capsys):
    for words in ([], ["chat"], ["chat@7"], ["@0"]):
        assert answer(capsys, *words, "n=0").startswith("a chat@0   b chat@7\n")


def test_json_is_the_comparison(runs, capsys):
    told = json.loads(answer(capsys, "chat@0", "chat@7", "--json", "part=tone"))
    assert (told["wins"], told["losses"], told["part"]) == (1, 1, "tone")
    assert told["scenarios"][0]["difference"] == -0.5


def test_text_of_models_is_shown_and_not_obeyed(runs, capsys):
    for number, version in enumerate((1, 2)):
        write_run(runs / f"hostile-{number}", [played("000001-e01-0", seed=1, version=version, says=HOSTILE)])
    output = answer(capsys, "hostile-0", "hostile-1")
    assert "\x1b[2J" not in output
    assert "\u202e" not in output
    assert "[red]x[/]" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chat@3", "chat@7"], "no held-out conversations of version 3; it has 0, 7"),
        (["chat@0", "nothing@7"], "there is no run 'nothing'"),
        (["a", "b", "c"], "diff takes two sides, not 3"),
        (["chat@0", "chat@7", "scenario=99"], "both sides did not play it to an end; they share chitchat/3"),
        (["chat@0", "chat@7", "part=tune"], "no such part of the reward; did you mean tone"),
        (["chat@0", "chat@7", "m=3"], "m: unknown key"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(runs, words, message):
    with pytest.raises(UserError, match=message):
        diff.run(read_words(words))


def test_run_with_one_version_says_how_to_compare_it(runs):
    write_run(runs / "alone", two_versions()[:3])
    with pytest.raises(UserError, match="stores 1 version on held-out scenarios"):
        diff.run(read_words(["alone"]))
