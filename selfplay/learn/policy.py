"""What a learner trains and what it stays near: a model and its frozen reference, in memory and on disk.

`WholePolicy` trains every parameter; `selfplay.learn.lora.AdapterPolicy` trains adapters on a frozen model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from selfplay.errors import UserError
from selfplay.interfaces import Weights
from selfplay.learn.critic import Trunk
from selfplay.learn.recompute import recompute_layers

Method = Literal["full", "lora"]


class Policy(Protocol):
    """A model in training, and the policy it started as."""

    @property
    def method(self) -> Method:
        """How it is trained; recorded in checkpoints."""
        ...

    @property
    def model(self) -> PreTrainedModel:
        """The policy as it is now."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained, always in the same order."""
        ...

    def reference(self) -> AbstractContextManager[PreTrainedModel]:
        """Lend the frozen reference; until it is given back, `model` may not be used."""
        ...

    def reference_head(self) -> PreTrainedModel:
        """Return a model whose head is the reference's; it may be used beside `model`."""
        ...

    def weights(self, version: int) -> Weights:
        """Return what playing needs; the tensors are the policy's own."""
        ...

    def second_trunk(self, *, seed: int) -> Trunk:
        """Make a second trainable model that starts as the policy is now; seed: of what is random in it."""
        ...

    def recompute(self) -> None:
        """Compute activations again on the way back instead of keeping them, second trunks included."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint must hold besides the files of `save`, such as a reference of its own."""
        ...

    def save(self, folder: Path) -> None:
        """Write Hugging Face files into an existing folder."""
        ...

    def read(self, folder: Path, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what `save` wrote and `state` returned, checked, for `load`; nothing changes.

        Raises UserError if it does not fit.
        """
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `read` returned."""
        ...


class WholePolicy:
    """Trains every parameter; the reference is a copy made at the start."""

    method: Method = "full"

    def __init__(self, model: PreTrainedModel, *, reference: PreTrainedModel | None = None) -> None:
        """Take over the model.  reference: the frozen policy; None: the model as it is now."""
        self.model = model
        self._reference = reference if reference is not None else copy.deepcopy(model)
        self._reference.requires_grad_(requires_grad=False).eval()
        self._twins: list[PreTrainedModel] = []

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that require a gradient."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def reference(self) -> AbstractContextManager[PreTrainedModel]:
        """Lend the frozen copy."""
        return nullcontext(self._reference)

    def reference_head(self) -> PreTrainedModel:
        """Return the frozen copy."""
        return self._reference

    def weights(self, version: int) -> Weights:
        """Return all parameters, named as in the model's state_dict."""
        return Weights(version=version, state=self.model.state_dict())

    def second_trunk(self, *, seed: int) -> Trunk:
        """Return a copy of the whole model; its output layer is never used."""
        twin = copy.deepcopy(self.model)
        twin.requires_grad_(requires_grad=True)
        self._twins.append(twin)
        return Trunk(parameters=dict(twin.base_model.named_parameters()), lend=lambda: nullcontext(twin))

    def recompute(self) -> None:
        """Do so in the policy and its twins."""
        for model in (self.model, *self._twins):
            recompute_layers(model)

    def state(self) -> Mapping[str, Tensor]:
        """Return nothing: the reference is the model that training starts from."""
        return {}

    def save(self, folder: Path) -> None:
        """Write model.safetensors and config.json."""
        with _no_progress_bar():
            self.model.save_pretrained(folder)

    def read(self, folder: Path, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the parameters in the folder.  Raises UserError if they are not this model's."""
        stored = {name: tensor for file in _weight_files(folder) for name, tensor in _read(file).items()}
        return fitting(stored, dict(self.model.named_parameters()), folder)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the parameters."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[name])


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def fitting(stored: Mapping[str, Tensor], needed: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Return the stored tensors that are needed.  Raises UserError if one is missing or has another shape or type."""
    for name, tensor in needed.items():
        if name not in stored:
            raise UserError(f"checkpoint {folder} has no {name!r}: it was made for another model or other settings")
        found = stored[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise UserError(
                f"checkpoint {folder}: {name!r} is {_kind(found)}, and {_kind(tensor)} here: it was made for another "
                "model or other settings"
            )
    return {name: stored[name] for name in needed}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.  Raises UserError if it cannot be read."""
    if not file.is_file():
        raise UserError(f"checkpoint {file.parent} has no {file.name}")
    return _read(file)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {file.parent}: {file.name} cannot be read: {error}") from error


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise UserError(f"checkpoint {folder} has no model.safetensors")
    return files


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
