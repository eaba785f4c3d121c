"""The learner on real play of tiny models: what it checks, what it must not depend on, and that it learns."""

import copy
from collections.abc import Sequence
from dataclasses import replace

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
from selfplay.learn.schedule import Schedule
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
    """Rows whose rewards all differ: the share of even tokens."""
    rewards = [np.array([np.mean(turn.said % 2) for turn in c.turns], dtype=np.float32) for c in conversations]
    scored = [ScoredConversation(conversation=c, rewards=r) for c, r in zip(conversations, rewards, strict=True)]
    return [row for one in scored for row in trace(one)]


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
    # Adam divides a gradient by its own size, which makes rounding of tiny ones visible; a step is 1e-4 long.
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


def after_one_update(table: Table) -> list[Trajectory]:
    """Move the policy away from its reference, and return what it says then."""
    table.learner.step(trajectories_of(table.play(num=6)))
    table.publish()
    return trajectories_of(table.play(num=6, step=1))


def test_tokens_of_an_update_add_up_to_its_notes_and_are_the_samplers():
    table = Table(Reinforce(baseline="batch"), LearnerSettings(learning_rate=1e-2))
    rows = after_one_update(table)
    update = table.learner.step(rows)
    assert set(update.tokens) == set(update.notes) == {row.conversation for row in rows}
    mean = np.mean([row.rewards.sum() for row in rows])
    for row in rows:
        turns, note = update.tokens[row.conversation], update.notes[row.conversation]
        # Two turns, each of 8 tokens: the host's and the guest's.
        assert sorted(turns) == [0, 1]
        [number] = np.unique(row.turn)
        mine, role = turns[number], ENV.roles[number]
        # A role's only turn is worth its reward less the mean over all roles of the batch.
        assert mine.advantage == pytest.approx(np.full(8, row.rewards.sum() - mean), abs=1e-6)
        assert float(mine.advantage.mean()) == pytest.approx(note["advantage"][role], abs=1e-6)
        assert mine.logprobs_learner == pytest.approx(row.logprobs[row.acted], abs=1e-3)
        assert mine.kl == pytest.approx(row.logprobs[row.acted] - mine.logprobs_reference, abs=1e-6)
        assert float(np.mean([turns[0].kl, turns[1].kl])) == pytest.approx(note["kl_per_token"], abs=1e-6)
        # At most that of 259 equally likely tokens.
        assert mine.entropy == pytest.approx(np.full(8, np.log(259)), abs=0.5)
        assert mine.value is None


def test_tokens_of_an_update_are_those_of_its_first_pass():
    once, often = (
        Table(algorithm("reinforce"), LearnerSettings(learning_rate=1e-2, **more))
        for more in ({}, {"epochs": 3, "minibatches": 2})
    )
    rows = trajectories_of(once.play(num=6))
    first, second = once.learner.step(rows).tokens, often.learner.step(rows).tokens
    both = [(first[row.conversation][k], second[row.conversation][k]) for row in rows for k in np.unique(row.turn)]
    unmoved = [(one, other) for one, other in both if other.logprobs_learner is not None]
    # Half of the rows, those of the second minibatch, met a policy that had taken a step.
    assert (len(both), len(unmoved)) == (12, 6)
    for one, other in unmoved:
        assert other.logprobs_learner == pytest.approx(one.logprobs_learner, abs=1e-5)
        assert other.entropy == pytest.approx(one.entropy, abs=1e-5)
    assert all(other.entropy.shape == (8,) for _, other in both)


def test_divergence_of_tokens_is_exact_where_the_loss_has_the_exact_one():
    rule = Reinforce(baseline="batch", kl_estimator="full", kl=FixedKL(coefficient=0.1))
    table = Table(rule, LearnerSettings(learning_rate=1e-2))
    rows = after_one_update(table)
    expected = {}
    with torch.no_grad():
        for row in rows:
            tokens = torch.from_numpy(row.tokens).long()[None]
            policy = table.loaded.model(tokens).logits[0].log_softmax(-1)
            with table.learner._policy.reference() as model:
                reference = model(tokens).logits[0].log_softmax(-1)
            # The logits of a position speak about the next token.
            exact = (policy.exp() * (policy - reference)).sum(-1)[np.flatnonzero(row.acted) - 1]
            expected[row.conversation, int(row.turn[0])] = exact.numpy()
    update = table.learner.step(rows)
    for (conversation, number), exact in expected.items():
        assert exact.min() > 1e-3
        assert update.tokens[conversation][number].kl == pytest.approx(exact, abs=1e-5)


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


def test_update_whose_gradient_is_not_finite_is_refused_and_makes_no_version():
    table = Table(algorithm("reinforce"), LearnerSettings())
    rows = trajectories_of(table.play(num=2))
    before = copy.deepcopy(table.loaded.model.state_dict())
    with pytest.raises(UserError, match="version 1: the gradient is not finite"):
        table.learner.step([replace(row, rewards=row.rewards + np.float32(np.inf)) for row in rows])
    assert table.learner.version == 0
    assert all(torch.equal(before[name], value) for name, value in table.loaded.model.state_dict().items())


def test_only_this_versions_conversations_must_agree_with_the_learner():
    table = Table(algorithm("reinforce"), LearnerSettings(learning_rate=1e-2))
    rows = trajectories_of(table.play(num=4))
    table.learner.step(rows)
    update = table.learner.step(rows)
    assert update.metrics["learn/sampler_gap_nats"] == 0.0
    assert update.metrics["learn/stale_tokens"] == update.metrics["learn/acted_tokens"] == 4 * 2 * 8
    assert update.metrics["learn/ratio_max"] > 1.01


def test_metrics_do_not_depend_on_how_often_the_optimizer_steps():
    settings = {"learning_rate": 1e-9, "tokens_per_microbatch": 150}
    once, often = (
        Table(Reinforce(baseline="batch", kl=FixedKL(coefficient=0.5)), LearnerSettings(**settings, **more))
        for more in ({}, {"epochs": 2, "minibatches": 3})
    )
    rows = trajectories_of(once.play(num=6))
    first, second = once.learner.step(rows).metrics, often.learner.step(rows).metrics
    for name in ("entropy/per_token_nats", "kl/per_token_nats", "learn/ratio_max", "learn/tokens"):
        assert first[name] == pytest.approx(second[name], abs=1e-5), name


def test_learning_rate_follows_the_schedule_over_versions():
    schedule = Schedule(shape="linear", num_updates=4)
    table = Table(algorithm("reinforce"), LearnerSettings(learning_rate=0.1, schedule=schedule))
    rows = trajectories_of(table.play(num=2))
    rates = [table.learner.step(rows).metrics["learn/learning_rate"] for _ in range(4)]
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


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
        scored = share_of_question_marks(table.play(num=24, step=step))
        rewards.append(float(np.mean([one.rewards.mean() for one in scored])))
        update = table.learner.step([row for one in scored for row in trace(one)])
        table.publish()
    if coefficient:
        assert np.mean(rewards[-5:]) < 0.3
        assert update.metrics["kl/per_token_nats"] < 0.3
    else:
        # Chance is 1 in 259 tokens.
        assert np.mean(rewards[-5:]) > 0.6
