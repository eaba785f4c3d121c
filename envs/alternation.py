"""Two roles that take turns, and hear what the other said."""

from __future__ import annotations

from selfplay.dialog import Conversation, Scenario


def whose_turn(conversation: Conversation) -> str:
    """Return who speaks next: the roles alternate, the scenario's first begins."""
    roles = conversation.scenario.roles
    return roles[conversation.num_turns % len(roles)]


def last_heard(conversation: Conversation, role: str, *, opener: str = "") -> str:
    """Return the partner's last text; before the first turn the opener, for the role that begins."""
    if conversation.turns:
        last = conversation.turns[-1]
        return last.text if last.role != role else ""
    return opener if role == conversation.scenario.roles[0] else ""


def other_role(scenario: Scenario, role: str) -> str:
    """Return the partner of a role."""
    return next(name for name in scenario.roles if name != role)
