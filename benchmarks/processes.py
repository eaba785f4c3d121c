"""What other processes hold in memory (Linux only)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

# VmHWM: the largest resident size so far; VmRSS: the resident size; RssAnon: without files and shared memory.
Kind = Literal["VmHWM", "VmRSS", "RssAnon"]


def memory_gib(pid: int, kind: Kind) -> float:
    """Return one of a process's sizes in GiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, size = line.partition(":")
        if name == kind:
            return int(size.split()[0]) / 2**20
    raise ValueError(f"process {pid} has no {kind}")


def has_torch(pid: int) -> bool:
    """Whether a process has loaded torch."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
