"""Training low-rank adapters on a frozen model, with peft.

The reference costs no second model: it is the same one with its adapters switched off, or with the adapter that
training started from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from selfplay.errors import UserError
from selfplay.interfaces import Weights
from selfplay.learn.adapters import ADAPTER, adapter_scale, adapter_state
from selfplay.learn.critic import Trunk
from selfplay.learn.policy import Method, fitting, read_tensors
from selfplay.learn.recompute import recompute_layers

if TYPE_CHECKING:
    from peft import LoraConfig, LoraModel

ADAPTER_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
# The adapter that training started from, frozen.
START = "start"
# That of a second model, which says what states are worth.
SECOND = "second"
# What adapters may add beyond two factors a linear layer: nothing here would carry it to where the policy plays.
UNSUPPORTED = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication")


class AdapterPolicy:
    """Trains one adapter of a model whose own parameters are frozen."""

    method: Method = "lora"

    def __init__(self, model: PreTrainedModel, config: LoraConfig, *, seed: int, base_name: str) -> None:
        """Add a new adapter to the model, in place; it changes nothing until it is trained.

        seed: of its random factor.  base_name: where peft finds the model without it.
        Raises UserError if the configuration does not fit the model.
        """
        self.model = model
        _check_targets(model, config.target_modules)
        self._config = config
        self._config.base_model_name_or_path = base_name
        self._config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in model.modules())
        self._layers: LoraModel | None = None
        self._has_start = False
        self._speaking: str | None = ADAPTER
        self._add(ADAPTER, seed=seed)
        _switch(model, ADAPTER)

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the adapter that training starts from, and stays near, this one; tensors as in peft's file."""
        if not self._has_start:
            self._add(START, seed=0)
            self._has_start = True
        for name in (ADAPTER, START):
            self._overwrite(name, tensors)
        for parameter in self._named(START).values():
            parameter.requires_grad = False
        _switch(self.model, ADAPTER)

    def parameters(self) -> list[nn.Parameter]:
        """Return the adapter's factors."""
        return [cast(nn.Parameter, tensor) for tensor in self._named(ADAPTER).values()]

    def second_trunk(self, *, seed: int) -> Trunk:
        """Add an adapter of the same form: the second model shares all but that with the first."""
        self._add(SECOND, seed=seed)
        if self._has_start:
            self._overwrite(SECOND, self.stored(START))
        _switch(self.model, ADAPTER)
        parameters = {name: cast(nn.Parameter, tensor) for name, tensor in self._named(SECOND).items()}
        return Trunk(parameters=parameters, lend=lambda: self._lend(SECOND))

    def reference(self) -> AbstractContextManager[PreTrainedModel]:
        """Lend the model as it was before training."""
        return self._lend(START if self._has_start else None)

    def recompute(self) -> None:
        """Do so with the adapter that spoke when the activations were first computed."""
        recompute_layers(self.model, contexts=lambda: (nullcontext(), self._lend(self._speaking)))

    @contextmanager
    def _lend(self, adapter: str | None) -> Iterator[PreTrainedModel]:
        before, self._speaking = self._speaking, adapter
        _switch(self.model, adapter)
        try:
            yield self.model
        finally:
            self._speaking = before
            _switch(self.model, before)

    def reference_head(self) -> PreTrainedModel:
        """Return the model itself: adapters leave its head alone."""
        return self.model

    def weights(self, version: int) -> Weights:
        """Return the adapter."""
        state = adapter_state(self.model)
        return Weights(version=version, state=state, adapter_scale=adapter_scale(self.model))

    def state(self) -> Mapping[str, Tensor]:
        """Return the adapter that training started from, if there was one."""
        return self.stored(START) if self._has_start else {}

    def save(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors."""
        tensors = {name: tensor.contiguous() for name, tensor in self.stored(ADAPTER).items()}
        save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
        self._config.save_pretrained(str(folder))

    def read(self, folder: Path, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the adapters in the folder.  Raises UserError if they are not of this form."""
        if bool(state) != self._has_start:
            raise UserError(f"checkpoint {folder} was started from {'an' if state else 'no'} adapter, and this is not")
        needed = self.stored(ADAPTER)
        alpha = read_config(folder).lora_alpha
        if alpha != self._config.lora_alpha:
            raise UserError(f"checkpoint {folder} has lora.alpha={alpha}, and this learner {self._config.lora_alpha}")
        tensors = fitting(read_tensors(folder / ADAPTER_FILE), needed, folder)
        start = fitting(state, needed, folder) if state else {}
        return {**_prefixed(tensors, ADAPTER), **_prefixed(start, START)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the adapters."""
        for name in (ADAPTER, START) if self._has_start else (ADAPTER,):
            prefix = f"{name}/"
            self._overwrite(name, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})

    def _add(self, name: str, *, seed: int) -> None:
        from peft import LoraModel

        try:
            # Neither reads nor moves the global random state.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                if self._layers is None:
                    self._layers = LoraModel(self.model, {name: self._config}, name)
                else:
                    self._layers.peft_config[name] = self._config
                    self._layers.inject_adapter(self.model, name)
        except ValueError as error:
            raise UserError(f"lora.targets={self._config.target_modules}: {error}") from error
        self.model.eval()

    def _named(self, adapter: str) -> dict[str, Tensor]:
        """Return an adapter's factors by their names in peft's files."""
        mark = f".{adapter}."
        return {
            f"base_model.model.{name.replace(mark, '.')}": parameter
            for name, parameter in self.model.named_parameters()
            if mark in name and ".lora_" in name
        }

    def stored(self, adapter: str = ADAPTER) -> dict[str, Tensor]:
        """Return an adapter as its file has it; the tensors are its own."""
        return {name: tensor.detach() for name, tensor in self._named(adapter).items()}

    def _overwrite(self, adapter: str, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._named(adapter).items():
                parameter.copy_(tensors[name])


def lora_config(*, rank: int, alpha: float, targets: str) -> LoraConfig:
    """Return the form of a new adapter; targets: "all-linear" or layer names separated by commas."""
    from peft import LoraConfig

    names: Any = targets if targets == "all-linear" else [name.strip() for name in targets.split(",") if name.strip()]
    return LoraConfig(r=rank, lora_alpha=cast(int, alpha), target_modules=names, task_type="CAUSAL_LM")


def adapter_policy(model: PreTrainedModel, folder: Path, *, seed: int, base_name: str) -> AdapterPolicy:
    """Return a policy that goes on from a stored adapter and stays near it.

    Raises UserError if the adapter does not fit the model, or cannot be trained on.
    """
    policy = AdapterPolicy(model, read_config(folder), seed=seed, base_name=base_name)
    policy.start_from(fitting(read_tensors(folder / ADAPTER_FILE), policy.stored(), folder))
    return policy


def merge_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Add a stored adapter to a model's own parameters, for good.  Raises UserError if it does not fit."""
    adapter_policy(model, folder, seed=0, base_name="")
    for name, module in list(model.named_modules()):
        if len(getattr(module, "lora_A", ())):
            layer: Any = module
            layer.merge(adapter_names=[ADAPTER])
            model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def read_config(folder: Path) -> LoraConfig:
    """Return the form of a stored adapter.  Raises UserError if it is not one that can be trained on here."""
    from peft import LoraConfig, PeftConfig

    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"checkpoint {folder} has no {CONFIG_FILE}, so it holds no adapter")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"checkpoint {folder}: {CONFIG_FILE} cannot be read: {error}") from error
    if not isinstance(config, LoraConfig):
        raise UserError(f"adapter {folder} is of type {config.peft_type}; only LoRA adapters can be trained on")
    for name in UNSUPPORTED:
        if getattr(config, name, None):
            raise UserError(f"adapter {folder} uses {name}, which cannot be trained on here; merge it first")
    config.inference_mode = False
    config.lora_dropout = 0.0
    return config


def _check_targets(model: PreTrainedModel, targets: Collection[str] | str | None) -> None:
    """Refuse embeddings and the output layer, which is often the same matrix: the reference's head is the policy's."""
    words = (model.get_input_embeddings(), model.get_output_embeddings())
    for name, module in model.named_modules():
        is_meant = not isinstance(targets, str) and any(f".{name}".endswith(f".{target}") for target in targets or ())
        if is_meant and module in words:
            raise UserError(f"lora.targets: {name!r} is an embedding or the output layer, which adapters leave alone")


def _switch(model: PreTrainedModel, adapter: str | None) -> None:
    """Choose which adapter speaks; None: the model without any.

    peft's own switch also turns gradients on and off, and a gradient on its way back to an adapter that has been
    switched off in the meantime would be lost.
    """
    for module in model.modules():
        if len(getattr(module, "lora_A", ())):
            layer: Any = module
            layer._disable_adapters = adapter is None
            layer._active_adapter = [adapter or ADAPTER]


def _prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
