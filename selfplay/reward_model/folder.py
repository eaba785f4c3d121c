"""Reward models on the disk.

    reward_models/NAME/  reward_model.json     what it is, and its scale
                         heads.safetensors     the members on sentence vectors; or
                         model.safetensors, config.json, ... or adapter_model.safetensors, ...: a language model; or
                         members/0/ ...        several of them
                         held_out.jsonl        examples that it was not trained on
                         trained_on.txt        what stands for each dialog that it was trained on
                         twin/                 a reward model of the other half of the labels
                         README.md             the card

A folder is written under a name that begins with a dot and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfplay import __version__
from selfplay.errors import UserError
from selfplay.line_files import RecordError, json_from_line, line_from_json
from selfplay.reward_model.examples import Example, example_from_json, example_to_json
from selfplay.reward_model.info import RECORD, find
from selfplay.reward_model.members import MEMBERS, check_backbone, load_members, save_members, tokenizer_hash_of
from selfplay.reward_model.model import ModelInfo, RewardModel
from selfplay.reward_model.normaliser import Normaliser
from selfplay.reward_model.settings import FitSettings
from selfplay.reward_model.trained_on import lines_of, read_lines
from selfplay.whole_files import is_of_the_system, reason, sync, write_whole

__all__ = ["RECORD", "find", "held_out_of", "info_of", "load", "save", "trained_on_of"]

HELD_OUT, TRAINED_ON, TWIN = "held_out.jsonl", "trained_on.txt", "twin"
WEIGHTS = ("*.safetensors", "members/*/*.safetensors")  # files whose content the record knows
FAMILY, VERSION = "selfplay.reward_model/", 1


# ----- writing -----


def save(model: RewardModel, folder: Path, *, more: Mapping[str, bytes] | None = None) -> None:
    """Write a reward model into a folder, in one step; an older reward model there is replaced.

    more: further files, such as README.md.  Raises UserError if something else is there, or it cannot be written.
    """
    folder = folder.expanduser()
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already, and is no reward model; choose another out=")
    draft = folder.with_name(f".{folder.name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        _fill(draft, model, name=folder.resolve().name)
        for name, content in (more or {}).items():
            write_whole(draft / name, content)
        _put_in_place(draft, folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not is_of_the_system(error):
            raise
        raise UserError(f"the reward model cannot be written to {folder}: {reason(error)}") from error


def _fill(folder: Path, model: RewardModel, *, name: str) -> None:
    folder.mkdir(parents=True)
    save_members(model.members, folder)
    lines = b"".join(line_from_json(example_to_json(example)) for example in model.held_out)
    write_whole(folder / HELD_OUT, lines)
    if model.trained_on is not None:
        write_whole(folder / TRAINED_ON, lines_of(model.trained_on))
    fields = {**_record(model, name), "weights": _hashes(folder)}
    record = json.dumps(fields, indent=2, allow_nan=False).encode("ascii") + b"\n"
    write_whole(folder / RECORD, record)
    if model.twin is not None:
        _fill(folder / TWIN, model.twin, name=f"{name}/{TWIN}")


def _record(model: RewardModel, name: str) -> dict[str, Any]:
    info = replace(model.info, name=name)
    return {
        "schema": f"{FAMILY}{VERSION}",
        "package": __version__,
        "name": info.name,
        "backbone": info.backbone,
        "scope": info.scope,
        "judged": info.judged,
        "num_members": info.num_members,
        "num_train": info.num_train,
        "num_held_out": info.num_held_out,
        "sources": dict(info.sources),
        "accuracy": info.accuracy,
        "validation_accuracies": list(info.validation_accuracies),
        "tokenizer_hash": info.tokenizer_hash,
        "reference": info.reference,
        "created": info.created,
        "normalisers": [asdict(norm) for norm in model.normalisers],
        "mixture": asdict(model.mixture),
        "settings": info.settings.model_dump(mode="json"),
    }


def _hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of weights, by its place in the folder."""
    files = sorted(file for pattern in WEIGHTS for file in folder.glob(pattern))
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _put_in_place(draft: Path, target: Path) -> None:
    for path in sorted(draft.rglob("*")):
        sync(path)
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        if target.exists():
            target.rename(replaced)
        draft.rename(target)
    except BaseException:
        # Also an interrupt between the two must not leave the name without a model.
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


# ----- reading -----


def load(folder: Path) -> RewardModel:
    """Return a reward model from its folder, its twin included.

    Raises UserError, one sentence, if it is none, is not whole, or was written by a newer version.
    """
    record = _read_record(folder)
    info = _info(record, folder)
    mixture, *normalisers = _scale(record, folder)
    _check_weights(record, folder)
    _check_backbone(info, folder)
    members = load_members(folder, info.num_members, settings=info.settings, scope=info.scope, is_trainable=False)
    found = tokenizer_hash_of(members[0])
    if found != info.tokenizer_hash:
        raise UserError(
            f"{folder} was trained with another tokenizer ({info.tokenizer_hash[:8]}) than {info.backbone} has now "
            f"({found[:8]}); its numbers would mean nothing"
        )
    model = RewardModel(
        info=info,
        members=members,
        normalisers=normalisers,
        mixture=mixture,
        twin=load(folder / TWIN) if (folder / TWIN / RECORD).is_file() else None,
    )
    model.trained_on = trained_on_of(folder)
    return model


def info_of(folder: Path) -> ModelInfo:
    """Return what a reward model says of itself, without loading it.  Raises UserError as `load` does."""
    return _info(_read_record(folder), folder)


def held_out_of(folder: Path) -> list[Example]:
    """Return the examples that a reward model was not trained on.  Raises UserError if they cannot be read."""
    path = folder / HELD_OUT
    try:
        lines = path.read_bytes().splitlines() if path.is_file() else []
        return [example_from_json(json_from_line(line)) for line in lines]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    except RecordError as error:
        raise UserError(f"{path} holds something else than examples: {error}") from error


def trained_on_of(folder: Path) -> frozenset[str] | None:
    """Return what stands for the dialogs that a reward model was trained on; None: its folder does not say.

    Raises UserError if that cannot be read.
    """
    path = folder / TRAINED_ON
    try:
        return read_lines(path.read_bytes()) if path.is_file() else None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{path} holds something else than digests of dialogs: {error}") from error


def _check_weights(record: Mapping[str, Any], folder: Path) -> None:
    """Refuse files that are not those whose scale the record holds; a record of an older version knows none."""
    known = record.get("weights", {})
    if not isinstance(known, Mapping):
        raise UserError(f"{folder / RECORD} is damaged: weights should name files and their sha256")
    for name, expected in known.items():
        file = folder / name
        try:
            # What is missing is named by whoever needs it.
            is_other = file.is_file() and _sha256(file) != expected
        except OSError as error:
            raise UserError(f"{file} cannot be read: {reason(error)}") from error
        if is_other:
            raise UserError(f"{file} is damaged, or of another reward model: {RECORD} beside it has another sha256")


def _check_backbone(info: ModelInfo, folder: Path) -> None:
    if (folder / "config.json").is_file() or (folder / MEMBERS / "0" / "config.json").is_file():
        return  # a whole model, which needs no other
    try:
        check_backbone(info.backbone, runs=info.settings.runs)
    except UserError as error:
        raise UserError(f"{folder / RECORD} names a backbone that is not here: {error}") from error


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record = json_from_line(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no reward model: it has no {RECORD}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    except RecordError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    schema = record.get("schema")
    if not isinstance(schema, str) or not schema.startswith(FAMILY):
        raise UserError(f"{path} has the schema {schema!r}, and a reward model's is {FAMILY}{VERSION}")
    if schema != f"{FAMILY}{VERSION}":
        raise UserError(f"{path} was written by a newer version of this program ({schema}; this one reads {VERSION})")
    return record


def _scale(record: Mapping[str, Any], folder: Path) -> list[Normaliser]:
    """Return the normaliser of the members' mean, then each member's."""
    try:
        found = [record["mixture"], *record["normalisers"]]
        return [Normaliser(gain=float(each["gain"]), bias=float(each["bias"])) for each in found]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / RECORD} is damaged: its normalisers cannot be read ({error!r})") from error


def _info(record: Mapping[str, Any], folder: Path) -> ModelInfo:
    try:
        return ModelInfo(
            name=str(record["name"]),
            settings=FitSettings.model_validate(record["settings"]),
            scope=record["scope"],
            judged=record["judged"],
            num_members=int(record["num_members"]),
            num_train=int(record["num_train"]),
            num_held_out=int(record["num_held_out"]),
            sources=dict(record["sources"]),
            accuracy=record["accuracy"],
            validation_accuracies=tuple(record["validation_accuracies"]),
            tokenizer_hash=str(record["tokenizer_hash"]),
            reference=str(record["reference"]),
            created=str(record["created"]),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise UserError(f"{folder / RECORD} is damaged: {str(error).splitlines()[0]}") from error
