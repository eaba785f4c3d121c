"""What people see of an update, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from streams import stream

from selfplay.experience import Batch, Trajectory, pad
from selfplay.learn.report import Tally, divergence_metrics, notes


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


def test_tally_adds_and_keeps_the_extremes():
    tally = Tally()
    for value in (2.0, -1.0, 0.5):
        tally.add("sum", value)
        tally.raise_to("largest", value)
        tally.lower_to("smallest", value)
    assert (tally.sums, tally.largest, tally.smallest) == ({"sum": 1.5}, {"largest": 2.0}, {"smallest": -1.0})
