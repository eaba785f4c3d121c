"""The learner on real play of tiny models: what it checks, what it must not depend on, and that it learns."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from envs.chitchat import ChitChat
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.errors import UserError
from selfplay.experience import Trajectory, trace
from selfplay.generate.chat import ChatBridge
from selfplay.generate.engine import TokenGenerator
from selfplay.interfaces import Sampling
from selfplay.learn.algorithms import algorithm
from selfplay.learn.kl import FixedKL
from selfplay.learn.learner import Learner, LearnerSettings
from selfplay.learn.policy import WholePolicy
from selfplay.learn.reinforce import Reinforce
from selfplay.models import LoadedModel, load
from selfplay.play import make_matches, play
from selfplay.players import Player

ENV = ChitChat(max_turns=2, default_brief="{topic}", opener="")
SAMPLING = Sampling(max_new_tokens=8, ignore_end_of_turn=True)


class Table:
    """Mirror self-play of one tiny model, and its learner."""

    def __init__(self, rule: Reinforce, settings: LearnerSettings) -> None:
        self.loaded: LoadedModel = load("tiny:2", device="cpu")
        self.loaded.model.requires_grad_(True)
        self.bridge = ChatBridge(self.loaded.tokenizer, model_name="tiny", end_of_turn=[256])
        self.engine = TokenGenerator()
        self.engine.add_policy("learner", self.loaded.model, end_of_turn=self.bridge.end_of_turn)
        self.learner = Learner(WholePolicy(self.loaded.model), rule, settings)

    def play(self, *, num: int, step: int = 0) -> list[Conversation]:
        player = Player(
            policy="learner",
            generator=self.engine,
            bridge=self.bridge,
            version=self.learner.version,
            trained=True,
            sampling=SAMPLING,
        )
        roles = dict.fromkeys(ENV.roles, "learner")
        matches = make_matches(ENV, roles, seed=0, num_matches=num, split="train", step=step)
        return sorted(play(matches, env=ENV, players={"learner": player}), key=lambda c: c.id)

    def publish(self) -> None:
        self.engine.load("learner", self.learner.weights())


def share_of_question_marks(conversations: Sequence[Conversation]) -> list[ScoredConversation]:
    # The token of "?" is its byte's place among the byte symbols, which the tokenizer knows.
    mark = load("tiny").tokenizer.convert_tokens_to_ids("?")
    return [
        ScoredConversation(
            conversation=c, rewards=np.array([np.mean(turn.said == mark) for turn in c.turns], dtype=np.float32)
        )
        for c in conversations
    ]


def trajectories_of(conversations: Sequence[Conversation]) -> list[Trajectory]:
    return [row for scored in share_of_question_marks(conversations) for row in trace(scored)]


def parameters_after_one_step(settings: LearnerSettings) -> torch.Tensor:
    table = Table(algorithm("reinforce"), settings)
    table.learner.step(trajectories_of(table.play(num=6)))
    return torch.cat([parameter.detach().flatten() for parameter in table.loaded.model.parameters()])


def test_samplers_logprobs_are_the_learners_at_the_first_minibatch():
    table = Table(algorithm("reinforce"), LearnerSettings())
    update = table.learner.step(trajectories_of(table.play(num=6)))
    assert update.metrics["learn/sampler_gap_nats"] < 1e-4
    # The reference is the policy itself before the first update.
    assert abs(update.metrics["kl/per_token_nats"]) < 1e-5
    assert update.metrics["learn/acted_tokens"] == 6 * 2 * 8


def test_update_does_not_depend_on_how_the_batch_is_split():
    whole = parameters_after_one_step(LearnerSettings(tokens_per_microbatch=100_000))
    pieces = parameters_after_one_step(LearnerSettings(tokens_per_microbatch=150))
    torch.testing.assert_close(whole, pieces, atol=1e-6, rtol=0)


def test_reference_stays_while_the_policy_moves_and_the_divergence_shows_it():
    table = Table(algorithm("reinforce"), LearnerSettings(learning_rate=1e-2))
    reference = table.learner._policy.reference_head()
    before = copy.deepcopy(reference.state_dict())
    for step in range(3):
        update = table.learner.step(trajectories_of(table.play(num=8, step=step)))
        table.publish()
    assert all(torch.equal(before[name], value) for name, value in reference.state_dict().items())
    assert update.metrics["kl/per_token_nats"] > 1e-3


def test_restored_learner_goes_on_as_if_never_stopped(tmp_path):
    settings = LearnerSettings(learning_rate=1e-2)
    table = Table(algorithm("reinforce"), settings)
    rows = trajectories_of(table.play(num=6))
    table.learner.step(rows)
    table.learner.save(tmp_path)
    first = table.learner.step(rows)
    other = Table(algorithm("reinforce"), settings)
    other.learner.restore(tmp_path)
    second = other.learner.step(rows)
    assert first == second
    assert torch.equal(table.loaded.model.model.norm.weight, other.loaded.model.model.norm.weight)


def test_batch_without_trained_players_changes_nothing():
    table = Table(algorithm("reinforce"), LearnerSettings())
    before = copy.deepcopy(table.loaded.model.state_dict())
    update = table.learner.step([])
    assert update.metrics["learn/acted_tokens"] == 0
    assert all(torch.equal(before[name], value) for name, value in table.loaded.model.state_dict().items())


def test_policy_without_parameters_to_train_is_refused():
    with pytest.raises(UserError, match="nothing would be trained"):
        Learner(WholePolicy(load("tiny").model), algorithm("rloo"), LearnerSettings())


@pytest.mark.slow
@pytest.mark.parametrize("coefficient", [0.0, 3.0])
def test_reward_rises_in_self_play_and_a_strong_divergence_holds_it_back(coefficient: float):
    rule = Reinforce(baseline="batch", scale="batch", kl=FixedKL(coefficient=coefficient))
    table = Table(rule, LearnerSettings(learning_rate=1e-2))
    rewards = []
    for step in range(25):
        conversations = table.play(num=24, step=step)
        rewards.append(float(np.mean([s.rewards.mean() for s in share_of_question_marks(conversations)])))
        update = table.learner.step(trajectories_of(conversations))
        table.publish()
    if coefficient:
        assert np.mean(rewards[-5:]) < 0.3
        assert update.metrics["kl/per_token_nats"] < 0.3
    else:
        # Chance is 1 in 259 tokens.
        assert np.mean(rewards[-5:]) > 0.6
