"""Reward models on language models: trained, written, read, and trained further."""

from __future__ import annotations

import json

import pytest
from reward_model_talks import judged_pairs

from selfplay.errors import UserError
from selfplay.reward_model.fit import fit
from selfplay.reward_model.folder import RECORD, load, save
from selfplay.reward_model.settings import FitSettings

TALKS = judged_pairs(8, seed=1, num_messages=2)
DIALOGS = [example.dialogs[0] for example in TALKS]
SETTINGS = FitSettings(backbone="tiny", epochs=1, batch_size=4)


def fit_quietly(**changes):
    return fit(TALKS[:6], TALKS[6:], SETTINGS.model_copy(update=changes), say=lambda _: None)


def means(model):
    return [verdict.mean for verdict in model.values(DIALOGS)]


@pytest.mark.parametrize(("method", "file"), [("lora", "adapter_model.safetensors"), ("full", "model.safetensors")])
def test_a_language_model_is_read_as_it_was_written_and_trained_further(tmp_path, method, file):
    model = fit_quietly(method=method)
    save(model, tmp_path / "rm")
    assert (tmp_path / "rm" / file).is_file()
    found = load(tmp_path / "rm")
    assert found.info.scope == "conversation"
    assert means(found) == pytest.approx(means(model), abs=1e-3)
    further = fit_quietly(method=method, start=str(tmp_path / "rm"), learning_rate=1e-12)
    assert further.raw_values(DIALOGS).tolist() == pytest.approx(model.raw_values(DIALOGS), abs=1e-4)


def test_members_on_language_models_differ_and_stand_in_folders_of_their_own(tmp_path):
    model = fit_quietly(ensemble=2, scope="turn", method="lora")
    save(model, tmp_path / "rm")
    assert sorted(path.name for path in (tmp_path / "rm" / "members").iterdir()) == ["0", "1"]
    found = load(tmp_path / "rm")
    assert means(found) == pytest.approx(means(model), abs=1e-3)
    assert all(verdict.members[0] != verdict.members[1] for verdict in found.values(DIALOGS))
    assert len(found.turn_values(DIALOGS)[0]) == 1


def test_turns_of_a_model_of_whole_conversations_are_refused():
    with pytest.raises(ValueError, match="one number to a conversation, and none to its turns"):
        fit_quietly().turn_values(DIALOGS)


def test_load_refuses_a_reward_model_made_for_another_tokenizer(tmp_path):
    save(fit_quietly(), tmp_path / "rm")
    record = json.loads((tmp_path / "rm" / RECORD).read_text())
    (tmp_path / "rm" / RECORD).write_text(json.dumps(record | {"tokenizer_hash": "0" * 64}))
    with pytest.raises(UserError, match=r"was trained with another tokenizer \(00000000\) than tiny has now"):
        load(tmp_path / "rm")


def test_load_refuses_a_folder_without_a_member(tmp_path):
    save(fit_quietly(ensemble=2), tmp_path / "rm")
    (tmp_path / "rm" / "members" / "1").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="1") as caught:
        load(tmp_path / "rm")
    assert "\n" not in str(caught.value)
