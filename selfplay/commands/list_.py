"""`selfplay list`: what there is to choose from.

The module is not called `list`: as an attribute of its package it would hide Python's own.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from envs import ENVS
from rewards import REWARDS
from rewards.mixes import MIXES
from selfplay import models
from selfplay.commands.words import CommandLine
from selfplay.config import preset_names, preset_text
from selfplay.errors import UserError
from selfplay.interfaces import Game
from selfplay.plugins import installed_plugins
from selfplay.written import as_written, nearest

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "what there is to choose from: envs, models, presets, rewards, mixes"
USAGE = """
selfplay list [envs | models | presets | rewards | mixes] [--json]

List what env=, model=, preset= and -r accept, one a line; without a word, all of them.

  --json   print the same as JSON, with what games promise, and all settings and their defaults

Examples:
  selfplay list
  selfplay list envs
"""
SECTION = re.compile(r"[A-Z][a-z]+: ")  # how a section of a spec sheet begins


def run(line: CommandLine) -> int:
    """Print the kinds that the words name."""
    kinds = {"envs": _envs, "models": _models, "presets": _presets, "rewards": _rewards, "mixes": _mixes}
    for word in line.words:
        if word not in kinds:
            raise UserError(f"{word!r} cannot be listed{nearest(word, list(kinds))}")
    listed = {kind: rows() for kind, rows in kinds.items() if kind in line.words or not line.words}
    if line.as_json:
        print(json.dumps(listed, indent=2))
        return 0
    for kind, rows in listed.items():
        if len(listed) > 1:
            print(f"{kind}:")
        width = max(14, *(len(row["name"]) + 2 for row in rows))
        for row in rows:
            _print_row(row, width=width)
    return 0


def _print_row(row: Mapping[str, Any], *, width: int) -> None:
    state = "" if "ready" not in row else " [ready]" if row["ready"] else " [not fetched yet]"
    print(f"  {row['name']:<{width}}{row['summary']}{state}")
    if "scope" in row:
        print(f"{'':{width + 2}}{_claims(row)}")
        if row["exploit"]:
            print(f"{'':{width + 2}}exploit: {row['exploit']}")
        return
    if "roles" in row:
        print(f"{'':{width + 2}}{_promises(row)}")
    if row.get("settings"):
        print(f"{'':{width + 2}}settings: {', '.join('env.' + name for name in row['settings'])}")


def _promises(row: Mapping[str, Any]) -> str:
    roles = f"roles {', '.join(row['roles'])}" if row["roles"] else "roles of the game that is named"
    if row["chance"] is None:
        return roles
    kind = "zero-sum" if row["zero_sum"] else "general-sum"
    return f"{roles} · pays {row['chance']:.3g} by chance, {row['best']:.3g} at best · {kind}"


def _claims(row: Mapping[str, Any]) -> str:
    low, high = ("any" if bound is None else f"{bound:g}" for bound in (row["low"], row["high"]))
    bounds = "any number" if low == high == "any" else f"{low} to {high}"
    words = [bounds, f"scope {row['scope']}"] + (["slow"] if row["is_slow"] else [])
    settings = [f"{name}={'...' if value is None else value}" for name, value in row["settings"].items()]
    return " · ".join(words + ([f"settings {' '.join(settings)}"] if settings else []))


def _envs() -> list[dict[str, Any]]:
    rows = []
    for name, plugin in {**installed_plugins("env"), **ENVS}.items():
        summary = (plugin.__doc__ or "").strip().partition("\n")[0]
        rows.append({"name": name, "summary": summary, **_sheet(plugin), "settings": _defaults(plugin)})
    return rows


def _sheet(plugin: object) -> dict[str, Any]:
    """Return what an environment promises under its default settings; what is not known is None or empty."""
    env = plugin() if isinstance(plugin, type) and None not in _defaults(plugin).values() else plugin
    sheet = env.sheet() if isinstance(env, Game) and not isinstance(env, type) else None
    roles = getattr(env, "roles", ())
    return {
        "roles": list(roles) if isinstance(roles, tuple) else [],
        "zero_sum": getattr(env, "zero_sum", False) is True,
        "payoffs": None if sheet is None else list(sheet.payoffs),
        "ends": [] if sheet is None else list(sheet.ends),
        "chance": None if sheet is None else sheet.chance,
        "best": None if sheet is None else sheet.best,
    }


def _defaults(plugin: object) -> dict[str, Any]:
    """Return the settings of a plug-in; one that must be given has None."""
    if not dataclasses.is_dataclass(plugin):
        return {}
    defaults = {}
    for field in dataclasses.fields(plugin):
        if field.init:
            value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            defaults[field.name] = None if value is dataclasses.MISSING else as_written(value)
    return defaults


def _rewards() -> list[dict[str, Any]]:
    rows = []
    for name, plugin in {**installed_plugins("reward"), **REWARDS}.items():
        summary = (getattr(plugin, "function", plugin).__doc__ or "").strip().partition("\n")[0]
        low, high = getattr(plugin, "range", (-math.inf, math.inf))
        claims = {
            "low": None if math.isinf(low) else low,
            "high": None if math.isinf(high) else high,
            "scope": getattr(plugin, "scope", "conversation"),
            "is_slow": bool(getattr(plugin, "is_slow", False)),
            "exploit": _section(plugin, "Exploit"),
            "settings": _defaults(plugin) if isinstance(plugin, type) else {},
        }
        rows.append({"name": name, "summary": summary, **claims})
    return rows


def _mixes() -> list[dict[str, Any]]:
    return [
        {
            "name": f"mix:{name}",
            "summary": ", ".join(parts),
            "parts": {part: as_written(spec) for part, spec in parts.items()},
        }
        for name, parts in MIXES.items()
    ]


def _section(plugin: object, title: str) -> str:
    """Return a section of a plug-in's spec sheet as one line; "": it has none."""
    lines = [line.strip() for line in (plugin.__doc__ or "").splitlines()]
    starts = [number for number, line in enumerate(lines) if line.startswith(f"{title}: ")]
    if not starts:
        return ""
    first, *rest = lines[starts[0] :]
    kept = itertools.takewhile(lambda line: line and not SECTION.match(line), rest)
    return " ".join([first.removeprefix(f"{title}: "), *kept]).rstrip(".")


def _models() -> list[dict[str, Any]]:
    return [{"name": name, "summary": models.describe(name), "ready": models.is_ready(name)} for name in models.MODELS]


def _presets() -> list[dict[str, Any]]:
    return [{"name": name, "summary": preset_text(name).partition("\n")[0].lstrip("# ")} for name in preset_names()]
