"""What a training run tells the person who watches it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from selfplay.dialog import Conversation

__all__ = ["Screen", "Silence"]


class Screen(Protocol):
    """Where a person sees how far a run is."""

    def say(self, text: str) -> None:
        """Show one line."""
        ...

    def start_step(self, step: int, version: int) -> None:
        """A step begins to be played."""
        ...

    def doing(self, what: str, *, conversations: int = 0) -> None:
        """Something other than a step begins, such as "evaluating"."""
        ...

    def conversation(self, conversation: Conversation) -> None:
        """A conversation has ended."""
        ...

    def learning(self) -> None:
        """The learner works."""
        ...

    def end_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is over."""
        ...


class Silence:
    """A screen that shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def start_step(self, step: int, version: int) -> None:
        """Show nothing."""

    def doing(self, what: str, *, conversations: int = 0) -> None:
        """Show nothing."""

    def conversation(self, conversation: Conversation) -> None:
        """Show nothing."""

    def learning(self) -> None:
        """Show nothing."""

    def end_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""
