"""Tournaments as JSON, of payoffs and of preferences; the first also back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from selfplay.evaluate_games import means_from_json, means_to_json
from selfplay.filters import WORD
from selfplay.game_numbers import Contest
from selfplay.skill import Skill
from selfplay.tournament import RESULTS, Cell, Entry, Standing, Tournament
from selfplay.tournament_by import EloTournament

__all__ = [
    "ELO",
    "TOURNAMENT",
    "elo_tournament_to_json",
    "judged_pairs_to_json",
    "pair_filter",
    "tournament_from_json",
    "tournament_to_json",
]

TOURNAMENT, ELO = "tournament.json", "elo.json"  # in a run folder
SCHEMA, ELO_SCHEMA = "selfplay.tournament/1", "selfplay.elo/1"
COUNTS = ("num_scenarios", "num_conversations", "num_unpaid", "num_failed")


def tournament_to_json(tournament: Tournament) -> dict[str, Any]:
    """Return a tournament as JSON values; what could not be measured is None."""
    return {
        "schema": SCHEMA,
        "env": tournament.env,
        "roles": list(tournament.roles),
        "seed": tournament.seed,
        "contest": tournament.contest,
        "confidence": tournament.confidence,
        "standings": [
            {
                "name": one.entry.name,
                "model": one.entry.model,
                "version": one.entry.version,
                "rating": _skill_to_json(one.skill),
                "role_ratings": {role: _skill_to_json(skill) for role, skill in one.role_skills.items()},
                "numbers": means_to_json(one.numbers),
                **{name: getattr(one, name) for name in RESULTS},
            }
            for one in tournament.standings
        ],
        "cells": [
            {
                **{name: getattr(cell, name) for name in ("row", "column", *COUNTS, *RESULTS, "filter")},
                "role_filters": dict(cell.role_filters),
                "numbers": means_to_json(cell.numbers),
            }
            for cell in tournament.cells
        ],
    }


def tournament_from_json(data: Mapping[str, Any]) -> Tournament:
    """Return what `tournament_to_json` wrote; raises ValueError for another schema."""
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')!r} is no tournament; {SCHEMA!r} is")
    if data["contest"] not in get_args(Contest):
        raise ValueError(f"contest {data['contest']!r} is none of {', '.join(get_args(Contest))}")
    return Tournament(
        env=str(data["env"]),
        roles=tuple(data["roles"]),
        seed=int(data["seed"]),
        contest=data["contest"],
        confidence=float(data["confidence"]),
        standings=tuple(
            Standing(
                entry=Entry(name=one["name"], model=one["model"], version=int(one["version"])),
                skill=Skill(**one["rating"]),
                role_skills={role: Skill(**skill) for role, skill in one["role_ratings"].items()},
                numbers=means_from_json(one["numbers"]),
                **{name: int(one[name]) for name in RESULTS},
            )
            for one in data["standings"]
        ),
        cells=tuple(
            Cell(
                row=cell["row"],
                column=cell["column"],
                filter=cell["filter"],
                role_filters=dict(cell["role_filters"]),
                numbers=means_from_json(cell["numbers"]),
                **{name: int(cell[name]) for name in (*COUNTS, *RESULTS)},
            )
            for cell in data["cells"]
        ),
    )


def _skill_to_json(skill: Skill) -> dict[str, float]:
    return {"mu": skill.mu, "sigma": skill.sigma}


# ----- preferences -----


def elo_tournament_to_json(found: EloTournament) -> dict[str, Any]:
    """Return the table as JSON values; what could not be measured is None.

    Where talks were played, each pair has the filter that finds all talks of the two.
    """
    table: dict[str, Any] = _finite(asdict(found.table))
    if found.talks:
        table["pairs"] = [{**pair, "filter": pair_filter(pair["first"], pair["second"])} for pair in table["pairs"]]
    return {
        "schema": ELO_SCHEMA,
        "by": found.by,
        **table,
        "talks": {name: list(ids) for name, ids in found.talks.items()},
        "left_out": dict(found.left_out),
        "num_same": found.num_same,
    }


def judged_pairs_to_json(found: EloTournament) -> list[dict[str, Any]]:
    """Return what each comparison rests on, as JSON values; "preferred" is None for a tie."""
    return [
        {**_finite(asdict(one)), "run": one.run or None, "preferred": one.preferred, "filter": one.filter}
        for one in found.judged
    ]


def pair_filter(first: str, second: str) -> str:
    """Return the filter that finds the talks of two entries, each of which had all roles of its own."""
    names = (
        name if WORD.fullmatch(name) and name != "null" else json.dumps(name, ensure_ascii=False)
        for name in (first, second)
    )
    return f"player={','.join(names)}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
