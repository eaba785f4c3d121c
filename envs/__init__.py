"""The games that come with the package, by name."""

from __future__ import annotations

from envs.chitchat import ChitChat
from envs.signal import Signal

ENVS: dict[str, type] = {"chitchat": ChitChat, "signal": Signal}
