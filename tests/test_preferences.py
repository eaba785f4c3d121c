"""Preferences on disk: what is written comes back, what is taken back is gone, and broken lines break nothing."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.errors import UserError
from selfplay.preferences import (
    PREFERENCES,
    Preference,
    Skip,
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


FIELDS = st.sampled_from([*json.loads(DOCUMENTED), "id", "why", "strength"])


@given(record=st.dictionaries(FIELDS, st.none() | st.text() | st.floats() | st.lists(st.text()), max_size=8))
def test_any_field_of_any_kind_is_read_or_refused(record):
    try:
        preference = preference_from_json({**json.loads(DOCUMENTED), **record})
    except UserError:
        return
    assert preference_from_json(preference_to_json(preference)).choice == preference.choice
    json.dumps(preference_to_json(preference), allow_nan=False)
