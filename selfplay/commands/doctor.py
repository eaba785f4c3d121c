"""`selfplay doctor`: what is installed here, and what to type next."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from selfplay import models
from selfplay.commands.words import CommandLine, program_name
from selfplay.errors import UserError

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "what is installed here, and what to type next"
USAGE = """
selfplay doctor [--json]

Report what is installed, which device and how many threads a model would use, the free memory and disk, which models
are ready, and the next command to type.  Exits with 1 if something that is needed is missing.

  --json   print the same as JSON
"""
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "rich")
NEEDED_TO_FETCH = ("accelerate", "gguf")


def run(line: CommandLine) -> int:
    """Print the report."""
    if line.words:
        raise UserError(f"doctor takes no words, only --json; {line.words[0]!r} is one too many")
    report = _report()
    if line.as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)
    return 1 if report["problems"] else 0


def _report() -> dict[str, Any]:
    packages = {name: _version(name) for name in (*NEEDED, *NEEDED_TO_FETCH)}
    compute = _compute() if packages["torch"] else {"error": "torch is not installed"}
    ready = {name: models.is_ready(name) for name in models.MODELS}
    has_pip = importlib.util.find_spec("pip") is not None
    cache = models.cache_folder()
    report: dict[str, Any] = {
        "selfplay": _version("selfplay-dialog") or "from a checkout",
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "compute": compute,
        "free_memory_gb": _free_memory_gb(),
        "free_disk_gb": {"here": _free_disk_gb(Path.cwd()), "cache": _free_disk_gb(cache)},
        "cache": str(cache),
        "models_ready": ready,
        "pip": has_pip,
    }
    report["problems"] = _problems(report)
    report["next"] = _next_command(report)
    return report


def _problems(report: dict[str, Any]) -> list[str]:
    missing = [name for name in NEEDED if report["packages"][name] is None]
    problems = [f"not installed: {', '.join(missing)}; run pip install -e ."] if missing else []
    if "error" in report["compute"]:
        problems.append(report["compute"]["error"])
    waiting = [name for name, is_ready in report["models_ready"].items() if not is_ready]
    if waiting and not report["pip"]:
        problems.append(f"{', '.join(waiting)} can only be fetched with pip: run {sys.executable} -m ensurepip")
    unpacking = [name for name in NEEDED_TO_FETCH if report["packages"][name] is None]
    if waiting and unpacking:
        problems.append(f"{', '.join(waiting)} can only be converted with {', '.join(unpacking)}: pip install them")
    needed_gb = models.NEEDED_DISK_BYTES / 1e9
    if waiting and report["free_disk_gb"]["cache"] < needed_gb:
        problems.append(f"{', '.join(waiting)} needs {needed_gb:.1f} GB of disk while it is prepared")
    return problems


def _next_command(report: dict[str, Any]) -> str:
    if not all(report["models_ready"].values()) and report["problems"]:
        return f"{program_name()} train preset=tiny"
    return f"{program_name()} train"


def _compute() -> dict[str, Any]:
    cores = models.num_cores()
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"error": f"torch cannot be imported: {error}"}
    found: dict[str, Any] = {"device": "cpu", "dtype": "float32", "cores": cores, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        free_bytes, _ = torch.cuda.mem_get_info()
        name, free_gb = torch.cuda.get_device_name(), round(free_bytes / 1e9, 1)
        found |= {"device": "cuda", "dtype": "bfloat16", "gpu": name, "free_gpu_memory_gb": free_gb}
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _free_memory_gb() -> float | None:
    """Return the memory that can be had without swapping; None: this system does not say."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text(encoding="ascii").splitlines() if meminfo.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return round(kilobytes[0] * 1024 / 1e9, 1) if kilobytes else None


def _free_disk_gb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return round(shutil.disk_usage(folder).free / 1e9, 1)


def _print_report(report: dict[str, Any]) -> None:
    compute, disk = report["compute"], report["free_disk_gb"]
    memory = "unknown" if report["free_memory_gb"] is None else f"{report['free_memory_gb']} GB free"
    versions = ", ".join(f"{name} {version or 'MISSING'}" for name, version in report["packages"].items())
    ready = ", ".join(
        f"{name} ({'ready' if is_ready else 'not yet'})" for name, is_ready in report["models_ready"].items()
    )
    rows = {
        "selfplay": report["selfplay"],
        "python": report["python"],
        "system": report["system"],
        "packages": versions,
        "device": _device_line(compute),
        "memory": memory,
        "disk": f"{disk['here']} GB free here, {disk['cache']} GB free in the cache {report['cache']}",
        "models": ready,
        "pip": "available" if report["pip"] else "MISSING",
    }
    for name, value in rows.items():
        print(f"{name:<10}{value}")
    for problem in report["problems"]:
        print(f"{'problem':<10}{problem}")
    print(f"{'next':<10}{report['next']}")


def _device_line(compute: dict[str, Any]) -> str:
    if "error" in compute:
        return str(compute["error"])
    line = f"{compute['device']}, {compute['dtype']}, {compute['threads']} threads on {compute['cores']} cores"
    return line if "gpu" not in compute else f"{line}, {compute['gpu']} ({compute['free_gpu_memory_gb']} GB free)"
