"""The `rewards` block of a transcript line."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selfplay.dialog import Conversation, Outcome, Scenario, ScoredConversation, Scores, Turn
from selfplay.line_files import RecordError, json_from_line, line_from_json
from selfplay.records_json import conversation_from_json, conversation_to_json
from selfplay.rewards_json import rewards_to_json, scored_from_json
from selfplay.score import Term

NAN = math.nan
WEIGHTS = {"payoff": 1.0, "brevity": 0.2, "coherence": 0.1}


def talk(outcome=None, error=None) -> Conversation:
    """Two roles, a turn each, as in the documented record."""
    turns = tuple(Turn(role=role, text="x", heard_text="", player="scripted") for role in ("giver", "guesser"))
    scenario = Scenario(env="taboo", seed=731, split="train", roles=("giver", "guesser"))
    ended = outcome or Outcome(status="terminated", reason="goal_reached")
    return Conversation(id="000420-g05-2", scenario=scenario, turns=turns, outcome=ended, error=error)


def scores(*values: float, why=()) -> Scores:
    return Scores(values=np.array(values, dtype=np.float32), why=why)


def scored(rewards=(1.15, 1.0), conversation=None, **parts) -> ScoredConversation:
    """The documented record's numbers."""
    shown = parts or {
        "payoff": scores(1.0, 1.0, why=("word guessed", "word guessed")),
        "brevity": scores(0.75, NAN, why=("8 tokens of 32", "")),
        "coherence": scores(NAN, NAN, why=("", "fewer than 3 words")),
    }
    rewards = np.array(rewards, dtype=np.float32)
    return ScoredConversation(conversation=conversation or talk(), rewards=rewards, parts=shown)


def stored(one: ScoredConversation, **settings) -> dict:
    """What a line of the run's file gives back."""
    weights, ranges = settings.pop("weights", WEIGHTS), settings.pop("ranges", {})
    bounds = {name: {"range": ranges[name]} if name in ranges else {} for name in weights}
    terms = {name: Term(weight=weight, **bounds[name], **settings) for name, weight in weights.items()}
    block = rewards_to_json(one, terms=terms)
    return json_from_line(line_from_json(conversation_to_json(one.conversation, rewards=block)))


def test_block_is_the_documented_one():
    block = stored(scored())["rewards"]
    assert (block["per_turn"], block["per_role"]) == ([1.15, 1.0], {"giver": 1.15, "guesser": 1.0})
    columns = ("name", "turn", "role", "raw", "weight", "value", "status", "why")
    # Copied from the documented record: 0.75 x 0.2 = 0.15
    assert [tuple(part[column] for column in columns) for part in block["parts"]] == [
        ("payoff", 0, "giver", 1.0, 1.0, 1.0, "ok", "word guessed"),
        ("payoff", 1, "guesser", 1.0, 1.0, 1.0, "ok", "word guessed"),
        ("brevity", 0, "giver", 0.75, 0.2, 0.15, "ok", "8 tokens of 32"),
        ("coherence", 1, "guesser", None, 0.1, None, "skipped", "fewer than 3 words"),
    ]


def test_scored_conversation_comes_back_as_it_was():
    one = scored()
    record = stored(one)
    back = scored_from_json(record, conversation_from_json(record))
    assert back.conversation.id == one.conversation.id
    np.testing.assert_allclose(back.rewards, one.rewards)
    assert list(back.parts) == list(one.parts)
    for name, part in one.parts.items():
        np.testing.assert_allclose(back.parts[name].values, part.values)
        assert back.parts[name].why == part.why
    assert back.rewards.dtype == back.parts["payoff"].values.dtype == np.float32


def test_gates_are_shown_as_gates_and_the_sums_hold():
    one = scored(rewards=(0.5, -1.0), much=scores(2.0, -1.0), calm=scores(0.25, 0.0))
    terms = {"much": Term(), "calm": Term(is_gate=True)}
    block = rewards_to_json(one, terms=terms)
    # 2 x 0.25, and a negative sum stays.
    assert [(part["value"], part.get("gate")) for part in block["parts"]] == [
        (2.0, None),
        (-1.0, None),
        (0.25, True),
        (0.0, True),
    ]
    record = conversation_to_json(one.conversation, rewards=block)
    assert scored_from_json(record, one.conversation).rewards.tolist() == [0.5, -1.0]
    record["rewards"]["per_turn"][0] = 2.0
    with pytest.raises(RecordError, match=r"turn 0 has 2, but what it is made of sums to 0\.5"):
        scored_from_json(record, one.conversation)


def test_sums_hold_where_a_gate_is_stored_rounded():
    gate, value = 0.0012345, 100.0
    one = scored(rewards=(gate * value, 0.0), much=scores(value, 0.0), calm=scores(gate, 1.0))
    block = rewards_to_json(one, terms={"much": Term(), "calm": Term(is_gate=True)})
    record = json_from_line(line_from_json(conversation_to_json(one.conversation, rewards=block)))
    assert scored_from_json(record, one.conversation).rewards[0] == pytest.approx(0.12345, abs=1e-4)


def test_what_a_reward_measured_beside_never_counts():
    one = scored(rewards=(1.0, 0.0), **{"much": scores(1.0, 0.0), "much.words": scores(7.0, 9.0)})
    block = rewards_to_json(one, terms={"much": Term()})
    assert [(part["name"], part["value"]) for part in block["parts"]][2:] == [("much.words", 0.0), ("much.words", 0.0)]


def test_source_of_a_reward_is_stored_and_tells_sets_apart():
    with_source = rewards_to_json(scored(), terms={name: Term(source="sha256:77aa") for name in WEIGHTS})
    without = rewards_to_json(scored(), terms={name: Term() for name in WEIGHTS})
    assert with_source["sources"] == dict.fromkeys(WEIGHTS, "sha256:77aa")
    assert "sources" not in without
    assert with_source["set"] != without["set"]


def test_part_counts_as_much_as_its_range_lets_it():
    one = scored(rewards=(2.0, -1.0), much=scores(9.0, -3.0))
    parts = stored(one, weights={"much": 0.5}, ranges={"much": (-2.0, 4.0)})["rewards"]["parts"]
    # 9 is clipped to 4, -3 to -2; the weight is a half
    assert [(part["raw"], part["value"]) for part in parts] == [(9.0, 2.0), (-3.0, -1.0)]


def test_conversation_that_was_never_scored_has_no_block():
    failed = talk(Outcome(status="failed", reason="player_error"), error="player_error: x")
    one = ScoredConversation(conversation=failed, rewards=np.full(2, NAN, dtype=np.float32))
    record = stored(one)
    assert "rewards" not in record
    assert scored_from_json(record, failed) is None


def test_reward_that_failed_says_so_and_leaves_no_zero():
    failed = talk(Outcome(status="failed", reason="timeout"), error="timeout: reward 'brevity' took too long")
    one = scored(rewards=(NAN, NAN), conversation=failed, payoff=scores(1.0, NAN))
    record = stored(one, weights={"payoff": 1.0, "brevity": 0.2})
    block = record["rewards"]
    assert (block["per_turn"], block["per_role"]) == ([None, None], {})
    assert [(part["name"], part["turn"], part["status"]) for part in block["parts"]] == [
        ("payoff", 0, "ok"),
        ("brevity", None, "failed"),
    ]
    assert block["parts"][1]["why"] == failed.error
    back = scored_from_json(record, failed)
    assert list(back.parts) == ["payoff"]
    assert np.isnan(back.rewards).all()


def test_set_tells_rewards_apart_by_name_weight_and_range():
    sets = [
        stored(scored(), weights=weights, ranges=ranges)["rewards"]["set"]
        for weights, ranges in (
            (WEIGHTS, {}),
            (dict(reversed(WEIGHTS.items())), {}),
            (WEIGHTS | {"payoff": 0.9}, {}),
            (WEIGHTS, {"payoff": (0.0, 1.0)}),
        )
    ]
    assert sets[0] == sets[1]
    assert len(set(sets)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_turn": [1.15]}, "1 rewards for 2 turns"),
        ({"per_turn": [1.25, 1.0]}, "turn 0 has 1.25, but what it is made of sums to 1.15"),
        ({"per_role": {"giver": 1.0}}, "role giver has 1, but what it is made of sums to 1.15"),
        ({"per_turn": ["1.15", 1.0]}, "'1.15' is no number"),
        ({"parts": [{"name": "payoff", "turn": 2, "raw": 1.0}]}, "a part of turn 2, but only 2 turns"),
        ({"parts": [{"name": "payoff"}]}, "KeyError"),
        ({"parts": 3}, "not iterable"),
    ],
)
def test_malformed_block_is_refused(change, message):
    record = stored(scored())
    record["rewards"] |= change
    with pytest.raises(RecordError, match=message):
        scored_from_json(record, talk())


def test_sums_may_differ_by_what_rounding_takes():
    thirds = {f"part{number}": scores(1 / 3, 12345.678) for number in range(30)}
    total = sum(np.float64(part.values) for part in thirds.values())
    record = stored(scored(rewards=tuple(total), **thirds), weights=dict.fromkeys(thirds, 1.0))
    assert scored_from_json(record, talk()) is not None
