"""Turns from a person at the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from selfplay.dialog import clean_text
from selfplay.errors import UserError
from selfplay.interfaces import Completion, Request, Weights

QUIT = "/quit"


class HumanGenerator:
    """Asks a person for one turn a step; before the first of a stream the person is shown the role's brief.

    What the role heard is shown where it is not just the turn before, which is on the screen already.

    Reading and writing are given from outside, so that whoever owns the terminal decides how text appears on it.
    """

    def __init__(self, *, write: Callable[[str], None], read: Callable[[str], str] = input) -> None:
        self._write = write  # shows one message
        self._read = read  # shows a prompt and returns a line; EOFError: there are no more
        self._queue: deque[Request] = deque()
        self._briefed: set[str] = set()  # streams whose person knows the brief

    def submit(self, request: Request) -> None:
        """Queue a turn."""
        self._queue.append(request)

    def step(self) -> list[Completion]:
        """Ask for the oldest queued turn and wait for the person."""
        if not self._queue:
            return []
        request = self._queue.popleft()
        self._show_brief(request)
        self._show_heard(request)
        text = self._ask(request.role)
        if text is None:
            return [Completion(request=request, leaves=True)]
        return [Completion(request=request, text=text, finish="text")]

    def close(self, stream: str) -> None:
        """Drop what the stream has queued, and forget that its person was briefed."""
        self._briefed.discard(stream)
        self._queue = deque(request for request in self._queue if request.stream != stream)

    def load(self, policy: str, weights: Weights) -> None:
        """Refuse: raises UserError."""
        raise UserError(f"policy {policy!r} is a human, and humans have no weights to load (version {weights.version})")

    def _show_brief(self, request: Request) -> None:
        if request.stream in self._briefed:
            return
        self._briefed.add(request.stream)
        player = request.conversation.players.get(request.role)
        brief = f" {player.brief}" if player is not None and player.brief else ""
        self._write(f"You are {request.role}.{brief} ({QUIT} ends the conversation)")

    def _show_heard(self, request: Request) -> None:
        turns = request.conversation.turns
        if request.heard_text and not (turns and request.heard_text == turns[-1].text):
            self._write(request.heard_text)

    def _ask(self, role: str) -> str | None:
        while True:
            try:
                text = clean_text(self._read(f"{role}> ")).strip()
            except EOFError:
                return None
            except UnicodeDecodeError:
                self._write("That was not UTF-8 text; please say it again.")
                continue
            if text == QUIT:
                return None
            if text:
                return text
