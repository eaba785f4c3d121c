"""Which rewards of a stored run cannot be gamed, as its configuration says."""

from __future__ import annotations

from pathlib import Path

from selfplay.stored_config import read_stored_config

__all__ = ["verifiable_parts"]

USUALLY = ("payoff",)  # where the configuration does not say


def verifiable_parts(folder: Path) -> tuple[str, ...]:
    """Return alarms.verifiable of a run's configuration; what cannot be read says nothing."""
    group = read_stored_config(folder).get("alarms")
    names = group.get("verifiable") if isinstance(group, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else USUALLY
