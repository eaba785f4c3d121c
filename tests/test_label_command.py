import io
import sys

import pytest

from selfplay.commands import label
from selfplay.commands.words import read_words
from selfplay.errors import UserError
from selfplay.preferences import read_preferences
from tests.paired_runs import played, two_versions, write_run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    (tmp_path / "runs").mkdir()
    siblings = [
        played(f"000001-g{group:02d}-{k}", seed=group, version=1, split="train")
        for group in range(30)
        for k in range(2)
    ]
    return write_run(tmp_path / "runs" / "chat", [*two_versions(), *siblings])


@pytest.fixture
def typed(folder, monkeypatch, capsys):
    """Return what runs the command with these keys, one a line, and returns what it printed."""

    def run(keys, *words):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        assert label.run(read_words(["chat", "person=anon-3f", *words])) == 0
        return capsys.readouterr().out

    return run


def test_keys_are_stored_as_choices(typed, folder):
    output = typed("1234 5 0".replace(" ", ""), "n=6")
    found = [(one.choice, one.strength) for one in read_preferences(folder).preferences]
    assert found == [
        ("left", "much"),
        ("left", None),
        ("tie", None),
        ("right", None),
        ("right", "much"),
        ("both_bad", None),
    ]
    assert "Who would you rather keep talking to? (host)" in output
    assert output.rstrip().endswith("6 answers now, 6 in all")


def test_who_played_is_told_after_the_answer_and_not_before(typed):
    before, told, after = typed("2", "n=1").partition("A: learner@")
    assert told
    assert "learner" not in before
    assert "reward" not in before
    assert "reward" in after


def test_number_that_was_asked_for_is_what_is_counted_to(typed):
    first, second = (line for line in typed("22", "n=2").splitlines() if " of " in line and "·" in line)
    assert first.startswith("0 of 2 ·")
    assert second.startswith("1 of 2 ·")
    assert "2 of 33" in typed("q").partition("·")[0]


def test_skipping_and_undoing_do_not_count_as_answers(typed, folder):
    output = typed(["s", "2", "u", "u", "4", "q"])
    assert [one.choice for one in read_preferences(folder).preferences] == ["right"]
    assert "1 answer now, 1 in all" in output


def test_nothing_is_left_to_undo(typed, folder):
    assert "there is no answer to take back" in typed(["u", "q"])


def test_unknown_key_is_asked_again(typed, folder):
    assert "'x' is none of 1 2 3 4 5 0 s u q" in typed(["x", "", "3"], "n=1")
    assert len(read_preferences(folder).preferences) == 1


def test_input_that_ends_ends_the_sitting(typed, folder):
    assert "2 answers now" in typed(["3", "3"])


def test_no_input_at_all_says_what_is_needed(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UserError, match="reads answers from the terminal, or one a line"):
        label.run(read_words(["chat"]))
    assert not (folder / "preferences.jsonl").exists()


def test_interrupt_ends_with_what_was_said(folder, monkeypatch, capsys):
    def keys():
        yield "1\n"
        raise KeyboardInterrupt

    class Terminal(io.StringIO):
        waiting = keys()

        def readline(self, *_):
            return next(self.waiting)

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert label.run(read_words(["chat"])) == 0
    assert "1 answer now" in capsys.readouterr().out


def test_run_without_pairs_says_so(folder, monkeypatch, capsys):
    write_run(folder.parent / "alone", two_versions()[:3])
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n"))
    assert label.run(read_words(["alone"])) == 0
    assert "no other pair" in capsys.readouterr().out


def test_everything_seen_ends_the_sitting_with_agreement(typed, folder):
    output = typed(["2"] * 60, "n=60")
    found = read_preferences(folder).preferences
    # 30 groups of two, and 3 scenarios that two versions played; who always says left never agrees.
    assert sum(one.swap_of is None for one in found) == 33
    repeats = len(found) - 33
    assert repeats > 0
    assert f"{len(found)} in all; you agree with yourself in 0% of {repeats} repeat" in output
