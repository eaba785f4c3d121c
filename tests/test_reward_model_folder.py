"""Folders of reward models: what is read gives the numbers that were written; bad ones are named in one sentence."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from reward_model_talks import judged_pairs, random_dialog

from selfplay.errors import UserError
from selfplay.reward_model.fit import fit
from selfplay.reward_model.folder import RECORD, find, held_out_of, info_of, load, save, trained_on_of
from selfplay.reward_model.settings import FitSettings

TALKS = judged_pairs(40, seed=1)
DIALOGS = [random_dialog(np.random.default_rng(seed)) for seed in range(4)]
SETTINGS = FitSettings(backbone="words", hidden=8, epochs=2, twin=True)


@pytest.fixture(scope="module")
def model():
    return fit(TALKS[:32], TALKS[32:], SETTINGS, say=lambda _: None)


@pytest.fixture
def folder(model, tmp_path):
    save(model, tmp_path / "kind")
    return tmp_path / "kind"


def change(folder, **fields):
    path = folder / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_load_gives_the_numbers_that_were_saved_to_the_bit(model, folder):
    found = load(folder)
    assert found.values(DIALOGS) == model.values(DIALOGS)
    assert found.turn_values(DIALOGS) == model.turn_values(DIALOGS)
    assert found.twin.values(DIALOGS) == model.twin.values(DIALOGS)
    assert found.info == replace(model.info, name="kind") == info_of(folder)
    assert found.twin.info.name == "kind/twin"


def test_a_twin_is_a_reward_model_of_its_own(model, folder):
    assert load(folder / "twin").values(DIALOGS) == model.twin.values(DIALOGS)


def test_held_out_examples_are_kept_beside_the_model(folder):
    assert held_out_of(folder) == TALKS[32:]


def test_save_replaces_an_older_model_and_adds_the_card(model, folder):
    save(model, folder, more={"README.md": b"# A card\n"})
    assert (folder / "README.md").read_text() == "# A card\n"
    save(model, folder)
    assert not (folder / "README.md").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["kind"]


def test_save_leaves_a_folder_of_something_else_alone(model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("Once")
    with pytest.raises(UserError, match=r"thesis is there already, and is no reward model; choose another out="):
        save(model, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "Once"
    save(model, tmp_path / "new" / "place")
    assert (tmp_path / "new" / "place" / RECORD).is_file()


def test_save_that_fails_leaves_the_older_model(model, folder):
    before = load(folder).values(DIALOGS)
    with pytest.raises(UserError, match=r"cannot write .*place"):
        save(model, folder, more={"no/such/place": b""})
    assert load(folder).values(DIALOGS) == before
    assert [path.name for path in folder.parent.iterdir()] == ["kind"]


@pytest.mark.parametrize("which", [1, 2])
def test_save_that_is_interrupted_while_it_renames_leaves_the_older_model(model, folder, monkeypatch, which):
    before = load(folder).values(DIALOGS)
    rename, calls = type(folder).rename, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == which:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(model, folder)
    monkeypatch.undo()
    assert load(folder).values(DIALOGS) == before
    assert [path.name for path in folder.parent.iterdir()] == ["kind"]


def test_find_takes_a_path_or_a_name_and_guesses_what_was_meant(folder):
    root = folder.parent
    assert find(str(folder)) == folder
    assert find("kind", root=root) == folder
    with pytest.raises(UserError, match=r"^there is no reward model 'kindd'; did you mean kind\?$"):
        find("kindd", root=root)
    with pytest.raises(UserError, match=r"there is no reward model 'x'; .*none/ holds none, and `reward train` makes"):
        find("x", root=root / "none")
    (root / "pairs.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"pairs\.jsonl is a file, and a reward model is a folder; .* on=pairs\.jsonl"):
        find("pairs.jsonl", root=root)
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is no reward model: it has no reward_model\.json"):
        find("empty", root=root)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schema": "selfplay.reward_model/2"}, "was written by a newer version of this program"),
        ({"schema": "selfplay.run/1"}, "has the schema 'selfplay.run/1', and a reward model's is"),
        ({"settings": {"seed": "x"}}, "is damaged"),
        ({"mixture": None}, "is damaged"),
        ({"num_members": 4}, "holds 3 of the reward model's 4 members: it is not whole"),
        ({"weights": ["heads.safetensors"]}, "weights should name files and their sha256"),
        ({"tokenizer_hash": "0123456789"}, r"was trained with another tokenizer \(01234567\) than words has now"),
    ],
)
def test_load_says_what_is_wrong_with_a_record(folder, fields, expected):
    change(folder, **fields)
    with pytest.raises(UserError, match=expected) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_load_says_what_is_wrong_with_the_files(folder):
    change(folder, weights={})
    (folder / "heads.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"heads\.safetensors cannot be read: "):
        load(folder)
    (folder / "heads.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no heads\.safetensors: it is no reward model on sentence vectors, or"):
        load(folder)
    (folder / RECORD).write_text("{")
    with pytest.raises(UserError, match=r"reward_model\.json cannot be read: not valid JSON"):
        load(folder)
    with pytest.raises(UserError, match=r"is no reward model: it has no reward_model\.json"):
        load(folder / "members")


def test_weights_of_another_model_are_refused_by_their_hash(folder):
    known = json.loads((folder / RECORD).read_text())["weights"]
    expected = hashlib.sha256((folder / "heads.safetensors").read_bytes()).hexdigest()
    assert known == {"heads.safetensors": expected}
    (folder / "heads.safetensors").write_bytes((folder / "twin" / "heads.safetensors").read_bytes())
    with pytest.raises(
        UserError, match=r"kind/heads\.safetensors is damaged, or of another reward model: reward_model"
    ):
        load(folder)


def test_weights_are_not_asked_for_by_a_record_of_an_older_version(model, folder):
    record = json.loads((folder / RECORD).read_text())
    del record["weights"]
    (folder / RECORD).write_text(json.dumps(record))
    assert load(folder).values(DIALOGS) == model.values(DIALOGS)


def test_backbone_that_nothing_is_called_is_named_with_the_file(folder):
    settings = json.loads((folder / RECORD).read_text())["settings"]
    change(folder, settings=settings | {"backbone": "wrods"})
    with pytest.raises(UserError, match=r"kind/reward_model\.json names a backbone .* did you mean words\?") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_folder_knows_what_each_of_two_twins_was_trained_on(model, folder):
    own, others = load(folder).trained_on, load(folder).twin.trained_on
    assert own == model.trained_on
    assert own | others == {dialog.key[:16] for example in TALKS[:32] for dialog in example.dialogs}
    assert not own & others
    (folder / "trained_on.txt").write_text("what?\n")
    with pytest.raises(UserError, match=r"trained_on\.txt holds something else than digests of dialogs: 'what\?'"):
        load(folder)
    (folder / "trained_on.txt").unlink()
    assert load(folder).trained_on is None


def test_model_that_goes_on_was_trained_on_what_its_start_was(folder):
    settings = SETTINGS.model_copy(update={"start": str(folder), "twin": False, "epochs": 1})
    found = fit(TALKS[32:], [], settings, say=lambda _: None)
    assert found.trained_on == trained_on_of(folder) | {d.key[:16] for each in TALKS[32:] for d in each.dialogs}
    (folder / "trained_on.txt").unlink()
    assert fit(TALKS[32:], [], settings, say=lambda _: None).trained_on is None


def test_training_goes_on_from_another_reward_model(model, folder):
    settings = SETTINGS.model_copy(update={"start": str(folder), "twin": False, "epochs": 1, "learning_rate": 1e-9})
    found = fit(TALKS[:32], TALKS[32:], settings, say=lambda _: None)
    np.testing.assert_allclose(found.raw_values(DIALOGS), model.raw_values(DIALOGS), atol=1e-5)


def test_training_goes_on_only_from_what_fits(folder):
    settings = SETTINGS.model_copy(update={"start": str(folder), "ensemble": 2})
    with pytest.raises(UserError, match=r"has backbone=words scope=turn ensemble=3, and this model .* ensemble=2"):
        fit(TALKS, [], settings, say=lambda _: None)


def test_twin_goes_on_from_the_twin_it_had_and_learns_no_label_of_the_other(model, folder):
    settings = SETTINGS.model_copy(update={"start": str(folder), "epochs": 1, "learning_rate": 1e-9, "seed": 5})
    found = fit(TALKS[:32], TALKS[32:], settings, say=lambda _: None)
    np.testing.assert_allclose(found.raw_values(DIALOGS), model.raw_values(DIALOGS), atol=1e-5)
    np.testing.assert_allclose(found.twin.raw_values(DIALOGS), model.twin.raw_values(DIALOGS), atol=1e-5)
    # Another seed would part the same labels otherwise.
    assert found.trained_on == model.trained_on
    assert found.twin.trained_on == model.twin.trained_on
    assert not found.trained_on & found.twin.trained_on


def test_twin_is_refused_where_the_start_has_none(model, folder):
    alone = copy.copy(model)
    alone.twin = None
    save(alone, folder)
    settings = SETTINGS.model_copy(update={"start": str(folder), "epochs": 1})
    with pytest.raises(UserError, match=r"twin=true start=.*: that reward model has no twin to start") as caught:
        fit(TALKS[:32], [], settings, say=lambda _: None)
    assert "\n" not in str(caught.value)
