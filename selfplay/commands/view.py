"""`selfplay view`: the page that shows runs in a browser."""

from __future__ import annotations

import contextlib
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.errors import UserError
from selfplay.run_reader import find_run

if TYPE_CHECKING:
    from selfplay.view.server import Server

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "the transcript page: read, filter, compare and label in a browser"
USAGE = """
selfplay view [RUN ...] [key=value ...]

Show runs on a page in the browser.  The server reads run folders and nothing else: it works without a network, while a
run is being written, and after it was killed.  Labels and tags are added to the run's folder.

  RUN             a path, or a name under runs/; the page opens with it.  Nothing: with the newest run
  port=8600       where to listen; without it the first free port from 8600 on
  host=127.0.0.1  only this machine; any other address needs token=
  token=WORDS     who opens the page must know it: at least 8 letters and digits
  runs=FOLDER     where run folders are looked up (default: runs)
  open=true       open the browser as well

Examples:
  selfplay view
  selfplay view chat port=9000
  selfplay view host=0.0.0.0 token=correct-horse-battery
"""


class ViewSettings(Settings):
    """What `view` accepts besides the runs."""

    port: int | None = Field(default=None, ge=0, le=65535)  # None: the first free one from 8600 on; 0: any free one
    host: str = Field(default="127.0.0.1", min_length=1)
    token: str | None = None  # None: none is asked for
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")
    open: bool = False  # also open the browser


def run(line: CommandLine) -> int:
    """Serve until Ctrl-C; return 0."""
    settings = resolve(ViewSettings, line.settings)
    folders = [find_run(word, settings.runs) for word in line.names]
    server = _open_server(settings, folders)
    print(f"the page is at {server.first_url} (Ctrl-C ends it)", flush=True)
    if settings.open:
        webbrowser.open(server.first_url)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_here()
    return 0


def _open_server(settings: ViewSettings, folders: list[Path]) -> Server:
    try:
        from selfplay.view.server import open_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "anyio"):
            raise
        raise UserError(f"the page needs {error.name}: pip install starlette uvicorn") from error
    return open_server(settings.runs, folders, host=settings.host, port=settings.port, token=settings.token)
