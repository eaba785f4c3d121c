"""What a reference says of trajectories, against logits computed one row at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from selfplay.experience import Trajectory
from selfplay.learn.likelihood import likelihoods


def trajectory(conversation: str, tokens: list[int], acted: list[int], logprobs: list[float]) -> Trajectory:
    size = len(tokens)
    sampled = np.zeros(size, np.float32)
    sampled[acted] = logprobs
    return Trajectory(
        conversation=conversation,
        group=conversation,
        version=0,
        truncated=False,
        roles=("a", "b"),
        tokens=np.array(tokens, np.int32),
        acted=np.isin(np.arange(size), acted),
        role_index=np.zeros(size, np.int8),
        turn=np.zeros(size, np.int32),
        logprobs=sampled,
        rewards=np.zeros(size, np.float32),
    )


def by_hand(model, tokens: list[int], acted: list[int], *, temperature: float) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0] / temperature
    return float(sum(torch.log_softmax(logits[t - 1], dim=0)[tokens[t]] for t in acted))


@pytest.mark.parametrize("tokens_per_microbatch", [1, 2048])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_likelihood_is_summed_over_the_acted_tokens_of_a_conversation(tiny, temperature, tokens_per_microbatch):
    rows = [("x", [5, 6, 7, 8, 9], [2, 4]), ("y", [9, 8, 7], [1]), ("x", [40, 41, 42, 43], [3])]
    found = likelihoods(
        tiny.model,
        [trajectory(name, tokens, acted, [-0.5] * len(acted)) for name, tokens, acted in rows],
        temperature=temperature,
        tokens_per_microbatch=tokens_per_microbatch,
    )
    assert [(one.conversation, one.num_tokens) for one in found] == [("x", 3), ("y", 1)]
    for one in found:
        mine = [(tokens, acted) for name, tokens, acted in rows if name == one.conversation]
        expected = sum(by_hand(tiny.model, tokens, acted, temperature=temperature) for tokens, acted in mine)
        assert one.nll == pytest.approx(-expected, abs=1e-4)
        # The sampler gave every token -0.5.
        assert one.kl == pytest.approx(-0.5 * one.num_tokens - expected, abs=1e-4)


def test_tokens_hold_the_references_logprobs_and_the_samplers_above_them(tiny):
    row = trajectory("x", [5, 6, 7, 8, 9], [2, 4], [-0.5, -0.25])
    # The first said token is of turn 0, the second of turn 1.
    turns = replace(row, turn=np.array([0, 0, 0, 1, 1], np.int32))
    longer = trajectory("x", [4, 3, 2, 1, 4, 3, 2], [5], [-0.5])
    [found] = likelihoods(tiny.model, [turns, replace(longer, turn=np.full(7, 2, np.int32))])
    assert sorted(found.tokens) == [0, 1, 2]
    for number, tokens, place, logprob in (
        (0, row.tokens, 2, -0.5),
        (1, row.tokens, 4, -0.25),
        (2, longer.tokens, 5, -0.5),
    ):
        expected = by_hand(tiny.model, tokens.tolist(), [place], temperature=1.0)
        numbers = found.tokens[number]
        assert numbers.logprobs_reference.tolist() == pytest.approx([expected], abs=1e-4)
        assert numbers.kl.tolist() == pytest.approx([logprob - expected], abs=1e-4)
        assert (numbers.logprobs_learner, numbers.entropy, numbers.advantage, numbers.value) == (None,) * 4


def test_conversation_without_acted_tokens_counts_nothing(tiny):
    [found] = likelihoods(tiny.model, [trajectory("x", [1, 2], [], [])])
    assert (found.num_tokens, found.nll, found.kl, found.tokens) == (0, 0.0, 0.0, {})
