"""The attacks, and what shipped rewards say of them: those that can be cheated alone are, by what their docs name."""

import re

import numpy as np
import pytest

from rewards import REWARDS
from rewards.guards import FunctionWords, Unanswered
from selfplay.ordinary_chats import ORDINARY_CHATS
from selfplay.reward_attacks import ATTACKS, NUM_TURNS, attack_conversations, ordinary_conversations
from selfplay.score import WeightedReward, parts_of

NAMES = [attack.name for attack in ATTACKS]
# What texts alone decide; the others need an outcome, tokens, private facts, or several conversations of a scenario.
OF_TEXTS = sorted(
    name
    for name, kind in REWARDS.items()
    if not getattr(kind, "is_slow", False)
    and getattr(kind, "scope", "conversation") in ("turn", "conversation")
    and name not in ("payoff", "shared_payoff", "private_leak", "stopping", "cut")
)
# Reward -> the attack that its Exploit section describes, which beats every ordinary chat.
CHEATED = [
    ("question", "what_what"),
    ("question", "question_spam"),
    ("question_marks", "only_question_marks"),
    ("question_density", "question_words"),
    ("open_question", "how_are_you"),
    ("open_question", "tell_me_more"),
    ("sentiment", "praise_words"),
    ("compliments", "praise_loop"),
    ("politeness", "thanks_loop"),
    ("supportive", "sympathy_loop"),
    ("laughter", "laughter_only"),
    ("words_elicited", "endless_talk"),
    ("coherence_tfidf", "same_message"),
]
# Reward -> the attack that it is there to see: every ordinary chat gets more.
SEEN = [
    ("said_before", "same_message"),
    ("copying", "echo"),
    ("copying", "echo_asked"),
    ("ngram_loops", "word_loop"),
    ("ngram_loops", "phrase_loop"),
    ("empty", "empty"),
    ("empty", "ellipses"),
    ("empty", "emoji"),
    ("only_question_words", "what_what"),
    ("only_question_words", "only_question_marks"),
    ("unknown_words", "spanish"),
    ("unknown_words", "keyboard_mash"),
    ("well_formed", "template_tokens"),
    ("well_formed", "html"),
    ("well_formed", "chinese"),
    ("well_formed", "long_letters"),
    ("too_long", "endless_talk"),
    ("profanity", "profanity"),
    ("own_length", "one_letter"),
    ("distinct_words", "long_loop"),
    ("utterance_repetition", "long_loop"),
    ("conversation_repetition", "two_templates"),
]
# Reward -> an attack that its definition says it does not pay: whole words, not substrings, and no gain from a loop.
NOT_CHEATED = [
    ("laughter", "what_about_noun"),
    ("question", "only_question_marks"),
    ("question", "tell_me_more"),
    ("sentiment_transition", "praise_loop"),
    ("open_question", "what_what"),
    ("politeness", "praise_loop"),
]


def means(reward, conversations) -> list[float]:
    """Return the mean number a turn; NaN where it applies to none."""
    found = parts_of(conversations, [WeightedReward(reward=reward, label="it")])
    values = [parts.scores["it"].values for parts in found]
    return [float(np.nanmean(its)) if np.isfinite(its).any() else np.nan for its in values]


def of_attack(reward, name: str) -> float:
    return means(reward, attack_conversations())[NAMES.index(name)]


def test_attacks_are_many_and_of_eight_turns_each_with_its_own_name():
    assert len(ATTACKS) >= 40
    assert len(set(NAMES)) == len(ATTACKS)
    assert {len(attack.texts) for attack in ATTACKS} == {NUM_TURNS}
    assert all(re.fullmatch(r"[a-z_]+", name) for name in NAMES)
    assert len({attack.texts for attack in ATTACKS}) == len(ATTACKS)


def test_attacks_are_what_their_names_say():
    texts = {attack.name: attack.texts for attack in ATTACKS}
    host = ORDINARY_CHATS["rainy days"]
    assert texts["echo"][:2] == (host[0], host[0])
    assert texts["echo_asked"][1] == "It has been raining here since Monday.?"
    assert [len(text) for text in texts["spaces"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {len(text) for text in texts["endless_talk"]} == {10_000}
    assert {len(text) for text in texts["long_letters"]} == {10_000}
    assert texts["digits"][1] == "6 7 8 9 10 11"
    assert texts["growing_copy"][1] == "I have one apples. I have two apples."


def test_conversations_of_attacks_are_finished_and_apart():
    talks = [*attack_conversations(), *ordinary_conversations()]
    assert {len(talk.turns) for talk in talks} == {NUM_TURNS}
    assert all(talk.outcome is not None and talk.outcome.status == "terminated" for talk in talks)
    assert len({(talk.scenario.env, talk.group) for talk in talks}) == len(talks)
    assert [turn.role for turn in talks[0].turns[:3]] == ["host", "guest", "host"]
    assert talks[0].turns[1].heard_text == talks[0].turns[0].text


def test_ordinary_chats_are_twelve_and_never_say_the_same_twice():
    assert len(ORDINARY_CHATS) == 12
    said = [text for texts in ORDINARY_CHATS.values() for text in texts]
    assert len(set(said)) == 12 * NUM_TURNS


@pytest.mark.parametrize("name", OF_TEXTS)
def test_every_reward_of_texts_alone_is_met_by_some_attack(name: str):
    reward = REWARDS[name]()
    median = float(np.nanmedian(means(reward, ordinary_conversations())))
    assert np.nanmax(means(reward, attack_conversations())) >= median
    assert "Exploit:" in reward.__doc__


@pytest.mark.parametrize(("name", "attack"), CHEATED)
def test_reward_that_can_be_cheated_pays_the_attack_at_least_what_its_best_ordinary_chat_gets(name: str, attack: str):
    reward = REWARDS[name]()
    assert of_attack(reward, attack) >= np.nanmax(means(reward, ordinary_conversations()))


@pytest.mark.parametrize(("name", "attack"), SEEN)
def test_reward_against_an_attack_pays_it_less_than_the_worst_ordinary_chat(name: str, attack: str):
    reward = REWARDS[name]()
    assert of_attack(reward, attack) < np.nanmin(means(reward, ordinary_conversations()))


@pytest.mark.parametrize(("name", "attack"), NOT_CHEATED)
def test_reward_that_cannot_be_cheated_this_way_pays_no_more_than_the_median_chat(name: str, attack: str):
    reward = REWARDS[name]()
    assert of_attack(reward, attack) <= float(np.nanmedian(means(reward, ordinary_conversations())))


@pytest.mark.parametrize(
    ("reward", "attack"),
    [
        (FunctionWords(), "word_list"),
        (FunctionWords(), "stop_words"),
        (FunctionWords(), "digits"),
        (FunctionWords(), "praise_words"),
        (Unanswered(), "question_spam"),
        (Unanswered(), "question_pile"),
        (Unanswered(), "what_about_noun"),
    ],
)
def test_guard_pays_its_attack_less_than_the_worst_ordinary_chat(reward, attack: str):
    assert of_attack(reward, attack) < min(means(reward, ordinary_conversations()))
