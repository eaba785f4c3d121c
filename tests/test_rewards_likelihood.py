"""The likelihood of turns under a reference, against a plain pass over each stream alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from rewards import likelihood
from rewards.likelihood import ReferenceNll
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, Turn
from selfplay.errors import UserError

NAN = math.nan
Runs = tuple[Sequence[int], Sequence[int]]


def turn(role: str, heard: Sequence[int] = (), said: Sequence[int] = (), *, stream="", player="") -> Turn:
    return Turn(
        role=role,
        text="...",
        heard_text="",
        player=player or f"{role}@0",
        stream=stream or role,
        heard=np.array(heard, dtype=np.int32),
        said=np.array(said, dtype=np.int32),
        logprobs=np.zeros(len(said), dtype=np.float32),
        finish="stop",
    )


def chat(*turns: Turn, model: str = "tiny", view="perspective", index: int = 0) -> Conversation:
    return Conversation(
        id=f"000000-g00-{index}",
        scenario=Scenario(env="test", seed=0, split="train", roles=("a", "b")),
        players={role: PlayerInfo(policy=role, model=model) for role in ("a", "b")},
        turns=turns,
        outcome=Outcome(status="terminated", reason="turn_limit"),
        view=view,
    )


def two_streams(index: int = 0) -> Conversation:
    return chat(
        turn("a", [5, 6, 7], [8, 9]),
        turn("b", [40, 41], [42 + index, 43, 44]),
        turn("a", [45, 46], [47]),
        turn("b", [48], [49, 50]),
        index=index,
    )


def mean_logprob(model, runs: Sequence[Runs]) -> float:
    """Of the tokens said last, by a plain pass over one stream."""
    tokens = torch.tensor([token for heard, said in runs for token in (*heard, *said)])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(tokens[None]).logits[0], dim=-1)
    said = runs[-1][1]
    places = range(len(tokens) - len(said), len(tokens))
    return float(np.mean([float(logprobs[place - 1, tokens[place]]) for place in places]))


def values(*conversations: Conversation) -> list[list[float]]:
    return [scores.values.tolist() for scores in ReferenceNll(model="tiny").score(conversations)]


def expected_of_two_streams(model, index: int = 0) -> list[float]:
    a = [([5, 6, 7], [8, 9]), ([45, 46], [47])]
    b = [([40, 41], [42 + index, 43, 44]), ([48], [49, 50])]
    return [mean_logprob(model, runs) for runs in (a[:1], b[:1], a, b)]


def test_reference_nll_is_the_mean_of_what_a_turn_said_after_its_own_stream(tiny):
    [found] = values(two_streams())
    np.testing.assert_allclose(found, expected_of_two_streams(tiny.model), atol=1e-4)


@pytest.mark.parametrize("tokens_per_microbatch", [1, 2048])
def test_reference_nll_gives_each_conversation_its_own_numbers(tiny, monkeypatch, tokens_per_microbatch):
    monkeypatch.setattr(likelihood, "TOKENS_PER_MICROBATCH", tokens_per_microbatch)
    short = chat(turn("a", [5], [6]))
    found = values(two_streams(3), short, two_streams(0))
    np.testing.assert_allclose(found[0], expected_of_two_streams(tiny.model, 3), atol=1e-4)
    np.testing.assert_allclose(found[1], [mean_logprob(tiny.model, [([5], [6])])], atol=1e-4)
    np.testing.assert_allclose(found[2], expected_of_two_streams(tiny.model, 0), atol=1e-4)


def test_reference_nll_of_a_shared_stream_follows_both_roles(tiny):
    both = [turn(role, heard, said, stream="shared", player="learner@0") for role, heard, said in (
        ("a", [5, 6], [7, 8]), ("b", [9], [10, 11]),
    )]  # fmt: skip
    [found] = values(chat(*both, view="shared"))
    runs = [([5, 6], [7, 8]), ([9], [10, 11])]
    np.testing.assert_allclose(found, [mean_logprob(tiny.model, runs[:k]) for k in (1, 2)], atol=1e-4)


def test_reference_nll_does_not_apply_to_turns_without_tokens(tiny):
    person = Turn(role="b", text="Hello", heard_text="", player="human")
    [found, nobody] = values(chat(turn("a", [5], [6]), person, turn("a", [7], [])), chat(person))
    np.testing.assert_allclose(found, [mean_logprob(tiny.model, [([5], [6])]), NAN, NAN], atol=1e-4)
    np.testing.assert_array_equal(nobody, [NAN])


def test_reference_nll_leaves_out_a_token_that_nothing_precedes(tiny):
    [found, alone] = values(chat(turn("a", [], [5, 6])), chat(turn("a", [], [5])))
    np.testing.assert_allclose(found, [mean_logprob(tiny.model, [([5], [6])])], atol=1e-4)
    np.testing.assert_array_equal(alone, [NAN])


def test_reference_nll_is_never_below_its_range(tiny, monkeypatch):
    monkeypatch.setattr(likelihood, "UNLIKELIEST", -1.0)  # every byte is unlikelier than that under a random model
    assert values(two_streams()) == [[-1.0] * 4]


def test_reference_nll_loads_nothing_where_nobody_has_tokens():
    person = Turn(role="a", text="Hello", heard_text="", player="human")
    [scores] = ReferenceNll(model="no-such-model").score([chat(person)])
    assert np.isnan(scores.values).all()


def test_reference_nll_keeps_the_contract_of_rewards(tiny):
    check_reward(ReferenceNll(model="tiny"))
    check_reward(ReferenceNll(model="tiny"), [two_streams(index) for index in range(3)])


def test_reference_nll_refuses_a_speaker_with_a_vocabulary_of_another_size(tiny, tmp_path):
    tiny.tokenizer.save_pretrained(tmp_path)
    tiny.model.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer.json"
    config.write_text(config.read_text().replace("<|endoftext|>", "<|other|>"))
    conversation = chat(turn("a", [5], [6]), model=str(tmp_path))
    speaker = re.escape(str(tmp_path))
    expected = rf"reference_nll: model=tiny has a vocabulary of 259 tokens and {speaker}, which spoke, one of 260: use"
    with pytest.raises(UserError, match=expected):
        ReferenceNll(model="tiny").score([conversation])


def test_reference_nll_refuses_a_token_that_its_model_does_not_know():
    with pytest.raises(UserError, match=r"model=tiny has a vocabulary of 259 tokens, and token 259 was spoken: use a"):
        values(chat(turn("a", [5], [259]), model="a-run-elsewhere"))


def test_reference_nll_takes_a_speaker_with_other_weights_and_the_same_tokenizer(tiny):
    other = chat(*two_streams().turns, model="tiny:1")
    [found] = values(other)
    np.testing.assert_allclose(found, expected_of_two_streams(tiny.model), atol=1e-4)
