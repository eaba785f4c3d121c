"""Runs of `sft` where a command needs one of `train`: what to do instead, in a sentence."""

from __future__ import annotations

from pathlib import Path

from selfplay.errors import UserError
from selfplay.run_folder import is_run
from selfplay.run_reader import RunReader

__all__ = ["refuse_imitation"]

KIND = "sft"


def refuse_imitation(folder: Path, instead: str) -> None:
    """Raise UserError if a folder is a run of `sft`, which has no settings of `train`; anything else is left to others.

    instead: what to do, where {run} stands for the folder.
    """
    if is_run(folder) and RunReader(folder).manifest.get("kind") == KIND:
        told = instead.replace("{run}", str(folder))
        raise UserError(f"{folder} is a run of sft, which imitates: {told}")
