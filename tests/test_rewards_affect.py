"""Tone by hand: laughter, phrases, and how the partner's mood changes, with the originals' bugs as cases."""

from __future__ import annotations

import numpy as np
import pytest

from rewards import affect
from rewards.affect import Cheerful, Compliments, Laughter, Politeness, Supportive
from rewards.sentiment import Sentiment, SentimentTransition
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Scores, Turn

NAN = np.nan
GLAD, SAD = "The book was good.", "Today SUX!"  # 0.4404 and -0.5461 in VADER's own examples
PHRASES = {
    Compliments: affect.COMPLIMENTS,
    Politeness: affect.POLITENESS,
    Supportive: affect.SUPPORTIVE,
    Cheerful: affect.CHEERFUL,
}


def scores_of(reward, *texts: str, roles: str = "") -> Scores:
    """Score what roles a and b say in turn, or the roles that are named."""
    said_by = roles or "ab" * len(texts)
    turns = [
        Turn(role=role, text=text, heard_text="", player="scripted")
        for role, text in zip(said_by, texts, strict=bool(roles))
    ]
    scenario = Scenario(env="test", seed=0, split="train", roles=("a", "b"))
    [scores] = reward.score([Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))])
    return scores


def values(reward, *texts: str, roles: str = "") -> list[float]:
    return scores_of(reward, *texts, roles=roles).values.tolist()


@pytest.mark.parametrize("kind", [Laughter, *PHRASES, SentimentTransition])
def test_reward_keeps_its_contract(kind):
    check_reward(kind())
    assert kind.range == ((-1.0, 1.0) if kind is SentimentTransition else (0.0, 1.0))


def test_names_are_those_of_the_table_of_rewards():
    names = [kind.name for kind in (Laughter, *PHRASES, SentimentTransition)]
    assert names == ["laughter", "compliments", "politeness", "supportive", "cheerful", "sentiment_transition"]


@pytest.mark.parametrize(
    "text", ["haha", "Hahahah!", "ha ha, no", "Ha-ha-ha", "HEHE.", "lol", "LMAO", "rofl", "teehee"]
)
def test_laugh_is_a_quarter(text: str):
    assert values(Laughter(of="own"), text) == [0.25]


@pytest.mark.parametrize(
    "text", ["", "What is that?", "I share what I have", "ha", "Ha!", "he went", "lollipop", "Bahamas"]
)
def test_no_laugh_is_found_inside_words(text: str):
    # The original counts the letters "ha" wherever they stand.
    assert values(Laughter(of="own"), text) == [0.0]


def test_laughter_counts_laughs_up_to_four():
    assert values(Laughter(of="own"), "haha. hehe, lol") == [0.75]
    assert values(Laughter(of="own"), "lol " * 9) == [1.0]


def test_laughter_of_the_partner_is_credited_to_what_it_answers():
    scores = scores_of(Laughter(), "A joke.", "haha lol", "Fine.")
    np.testing.assert_array_equal(scores.values, np.float32([0.5, 0.0, NAN]))
    assert scores.why == ("haha, lol", "", "")


@pytest.mark.parametrize(("kind", "phrases"), PHRASES.items())
def test_every_phrase_of_a_table_counts_as_it_is_written(kind, phrases):
    assert len(set(phrases)) == len(phrases) >= 20
    for phrase in phrases:
        said = f"Oh, {phrase.capitalize().replace(chr(39), chr(0x2019))}!"
        assert values(kind(), said) == [1.0], phrase


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Compliments, "You're really smart"),
        (Compliments, "wow youre such a great listener"),
        (Politeness, "THANKS!"),
        (Politeness, "Yes, *please*, or _please_"),
        (Supportive, "You\u2019re not alone in this."),
        (Supportive, "It'll be fine, dont worry"),
        (Cheerful, "I'm so happy to be here"),
        (Cheerful, "That  is\nwonderful"),
    ],
)
def test_phrase_counts_contracted_stressed_and_in_any_case(kind, text: str):
    assert values(kind(), text) == [1.0]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Compliments, "You are. Smart people know."),
        (Compliments, "I like yours"),
        (Politeness, "I am pleased. Thanksgiving is near. Don't displease me."),
        (Supportive, "You are rightly angry"),
        (Cheerful, "I'm unhappy, not happy. The gladiator cheersed."),
        (Cheerful, ""),
    ],
)
def test_phrase_counts_as_whole_words_within_a_sentence(kind, text: str):
    # The originals look for substrings: "happy" in "unhappy", "please" in "displease".
    assert values(kind(), text) == [0.0]


def test_phrases_count_once_and_say_which():
    scores = scores_of(Politeness(), "Please, thank you, thanks", "No.")
    assert scores.values.tolist() == [1.0, 0.0]
    assert scores.why == ("please", "")


def test_phrases_of_the_next_message_do_not_apply_to_the_last():
    np.testing.assert_array_equal(scores_of(Supportive(of="next"), "I failed.", "Don't worry!").values, [1.0, NAN])


def test_transition_is_half_of_what_the_partner_gained():
    found = values(SentimentTransition(), "One.", SAD, "Two.", GLAD, "Three.")
    # Of a: b had said nothing; then from SAD to GLAD.  Of b: a stays at 0; then a answers at 0 too.  Nobody answers.
    np.testing.assert_allclose(found, [NAN, 0.0, (0.4404 + 0.5461) / 2, 0.0, NAN], atol=1e-6)


def test_transition_of_a_loop_of_praise_is_zero():
    found = values(SentimentTransition(), *[GLAD] * 6)
    np.testing.assert_array_equal(found, [NAN, 0, 0, 0, 0, NAN])


def test_transition_compares_an_answer_with_the_same_roles_last_message():
    found = values(SentimentTransition(), SAD, GLAD, "One.", SAD, roles="bcab")
    # Only a's turn is answered by somebody who has spoken: b, who was sad before and is now.
    np.testing.assert_array_equal(found, [NAN, NAN, 0.0, NAN])


def test_sentiment_of_a_remembered_text_stays_the_same():
    assert values(Sentiment(), GLAD, GLAD) == pytest.approx([0.4404, 0.4404])
