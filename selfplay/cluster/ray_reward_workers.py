"""The reward workers of a Ray cluster as the driver knows them: what they were asked, and who died."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

from selfplay.cluster.ray_actors import Place, RewardActor, reserving
from selfplay.cluster.ray_failures import DEAD, MAX_LOSSES, as_user_error, essence, fetch
from selfplay.cluster.ray_objects import Sent
from selfplay.cluster.resources import Ask
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.score import Parts, WeightedReward, parts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What a reward worker was asked."""

    conversations: list[Conversation]
    names: list[str]  # of the rewards
    actor: Any
    handle: Any  # of the answer


class RewardWorkers:
    """Asks reward actors about conversations; one that dies is replaced, and what it was asked is asked again."""

    def __init__(
        self, rewards: Sequence[WeightedReward], ask: Ask, *, timeout_seconds: float, say: Callable[[str], None]
    ) -> None:
        """Remember how many there are to be and what they score with; `place` starts them.

        rewards: those that play workers do not score with; timeout_seconds: of one call.
        """
        self.num_replaced = 0
        self._one_each = [weighted.name for weighted in rewards if weighted.scope == "conversation"]
        self._together = [weighted for weighted in rewards if weighted.scope != "conversation"]
        self._sent = Sent.of(list(rewards))
        self._ask_for = ask
        self._timeout_seconds = timeout_seconds
        self._say = say
        self._actors: list[Any] = []
        self._next = 0
        self._asked: dict[str, _Question] = {}  # of the rewards that look at one conversation, by its id

    def place(self) -> None:
        """Place all of them."""
        self._actors = [self._new_actor() for _ in range(self._ask_for.count)]

    def places(self) -> list[Place]:
        """Return where they run."""
        found: list[Place] = fetch([actor.start.remote() for actor in self._actors])
        return found

    def begin(self, conversation: Conversation) -> None:
        """Ask for what can be said of this conversation by itself; `parts` takes the answer."""
        if self._one_each:
            self._asked[conversation.id] = self._ask([conversation], self._one_each)

    def parts(self, conversations: Sequence[Conversation]) -> list[list[Parts]]:
        """Return what the rewards say of conversations that all were begun: lists to be merged, in their order."""
        found = []
        if self._one_each:
            found.append([self._answer(self._asked.pop(conversation.id)) for conversation in conversations])
        if self._together:
            found.append(self._compare(list(conversations)))
        return found

    def close(self) -> None:
        """End them."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _compare(self, conversations: list[Conversation]) -> list[Parts]:
        """Score what needs several conversations at once: whole groups, or the whole step."""
        if self._actors:
            return self._answers(self._ask(conversations, [weighted.name for weighted in self._together]))
        return parts_of(conversations, self._together, timeout_seconds=self._timeout_seconds)

    def _ask(self, conversations: list[Conversation], names: list[str]) -> _Question:
        assert self._actors, "a slow reward has at least one worker"
        actor = self._actors[self._next % len(self._actors)]
        self._next += 1
        handle = actor.parts.remote(conversations, names)
        return _Question(conversations=conversations, names=names, actor=actor, handle=handle)

    def _answer(self, asked: _Question) -> Parts:
        [parts] = self._answers(asked)
        return parts

    def _answers(self, asked: _Question) -> list[Parts]:
        why = ""
        for _ in range(MAX_LOSSES):
            try:
                found: list[Parts] = ray.get(asked.handle)
            except DEAD as error:
                why = essence(error)
                if asked.actor in self._actors:
                    self.num_replaced += 1
                    self._say("a reward worker died; what it was asked is asked again")
                    self._actors[self._actors.index(asked.actor)] = self._new_actor()
                asked = self._ask(asked.conversations, asked.names)
            except RayTaskError as error:
                raise as_user_error(error) from error
            else:
                return found
        raise UserError(f"{MAX_LOSSES} reward workers died on conversation {asked.conversations[0].id}: {why}")

    def _new_actor(self) -> Any:
        ask = self._ask_for
        return reserving(RewardActor, ask).remote(self._sent, self._timeout_seconds, ask.threads)
