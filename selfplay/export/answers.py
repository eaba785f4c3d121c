"""What the page's server would answer, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette

from selfplay.errors import UserError
from selfplay.view.describe import plain
from selfplay.view.server import create_app

__all__ = ["Answers"]

HOST, PORT = "127.0.0.1", 8600


class Answers:
    """Asks the page's own application about one run folder, in this process."""

    def __init__(self, folder: Path) -> None:
        self._app: Starlette = create_app(folder.parent / ".no-other-runs", [folder], host=HOST, port=PORT)
        self.run: str = self.get("/api/runs")["runs"][0]["run"]

    def get(self, path: str) -> Any:
        """Return the answer to a path and its query; raises UserError with the application's own sentence."""
        status, body = asyncio.run(self._ask(path))
        answer = json.loads(body) if body else None
        if status != 200:
            raise UserError(answer["error"] if isinstance(answer, dict) and "error" in answer else f"{path}: {status}")
        return answer

    def plain(self, record: Any) -> Any:
        """Return a record as JSON holds it."""
        return plain(record)

    async def _ask(self, path: str) -> tuple[int, bytes]:
        place, _, query = path.partition("?")
        status, body = 500, b""

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": unquote(place),
            "raw_path": place.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": [(b"host", f"{HOST}:{PORT}".encode("ascii"))],
            "client": (HOST, 0),
            "server": (HOST, PORT),
        }
        await self._app(scope, receive, send)
        return status, body
