"""Which pairs are drawn for labelling, and in what order."""

from collections import Counter

import numpy as np
import pytest

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, Turn
from selfplay.errors import UserError
from selfplay.pair_sampling import Sampling, dialogs_of, key_of_pair, sample_pairs


def talk(id, *, seed=0, texts=("Hello",), trained=("host",), answers=None):
    """Make a chat in which the host says each text and the guest answers."""
    answers = answers or ["Yes."] * len(texts)
    turns, heard = [], ""
    for text, answer in zip(texts, answers, strict=True):
        turns.append(Turn(role="host", text=text, heard_text=heard, player="learner@0"))
        turns.append(Turn(role="guest", text=answer, heard_text=text, player="learner@0"))
        heard = answer
    roles = ("host", "guest")
    return Conversation(
        id=id,
        scenario=Scenario(env="chitchat", seed=seed, split="train", roles=roles),
        players={role: PlayerInfo(policy="learner", model="tiny", trained=role in trained) for role in roles},
        turns=tuple(turns),
        outcome=Outcome(status="terminated", reason="leaving"),
    )


def groups(num, *, size, trained=("host",)):
    return [
        talk(f"000001-g{group:02d}-{k}", seed=group, texts=(f"Text {k} of {group}",), trained=trained)
        for group in range(num)
        for k in range(size)
    ]


class Disputed:
    """A model of two members that disagree by what a dialog says: 0 to 9 tenths."""

    def __init__(self, num_members=2):
        self.num_members = num_members

    def probabilities(self, examples):
        gaps = [sum(len(dialog.messages[0].text) for dialog in example.dialogs) % 10 / 20 for example in examples]
        return np.stack(
            [0.5 + gap * (-1) ** member for member in range(self.num_members) for gap in [np.array(gaps)]], 1
        )


def variance(pairs):
    probabilities = Disputed().probabilities([type("E", (), {"dialogs": dialogs_of(pair)}) for pair in pairs])
    return probabilities.var(axis=1)


def test_sample_pairs_draws_every_pair_of_one_scenario_once():
    # Two scenarios of three conversations: three pairs each, and one trained role.
    pairs = sample_pairs(groups(2, size=3), n=100, sampling=Sampling())
    assert len({key_of_pair(pair) for pair in pairs}) == len(pairs) == 6
    assert all(pair.left.scenario == pair.right.scenario for pair in pairs)
    assert {pair.focus for pair in pairs} == {"host"}


def test_sample_pairs_asks_about_both_roles_when_both_are_trained():
    pairs = sample_pairs(groups(1, size=2, trained=("host", "guest")), n=9, sampling=Sampling())
    assert sorted(pair.focus for pair in pairs) == ["guest", "host"]


def test_sample_pairs_asks_about_any_common_role_when_none_is_trained():
    pairs = sample_pairs(groups(1, size=2, trained=()), n=9, sampling=Sampling())
    assert sorted(pair.focus for pair in pairs) == ["guest", "host"]


def test_sample_pairs_judges_the_given_focus_though_it_is_not_trained():
    [pair] = sample_pairs(groups(1, size=2), n=9, sampling=Sampling(focus="guest"))
    assert pair.focus == "guest"


def test_sample_pairs_leaves_out_conversations_that_read_the_same():
    same = [talk("000001-g00-0"), talk("000001-g00-1"), talk("000001-g00-2", texts=("Bye",))]
    pairs = sample_pairs(same, n=9, sampling=Sampling())
    assert len(pairs) == 2
    assert all("000001-g00-2" in (pair.left.id, pair.right.id) for pair in pairs)


def test_sample_pairs_excludes_what_was_labelled_before_whatever_its_sides():
    conversations = groups(4, size=4)
    first = sample_pairs(conversations, n=10, sampling=Sampling())
    keys = {key_of_pair(pair) for pair in first}
    # 4 scenarios x 6 pairs = 24: 14 are left.
    rest = sample_pairs(conversations, n=100, sampling=Sampling(seed=1), exclude=keys)
    assert len(rest) == 14
    assert not keys & {key_of_pair(pair) for pair in rest}


def test_sample_pairs_with_one_seed_gives_one_answer_and_another_with_another():
    conversations = groups(5, size=4)
    one, again, other = (sample_pairs(conversations, n=12, sampling=Sampling(seed=seed)) for seed in (3, 3, 4))
    assert one == again != other


def test_sample_pairs_is_uniform_over_scenarios_and_sides():
    conversations = groups(3, size=40)
    pairs = sample_pairs(conversations, n=900, sampling=Sampling())
    # Binomial(900, 1/3) has a deviation of 14, Binomial(900, 1/2) of 15: four of them.
    assert all(abs(count - 300) < 57 for count in Counter(pair.left.scenario.seed for pair in pairs).values())
    num_ordered = sum(pair.left.id < pair.right.id for pair in pairs)
    assert abs(num_ordered - 450) < 60


def test_sample_pairs_of_very_many_conversations_lists_no_pair_twice():
    pairs = sample_pairs(groups(1, size=300), n=2000, sampling=Sampling())
    assert len({key_of_pair(pair) for pair in pairs}) == len(pairs) == 2000


def test_unit_turn_judges_the_first_turn_that_differs_after_the_same_past():
    one = talk("000001-g00-0", texts=("Hi", "How are you?", "Fine"))
    other = talk("000001-g00-1", texts=("Hi", "Bye", "Fine"))
    [pair] = sample_pairs([one, other], n=9, sampling=Sampling(unit="turn"))
    assert pair.turns == (2, 2)
    first, second = dialogs_of(pair)
    assert first.before_last() == second.before_last()
    assert {first.messages[-1].text, second.messages[-1].text} == {"How are you?", "Bye"}


def test_unit_turn_finds_nothing_when_the_past_differs():
    one = talk("000001-g00-0", texts=("Hi", "Yes"), answers=("One.", "Two."))
    other = talk("000001-g00-1", texts=("Hi", "No"), answers=("Three.", "Two."))
    assert sample_pairs([one, other], n=9, sampling=Sampling(unit="turn")) == []


def test_disagreement_keeps_pairs_of_higher_variance_than_random_ones():
    conversations = [
        talk(f"000001-g{group:02d}-{k}", seed=group, texts=("x" * (3 * k + group),))
        for group in range(10)
        for k in range(8)
    ]
    sampling = Sampling(sampler="disagreement", model=Disputed())
    chosen = sample_pairs(conversations, n=20, sampling=sampling)
    random = sample_pairs(conversations, n=20, sampling=Sampling())
    assert variance(chosen).mean() > variance(random).mean()
    # Of 200 candidates a tenth has the largest gap, .45: its two probabilities lie .45 from their mean.
    np.testing.assert_allclose([pair.disagreement for pair in chosen[:5]], 0.45**2)
    assert [pair.disagreement for pair in chosen] == sorted((p.disagreement for p in chosen), reverse=True)
    assert {pair.sampler for pair in chosen} == {"disagreement-10x"}


def test_disagreement_of_few_candidates_says_how_few():
    # Two scenarios of four conversations have 12 pairs, of which 8 are kept.
    pairs = sample_pairs(groups(2, size=4), n=8, sampling=Sampling(sampler="disagreement", model=Disputed()))
    assert {pair.sampler for pair in pairs} == {"disagreement-1.5x"}


def test_disagreement_breaks_ties_by_the_order_of_drawing():
    class Agreed:
        def probabilities(self, examples):
            return np.full((len(examples), 3), 0.5)

    conversations = groups(4, size=4)
    chosen = sample_pairs(conversations, n=5, sampling=Sampling(sampler="disagreement", model=Agreed(), candidates=2))
    drawn = sample_pairs(conversations, n=5, sampling=Sampling())
    assert [key_of_pair(pair) for pair in chosen] == [key_of_pair(pair) for pair in drawn]


@pytest.mark.parametrize(("model", "words"), [(None, "rm=PATH"), (Disputed(num_members=1), "ensemble=3")])
def test_disagreement_without_several_members_says_what_is_needed(model, words):
    with pytest.raises(UserError, match=words):
        sample_pairs(groups(2, size=2), n=2, sampling=Sampling(sampler="disagreement", model=model))
