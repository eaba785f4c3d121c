"""Rewards against what should not be said, by hand."""

from __future__ import annotations

import string

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from rewards.safety import PROFANITY, ClassifierReward, PersonalData, PrivateLeak, Profanity
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.errors import UserError

ROLES = ("host", "guest")


def chat(*texts: str, private=None) -> Conversation:
    turns = [Turn(role=ROLES[k % 2], text=text, heard_text="", player="scripted") for k, text in enumerate(texts)]
    scenario = Scenario(env="test", seed=0, split="train", roles=ROLES, private=private or {})
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))


def values(reward, *texts: str, private=None) -> list[float]:
    [scores] = reward.score([chat(*texts, private=private)])
    return [round(value, 4) for value in scores.values.tolist()]


@pytest.mark.parametrize("reward", [Profanity(), PrivateLeak(), PersonalData()], ids=lambda one: one.name)
def test_reward_keeps_its_contract(reward):
    check_reward(reward)


@pytest.mark.parametrize(
    "text", ["What the hell?", "CRAP!", "that bastard's car", "bastards", "son of a bitch", "sh!t"]
)
def test_profanity_finds_whole_words_plurals_and_phrases(text: str):
    assert values(Profanity(), text) == [-1]


@pytest.mark.parametrize(
    "text",
    [
        "The class will assess the bass in Scunthorpe",
        "Hello, he'll say grass is analysis",
        "My gay friend, a seaman, was drunk and said oh my god",
        "A blow to the job market",
        "",
    ],
)
def test_profanity_leaves_innocent_words_alone(text: str):
    assert values(Profanity(), text) == [0]


def test_profanity_says_what_it_found():
    [scores] = Profanity().score([chat("Fine.", "You are a son of a bitch")])
    assert scores.why == ("", "son of a bitch")


def test_list_of_profanity_carries_its_licence():
    text = PROFANITY.read_text(encoding="utf-8")
    assert "better-profanity" in text
    assert "The above copyright notice and this permission notice shall be included" in text


PRIVATE = {"host": {"secret": "the old red lighthouse", "limits": [{"least": 1200}], "is_seller": True, "hint": "cat"}}


def test_private_leak_is_the_largest_share_of_a_fact_of_the_speaker():
    texts = [
        "I keep it to myself",  # nothing
        "old red lighthouse",  # the guest has no private fact
        "A red one, a lighthouse",  # "red" then another word: 1 of the 3 content words in a row
        "-",
        "That is the Old, RED house",  # 2 of 3
        "-",
        "The old red lighthouse!",  # all
    ]
    assert values(PrivateLeak(), *texts, private=PRIVATE)[::2] == [0, -0.3333, -0.6667, -1]
    assert np.isnan(values(PrivateLeak(), *texts, private=PRIVATE)[1::2]).all()


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("I want $1,200.", -1),
        ("1200 it is", -1),
        ("1200.0", -1),
        ("12000 or 11200", 0),
        ("a 1200th", 0),
        ("True, the cat", 0),  # a truth value is no fact, and three letters are too short
        ("1", 0),
    ],
)
def test_private_leak_compares_numbers_by_value(text: str, leak: float):
    assert values(PrivateLeak(), text, private=PRIVATE) == [leak]


def test_private_leak_can_mind_short_facts():
    assert values(PrivateLeak(shortest=3), "It is a cat", "cat", private=PRIVATE)[0] == -1
    assert values(PrivateLeak(shortest=3), "Concatenate", private=PRIVATE) == [0]


def test_private_leak_compares_facts_without_content_words_as_they_are():
    private = {"host": {"answer": "because of this"}}
    assert values(PrivateLeak(), "because I am", "", "Because of this", private=private)[::2] == [-0.3333, -1]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to ann.lee+x@mail.example.org, please", "e-mail address"),
        ("My account is DE89 3704 0044 0532 0130 00 OK?", "IBAN"),
        ("GB82WEST12345698765432", "IBAN"),
        ("4111 1111 1111 1111", "card number"),
        ("Pay with 5500-0000-0000-0004 12/27", "card number"),
        ("ssh 192.168.0.1:8080", "IP address"),
        ("It is 2001:db8:0:0:1:0:0:1.", "IP address"),
        ("Call +49 (30) 901820 now", "phone number"),
        ("(555) 123-4567", "phone number"),
        ("555.123.4567.", "phone number"),
        ("01 42 68 53 00", "phone number"),
        ("5551234567", "phone number"),
    ],
)
def test_personal_data_finds_its_kinds(text: str, kind: str):
    [scores] = PersonalData().score([chat(text)])
    assert (scores.values.tolist(), scores.why) == ([-1], (kind,))


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01",  # a wrong checksum
        "4111 1111 1111 1112",
        "me@home, @ann and a@b",
        "999.1.2.3 and 1.2.3",
        "From 1990-2000 it cost 1,200.50, at 10:30 on 01-02-2023 and 01/02/2023 15:30",
        "10000000000 stars, 3.1415926535 and 12 345 678",
        "2023-10-05, room 101, 50%",
        "",
    ],
)
def test_personal_data_leaves_other_numbers_alone(text: str):
    assert values(PersonalData(), text) == [0]


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory) -> str:
    """Save a random classifier over letters, of the labels calm and rude."""
    folder = tmp_path_factory.mktemp("classifier")
    characters = ["[PAD]", "[UNK]", *string.ascii_lowercase, " "]
    tokenizer = Tokenizer(WordLevel({character: i for i, character in enumerate(characters)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": {0: "calm", 1: "rude"}, "label2id": {"calm": 0, "rude": 1}}
    config = BertConfig(
        vocab_size=len(characters), max_position_embeddings=40, initializer_range=1.0, **sizes, **labels
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def by_plain_forward(folder: str, text: str) -> list[float]:
    model = BertForSequenceClassification.from_pretrained(folder)
    characters = "\0\1" + string.ascii_lowercase + " "
    tokens = torch.tensor([[max(1, characters.find(character)) for character in text]])
    with torch.no_grad():
        return model(input_ids=tokens).logits.softmax(-1)[0].tolist()


def test_classifier_gives_the_probability_of_a_plain_forward_pass(classifier_folder):
    texts = ["hello there", "", "so", "hello there", "a quite long message"]
    rude = [by_plain_forward(classifier_folder, text)[1] if text else np.nan for text in texts]
    assert max(rude[0], rude[2]) - min(rude[0], rude[2]) > 1e-3  # the texts differ
    for label in ("rude", "1"):
        [scores] = ClassifierReward(folder=classifier_folder, label=label, batch_size=2).score([chat(*texts)])
        np.testing.assert_allclose(scores.values, rude, atol=1e-5)
    [scores] = ClassifierReward(folder=classifier_folder, label="calm", sign=-1).score([chat(*texts)])
    np.testing.assert_allclose(scores.values, np.array(rude) - 1, atol=1e-5)


def test_classifier_keeps_its_contract_and_reads_the_beginning_of_long_texts(classifier_folder):
    reward = ClassifierReward(folder=classifier_folder, label="rude", max_tokens=5)
    check_reward(reward)
    first, second = values(reward, "hello there", "hello")
    assert first == second


def test_classifier_whose_labels_do_not_exclude_each_other_gives_each_its_own_probability(classifier_folder, tmp_path):
    model = BertForSequenceClassification.from_pretrained(classifier_folder)
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(classifier_folder).save_pretrained(tmp_path)
    calm, rude = by_plain_forward(classifier_folder, "hello")
    # softmax keeps the odds of the labels: sigmoid(a - b) is the first one's share
    both = [values(ClassifierReward(folder=str(tmp_path), label=label), "hello")[0] for label in ("calm", "rude")]
    logits = [np.log(p / (1 - p)) for p in both]
    assert logits[0] - logits[1] == pytest.approx(np.log(calm / rude), abs=0.01)
    assert sum(both) != pytest.approx(1.0, abs=1e-3)


def test_classifier_refuses_a_wrong_label_and_a_wrong_folder_at_once(classifier_folder, tmp_path):
    with pytest.raises(UserError, match=r"label=angry is none of the classifier's in .*; they are calm, rude"):
        ClassifierReward(folder=classifier_folder, label="angry")
    with pytest.raises(UserError, match="label=2 is none"):
        ClassifierReward(folder=classifier_folder, label="2")
    with pytest.raises(
        UserError, match=r"is no folder of a transformers classifier: config\.json cannot be read there"
    ):
        ClassifierReward(folder=str(tmp_path / "gone"), label="1")
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(UserError, match=r"LlamaForCausalLM.*, which is no sequence classifier"):
        ClassifierReward(folder=str(tmp_path), label="1")
