"""Imitation against what transformers and a hand calculation say."""

import math

import numpy as np
import pytest
import torch

from selfplay import models
from selfplay.sft_settings import SftSettings
from selfplay.sft_training import batches, build_imitation
from tests.streams import sampled


def settings(**changes: object) -> SftSettings:
    return SftSettings.model_validate({"from": "scripted", "model": "tiny", "method": "full", **changes})


def imitation(**changes: object):
    loaded = models.load("tiny", device="cpu")
    return build_imitation(loaded, settings(**changes), num_updates=4, base_name="tiny")


def plain_loss(model, rows) -> tuple[float, int]:
    """Return what full logits say: summed nats, and the number of acted tokens."""
    nats, num = 0.0, 0
    for row in rows:
        tokens = torch.from_numpy(row.tokens.astype(np.int64))
        with torch.no_grad():
            logprobs = model(input_ids=tokens[None]).logits[0, :-1].double().log_softmax(dim=-1)
        picked = logprobs.gather(1, tokens[1:, None])[:, 0]
        nats -= float(picked[torch.from_numpy(row.acted[1:])].sum())
        num += int(row.acted.sum())
    return nats, num


def test_loss_is_the_mean_over_acted_tokens_however_they_are_cut(tiny):
    rows = sampled(tiny.model, num=6)
    nats, num = plain_loss(tiny.model, rows)
    for size in (16, 100_000):
        loss = imitation(tokens_per_microbatch=size).loss(rows)
        assert loss.num_tokens == num
        assert loss.per_token == pytest.approx(nats / num, abs=1e-5)


def test_loss_of_nothing_is_unknown():
    assert math.isnan(imitation().loss([]).per_token)


@pytest.mark.parametrize("size", [16, 100_000])
def test_update_is_the_one_that_plain_adamw_makes(tiny, size):
    rows = sampled(tiny.model, num=4)
    ours = imitation(tokens_per_microbatch=size, learning_rate=1e-3, schedule="constant", max_gradient_norm=1e9)
    step = ours.step(rows)
    plain = models.load("tiny", device="cpu").model
    plain.requires_grad_(True)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    num = sum(int(row.acted.sum()) for row in rows)
    for row in rows:
        labels = torch.from_numpy(np.where(row.acted, row.tokens, -100).astype(np.int64))[None]
        tokens = torch.from_numpy(row.tokens.astype(np.int64))[None]
        logits = plain(input_ids=tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[0], labels[0, 1:], ignore_index=-100, reduction="sum")
        (loss / num).backward()
    optimizer.step()
    assert step.loss.num_tokens == num
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.policy.model.named_parameters():
        # Adam divides by the gradient's size, so where that is next to nothing, rounding decides the sign.
        near = torch.isclose(parameter, theirs[name], atol=1e-4)
        assert near.float().mean() > 0.99, name


def test_updates_lower_the_loss_and_going_back_undoes_them(tiny):
    rows = sampled(tiny.model, num=4)
    ours = imitation(learning_rate=3e-3, schedule="constant", method="lora")
    before, state = ours.loss(rows).per_token, ours.state()
    for _ in range(5):
        ours.step(rows)
    assert ours.version == 5
    assert ours.loss(rows).per_token < before - 0.05
    ours.go_back(state)
    assert ours.loss(rows).per_token == pytest.approx(before, abs=1e-6)


def test_rate_falls_from_the_first_update_to_the_last(tiny):
    rows = sampled(tiny.model, num=1)
    ours = imitation(learning_rate=4e-3)
    # Four updates, linear: 1, 3/4, 2/4, 1/4 of the rate.
    assert [ours.step(rows).learning_rate for _ in range(4)] == pytest.approx([4e-3, 3e-3, 2e-3, 1e-3])


def test_pass_holds_every_lesson_once_in_an_order_of_its_own(tiny):
    lessons = [(row,) for row in sampled(tiny.model, num=8)]
    passes = [list(batches(lessons, settings(batch=3), epoch=epoch)) for epoch in (1, 1, 2)]
    assert [len(batch) for batch in passes[0]] == [3, 3, 2]
    orders = [[row.conversation for batch in one for row in batch] for one in passes]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(row.conversation for (row,) in lessons)
