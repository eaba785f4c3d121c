"""What a run folder consists of, how a new one is claimed, and what its manifest says at first."""

from __future__ import annotations

import os
import re
import subprocess
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from selfplay import __version__
from selfplay.dialog import Split
from selfplay.errors import UserError
from selfplay.records_json import COUNTS, DECIMALS, TOKENS_DECIMALS
from selfplay.whole_files import reason

RunStatus = Literal["running", "finished", "interrupted", "failed"]

RUN_SCHEMA = "selfplay.run/1"
RUNS = Path("runs")
PACKAGE_FOLDER = Path(__file__).parent
MANIFEST, CONFIG, CONVERSATIONS, TOKENS = "run.json", "config.yaml", "conversations", "tokens"
ANNOTATIONS, METRICS, SOURCES, ASIDE = "annotations", "metrics", "sources", "aside"
ALARMS, TOKENIZERS = "alarms", "tokenizers"
STEM_OF_SPLIT: Mapping[Split, str] = {"train": "train-000", "held_out": "evaluation-000"}
TOKENS_STEM = "000"
TOKENS_RULE = "must be all, evaluation, none or sample:SHARE with a share from 0 to 1, e.g. sample:0.1"
ID = re.compile(r"([0-9]{1,12})-([a-z]+)([0-9]{1,12})-([0-9]{1,12})")


class RunExistsError(UserError):
    """The folder of a new run holds a run already."""


def keeps_tokens(policy: str, *, conversation_id: str, split: Split) -> bool:
    """Whether `transcripts.tokens=policy` stores the tokens of a conversation.

    The policy is all, evaluation, none or sample:SHARE; a sample depends on the conversation's id alone.
    Raises UserError for anything else.
    """
    share = sampled_share(policy)
    if share is not None:
        return zlib.crc32(conversation_id.encode("utf-8", "surrogatepass")) < share * 2**32
    return policy == "all" or (policy == "evaluation" and split == "held_out")


def sampled_share(policy: str) -> float | None:
    """Return the share that `transcripts.tokens=policy` samples, None if it samples none; UserError: no such policy."""
    if policy in ("all", "evaluation", "none"):
        return None
    share = re.fullmatch(r"sample:([0-9]*\.?[0-9]+)", policy)
    if share is None or float(share[1]) > 1:
        raise UserError(f"transcripts.tokens={policy}: {TOKENS_RULE}")
    return float(share[1])


def claim(folder: Path) -> bool:
    """Take a folder for a new run; return whether it had to be made.

    Raises RunExistsError if it holds a run already, UserError if it holds anything else or cannot be written.
    """
    others: list[str] = []
    taken = RunExistsError(f"folder {folder} already holds a run; choose another name, or remove it")
    if os.path.lexists(folder / MANIFEST):
        raise taken
    try:
        is_new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in folder.iterdir() if entry.name != CONVERSATIONS]
        if others:
            raise FileExistsError
        # Making a folder is atomic: of two runs that start at once under one name, one is told.
        (folder / CONVERSATIONS).mkdir()
    except FileExistsError as error:
        if not folder.is_dir():
            raise UserError(f"cannot write to folder {folder}: it is a file") from error
        if others:
            raise UserError(f"folder {folder} holds other files, {others[0]} among them; choose a new one") from error
        raise taken from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write to folder {folder}: {reason(error)}") from error
    return is_new


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return os.path.isfile(folder / MANIFEST)


def new_manifest(folder: Path) -> dict[str, Any]:
    """Return what run.json says when a run begins."""
    return {
        "schema": RUN_SCHEMA,
        "name": folder.resolve().name,
        "status": "running",
        "created_at": now(),
        "ended_at": None,
        "package": __version__,
        "git": git_commit(PACKAGE_FOLDER),
        "seed": None,
        "env": None,
        "model": None,
        "view": None,
        "device": None,
        "dtype": None,
        "tokenizers": {},
        "sources": {},
        "command": None,
        "resumed": [],
        "decimals": {"conversations": DECIMALS, "tokens": TOKENS_DECIMALS, "annotations": TOKENS_DECIMALS},
        "counts": dict.fromkeys(COUNTS, 0),
    }


def now() -> str:
    """Return the time, UTC in ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_commit(package: Path) -> str | None:
    """Return the commit of the checkout at whose top a package's folder lies; None: it is installed, or no git.

    A package that is installed inside somebody's checkout is no part of it.
    """
    command = ("git", "-C", str(package), "rev-parse", "--show-toplevel", "--verify", "HEAD")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    top, _, commit = answer.stdout.strip().rpartition("\n")
    is_own = answer.returncode == 0 and Path(top).resolve() == package.resolve().parent
    return commit if is_own else None
