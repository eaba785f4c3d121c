"""The member on sentence vectors: features by hand, and the vectors of words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reward_model_talks import dialog_of_texts

from selfplay.errors import UserError
from selfplay.reward_model.dialogs import Dialog, Message
from selfplay.reward_model.sentence_scorer import Sentences, SentenceScorer, new_head
from selfplay.sentences import WordVectors


class Compass:
    """Vectors that can be checked by eye; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def vectors(self, texts):
        self.asked += texts
        points = {"east": (1.0, 0.0), "north": (0.0, 1.0), "northeast": (0.6, 0.8), "west": (-1.0, 0.0)}
        return {text: np.array(points[text.replace("\n", "")], dtype=np.float32) for text in texts}


def test_features_are_the_message_what_it_answers_their_product_and_the_past():
    dialog = dialog_of_texts("north", "northeast", "west", "east", "east", "north")
    features, lengths = Sentences(Compass()).features([dialog])
    assert lengths == [3]
    # Vectors of two numbers are scaled by the root of 2, products by 2.
    scaled = features.numpy() / np.sqrt([2, 2, 2, 2, 4, 4, 2, 2])
    np.testing.assert_allclose(
        scaled,
        [
            # own       heard    product    mean of the own before
            [0.6, 0.8, 0, 1, 0, 0.8, 0, 0],
            [1, 0, -1, 0, -1, 0, 0.6, 0.8],
            [0, 1, 1, 0, 0, 0, 0.8, 0.4],
        ],
        atol=1e-6,
    )


def test_features_of_what_is_not_there_are_0():
    opening = Dialog(messages=(Message(text="east", is_focus=True), Message(text=" ", is_focus=True)))
    features, _ = Sentences(Compass()).features([opening])
    np.testing.assert_allclose(
        features.numpy() / np.sqrt(2), [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]], atol=1e-6
    )


def test_messages_in_a_row_are_heard_as_one_and_those_behind_the_last_not_at_all():
    compass = Compass()
    texts, sides = ("north", "east", "west", "south"), (False, False, True, False)
    dialog = Dialog(messages=tuple(Message(text=text, is_focus=side) for text, side in zip(texts, sides, strict=True)))
    Sentences(compass).features([dialog])
    assert compass.asked == ["west", "north\neast"]


def test_remembered_dialogs_are_encoded_once_and_features_stay_the_same():
    compass = Compass()
    sentences = Sentences(compass)
    dialogs = [dialog_of_texts("north", "east"), dialog_of_texts("west", "east", "north", "west")]
    fresh, _ = sentences.features(dialogs)
    sentences.remember(dialogs)
    compass.asked.clear()
    again, _ = sentences.features(dialogs[::-1])
    assert compass.asked == []
    # The second dialog has two judged messages, and stood behind the first one's only one.
    assert torch.equal(again[2], fresh[0])
    assert torch.equal(again[:2], fresh[1:])
    sentences.features([dialog_of_texts("west", "west")])
    assert compass.asked == ["west"]
    sentences.forget()
    sentences.features(dialogs[:1])
    assert compass.asked == ["west", "east", "north"]


def test_read_gives_one_number_a_judged_message_whatever_is_read_beside_it():
    scorer = SentenceScorer.new(Sentences(WordVectors()), hidden=3, seed=0)
    dialogs = [dialog_of_texts("hi", "yes?", "a", "b", "c", "d"), dialog_of_texts("hi", "yes?")]
    long, short = (numbers.tolist() for numbers in scorer.read(dialogs))
    assert (len(long), len(short)) == (3, 1)
    assert long[0] == pytest.approx(short[0], abs=1e-6)
    assert scorer.read([]) == []


def test_features_of_one_long_dialog_beside_many_short_ones_take_no_room_for_what_is_not_there():
    dialogs = [dialog_of_texts(*["north", "east"] * 150), *[dialog_of_texts("west", "north")] * 100]
    features, lengths = Sentences(Compass()).features(dialogs)
    assert lengths == [150, *[1] * 100]
    assert features.shape == (250, 8)
    # All messages of the long dialog are alike, and so is the mean of those before; the first has none before it.
    assert torch.allclose(features[1:150], features[1].expand(149, 8), atol=1e-5)
    assert features[0, 6:].tolist() == [0, 0]


def test_state_is_a_copy_to_go_back_to():
    scorer = SentenceScorer.new(Sentences(WordVectors()), hidden=3, seed=0)
    dialogs = [dialog_of_texts("hi", "yes?")]
    before, state = scorer.read(dialogs)[0].tolist(), scorer.state()
    with torch.no_grad():
        scorer.parameters()[0].add_(1.0)
    assert scorer.read(dialogs)[0].tolist() != before
    scorer.load(state)
    assert scorer.read(dialogs)[0].tolist() == before


def test_a_dialog_without_a_judged_message_is_refused():
    with pytest.raises(UserError, match="has no message of the role that is judged"):
        Sentences(Compass()).features([dialog_of_texts("east")])


def test_the_last_weights_of_a_head_have_variance_1_over_inputs_plus_1():
    head = new_head(4000, hidden=0, generator=torch.Generator().manual_seed(0))
    assert float(head[-1].weight.detach().var()) * 4001 == pytest.approx(1, abs=0.1)  # 4 standard errors are 0.09


def test_word_vectors_know_words_and_marks_but_not_their_order():
    found = WordVectors().vectors(["Green tea?", "tea green ?", "green tea.", "", "rain"])
    np.testing.assert_array_equal(found["Green tea?"], found["tea green ?"])
    assert float(found["Green tea?"] @ found["green tea."]) == pytest.approx(2 / 3, abs=1e-6)
    assert not found[""].any()
    assert all(np.linalg.norm(found[text]) == pytest.approx(1) for text in found if text)
