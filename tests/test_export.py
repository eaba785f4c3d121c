import csv
import json
from pathlib import Path

import pytest
from six_conversations import IDS, write_six

from selfplay.commands import main
from selfplay.errors import UserError
from selfplay.export import Request, export, export_rows
from selfplay.export.private import without_private
from selfplay.export.trl import pair_of
from selfplay.preferences import Preference, append_entry
from selfplay.store import RunReader
from selfplay.transcript_index import TranscriptIndex

CASES = json.loads((Path(__file__).parent / "data" / "filter_cases.json").read_text(encoding="utf-8"))
SYSTEM, OPENER = {"role": "system", "content": "Chat."}, {"role": "user", "content": "Chat. Begin."}
HELLO = "Hello there, rain?"
ANY_SPLIT = "split=train,held_out"
TARGETS = ("html", "inspect", "trl", "openai", "parquet", "csv")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_six(tmp_path_factory.mktemp("runs") / "six")


def lines_of(run, out, **settings):
    result = export(run, Request(out=out, **settings))
    assert result.path == out
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert result.num == len(lines)
    return lines, result.notes


def prefer(run, left, right, choice, focus="host"):
    at = f"2026-11-22T10:00:00.{left}{right}0Z"
    append_entry(
        run,
        Preference(
            at=at, left=IDS[left], right=IDS[right], focus=focus, question="Who?", choice=choice, by="person:anon-3f"
        ),
    )


def changed(tmp_path, change):
    """Return the run with every record changed."""
    run = write_six(tmp_path / "changed")
    for file in (run / "conversations").glob("*.jsonl"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        for record in records:
            change(record)
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def written(run, out, to, **settings):
    """Return all text that an export writes."""
    export(run, Request(to=to, out=out, **settings))
    if to == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        return json.dumps([parquet.read_table(file).to_pylist() for file in sorted(out.iterdir())])
    return "".join(file.read_text(encoding="utf-8") for file in (out.iterdir() if out.is_dir() else [out]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["q"])
def test_filter_chooses_the_conversations_that_were_worked_out_by_hand(run, case):
    index = TranscriptIndex(run)
    index.refresh()
    try:
        if "error" in case:
            with pytest.raises(UserError):
                index.ids(case["q"])
        else:
            assert sorted(IDS.index(id) for id in index.ids(case["q"])) == case["ids"]
    finally:
        index.close()


# ----- openai -----


def test_openai_has_a_line_for_each_role_that_spoke_in_what_did_not_fail(run, tmp_path):
    lines, notes = lines_of(run, tmp_path / "out.jsonl", to="openai")
    # Two roles of four conversations, and the host of the truncated one.
    assert len(lines) == 9
    assert lines[0] == {"messages": [SYSTEM, OPENER, {"role": "assistant", "content": HELLO}]}
    assert lines[1]["messages"][1:] == [
        {"role": "user", "content": HELLO},
        {"role": "assistant", "content": "What do you like?"},
    ]
    assert notes == (
        "1 failed conversations are left out",
        "2 of the lines are of held-out scenarios: where='split=train' leaves them out",
    )


def test_openai_without_private_has_no_brief_and_no_opener_that_quotes_it(run, tmp_path):
    lines, _ = lines_of(run, tmp_path / "out.jsonl", to="openai", has_private=False, roles=("host",))
    begins = {"role": "user", "content": "Please begin."}
    assert lines[0]["messages"] == [begins, {"role": "assistant", "content": HELLO}]
    assert "secret" not in json.dumps(lines)


# ----- trl -----


def test_supervised_has_every_uncut_turn_of_trained_roles_after_what_they_knew(run, tmp_path):
    lines, notes = lines_of(run, tmp_path / "out.jsonl", to="trl")
    # 0 and 1: two turns each; 2: only the host is trained; 3 is held out; 4 failed; 5 is cut.
    assert len(lines) == 5
    assert lines[1] == {
        "prompt": [SYSTEM, {"role": "user", "content": HELLO}],
        "completion": [{"role": "assistant", "content": "What do you like?"}],
    }
    held_out = "1 held-out conversations are left out: a where= that names split takes them"
    assert set(notes) == {
        "1 turns that a limit cut are left out",
        "1 failed conversations are left out",
        held_out,
    }


@pytest.mark.parametrize(("where", "num"), [("split=train,held_out", 6), ("!split=train", 1), ("turns>0", 5)])
def test_held_out_conversations_are_for_training_only_where_the_filter_names_splits(run, tmp_path, where, num):
    lines, _ = lines_of(run, tmp_path / "out.jsonl", to="trl", where=where)
    assert len(lines) == num


def test_a_filter_cannot_open_what_the_split_closes(run, tmp_path):
    with pytest.raises(UserError, match="filter"):
        export(run, Request(to="trl", out=tmp_path / "out.jsonl", where="reward>3) | (reward<9"))
    with pytest.raises(UserError, match="all 1 conversations that fit are held out"):
        export(run, Request(to="trl", out=tmp_path / "out.jsonl", where="seed=9"))


def test_supervised_by_label_is_only_what_people_chose(tmp_path):
    run = write_six(tmp_path / "run")
    prefer(run, 0, 2, "right")
    lines, notes = lines_of(run, tmp_path / "out.jsonl", to="trl", source="labels")
    assert [line["completion"][0]["content"] for line in lines] == ["Rivers move."]
    assert "1 turns are of conversations that people did not choose" in notes


def test_a_run_that_trained_nobody_is_told_which_roles_there_are(tmp_path):
    run = changed(tmp_path, lambda record: [player.update(trained=False) for player in record["players"].values()])
    for kind in ("supervised", "unpaired", "preference"):
        with pytest.raises(UserError, match="no role was trained; choose with roles=host,guest"):
            export(run, Request(to="trl", out=tmp_path / "out.jsonl", kind=kind, where="reward<9 & !status=failed"))


def test_groups_of_one_are_not_counted_and_others_once(run, tmp_path):
    wanted = Request(to="trl", out=tmp_path / "out.jsonl", kind="preference", gap=100.0)
    with pytest.raises(UserError, match=r": 1 groups are too even in their rewards$"):
        export(run, wanted)
    with pytest.raises(UserError, match="no group has two conversations"):
        export(run, Request(to="trl", out=tmp_path / "out.jsonl", kind="preference", where="step>0"))


def test_pair_by_reward_is_the_best_and_the_worst_at_the_first_difference(run, tmp_path):
    # Their briefs differ: without them the prompts are the same.
    wanted = {"to": "trl", "kind": "preference", "has_private": False}
    lines, notes = lines_of(run, tmp_path / "out.jsonl", **wanted, where="group=000000-g00")
    # The guests' rewards are 1 and -1; both hosts said the same.
    assert lines == [
        {
            "prompt": [{"role": "user", "content": HELLO}],
            "chosen": [{"role": "assistant", "content": "What do you like?"}],
            "rejected": [{"role": "assistant", "content": "I am so sorry."}],
        }
    ]
    assert notes == ("1 pairs say the same",)
    with pytest.raises(UserError, match="too even"):
        export(run, Request(**wanted, out=tmp_path / "none.jsonl", gap=2.5))


def test_pairs_need_the_same_prompt_and_another_answer(run):
    reader = RunReader(run)
    first, second = (reader.conversation(id) for id in IDS[:2])
    assert "heard" in pair_of(first, second, "guest")
    assert pair_of(first, first, "guest") == "pairs say the same"
    third = reader.conversation(IDS[2])
    assert "heard" not in pair_of(first, third, "host")
    assert pair_of(first, third, "host") == {
        "prompt": [SYSTEM, OPENER],
        "chosen": [{"role": "assistant", "content": HELLO}],
        "rejected": [{"role": "assistant", "content": "Rivers move."}],
    }


def test_pairs_by_label_follow_people_and_leave_out_ties(tmp_path):
    run = write_six(tmp_path / "run")
    prefer(run, 0, 2, "right")
    prefer(run, 0, 3, "tie")
    prefer(run, 2, 3, "both_bad")
    prefer(run, 0, 4, "left")
    lines, notes = lines_of(run, tmp_path / "out.jsonl", to="trl", kind="preference", source="labels", where=ANY_SPLIT)
    assert [line["chosen"][0]["content"] for line in lines] == ["Rivers move."]
    assert [line["rejected"][0]["content"] for line in lines] == [HELLO]
    assert set(notes) == {
        "2 choices are ties, or find both bad",
        "1 choices are about conversations that failed, or do not fit the filter",
    }


def test_unpaired_by_label_counts_choices_and_both_bad_is_bad(tmp_path):
    run = write_six(tmp_path / "run")
    prefer(run, 0, 2, "right")
    prefer(run, 2, 3, "both_bad")
    lines, _ = lines_of(run, tmp_path / "out.jsonl", to="trl", kind="unpaired", source="labels", where=ANY_SPLIT)
    # 2: once chosen, once bad, so nothing; 0 was not chosen; 3 was bad.
    assert [(line["completion"][0]["content"], line["label"]) for line in lines] == [
        (HELLO, False),
        ("=1+1 costs a|b", False),
    ]


def test_unpaired_by_reward_compares_turns_with_the_threshold(run, tmp_path):
    lines, _ = lines_of(run, tmp_path / "out.jsonl", to="trl", kind="unpaired", threshold=0.0, where=ANY_SPLIT)
    # Rewards of the six turns: 1, 1, -0.5, -1, 1.5, 0.  Conversation 1 is the second.
    assert [line["label"] for line in lines] == [True, True, False, False, False, True]


def test_trl_without_any_line_says_why_and_leaves_no_file(run, tmp_path):
    with pytest.raises(UserError, match="no labels"):
        export(run, Request(to="trl", out=tmp_path / "out.jsonl", kind="preference", source="labels"))
    with pytest.raises(UserError, match="no line of kind=supervised"):
        export(run, Request(to="trl", out=tmp_path / "out.jsonl", where="status=failed"))
    assert list(tmp_path.iterdir()) == []


# ----- tables -----


def test_csv_has_a_row_for_each_conversation_and_each_turn(run, tmp_path):
    export(run, Request(to="csv", out=tmp_path / "out"))
    with (tmp_path / "out" / "conversations.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    with (tmp_path / "out" / "turns.csv").open(encoding="utf-8", newline="") as file:
        turns = [row for row in csv.DictReader(file) if row["conversation"] == IDS[3]]
    assert len(rows) == 6
    assert float(rows[IDS[0]]["reward"]) == 2.0
    assert rows[IDS[4]]["reward"] == ""
    assert json.loads(rows[IDS[0]]["private"])["host"] == {"persona": "likes 0"}
    # A spreadsheet would compute the text.
    assert [turn["text"] for turn in turns] == ["'=1+1 costs a|b", "It was"]
    assert turns[1]["is_cut"] == "true"
    assert (turns[1]["raw.praise"], turns[1]["why.praise"]) == ("", "nothing to praise")


def test_parquet_holds_the_same_with_types(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(run, Request(to="parquet", out=tmp_path / "out"))
    rows = parquet.read_table(tmp_path / "out" / "conversations.parquet").to_pylist()
    turns = parquet.read_table(tmp_path / "out" / "turns.parquet").to_pylist()
    by_id = {row["id"]: row for row in rows}
    assert by_id[IDS[1]]["reward"] == -1.5
    assert by_id[IDS[4]]["reward"] is None
    assert by_id[IDS[1]]["protocol_ok"] is False
    assert len(turns) == 2 * 4 + 2
    assert turns[1]["text"] == "What do you like?"


# ----- what is private -----


def test_without_private_keeps_what_was_said_aloud_and_nothing_else(run):
    record = RunReader(run).record(IDS[1])
    public = without_private(record)
    assert [turn["heard_text"] for turn in public["turns"]] == ["", HELLO]
    assert "secret" not in json.dumps(public)
    assert "likes" not in json.dumps(public)
    assert public["outcome"]["facts"] == {}
    assert public["turns"][1]["text"] == "I am so sorry."


def plant(record):
    """Put a canary wherever something private, or of a reader's own, can stand."""
    record["scenario"]["hint"] = record["unknown"] = record["origin"]["host"] = "CANARY field"
    record["scenario"]["env"] = "/home/CANARY/envs/talk"
    for player in record["players"].values():
        player |= {"brief": "CANARY brief", "model": "/home/CANARY/models/small"}
        player["sampling"] = {"temperature": 1.0, "stop": "CANARY stop"}
    for role in record["scenario"]["roles"]:
        record["scenario"]["private"][role] = {"word": "CANARY private"}
    first = record["turns"][0]
    first |= {"heard_text": "CANARY opener", "thought": "CANARY thought"}
    first["action"] = {"kind": "guess", "value": "CANARY value", "legal": True}
    record["outcome"]["facts"] = {"said": "CANARY facts"}
    record |= {"error": "CANARY error", "tags": ["CANARY tag"]}
    if record.get("rewards"):
        record["rewards"]["note"] = "CANARY note"
        for part in record["rewards"]["parts"]:
            part["why"] = "CANARY why"


def plant_beside(run):
    score = {"name": "question", "raw": 1, "status": "ok", "why": "CANARY of a score"}
    line = {"schema": "selfplay.annotation/1", "at": "2026-11-22T05:12:40Z", "conversation": IDS[0], "turn": 0}
    tag = {**line, "by": "person:CANARY", "kind": "tag", "data": {"tag": "CANARY tag", "remove": False}}
    with (run / "annotations.jsonl").open("a") as file:
        for one in ({**line, "by": "rescore", "kind": "score", "data": score}, tag):
            file.write(json.dumps(one) + "\n")
    alarm = {"schema": "selfplay.alarm/1", "at": line["at"], "step": 1, "name": "x", "state": "began", "look_at": []}
    (run / "alarms.jsonl").write_text(json.dumps({**alarm, "text": "CANARY alarm"}) + "\n")
    manifest = json.loads((run / "run.json").read_text())
    places = {"command": "train CANARY", "model": "/home/CANARY/models/small", "env": "/home/CANARY/env.py"}
    (run / "run.json").write_text(json.dumps({**manifest, **places}))
    (run / "config.yaml").write_text("env: {default_brief: CANARY config}\n")
    prefer(run, 0, 2, "left")


@pytest.mark.parametrize("to", TARGETS)
def test_without_private_no_target_says_what_is_not_for_others(tmp_path, to):
    run = changed(tmp_path, plant)
    plant_beside(run)
    where = '!brief~"CANARY filter" & split=train'
    said = written(run, tmp_path / "out", to, has_private=False, has_tokens=True, where=where)
    assert "CANARY" not in said
    assert str(tmp_path) not in said
    assert "Rivers move." in said
    # What was planted was there to be found.
    assert "CANARY" in written(run, tmp_path / "all", to, where=where)


def test_without_private_a_record_has_only_known_fields(tmp_path):
    plain = json.loads((changed(tmp_path, plant) / "conversations" / "train-000.jsonl").read_text().splitlines()[0])
    public = without_private(plain)
    assert public["players"]["host"]["model"] == "small"
    assert public["scenario"]["env"] == "talk"
    assert public["players"]["host"]["sampling"] == {"temperature": 1.0}
    assert public["turns"][0]["action"] == {"kind": "guess", "legal": True}
    assert public["error"] == "left out"


# ----- what other writers may store -----


@pytest.mark.parametrize("to", TARGETS)
def test_every_target_takes_half_a_surrogate_pair_and_numbers_that_are_none(tmp_path, to):
    def change(record):
        record["turns"][0] |= {"text": "Half \ud83d here", "seconds": 1e999, "num_tokens": 2**70}
        record["scenario"]["public"] = {"topic": "rain \udc00", "level": 1e999}
        record["outcome"]["facts"] = {"far": -1e999}

    run = changed(tmp_path, change)
    for file in (run / "conversations").glob("*.jsonl"):
        file.write_text(file.read_text().replace("Infinity", "1e999"))
    said = written(run, tmp_path / "out", to, where=ANY_SPLIT)
    assert "Half \ufffd here" in said or "Half \\ufffd here" in said


# ----- destinations and commands -----


def test_nothing_is_ever_replaced(run, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export(run, Request(to="openai", out=out))
    assert out.read_text() == "mine"


def test_export_that_fails_halfway_leaves_nothing(run, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("selfplay.export.openai.chat_messages", fails)
    with pytest.raises(UserError, match="No space left"):
        export(run, Request(to="openai", out=tmp_path / "out.jsonl"))
    assert list(tmp_path.iterdir()) == []


def test_unknown_role_and_empty_choice_are_said(run, tmp_path):
    with pytest.raises(UserError, match="no role 'giver'"):
        export(run, Request(to="openai", out=tmp_path / "a", roles=("giver",)))
    with pytest.raises(UserError, match="no conversation of run six fits where=turns>9"):
        export(run, Request(to="openai", out=tmp_path / "b", where="turns>9"))


def test_limit_keeps_the_newest_and_says_how_many_are_left_out(run, tmp_path):
    lines, notes = lines_of(run, tmp_path / "out.jsonl", to="openai", limit=1)
    assert lines[0]["messages"][-1]["content"] == "Grüße, ÜBER alles"
    assert notes[0] == "5 older conversations are left out: limit=0 takes them all"


def test_page_downloads_rows_as_csv_and_records_as_json(run, tmp_path):
    rows = export_rows(run, "csv", "sorry", tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3
    found = json.loads(export_rows(run, "json", "reward>1", tmp_path / "found.json").read_text())
    assert [record["id"] for record in found["conversations"]] == [IDS[0], IDS[2]]


def test_command_writes_beside_us_and_says_what(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "six", f"runs={run.parent}", "to=openai", "where=reward<0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == "six-openai.jsonl"
    assert said["num"] == 2
    assert len(Path("six-openai.jsonl").read_text().splitlines()) == 2


def test_command_without_a_format_names_them(run, capsys):
    assert main(["export", "six", f"runs={run.parent}"]) != 0
    assert "html, inspect, trl, openai, parquet, csv" in capsys.readouterr().err
