"""Drawing tokens: the right distribution, from (seed, position) alone, robust to rounding."""

import math

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from selfplay.generate.sampling import HEAD, draw, gumbels, split_mix
from selfplay.interfaces import Sampling

SETTINGS = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(top_k=5),
    Sampling(top_p=0.6),
    Sampling(min_p=0.1),
    Sampling(temperature=1.5, top_k=50, top_p=0.9, min_p=0.02),
]


def keys_of(num: int, *, seed: int = 3) -> np.ndarray:
    return split_mix(np.full(num, seed, np.uint64), np.arange(num, dtype=np.uint64))


def distribution_of_transformers(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The other library's own arithmetic, in its own order."""
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits[None])
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1.0:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    return scores.softmax(dim=-1)[0]


def test_split_mix_gives_the_published_outputs_of_seed_0():
    # The first outputs of SplitMix64 seeded with 0, as listed with Vigna's reference implementation.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert split_mix(np.zeros(3, np.uint64), np.arange(3, dtype=np.uint64)).tolist() == expected


def test_gumbels_have_the_mean_and_variance_of_a_standard_gumbel():
    noise = gumbels(keys_of(200), np.arange(1000)[None]).ravel()
    # Mean: Euler's constant; variance: pi^2 / 6.  Five standard errors of 200,000 draws.
    assert abs(noise.mean() - 0.5772156649) < 5 * 1.2825 / math.sqrt(200_000)
    assert abs(noise.var() - math.pi**2 / 6) < 0.05


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize("vocabulary", [40, 3 * HEAD])
def test_draw_follows_the_distribution_of_transformers(sampling: Sampling, vocabulary: int):
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(0)) * 1.2
    expected = distribution_of_transformers(logits, sampling)
    num = 20_000
    drawn = draw(logits.expand(num, -1), keys_of(num), sampling)
    counts = torch.bincount(drawn.tokens, minlength=vocabulary)
    possible = expected > 0
    chi2 = ((counts - num * expected) ** 2 / (num * expected))[possible].sum().item()
    freedom = int(possible.sum()) - 1
    assert counts[~possible].sum() == 0
    # Chi-square has mean `freedom` and variance 2 * freedom; five deviations.
    assert chi2 < freedom + 5 * math.sqrt(2 * max(freedom, 1)) + 5
    torch.testing.assert_close(drawn.logprobs, expected.log()[drawn.tokens], atol=1e-5, rtol=0)


def test_draw_without_limits_reports_log_softmax_where_the_tail_wins():
    logits = torch.zeros(50, 4 * HEAD)  # flat: three draws of four come from behind the head
    drawn = draw(logits, keys_of(50), Sampling())
    torch.testing.assert_close(drawn.logprobs, torch.full((50,), -math.log(4 * HEAD)))
    assert len(set(drawn.tokens.tolist())) > 40


def test_draw_at_temperature_0_takes_the_likeliest_with_log_probability_0():
    drawn = draw(torch.tensor([[0.0, 2.0, 1.0]]), keys_of(1), Sampling(temperature=0.0))
    assert (drawn.tokens.tolist(), drawn.logprobs.tolist()) == ([1], [0.0])


def test_draw_of_a_row_does_not_depend_on_the_other_rows():
    logits = torch.randn(16, 3 * HEAD, generator=torch.Generator().manual_seed(1))
    keys = keys_of(16)
    together = draw(logits, keys, Sampling())
    order = torch.tensor([5, 3, 15, 0])
    apart = draw(logits[order], keys[order.numpy()], Sampling())
    assert apart.tokens.tolist() == together.tokens[order].tolist()


def test_draw_from_a_flat_tail_survives_rounding():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2000, 2000, generator=generator) * 0.1
    rounded = logits + 3e-5 * torch.randn(2000, 2000, generator=generator)
    same = draw(logits, keys_of(2000), Sampling()).tokens == draw(rounded, keys_of(2000), Sampling()).tokens
    # The two highest scores of Gumbel-max are 1 apart on average: an error of 4e-5 flips about 4e-5 of the draws.
    assert int((~same).sum()) <= 3


def test_draw_of_logits_that_are_not_finite_says_nan_for_that_row_only():
    logits = torch.zeros(2, 10)
    logits[0, 3] = torch.nan
    drawn = draw(logits, keys_of(2), Sampling())
    assert math.isnan(drawn.logprobs[0])
    assert math.isfinite(drawn.logprobs[1])
