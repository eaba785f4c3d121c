"""Rewards by hand, with the originals' bugs as cases."""

import numpy as np
import pytest

from rewards import REWARDS
from rewards.asking import Question, QuestionDensity
from rewards.repetition import ConversationRepetition, UtteranceRepetition
from rewards.sentiment import Sentiment
from rewards.words import content_words_of, words_of
from selfplay.contracts import check_reward
from selfplay.contracts.reward import sample_conversations
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.score import WeightedReward

# Those that need no model.
CHEAP = sorted(name for name, kind in REWARDS.items() if not getattr(kind, "is_slow", False))


def chat(*texts: str) -> Conversation:
    roles = ("host", "guest")
    turns = [Turn(role=roles[k % 2], text=text, heard_text="", player="scripted") for k, text in enumerate(texts)]
    scenario = Scenario(env="test", seed=0, split="train", roles=roles)
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))


def values(reward, *texts: str) -> list[float]:
    [scores] = reward.score([chat(*texts)])
    return [round(value, 4) for value in scores.values.tolist()]


def as_said_by(texts: list[str], roles: str) -> Conversation:
    turns = [
        Turn(role=role, text=text, heard_text="", player="scripted") for role, text in zip(roles, texts, strict=True)
    ]
    scenario = Scenario(env="test", seed=0, split="train", roles=("a", "b"))
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))


@pytest.mark.parametrize("name", CHEAP)
def test_reward_keeps_its_contract_and_its_name(name: str):
    reward = REWARDS[name]()
    assert reward.name == name
    check_reward(reward)


def test_question_of_vhrl_needs_a_word_and_a_mark():
    texts = ["What is it?", "What a day", "Really?", "Show me the hat?", "HOW?", ""]
    assert values(Question(), *texts) == [1, 0, 0, 0, 1, 0]


def test_question_of_way_off_policy_gives_a_half_for_each():
    assert values(Question(form="way_off_policy"), "What?", "What a day", "Really?", "Fine") == [1, 0.5, 0.5, 0]


def test_question_density_counts_words_and_marks_per_word():
    # "What? Where?": 2 words + 2 marks over 2; "So what is new?": 1 + 1 over 4; "???": 3 marks over 1, cut to 2.
    texts = ["What? Where?", "So what is new?", "???", "", "Show that"]
    assert values(QuestionDensity(), *texts) == [2, 0.5, 2, 0, 0]


def test_conversation_repetition_counts_distinct_words_of_the_same_speaker():
    texts = [
        "I like green tea.",
        "Green tea? I like green tea too.",
        "Tea, tea, green tea and cake!",
        "No tea, no cake",
    ]
    # host: first turn 0, then tea and green again; guest: first turn 0, then tea again ("cake" was the host's).
    assert values(ConversationRepetition(), *texts) == [0, 0, -2, -1]


def test_conversation_repetition_takes_question_words_for_content():
    assert values(ConversationRepetition(), "What now?", "-", "What then?") == [0, 0, -1]


def test_utterance_repetition_counts_what_stands_twice():
    # rain x3 is two repeats; function words and contractions repeat for free.
    assert values(UtteranceRepetition(), "Rain, rain, RAIN.", "The the the don't don't", "sun moon") == [-2, 0, 0]


def test_words_leave_punctuation_out_and_keep_contractions_whole():
    assert words_of("Don\u2019t -- stop, it's 9:30_ok!") == ["don't", "stop", "it's", "9", "30", "ok"]
    assert content_words_of("The cat isn't on the mat") == ["cat", "mat"]


def test_sentiment_gives_the_numbers_of_vaders_own_examples():
    # The package's README; a text without words is neither.
    texts = ["VADER is smart, handsome, and funny.", "VADER is smart, handsome, and funny!", "Today SUX!", ""]
    assert values(Sentiment(), *texts) == [0.8316, 0.8439, -0.5461, 0]


def test_sentiment_of_the_next_message_is_credited_to_the_turns_it_answers():
    # a speaks twice before b does, so both its turns brought about what b said; nobody answers the last.
    conversation = as_said_by(["One.", "Two.", "The book was good.", "Today SUX!"], "aaba")
    [scores] = Sentiment(of="next").score([conversation])
    np.testing.assert_allclose(scores.values, [0.4404, 0.4404, -0.5461, np.nan], atol=1e-6)


@pytest.mark.parametrize("name", CHEAP)
def test_reward_stays_within_its_range(name: str):
    low, high = WeightedReward(reward=REWARDS[name]()).range
    for scores in REWARDS[name]().score(sample_conversations()):
        said = scores.values[~np.isnan(scores.values)]
        assert ((said >= low) & (said <= high)).all()
