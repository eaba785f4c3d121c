"""Turns from an environment's own players: its script, and chance; neither needs a model."""

from __future__ import annotations

from collections.abc import Callable

from selfplay.dialog import Conversation, clean_text
from selfplay.errors import UserError
from selfplay.interfaces import Completion, Env, Game, Request, Weights

Speak = Callable[[Conversation, str], str]  # (conversation, role) -> the role's next message


class ScriptedGenerator:
    """Answers every request with the environment's scripted player; one step answers all that is queued, in order."""

    def __init__(self, env: Env) -> None:
        self._speak: Speak = env.scripted
        self._queue: list[Request] = []

    def submit(self, request: Request) -> None:
        """Queue a turn."""
        self._queue.append(request)

    def step(self) -> list[Completion]:
        """Answer all queued requests."""
        queue, self._queue = self._queue, []
        return [self._answer(request) for request in queue]

    def close(self, stream: str) -> None:
        """Drop what the stream has queued; a script remembers nothing else."""
        self._queue = [request for request in self._queue if request.stream != stream]

    def load(self, policy: str, weights: Weights) -> None:
        """Refuse: raises UserError."""
        raise UserError(
            f"policy {policy!r} is a script, and scripts have no weights to load (version {weights.version})"
        )

    def _answer(self, request: Request) -> Completion:
        try:
            text = clean_text(self._speak(request.conversation, request.role))
        except Exception as error:  # noqa: BLE001 - one broken player must not end the other conversations
            return Completion(request=request, error=" ".join(f"{type(error).__name__}: {error}".split()))
        return Completion(request=request, text=text, finish="text")


class ChanceGenerator(ScriptedGenerator):
    """Answers every request with the game's player that knows the form and nothing else."""

    def __init__(self, env: Env) -> None:
        """Raise UserError if the environment has no such player."""
        super().__init__(env)
        if not isinstance(env, Game):
            raise UserError(
                f"env {env.name!r} has no player by chance, for it has no ground truth; use scripted, or a model"
            )
        self._speak = env.chance
