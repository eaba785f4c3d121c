"""The server of the page: what it answers, and how it listens."""

from __future__ import annotations

import contextlib
import errno
import mimetypes
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from selfplay.errors import UserError
from selfplay.view.api import UNREADABLE, Api
from selfplay.view.events import Events
from selfplay.view.runs import Runs
from selfplay.view.safety import Guard, Policy
from selfplay.whole_files import reason

__all__ = ["Server", "create_app", "listen", "open_server"]

STATIC = Path(__file__).parent / "static"
USUAL_PORT = 8600
MOST_PORTS = 50  # tried, one after the other
BACKLOG = 128
# Windows may have other ideas of a script's type, and browsers refuse to run those.
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def create_app(
    runs: Path,
    folders: Sequence[Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = USUAL_PORT,
    token: str | None = None,
) -> Starlette:
    """Return the application that shows the runs of a folder, and the run folders that are named besides.

    host, port: where it will listen: it answers to these names only.
    Raises UserError if other machines could reach it without a token.
    """
    policy = Policy(host=host, port=port, token=token)
    shown = Runs(runs, folders)
    events = Events(shown)
    for ending, kind in TYPES.items():
        mimetypes.add_type(kind, ending)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        threading.Thread(target=_read_ahead, args=(shown,), daemon=True).start()
        yield

    app = Starlette(
        routes=[
            *events.routes(),
            *Api(shown).routes(),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
            Route("/{path:path}", _page, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, policy=policy)],
        lifespan=lifespan,
    )
    app.state.events = events
    app.state.policy = policy
    app.state.runs = shown
    return app


def listen(host: str, port: int | None = None) -> socket.socket:
    """Return a socket that listens: at the port, or without one at the first free port from the usual one on.

    Raises UserError if the address is not this machine's, or the port is taken.
    """
    if port is not None:
        return _bind(host, port)
    for number in range(USUAL_PORT, USUAL_PORT + MOST_PORTS):
        with contextlib.suppress(_TakenError):
            return _bind(host, number)
    raise UserError(f"the ports {USUAL_PORT} to {USUAL_PORT + MOST_PORTS - 1} are all taken; choose another: port=9000")


class Server(uvicorn.Server):
    """Serves until Ctrl-C, quietly; streams of events end with it."""

    def __init__(self, app: Starlette, place: socket.socket) -> None:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=2
        )
        super().__init__(config)
        self._events: Events = app.state.events
        self._place = place
        self._runs: Runs = app.state.runs
        self._policy: Policy = app.state.policy
        self.url = self._policy.url  # what to type into a browser on this machine

    @property
    def first_url(self) -> str:
        """The same for the run to begin with: the first that was named, else the newest; all runs if there is none."""
        newest = self._runs.newest()
        return self.url if newest is None else self._policy.url_of(f"/r/{quote(newest, safe='')}")

    def serve_here(self) -> None:
        """Serve until Ctrl-C, which raises KeyboardInterrupt, or until `should_exit` is set."""
        self.run(sockets=[self._place])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then everything else."""
        self._events.close()
        await super().shutdown(sockets)


def open_server(
    runs: Path,
    folders: Sequence[Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
) -> Server:
    """Return a server that listens already; the arguments are those of `create_app` and `listen`."""
    Policy(host=host, port=0, token=token)  # an address that may not be: before it listens there
    place = listen(host, port)
    try:
        app = create_app(runs, folders, host=host, port=place.getsockname()[1], token=token)
    except BaseException:
        place.close()
        raise
    return Server(app, place)


class _TakenError(UserError):
    """Somebody listens there already."""


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without this a port stays taken for a minute after the server ended.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        found.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise _TakenError(f"port={port} is taken on {host}; choose another, or leave port= out") from error
        raise UserError(f"cannot listen at host={host} port={port}: {reason(error)}") from error
    return found


def _page(request: Request) -> Response:
    """Answer with the page: which part of it is shown, the page itself finds out."""
    if not (STATIC / "index.html").is_file():
        return PlainTextResponse("the files of the page are missing; install the package again\n", status_code=404)
    return FileResponse(STATIC / "index.html", media_type="text/html")


def _read_ahead(runs: Runs) -> None:
    """Index the run that will be looked at first, while the browser starts."""
    name = runs.newest()
    if name is not None:
        with contextlib.suppress(UserError, *UNREADABLE):
            runs.open(name).refresh()
