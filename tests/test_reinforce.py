"""The critic-free family on small batches, by hand."""

from dataclasses import dataclass, replace

import pytest
import torch

from selfplay.contracts import check_algorithm
from selfplay.contracts.algorithm import sample_batch
from selfplay.errors import UserError
from selfplay.experience import Batch
from selfplay.interfaces import Loss, Outputs, PluginError
from selfplay.learn.algorithms import ALGORITHMS, algorithm
from selfplay.learn.kl import AdaptiveKL, FixedKL
from selfplay.learn.reinforce import Reinforce
from selfplay.learn.turns import TurnTable

# sample_batch: rows 0 and 1 are siblings (returns 1.5, .5 and 0), rows 2 and 3 are equal siblings (.6, .3 each).


def outputs_of(batch: Batch) -> Outputs:
    return Outputs(logprobs=batch.logprobs.clone().requires_grad_(), entropy=torch.zeros_like(batch.logprobs))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("placement", [("loss", "k2"), ("loss", "k3"), ("loss", "full"), ("reward", "k1")])
def test_algorithms_keep_their_contract(name: str, placement: tuple[str, str]):
    place, estimator = placement
    check_algorithm(
        replace(algorithm(name), kl_place=place, kl_estimator=estimator, kl=FixedKL(coefficient=0.3), entropy_bonus=0.1)
    )


def test_turn_table_counts_own_turns_and_sums_over_their_tokens():
    table = TurnTable.of(sample_batch())
    assert table.exists.tolist() == [[True, True], [True, False], [True, True], [True, True]]
    assert table.gather(torch.ones(4, 8)).tolist() == [[3, 2], [2, 0], [1, 1], [1, 1]]
    assert table.group[0] == table.group[1] != table.group[2] == table.group[3]


def test_spread_gives_every_acted_token_its_turns_number():
    batch = sample_batch()
    table = TurnTable.of(batch)
    spread = table.spread(torch.tensor([[1.0, 2.0], [3.0, 99.0], [4.0, 5.0], [6.0, 7.0]]))
    assert spread[0].tolist() == [0, 0, 1, 1, 1, 0, 2, 2]
    assert spread[1].tolist() == [0, 0, 3, 3, 0, 0, 0, 0]


def test_leave_one_out_compares_with_the_siblings_turn():
    prepared, _ = Reinforce(baseline="leave_one_out").prepare(sample_batch(), Reinforce().initial_state())
    # Row 0: 1.5 - 0 and .5 - 0 (its sibling has ended: 0); row 1: 0 - 1.5; rows 2 and 3 are equal.
    assert prepared.advantages[0].tolist() == [0, 0, 1.5, 1.5, 1.5, 0, 0.5, 0.5]
    assert prepared.advantages[1].tolist() == [0, 0, -1.5, -1.5, 0, 0, 0, 0]
    assert prepared.advantages[2:].abs().max() == 0


def test_batch_baseline_is_the_mean_return_of_all_turns():
    prepared, _ = Reinforce(baseline="batch").prepare(sample_batch(), Reinforce().initial_state())
    # Returns 1.5, .5, 0, .6, .3, .6, .3: mean 3.8 / 7.
    assert prepared.advantages[1, 2].item() == pytest.approx(-3.8 / 7)


def test_divergence_in_the_reward_is_subtracted_from_its_turn():
    batch = sample_batch()  # the reference is .1 nats below the policy at every acted token
    plain = Reinforce(baseline="none", kl_place="reward", kl_estimator="k1")
    charged = replace(plain, kl=FixedKL(coefficient=2.0))
    without, _ = plain.prepare(batch, plain.initial_state())
    with_kl, _ = charged.prepare(batch, charged.initial_state())
    # Row 0's second turn has two tokens: 2 * .1 * 2 = .4 less; its first turn also loses 2 * .1 * 3 = .6.
    difference = without.advantages - with_kl.advantages
    assert difference[0, 6].item() == pytest.approx(0.4)
    assert difference[0, 2].item() == pytest.approx(1.0)
    assert with_kl.kl_coefficient == 0.0


def test_divergence_in_the_loss_is_charged_per_acted_token():
    batch = sample_batch()
    settings = Reinforce(baseline="none", kl=FixedKL(coefficient=3.0))
    prepared, _ = settings.prepare(replace(batch, rewards=0 * batch.rewards), settings.initial_state())
    loss = settings.loss(outputs_of(prepared), prepared)
    # k2 of .1 nats is .005, the same at every acted token.
    assert loss.value.item() == pytest.approx(3.0 * 0.005)
    assert loss.metrics["loss/kl"] == pytest.approx(0.005)


def test_controller_moves_once_a_batch_and_from_the_state():
    settings = Reinforce(kl=AdaptiveKL(coefficient=0.5, target=0.1, horizon=40))
    batch = sample_batch()
    _, at_target = settings.prepare(batch, settings.initial_state())
    above = replace(batch, reference=batch.logprobs - 1.0 * batch.acted)
    _, moved = settings.prepare(above, {**settings.initial_state(), "kl_coefficient": 0.7})
    # At its target it stays; far above, four conversations of a horizon of 40 at the largest error: 1 + .2 * 4 / 40.
    assert at_target["kl_coefficient"] == pytest.approx(0.5, rel=1e-5)
    assert moved["kl_coefficient"] == pytest.approx(0.7 * 1.02)


def test_role_average_is_kept_in_the_state():
    settings = Reinforce(baseline="role_average")
    prepared, state = settings.prepare(sample_batch(), settings.initial_state())
    # The first row reads 0; the average of role 0 then moves by a twentieth of 1.5, then decays past 0, .6 and .6.
    average = 0.0
    for value in (1.5, 0.0, 0.6, 0.6):
        average = 0.95 * average + 0.05 * value
    assert prepared.advantages[0, 2] == 1.5
    assert state["role_averages"]["0"] == pytest.approx(average)


def with_parts(batch: Batch, weights: dict[str, float]) -> Batch:
    """Parts: the rewards themselves, and 1 on every acted turn."""
    talk = torch.zeros_like(batch.rewards)
    talk[[0, 0, 1, 2, 2, 3, 3], [4, 7, 3, 1, 4, 1, 4]] = 1.0
    return replace(batch, parts={"question": batch.rewards, "talk": talk}, weights=weights)


def test_normalised_parts_are_standardised_over_turns_then_weighted():
    rule = Reinforce(baseline="none", returns="normalised_parts")
    batch = with_parts(sample_batch(), {"question": 0.5, "talk": 0.0})
    prepared, _ = rule.prepare(batch, rule.initial_state())
    # Returns of the seven turns: 1.5 .5 0 .6 .3 .6 .3; mean 3.8 / 7, mean square 3.4 / 7.
    mean = 3.8 / 7
    deviation = (3.4 / 7 - mean**2) ** 0.5
    assert prepared.advantages[0, 2].item() == pytest.approx(0.5 * (1.5 - mean) / deviation, rel=1e-5)
    assert prepared.advantages[1, 2].item() == pytest.approx(0.5 * (0.0 - mean) / deviation, rel=1e-5)


def test_constant_part_adds_nothing_when_normalised():
    rule = Reinforce(baseline="none", returns="normalised_parts", gamma=0.0)
    alone = with_parts(sample_batch(), {"question": 0.5})
    both = with_parts(sample_batch(), {"question": 0.5, "talk": 9.0})
    first, second = (rule.prepare(batch, rule.initial_state())[0].advantages for batch in (alone, both))
    assert torch.equal(first, second)


def test_parts_that_are_missing_are_named():
    rule = Reinforce(returns="normalised_parts")
    assert "parts" in rule.needs
    batch = replace(sample_batch(), weights={"sentiment": 0.3})
    with pytest.raises(ValueError, match="no part 'sentiment'"):
        rule.prepare(batch, rule.initial_state())
    with pytest.raises(ValueError, match="no weights"):
        rule.prepare(replace(sample_batch(), weights={}), rule.initial_state())


def test_partners_turns_in_a_shared_stream_have_no_gradient_even_if_it_acted_elsewhere():
    batch = sample_batch()
    partner = torch.zeros_like(batch.acted)
    partner[0, 6:] = True  # the second turn of the first row is a frozen partner's
    batch = replace(batch, acted=batch.acted & ~partner, role_index=batch.role_index + partner.long())
    rule = Reinforce(baseline="batch", kl=FixedKL(coefficient=1.0), entropy_bonus=0.1)
    prepared, _ = rule.prepare(batch, rule.initial_state())
    outputs = outputs_of(prepared)
    rule.loss(outputs, prepared).value.backward()
    assert outputs.logprobs.grad[0, 6:].tolist() == [0.0, 0.0]
    assert outputs.logprobs.grad[0, 2:5].abs().min() > 0


def test_table_of_tokens_has_a_step_for_each_own_token():
    batch = sample_batch()
    table = TurnTable.of_tokens(batch)
    assert table.exists.sum(dim=1).tolist() == [5, 2, 2, 2]
    places = torch.arange(8).expand(4, -1)
    assert table.first(places)[0].tolist() == [2, 3, 4, 6, 7]
    assert TurnTable.of(batch).first(places)[0].tolist() == [2, 6]


def test_divergence_where_it_controls_nothing_is_refused():
    with pytest.raises(UserError, match="nothing would be controlled"):
        Reinforce(kl_place="loss", kl_estimator="k1")


def test_unknown_algorithm_is_refused_with_the_choice():
    with pytest.raises(UserError, match=r"no such algorithm; choose from reinforce, rloo"):
        algorithm("ppoo")


@dataclass(frozen=True)
class Careless(Reinforce):
    breaks: str = ""

    def initial_state(self):
        return {"seen": {1}} if self.breaks == "state" else Reinforce.initial_state(self)

    def prepare(self, batch, state):
        if self.breaks == "change":
            batch.rewards.add_(1.0)
        prepared, after = Reinforce.prepare(self, batch, state)
        if self.breaks == "padding":
            return replace(prepared, advantages=prepared.advantages + batch.rewards.sum()), after
        return (replace(prepared, advantages=None), after) if self.breaks == "nothing" else (prepared, after)

    def loss(self, outputs, batch):
        if self.breaks == "mean":
            return Loss(value=(outputs.logprobs * batch.advantages)[batch.acted].mean())
        if self.breaks == "partner":
            return Loss(value=outputs.logprobs.sum())
        return Reinforce.loss(self, outputs, batch)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("state", "initial_state returned a state that JSON cannot hold"),
        ("change", "prepare changed rewards"),
        ("padding", "prepare gave other advantages for other padding"),
        ("nothing", "prepare gave no advantages"),
        ("mean", "loss of a split batch is off by"),
        ("partner", "loss has a gradient where nothing was acted"),
    ],
)
def test_broken_algorithm_is_caught(breaks: str, message: str):
    with pytest.raises(PluginError, match=message):
        check_algorithm(Careless(breaks=breaks))
