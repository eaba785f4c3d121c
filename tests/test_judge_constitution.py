"""The constitution that comes with the package, and files that are none."""

from collections import Counter

import pytest

from selfplay.errors import UserError
from selfplay.judge.constitution import read_constitution


def test_our_constitution_has_enough_principles_of_all_kinds():
    ours = read_constitution()
    assert len({principle.compare for principle in ours.principles}) == len(ours.principles) >= 16
    assert min(Counter(principle.about for principle in ours.principles).values()) >= 2
    assert {"helpful", "honest", "kind", "harmless"} <= {principle.about for principle in ours.principles}


def test_our_few_shots_end_with_the_speaker_and_differ_only_behind_the_shared_past():
    for shot in read_constitution().few_shots:
        better, worse = shot.options
        assert better.messages[-1].is_focus
        assert worse.messages[-1].is_focus
        assert better.messages[: len(shot.before)] == worse.messages[: len(shot.before)]
        assert better != worse


def test_file_of_ones_own_needs_principles_only(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("principles:\n  - id: short\n    compare: In which option does the Speaker say less?\n")
    mine = read_constitution(str(path))
    assert [principle.id for principle in mine.principles] == ["short"]
    with pytest.raises(UserError, match="few_shot=1: the constitution has 0 examples"):
        mine.shots(1)
    with pytest.raises(UserError, match="rubric=good_reply: the constitution has no such rubric"):
        mine.rubric("good_reply")


P = "principles:\n  - {id: a, compare: Which one}\n"
SHOT = "few_shots:\n  - {principle: a, better: ['Speaker: yes'], worse: ['Speaker: no']}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: principles: is missing"),
        ("principles: []\n", "line 1: principles: must not be empty"),
        ("principles:\n  - id: a\n", "line 2: principles.0.compare: is missing"),
        ("principles:\n  - id: a\n    compare: Which?\n    weight: 2\n", "line 4: principles.0.weight: unknown key"),
        (
            "principles:\n  - {id: A b, compare: Which one}\n",
            "line 2: principles.0.id=A b: must be made of small letters",
        ),
        ("principles:\n  - {id: a, compare: '   '}\n", "line 2: principles.0.compare"),
        (P + "principle: 3\n", "line 3: principle: unknown key; did you mean principles?"),
        (P + "  - {id: a, compare: What}\n", "two have the id a: principle ids must differ"),
        (P + SHOT.replace("principle: a", "principle: b"), "few_shots.0.principle=b: no principle has that id"),
        (P + SHOT.replace("Speaker: no", "Guest: no"), "few_shots.0: 'Guest: no' must begin with Speaker: or Partner:"),
        (P + SHOT.replace("Speaker: no", "Partner: no"), "few_shots.0.worse: must end with what the Speaker says"),
        ("principles: [", "not valid YAML"),
    ],
)
def test_file_that_is_no_constitution_is_refused_with_its_line(tmp_path, text, problem):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_constitution(str(path))
    assert problem in str(caught.value)
    assert "mine.yaml" in str(caught.value)
