"""The games that come with the package, by name."""

from __future__ import annotations

from envs.chitchat import ChitChat

ENVS: dict[str, type] = {"chitchat": ChitChat}
