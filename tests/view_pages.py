"""A transcript server and a headless browser, for tests of what people see."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A browser of the tests' own: no sandbox, for tests often run as root; no requests of its own.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MUST_HAVE = "SELFPLAY_TESTS_NEED_BROWSER"  # set: a missing browser is a failure


def need_chromium() -> str:
    """Return the path of Chromium; without it the test is skipped, or fails where a browser must be there."""
    if CHROMIUM is None:
        if os.environ.get(MUST_HAVE):
            pytest.fail(f"{MUST_HAVE} is set, and there is no chromium on the PATH")
        pytest.skip("no chromium on the PATH")
    return CHROMIUM


@contextlib.contextmanager
def serving(runs: Path, folders: Sequence[Path] = ()) -> Iterator[str]:
    """Serve a folder of runs from a thread; yield the address."""
    import uvicorn

    from selfplay.view.server import create_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = create_app(runs, folders, port=port)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@dataclass
class Watched:
    """A page, with everything it complained of or asked from anywhere."""

    page: Any
    address: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, path: str) -> Any:
        self.page.goto(self.address + path)
        return self.page

    @property
    def asked_elsewhere(self) -> list[str]:
        own = (self.address, "data:", "blob:", "about:", "file:")
        return [url for url in self.asked if not url.startswith(own)]


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Start a browser, for as many windows as a module of tests opens."""
    from playwright.sync_api import sync_playwright

    path = need_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def watching(browser: Any, address: str, **settings: Any) -> Iterator[Watched]:
    """Open a fresh window that notes console errors, exceptions, dialogs and requests; it shares nothing with others.

    settings: as `browser.new_context` has them.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    page = context.new_page()
    page.set_default_timeout(15_000)
    watched = Watched(page=page, address=address)
    page.on("console", lambda message: watched.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (watched.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    context.on("request", lambda request: watched.asked.append(request.url))
    try:
        yield watched
    finally:
        context.close()


@contextlib.contextmanager
def browsing(address: str, **settings: Any) -> Iterator[Watched]:
    """Open one window of a browser of its own, as `watching` does."""
    with open_browser() as browser, watching(browser, address, **settings) as watched:
        yield watched
