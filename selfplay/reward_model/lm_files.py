"""Sequence classifiers with one label: made of a causal language model, written, and read again.

Legend: H hidden size.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from selfplay import models
from selfplay.errors import UserError
from selfplay.learn.adapters import ADAPTER
from selfplay.learn.critic import value_head
from selfplay.learn.lora import ADAPTER_FILE, AdapterPolicy
from selfplay.learn.policy import fitting, read_tensors
from selfplay.named_models import quiet_transformers
from selfplay.whole_files import reason

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = [
    "HEAD",
    "classifier",
    "copy_files",
    "load_adapter",
    "load_classifier",
    "merge",
    "new_adapter_config",
    "read_adapter_config",
    "save_adapter",
    "save_classifier",
]

HEAD = "score.weight"
PEFT_HEAD = f"base_model.model.{HEAD}"  # in peft's file
# What an adapter may add beyond two factors a linear layer and the head.
UNSUPPORTED = ("use_dora", "lora_bias", "trainable_token_indices", "layer_replication")


def classifier(loaded: models.LoadedModel, *, seed: int) -> PreTrainedModel:
    """Return the model as a sequence classifier with one label, with a new head of normal numbers; it takes it over.

    Raises UserError if transformers has no such form of the model's family.
    """
    causal, config = loaded.model, loaded.model.config
    family = cast("Mapping[type[Any], Any]", MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    refusal = UserError(
        f"backbone={loaded.name}: transformers has no sequence classifier of the family {config.model_type!r} with a "
        "head called score; take another model, or backbone=minilm"
    )
    if type(config) not in family:
        raise refusal
    config.num_labels = 1
    with torch.device("meta"):
        made: PreTrainedModel = family[type(config)](config)
    prefix = made.base_model_prefix
    trunk = {f"{prefix}.{name}" for name in causal.base_model.state_dict()}
    if set(made.state_dict()) != {*trunk, HEAD}:
        raise refusal
    drawn = value_head(causal, start="normal", seed=seed).weight
    score = nn.Linear(drawn.shape[1], 1, bias=False, device=causal.device, dtype=torch.float32)
    score.weight.data.copy_(drawn.detach())
    setattr(made, prefix, causal.base_model)
    cast(Any, made).score = score
    made.eval().requires_grad_(False)
    return made


def save_classifier(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json and model.safetensors."""
    with quiet_transformers():
        model.save_pretrained(folder)


def load_classifier(folder: Path, *, dtype: str = "auto") -> models.LoadedModel:
    """Return what `save_classifier` wrote, with the tokenizer beside it.

    Raises UserError for a folder without a head, or of which anything else is missing.
    """
    _check_head(sorted(folder.glob("model*.safetensors")), HEAD, folder)
    compute = models.compute_of(dtype=dtype)
    with quiet_transformers():
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, compute["dtype"]))
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"reward model {folder} cannot be loaded: {line}") from error
    if model.score.weight.shape[0] != 1:
        raise UserError(f"reward model {folder} has a head of {model.score.weight.shape[0]} numbers, not of one")
    model.to(compute["device"])
    model.eval().requires_grad_(False)
    return models.LoadedModel(name=str(folder), model=model, tokenizer=tokenizer, folder=folder)


def new_adapter_config(*, rank: int, alpha: float) -> LoraConfig:
    """Return the form of a new adapter: all linear layers but the head."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=cast(int, alpha), target_modules="all-linear", task_type="SEQ_CLS")


def read_adapter_config(folder: Path) -> LoraConfig:
    """Return the form of the adapter in a folder.  Raises UserError if it is none of ours."""
    from peft import LoraConfig, PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"reward model {folder}: adapter_config.json cannot be read: {reason(error)}") from error
    odd = [name for name in UNSUPPORTED if getattr(config, name, None)]
    if not isinstance(config, LoraConfig) or odd:
        what = odd[0] if odd else str(config.peft_type)
        raise UserError(f"reward model {folder} uses {what}, which is not known here; merge its adapter first")
    config.inference_mode = False
    config.lora_dropout = 0.0
    config.modules_to_save = None
    return config


def save_adapter(adapter: AdapterPolicy, head: Tensor, config: LoraConfig, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, the head in it."""
    tensors = {**adapter.stored(), PEFT_HEAD: head.detach()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_FILE, {"format": "pt"})
    written = copy.deepcopy(config)
    written.modules_to_save = ["score"]
    written.inference_mode = True
    written.save_pretrained(str(folder))


def load_adapter(adapter: AdapterPolicy, head: Tensor, folder: Path) -> None:
    """Put what `save_adapter` wrote on a model and its head.  Raises UserError if it does not fit them."""
    file = folder / ADAPTER_FILE
    if file.is_file():
        _check_head([file], PEFT_HEAD, folder)
    stored, needed = read_tensors(file), {**adapter.stored(), PEFT_HEAD: head.detach()}
    # An adapter that was trained on a GPU may be read on a CPU, where numbers are wider.
    cast_to = {name: t.to(needed[name].dtype) if name in needed else t for name, t in stored.items()}
    fit = fitting(cast_to, needed, folder)
    with torch.no_grad():
        head.copy_(fit.pop(PEFT_HEAD))
    adapter.load({f"{ADAPTER}/{name}": tensor for name, tensor in fit.items()})


def merge(model: PreTrainedModel) -> None:
    """Add an adapter to the model's own parameters, for good."""
    for name, module in list(model.named_modules()):
        if len(getattr(module, "lora_A", ())):
            layer: Any = module
            layer.merge(adapter_names=[ADAPTER])
            model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def copy_files(written: Path, folder: Path) -> None:
    """Copy what a scorer wrote from one folder into another."""
    for pattern in ("config.json", "model*.safetensors*", "adapter_config.json", ADAPTER_FILE):
        for file in written.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def _check_head(files: list[Path], name: str, folder: Path) -> None:
    try:
        names = {key for file in files for key in _names(file)}
    except (OSError, SafetensorError) as error:
        raise UserError(f"reward model {folder} cannot be read: {reason(error)}") from error
    if not files:
        raise UserError(f"reward model {folder} has no model.safetensors")
    if name not in names:
        raise UserError(f"reward model {folder} has no score head ({name}): it is a language model, not a reward model")


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())
