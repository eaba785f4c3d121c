"""How a run comes by Ray: it starts one on this machine, or joins a cluster."""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from selfplay import models
from selfplay.cluster.ray_environment import start_here
from selfplay.cluster.ray_failures import essence
from selfplay.errors import UserError

QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
CONNECT_SECONDS = 10.0
PACKAGES = ("selfplay", "envs", "rewards")  # what other machines get of us: no run, no cache, no repository
EXCLUDED = ("__pycache__", "*.pyc")


def connect(address: str, say: Callable[[str], None]) -> bool:
    """Start Ray on this machine, or join a cluster; return whether Ray is ours to shut down.

    address: as in ray.address; "" starts Ray.  A process that has Ray already keeps it.
    Raises UserError if Ray does not come up, or if there is no cluster at the address.
    """
    if ray.is_initialized():
        return False
    with _own_signals():
        if not address:
            say("starting Ray on this machine")
            start_here(lambda: ray.init(num_cpus=models.num_cores(), include_dashboard=False, **QUIET))
        else:
            _join(address, say)
    return True


def _join(address: str, say: Callable[[str], None]) -> None:
    _check_address(address)
    say(f"joining the Ray cluster at {address}")
    packages = [str(_folder_of(name)) for name in PACKAGES]
    environment = {"py_modules": packages, "excludes": list(EXCLUDED)}
    try:
        ray.init(address=address, runtime_env=environment, **QUIET)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"ray.address={address}: there is no Ray cluster to join ({essence(error)}); one that is protected by a "
            "token wants RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN here too"
        ) from error


def _check_address(address: str) -> None:
    """Raise UserError if nobody answers at HOST:PORT: Ray itself would wait for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"ray.address={address}: must be auto, or HOST:PORT such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"ray.address={address}: nobody answers there: {error}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of who started the run: Ray puts its own in the place of SIGTERM's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder_of(package: str) -> Path:
    return Path(str(importlib.import_module(package).__file__)).parent
