"""Named models, local folders, trained runs and hub ids, as a model and a tokenizer in memory.

A named model is fetched and converted once, into an ordinary Hugging Face folder of the user's cache; from then on it
loads from there, without network.  RUN[@STEP] is what a training run wrote (see `selfplay.trained`).  Importing this
module imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selfplay import checkpoint, trained
from selfplay.errors import UserError
from selfplay.named_models import (
    MODELS,
    NEEDED_DISK_BYTES,
    ModelSpec,
    Say,
    cache_folder,
    has_files,
    is_prepared,
    let_others_read,
    prepare,
    quiet_transformers,
)
from selfplay.run_folder import RUNS
from selfplay.tiny_model import make_tiny, tiny_seed
from selfplay.whole_files import is_of_the_system, reason
from selfplay.written import nearest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "MODELS",
    "NEEDED_DISK_BYTES",
    "LoadedModel",
    "ModelSpec",
    "Say",
    "cache_folder",
    "check_name",
    "compute_of",
    "describe",
    "fingerprint",
    "folder_of",
    "is_ready",
    "load",
    "num_cores",
    "prepare",
    "prepare_base",
    "save",
    "use_threads",
]

logger = logging.getLogger(__name__)

NUM_SAMPLED = 64  # numbers of each parameter that go into a fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to generate, with its tokenizer; no parameter requires a gradient."""

    name: str  # as it was asked for
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path | None  # where the model was loaded from; None: made in memory, or from the hub's own cache
    adapter: Path | None = None  # a peft folder that is to be put on the model; None: none, or it is merged already


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    say: Say = logger.info,
    runs: Path = RUNS,
    merged: bool = True,
) -> LoadedModel:
    """Load a named model, a local Hugging Face or peft folder, a run's checkpoint or a hub id.

    ``device="auto"`` is the GPU if there is one, else the CPU; ``dtype="auto"`` is float32 on the CPU and bfloat16 on
    a GPU.  runs: where RUN[@STEP] is looked up.  An adapter is merged into its base, which makes a plain model;
    ``merged=False`` gives the base, and says where the adapter is.
    Raises UserError if there is no such model, or it cannot be had.
    """
    folder = folder_of(name, runs=runs, say=say)
    to_device = _device(device)
    to_dtype = _dtype(dtype, to_device)
    if folder is not None and trained.is_adapter(folder):
        base = functools.partial(load, device=device, dtype=dtype, say=say, runs=runs)
        return _with_adapter(name, folder, base, merged=merged)
    if _kind(name, runs) == "made":
        model, tokenizer = make_tiny(name)
        model.to(device=to_device, dtype=to_dtype)  # type: ignore[call-arg]  # its decorator hides `self`
    else:
        model, tokenizer = _from_pretrained(name, str(folder or name), device=to_device, dtype=to_dtype)
    model.eval().requires_grad_(False)
    return LoadedModel(name=name, model=model, tokenizer=tokenizer, folder=folder)


def folder_of(name: str, *, runs: Path = RUNS, say: Say = logger.info) -> Path | None:
    """Return the folder of a model's files, a named one fetched first; None: made in memory, or in the hub's own cache.

    Raises UserError if there is no such model, or a run's checkpoint is not whole.
    """
    kind = _kind(name, runs)
    if kind == "fetched":
        return prepare(name, say=say)
    if kind == "run":
        folder = trained.checkpoint_of(name, runs)
        assert folder is not None, name
        checkpoint.check(folder, unread=(trained.TRAINING_FILE,))
        return folder
    return Path(name).expanduser() if kind == "folder" else None


def pinned(name: str, *, runs: Path = RUNS) -> str:
    """Return a model's name with the step it means now: RUN alone is another policy when the run has gone on."""
    if _kind(name, runs) != "run" or trained.AT_STEP.fullmatch(name):
        return name
    folder = trained.checkpoint_of(name, runs)
    return name if folder is None else f"{name}@{checkpoint.version_of(folder)}"


def prepare_base(name: str, run: Path) -> Path | None:
    """Write a model that is made in memory into RUN/base, once, so that plain peft finds what its adapters belong to.

    Return the folder's absolute path; None: the model has a place of its own.
    """
    folder = run.resolve() / trained.BASE
    if _kind(name, run.parent) != "made":
        return None
    if not has_files(folder):
        loaded = load(name, device="cpu", dtype="float32")
        save(loaded, folder)
    return folder


def save(loaded: LoadedModel, folder: Path) -> None:
    """Write a model and its tokenizer as a plain Hugging Face folder, whole or not at all.

    Raises UserError if the folder holds anything, or cannot be written.
    """
    draft = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        with quiet_transformers():
            loaded.model.save_pretrained(draft)
            loaded.tokenizer.save_pretrained(draft)
        let_others_read(draft)
        draft.rename(folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not is_of_the_system(error):
            raise
        raise UserError(f"cannot write a model to {folder}: {reason(error)}") from error


def fingerprint(loaded: LoadedModel) -> str:
    """Return what tells these weights from others: a hash of some numbers of each parameter, and of the adapter."""
    digest = hashlib.sha256()
    for name, parameter in sorted(loaded.model.state_dict().items()):
        some = parameter.flatten()[:: max(1, parameter.numel() // NUM_SAMPLED)].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(some.numpy().tobytes())
    if loaded.adapter is not None:
        digest.update((loaded.adapter / trained.ADAPTER_FILE).read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def compute_of(*, device: str = "auto", dtype: str = "auto") -> dict[str, str]:
    """Return what `load` takes for these settings, such as ``{"device": "cpu", "dtype": "float32"}``."""
    to_device = _device(device)
    return {"device": str(to_device), "dtype": str(_dtype(dtype, to_device)).removeprefix("torch.")}


def check_name(name: str, *, key: str = "model", runs: Path = RUNS) -> None:
    """Raise UserError if no model can have this name, which stands at `key`; nothing is loaded or fetched."""
    try:
        _kind(name, runs)
    except UserError as error:
        raise UserError(str(error).replace("model=", f"{key}=", 1)) from error


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(num_threads: int) -> None:
    """Set torch's threads in this process; 0: as many as there are cores."""
    import torch

    torch.set_num_threads(num_threads or num_cores())


def describe(name: str) -> str:
    """Return one line about a named model, or the name itself for a folder or a hub id."""
    spec = MODELS.get(name.partition(":")[0])
    return spec.summary if spec else name


def is_ready(name: str, *, runs: Path = RUNS) -> bool:
    """Return whether `load` needs no network for this model; for a hub id that is unknown, and the answer no."""
    kind = _kind(name, runs)
    return is_prepared(name) if kind == "fetched" else kind != "hub"


# ----- which model is meant -----


def _kind(name: str, runs: Path) -> Literal["made", "fetched", "folder", "run", "hub"]:
    """Return what a name means; raises UserError if it means nothing."""
    if tiny_seed(name) is not None:
        return "made"
    if name in MODELS:
        return "fetched"
    local = _local_kind(name, runs)
    if local is not None:
        return local
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return "hub"
    hint = nearest(name, [*MODELS, *trained.names(runs)], is_list_shown=False)
    raise UserError(
        f"model={name}: there is no such model{hint} (a model is one of {', '.join(MODELS)}, a local Hugging Face "
        "folder, RUN or RUN@STEP of a training run, or a hub id such as owner/name)"
    )


def _local_kind(name: str, runs: Path) -> Literal["folder", "run"] | None:
    """Return what a name means on this machine's disk; None: nothing."""
    try:
        folder = Path(name).expanduser()
        has_config, is_folder = trained.is_model_folder(folder), folder.is_dir()
    except (RuntimeError, OSError) as error:
        raise UserError(f"model={name}: this folder cannot be read: {reason(error)}") from error
    if has_config:
        return "folder"
    try:
        is_trained = trained.checkpoint_of(name, runs) is not None
    except UserError as error:
        raise UserError(f"model={name}: {error}") from error
    if is_folder and not is_trained:
        raise UserError(f"model={name}: this folder has no config.json, so it is no Hugging Face folder")
    return "run" if is_trained else None


# ----- loading -----


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"engine.device={name}: torch knows no such device; use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"engine.device={name}: torch sees {torch.cuda.device_count()} GPUs here; use auto or cpu")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise UserError(f"engine.dtype={name}: must be auto, {', '.join(known)}")
    return known[name]


def _from_pretrained(
    name: str, place: str, *, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        try:
            tokenizer = _tokenizer(place)
            # On a GPU the weights go there as they are read, and never fill the main memory.
            straight_to = None if device.type == "cpu" else {"": device}
            model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, device_map=straight_to)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"model={name}: cannot be loaded: {reason[0]}") from error
    return model, tokenizer


def _tokenizer(place: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    return tokenizer


def _with_adapter(name: str, folder: Path, load_base: Callable[[str], LoadedModel], *, merged: bool) -> LoadedModel:
    """Return the base of the adapter in a folder, merged with it or not, under the adapter's name."""
    try:
        base = load_base(trained.base_of(folder))
    except UserError as error:
        raise UserError(f"model={name}: the model that its adapter belongs to cannot be had: {error}") from error
    tokenizer = _tokenizer(str(folder)) if trained.has_tokenizer(folder) else base.tokenizer
    if not merged:
        return replace(base, name=name, tokenizer=tokenizer, adapter=folder)
    with quiet_transformers():
        model = trained.merge(base.model, folder)
    model.eval().requires_grad_(False)
    return LoadedModel(name=name, model=model, tokenizer=tokenizer, folder=folder)
