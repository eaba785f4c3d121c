"""Turns from a person at the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from selfplay.dialog import clean_text
from selfplay.errors import UserError
from selfplay.interfaces import Completion, Request, Weights

QUIT = "/quit"


class HumanGenerator:
    """Asks a person for one turn a step; before a role's first turn the person is shown the role's brief.

    Reading and writing are given from outside, so that whoever owns the terminal decides how text appears on it.
    """

    def __init__(self, *, write: Callable[[str], None], read: Callable[[str], str] = input) -> None:
        self._write = write  # shows one message
        self._read = read  # shows a prompt and returns a line; EOFError: there are no more
        self._queue: deque[Request] = deque()

    def submit(self, request: Request) -> None:
        """Queue a turn."""
        self._queue.append(request)

    def step(self) -> list[Completion]:
        """Ask for the oldest queued turn and wait for the person."""
        if not self._queue:
            return []
        request = self._queue.popleft()
        self._show_brief(request)
        text = self._ask(request.role)
        if text is None:
            return [Completion(request=request, leaves=True)]
        return [Completion(request=request, text=text, finish="text")]

    def close(self, stream: str) -> None:
        """Drop what the stream has queued."""
        self._queue = deque(request for request in self._queue if request.stream != stream)

    def load(self, policy: str, weights: Weights) -> None:
        """Refuse: raises UserError."""
        raise UserError(f"policy {policy!r} is a human, and humans have no weights to load (version {weights.version})")

    def _show_brief(self, request: Request) -> None:
        player = request.conversation.players.get(request.role)
        if player is not None and player.brief and not request.conversation.turns_of(request.role):
            self._write(f"You are {request.role}. {player.brief}")

    def _ask(self, role: str) -> str | None:
        while True:
            try:
                text = clean_text(self._read(f"{role}> ")).strip()
            except EOFError:
                return None
            if text == QUIT:
                return None
            if text:
                return text
