"""Guards by hand."""

import math

import pytest

from rewards.guards import FunctionWords, Unanswered
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.errors import UserError


def values(reward, *texts: str, roles: str = "ab") -> list[float]:
    turns = tuple(
        Turn(role=roles[k % len(roles)], text=text, heard_text="", player="scripted") for k, text in enumerate(texts)
    )
    scenario = Scenario(env="test", seed=0, split="train", roles=tuple(sorted(set(roles))))
    [scores] = reward.score([Conversation(id="000000-g00-0", scenario=scenario, turns=turns)])
    return [round(float(value), 4) for value in scores.values]


@pytest.mark.parametrize("reward", [FunctionWords(), Unanswered()])
def test_guard_keeps_its_contract(reward):
    check_reward(reward)


def test_function_words_pay_between_the_bounds_and_fall_on_both_sides():
    texts = [
        "The cat is on the red mat",  # the, is, on, the: 4 of 7
        "table river candle window",  # 0 of 4
        "red table on wheels, old candle holder, one wide window, bright lamp",  # on: 1 of 12; 1/12 / 0.3
        "and of the to is was",  # 6 of 6
        "the of and to in with by at on cat",  # 9 of 10: 0.1 / 0.2
        "1 2 3 4 5",  # 0 of 5
    ]
    assert values(FunctionWords(), *texts) == [1, 0, round(1 / 12 / 0.3, 4), 0, 0.5, 0]


def test_function_words_count_contractions_whole_words_and_any_case():
    # don't, I, THE and it's: 4 of 5; "theatre" holds no "the": 0 of 4.
    assert values(FunctionWords(), "Don't I know THE, it's", "theatre italics andes offers") == [1, 0]


def test_function_words_do_not_apply_to_short_messages():
    assert all(math.isnan(value) for value in values(FunctionWords(), "I am here", "", "?!"))
    # I, am and here are function words: 3 of 3; high is 0.8.
    assert values(FunctionWords(shortest=3), "I am here", "I see trees") == [0, 1]


def test_function_words_refuse_bounds_out_of_order():
    with pytest.raises(UserError, match="must be in order"):
        FunctionWords(low=0.8, high=0.3)
    with pytest.raises(UserError, match="shortest=0"):
        FunctionWords(shortest=0)


def test_unanswered_is_a_question_that_meets_nothing_but_questions():
    texts = ["How are you?", "Who are you?", "I am Tom. And you?", "Why? What for?", "Fine.", "Really?"]
    # The second asks back; the third answers first; the fourth only asks; the last answers no question.
    assert values(Unanswered(), *texts) == [0, -1, 0, -1, 0, 0]


def test_unanswered_takes_the_partner_s_last_message_not_one_s_own():
    # a asks twice: nobody asked a anything.  b answers a's second message.
    assert values(Unanswered(), "Who?", "And why?", "Where?", roles="aab") == [0, 0, -1]


def test_unanswered_sees_past_closing_marks_and_knows_other_question_marks():
    assert values(Unanswered(), "Ready?", "Are you?! ", "ok", "(why?)") == [0, -1, 0, 0]
    assert values(Unanswered(), "\u4f60\u597d\u5417\uff1f", "\u4ec0\u4e48\uff1f", "", "?") == [0, -1, 0, 0]
