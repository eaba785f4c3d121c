"""A run in the words of its overview page: what was rewarded, how it was steered, what it reached."""

from __future__ import annotations

import ast
import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewards import REWARDS
from selfplay import checkpoint
from selfplay.evaluate import checks_of, comparison_from_json
from selfplay.evaluate_games import fitting
from selfplay.line_files import RecordError, json_from_line
from selfplay.run_folder import SOURCES
from selfplay.run_reader import RunReader
from selfplay.stored_config import config_from_text
from selfplay.view.contests import has_contests
from selfplay.view.run_state import RunState
from selfplay.view.runs import OpenRun, is_inside

__all__ = ["described", "listed", "source_text", "unreadable"]

EVALUATION = "evaluation.json"
MOST_SOURCE_BYTES = 1 << 20
MOST_CONFIG_CHARACTERS = 256 * 1024  # shown; a configuration has some thousand
STEPS = re.compile(r"^steps: ([0-9]{1,12})$", re.MULTILINE)
UNWATCHED = re.compile(r"^alarms:\n(?:  .*\n)*?  watch: false$", re.MULTILINE)
MOST_WINDOW = 10**9  # steps; more is no number to show
NO_WEIGHT = 1.0  # what a reward without a weight counts, as in the settings of `train`
REWARD_MODEL = "rm"  # a reward model stands in a configuration as rm:FOLDER


def listed(name: str, folder: Path, state: RunState) -> dict[str, Any]:
    """Return a run's line in the list of runs."""
    reader = RunReader(folder)
    manifest = reader.manifest
    return {
        "run": name,
        "path": str(folder),
        "status": state.status,
        "env": _words(manifest.get("env")),
        "model": _words(manifest.get("model")),
        "created_at": manifest.get("created_at"),
        "ended_at": manifest.get("ended_at"),
        "conversations": state.conversations,
        "step": state.step,
        "steps": _planned_steps(manifest, reader.config_text),
        "is_live": state.is_live,
        "since": state.since,
        "alarms": None if UNWATCHED.search(reader.config_text) else state.alarms,  # None: nobody watches for any
        "reward": None if state.reward is None else list(state.reward),
    }


def unreadable(name: str, folder: Path) -> dict[str, Any]:
    """Return the line of a run of which nothing can be told, as `listed`."""
    nothing = dict.fromkeys(("env", "model", "created_at", "ended_at", "step", "steps", "since", "reward"))
    return {
        **nothing,
        "run": name,
        "path": str(folder),
        "status": "unreadable",
        "conversations": 0,
        "alarms": 0,
        "is_live": False,
    }


def described(run: OpenRun, state: RunState) -> dict[str, Any]:
    """Return what the overview shows of a run, as far as its index knows it."""
    with run.reading() as reader:
        manifest, config_text = reader.manifest, reader.config_text
        alarms, problems = reader.alarms(), reader.problems
    config = config_from_text(config_text)
    return {
        "run": run.name,
        "path": str(run.folder),
        "status": state.status,
        "is_live": state.is_live,
        "since": state.since,
        "step": state.step,
        **{key: manifest.get(key) for key in ("created_at", "ended_at", "command", "git", "package", "seed", "view")},
        "kind": manifest.get("kind"),
        "resumed": manifest.get("resumed") or [],
        "env": _words(manifest.get("env")),
        "model": _words(manifest.get("model")),
        "problems": list(dict.fromkeys([*problems, *run.index.problems])),
        "config": _shown_config(config_text),
        "rewards": _rewards(config, run.folder, manifest),
        "kl": _kl(config),
        "info": plain(run.index.info()),
        "steps": _planned_steps(manifest, config_text),
        "checkpoints": checkpoint.versions(run.folder),
        "evaluation": _evaluation(run.folder, kl_target=_target(config)),
        "has_contests": has_contests(run.folder) or config.get("partner") == "league",
        "alarms": alarms,
        "alarms_window": _alarms_window(config),
        "sources": _mapping(manifest.get("sources")),
        "heat": run.index.heat_scale(),
        "readonly": not os.access(run.folder, os.W_OK),
    }


def _shown_config(text: str) -> str:
    if len(text) <= MOST_CONFIG_CHARACTERS:
        return text
    return f"{text[:MOST_CONFIG_CHARACTERS]}\n# Cut here: the file has {len(text):,} characters.\n"


def kl_target(reader: RunReader) -> float | None:
    """Return what a run's KL is steered to, in nats a token; None: to nothing."""
    return _target(config_from_text(reader.config_text))


def source_text(folder: Path, digest: str) -> str | None:
    """Return the source of a plug-in by the hexadecimal digits of its hash; None: the run does not hold it."""
    path = folder / SOURCES / f"{digest}.py"
    if not is_inside(path, folder.resolve()) or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(MOST_SOURCE_BYTES).decode("utf-8", "replace")


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: records are mappings, sets are sorted lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _mapping(value: object) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def _words(value: object) -> str | None:
    """Return an env or a model by name; a run with several models names each."""
    if isinstance(value, Mapping):
        return ", ".join(sorted({str(item) for item in value.values()}))
    return None if value is None else str(value)


def _planned_steps(manifest: Mapping[str, Any], config_text: str) -> int | None:
    """Return how many updates were asked for; of very many runs, reading each whole configuration takes seconds."""
    found = STEPS.search(config_text)
    return int(found[1]) if found and manifest.get("kind") == "train" else None


# ----- what was rewarded -----


def _rewards(config: Mapping[str, Any], folder: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for label, written in _mapping(config.get("rewards")).items():
        spec = _mapping(written) if isinstance(written, Mapping) else {"weight": written}
        name = _text(spec.get("name")) or label
        digest = _mapping(manifest.get("sources")).get(f"reward {label}")
        rows.append(
            {
                "label": label,
                "name": name,
                **_counting(spec),
                "role": _text(spec.get("role")) or None,
                "summary": _summary(name, folder, digest),
            }
        )
    return rows


def _counting(spec: Mapping[str, Any]) -> dict[str, Any]:
    weight = spec.get("weight", NO_WEIGHT)
    if spec.get("gate") is True or weight == "gate":
        return {"weight": None, "gate": True}
    return {"weight": _number(weight), "gate": False}


def _text(value: object) -> str | None:
    # A few lines of YAML can be a value of any size, which must not be written out.
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of very many digits
        return None


def _summary(name: str, folder: Path, digest: object) -> str:
    """Return the first line of a reward's description, and how far its numbers reach if it says so.

    What the run kept of a plug-in of its own is parsed, and never imported.
    """
    known = REWARD_MODEL if name.startswith(f"{REWARD_MODEL}:") else name
    if known in REWARDS:
        return _told(REWARDS[known].__doc__)
    text = source_text(folder, str(digest).removeprefix("sha256:")) if _is_digest(digest) else None
    return "" if text is None else _told(_docstring(text, name.rpartition(":")[2]))


def _is_digest(value: object) -> bool:
    digits = str(value).removeprefix("sha256:")
    return isinstance(value, str) and digits.isascii() and digits.isalnum()


def _docstring(text: str, name: str) -> str | None:
    """Return what the source says of a function or a class; without that, what it says of itself."""
    try:
        tree = ast.parse(text)
        named = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name]
        return next(filter(None, map(ast.get_docstring, [*named, tree])), None)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _told(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").strip().split("\n")]
    reach = next((line for line in lines[1:] if line.startswith("Range: ")), "")
    return f"{lines[0]} {reach}".strip()


# ----- how it was steered, and what it reached -----


def _kl(config: Mapping[str, Any]) -> dict[str, Any] | None:
    kl = _mapping(config.get("kl"))
    if not kl:
        return None
    words = {key: _text(kl.get(key)) for key in ("controller", "estimator", "place")}
    return {"target": _target(config), **words, "coefficient": _number(kl.get("coefficient"))}


def _alarms_window(config: Mapping[str, Any]) -> int | None:
    """Return of how many of the newest steps an alarm's number is the mean; None: nobody watches."""
    alarms = _mapping(config.get("alarms"))
    window = alarms.get("window")
    return window if type(window) is int and 0 < window < MOST_WINDOW and alarms.get("watch") is not False else None


def _target(config: Mapping[str, Any]) -> float | None:
    kl = _mapping(config.get("kl"))
    return _number(kl.get("target")) if kl.get("controller") == "adaptive" else None


def _evaluation(folder: Path, *, kl_target: float | None) -> dict[str, Any] | None:
    """Return what training changed on held-out scenarios, and which checks that passes; None: nobody compared."""
    try:
        data = json_from_line((folder / EVALUATION).read_bytes())
        comparison = fitting(comparison_from_json(data))
    except (OSError, RecordError, ValueError, KeyError, TypeError, AttributeError):
        return None
    checks = [{"is_met": check.is_met, "what": check.what} for check in checks_of(comparison, kl_target=kl_target)]
    return {**data, "metrics": {row.name: data["metrics"][row.name] for row in comparison.rows}, "checks": checks}
