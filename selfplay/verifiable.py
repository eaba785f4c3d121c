"""Which rewards of a stored run cannot be gamed, as its configuration says."""

from __future__ import annotations

from pathlib import Path

import yaml

from selfplay.run_folder import CONFIG

__all__ = ["verifiable_parts"]

USUALLY = ("payoff",)  # where the configuration does not say
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # keeps aliases as they are: a few lines cannot become millions


def verifiable_parts(folder: Path) -> tuple[str, ...]:
    """Return alarms.verifiable of a run's configuration; what cannot be read says nothing."""
    try:
        tree = yaml.load((folder / CONFIG).read_text(encoding="utf-8", errors="replace"), Loader=LOADER)
    except (OSError, yaml.YAMLError, RecursionError, ValueError):
        return USUALLY
    group = tree.get("alarms") if isinstance(tree, dict) else None
    names = group.get("verifiable") if isinstance(group, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else USUALLY
