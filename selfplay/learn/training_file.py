"""`training.pt`: what a checkpoint needs besides the policy's own files to go on training, checked when read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from selfplay.errors import UserError

FILE = "training.pt"
SCHEMA = "selfplay.training/1"

Contents = dict[str, Any]  # plain data and tensors: it loads with weights_only=True


def write(folder: Path, contents: Contents) -> None:
    """Write training.pt."""
    torch.save(contents, folder / FILE)


def read(folder: Path, *, like: Contents, parameters: Sequence[Tensor]) -> Contents:
    """Return what a folder holds, if it fits.

    like: what this learner would write; parameters: what its optimizer moves, in order.
    Raises UserError if the folder holds none, a part, or what another algorithm, method or model needs.
    """
    contents = _read(folder)
    missing = [name for name in like if name not in contents]
    if contents.get("schema") != SCHEMA or missing:
        what = f"has no {missing[0]!r}" if missing else f"has schema {contents.get('schema')!r}, not {SCHEMA!r}"
        raise UserError(f"checkpoint {folder}: {FILE} {what}, so training cannot go on from it")
    for name in ("algorithm", "method"):
        if contents[name] != like[name]:
            raise UserError(
                f"checkpoint {folder} was trained with learner.{name}={contents[name]}; going on with "
                f"learner.{name}={like[name]} would mix the two"
            )
    _check_plain(folder, contents["state"], like["state"])
    _check_optimizer(folder, contents["optimizer"], parameters)
    return contents


def _read(folder: Path) -> Contents:
    try:
        contents = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {folder} has no {FILE}: it can be played with, but not trained on") from error
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"checkpoint {folder}: {FILE} cannot be read: {reason[0]}") from error
    if not isinstance(contents, dict):
        raise UserError(f"checkpoint {folder}: {FILE} is no record of training")
    return contents


def _check_plain(folder: Path, found: Mapping[str, Any], like: Mapping[str, Any]) -> None:
    missing = [name for name in like if name not in found]
    if missing:
        raise UserError(f"checkpoint {folder}: {FILE} has no {missing[0]!r} among the algorithm's state")


def _check_optimizer(folder: Path, state: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    shapes = {number: moments["exp_avg"].shape for number, moments in state["state"].items()}
    if len(numbers) != len(parameters) or any(
        shapes.get(number, parameter.shape) != parameter.shape
        for number, parameter in zip(numbers, parameters, strict=True)
    ):
        raise UserError(f"checkpoint {folder}: {FILE} holds an optimizer of other parameters than this learner's")
