"""How much memory training takes, all its processes together, at the sizes of the `chat` preset (Linux only).

    python -m benchmarks.memory [steps=2] [arms=lora,full] [clusters=ray,local] [preset=chat]

Each arm is `train` without evaluations, in processes of its own, Ray's included.  Every half second the proportional
set sizes of all of them are added up: a page that several share counts once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import machine, table, words

DEFAULTS = {"steps": 2, "arms": "lora,full", "clusters": "ray,local", "preset": "chat"}
HEADER = ("method", "cluster", "peak GiB", "largest process GiB", "processes", "s")
EVERY_SECONDS = 0.5
START = "import sys; from selfplay.commands import main; sys.exit(main())"


def main() -> None:
    """Measure and print the table."""
    chosen = words(DEFAULTS)
    print(machine())
    rows = [
        [arm, cluster, *_measure(chosen, arm, cluster)]
        for arm in chosen["arms"].split(",")
        for cluster in chosen["clusters"].split(",")
    ]
    print(table(HEADER, rows))


def _measure(chosen: dict[str, str | int], arm: str, cluster: str) -> list[str]:
    with tempfile.TemporaryDirectory() as place:
        settings = (f"learner.method={arm}", f"cluster={cluster}", "evaluation.conversations=0", f"out={place}/run")
        command = [
            sys.executable,
            "-c",
            START,
            "train",
            f"preset={chosen['preset']}",
            f"steps={chosen['steps']}",
            *settings,
        ]
        start = time.perf_counter()
        log = Path(place) / "log"
        with log.open("w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, cwd=Path(__file__).parents[1])
            peak, largest, num = 0.0, 0.0, 0
            while process.poll() is None:
                sizes = [_proportional_gib(pid) for pid in _tree(process.pid)]
                if sum(sizes) > peak:
                    peak, largest, num = sum(sizes), max(sizes), len(sizes)
                time.sleep(EVERY_SECONDS)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()}")
    return [f"{peak:.2f}", f"{largest:.2f}", str(num), f"{time.perf_counter() - start:.0f}"]


def _tree(root: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name, in parentheses, may hold anything; the parent stands second behind it.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += [child for child, parent in parents.items() if parent == pid]


def _proportional_gib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has gone
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**20


if __name__ == "__main__":
    if not os.path.exists("/proc/self/smaps_rollup"):
        raise SystemExit("benchmarks.memory reads /proc, so it runs on Linux only")
    main()
