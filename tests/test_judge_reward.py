"""Marks of single messages: expected values by hand, and the reward's contract on a real model."""

import math
import pickle

import numpy as np
import pytest
from judge_readers import ScriptedReader

from rewards.judge import JudgeReward
from selfplay import models
from selfplay.contracts import check_reward
from selfplay.errors import UserError
from selfplay.judge.families import Family, family_of, kinship
from selfplay.judge.rubric import RubricJudge
from selfplay.reward_attacks import ordinary_conversations
from selfplay.reward_model.dialogs import Dialog, Message


def said(*texts: str) -> Dialog:
    return Dialog(messages=tuple(Message(text=text, is_focus=k % 2 == 1) for k, text in enumerate(texts)))


def test_mark_is_the_expected_number():
    # Probabilities .1 .1 .2 .3 .1 of 1 to 5, and .2 on other tokens: (.1 + .2 + .6 + 1.2 + .5) / .8 = 3.25.
    shares = dict(zip("12345", (0.1, 0.1, 0.2, 0.3, 0.1), strict=True))
    judge = RubricJudge(model="script", reader=ScriptedReader(lambda prompt, mark: math.log(shares[mark])))
    assert judge.marks([said("Hi", "Hello")]) == pytest.approx([3.25])


def test_mark_of_a_judge_that_is_sure_is_its_number():
    rule = lambda prompt, mark: 0.0 if (mark == "5") == ("good" in prompt[-2]["content"]) else -40.0  # noqa: E731
    judge = RubricJudge(model="script", reader=ScriptedReader(rule), rubric="sense")
    # Without "good" in it, 1 to 4 share the probability: their mean is 2.5.
    assert judge.marks([said("Hi", "good"), said("Hi", "bad")]) == pytest.approx([5.0, 2.5])


def test_mark_is_asked_of_the_last_message_with_all_before_it():
    reader = ScriptedReader(lambda prompt, mark: -1.0)
    RubricJudge(model="script", reader=reader).marks([said("Hi", "Hello", "How are you?", "Fine.")])
    content = reader.asked[0][-2]["content"]
    assert content.index("Partner: How are you?") < content.index("last message:\n[[[\nSpeaker: Fine.\n]]]")


def test_principle_in_place_of_a_rubric_is_asked():
    reader = ScriptedReader(lambda prompt, mark: -1.0)
    RubricJudge(model="script", reader=reader, principle="curious").marks([said("Hi", "Hello")])
    assert "show more real interest in the Partner" in reader.asked[0][-2]["content"]


def test_message_without_probability_on_any_number_has_no_mark():
    rule = lambda prompt, mark: -12.0 if "mute" in prompt[-2]["content"] else -1.0  # noqa: E731
    judge = RubricJudge(model="script", reader=ScriptedReader(rule))
    marks = judge.marks([said("Hi", "mute"), *[said("Hi", f"Hello {k}") for k in range(3)]])
    assert np.isnan(marks).tolist() == [True, False, False, False]
    with pytest.raises(UserError, match="numbers 1 to 5 in 4 of 4 questions"):
        judge.marks([said("Hi", f"mute {k}") for k in range(4)])


def test_reward_keeps_its_contract_on_a_model():
    reward = JudgeReward(model="tiny:7")
    check_reward(reward)
    check_reward(pickle.loads(pickle.dumps(reward)), ordinary_conversations()[:2])


def test_reward_is_the_mark_between_zero_and_one():
    [conversation] = ordinary_conversations()[:1]
    [scores] = JudgeReward(model="tiny:7").score([conversation])
    assert scores.values.shape == (8,)
    # A random model's five numbers are about equally likely: 3 of 5, a half.
    assert scores.values == pytest.approx(np.full(8, 0.5), abs=0.05)
    assert scores.why[0].endswith(" of 5")


def test_reward_refuses_a_rubric_that_is_not_there():
    with pytest.raises(UserError, match=r"rubric=sens: the constitution has no such rubric; did you mean sense\?"):
        JudgeReward(rubric="sens")


def test_reward_finds_its_constitution_from_another_folder(tmp_path, monkeypatch):
    text = "principles:\n  - {id: short, compare: Which one is short}\n"
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert JudgeReward(constitution="mine.yaml", principle="short").constitution == str(tmp_path / "mine.yaml")


def test_reward_warns_once_of_a_judge_that_is_the_policy(caplog):
    [conversation] = ordinary_conversations()[:1]
    from dataclasses import replace

    players = {role: replace(player, model="tiny:8") for role, player in conversation.players.items()}
    for _ in range(2):
        JudgeReward(model="tiny:8").score([replace(conversation, players=players)])
    assert caplog.text.count("the judge is the policy's own model (tiny:8)") == 1


def test_kinship_is_told_by_architecture_and_vocabulary(tmp_path):
    tiny = models.load("tiny:1", device="cpu")
    models.save(tiny, tmp_path / "kin")
    config = tmp_path / "kin" / "config.json"
    assert family_of(str(tmp_path / "kin")) == Family(model_type="llama", vocab_size=259, hidden_size=64)
    assert "looks like the model of the policy" in kinship("tiny:2", str(tmp_path / "kin"))
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": 32'))
    assert "is of the same family as the policy" in kinship("tiny:2", str(tmp_path / "kin"))
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "qwen2"'))
    assert kinship("tiny:2", str(tmp_path / "kin")) == ""
    assert kinship("tiny:2", "owner/not-here") == ""
