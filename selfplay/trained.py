"""Models that training runs wrote: RUN[@STEP], and the adapters among them.

A checkpoint of full fine-tuning is a plain Hugging Face folder::

    AutoModelForCausalLM.from_pretrained("runs/NAME/checkpoints/000030")

One of low-rank adapters is a peft folder, which names its base; either of these loads it::

    AutoPeftModelForCausalLM.from_pretrained("runs/NAME/checkpoints/000030")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "runs/NAME/checkpoints/000030")

`merge RUN@30 out=FOLDER` makes the second kind into the first.  Importing this module imports no torch.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from selfplay import checkpoint
from selfplay.errors import UserError
from selfplay.run_folder import is_run
from selfplay.run_reader import find_run, list_runs
from selfplay.stored_config import read_stored_config
from selfplay.whole_files import reason

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "ADAPTER_FILE",
    "BASE",
    "TRAINING_FILE",
    "base_of",
    "checkpoint_of",
    "has_tokenizer",
    "is_adapter",
    "is_model_folder",
    "listed",
    "merge",
    "names",
    "past_policies",
    "past_policy",
]

TRAINING_FILE = "training.pt"  # of a checkpoint: what only the learner reads
BASE = "base"  # of a run: the model that its adapters belong to, where that had no folder
MODEL_CONFIG, ADAPTER_CONFIG, ADAPTER_FILE = "config.json", "adapter_config.json", "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
NUM_LISTED = 5  # runs, in messages
AT_STEP = re.compile(r"(.+)@([0-9]{1,12})")


def checkpoint_of(name: str, runs: Path) -> Path | None:
    """Return the checkpoint that RUN[@STEP] names, by a path or by a name in `runs`; None: it names no run.

    A step without a checkpoint may have a past policy in the run's league.
    Raises UserError if there is such a run without such a checkpoint, or nothing else could be meant.
    """
    match = AT_STEP.fullmatch(name)
    if match is not None:
        return _at_step(find_run(match[1], runs), int(match[2]))
    found = [folder for folder in (Path(name).expanduser(), runs / name) if is_run(folder)]
    return checkpoint.find(found[0]) if found else None


def _at_step(run: Path, version: int) -> Path:
    kept, past = checkpoint.versions(run), past_policies(run)
    if version in kept or not (kept or past):
        return checkpoint.find(run, version)
    if version in past:
        return past_policy(run, version)
    what = "no checkpoint and no past policy" if past else "no checkpoint"
    there_are = ", ".join(map(str, sorted({*kept, *past})))
    raise UserError(f"run {run} has {what} {version}; it has {there_are}{_how_to_keep(run, version, kept)}")


def _how_to_keep(run: Path, version: int, kept: Sequence[int]) -> str:
    """Return what to append where a checkpoint may have been deleted for newer ones; empty: it was not."""
    group = read_stored_config(run).get("checkpoints")  # `sft` has no such setting
    keep = group.get("keep") if isinstance(group, dict) else None
    # Version 0 is the model that the run started from, and is never written.
    if not isinstance(keep, int) or len(kept) < keep or not 0 < version < min(kept, default=0):
        return ""
    return f"; older ones are deleted, and checkpoints.keep= keeps more than {keep}"


def past_policies(run: Path) -> list[int]:
    """Return the versions of the policies that a run's league has, in order."""
    return checkpoint.versions(run, place=checkpoint.LEAGUE)


def past_policy(run: Path, version: int) -> Path:
    """Return the folder of a policy of a run's league, whether it is there or not."""
    return run / checkpoint.LEAGUE / checkpoint.name_of(version)


def names(runs: Path) -> list[str]:
    """Return the names of all runs that have checkpoints, the newest first."""
    return [folder.name for folder in list_runs(runs) if checkpoint.versions(folder)]


def listed(runs: Path) -> str:
    """Return a clause that names the newest runs that have checkpoints, for where a name means none of them."""
    some = names(runs)[:NUM_LISTED]
    if not some:
        return f"no run in {runs}/ has checkpoints"
    return f"the newest runs with checkpoints in {runs}/ are {', '.join(some)}"


def is_model_folder(folder: Path) -> bool:
    """Whether a folder is one that transformers or peft loads."""
    return (folder / MODEL_CONFIG).is_file() or is_adapter(folder)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, without the model it belongs to."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / MODEL_CONFIG).is_file()


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def base_of(folder: Path) -> str:
    """Return the model that the adapter in a folder belongs to, as `selfplay.models.load` takes it.

    That is what its configuration says; the base of its own run is found where that lies now, as runs are moved.
    Raises UserError if the configuration cannot be read, or says nothing.
    """
    try:
        base = json.loads((folder / ADAPTER_CONFIG).read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG} cannot be read: {reason(error)}") from error
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / ADAPTER_CONFIG} does not say which model the adapter belongs to")
    beside = folder.resolve().parent.parent / BASE
    return str(beside) if Path(base).name == BASE and is_model_folder(beside) else base


def merge(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the base, changed in place, with the adapter of a folder added to its weights.

    Raises UserError if the adapter does not fit it.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    with warnings.catch_warnings():
        # peft asks transformers by an older name, and warns of missing factors, which are compared below.
        warnings.simplefilter("ignore")
        try:
            model = PeftModel.from_pretrained(base, str(folder))
            with safe_open(folder / ADAPTER_FILE, framework="pt") as file:
                found = set(file.keys())
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"the adapter {folder} cannot be put on its base: {line}") from error
        odd = found ^ set(get_peft_model_state_dict(model))
        if odd:
            raise UserError(f"the adapter {folder} does not fit its base: {min(odd)} is on one side only")
        merged = model.merge_and_unload()
    return cast("PreTrainedModel", merged)
