"""Reward models as rewards: where their numbers land, what is recorded beside them, and how they are named."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from rewards.preference import PreferenceReward
from selfplay.commands.building import build_rewards, chosen_rewards
from selfplay.contracts.reward import check_reward, sample_conversations
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.errors import UserError
from selfplay.reward_model.dialogs import Dialog, Message, dialog_of
from selfplay.reward_model.examples import Example
from selfplay.reward_model.fit import fit
from selfplay.reward_model.folder import load, save
from selfplay.reward_model.settings import FitSettings
from selfplay.score import score
from selfplay.train_settings import RewardSpec

GOOD, BAD = "what do you like", "i like trains"


def said(text: str) -> Dialog:
    return Dialog(messages=(Message(text="hello", is_focus=False), Message(text=text, is_focus=True)))


def examples(num: int, *, better: str = GOOD, worse: str = BAD) -> list[Example]:
    return [
        Example(
            dialogs=(said(f"{better} {n}"), said(f"{worse} {n}")), kind="pair", targets=(1.0,), keys=(f"scenario {n}",)
        )
        for n in range(num)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a reward model that likes "what do you like" more than "i like trains", with a twin."""
    path = tmp_path_factory.mktemp("models") / "asks"
    settings = FitSettings(backbone="words", ensemble=2, epochs=20, twin=True)
    save(fit(examples(40), examples(8), settings, say=lambda _: None), path)
    return path


def talk(*texts: str) -> Conversation:
    roles = ("host", "guest")
    heard = ("", *texts)
    turns = [Turn(role=roles[k % 2], text=text, heard_text=heard[k], player="scripted") for k, text in enumerate(texts)]
    scenario = Scenario(env="chitchat", seed=1, split="train", roles=roles)
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))


def test_each_turn_has_the_number_of_its_own_role_s_dialog(folder):
    conversation = talk("hello", GOOD, "fine", BAD)
    [scores] = PreferenceReward(path=str(folder)).score([conversation])
    model = load(folder)
    host, guest = (model.turn_values([dialog_of(conversation, role)])[0] for role in ("host", "guest"))
    expected = [host[0].mean, guest[0].mean, host[1].mean, guest[1].mean]
    assert scores.values == pytest.approx(expected, abs=1e-6)
    assert scores.values[1] > scores.values[3] + 0.5
    assert scores.parts["spread"][1] == pytest.approx(guest[0].std, abs=1e-6)


def test_the_twin_is_recorded_beside_it_and_never_counts(folder):
    conversation = talk("hello", GOOD)
    [scored] = score([conversation], build_rewards(chosen_rewards({}, [f"rm:{folder}=2"])))
    twin = load(folder).twin.turn_values([dialog_of(conversation, "guest")])[0][0].mean
    own = scored.parts["rm:asks"].values
    assert scored.rewards == pytest.approx(2 * own)
    assert scored.parts["rm:asks.held_out"].values[1] == pytest.approx(twin, abs=1e-6)
    assert scored.parts["rm:asks.gap"].values == pytest.approx(own - scored.parts["rm:asks.held_out"].values)


def test_pessimism_takes_the_members_deviation_off(folder):
    conversation = talk("hello", GOOD)
    [plain] = PreferenceReward(path=str(folder)).score([conversation])
    [low] = PreferenceReward(path=str(folder), pessimism=2.0).score([conversation])
    assert low.values == pytest.approx(plain.values - 2 * plain.parts["spread"], abs=1e-6)


def test_a_model_of_conversations_speaks_at_each_role_s_last_turn(tmp_path):
    settings = FitSettings(backbone="tiny:1", method="full", scope="conversation", epochs=1)
    save(fit(examples(4), examples(2), settings, say=lambda _: None), tmp_path / "whole")
    conversation = talk("hello", GOOD, "fine", BAD, "bye")
    [scores] = PreferenceReward(path=str(tmp_path / "whole")).score([conversation])
    assert np.isfinite(scores.values).tolist() == [False, False, False, True, True]
    assert scores.parts == {}  # one member, no twin
    values = load(tmp_path / "whole").values([dialog_of(conversation, role) for role in ("guest", "host")])
    assert scores.values[3:] == pytest.approx([verdict.mean for verdict in values], abs=1e-5)


@pytest.mark.parametrize("backbone", ["words", "tiny:1"])
def test_it_keeps_the_contract_of_a_reward(backbone, tmp_path):
    settings = FitSettings(backbone=backbone, method="full", scope="turn", epochs=1, ensemble=1)
    save(fit(examples(4), examples(2), settings, say=lambda _: None), tmp_path / "own")
    check_reward(PreferenceReward(path=str(tmp_path / "own")), sample_conversations())


def test_it_travels_by_its_path(folder):
    reward = PreferenceReward(path=str(folder))
    again = pickle.loads(pickle.dumps(reward))
    conversation = talk("hello", GOOD)
    assert again.score([conversation])[0].values.tolist() == reward.score([conversation])[0].values.tolist()


# ----- names -----


def test_a_folder_is_recorded_under_its_own_name_and_found_by_its_whole_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    specs = chosen_rewards({}, ["rm:./asks=0.5", "question=1"])
    assert {name: (spec.name, spec.weight) for name, spec in specs.items()} == {
        "rm:asks": (f"rm:{folder.resolve()}", 0.5),
        "question": ("", 1.0),
    }
    monkeypatch.chdir("/")
    weighted = build_rewards({name: RewardSpec.model_validate(spec.model_dump()) for name, spec in specs.items()})[0]
    assert (weighted.name, weighted.is_slow, weighted.range) == ("rm:asks", True, (-10.0, 10.0))
    assert weighted.source.startswith("sha256:")


def test_settings_go_along_in_a_configuration(folder):
    spec = RewardSpec.model_validate({"name": f"rm:{folder}", "weight": 1, "pessimism": 0.5})
    [weighted] = build_rewards({"rm:asks": spec})
    assert weighted.reward == PreferenceReward(path=str(folder), pessimism=0.5)


def test_two_models_of_one_name_are_refused(folder, tmp_path):
    save(replace_info(load(folder)), tmp_path / "asks")
    with pytest.raises(UserError, match="another reward model is called asks too"):
        chosen_rewards({}, [f"rm:{folder}=1", f"rm:{tmp_path / 'asks'}=1"])


def replace_info(model):
    model.info = replace(model.info, created="2026-01-01T00:00:00Z")
    return model


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere", "there is no reward model 'nowhere'"), (".", "is no reward model")],
)
def test_what_is_no_reward_model_is_refused_before_anything_is_played(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        chosen_rewards({}, [f"rm:{path}=1"])
    with pytest.raises(UserError, match=message):
        PreferenceReward(path=path)


def test_pessimism_without_an_ensemble_is_refused(tmp_path):
    settings = FitSettings(backbone="words", ensemble=1, epochs=1)
    save(fit(examples(4), examples(2), settings, say=lambda _: None), tmp_path / "alone")
    with pytest.raises(UserError, match="alone has one member, and so no deviation to take off"):
        PreferenceReward(path=str(tmp_path / "alone"), pessimism=1.0)


def test_a_relative_path_is_kept_whole(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    reward = PreferenceReward(path="asks")
    monkeypatch.chdir("/")
    assert reward.path == str(folder.resolve())
    assert reward.score([talk("hello", GOOD)])[0].values.shape == (2,)


def test_negative_pessimism_is_refused(folder):
    with pytest.raises(UserError, match="pessimism=-1"):
        PreferenceReward(path=str(folder), pessimism=-1.0)
