"""Flat rows: what is shared, what fits into a micro-batch, and that packing changes no number."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, GPT2Config, PreTrainedConfig, Qwen2Config

from selfplay.experience import Trajectory
from selfplay.learn.model import score_tokens
from selfplay.learn.packing import is_packed, lay_out, pack_attention, packed_rows
from selfplay.models import load

BEGINNING = list(range(20, 30))
STREAMS = [[*BEGINNING, 1, 2, 3, 4], [*BEGINNING, 1, 5, 6], [*BEGINNING, 7, 8, 9, 10, 11], [50, 51, 52]]
FIRST_ACTED = [12, 11, 11, 1]
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def batch_of(streams: list[list[int]], first_acted: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    longest = max(map(len, streams))
    tokens = torch.tensor([stream + [0] * (longest - len(stream)) for stream in streams])
    exists = torch.arange(longest) < torch.tensor([[len(stream)] for stream in streams])
    return tokens, exists, exists & (torch.arange(longest) >= torch.tensor(first_acted)[:, None])


def trajectory(tokens: list[int], first_acted: int, name: str = "000000-g00-0") -> Trajectory:
    size = len(tokens)
    return Trajectory(
        conversation=name,
        group=name[:-2],
        version=0,
        truncated=False,
        roles=("a", "b"),
        tokens=np.array(tokens, dtype=np.int32),
        acted=np.arange(size) >= first_acted,
        role_index=np.zeros(size, dtype=np.int8),
        turn=np.zeros(size, dtype=np.int32),
        logprobs=np.zeros(size, dtype=np.float32),
        rewards=np.zeros(size, dtype=np.float32),
    )


def test_streams_share_the_beginning_that_nobody_acted():
    tokens, exists, acted = batch_of(STREAMS, FIRST_ACTED)
    layout = lay_out(tokens, exists, acted)
    # The ten common tokens once; the 1 that two of them go on with is too short to be a piece.
    assert layout.sizes == [10, 4, 3, 5, 3]
    assert layout.paths == [[0, 1], [0, 2], [0, 3], [4]]
    assert layout.tokens[0].tolist() == [*BEGINNING, 1, 2, 3, 4, 1, 5, 6, 7, 8, 9, 10, 11, 50, 51, 52]
    assert layout.positions[0, :14].tolist() == list(range(14))
    assert layout.positions[0, 14:].tolist() == [10, 11, 12, 10, 11, 12, 13, 14, 0, 1, 2]
    assert layout.place[1].tolist() == [*range(10), 14, 15, 16, 0, 0]


def test_what_was_acted_is_never_shared():
    tokens, exists, acted = batch_of([[*BEGINNING, 1, 2], [*BEGINNING, 1, 2]], [9, 11])
    layout = lay_out(tokens, exists, acted)
    assert layout.sizes == [9, 3, 3]
    # Nine of ten, for there the first of them begins to act.
    assert layout.paths == [[0, 1], [0, 2]]


def logprobs_and_gradient(model, streams: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, exists, acted = batch_of(streams, FIRST_ACTED)
    model.zero_grad()
    scores = score_tokens(model, tokens, acted, exists=exists)
    (scores.logprobs * torch.arange(1.0, 1 + tokens.shape[1])).sum().backward()
    return scores.logprobs.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_packing_changes_neither_numbers_nor_gradients():
    model = load("tiny:3", device="cpu").model
    model.requires_grad_(True)
    padded = logprobs_and_gradient(model, STREAMS)
    assert pack_attention(model)
    packed = logprobs_and_gradient(model, STREAMS)
    torch.testing.assert_close(packed[0], padded[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[1], padded[1], atol=1e-4, rtol=1e-4)


def test_padding_content_changes_nothing_when_packed():
    model = load("tiny:3", device="cpu").model
    pack_attention(model)
    tokens, exists, acted = batch_of(STREAMS, FIRST_ACTED)
    first = score_tokens(model, tokens, acted, exists=exists).logprobs
    second = score_tokens(model, tokens.masked_fill(~exists, 77), acted, exists=exists).logprobs
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=4),
        Qwen2Config(**SMALL, intermediate_size=32, num_key_value_heads=2),
        Gemma2Config(**SMALL, intermediate_size=32, num_key_value_heads=2, head_dim=4, attn_logit_softcapping=0.5),
    ],
    ids=lambda config: config.model_type,
)
def test_families_are_packed_if_that_computes_the_same(config: PreTrainedConfig):
    model = AutoModelForCausalLM.from_config(config).eval()
    padded, _ = logprobs_and_gradient(model, STREAMS)
    assert pack_attention(model)
    packed, _ = logprobs_and_gradient(model, STREAMS)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)


def test_family_that_cannot_be_packed_stays_as_it_was():
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=64, hidden_size=16, n_layer=1, n_head=2)).eval()
    before = model.config._attn_implementation
    assert not pack_attention(model)
    assert not is_packed(model)
    assert model.config._attn_implementation == before


def test_microbatches_keep_streams_that_begin_alike_together_and_count_what_is_shared_once():
    streams = [STREAMS[0], STREAMS[3], STREAMS[1], STREAMS[2]]
    rows = [trajectory(stream, first) for stream, first in zip(streams, (12, 1, 11, 11), strict=True)]
    # As a flat row the three siblings are 13 (11 of them shared with the next), 14 - 11 and 15 - 10 long: 21.
    assert packed_rows(rows, num_minibatches=1, max_tokens=21) == [[[2, 0, 3], [1]]]
    assert packed_rows(rows, num_minibatches=1, max_tokens=20) == [[[2, 0], [3, 1]]]


def test_minibatches_are_about_equally_long_and_lose_nobody():
    rows = [replace(trajectory(STREAMS[0], 12), conversation=str(number)) for number in range(7)]
    parts = packed_rows([trajectory([n, *STREAMS[0]], 13) for n in range(7)], num_minibatches=3, max_tokens=1000)
    assert sorted(row for part in parts for filled in part for row in filled) == list(range(7))
    assert sorted(len(filled) for part in parts for filled in part) == [2, 2, 3]
    assert len(packed_rows(rows, num_minibatches=50, max_tokens=10)) <= 7
