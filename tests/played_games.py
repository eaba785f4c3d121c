"""Games that are played to their end without a model, for tests of games."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.interfaces import Env, Game


def played(env: Env, scenario: Scenario, speak: Callable[[Conversation, str], str]) -> Conversation:
    """Return a whole game; speak: is asked for the next text of a role."""
    conversation = Conversation(id="000000-g00-0", scenario=scenario)
    while (role := env.next_role(conversation)) is not None:
        heard = env.hears(conversation, role)
        turn = Turn(role=role, text=speak(conversation, role), heard_text=heard, player="human")
        conversation = Conversation(id=conversation.id, scenario=scenario, turns=(*conversation.turns, turn))
    return conversation


def by_chance(env: Game, scenario: Scenario) -> Conversation:
    return played(env, scenario, env.chance)


def recited(env: Env, scenario: Scenario, texts: Sequence[str]) -> Conversation:
    """Return a game of these texts; a game that asks for more of them raises IndexError."""
    return played(env, scenario, lambda conversation, role: texts[conversation.num_turns])
