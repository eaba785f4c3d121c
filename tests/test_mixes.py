"""Mixes of rewards: their parts, and that no attack gets what people's chats get."""

import json

import numpy as np
import pytest
from real_chats import FILE, MIXES, is_installed, mean_rewards, parts_of, summary

from rewards.mixes import GUARDS, VHRL, WAY_OFF_POLICY
from rewards.mixes import MIXES as ALL
from selfplay.commands import main
from selfplay.commands.building import build_rewards, chosen_rewards
from selfplay.errors import UserError
from selfplay.reward_attacks import ATTACKS, attack_conversations, ordinary_conversations
from selfplay.train_settings import RewardSpec

STORED = json.loads(FILE.read_text(encoding="utf-8"))


def test_published_weights_are_those_of_the_papers():
    assert VHRL["sentiment"] == 0.3
    assert VHRL["question"] == 0.2
    assert VHRL["utterance_repetition"] + VHRL["conversation_repetition"] == 0.5
    weights = [part if isinstance(part, float) else part["weight"] for part in WAY_OFF_POLICY.values()]
    assert sum(weights) == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("mix", ALL)
def test_every_part_of_a_mix_can_be_built(mix: str):
    specs = chosen_rewards({}, [f"mix:{mix}=1"])
    assert set(GUARDS) < set(specs)
    assert [weighted.name for weighted in build_rewards(specs)] == list(specs)


def test_weight_of_a_mix_scales_every_part():
    specs = chosen_rewards({}, ["mix:vhrl=3"])
    # 3 x 0.3, 3 x 0.2, 3 x 2 and 3 x 0.75
    names = ("sentiment", "question", "copying", "function_words")
    assert [specs[name].weight for name in names] == [0.9, 0.6, 6, 2.25]


def test_part_that_is_named_after_its_mix_has_its_own_weight_and_the_settings_of_the_mix():
    specs = chosen_rewards({"payoff": RewardSpec()}, ["mix:way_off_policy=1", "question=0.5"])
    assert specs["question"].weight == 0.5
    assert specs["question"].settings == {"form": "way_off_policy"}
    assert "payoff" not in specs


def test_mix_stands_in_the_settings_as_its_parts(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "-r", "mix:vhrl=0.5", "--dry-run", "--json"]) == 0
    rewards = json.loads(capsys.readouterr().out)["rewards"]
    assert rewards["sentiment"]["weight"] == 0.15
    assert rewards["too_long"] == {"name": "", "weight": 0.5, "free": 25, "words": 50}
    assert not any(name.startswith("mix") for name in rewards)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mix:vhlr=1", "no mix 'vhlr'; did you mean vhrl"),
        ("mix:vhrl=gate", "a mix is no gate"),
        ("mix:vhrl=much", "must be a number"),
        ("mix:vhrl=inf", "must be a finite number"),
    ],
)
def test_wrong_mix_is_one_sentence(word: str, said: str):
    with pytest.raises(UserError, match=said):
        chosen_rewards({}, [word])


@pytest.mark.parametrize("mix", MIXES)
def test_stored_chats_were_scored_by_the_mix_as_it_is(mix: str):
    # After a change: python tests/real_chats.py
    assert STORED["mixes"][mix]["parts"] == parts_of(mix)
    scores = STORED["mixes"][mix]["scores"]
    assert len(scores) == 200
    # 200 sorted numbers: the quartile lies between the 50th and the 51st.
    assert scores[49] <= STORED["mixes"][mix]["lower_quartile"] <= scores[50]


@pytest.mark.parametrize("mix", MIXES)
def test_every_attack_scores_below_the_lower_quartile_of_real_chats(mix: str):
    lowest = STORED["mixes"][mix]["lower_quartile"]
    scores = dict(zip([attack.name for attack in ATTACKS], mean_rewards(mix, attack_conversations()), strict=True))
    assert {name: score for name, score in scores.items() if score >= lowest} == {}


@pytest.mark.parametrize("mix", MIXES)
def test_ordinary_chats_score_as_real_chats_do(mix: str):
    lowest = STORED["mixes"][mix]["lower_quartile"]
    assert min(mean_rewards(mix, ordinary_conversations())) > lowest


@pytest.mark.parametrize("published", [("vhrl", VHRL), ("way_off_policy", WAY_OFF_POLICY)])
def test_published_weights_alone_are_won_by_attacks(published: tuple[str, dict[str, object]]):
    # What guards are for: without them some attack gets more than the best ordinary chat.
    mix, parts = published
    words = ["mix:" + mix + "=1", *(f"{name}=0" for name in GUARDS if name not in parts)]
    rewards = build_rewards(chosen_rewards({}, words))
    best_attack = max(_means(rewards, attack_conversations()))
    assert best_attack > max(_means(rewards, ordinary_conversations()))


def _means(rewards, conversations) -> list[float]:
    from selfplay.score import score

    return [float(np.mean(scored.rewards)) for scored in score(conversations, rewards)]


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="needs the package chitchat_dataset")
def test_stored_scores_are_those_of_the_dataset():
    found = summary()
    for mix in MIXES:
        assert found["mixes"][mix]["scores"] == pytest.approx(STORED["mixes"][mix]["scores"], abs=2e-3)
    assert found["selection"] == STORED["selection"]
