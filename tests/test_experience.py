"""From conversations to trajectories and batches, by hand on small ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.experience import NO_TURN, by_length, pad, padded_rows, rows_of, trace

DONE = Outcome(status="terminated", reason="turn_limit")


def turn(role: str, stream: str, heard: list[int], said: list[int], *, player: str = "learner@3") -> Turn:
    return Turn(
        role=role,
        text="x",
        heard_text="",
        player=player,
        stream=stream,
        heard=np.array(heard, np.int32),
        said=np.array(said, np.int32),
        logprobs=-np.array(said, np.float32) / 10,
    )


def player(policy: str = "learner", *, trained: bool = True) -> PlayerInfo:
    return PlayerInfo(policy=policy, version=3, model="tiny", trained=trained)


def scored(turns: list[Turn], rewards: list[float], **changes: object) -> ScoredConversation:
    conversation = Conversation(
        id="000007-g01-2",
        scenario=Scenario(env="test", seed=0, split="train", roles=("a", "b")),
        players={"a": player(), "b": player()},
        turns=tuple(turns),
        outcome=DONE,
    )
    return ScoredConversation(conversation=replace(conversation, **changes), rewards=np.array(rewards, np.float32))


MIRROR = [
    turn("a", "a", [1, 2], [3, 4]),
    turn("b", "b", [5, 6, 7], [8]),
    turn("a", "a", [9], [10, 11]),
]


def test_mirror_play_gives_one_trajectory_a_role_with_its_own_rewards():
    first, second = trace(scored(MIRROR, [0.5, 1.0, float("nan")]))
    assert first.tokens.tolist() == [1, 2, 3, 4, 9, 10, 11]
    assert first.acted.tolist() == [False, False, True, True, False, True, True]
    assert first.turn.tolist() == [0, 0, 0, 0, 2, 2, 2]
    # The reward stands on the last said token of its turn; one that does not apply is 0.
    assert first.rewards.tolist() == [0, 0, 0, 0.5, 0, 0, 0]
    assert first.logprobs.tolist() == pytest.approx([0, 0, -0.3, -0.4, 0, -1.0, -1.1])
    assert (second.tokens.tolist(), second.rewards.tolist()) == ([5, 6, 7, 8], [0, 0, 0, 1.0])
    assert (first.group, first.version, first.truncated) == ("000007-g01", 3, False)


def test_frozen_partner_yields_no_training_rows():
    turns = [MIRROR[0], replace(MIRROR[1], player="frozen@3"), MIRROR[2]]
    trajectories = trace(scored(turns, [1.0, 1.0, 1.0], players={"a": player(), "b": player("frozen", trained=False)}))
    assert [t.tokens.tolist() for t in trajectories] == [[1, 2, 3, 4, 9, 10, 11]]


def test_shared_stream_is_one_trajectory_in_which_both_roles_act():
    turns = [turn("a", "shared", [1], [2]), turn("b", "shared", [3], [4, 5])]
    [trajectory] = trace(scored(turns, [0.25, 0.75], view="shared"))
    assert trajectory.tokens.tolist() == [1, 2, 3, 4, 5]
    assert trajectory.acted.tolist() == [False, True, False, True, True]
    assert trajectory.role_index.tolist() == [0, 0, 1, 1, 1]
    assert trajectory.rewards.tolist() == [0, 0.25, 0, 0, 0.75]


def test_failed_conversation_is_never_trained_on():
    outcome = Outcome(status="failed", reason="empty_reply")
    assert trace(scored(MIRROR, [1.0, 1.0, 1.0], outcome=outcome)) == []


def test_truncated_conversation_says_so():
    outcome = Outcome(status="truncated", reason="context_full")
    assert all(t.truncated for t in trace(scored(MIRROR, [1.0, 1.0, 1.0], outcome=outcome)))


def test_pad_fills_on_the_right_and_marks_what_exists():
    batch = pad(trace(scored(MIRROR, [1.0, 1.0, 1.0])), to_multiple=4)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 9, 10, 11, 0], [5, 6, 7, 8, 0, 0, 0, 0]]
    assert batch.exists.sum(dim=1).tolist() == [7, 4]
    assert batch.turn[1].tolist() == [1, 1, 1, 1, NO_TURN, NO_TURN, NO_TURN, NO_TURN]
    assert not batch.acted[~batch.exists].any()
    assert batch.tokens.dtype == torch.int64
    # Two roles of one conversation are two rows of it.
    assert (batch.num_acted, batch.num_conversations) == (5, 1)


def test_pad_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no trajectory"):
        pad([])


def test_by_length_bounds_the_padded_size_and_loses_nobody():
    [long, short] = trace(scored(MIRROR, [1.0, 1.0, 1.0]))  # 7 and 4 tokens
    batches = list(by_length([long, short, short, long, short], max_tokens=12))
    assert [[t.num_tokens for t in batch] for batch in batches] == [[4, 4, 4], [7], [7]]


def test_parts_go_where_the_rewards_go_and_only_those_that_have_a_weight():
    parts = {
        "question": Scores(values=np.array([1.0, 0.5, np.nan], np.float32)),
        "length": Scores(values=np.array([9.0, 9.0, 9.0], np.float32)),
    }
    played = replace(scored(MIRROR, [0.5, 1.0, 0.0]), parts=parts)
    first, second = trace(played, weights={"question": 0.2, "absent": 1.0})
    assert {name: part.tolist() for name, part in first.parts.items()} == {"question": [0, 0, 0, 1.0, 0, 0, 0]}
    assert second.parts["question"].tolist() == [0, 0, 0, 0.5]
    batch = pad([first, second])
    assert batch.parts["question"].tolist() == [[0, 0, 0, 1.0, 0, 0, 0], [0, 0, 0, 0.5, 0, 0, 0]]
    assert batch.weights == {"question": 0.2, "absent": 1.0}
    assert trace(played)[0].parts == {}


def test_frozen_partners_turns_in_a_shared_stream_carry_no_reward_and_are_not_acted():
    turns = [turn("a", "shared", [1], [2]), turn("b", "shared", [3], [4, 5])]
    players = {"a": player(), "b": player(trained=False)}
    [trajectory] = trace(scored(turns, [0.25, 0.75], view="shared", players=players))
    assert trajectory.acted.tolist() == [False, True, False, False, False]
    assert trajectory.rewards.tolist() == [0, 0.25, 0, 0, 0]


def test_rows_of_a_batch_keep_its_counts_and_can_lose_columns_that_are_padding():
    batch = pad(trace(scored(MIRROR, [0.5, 1.0, 0.0]), weights={}))
    short = rows_of(batch, [1], trimmed=True)
    assert short.tokens.tolist() == [[5, 6, 7, 8]]
    assert rows_of(batch, [1]).tokens.shape == (1, 7)
    assert (short.num_acted, short.num_conversations) == (5, 1)


def test_padded_rows_deal_lengths_over_the_minibatches():
    long, short = trace(scored(MIRROR, [1.0, 1.0, 1.0]))  # 7 and 4 tokens
    rows = [long, short, long, short]
    assert padded_rows(rows, num_minibatches=1, max_tokens=14) == [[[1, 3], [0, 2]]]
    assert padded_rows(rows, num_minibatches=2, max_tokens=14) == [[[1, 0]], [[3, 2]]]
    assert padded_rows(rows, num_minibatches=9, max_tokens=1) == [[[1]], [[3]], [[0]], [[2]]]
