"""What every benchmark needs: its words, the machine in one line, arms in turn, a table."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Row = Sequence[str]


def words(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the command line's key=value words over the defaults, each of its default's type.

    --help prints what the benchmark says of itself, its words among it, and ends.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print((sys.modules["__main__"].__doc__ or "").strip())
        raise SystemExit
    values = dict(defaults)
    for word in sys.argv[1:]:
        key, equals, text = word.partition("=")
        if not equals or key not in defaults:
            raise SystemExit(
                f"unknown word {word!r}; the words are {', '.join(f'{k}={v}' for k, v in defaults.items())}"
            )
        values[key] = type(defaults[key])(text)
    return values


def machine() -> str:
    """Return one line: processor, cores, threads, versions."""
    import transformers

    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return f"{model}, {cores} cores, {torch.get_num_threads()} threads, float32; {versions}"


def peak_gib() -> float:
    """Return this process's largest resident size so far, in GiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2**20 if sys.platform != "darwin" else kib / 2**30


def in_turn(arms: Mapping[str, Callable[[], float]], *, repeats: int) -> dict[str, list[float]]:
    """Call the arms in turn, A B A B ..., so that a machine that drifts drifts for all; return their numbers."""
    numbers: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            numbers[name].append(arm())
    return numbers


def run_alone(module: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run one arm in a process of its own, for its memory; the last line that it prints is JSON."""
    command = [sys.executable, "-m", module, *(f"{key}={value}" for key, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def alone_in_turn(
    module: str, arms: Sequence[str], settings: Mapping[str, Any], *, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Run arms, each in a process of its own, one at a time: A B A B ...; print each result, and return all."""
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(repeats):
        for arm in arms:
            results[arm].append(run_alone(module, {**settings, "arm": arm}))
            print(arm, json.dumps(results[arm][-1]), flush=True)
    return results


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the pairs' ratios, with the smallest and the largest."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(pairs):.2f}x ({min(pairs):.2f} to {max(pairs):.2f})"


def table(header: Row, rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
