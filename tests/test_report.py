"""What people see of an update, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from streams import stream

from selfplay.experience import Batch, Trajectory, pad
from selfplay.interfaces import Outputs
from selfplay.learn.report import FirstPass, Tally, divergence_metrics, notes, token_numbers


def played() -> tuple[Batch, list[Trajectory]]:
    """A host's and a guest's stream of one conversation: .2 and .5 nats above the reference."""
    host = stream([(2, 3), (1, 1)], [0.0, 0.0])
    guest = replace(stream([(4, 2)], [0.0]), role_index=np.ones(6, dtype=np.int8))
    batch = pad([host, guest])
    reference = (batch.logprobs - torch.tensor([[0.2], [0.5]])) * batch.acted
    advantages = torch.zeros_like(reference)
    advantages[0, 2:5], advantages[0, 6], advantages[1, 4:] = 1.0, 3.0, -2.0
    return replace(batch, reference=reference, advantages=advantages), [host, guest]


def test_divergence_is_told_per_token_per_turn_and_per_role():
    metrics = divergence_metrics(*played())
    # Four tokens of the host at .2, in two turns, and two of the guest at .5, in one.
    assert metrics["kl/per_token_nats"] == pytest.approx((4 * 0.2 + 2 * 0.5) / 6)
    assert metrics["kl/per_turn_nats"] == pytest.approx((4 * 0.2 + 2 * 0.5) / 3)
    assert metrics["kl/host/per_token_nats"] == pytest.approx(0.2)
    assert metrics["kl/guest/per_token_nats"] == pytest.approx(0.5)
    # Everything was sampled at .5 nats below 0.
    assert metrics["learn/reference_nll_per_token"] == pytest.approx((4 * 0.7 + 2 * 1.0) / 6)


def test_notes_hold_each_roles_advantage_and_the_conversations_divergence():
    [(name, note)] = notes(*played()).items()
    assert name == "000000-g00-0"
    # The host's mean over its tokens: (3 * 1 + 3) / 4.
    assert note["advantage"] == pytest.approx({"host": 1.5, "guest": -2.0})
    assert note["kl_per_token"] == pytest.approx((4 * 0.2 + 2 * 0.5) / 6)


def test_notes_are_plain_data():
    import json

    note = notes(*played())["000000-g00-0"]
    assert json.loads(json.dumps(note)) == note


def outputs_of(batch: Batch, rows: list[int], *, logprob: float, divergence: float | None = None) -> Outputs:
    """A micro-batch's outputs, the same for every token; its columns end where the longest of its rows does."""
    shape = (len(rows), int(batch.exists[rows].sum(dim=1).max()))
    exact = None if divergence is None else torch.full(shape, divergence)
    return Outputs(logprobs=torch.full(shape, logprob), entropy=torch.full(shape, -logprob), divergence=exact)


def test_tokens_hold_what_is_known_of_them_turn_by_turn():
    batch, trajectories = played()
    batch = replace(batch, values=torch.arange(14.0).view(2, 7))
    first = FirstPass.of(batch)
    first.meet([0], outputs_of(batch, [0], logprob=-0.5), has_moved=False)
    first.meet([1], outputs_of(batch, [1], logprob=-0.75), has_moved=True)
    # A second pass is passed over.
    first.meet([0], outputs_of(batch, [0], logprob=-9.0), has_moved=True)
    [(name, turns)] = token_numbers(
        batch, [trajectories[0], replace(trajectories[1], turn=trajectories[1].turn + 5)], first
    ).items()
    assert (name, sorted(turns)) == ("000000-g00-0", [0, 2, 5])
    # The host heard 2 tokens and said 3, then heard 1 and said 1; the guest heard 4 and said 2.
    host, last, guest = turns[0], turns[2], turns[5]
    assert [host.advantage.tolist(), last.advantage.tolist(), guest.advantage.tolist()] == [[1] * 3, [3], [-2] * 2]
    assert [host.value.tolist(), last.value.tolist(), guest.value.tolist()] == [[2, 3, 4], [6], [11, 12]]
    assert host.kl.tolist() == pytest.approx([0.2] * 3)
    assert guest.kl.tolist() == pytest.approx([0.5] * 2)
    assert last.logprobs_reference.tolist() == pytest.approx([-0.7])
    assert (host.logprobs_learner.tolist(), host.entropy.tolist()) == ([-0.5] * 3, [0.5] * 3)
    # The policy had taken a step before it met the guest.
    assert (guest.logprobs_learner, guest.entropy.tolist()) == (None, [0.75] * 2)


def test_tokens_hold_the_exact_divergence_where_there_is_one():
    batch, trajectories = played()
    first = FirstPass.of(batch)
    first.meet([0, 1], outputs_of(batch, [0, 1], logprob=-0.5, divergence=0.125), has_moved=False)
    turns = token_numbers(batch, trajectories, first)["000000-g00-0"]
    assert (turns[2].kl.tolist(), turns[2].value) == ([0.125], None)


def test_tally_adds_and_keeps_the_extremes():
    tally = Tally()
    for value in (2.0, -1.0, 0.5):
        tally.add("sum", value)
        tally.raise_to("largest", value)
        tally.lower_to("smallest", value)
    assert (tally.sums, tally.largest, tally.smallest) == ({"sum": 1.5}, {"largest": 2.0}, {"smallest": -1.0})
