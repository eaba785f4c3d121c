"""Labels of runs as examples: what is judged, what is left out, what must not be parted."""

from dataclasses import replace

import pytest
from six_conversations import IDS, write_six

from selfplay.errors import UserError
from selfplay.export import Request, export
from selfplay.labelling import Labeller
from selfplay.preferences import PREFERENCES, Preference, Ranking, Rating, Skip, append_entries, append_entry, withdraw
from selfplay.reward_model.examples import split_examples
from selfplay.reward_model.readers import read_data, run_examples
from selfplay.reward_model.settings import FitSettings
from selfplay.transcript_index import TranscriptIndex
from tests.paired_runs import played, write_run

AT = "2026-11-23T09:02:11.000Z"
QUESTION = "Who would you rather keep talking to?"


def prefers(left, right, choice="left", **more):
    known = {"at": AT, "focus": "host", "question": QUESTION, "by": "person:anon-3f"}
    return Preference(left=IDS[left], right=IDS[right], choice=choice, **{**known, **more})


@pytest.fixture
def run(tmp_path):
    return write_six(tmp_path / "six")


def test_choice_between_conversations_becomes_a_pair_seen_from_the_focus(run):
    append_entry(run, prefers(0, 2, "right", focus="guest"))
    (example,) = run_examples(run).examples
    assert (example.kind, example.targets, example.judged, example.source) == (
        "pair",
        (0.0,),
        "conversation",
        "person:anon-3f",
    )
    assert [message.text for message in example.dialogs[0].messages][-1] == "What do you like?"
    assert [message.is_focus for message in example.dialogs[0].messages] == [False, True]
    assert example.where == "six/preferences.jsonl:1"


def test_choice_between_turns_ends_with_them(run):
    append_entry(run, prefers(0, 2, turns=(0, 0), probability=0.75, by="judge:tiny"))
    (example,) = run_examples(run).examples
    assert (example.judged, example.targets) == ("turn", (0.75,))
    assert [dialog.messages[-1].text for dialog in example.dialogs] == ["Hello there, rain?", "Rivers move."]


def test_examples_of_one_scenario_share_a_key_and_others_do_not(tmp_path):
    run = write_run(
        tmp_path / "run",
        [played(f"000001-g{group:02d}-{k}", seed=group, version=1) for group in range(2) for k in range(4)],
    )
    ids = [(f"000001-g{group:02d}-{k}", f"000001-g{group:02d}-{k + 1}") for group in range(2) for k in (0, 2)]
    append_entries(run, [replace(prefers(0, 1), left=left, right=right) for left, right in ids])
    first, second, third, fourth = run_examples(run).examples
    # Pairs of one scenario have no conversation in common here, and stay together all the same.
    assert set(first.keys) & set(second.keys) == {"scenario:chitchat/held_out/0"}
    assert set(third.keys) & set(fourth.keys) == {"scenario:chitchat/held_out/1"}
    assert not set(first.keys) & set(third.keys)


def test_conversations_of_two_runs_with_the_same_id_have_different_keys(tmp_path):
    keys = []
    for number, name in enumerate(("one", "other")):
        conversations = [played(f"000001-g00-{k}", seed=number, version=1) for k in range(2)]
        run = write_run(tmp_path / name, conversations)
        append_entry(run, replace(prefers(0, 1), left="000001-g00-0", right="000001-g00-1"))
        keys.append(set(run_examples(run).examples[0].keys))
    assert not keys[0] & keys[1]


def test_ties_count_and_bad_pairs_repeats_and_skips_are_left_out(run):
    first = prefers(0, 2)
    append_entries(
        run,
        [
            first,
            prefers(2, 0, "right", swap_of=first.id, at="later"),
            prefers(0, 1, "tie"),
            prefers(1, 2, "both_bad"),
            Skip(at=AT, left=IDS[0], right=IDS[5], focus="host", by="person:anon-3f"),
        ],
    )
    loaded = run_examples(run)
    assert [example.targets for example in loaded.examples] == [(1.0,), (0.5,)]
    assert loaded.notes == ("1 tie", "1 repeat with sides swapped left out", "1 both-bad left out")
    assert (loaded.num_lines, loaded.problems) == (4, ())


def test_repeat_of_what_was_taken_back_counts(run):
    first = prefers(0, 2)
    append_entries(run, [first, prefers(2, 0, "right", swap_of=first.id, at="later")])
    withdraw(run, first, at=AT)
    assert len(run_examples(run).examples) == 1


@pytest.mark.parametrize(
    ("by", "num"), [("", 3), ("person", 2), ("person:other", 1), ("judge", 1), ("gold", 0), ("jud", 0)]
)
def test_only_labels_of_who_is_asked_for_are_read(run, by, num):
    append_entries(
        run, [prefers(0, 2), prefers(0, 2, by="person:other"), prefers(0, 2, "right", by="judge:smollm2-135m")]
    )
    assert len(run_examples(run, by=by).examples) == num


def test_only_labels_of_the_conversations_asked_for_are_read(run):
    append_entries(run, [prefers(0, 2), prefers(0, 1)])
    assert len(run_examples(run, ids=IDS[:2]).examples) == 1


def test_ranking_keeps_its_ranks_and_one_winner_is_a_best(run):
    known = {"at": AT, "focus": "host", "question": QUESTION, "by": "person:anon-3f"}
    ids = (IDS[0], IDS[1], IDS[2])
    append_entries(
        run,
        [
            Ranking(ids=ids, ranks=(2, 1, 3), **known),
            Ranking(ids=ids, ranks=(3, 1, 3), **{**known, "by": "person:other"}),
            Ranking(ids=ids[:2], ranks=(1, 2), **known),
        ],
    )
    found = [(example.kind, example.targets, len(example.dialogs)) for example in run_examples(run).examples]
    assert found == [("ranking", (2.0, 1.0, 3.0), 3), ("best", (1.0,), 3), ("ranking", (1.0, 2.0), 2)]


def test_ratings_are_in_deviations_of_who_gave_them(run):
    known = {"at": AT, "focus": "host", "question": QUESTION, "low": 1.0, "high": 10.0}
    given = [("person:a", 0, 4.0), ("person:a", 2, 8.0), ("person:b", 0, 9.0)]
    append_entries(run, [Rating(conversation=IDS[k], value=value, by=by, **known) for by, k, value in given])
    # The first person's mean is 6 and deviation 2; the other's only rating is their mean.
    assert [example.targets for example in run_examples(run).examples] == [(-1.0,), (1.0,), (0.0,)]


def test_labels_that_cannot_be_used_are_numbered_and_too_many_stop(run):
    good = [prefers(0, 2, at=f"{number}") for number in range(40)]
    append_entries(run, [*good, prefers(0, 2, focus="judge"), replace(prefers(0, 2), left="000009-g00-0")])
    loaded = run_examples(run)
    assert len(loaded.examples) == 40
    assert loaded.problems == (
        "six/preferences.jsonl:41: role 'judge' says nothing in conversation 000000-g00-0",
        "six/preferences.jsonl:42: conversation 000009-g00-0 is not in the run",
    )
    append_entry(run, prefers(0, 2, turns=(1, 0)))
    # 3 of 43 are more than 5%.
    with pytest.raises(UserError, match=r"3 of 43 lines of .*preferences\.jsonl .*: line 41: role 'judge'"):
        run_examples(run)


def test_unreadable_lines_count_as_bad(run):
    (run / PREFERENCES).write_text("not json\n")
    append_entries(run, [prefers(0, 2, at=f"{number}") for number in range(19)])
    (problem,) = run_examples(run).problems
    assert problem.startswith("six/preferences.jsonl:1: not valid JSON")


def test_failed_conversations_and_pairs_that_read_the_same_teach_nothing(tmp_path):
    conversations = [
        played("000001-g00-0", seed=0, version=1, says="Hello 0 of"),
        played("000001-g00-1", seed=0, version=1, has_failed=True),
    ]
    run = write_run(tmp_path / "run", conversations)
    one, other = (scored.conversation.id for scored in conversations)
    append_entries(run, [replace(prefers(0, 1), left=one, right=right) for right in (one, other)])
    loaded = run_examples(run)
    assert loaded.examples == ()
    assert loaded.notes == ("1 label of what reads the same left out", "1 label of failed conversations left out")


def test_one_sided_choices_are_noted(run):
    append_entries(run, [prefers(0, 2, "right", at=f"{number}") for number in range(20)])
    assert run_examples(run).notes == (
        "one-sided: all 20 choices are for the right one, as of somebody who does not look",
    )


def test_run_with_nothing_but_ties_is_refused(run):
    append_entries(run, [prefers(0, 2, "tie"), prefers(0, 1, "tie")])
    with pytest.raises(UserError, match=r"prefers nothing to anything: all of it are ties"):
        read_data([str(run)], FitSettings())


def test_run_without_labels_and_one_of_bad_pairs_only_say_why(run):
    with pytest.raises(UserError, match=r"nothing to learn from: there are no labels in it"):
        read_data([str(run)], FitSettings())
    append_entry(run, prefers(0, 2, "both_bad"))
    with pytest.raises(UserError, match=r"nothing to learn from: 1 both-bad left out"):
        read_data([str(run)], FitSettings())


def test_run_is_found_by_its_name_its_path_and_its_file(run):
    append_entry(run, prefers(0, 2))
    for word, runs in (("six", run.parent), (str(run), "runs"), (str(run / PREFERENCES), "runs")):
        assert len(read_data([word], FitSettings(runs=runs)).examples) == 1


def test_split_keeps_scenarios_of_a_run_on_one_side(tmp_path):
    run = write_run(
        tmp_path / "run",
        [played(f"000001-g{group:02d}-{k}", seed=group, version=1) for group in range(10) for k in range(4)],
    )
    ids = [(f"000001-g{group:02d}-{k}", f"000001-g{group:02d}-{k + 1}") for group in range(10) for k in (0, 1, 2)]
    append_entries(run, [replace(prefers(0, 1), left=left, right=right) for left, right in ids])
    train, held_out = split_examples(run_examples(run).examples, held_out=0.3, seed=0)
    assert (len(train), len(held_out)) == (21, 9)
    assert not {key for example in train for key in example.keys} & {key for one in held_out for key in one.keys}


def others(by):
    """A ranking, a rating and a choice between turns."""
    known = {"at": AT, "focus": "host", "question": QUESTION, "by": by}
    return [
        Ranking(ids=(IDS[0], IDS[1]), ranks=(1, 2), **known),
        Rating(conversation=IDS[0], value=2.0, low=1.0, high=3.0, **known),
        prefers(0, 2, turns=(0, 0), by=by),
    ]


def test_labeller_passes_over_what_is_no_choice_between_a_pair(run):
    index = TranscriptIndex(run)
    index.refresh()
    labeller = Labeller(run, index, person="anon-3f")
    entries = others("person:anon-3f")
    append_entries(run, entries[:2])
    withdraw(run, entries[0], at=AT)
    assert labeller.next_pair() is not None
    assert (labeller.progress().done, labeller.undo()) == (0, None)
    index.close()


def test_export_of_labels_takes_choices_between_turns_for_nothing_else(run, tmp_path):
    append_entries(run, others("judge:tiny"))
    request = Request(to="trl", kind="unpaired", source="labels", out=tmp_path / "lines.jsonl")
    with pytest.raises(UserError, match="gives no line"):
        export(run, request)
