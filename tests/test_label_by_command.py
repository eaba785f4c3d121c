"""`label RUN by=...` as it is typed."""

import json

import pytest
import torch

from selfplay.commands import main
from selfplay.preferences import read_preferences
from tests.paired_runs import played, write_run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    (tmp_path / "runs").mkdir()
    siblings = [
        played(f"000001-g{group:02d}-{k}", seed=group, version=0, split="train", says="Why?" * k + "Well")
        for group in range(10)
        for k in range(3)
    ]
    return write_run(tmp_path / "runs" / "chat", siblings)


def test_gold_by_name_labels_and_says_what_comes_next(folder, capsys):
    assert main(["label", "chat", "by=gold:question", "n=20"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    num_ties = sum(one.choice == "tie" for one in read_preferences(folder).preferences)
    assert f"20 labels, {num_ties} of them ties, by gold:question added to runs/chat/preferences.jsonl" in said
    assert "reward train runs/chat by=gold:question" in said
    assert {one.by for one in read_preferences(folder).preferences} == {"gold:question"}


def test_gold_as_a_mix_of_ones_own_is_named_after_its_parts(folder, capsys):
    assert main(["label", "chat", "by=gold", "-r", "question=1", "-r", "copying=2", "n=5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["by"], found["labels"], found["measures"]) == ("gold:question=1,copying=2", 5, None)


def test_gold_may_be_a_mix_or_a_reward_in_a_file(folder, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def loud(turn):\n    return turn.text.count('?')\n")
    assert main(["label", "chat", "by=gold:mine.py:loud", "n=5"]) == 0
    assert main(["label", "chat", "by=gold:mix:vhrl", "n=5"]) == 0
    found = read_preferences(folder).preferences
    assert [one.by for one in found[::5]] == ["gold:mine.py:loud", "gold:mix:vhrl"]
    assert all((one.choice == "left") == (one.left > one.right) for one in found[:5])


def test_gold_takes_settings_of_its_reward(folder):
    assert main(["label", "chat", "by=gold:question", "rewards.question.form=way_off_policy", "n=3"]) == 0
    assert main(["label", "chat", "by=gold:question", "rewards.question.form=no_form", "n=3"]) == 2


def test_asking_for_more_pairs_than_there_are_says_so(folder, capsys):
    # 10 scenarios of three conversations have 30 pairs, of the host, who is trained.
    assert main(["label", "chat", "by=gold:question", "n=99"]) == 0
    assert "n=99: there were no more than 30 pairs" in capsys.readouterr().out
    assert main(["label", "chat", "by=gold:question"]) == 2
    assert "30 before, no other is left" in capsys.readouterr().err


def test_only_ties_are_said_to_teach_nothing(folder, capsys):
    assert main(["label", "chat", "by=gold:question", "focus=guest", "n=5"]) == 0
    said = capsys.readouterr().out
    assert "5 labels, 5 of them ties" in said
    assert "all of them are ties" in said
    assert "next:" not in said


def test_mostly_ties_are_said_and_older_clear_labels_are_worth_training_on(folder, capsys):
    assert main(["label", "chat", "by=gold:question", "n=5"]) == 0
    capsys.readouterr()
    assert main(["label", "chat", "by=gold:question", "focus=guest", "n=5"]) == 0
    said = capsys.readouterr().out
    assert "over half of them are ties, from which little can be learnt; try another reward" in said
    assert "next:" in said


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["by=gold"], "by=gold needs a reward that says what is better: by=gold:question"),
        (["by=judge:tiny"], "must be gold:REWARD, gold with -r REWARD=WEIGHT, or judge with model=NAME"),
        (["by=me"], "by=me: must be gold:REWARD"),
        (["by=gold:question", "-r", "copying=1"], "by=gold:question names its reward"),
        (["by=gold:question", "model=tiny"], "model= means nothing with by=gold:question"),
        (["by=judge", "gold_noise=0.1"], "gold_noise= means nothing with by=judge"),
        (["by=gold:question", "rm=x"], "rm= means nothing with sampler=uniform"),
        (["by=gold:question", "sampler=disagreement"], "rm=PATH"),
        (["by=gold:question", "sampler=disagreement", "rm=nowhere"], "nowhere"),
        (["by=gold:qestion"], "by=gold:qestion: there is no reward 'qestion'; did you mean question?"),
        (["by=gold", "-r", "rm:nowhere=1"], "-r rm:nowhere: there is no reward model 'nowhere'"),
        (["by=gold:rm:nowhere"], "by=gold:rm:nowhere: there is no reward model 'nowhere'"),
        (["by=gold:question", "rewards.question.role=hoost"], "is about role 'hoost'; run chat has host, guest"),
        (["--json"], "--json goes with by=gold or by=judge"),
        (["-r", "question=1"], "-r goes with by=gold or by=judge"),
        (["by=gold:self_overlap"], "compares a conversation with the others of its batch"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, capsys, words, problem):
    assert main(["label", "chat", *words]) == 2
    assert problem in capsys.readouterr().err
    assert not (folder / "preferences.jsonl").exists()


@pytest.mark.slow
def test_judge_labels_softly_and_is_measured(folder, capsys):
    words = ["label", "chat", "by=judge", "model=tiny", "n=8", "-r", "question_marks=1", "--json"]
    assert main(words) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert (found["by"], found["labels"]) == ("judge:tiny", 8)
    assert (found["measures"]["num"], found["measures"]["num_clear"]) == (8, 8)
    assert "the judge is the policy's own model (tiny)" in output.err
    for one in read_preferences(folder).preferences:
        # The mean over both orders: first_order is of the left one as (A), second_order of the right one as (A).
        orders = one.detail["first_order"], one.detail["second_order"]
        assert one.probability_left == pytest.approx((orders[0] + 1 - orders[1]) / 2, abs=2e-6)
        assert one.principle


def test_a_judge_takes_no_more_threads_than_it_is_told(folder):
    before = torch.get_num_threads()
    try:
        assert main(["label", "chat", "by=judge", "model=tiny", "n=2", f"threads={before + 1}"]) == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_help_names_both_ways_and_loads_no_model(capsys):
    assert main(["label", "--help"]) == 0
    assert "by=gold:REWARD" in capsys.readouterr().out
