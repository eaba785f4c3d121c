"""Telling pages that a run has grown: one look a second at a run that somebody watches, none at any other.

A look compares the sizes of the run's files; only where they changed is anything read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from selfplay.errors import UserError
from selfplay.run_lock import is_being_written
from selfplay.view.api import UNREADABLE, json_response
from selfplay.view.run_state import Signature, StateReader, signature_of
from selfplay.view.runs import OpenRun, Runs
from selfplay.view.safety import RequestError

__all__ = ["Events"]

LOOK_SECONDS = 1.0
PING_SECONDS = 15.0
GONE = b'event: gone\ndata: {"error":"the run is no longer there"}\n\n'
PING = b": ping\n\n"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen of a run."""

    signature: Signature
    is_complete: bool  # whether the index knew all of it
    news: dict[str, Any]  # the data of the event


class Watch:
    """One run that somebody watches, and who does."""

    def __init__(self) -> None:
        self.listeners: set[asyncio.Queue[bytes | None]] = set()  # None ends the stream
        self.message: bytes | None = None  # the newest event
        self.task: asyncio.Task[None] | None = None

    def tell(self, message: bytes | None) -> None:
        """Send an event to everybody; who is slow gets the newest only."""
        self.message = message
        for queue in self.listeners:
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(message)


class Events:
    """The streams of events, on the server's event loop."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._states = StateReader()
        self._watches: dict[str, Watch] = {}

    @property
    def num_watched(self) -> int:
        """How many runs are looked at once a second."""
        return len(self._watches)

    def routes(self) -> list[Route]:
        """Return what is answered where."""
        return [Route("/api/r/{run}/events", self.stream, methods=["GET"])]

    async def stream(self, request: Request) -> Any:
        """Answer with an event at once and after every change, until the reader leaves or the run is gone."""
        name = request.path_params["run"]
        try:
            await run_in_threadpool(self._runs.folder, name)
        except RequestError as error:
            return json_response({"error": str(error)}, status=error.status)
        return StreamingResponse(self._events(name), media_type="text/event-stream")

    def close(self) -> None:
        """End every stream, so that the server can end."""
        for watch in list(self._watches.values()):
            watch.tell(None)

    async def _events(self, name: str) -> AsyncIterator[bytes]:
        watch = self._watches.setdefault(name, Watch())
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=2)
        watch.listeners.add(queue)
        if watch.message is not None:
            queue.put_nowait(watch.message)
        if watch.task is None or watch.task.done():
            watch.task = asyncio.create_task(self._follow(name, watch))
        try:
            async for message in _until_end(queue):
                yield message
        finally:
            watch.listeners.discard(queue)
            if not watch.listeners:
                self._forget(name, watch)

    def _forget(self, name: str, watch: Watch) -> None:
        if watch.task is not None:
            watch.task.cancel()
        if self._watches.get(name) is watch:
            del self._watches[name]

    async def _follow(self, name: str, watch: Watch) -> None:
        """Look at a run until it is gone."""
        last: Look | None = None
        while True:
            look = last
            try:
                look = await run_in_threadpool(self._look, name, last)
            except RequestError:
                watch.tell(GONE)
                watch.tell(None)
                return
            except (UserError, *UNREADABLE) as error:
                # It is being replaced or removed: the next look says which.
                logger.debug("run %s cannot be read just now: %s", name, error)
            if look is not None and (last is None or look.news != last.news):
                watch.tell(b"event: changed\ndata: " + json.dumps(look.news).encode("ascii") + b"\n\n")
            last = look
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self, name: str, last: Look | None) -> Look:
        folder = self._runs.folder(name)
        signature = signature_of(folder)
        # A killed writer changes no file, but its lock is free.
        has_died = last is not None and last.news["is_live"] and not is_being_written(folder)
        if last is not None and last.is_complete and signature == last.signature and not has_died:
            return last
        run = self._runs.open(name)
        is_complete = run.refresh()
        return Look(signature=signature, is_complete=is_complete, news=self._news(run, is_complete=is_complete))

    def _news(self, run: OpenRun, *, is_complete: bool) -> dict[str, Any]:
        state = self._states.read(run.folder)
        with run.reading() as reader:
            num_alarms = len(reader.alarms())
        info = run.index.info()
        return {
            "conversations": info.conversations,
            "step": state.step,
            "status": state.status,
            "is_live": state.is_live,
            "since": state.since,
            "newest": info.newest,
            "alarms": num_alarms,
            "indexing": not is_complete,
        }


async def _until_end(queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    """Yield what the queue brings, and a ping where that is nothing for long; None ends it."""
    while True:
        message: bytes | None = PING
        with contextlib.suppress(TimeoutError):
            message = await asyncio.wait_for(queue.get(), PING_SECONDS)
        if message is None:
            return
        yield message
