"""Whole updates on a bandit: one prompt, one token to say, and a reward that is known for every token."""

from typing import Any

import numpy as np
import pytest
import torch
from streams import stream

from selfplay.experience import Trajectory
from selfplay.learn.algorithms import ALGORITHMS
from selfplay.learn.build import build_learner
from selfplay.learn.kl import full_divergence
from selfplay.learn.learner import Learner
from selfplay.models import load
from selfplay.train_settings import TrainSettings

PROMPT = [3, 1, 4, 1]
UPDATES = 12
EVEN = np.arange(259) % 2 == 0


def learner_of(*, kl: dict[str, Any] | None = None, **learner: Any) -> Learner:
    settings = {
        "model": "tiny:2",
        "learner": {"method": "full", "learning_rate": 1e-2, **learner},
        "kl": {"controller": "fixed", **kl} if kl else {"controller": "off"},
    }
    return build_learner(load("tiny:2", device="cpu"), TrainSettings.model_validate(settings))


def said(learner: Learner, *, num: int, seed: int) -> list[int]:
    """Tokens drawn from the policy."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        probabilities = learner._policy.model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    return torch.multinomial(probabilities, num, replacement=True, generator=generator).tolist()


@torch.no_grad()
def share_of_even(learner: Learner) -> float:
    return float(learner._policy.model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)[::2].sum())


@torch.no_grad()
def divergence(learner: Learner) -> float:
    """From the model that training started from, exact."""
    policy, start = learner._policy.model, load("tiny:2", device="cpu").model
    logits, reference = (model(torch.tensor([PROMPT])).logits[0, -1] for model in (policy, start))
    return float(full_divergence(logits, reference))


def played(learner: Learner, *, seed: int, sign: float = 1.0, num: int = 32) -> list[Trajectory]:
    with torch.no_grad():
        logprobs = learner._policy.model(torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1).numpy()
    return [
        stream(
            [(len(PROMPT), 1)],
            [sign * float(EVEN[token])],
            name=f"000000-g00-{number}",
            version=learner.version,
            tokens=np.array([*PROMPT, token], dtype=np.int32),
            logprobs=np.array([0, 0, 0, 0, logprobs[token]], dtype=np.float32),
        )
        for number, token in enumerate(said(learner, num=num, seed=seed))
    ]


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_follows_the_rewards_sign(name: str):
    up, down = (learner_of(algorithm=name) for _ in range(2))
    assert 0.4 < share_of_even(up) < 0.6
    for seed in range(UPDATES):
        up.step(played(up, seed=seed))
        down.step(played(down, seed=seed, sign=-1.0))
    assert share_of_even(up) > 0.75
    assert share_of_even(down) < 0.25


def test_several_passes_over_a_batch_learn_too():
    learner = learner_of(clip=0.2, epochs=2, minibatches=2)
    for seed in range(UPDATES):
        learner.step(played(learner, seed=seed))
    assert share_of_even(learner) > 0.75


def test_adapters_follow_the_rewards_sign():
    up, down = (learner_of(method="lora", learning_rate=3e-2) for _ in range(2))
    for seed in range(UPDATES):
        up.step(played(up, seed=seed))
        down.step(played(down, seed=seed, sign=-1.0))
    # The random output layer stays, so that little of the distribution can be reached.
    assert share_of_even(up) - share_of_even(down) > 0.04


def test_conversations_of_an_older_version_still_teach():
    learner = learner_of()
    waiting = [played(learner, seed=0), played(learner, seed=1)]
    stale = 0.0
    for seed in range(2, 2 + UPDATES):
        # Two versions behind.
        stale += learner.step(waiting.pop(0)).metrics["learn/stale_tokens"]
        waiting.append(played(learner, seed=seed))
    assert share_of_even(learner) > 0.75
    assert stale == (UPDATES - 1) * 32


@pytest.mark.parametrize(
    ("estimator", "coefficients"), [("k2", (0.0, 0.3, 3.0)), ("full", (0.0, 0.3, 3.0)), ("k3", (0.0, 3.0))]
)
def test_a_larger_coefficient_keeps_the_policy_nearer(estimator: str, coefficients: tuple[float, ...]):
    # Of k3 only the extremes: its gradient, the forward divergence's, is noisy where the policy has gone far.
    measured = []
    for coefficient in coefficients:
        learner = learner_of(kl={"estimator": estimator, "coefficient": coefficient})
        for seed in range(UPDATES):
            learner.step(played(learner, seed=seed))
        measured.append(divergence(learner))
    assert measured == sorted(measured, reverse=True)


def test_divergence_in_the_reward_holds_the_policy_back_too():
    free, held = learner_of(), learner_of(kl={"place": "reward", "estimator": "k1", "coefficient": 3.0}, scale="none")
    for seed in range(UPDATES):
        free.step(played(free, seed=seed))
        metrics = held.step(played(held, seed=seed)).metrics
    assert share_of_even(held) < 0.8 < share_of_even(free)
    assert metrics["kl/coefficient"] == 3.0


def test_adaptive_coefficient_rises_while_the_policy_is_too_far():
    kl = {"controller": "adaptive", "target": 0.01, "coefficient": 0.1, "horizon": 64.0}
    learner = learner_of(kl=kl)
    coefficients = [learner.step(played(learner, seed=seed)).metrics["kl/coefficient"] for seed in range(UPDATES)]
    assert coefficients[0] == pytest.approx(0.1)
    # Far above its target it grows by a tenth an update: 1 + .2 * 32 / 64.
    assert coefficients[-1] == pytest.approx(coefficients[-2] * 1.1)
