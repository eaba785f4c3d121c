"""The transcript page with many conversations: how long it takes, and what it costs.

    python -m benchmarks.view [conversations=50000] [folder=OUT] [minutes=5] [requests=300]

Without folder= the run is written in a temporary folder, which takes longer than everything else; a folder that holds
a run is used as it is, and 100 conversations are added to it.  Prints a Markdown table.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, table, words
from benchmarks.stored_run import write_run
from selfplay.run_folder import is_run
from selfplay.transcript_index import TranscriptIndex

DEFAULTS = {"conversations": 50_000, "folder": "", "minutes": 5.0, "requests": 300}
ROOT = Path(__file__).parent.parent
STATIC = ROOT / "selfplay" / "view" / "static"
NUM_NEW = 100
NUM_LS = 5
WAIT_SECONDS = 60
MIB, KB = 2**20, 1000
# What somebody looks for; each with every order below, so that hardly any list was sorted before.
QUERIES = (
    *("", "reward<0", 'text~"sorry"', "the", "!the", "split=held_out", "reason=turn_limit & turns>4", "flag=cut"),
    *("step=3", "reward.question>0.5 & value.sentiment<0", "about~music", "kl>0.1 | kl=null", "status=failed"),
    *("version=0 & sorry", "ab", "surprise>1"),
)
ORDERS = ("newest", "oldest", "reward", "reward.question", "value.sentiment", "advantage", "kl", "turns", "surprise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A page server of its own process."""

    address: str
    pid: int
    run: str

    def get(self, path: str, **query: Any) -> Any:
        """Return what the server answers, and take the time it takes."""
        encoded = urllib.parse.urlencode(query)
        place = f"{self.address}/api/r/{urllib.parse.quote(self.run)}{path}?{encoded}"
        with urllib.request.urlopen(place, timeout=WAIT_SECONDS) as answer:
            return json.loads(answer.read())


def main() -> None:
    """Measure and print."""
    settings = words(DEFAULTS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(settings["folder"] or Path(temporary) / "run")
        if not is_run(folder):
            write_run(folder, conversations=settings["conversations"])
        rows = [*_indexing(folder, Path(temporary)), *_listing(folder)]
        with _server(folder) as server:
            rows += [*_answers(server, num=settings["requests"]), *_costs(server, minutes=settings["minutes"])]
    # offline.js is what an exported file has instead of the server; the page never asks for it.
    sizes = {path.name: path.stat().st_size for path in STATIC.glob("*.js") if path.name != "offline.js"}
    seldom = sizes.pop("contests.js")
    rows.append(("the page's own JavaScript", f"{sum(sizes.values()) / KB:.0f} kB", "100 kB"))
    rows.append(("what it loads besides for a league or a tournament", f"{seldom / KB:.0f} kB", "-"))
    print(f"{machine()}\n")
    print(table(("what", "measured", "at most"), rows))


def _indexing(folder: Path, temporary: Path) -> Iterator[tuple[str, str, str]]:
    index = TranscriptIndex(folder, file=temporary / "index.sqlite")
    first = _seconds(index.refresh)
    num = index.info().conversations
    yield f"first index of {num:,} conversations", f"{first:.1f} s", "60 s"
    _add_conversations(folder)
    yield f"index of {NUM_NEW} more", f"{1000 * _seconds(index.refresh):.0f} ms", ""
    assert index.info().conversations == num + NUM_NEW, index.problems
    size = (temporary / "index.sqlite").stat().st_size
    stored = sum(path.stat().st_size for path in folder.glob("*/*.jsonl"))
    yield "size of the index", f"{size / MIB:.0f} MiB, of the run {stored / MIB:.0f} MiB", ""
    index.close()


def _add_conversations(folder: Path) -> None:
    """Add conversations that were there already, under ids that were not."""
    path = folder / "conversations" / "train-000.jsonl"
    with path.open("rb") as file:
        lines = [file.readline() for _ in range(NUM_NEW)]
    index = int(time.time())  # another one each time
    with path.open("ab") as file:
        for number, line in enumerate(lines):
            id = f"000000-n{number:02d}-{index}"
            file.write(json.dumps({**json.loads(line), "id": id}).encode("ascii") + b"\n")


def _listing(folder: Path) -> Iterator[tuple[str, str, str]]:
    command = [sys.executable, str(ROOT / "run.py"), "ls", str(folder)]
    subprocess.run(command, check=True, capture_output=True)  # the index is made, or brought up to date
    seconds = [_seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(NUM_LS)]
    yield "`ls RUN`", f"{np.median(seconds):.2f} s", "1.5 s"


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Server]:
    command = [sys.executable, str(ROOT / "run.py"), "view", str(folder), "port=0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)
        address = "http://" + line.partition("http://")[2].split("/")[0]
        with urllib.request.urlopen(f"{address}/api/runs", timeout=WAIT_SECONDS) as answer:
            run = json.loads(answer.read())["default"]
        yield Server(address=address, pid=process.pid, run=run)
    finally:
        process.terminate()
        process.wait()


def _answers(server: Server, *, num: int) -> Iterator[tuple[str, str, str]]:
    draw = random.Random(0)
    total = server.get("/conversations", limit=1)["total"]
    asked: list[dict[str, object]] = [{"q": query, "sort": order} for query in QUERIES for order in ORDERS]
    asked += [{"q": query, "sort": "reward", "by_scenario": 1} for query in QUERIES]
    draw.shuffle(asked)
    asked = (asked * (1 + num // len(asked)))[:num]
    lists = [_seconds(lambda one=one: server.get("/conversations", limit=100, **one)) for one in asked]
    yield f"list page, 95th percentile of {num}", f"{1000 * np.quantile(lists, 0.95):.0f} ms", "300 ms"
    scrolled = [
        _seconds(lambda: server.get("/conversations", sort="reward", offset=draw.randrange(total), limit=100))
        for _ in range(num)
    ]
    yield "list page while scrolling, 95th percentile", f"{1000 * np.quantile(scrolled, 0.95):.0f} ms", "300 ms"
    pages = [server.get("/conversations", offset=draw.randrange(total), limit=1)["rows"][0][0] for _ in range(num)]
    one = [_seconds(lambda id=id: _open_conversation(server, id)) for id in pages]
    yield f"conversation with tokens, 95th percentile of {num}", f"{1000 * np.quantile(one, 0.95):.0f} ms", "150 ms"


def _open_conversation(server: Server, id: str) -> None:
    if server.get(f"/c/{id}")["has_tokens"]:
        server.get(f"/c/{id}/tokens")


def _costs(server: Server, *, minutes: float) -> Iterator[tuple[str, str, str]]:
    peak, now = (_memory(server.pid, name) for name in ("VmHWM", "VmRSS"))
    yield "server's memory after all that", f"{now:.0f} MiB, {peak:.0f} MiB at most", "300 MiB"
    with _listener(server):
        time.sleep(2)
        before = _cpu_seconds(server.pid)
        time.sleep(60 * minutes)
        share = (_cpu_seconds(server.pid) - before) / (60 * minutes)
    yield f"CPU of the server that only waits for news, over {minutes:g} minutes", f"{share:.2%} of one core", "3%"


@contextlib.contextmanager
def _listener(server: Server) -> Iterator[None]:
    """Listen for news, as an open page does, so that the server looks for them."""
    place = f"{server.address}/api/r/{urllib.parse.quote(server.run)}/events"
    answer = urllib.request.urlopen(place, timeout=WAIT_SECONDS)
    thread = threading.Thread(target=_read_all, args=(answer,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        answer.close()


def _read_all(answer: Any) -> None:
    # Closing it from the other thread ends the loop, one way or another.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        for _ in answer:
            pass


def _memory(pid: int, name: str) -> float:
    """Return a line of a process's status, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
