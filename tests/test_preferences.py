"""Preferences on disk: what is written comes back, what is taken back is gone, and broken lines break nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.errors import UserError
from selfplay.preferences import (
    PREFERENCES,
    Preference,
    Ranking,
    Rating,
    Skip,
    append_entries,
    append_entry,
    preference_from_json,
    preference_to_json,
    read_preferences,
    withdraw,
)

AT = "2026-11-23T09:02:11.000Z"
CHOICE = Preference(
    at=AT,
    left="000420-g05-2",
    right="000400-g01-0",
    focus="giver",
    question="Who would you rather keep talking to?",
    choice="left",
    by="person:anon-3f",
    sampler="uniform-same-scenario",
    seconds=14.2,
)
SKIP = Skip(at=AT, left="000001-g00-0", right="000001-g00-1", focus="giver", by="person:anon-3f")
ASKED = {"at": AT, "focus": "giver", "question": "Who was more fun?", "by": "person:anon-3f"}
RANKING = Ranking(ids=("000001-g00-0", "000001-g00-1", "000001-g00-2"), ranks=(2, 1, 2), **ASKED)
RATING = Rating(conversation="000001-g00-0", value=7.5, low=1.0, high=10.0, **ASKED)
# Lines as the first writer wrote them: choices, a pair passed over, one taken back, one of another tool without an id.
GOLDEN = Path(__file__).with_name("golden") / "preferences-1.jsonl"
# As docs and other tools have it; the fields that came later are not there.
DOCUMENTED = """{"schema": "selfplay.preference/1", "at": "2026-11-23T09:02:11Z", "left": "000420-g05-2",
"right": "000400-g01-0", "focus": "giver", "question": "Who would you rather keep talking to?", "choice": "left",
"probability_left": 1.0, "by": "person:anon-3f", "principle": null, "swap_of": null,
"sampler": "uniform-same-scenario", "seconds": 14.2}"""


def test_documented_record_is_read():
    preference = preference_from_json(json.loads(DOCUMENTED))
    assert replace(preference, at=AT) == CHOICE
    assert preference.chosen == "000420-g05-2"


def test_record_holds_the_documented_fields():
    record = preference_to_json(CHOICE)
    documented = json.loads(DOCUMENTED)
    assert {name: record[name] for name in documented} == {**documented, "at": AT}
    assert record.keys() - documented.keys() == {"id", "why"}


@pytest.mark.parametrize(("choice", "probability"), [("left", 1.0), ("right", 0.0), ("tie", 0.5), ("both_bad", None)])
def test_probability_of_the_left_one_follows_the_choice(choice, probability):
    assert preference_to_json(replace(CHOICE, choice=choice))["probability_left"] == probability


def test_what_is_appended_is_read_in_its_order(tmp_path):
    second = replace(CHOICE, at="2026-11-23T09:03:00.000Z", choice="both_bad", why=("kind", "true"))
    much = replace(CHOICE, at="2026-11-23T09:04:00.000Z", strength="much", swap_of=CHOICE.id)
    for entry in (CHOICE, SKIP, second, much):
        append_entry(tmp_path, entry)
    found = read_preferences(tmp_path)
    written = [replace(entry, stored_id=entry.id) for entry in (CHOICE, SKIP, second, much)]
    assert (list(found.entries), found.problems) == (written, ())
    assert found.preferences == [written[0], *written[2:]]


def test_what_is_withdrawn_is_gone_and_the_file_has_only_grown(tmp_path):
    append_entry(tmp_path, SKIP)
    append_entry(tmp_path, CHOICE)
    before = (tmp_path / PREFERENCES).read_bytes()
    withdraw(tmp_path, CHOICE, at=AT)
    found = read_preferences(tmp_path)
    assert [entry.id for entry in found.entries] == [SKIP.id]
    assert found.reopened["person:anon-3f"].id == CHOICE.id
    assert (tmp_path / PREFERENCES).read_bytes().startswith(before)


def test_next_line_ends_that_an_answer_is_reopened(tmp_path):
    append_entry(tmp_path, CHOICE)
    withdraw(tmp_path, CHOICE, at=AT)
    append_entry(tmp_path, replace(SKIP, by="person:other"))
    assert "person:anon-3f" in read_preferences(tmp_path).reopened
    append_entry(tmp_path, SKIP)
    assert read_preferences(tmp_path).reopened == {}


def test_bad_lines_are_skipped_and_reported(tmp_path):
    append_entry(tmp_path, CHOICE)
    lines = [
        b"not json",
        b'{"schema": "selfplay.preference/2"}',
        b'{"schema": "selfplay.preference/1", "choice": "perhaps"}',
        b'{"schema": "selfplay.preference/1", "withdraws": "nobody"}',
        b'{"schema": "selfplay.preference/1", "skips": ["one"]}',
        b'{"schema": "selfplay.preference/1", "choice": "tie", "at": 7}',
    ]
    with (tmp_path / PREFERENCES).open("ab") as file:
        file.write(b"\n".join(lines) + b"\n")
    append_entry(tmp_path, SKIP)
    found = read_preferences(tmp_path)
    assert len(found.entries) == 2
    assert [problem.partition(" ")[0] for problem in found.problems] == [f"preferences.jsonl:{n}:" for n in range(2, 8)]


def test_lines_of_the_first_writer_read_as_they_did(tmp_path):
    (tmp_path / PREFERENCES).write_bytes(GOLDEN.read_bytes())
    found = read_preferences(tmp_path)
    assert [(entry.id, getattr(entry, "choice", "skip")) for entry in found.entries] == [
        ("69b71ae2a588", "left"),
        ("9349a199aecf", "right"),
        ("87d19442cb37", "tie"),
        ("45d34447b248", "both_bad"),
        ("00f39d8c56f5", "skip"),
        ("f010480bd760", "right"),
        ("e7c1b20c9a7d", "left"),
    ]
    assert [one.probability_left for one in found.preferences] == [1.0, 0.0, 0.5, None, 0.0, 1.0]
    assert {(one.probability, one.turns, len(one.detail)) for one in found.preferences} == {(None, None, 0)}
    assert (found.problems, list(found.reopened)) == ((), ["person:other"])
    assert list(found.numbers.values()) == [1, 2, 3, 4, 5, 6, 9]


def test_golden_lines_are_written_as_they_were(tmp_path):
    (tmp_path / PREFERENCES).write_bytes(GOLDEN.read_bytes())
    entries = read_preferences(tmp_path).entries
    (tmp_path / "again").mkdir()
    append_entries(tmp_path / "again", entries)
    golden = GOLDEN.read_bytes().splitlines()
    # All but the one taken back, its withdrawal, and the one that had no id.
    assert (tmp_path / "again" / PREFERENCES).read_bytes().splitlines()[:6] == golden[:6]


def test_soft_labels_of_turns_come_back_with_what_was_measured(tmp_path):
    soft = replace(CHOICE, probability=0.8125, turns=(2, 4), detail={"first": 0.9, "orders": [0.7, 0.925]})
    append_entry(tmp_path, soft)
    (found,) = read_preferences(tmp_path).preferences
    assert found == replace(soft, stored_id=soft.id)
    assert (found.probability_left, found.chosen) == (0.8125, CHOICE.left)


def test_soft_label_that_says_what_the_choice_means_is_none(tmp_path):
    append_entry(tmp_path, replace(CHOICE, probability=1.0))
    (found,) = read_preferences(tmp_path).preferences
    assert (found.probability, found.probability_left) == (None, 1.0)


def test_of_two_bad_ones_nothing_is_learnt_whatever_the_soft_label():
    assert replace(CHOICE, choice="both_bad", probability=0.9).probability_left is None


def test_choices_between_different_turns_of_a_pair_have_different_ids():
    ids = {replace(CHOICE, turns=turns).id for turns in (None, (0, 0), (2, 2))}
    assert len(ids) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"probability_left": 1.01},
        {"probability_left": "likely"},
        {"turns": [1]},
        {"turns": [1, -1]},
        {"turns": [True, 1]},
    ],
)
def test_wrong_soft_labels_and_turns_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        preference_from_json({**preference_to_json(CHOICE), **wrong})


def test_rankings_and_ratings_come_back_beside_choices(tmp_path):
    entries = [CHOICE, RANKING, SKIP, RATING]
    append_entries(tmp_path, entries)
    found = read_preferences(tmp_path)
    assert list(found.entries) == [replace(entry, stored_id=entry.id) for entry in entries]
    assert [len(part) for part in (found.preferences, found.rankings, found.ratings)] == [1, 1, 1]


def test_rankings_can_be_withdrawn(tmp_path):
    append_entries(tmp_path, [RANKING, RATING])
    withdraw(tmp_path, RANKING, at=AT)
    assert read_preferences(tmp_path).entries == (replace(RATING, stored_id=RATING.id),)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"ids": ["a", "b"], "ranks": [1]}, "ranks"),
        ({"ids": ["a", "b"], "ranks": [1, 0]}, "ranks"),
        ({"ids": ["a", "a"], "ranks": [1, 2]}, "twice"),
        ({"ids": ["a"], "ranks": [1]}, "two conversations"),
        ({"conversation": "a", "value": 11, "low": 1, "high": 10}, "between"),
        ({"conversation": "a", "value": 1, "low": 1, "high": 1}, "between"),
        ({"conversation": 7, "value": 2, "low": 1, "high": 3}, "conversation"),
    ],
)
def test_wrong_rankings_and_ratings_are_skipped_and_reported(tmp_path, line, why):
    record = {"schema": "selfplay.preference/1", **ASKED, **line}
    (tmp_path / PREFERENCES).write_text(json.dumps(record) + "\n")
    (problem,) = read_preferences(tmp_path).problems
    assert why in problem


def test_appending_several_where_one_cannot_be_stored_adds_none(tmp_path):
    with pytest.raises(UserError, match="cannot be stored"):
        append_entries(tmp_path, [CHOICE, replace(CHOICE, detail={"odd": object()})])
    append_entries(tmp_path, [])
    assert not (tmp_path / PREFERENCES).exists()


def test_half_a_line_does_not_swallow_the_next(tmp_path):
    (tmp_path / PREFERENCES).write_bytes(b'{"schema": "selfplay.prefer')
    append_entry(tmp_path, CHOICE)
    found = read_preferences(tmp_path)
    assert [entry.id for entry in found.entries] == [CHOICE.id]
    assert len(found.problems) == 1


def test_no_file_is_no_preferences_and_one_that_cannot_be_written_says_so(tmp_path):
    assert read_preferences(tmp_path).entries == ()
    (tmp_path / PREFERENCES).mkdir()
    with pytest.raises(UserError, match=r"cannot write .*preferences\.jsonl"):
        append_entry(tmp_path, CHOICE)
    assert len(read_preferences(tmp_path).problems) == 1


FIELDS = st.sampled_from([*json.loads(DOCUMENTED), "id", "why", "strength", "turns", "detail"])


@given(record=st.dictionaries(FIELDS, st.none() | st.text() | st.floats() | st.lists(st.text()), max_size=8))
def test_any_field_of_any_kind_is_read_or_refused(record):
    try:
        preference = preference_from_json({**json.loads(DOCUMENTED), **record})
    except UserError:
        return
    assert preference_from_json(preference_to_json(preference)).choice == preference.choice
    json.dumps(preference_to_json(preference), allow_nan=False)
