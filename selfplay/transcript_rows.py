"""What a list shows of a run's conversations, and what there is to filter them by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfplay.filters import SEPARATOR

__all__ = ["COLUMNS_OF_ROW", "IndexInfo", "Page", "Row", "names_in", "row_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a list shows of one conversation; None: unknown, or there is none."""

    id: str
    step: int | None
    split: str
    group: str
    scenario: str  # "ENV/SEED"; the same in the same split is the same starting position
    seed: int
    about: str
    public: Mapping[str, Any]  # what every role may see
    players: str  # "learner@12/scripted", in order of roles
    turns: int
    cut_turns: int  # that a limit ended
    tokens: int  # said
    seconds: float
    reward: float | None  # what the trained roles' turns add up to
    parts: Mapping[str, float | None]  # what each reward added to that; None: a gate, or it did not apply
    raw: Mapping[str, float | None]  # what each reward said, mean over the turns where it applied
    per_role: Mapping[str, float]
    advantage: float | None
    kl: float | None  # nats per token
    nll: float | None  # nats per token, under the reference
    reason: str | None
    status: str | None
    flags: tuple[str, ...]
    tags: tuple[str, ...]
    first_words: str
    surprise: float | None
    disagreement: float | None
    group_mean: float | None
    cut: float  # share of the turns that a limit ended
    repeats: float  # share of the turns whose text an earlier one has
    version: int | None
    model: str
    roles: tuple[str, ...]
    # Of the turns that count, those of the trained roles, or of all if none is trained: turns, words, tokens, cut
    # turns, and turns whose text an earlier one has.
    said: Mapping[str, int]

    def number(self, key: str) -> float | None:
        """Return what a sort key of `selfplay.filters` that is a number stands for; None: unknown, or no such key."""
        families = {"reward": self.raw, "value": self.parts, "role": self.per_role}
        family, dot, name = key.partition(".")
        value = families.get(family, {}).get(name) if dot else getattr(self, key, None)
        return value if isinstance(value, int | float) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows of a sorted list."""

    total: int  # conversations that fit the filter
    of: int  # conversations that there are
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """What there is to filter by in a run."""

    conversations: int = 0
    parts: tuple[str, ...] = ()  # rewards, those that count first
    weights: Mapping[str, float | None] = field(default_factory=dict)  # of each part as it was seen last; None: a gate
    roles: tuple[str, ...] = ()
    envs: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    steps: tuple[int, int] | None = None  # first, last
    versions: tuple[int, ...] = ()
    newest: str | None = None  # id
    has: frozenset[str] = frozenset()  # rewards, groups, advantage, kl, nll, disagreement, tokens, labelled


# Row's fields that are columns.
COLUMNS_OF_ROW: Mapping[str, str] = {
    "number": "c.number",
    "group": "c.group_id",
    "shown": "s.facts",
    **{name: f"c.{name}" for name in ("id", "step", "split", "scenario", "about", "turns", "tokens", "seconds")},
    **{name: f"c.{name}" for name in ("reward", "advantage", "kl", "nll", "reason", "status", "flags", "tags")},
    **{name: f"c.{name}" for name in ("surprise", "group_mean", "version", "roles", "seed", "cut", "repeats")},
}


def row_of(values: Sequence[Any], names: Sequence[str]) -> Row:
    """Return the row of what was asked for: COLUMNS_OF_ROW, the disagreement, then raw and value of each named part."""
    plain = dict(zip(COLUMNS_OF_ROW, values, strict=False))
    disagreement, *numbers = values[len(COLUMNS_OF_ROW) :]
    shown = json.loads(plain["shown"])
    words = {name: tuple(names_in(plain[name])) for name in ("flags", "tags", "roles")}
    kept = {name: value for name, value in plain.items() if name not in ("number", "shown")}
    return Row(
        **{**kept, **words},
        **{name: shown[name] for name in ("players", "model", "first_words", "per_role", "public", "cut_turns")},
        said=shown["said"],
        raw=dict(zip(names, numbers[::2], strict=True)),
        parts=dict(zip(names, numbers[1::2], strict=True)),
        disagreement=disagreement,
    )


def names_in(text: str | None) -> list[str]:
    """Return the names in a column that holds several."""
    return [name for name in (text or "").split(SEPARATOR) if name]
