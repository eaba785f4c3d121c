"""What a tournament found, and how a league stands: what their files in a run folder say, as the page shows it.

The files may come from anywhere, so every value is checked; one that is not what it should be leaves out its file, with
a sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.filters import WORD, field_in_filter
from selfplay.line_files import RecordError, json_from_line
from selfplay.preferences import PREFERENCES, Preference, read_preferences
from selfplay.whole_files import reason

__all__ = ["ELO", "LEAGUE", "TOURNAMENT", "contests_of", "has_contests"]

TOURNAMENT, ELO, LEAGUE = "tournament.json", "elo.json", "league.json"
TOURNAMENT_SCHEMA, ELO_SCHEMA = "selfplay.tournament/1", "selfplay.elo/1"
MOST_BYTES = 32 << 20  # a tournament of 64 entries has a fourth of it
MOST_ENTRIES = 40  # shown, the best; more columns are nothing to read
MOST_PLAYERS = 200  # of a league: the newest
MOST_ROLES = 16
MOST_JUDGED = 4000  # comparisons shown of an Elo, about as many of each two entries
SAMPLER = "tournament"  # of the preferences that an Elo rests on
MOST_NAME, MOST_FILTER = 200, 4000  # characters
MOST_COUNT = 10**12
CONTESTS = ("none", "general", "zero_sum")
RESULTS = ("wins", "ties", "losses")
COUNTS = ("num_scenarios", "num_conversations", "num_unpaid", "num_failed", *RESULTS)
PAYOFF = "game/payoff"
POLICY = "learner"  # what a league calls the policy that is trained
KINDS = (POLICY, "frozen", "scripted")  # of opponents, before past ones
PAST = re.compile(r"past:([0-9]{1,9})")


def has_contests(folder: Path) -> bool:
    """Whether a run folder holds anything that `contests_of` would read."""
    return any((folder / name).is_file() for name in _READERS)


def contests_of(folder: Path) -> dict[str, Any]:
    """Return "tournament", "elo" and "league", None for what is not there, and "problems".

    A problem is a sentence about a file that cannot be read, and so is not shown.
    """
    found: dict[str, Any] = {}
    problems = []
    for name, read in _READERS.items():
        found[name.removesuffix(".json")] = None
        try:
            content = _content(folder / name)
            if content is not None:
                found[name.removesuffix(".json")] = read(json_from_line(content))
        except (OSError, RecordError) as error:
            problems.append(f"{name}: {reason(error)}; not shown")
    if found["elo"] is not None:
        problems += _add_judged(found["elo"], folder)
    return {**found, "problems": problems}


def _content(file: Path) -> bytes | None:
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise RecordError(f"it is larger than {MOST_BYTES >> 20} MiB")
    return content


# ----- a tournament -----


def _tournament(data: Mapping[str, Any]) -> dict[str, Any]:
    _check_schema(data, TOURNAMENT_SCHEMA)
    roles = _names(data.get("roles"), "roles")
    standings = [_standing(one, roles) for one in _objects(data.get("standings"), "standings")]
    shown = standings[:MOST_ENTRIES]
    names = [one["name"] for one in shown]
    cells = {}
    for cell in _objects(data.get("cells"), "cells"):
        row, column = (_name(cell.get(side), f"{side} of a cell") for side in ("row", "column"))
        if row in names and column in names:
            cells[row, column] = _cell(cell, roles, where=f"cell {row!r} against {column!r}")
    if data.get("contest") not in CONTESTS:
        raise RecordError(f"contest is none of {', '.join(CONTESTS)}")
    return {
        "env": _name(data.get("env"), "env"),
        "roles": roles,
        "contest": data["contest"],
        "confidence": _number(data.get("confidence"), "confidence"),
        "standings": shown,
        "num_left_out": len(standings) - len(shown),
        "matrix": [[cells.get((row, column)) for column in names] for row in names],
    }


def _standing(one: Mapping[str, Any], roles: Sequence[str]) -> dict[str, Any]:
    name = _name(one.get("name"), "name of an entry")
    skills = _object(one.get("role_ratings"), f"role_ratings of {name!r}")
    return {
        "name": name,
        "filter": f"player={_value(name)}",
        "rating": _skill(one.get("rating"), f"rating of {name!r}"),
        "role_ratings": {role: _skill(skills[role], f"rating of {name!r}") for role in roles if role in skills},
        "payoff": _mean_in(one, PAYOFF, where=repr(name)),
        **{key: _count(one.get(key), f"{key} of {name!r}") for key in RESULTS},
    }


def _cell(cell: Mapping[str, Any], roles: Sequence[str], *, where: str) -> dict[str, Any]:
    filters = _object(cell.get("role_filters"), f"role_filters of {where}")
    return {
        "payoff": _mean_in(cell, PAYOFF, where=where),
        "filter": _filter(cell.get("filter"), where),
        "roles": {
            role: {
                "payoff": _mean_in(cell, f"{PAYOFF}/{role}", where=where),
                "filter": _filter(filters[role], where),
            }
            for role in roles
            if role in filters
        },
        **{key: _count(cell.get(key), f"{key} of {where}") for key in COUNTS},
    }


def _mean_in(one: Mapping[str, Any], name: str, *, where: str) -> dict[str, float | None] | None:
    """Return a mean and its interval; None: it was not measured."""
    mean = _object(one.get("numbers"), f"numbers of {where}").get(name)
    if mean is None:
        return None
    ends = _object(mean, f"{name} of {where}")
    return {end: _number_or_none(ends.get(end), f"{end} of {name} of {where}") for end in ("value", "low", "high")}


# ----- points of preferences -----


def _elo(data: Mapping[str, Any]) -> dict[str, Any]:
    _check_schema(data, ELO_SCHEMA)
    entries = [_elo_entry(one) for one in _objects(data.get("entries"), "entries")]
    shown = entries[:MOST_ENTRIES]
    names = [one["name"] for one in shown]
    pairs = [_elo_pair(one) for one in _objects(data.get("pairs"), "pairs")]
    return {
        "by": _name(data.get("by"), "by"),
        "anchor": _name(data.get("anchor"), "anchor"),
        "confidence": _number(data.get("confidence"), "confidence"),
        **{key: _count(data.get(key), key) for key in ("num", "num_scenarios", "num_same")},
        "entries": shown,
        "num_left_out": len(entries) - len(shown),
        "pairs": [one for one in pairs if one["first"] in names and one["second"] in names],
        "talks": _talks(data.get("talks", {})),
    }


def _talks(value: object) -> dict[str, str]:
    """Return whose each conversation is, by its id; a tournament that was stored before has none."""
    talks = _object(value, "talks")
    return {
        _name(id, f"id of a talk of {name!r}"): _name(name, "name of an entry")
        for name, ids in talks.items()
        for id in _list(ids, f"talks of {name!r}")
    }


def _elo_entry(one: Mapping[str, Any]) -> dict[str, Any]:
    name = _name(one.get("name"), "name of an entry")
    numbers = {key: _number_or_none(one.get(key), f"{key} of {name!r}") for key in ("low", "high")}
    shares = {key: _number_or_none(one.get(key), f"{key} of {name!r}") for key in ("win_share", "tie_share")}
    return {
        "name": name,
        "filter": f"player={_value(name)}",
        "elo": _number(one.get("elo"), f"elo of {name!r}"),
        **numbers,
        **shares,
        "num": _count(one.get("num"), f"num of {name!r}"),
    }


def _elo_pair(one: Mapping[str, Any]) -> dict[str, Any]:
    first, second = (_name(one.get(side), f"{side} of a pair") for side in ("first", "second"))
    where = f"{first!r} and {second!r}"
    numbers = {key: _number_or_none(one.get(key), f"{key} of {where}") for key in ("low", "high")}
    won = {key: _number(one.get(key), f"{key} of {where}") for key in ("first_won", "tied", "second_won")}
    difference = _number(one.get("difference"), f"difference of {where}")
    wanted = f"player={_value(first)},{_value(second)}"
    return {"first": first, "second": second, "filter": wanted, "difference": difference, **numbers, **won}


def _add_judged(elo: dict[str, Any], folder: Path) -> list[str]:
    """Add to each pair what was said of its conversations, as the run's preferences tell; returns problems."""
    talks = elo.pop("talks")
    lines = read_preferences(folder)
    by_pair: dict[frozenset[str], list[Preference]] = {}
    for one in lines.preferences:
        names = frozenset(talks[id] for id in (one.left, one.right) if id in talks)
        if one.by == elo["by"] and one.sampler == SAMPLER and one.probability_left is not None and len(names) == 2:
            by_pair.setdefault(names, []).append(one)
    most = max(1, MOST_JUDGED // max(1, len(elo["pairs"])))
    elo["question"] = next((own[0].question[:MOST_NAME] for own in by_pair.values()), "")
    for pair in elo["pairs"]:
        own = by_pair.get(frozenset((pair["first"], pair["second"])), [])
        pair["judged"] = [_judged(one, is_swapped=talks[one.left] != pair["first"]) for one in own[:most]]
        pair["num_judged"] = len(own)
    num = len(lines.problems)
    words = "1 line cannot be read, so is" if num == 1 else f"{num} lines cannot be read, so are"
    return [f"{PREFERENCES}: {words} in no list of comparisons"] if num else []


def _judged(one: Preference, *, is_swapped: bool) -> dict[str, Any]:
    """Return what was said of two conversations, with the first entry's first."""
    probability, ids = one.probability_left or 0.0, [one.left, one.right]
    # A judge says how likely (A) is better, where the left one is (A) and where the right one is.
    as_a, as_b = _share(one.detail.get("first_order")), _share(one.detail.get("second_order"))
    return {
        "ids": ids[::-1] if is_swapped else ids,
        "role": one.focus[:MOST_NAME],
        "probability": 1.0 - probability if is_swapped else probability,
        "orders": [as_b, _other(as_a)] if is_swapped else [as_a, _other(as_b)],  # that of the first as (A), as (B)
        "principle": (one.principle or "")[:MOST_NAME],
        "is_same": one.detail.get("is_same") is True,
    }


def _share(value: object) -> float | None:
    is_share = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if is_share else None  # type: ignore[arg-type]  # mypy does not follow is_share


def _other(share: float | None) -> float | None:
    return None if share is None else 1.0 - share


# ----- a league -----


def _league(data: Mapping[str, Any]) -> dict[str, Any]:
    roles = _names(data.get("roles"), "roles")
    ratings, results = _object(data.get("ratings"), "ratings"), _object(data.get("results"), "results")
    names = sorted({_name(name, "name of a player") for name in (*ratings, *results)}, key=_newest_first)
    players: list[dict[str, Any]] = []
    for name in names[:MOST_PLAYERS]:
        skills = _object(ratings.get(name, {}), f"ratings of {name!r}")
        own = _object(results.get(name, {}), f"results against {name!r}")
        players.append(
            {
                "name": name,
                "ratings": {role: _pair_skill(skills[role], f"rating of {name!r}") for role in roles if role in skills},
                "results": {
                    role: {**_result(own[role], f"results against {name!r}"), "filter": _met(name, role, roles)}
                    for role in roles
                    if role in own
                },
            }
        )
    counted = [result for player in players for result in player["results"].values()]
    # A league that was stored before does not say it, and has rated ties too.
    has_winners = data.get("has_winners", any(one["wins"] or one["losses"] for one in counted))
    return {
        "roles": roles,
        "nobody_wins": not has_winners and any(one["ties"] for one in counted),
        "num_snapshots": len(_list(data.get("snapshots"), "snapshots")),
        "players": players,
        "num_left_out": len(names) - len(players),
    }


def _newest_first(name: str) -> tuple[int, int, str]:
    past = PAST.fullmatch(name)
    if past is not None:
        return len(KINDS), -int(past[1]), name
    return (KINDS.index(name) if name in KINDS else len(KINDS) + 1), 0, name


def _result(value: object, where: str) -> dict[str, Any]:
    result = _object(value, where)
    counts = {key: _count(result.get(key), f"{key} of {where}") for key in RESULTS}
    num = sum(counts.values())
    sums = {key: _number(result.get(key), f"{key} of {where}") for key in ("payoff", "opponent_payoff")}
    return {**counts, **{key: value / num if num else None for key, value in sums.items()}}


def _met(opponent: str, own: str, roles: Sequence[str]) -> str:
    """Return the filter of the training conversations in which the policy had a role against an opponent."""
    if opponent == POLICY:
        who = [f"{field_in_filter(f'player.{role}')}={POLICY}" for role in roles]
    else:
        who = [f"{field_in_filter(f'player.{own}')}={POLICY}", f"player={_value(opponent)}"]
    return " & ".join(["split=train", *who])


_READERS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    TOURNAMENT: _tournament,
    ELO: _elo,
    LEAGUE: _league,
}


# ----- values that may be anything -----


def _check_schema(data: Mapping[str, Any], schema: str) -> None:
    if data.get("schema") != schema:
        raise RecordError(f"its schema is not {schema}")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordError(f"{what} is no object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RecordError(f"{what} is no list")
    return value


def _objects(value: object, what: str) -> list[Mapping[str, Any]]:
    return [_object(one, f"one of the {what}") for one in _list(value, what)]


def _names(value: object, what: str) -> list[str]:
    names = [_name(one, f"one of the {what}") for one in _list(value, what)]
    if len(names) > MOST_ROLES:
        raise RecordError(f"there are more than {MOST_ROLES} {what}")
    return names


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > MOST_NAME:
        raise RecordError(f"{what} is no text of at most {MOST_NAME} characters")
    return value


def _filter(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > MOST_FILTER:
        raise RecordError(f"filter of {where} is no text of at most {MOST_FILTER} characters")
    return value


def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MOST_COUNT:
        raise RecordError(f"{what} is no count")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_COUNT:
        return float(value)
    raise RecordError(f"{what} is no number")


def _number_or_none(value: object, what: str) -> float | None:
    return None if value is None else _number(value, what)


def _skill(value: object, what: str) -> dict[str, float]:
    skill = _object(value, what)
    return {key: _number(skill.get(key), f"{key} of {what}") for key in ("mu", "sigma")}


def _pair_skill(value: object, what: str) -> dict[str, float]:
    pair = _list(value, what)
    if len(pair) != 2:
        raise RecordError(f"{what} is no pair of mu and sigma")
    return _skill(dict(zip(("mu", "sigma"), pair, strict=True)), what)


def _value(name: str) -> str:
    """Return a name as a filter reads it."""
    return name if WORD.fullmatch(name) and name != "null" else json.dumps(name, ensure_ascii=False)
