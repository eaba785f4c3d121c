"""Rewards against repetition, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rewards.repetition import Copying, NgramLoops, SaidBefore, SelfOverlap
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.errors import UserError


def chat(*texts: str, seed: int = 0, index: int = 0) -> Conversation:
    roles = ("host", "guest")
    turns = [Turn(role=roles[k % 2], text=text, heard_text="", player="scripted") for k, text in enumerate(texts)]
    scenario = Scenario(env="test", seed=seed, split="train", roles=roles)
    return Conversation(id=f"000000-g{seed:02d}-{index}", scenario=scenario, turns=tuple(turns))


def values(reward, *texts: str) -> list[float]:
    [scores] = reward.score([chat(*texts)])
    return [round(value, 4) for value in scores.values.tolist()]


@pytest.mark.parametrize("reward", [NgramLoops(), Copying(), SelfOverlap(), SaidBefore()], ids=lambda one: one.name)
def test_reward_keeps_its_contract(reward):
    check_reward(reward)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("no no no", 1.0),
        ("No, no, yes", 0.0),
        ("very very very good", 0.75),
        # two words, three rounds and a half, behind one that does not loop: 7 of 8
        ("well i like i like i like i", 0.875),
        ("i like i like tea", 0.0),
        ("one two three four one two three four one two three four", 1.0),
        # five words are no loop, however often
        ("one two three four five one two three four five one two three four five", 0.0),
        ("how how how are you you you now", 0.75),
        ("", 0.0),
        ("???", 0.0),
    ],
)
def test_ngram_loops_counts_the_words_that_go_round(text: str, share: float):
    assert values(NgramLoops(), text) == [-share]


def test_ngram_loops_of_two_rounds_counts_what_is_said_twice():
    assert values(NgramLoops(times=2), "i like i like tea") == [-0.8]
    with pytest.raises(UserError, match="times=1 must be at least 2"):
        NgramLoops(times=1)


def test_copying_counts_four_words_of_the_partner():
    texts = [
        "I like long walks by the sea.",
        # 5 four-grams, of which "I like long walks" and "like long walks by" are the host's
        "Me too: I like long walks by night",
        # of its own: no copy
        "I like long walks by the sea indeed",
        "By the sea!",
    ]
    # the third: "i like long walks" and "like long walks by" are the guest's too: 2 of 5
    assert values(Copying(), *texts) == [0, -0.4, -0.4, 0]


def test_copying_of_a_whole_message_is_all_of_it_however_short():
    assert values(Copying(), "Hello there!", "hello, there", "?", "?", "Hello there you") == [0, -1, 0, 0, 0]


def test_copying_leaves_the_speakers_own_words_to_others():
    assert values(Copying(), "I like the sea a lot", "Fine.", "I like the sea a lot") == [0, 0, 0]


def test_copying_says_what_was_copied():
    [scores] = Copying().score([chat("Do you like green tea?", "Do you like green cheese?", "do you like green tea")])
    assert scores.why == ("", "copied: do you like green", "copied: do you like green")


def test_self_overlap_is_the_share_of_other_scenarios_that_say_the_same():
    conversations = [
        chat("I love it so much", seed=1),
        chat("We love it so", "rain", seed=2),
        chat("love it so", seed=3),
        chat("Nothing at all", seed=4),
        chat("Nothing at all", seed=4, index=1),
    ]
    # of 4 others: "i love it" 0, "love it so" 2, "it so much" 0 -> 2/4 over 3 n-grams
    # seed 2: "we love it" 0, "love it so" 2 of 4 -> 1/4; "rain" is one n-gram that nobody has; seed 3: 2 of 4
    # seed 4: its sibling does not count
    found = [scores.values.tolist() for scores in SelfOverlap().score(conversations)]
    assert found == [[pytest.approx(-1 / 6)], [-0.25, 0], [-0.5], [0], [0]]


def test_self_overlap_is_full_where_every_conversation_says_one_thing():
    found = SelfOverlap().score([chat("What? Where?", "", seed=seed) for seed in range(4)])
    assert [scores.values.tolist() for scores in found] == [[-1, 0]] * 4


def test_self_overlap_does_not_apply_to_a_batch_of_one_scenario():
    found = SelfOverlap().score([chat("Hi", seed=1), chat("Hi", seed=1, index=1)])
    assert all(np.isnan(scores.values).all() for scores in found)


def test_self_overlap_takes_the_splits_of_one_seed_for_two_scenarios():
    train = chat("Hi")
    held_out = replace(train, scenario=replace(train.scenario, split="held_out"))
    assert [scores.values.tolist() for scores in SelfOverlap().score([train, held_out])] == [[-1], [-1]]


def test_said_before_looks_at_the_words_alone():
    texts = ["Nice day.", "nice day!!", "It is a nice day", "", "", "...", "...", "?", "Day nice"]
    assert values(SaidBefore(), *texts) == [0, -1, 0, 0, 0, 0, -1, 0, 0]


@pytest.mark.parametrize("reward", [Copying, SelfOverlap])
def test_n_gram_of_no_words_is_refused(reward):
    with pytest.raises(UserError, match="n=0 must be at least 1"):
        reward(n=0)
