"""Fitting: a hidden reward is found, noise is allowed for, draws differ between members, and scales do not matter."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from reward_model_talks import dialog_of_texts, hidden_reward, judged_pairs, random_dialog

from selfplay.errors import UserError
from selfplay.reward_model.examples import Example
from selfplay.reward_model.fit import Halves, _bootstrap, _on_one_scale, _Plan, filled_in, fit
from selfplay.reward_model.members import new_members
from selfplay.reward_model.model import accuracy_of
from selfplay.reward_model.normaliser import Normaliser, normaliser_of
from selfplay.reward_model.scorer import value_of
from selfplay.reward_model.settings import FitSettings
from selfplay.reward_model.trained_on import digests_of
from selfplay.reward_model.training import Task, loss_of, train_member, values_of

TALKS = judged_pairs(60, seed=1)
QUICK = FitSettings(backbone="words", hidden=8, epochs=4)


def fit_quietly(train, held_out, settings, **more):
    return fit(train, held_out, settings, say=lambda _: None, **more)


@pytest.fixture(scope="module")
def model():
    return fit_quietly(TALKS[:48], TALKS[48:], QUICK)


# ----- what is learnt -----


@pytest.mark.slow
def test_fit_finds_a_hidden_linear_reward_the_better_the_more_labels_there_are():
    fresh = judged_pairs(200, seed=99)
    settings = FitSettings(backbone="words", hidden=0, ensemble=1, epochs=12, learning_rate=0.005)
    accuracies = []
    for num in (25, 125, 625):
        labels = judged_pairs(num, seed=2)
        found = fit_quietly(labels[num // 5 :], labels[: num // 5], settings)
        accuracies.append(accuracy_of(found, fresh))
    assert accuracies[0] + 0.04 < accuracies[1] < accuracies[2] - 0.04
    assert accuracies[2] > 0.85
    dialogs = [dialog for example in fresh for dialog in example.dialogs]
    values = [verdict.mean for verdict in found.values(dialogs)]
    assert np.corrcoef(values, [hidden_reward(dialog) for dialog in dialogs])[0, 1] > 0.8


@pytest.mark.slow
def test_fit_that_allows_for_noise_is_hurt_less_by_flipped_labels():
    fresh = judged_pairs(300, seed=99, num_messages=2)
    loss = {}
    for noise in (0.0, 0.2):  # a fifth drawn blindly: every tenth label is wrong
        for flipped in (0.0, 0.1):
            settings = FitSettings(
                backbone="words", hidden=0, ensemble=1, noise=noise, epochs=12, learning_rate=0.03, batch_size=64
            )
            own = [
                _log_loss(
                    fit_quietly(judged_pairs(600, seed=seed, flipped=flipped, num_messages=2), [], settings), fresh
                )
                for seed in (3, 4)
            ]
            loss[noise, flipped] = np.mean(own)
    assert loss[0.2, 0.1] < loss[0.0, 0.1]
    assert loss[0.2, 0.1] - loss[0.2, 0.0] < loss[0.0, 0.1] - loss[0.0, 0.0]


def _log_loss(found, examples) -> float:
    probabilities = found.probabilities(examples)[:, 0]
    targets = np.array([example.targets[0] for example in examples])
    return float(-np.log(np.where(targets == 1, probabilities, 1 - probabilities)).mean())


@pytest.mark.parametrize("kind", ["ranking", "best", "rating"])
def test_fit_learns_from_every_kind_of_example(kind):
    good, fair, bad = (dialog_of_texts("Hi.", text) for text in ("tea?", "tea.", "rain."))
    examples = {
        "ranking": [Example(dialogs=(bad, good, fair), kind="ranking", targets=(3.0, 1.0, 2.0))],
        "best": [Example(dialogs=(bad, good, fair), kind="best", targets=(1.0,))],
        "rating": [
            Example(dialogs=(dialog,), kind="rating", targets=(rating,))
            for dialog, rating in ((good, 1.0), (fair, 0.0), (bad, -1.0))
        ],
    }[kind]
    found = fit_quietly(
        examples, [], FitSettings(backbone="words", hidden=0, ensemble=1, epochs=50, learning_rate=0.01)
    )
    values = [verdict.mean for verdict in found.values([good, fair, bad])]
    assert np.argmax(values) == 0
    if kind != "best":
        assert values[1] > values[2]


def test_fit_gives_the_same_model_again_and_another_one_with_another_seed(model):
    dialogs = [random_dialog(np.random.default_rng(0))]
    again = fit_quietly(TALKS[:48], TALKS[48:], QUICK)
    other = fit_quietly(TALKS[:48], TALKS[48:], QUICK.model_copy(update={"seed": 1}))
    assert again.values(dialogs) == model.values(dialogs)
    assert other.values(dialogs) != model.values(dialogs)


def test_fit_leaves_torchs_global_generator_alone(model):
    before = torch.get_rng_state()
    fit_quietly(TALKS[:8], [], QUICK.model_copy(update={"epochs": 1}))
    assert torch.equal(before, torch.get_rng_state())


def test_fit_reports_each_evaluation_and_every_20_steps():
    seen = []
    settings = QUICK.model_copy(update={"batch_size": 2, "ensemble": 1, "epochs": 1})
    fit_quietly(TALKS[:50], TALKS[50:], settings, on_progress=seen.append)
    # 8 of the 50 are set aside, so there are 21 batches of 2.
    assert [(one.step, one.num_steps) for one in seen] == [(20, 21), (21, 21)]
    assert seen[0].validation_loss is None
    assert seen[1].validation_loss > 0
    assert 0 <= seen[1].validation_accuracy <= 1


def test_a_member_stops_when_the_validation_loss_no_longer_falls():
    steps = []
    # Set aside is the same with all labels turned round: the more is learnt, the worse.
    turned = [Example(dialogs=each.dialogs, kind="pair", targets=(1 - each.targets[0],)) for each in TALKS]
    settings = filled_in(QUICK.model_copy(update={"epochs": 50, "patience": 3, "ensemble": 1}), "turn")
    task = Task(
        train=TALKS,
        validation=turned,
        settings=settings,
        evaluations_per_epoch=1,
        starts_trained=False,
        on_progress=steps.append,
        is_twin=False,
    )
    [member] = new_members(settings, [1], scope="turn", say=lambda _: None)
    member.sentences.remember([dialog for each in TALKS for dialog in each.dialogs], say=lambda _: None)
    train_member(member, 0, task, np.random.default_rng(0))
    assert max(one.epoch for one in steps) <= 5
    assert [one.ending.partition(";")[0] for one in steps if one.ending] == ["stopped: no better for 3 evaluations"]
    best = max(steps, key=lambda one: (one.validation_accuracy, -one.validation_loss))
    assert steps[-1].ending.endswith(f"; kept epoch {best.epoch + 1}")


def test_fit_keeps_the_state_with_the_best_accuracy_on_what_it_set_aside():
    seen = []
    settings = QUICK.model_copy(update={"epochs": 12, "ensemble": 1})
    found = fit_quietly(TALKS[:40], TALKS[40:], settings, on_progress=seen.append)
    assert found.info.validation_accuracies == (max(one.validation_accuracy for one in seen),)
    assert found.info.accuracy == accuracy_of(found, TALKS[40:])


def test_what_is_held_out_has_no_part_in_training():
    turned = [Example(dialogs=each.dialogs, kind="pair", targets=(1 - each.targets[0],)) for each in TALKS[40:]]
    dialogs = [random_dialog(np.random.default_rng(0))]
    found, other = (fit_quietly(TALKS[:40], held_out, QUICK) for held_out in (TALKS[40:], turned))
    assert found.values(dialogs) == other.values(dialogs)
    assert found.info.accuracy != other.info.accuracy


def test_fit_with_max_examples_takes_fewer_among_more():
    seen = {}
    for most in (10, 20):
        settings = QUICK.model_copy(update={"epochs": 1, "max_examples": most})
        found = fit_quietly([*TALKS[:30], *TALKS[30:]], [], settings)
        seen[most] = found.info
    assert (seen[10].num_train, seen[20].num_train) == (10, 20)
    assert seen[10].sources == {"judge": 10}


def test_fit_without_ties_leaves_them_out_and_says_so_if_nothing_is_left():
    tie = Example(dialogs=TALKS[0].dialogs, kind="pair", targets=(0.5,))
    settings = QUICK.model_copy(update={"ties": False, "epochs": 1})
    assert fit_quietly([tie, TALKS[1]], [], settings).info.num_train == 1
    with pytest.raises(UserError, match=r"nothing to train on.*ties=false"):
        fit_quietly([tie], [], settings)


def test_fit_of_a_dialog_without_a_judged_message_says_where_it_is():
    silent = dialog_of_texts("Hello?")
    example = Example(dialogs=(silent, silent), kind="pair", targets=(1.0,), where="a.jsonl:3")
    with pytest.raises(UserError, match=r"a\.jsonl:3: a dialog has no message"):
        fit_quietly([example], [], QUICK)


def test_fit_on_sentence_vectors_refuses_one_number_for_a_conversation():
    with pytest.raises(UserError, match="scope=conversation does not go with backbone=words"):
        filled_in(QUICK.model_copy(update={"scope": "conversation"}), "conversation")


@pytest.mark.parametrize(
    ("words", "judged", "expected"),
    [
        ({"backbone": "minilm"}, "conversation", (3, 60, 6, 1e-3, "turn")),
        ({"backbone": "tiny"}, "conversation", (1, 3, 2, 1e-4, "conversation")),
        ({"backbone": "tiny", "method": "full"}, "turn", (1, 3, 2, 1e-5, "turn")),
        ({"backbone": "tiny", "ensemble": 2, "epochs": 1, "scope": "turn"}, "conversation", (2, 1, 2, 1e-4, "turn")),
    ],
)
def test_automatic_settings_depend_on_the_backbone(words, judged, expected):
    found = filled_in(FitSettings(**words), judged)
    assert (found.ensemble, found.epochs, found.patience, found.learning_rate, found.scope) == expected


# ----- members -----


def test_members_of_an_ensemble_learn_from_different_draws():
    settings = QUICK.model_copy(update={"ensemble": 2})
    draws = [_bootstrap(TALKS, number, settings, is_twin=False) for number in range(2)]
    distinct = [{example.keys for example in draw} for draw in draws]
    assert all(len(draw) == 60 for draw in draws)
    assert distinct[0] != distinct[1]
    # Of n draws with replacement from n, 1 - 1/e = 63% are distinct; three standard deviations are 14 points.
    assert all(0.48 < len(own) / 60 < 0.78 for own in distinct)


def test_a_single_member_reads_every_example():
    assert _bootstrap(TALKS, 0, QUICK.model_copy(update={"ensemble": 1}), is_twin=False) == TALKS


def test_a_twin_learns_from_the_other_half_and_is_put_on_the_same_reference():
    settings = QUICK.model_copy(update={"twin": True, "epochs": 2})
    seen = []
    found = fit_quietly(TALKS[:40], TALKS[40:], settings, on_progress=seen.append)
    assert found.info.num_train + found.twin.info.num_train == 40
    assert abs(found.info.num_train - 20) <= 1
    assert found.twin.info.reference == found.info.reference
    assert {one.is_twin for one in seen} == {False, True}
    dialogs = [dialog for example in TALKS[:40] for dialog in example.dialogs]
    for each in (found, found.twin):
        values = [verdict.mean for turns in each.turn_values(dialogs) for verdict in turns]
        assert np.mean(values) == pytest.approx(0, abs=1e-9)
        assert np.std(values) == pytest.approx(1)


def test_a_twin_learns_from_the_half_that_is_given():
    settings = QUICK.model_copy(update={"twin": True, "epochs": 1})
    found = fit_quietly(Halves(own=TALKS[:30], twin=TALKS[30:40]), TALKS[40:], settings)
    assert (found.info.num_train, found.twin.info.num_train) == (30, 10)
    assert found.trained_on == digests_of(TALKS[:30])
    assert found.twin.trained_on == digests_of(TALKS[30:40])


# ----- one scale -----


def test_normaliser_gives_mean_0_and_deviation_1():
    # Mean 4, deviation 2.
    assert normaliser_of(np.array([2.0, 6.0])) == Normaliser(gain=0.5, bias=-2.0)


def test_normaliser_of_a_constant_takes_its_mean_away_alone():
    assert normaliser_of(np.full(5, 0.1)).apply(np.array([0.1, 1.1])).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("judged", ["turn", "conversation"])
def test_each_member_and_their_mean_have_mean_0_and_deviation_1_over_all_turns_of_the_reference(judged):
    rng = np.random.default_rng(0)
    reference = [random_dialog(rng, num_messages=2 + 2 * (number % 3)) for number in range(30)]
    found = fit_quietly([replace(each, judged=judged) for each in TALKS], [], QUICK, reference=reference)
    verdicts = [verdict for turns in found.turn_values(reference) for verdict in turns]
    assert len(verdicts) == 10 * (1 + 2 + 3)
    values = np.array([verdict.mean for verdict in verdicts])
    assert (values.mean(), values.std()) == pytest.approx((0, 1), abs=1e-9)
    raw = found.raw_numbers(reference)
    for number, norm in enumerate(found.normalisers):
        own = norm.apply(raw[:, number])
        assert (own.mean(), own.std()) == pytest.approx((0, 1), abs=1e-9)


def test_a_constant_added_to_a_members_numbers_changes_nothing():
    """Its normaliser takes the constant away, whatever the other members say."""

    class Raised:
        def __init__(self, member):
            self.member = member

        def __getattr__(self, name):
            return getattr(self.member, name)

        def read(self, dialogs):
            return [numbers + 3.0 for numbers in self.member.read(dialogs)]

    found = fit_quietly(TALKS, [], QUICK)
    plan = _Plan(
        settings=found.info.settings, held_out=[], reference=[each.dialogs[0] for each in TALKS], reference_name="",
        judged="conversation", say=print, on_progress=print,
    )  # fmt: skip
    plain = _on_one_scale(found.members, found.info, plan)
    raised = _on_one_scale([Raised(found.members[0]), *found.members[1:]], found.info, plan)
    fresh = [random_dialog(np.random.default_rng(seed)) for seed in range(5)]
    for one, other in zip(plain.values(fresh), raised.values(fresh), strict=True):
        assert one.members == pytest.approx(other.members, abs=1e-4)


# ----- losses of a batch -----


def test_loss_of_a_batch_is_the_sum_over_kinds():
    dialogs = tuple(dialog_of_texts("a", text) for text in "bcd")
    examples = [
        Example(dialogs=dialogs[:2], kind="pair", targets=(1.0,)),
        Example(dialogs=dialogs, kind="ranking", targets=(1.0, 2.0, 3.0)),
        Example(dialogs=dialogs, kind="best", targets=(2.0,)),
        Example(dialogs=dialogs[:1], kind="rating", targets=(2.0,)),
    ]
    values = [torch.zeros(len(example.dialogs), dtype=torch.float64) for example in examples]
    # At equal numbers: ln 2 for a pair and for the mean of a ranking's, ln 3 for one of three, (0 - 2)^2.
    expected = 2 * np.log(2) + np.log(3) + 4
    assert float(loss_of(examples, values, QUICK)) == pytest.approx(expected)


def test_loss_of_a_ranking_without_ties_is_that_of_its_clear_pairs():
    dialogs = tuple(dialog_of_texts("a", text) for text in "bcd")
    example = Example(dialogs=dialogs, kind="ranking", targets=(1.0, 1.0, 2.0))
    values = [torch.tensor([5.0, 0.0, 0.0])]
    loss = {ties: float(loss_of([example], values, QUICK.model_copy(update={"ties": ties}))) for ties in (True, False)}
    # Clear pairs: 5 against 0 and 0 against 0; the tie of 5 and 0 costs the mean of softplus(5) and softplus(-5).
    clear = np.log1p(np.exp(-5)) + np.log(2)
    tie = (np.log1p(np.exp(5)) + np.log1p(np.exp(-5))) / 2
    assert loss == pytest.approx({True: (clear + tie) / 3, False: clear / 2})


@pytest.mark.parametrize("ties", [True, False])
def test_clamp_keeps_the_targets_of_a_rankings_pairs_within_its_bounds(ties):
    example = Example(dialogs=tuple(dialog_of_texts("a", text) for text in "bcd"), kind="ranking", targets=(1, 1, 2))
    settings = QUICK.model_copy(update={"clamp": 0.6, "ties": ties})
    # Differences of the three pairs: 5, 5, 0.  Cross-entropy at a target t: t softplus(-d) + (1 - t) softplus(d).
    clear = 0.6 * np.log1p(np.exp(-5)) + 0.4 * np.log1p(np.exp(5)) + np.log(2)
    tie = (np.log1p(np.exp(5)) + np.log1p(np.exp(-5))) / 2
    found = float(loss_of([example], [torch.tensor([5.0, 0.0, 0.0])], settings))
    assert found == pytest.approx((clear + tie) / 3 if ties else clear / 2)


@pytest.mark.parametrize("judged", ["turn", "conversation"])
def test_values_of_many_dialogs_are_those_of_each(judged):
    numbers = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0]), torch.tensor([-1.0, 2.0])]
    expected = [float(value_of(own, judged)) for own in numbers]
    assert values_of(numbers, judged).tolist() == pytest.approx(expected)


# ----- the model -----


def test_values_do_not_depend_on_what_is_scored_beside_them(model):
    rng = np.random.default_rng(8)
    dialogs = [random_dialog(rng, num_messages=num) for num in (2, 8, 4, 6)]
    alone = [model.values([dialog])[0].mean for dialog in dialogs]
    assert [verdict.mean for verdict in model.values(dialogs)] == pytest.approx(alone, abs=1e-5)


def test_a_conversations_value_is_the_mean_of_its_turns(model):
    dialog = random_dialog(np.random.default_rng(4), num_messages=6)
    [turns] = model.turn_values([dialog])
    [whole], [last] = model.values([dialog]), model.values([dialog], judged="turn")
    assert len(turns) == 3
    assert whole.mean == pytest.approx(np.mean([turn.mean for turn in turns]))
    assert last.mean == pytest.approx(turns[-1].mean)
    assert whole.mean == pytest.approx(np.mean(whole.members))
    assert whole.std == pytest.approx(np.std(whole.members))


def test_turns_that_were_cut_off_have_no_verdict(model):
    class Forgetful:
        """Reads only the newest message."""

        def __init__(self, member):
            self.member, self.num_truncated = member, 1

        def __getattr__(self, name):
            return getattr(self.member, name)

        def read(self, dialogs):
            return [numbers[-1:] for numbers in self.member.read(dialogs)]

    short = copy.copy(model)
    short.members = [Forgetful(member) for member in model.members]
    dialog = random_dialog(np.random.default_rng(4))
    [[old, new]] = short.turn_values([dialog])
    assert np.isnan([old.mean, old.std, *old.members]).all()
    assert new == model.turn_values([dialog])[0][1]
    assert short.num_truncated == 1


def test_probabilities_are_logistic_in_the_members_own_numbers(model):
    examples = TALKS[:3]
    first, second = (model.raw_values([each.dialogs[side] for each in examples]) for side in (0, 1))
    expected = 1 / (1 + np.exp(second - first))
    np.testing.assert_allclose(model.probabilities(examples), expected)
    turned = [Example(dialogs=each.dialogs[::-1], kind="pair", targets=each.targets) for each in examples]
    np.testing.assert_allclose(model.probabilities(turned), 1 - expected)


def test_accuracy_counts_clear_pairs_of_every_kind_and_no_ties(model):
    dialogs = sorted((each.dialogs[0] for each in TALKS[:3]), key=lambda dialog: model.values([dialog])[0].mean)
    worst, fair, best = dialogs
    examples = [
        Example(dialogs=(best, worst), kind="pair", targets=(0.9,)),  # right
        Example(dialogs=(best, worst), kind="pair", targets=(0.5,)),  # a tie
        Example(dialogs=(best, fair, worst), kind="ranking", targets=(1.0, 1.0, 2.0)),  # two right, one tie
        Example(dialogs=(best, fair, worst), kind="best", targets=(1.0,)),  # better than the worst alone: 1 of 2
        Example(dialogs=(best,), kind="rating", targets=(1.0,)),
        Example(dialogs=(worst,), kind="rating", targets=(-1.0,)),  # with the one above: right
        Example(dialogs=(fair, fair), kind="pair", targets=(1.0,)),  # equal values: half
    ]
    assert accuracy_of(model, examples) == pytest.approx((1 + 2 + 1 + 1 + 0.5) / 7)
    assert accuracy_of(model, examples[1:2]) is None
