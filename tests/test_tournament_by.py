"""Entries that are compared by a judge, a reward model or people, where nothing is paid."""

import json
import math
import shlex
from dataclasses import replace

import numpy as np
import pytest

from envs.chitchat import ChitChat
from selfplay.commands import main
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, Turn
from selfplay.errors import UserError
from selfplay.judge.pairs import PairJudge
from selfplay.label_by import AutoLabel, JudgeLabeller
from selfplay.preferences import Preference, Ranking, append_entries, read_preferences
from selfplay.reward_model.fit import fit
from selfplay.reward_model.folder import save
from selfplay.reward_model.settings import FitSettings
from selfplay.store import RunWriter
from selfplay.tournament_by import (
    RewardModelLabeller,
    elo_tournament_of,
    judge_measures,
    pairs_of,
    said_of,
    store_said,
    talk_matches,
)
from selfplay.tournament_json import elo_tournament_to_json, judged_pairs_to_json, pair_filter
from selfplay.tournament_labels import elo_of_labels
from tests.judge_readers import ScriptedReader, likes_word
from tests.reward_model_talks import judged_pairs

ROLES = ("host", "guest")


def talk(says, *, seed=0, index=0, player=None, has_failed=False):
    """Return a conversation of two turns: both roles say the same thing."""
    player = player or PlayerInfo(policy="learner", version=1, model="tiny", trained=True)
    turns = (
        Turn(role="host", text=says, heard_text="Begin.", player=player.label),
        Turn(role="guest", text=says, heard_text=says, player=player.label),
    )
    ended = Outcome(status="failed", reason="timeout") if has_failed else Outcome(status="terminated", reason="leaving")
    return Conversation(
        id=f"000000-p{seed:02d}-{index}",
        scenario=Scenario(env="chitchat", seed=seed, split="held_out", roles=ROLES),
        players=dict.fromkeys(ROLES, player),
        turns=turns,
        outcome=ended,
    )


def talks_of(**said):
    """Return entry -> its talks: as many as texts, on scenarios 0, 1, ..."""
    return {
        name: [talk(text, seed=seed, index=index) for seed, text in enumerate(texts)]
        for index, (name, texts) in enumerate(said.items())
    }


class Counts:
    """Prefers the talk that says a word more often; says nothing of what has a question mark."""

    by, question, needs_tokens = "counts", "Which says it more often?", False

    def __init__(self, word="good"):
        self.word, self.num_asked, self.is_finished = word, 0, False

    def label(self, pairs):
        self.num_asked += len(pairs)
        return [self.of(pair) for pair in pairs]

    def of(self, pair):
        left, right = (one.turns_of(pair.focus)[0].text for one in (pair.left, pair.right))
        if "?" in left + right:
            return None
        more = left.count(self.word) - right.count(self.word)
        probability = 0.5 + 0.5 * np.sign(more).item()
        return AutoLabel(probability=probability, choice="left" if more > 0 else "right" if more < 0 else "tie")

    def finish(self):
        self.is_finished = True


def held(talks, labeller, **changes):
    return elo_tournament_of(talks, labeller, said_of(pairs_of(talks), labeller), seed=0, **changes)


# ----- what is played and compared -----


def test_talk_matches_give_every_role_to_one_entry_on_the_same_scenario_with_own_draws():
    matches = talk_matches(ChitChat(), ["b", "a"], seed=3, num_scenarios=2)
    assert [match.id for match in matches] == ["000000-p00-0", "000000-p00-1", "000000-p01-0", "000000-p01-1"]
    assert [set(match.players.values()) for match in matches] == [{"a"}, {"b"}] * 2
    assert matches[0].scenario == matches[1].scenario != matches[2].scenario
    assert len({match.seed for match in matches}) == 4
    assert {match.scenario.split for match in matches} == {"held_out"}


def test_pairs_are_those_of_two_entries_on_one_scenario_from_each_role():
    talks = talks_of(a=["x", "y"], b=["z", "w"], c=["u", "v"])
    pairs = pairs_of(talks)
    # Two scenarios, three pairs of entries, two roles.
    assert len(pairs) == 12
    assert all(pair.pair.left.scenario == pair.pair.right.scenario for pair in pairs)
    assert {(pair.first, pair.second, pair.pair.focus) for pair in pairs} == {
        (one, other, role) for one, other in ("ab", "ac", "bc") for role in ROLES
    }


def test_a_talk_that_failed_takes_only_its_own_pairs_along():
    talks = talks_of(a=["good", "good"], b=["bad", "bad"], c=["so", "so"])
    talks["a"][0] = replace(talks["a"][0], outcome=Outcome(status="failed", reason="timeout"))
    found = held(talks, Counts())
    assert found.table.entry("a").num == 4
    assert found.table.entry("b").num == 6
    assert found.left_out == {"talk failed": 1}


def test_what_reads_the_same_is_a_tie_that_nobody_is_asked_about():
    labeller = Counts()
    found = held(talks_of(a=["good", "x", "y"], twin=["good", "x", "y"]), labeller)
    assert labeller.num_asked == 0
    assert labeller.is_finished
    assert found.num_same == 6
    assert [(entry.elo, entry.tie_share) for entry in found.table.entries] == [(0.0, 1.0)] * 2


def test_elo_follows_what_was_preferred():
    # On 16 of 25 scenarios a says it more often: 64%, from both roles.
    texts = ["good"] * 16 + ["bad"] * 9
    found = held(talks_of(a=texts, b=["so"] * 16 + ["good"] * 9), Counts())
    assert found.table.pairs[0].difference == pytest.approx(99.95, abs=0.3)
    assert found.table.num == 50
    assert found.table.num_scenarios == 25
    assert found.by == "counts"


def test_what_has_no_answer_is_left_out_and_counted():
    found = held(talks_of(a=["good", "well?", "bad"], b=["so", "so", "good"]), Counts())
    assert found.table.num == 4
    assert found.left_out == {"without an answer": 2}


def test_entries_that_nothing_connects_are_refused():
    talks = talks_of(a=["good"], b=["bad"], c=["so"])
    talks["c"] = [talk("so", index=2, has_failed=True)]
    with pytest.raises(UserError, match=r"not connected, .*: a, b and c; 1 conversations failed"):
        held(talks, Counts())
    with pytest.raises(UserError, match=r"not connected.*: a and b; counts had no answer"):
        held(talks_of(a=["what?"], b=["so"]), Counts())


# ----- judges and reward models -----


def test_a_judge_is_asked_in_both_orders_and_its_bias_to_a_letter_cancels():
    reader = ScriptedReader(likes_word("good", bias_to_a=2.0))
    labeller = JudgeLabeller(PairJudge(model="script", reader=reader))
    talks = talks_of(a=["so"] * 4, b=["is it"] * 4)
    said = said_of(pairs_of(talks), labeller)
    # Neither says the word: A has sigmoid(2) in both orders, so both are even, and that is a tie.
    found = elo_tournament_of(talks, labeller, said, seed=0)
    assert [entry.elo for entry in found.table.entries] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert found.table.entry("a").tie_share == 1.0
    # From two roles, in two orders; on all four scenarios the question is the same.
    assert len(reader.asked) == 2 * 2
    assert judge_measures(pairs_of(talks), said).position.value == pytest.approx(2 / (1 + math.exp(-2)) - 1)


def test_a_judges_probability_counts_as_such():
    labeller = JudgeLabeller(PairJudge(model="script", reader=ScriptedReader(likes_word("good"))))
    found = held(talks_of(a=["good"] * 6, b=["bad"] * 6), labeller)
    # Each role's dialog shows the word twice, and the log-odds grow by 1 with each: 2 nats, 347 points.
    assert found.table.pairs[0].difference == pytest.approx(2 * 173.72, rel=0.02)
    assert found.table.entry("a").win_share == pytest.approx(1 / (1 + math.exp(-2)))


class Members:
    """Two members with log-odds of their own."""

    def __init__(self, *logits):
        self.logits = logits

    def probabilities(self, examples):
        return np.array([[1 / (1 + math.exp(-logit)) for logit in self.logits] for _ in examples])


def test_a_reward_models_difference_of_1_is_174_points():
    found = held(talks_of(a=["x"] * 9, b=["y"] * 9), RewardModelLabeller(Members(1.0, 1.0), name="chat"))
    assert found.by == "rm:chat"
    assert found.table.pairs[0].difference == pytest.approx(173.72, rel=0.02)


def test_members_of_a_reward_model_are_averaged_and_even_odds_are_a_tie():
    [label] = RewardModelLabeller(Members(2.0, -2.0), name="chat").label([pairs_of(talks_of(a=["x"], b=["y"]))[0].pair])
    assert label == AutoLabel(probability=0.5, choice="tie")
    [label] = RewardModelLabeller(Members(math.nan), name="x").label([pairs_of(talks_of(a=["x"], b=["y"]))[0].pair])
    assert label is None


def test_json_has_null_for_what_is_not_known():
    found = json.loads(json.dumps(elo_tournament_to_json(held(talks_of(a=["good"], b=["bad"]), Counts()))))
    assert found["schema"] == "selfplay.elo/1"
    assert [entry["name"] for entry in found["entries"]] == ["a", "b"]
    # One scenario alone has no interval.
    assert found["entries"][0]["low"] is None
    assert found["pairs"][0]["first_won"] == 2.0


def test_json_says_what_each_comparison_rests_on():
    found = held(talks_of(a=["so", "good"], b=["good", "good"]), Counts())
    rests_on = json.loads(json.dumps(judged_pairs_to_json(found)))
    # Two scenarios, two roles; on the second both say the same.
    assert [(one["role"], one["first_id"], one["second_id"], one["preferred"]) for one in rests_on] == [
        ("host", "000000-p00-0", "000000-p00-1", "b"),
        ("guest", "000000-p00-0", "000000-p00-1", "b"),
        ("host", "000000-p01-0", "000000-p01-1", None),
        ("guest", "000000-p01-0", "000000-p01-1", None),
    ]
    assert (rests_on[0]["by"], rests_on[0]["question"]) == ("counts", "Which says it more often?")
    assert [one["detail"] for one in rests_on] == [{}, {}, {"is_same": True}, {"is_same": True}]
    assert rests_on[0]["filter"] == "id=000000-p00-0,000000-p00-1"


def test_table_as_json_says_whose_each_talk_is_and_what_finds_those_of_two():
    table = elo_tournament_to_json(held(talks_of(a=["so", "good"], b=["good", "good"]), Counts()))
    assert table["talks"] == {"a": ["000000-p00-0", "000000-p01-0"], "b": ["000000-p00-1", "000000-p01-1"]}
    assert [pair["filter"] for pair in table["pairs"]] == ["player=b,a"]
    assert pair_filter("null", 'odd & "name"') == 'player="null","odd & \\"name\\""'


# ----- stored labels -----


def stored(folder, conversations, labels, **manifest):
    with RunWriter.create(folder, {"env": "chitchat", **manifest}, "") as writer:
        for one in conversations:
            writer.append(one)
    append_entries(folder, labels)
    return folder


def choice(left, right, what, *, number=0, by="person:ann", **changes):
    return Preference(
        at=f"2026-01-01T00:00:{number:02d}.000Z",
        left=left,
        right=right,
        focus="host",
        question="Which?",
        choice=what,
        by=by,
        **changes,
    )


def versions(*numbers, num_scenarios=4):
    """Return a talk of each version on each scenario; version 0 is the model before training."""
    return [
        talk(
            f"I am {number}",
            seed=seed,
            index=index,
            player=PlayerInfo(policy="learner", version=number, model="tiny", trained=number > 0),
        )
        for seed in range(num_scenarios)
        for index, number in enumerate(numbers)
    ]


def test_labels_of_two_versions_make_elo(tmp_path):
    # Version 10 is preferred three times of four; whoever stands left.
    labels = [
        choice("000000-p00-0", "000000-p00-1", "right", number=0),
        choice("000000-p01-1", "000000-p01-0", "left", number=1),
        choice("000000-p02-0", "000000-p02-1", "right", number=2),
        choice("000000-p03-0", "000000-p03-1", "left", number=3),
    ]
    folder = stored(tmp_path / "chat", versions(0, 10), labels)
    found = elo_of_labels([folder], seed=0, anchor="tiny")
    assert [entry.name for entry in found.table.entries] == ["chat@10", "tiny"]
    # 400 log10(3) = 190.8, and the prior of 1000 points takes some of so few.
    assert found.table.entry("chat@10").elo == pytest.approx(190.8, rel=0.05)
    assert found.table.num_scenarios == 4
    assert found.by == "person"
    assert [one.preferred for one in found.judged] == ["chat@10", "chat@10", "chat@10", "tiny"]
    [second] = judged_pairs_to_json(found)[1:2]
    assert (second["run"], second["filter"]) == (str(folder), "id=000000-p01-1,000000-p01-0")
    assert (second["by"], second["question"]) == ("person:ann", "Which?")
    assert "filter" not in elo_tournament_to_json(found)["pairs"][0]


def test_what_no_label_says_of_two_policies_is_left_out(tmp_path):
    first = choice("000000-p00-0", "000000-p00-1", "right", number=0)
    labels = [
        first,
        choice("000000-p01-0", "000000-p01-1", "both_bad", number=1),
        choice("000000-p00-1", "000000-p00-0", "left", number=2, swap_of=first.id),
        choice("000000-p02-0", "000000-p03-0", "left", number=3),
        choice("000000-p02-0", "000009-p03-0", "left", number=4),
        choice("000000-p03-0", "000000-p03-1", "left", number=5, by="judge:tiny"),
    ]
    found = elo_of_labels([stored(tmp_path / "chat", versions(0, 10), labels)], seed=0)
    assert found.table.num == 1
    assert found.left_out == {
        "both bad": 1,
        "repeat with sides swapped": 1,
        "one policy with itself": 1,
        "conversation that is not there": 1,
    }
    by_judge = elo_of_labels([tmp_path / "chat"], seed=0, by="judge")
    assert by_judge.table.entries[0].name == "tiny"


def test_a_ranking_compares_each_two(tmp_path):
    ranking = Ranking(
        at="2026-01-01T00:00:00.000Z",
        ids=("000000-p00-0", "000000-p00-1", "000000-p00-2"),
        ranks=(2, 1, 2),
        focus="guest",
        question="Which?",
        by="person:ann",
    )
    found = elo_of_labels([stored(tmp_path / "chat", versions(0, 10, 20), [ranking])], seed=0)
    assert found.table.entry("chat@10").win_share == 1.0
    assert found.table.entry("tiny").tie_share == found.table.entry("chat@20").tie_share == 0.5


def test_versions_of_an_evaluation_are_its_runs(tmp_path):
    labels = [choice("000000-p00-0", "000000-p00-1", "right")]
    evaluation = stored(tmp_path / "out", versions(0, 10), labels, kind="eval", model="runs/chat@10")
    assert elo_of_labels([evaluation], seed=0).table.entries[0].name == "chat@10"


def test_labels_of_several_runs_are_of_one_table(tmp_path):
    one = stored(tmp_path / "one", versions(0, 10), [choice("000000-p00-0", "000000-p00-1", "right")])
    two = stored(tmp_path / "two", versions(0, 10), [choice("000000-p00-0", "000000-p00-1", "left")])
    found = elo_of_labels([one, two], seed=0)
    assert [entry.name for entry in found.table.entries] == ["one@10", "tiny", "two@10"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "run chat holds no label by person; `label RUN` asks people for some"),
        (
            [choice("000000-p00-0", "000000-p00-1", "left", by="judge:tiny")],
            "run chat holds no label by person; it holds 1 by judge, which by=labels:NAME takes",
        ),
        (
            [choice("000000-p00-0", "000000-p01-0", "left")],
            r"none of the 1 labels by person in run chat compares two policies \(one policy with itself 1\)",
        ),
        (
            [
                choice("000000-p00-0", "000000-p00-1", "left"),
                choice("000000-p01-2", "000000-p01-3", "left", number=1),
            ],
            "entries are not connected, so they have no common scale: chat@10, tiny and chat@20, chat@30",
        ),
    ],
)
def test_labels_that_make_no_table_are_refused(labels, message, tmp_path):
    folder = stored(tmp_path / "chat", versions(0, 10, 20, 30), labels)
    with pytest.raises(UserError, match=message):
        elo_of_labels([folder], seed=0)


def test_what_was_said_is_stored_as_preferences_and_gives_the_same_table(tmp_path):
    talks = {
        name: [
            replace(one, players=dict.fromkeys(ROLES, PlayerInfo(policy=name, model="tiny", version=0))) for one in own
        ]
        for name, own in talks_of(a=["good", "so", "good"], b=["bad", "good", "well"]).items()
    }
    folder = stored(tmp_path / "elo", [one for own in talks.values() for one in own], [], kind="tournament")
    labeller = Counts()
    said = said_of(pairs_of(talks), labeller)
    store_said(folder, said, labeller)
    assert len({one.id for one in read_preferences(folder).preferences}) == 6
    again = elo_of_labels([folder], seed=0, by="counts")
    assert again.table == elo_tournament_of(talks, labeller, said, seed=0).table


# ----- as it is typed -----

SMALL = ("env=chitchat", "env.max_turns=2", "conversations=3", "sampling.max_new_tokens=4", "engine.threads=1")


@pytest.mark.slow
def test_tournament_by_a_judge_stores_talks_and_what_was_said(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["tournament", "tiny:1", "scripted", *SMALL, "by=judge", "model=tiny", f"out={out}", "anchor=scripted"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == str(out)
    assert found["by"] == "judge:tiny"
    assert found["num"] == 3 * 2
    assert found["anchor"] == "scripted"
    assert found["measures"]["num"] == 6
    assert len(found["judged"]) == 6
    assert all(0.0 <= one["detail"]["first_order"] <= 1.0 for one in found["judged"])
    for pair in found["pairs"]:
        assert main(["ls", str(out), f"where={pair['filter']}", "--json"]) == 0
        # Each of the two has all roles of one talk on each scenario.
        rows = json.loads(capsys.readouterr().out)
        assert {row["id"] for row in rows} == {id for ids in found["talks"].values() for id in ids}
    assert json.loads((out / "elo.json").read_text())["entries"] == found["entries"]
    assert main(["tournament", str(out), "by=labels:judge", "anchor=scripted", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    for one, other in zip(found["entries"], again["entries"], strict=True):
        # Stored probabilities have six digits.
        assert one["name"] == other["name"]
        assert one["elo"] == pytest.approx(other["elo"], abs=0.01)


def test_labels_are_printed_with_how_to_find_what_they_compare(tmp_path, capsys):
    labels = [choice("000000-p00-0", "000000-p00-1", "right"), choice("000000-p01-1", "000000-p01-0", "left", number=1)]
    folder = stored(tmp_path / "chat", versions(0, 10), labels)
    assert main(["tournament", str(folder), "by=labels"]) == 0
    shown = capsys.readouterr().out
    assert "such as tiny and chat@10 as host" in " ".join(shown.split())
    hint = next(line for line in shown.splitlines() if " ls " in line)
    assert main(["ls", *shlex.split(hint.partition(" ls ")[2]), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in rows} == {"000000-p00-0", "000000-p00-1"}


@pytest.mark.slow
def test_tournament_by_a_reward_model_is_the_same_every_time(tmp_path, capsys):
    settings = FitSettings(backbone="words", ensemble=2)
    save(fit(judged_pairs(24, seed=0), judged_pairs(8, seed=1), settings, say=lambda _: None), tmp_path / "nice")
    words = ["tournament", "tiny:1", "tiny:2", "scripted", *SMALL, f"by=rm:{tmp_path}/nice"]
    assert main([*words, "--json"]) == 0
    first = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert capsys.readouterr().out == first
    assert json.loads(first)["by"] == "rm:nice"
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "9 comparisons" not in shown
    assert "18 comparisons on 3 scenarios by rm:nice" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["by=judge"], "by=judge needs the language model that judges: model=NAME"),
        (["by=people"], "by=people: must be judge with model=NAME, rm:PATH of a reward model, or labels"),
        (["by=rm"], "by=rm: must be judge"),
        (["by=rm:nowhere"], "nowhere"),
        (["by=rm:nowhere", "model=tiny"], "model= means nothing with by=rm:nowhere"),
        (["by=labels", "conversations=3"], "conversations= means nothing with by=labels"),
        (["by=judge", "model=tiny", "anchor=tony"], "anchor=tony: no entry has that name; did you mean tiny?"),
        (["by=judge", "model=nowhere"], "nowhere"),
        (["model=tiny:1"], "model=tiny:1: model= says nothing without by="),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = [] if "by=labels" in words else ["env=chitchat"]
    assert main(["tournament", "tiny", "scripted", *env, *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_one_entry_is_no_tournament(capsys):
    assert main(["tournament", "scripted", "env=chitchat", "by=judge", "model=tiny"]) == 2
    assert "only scripted takes part" in " ".join(capsys.readouterr().err.split())
