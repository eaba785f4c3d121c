"""Which rewards of a stored run cannot be gamed, as its configuration says."""

from __future__ import annotations

from pathlib import Path

from selfplay.errors import UserError
from selfplay.run_folder import CONFIG
from selfplay.written import read_source

__all__ = ["verifiable_parts"]

USUALLY = ("payoff",)  # where the configuration does not say


def verifiable_parts(folder: Path) -> tuple[str, ...]:
    """Return alarms.verifiable of a run's configuration; what cannot be read says nothing."""
    try:
        tree = read_source(CONFIG, (folder / CONFIG).read_text(encoding="utf-8", errors="replace")).tree
    except (OSError, UserError):
        return USUALLY
    group = tree.get("alarms")
    names = group.get("verifiable") if isinstance(group, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else USUALLY
