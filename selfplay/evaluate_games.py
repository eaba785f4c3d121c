"""A policy's versions at a game, against each of several opponents, on the same held-out scenarios.

Pure: conversations in, numbers out.  What was played, and by whom, is `selfplay.evaluate_play`'s.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from selfplay.dialog import Conversation
from selfplay.evaluate import (
    Comparison,
    Mean,
    Measured,
    compare,
    comparison_from_json,
    comparison_to_json,
    means_of,
    ratio_means,
)
from selfplay.game_numbers import Sums, add_up, contest_of, game_sums, is_scored, unfitting, unfitting_means
from selfplay.interfaces import GameSheet
from selfplay.resampling import CONFIDENCE, NUM_RESAMPLES
from selfplay.score import has_failed

__all__ = [
    "GAME_EVALUATION",
    "GameChange",
    "GameEvaluation",
    "GameLine",
    "ReferenceLine",
    "evaluate_games",
    "fitting",
    "game_evaluation_from_json",
    "game_evaluation_to_json",
    "means_from_json",
    "means_to_json",
    "without",
]

GAME_EVALUATION = "game_evaluation.json"  # in a run folder
SCHEMA = "selfplay.game_evaluation/1"

LINE_COUNTS = ("num_scenarios", "num_conversations", "num_unpaid", "num_failed")
REFERENCE_COUNTS = ("num_scenarios", "num_failed")
ENDS = ("value", "low", "high")

ScenarioKey = tuple[str, str, int]  # env, split, seed


@dataclass(frozen=True, slots=True, kw_only=True)
class GameLine:
    """One version against one opponent; the policy had each of its roles in turn on every scenario.

    Example: ``GameLine(at=30, against="base", num_scenarios=48, num_conversations=96, num_unpaid=0, num_failed=2,
    numbers={"game/payoff": Mean(value=0.75, low=0.61, high=0.87), ...})``
    """

    at: int  # updates made
    against: str  # "self", "base", "scripted", "chance", or a model
    num_scenarios: int  # counted: no conversation against this opponent failed there, at any version
    num_conversations: int  # counted
    num_unpaid: int  # counted without a payoff, as what a limit of the engine cut: they are in no `game/` number
    num_failed: int  # conversations of this line that failed
    # By name, as `selfplay.evaluate.compare` and `selfplay.game_numbers` define them, without what tells nothing here.
    numbers: Mapping[str, Mean]


@dataclass(frozen=True, slots=True, kw_only=True)
class GameChange:
    """What changed between two versions against the same opponent: intervals of differences, paired by scenario."""

    at: int
    since: int  # the version it is compared with, the earliest
    against: str
    comparison: Comparison  # base: `since`, trained: `at`


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLine:
    """What one kind of player gets where it fills every role, on the same scenarios: means over all roles."""

    player: str  # "scripted" or "chance"
    num_scenarios: int  # counted
    num_failed: int
    numbers: Mapping[str, Mean]  # `game/` alone


@dataclass(frozen=True, slots=True, kw_only=True)
class GameEvaluation:
    """All lines of one evaluation."""

    env: str
    lines: tuple[GameLine, ...]  # by version, then opponent
    changes: tuple[GameChange, ...] = ()  # of each later version from the earliest
    references: tuple[ReferenceLine, ...] = ()
    chance: float | None = None  # env units, what the game promises of chance in every role; None: it promises nothing
    best: float | None = None  # env units, what it promises of the best joint play
    confidence: float = CONFIDENCE  # of all intervals

    def line(self, *, at: int, against: str) -> GameLine:
        """Return one line; raises KeyError if it was not played."""
        for line in self.lines:
            if (line.at, line.against) == (at, against):
                return line
        known = ", ".join(f"{line.at} against {line.against}" for line in self.lines)
        raise KeyError(f"version {at} did not play against {against!r}; there is {known}")


def evaluate_games(
    played: Mapping[tuple[int, str], Sequence[Measured]],
    *,
    env: str,
    seed: int,
    references: Mapping[str, Sequence[Conversation]] | None = None,
    sheet: GameSheet | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> GameEvaluation:
    """Return what versions of a policy got against opponents.

    played: (version, opponent) -> its conversations, those of one opponent on the same scenarios; references: player
    -> conversations in which it fills every role.  Against one opponent all versions are measured on the same
    scenarios: where a conversation of any version failed, the scenario is left out at all.  Numbers that tell nothing
    of the policy in this game, see `selfplay.game_numbers.unfitting`, are in no line.
    """
    versions = sorted({at for at, _ in played})
    talks = {key: [one.scored.conversation for one in side] for key, side in played.items()}
    contest = contest_of(chain(*talks.values(), *(references or {}).values()))
    lines, changes = [], []
    for against in dict.fromkeys(against for _, against in played):
        sides = {at: played[at, against] for at in versions if (at, against) in played}
        kept = _whole_scenarios(chain(*(talks[at, against] for at in sides)))
        whole = {at: [one for one in side if _key(one.scored.conversation) in kept] for at, side in sides.items()}
        unfit = unfitting(chain(*(talks[at, against] for at in sides)), contest=contest)
        lines += [
            _without(_line(whole[at], sides[at], at=at, against=against, seed=seed, num=num_resamples), unfit)
            for at in sides
        ]
        first, *later = sides
        changes += [
            GameChange(
                at=at,
                since=first,
                against=against,
                comparison=without(compare(whole[first], whole[at], seed=seed, num_resamples=num_resamples), unfit),
            )
            for at in later
        ]
    return GameEvaluation(
        env=env,
        lines=tuple(sorted(lines, key=lambda line: line.at)),
        changes=tuple(sorted(changes, key=lambda change: change.at)),
        references=tuple(
            _reference(player, conversations, seed=seed, num=num_resamples)
            for player, conversations in (references or {}).items()
        ),
        chance=None if sheet is None else sheet.chance,
        best=None if sheet is None else sheet.best,
    )


def without(comparison: Comparison, names: Collection[str]) -> Comparison:
    """Return a comparison without the rows of these names."""
    return replace(comparison, rows=tuple(row for row in comparison.rows if row.name not in names))


def fitting(comparison: Comparison) -> Comparison:
    """Return a comparison without what its own means show to tell nothing of the policy in this game.

    See `selfplay.game_numbers.unfitting_means`.
    """
    sides = {row.name: row.base for row in comparison.rows}, {row.name: row.trained for row in comparison.rows}
    return without(comparison, unfitting_means(sides))


def _without(line: GameLine, names: Collection[str]) -> GameLine:
    return replace(line, numbers={name: mean for name, mean in line.numbers.items() if name not in names})


def _line(
    whole: Sequence[Measured], played: Sequence[Measured], *, at: int, against: str, seed: int, num: int
) -> GameLine:
    conversations = [one.scored.conversation for one in whole]
    return GameLine(
        at=at,
        against=against,
        num_scenarios=len({_key(conversation) for conversation in conversations}),
        num_conversations=len(conversations),
        num_unpaid=sum(not is_scored(conversation) for conversation in conversations),
        num_failed=sum(has_failed(one.scored.conversation) for one in played),
        numbers=means_of(whole, seed=seed, num_resamples=num),
    )


def _reference(player: str, conversations: Sequence[Conversation], *, seed: int, num: int) -> ReferenceLine:
    by_scenario: dict[ScenarioKey, Sums] = {}
    kept = _whole_scenarios(conversations)
    for one in conversations:
        if _key(one) in kept:
            before = by_scenario.get(_key(one), {})
            by_scenario[_key(one)] = add_up([before, game_sums(one, one.scenario.roles)])
    return ReferenceLine(
        player=player,
        num_scenarios=len(by_scenario),
        num_failed=sum(has_failed(conversation) for conversation in conversations),
        numbers=ratio_means(list(by_scenario.values()), seed=seed, num_resamples=num),
    )


def _whole_scenarios(conversations: Iterable[Conversation]) -> dict[ScenarioKey, None]:
    """Return the scenarios on which no conversation failed, in order."""
    found: dict[ScenarioKey, bool] = {}
    for conversation in conversations:
        found[_key(conversation)] = found.get(_key(conversation), True) and not has_failed(conversation)
    return dict.fromkeys(key for key, is_whole in found.items() if is_whole)


def _key(conversation: Conversation) -> ScenarioKey:
    scenario = conversation.scenario
    return scenario.env, scenario.split, scenario.seed


# ----- as JSON -----


def game_evaluation_to_json(evaluation: GameEvaluation) -> dict[str, Any]:
    """Return an evaluation as JSON values; what could not be measured is None."""
    return {
        "schema": SCHEMA,
        "env": evaluation.env,
        "confidence": evaluation.confidence,
        "promised": {"chance": evaluation.chance, "best": evaluation.best},
        "lines": [
            {**_counts(line, ("at", "against", *LINE_COUNTS)), "numbers": means_to_json(line.numbers)}
            for line in evaluation.lines
        ],
        "changes": [
            {**_counts(change, ("at", "since", "against")), "comparison": comparison_to_json(change.comparison)}
            for change in evaluation.changes
        ],
        "references": [
            {**_counts(line, ("player", *REFERENCE_COUNTS)), "numbers": means_to_json(line.numbers)}
            for line in evaluation.references
        ],
    }


def game_evaluation_from_json(data: Mapping[str, Any]) -> GameEvaluation:
    """Return what `game_evaluation_to_json` wrote; raises ValueError for another schema."""
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')!r} is no evaluation of a game; {SCHEMA!r} is")
    return GameEvaluation(
        env=str(data["env"]),
        confidence=float(data["confidence"]),
        chance=_optional(data["promised"]["chance"]),
        best=_optional(data["promised"]["best"]),
        lines=tuple(
            GameLine(
                **_fields(line, counts=("at", *LINE_COUNTS), words=("against",)),
                numbers=means_from_json(line["numbers"]),
            )
            for line in data["lines"]
        ),
        changes=tuple(
            GameChange(
                **_fields(change, counts=("at", "since"), words=("against",)),
                comparison=comparison_from_json(change["comparison"]),
            )
            for change in data["changes"]
        ),
        references=tuple(
            ReferenceLine(
                **_fields(line, counts=REFERENCE_COUNTS, words=("player",)),
                numbers=means_from_json(line["numbers"]),
            )
            for line in data["references"]
        ),
    )


def _counts(record: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _fields(data: Mapping[str, Any], *, counts: Iterable[str], words: Iterable[str]) -> dict[str, Any]:
    return {**{name: int(data[name]) for name in counts}, **{name: str(data[name]) for name in words}}


def means_to_json(numbers: Mapping[str, Mean]) -> dict[str, dict[str, float | None]]:
    """Return means by name as JSON values; what could not be measured is None."""
    return {
        name: {end: value if math.isfinite(value := getattr(mean, end)) else None for end in ENDS}
        for name, mean in numbers.items()
    }


def means_from_json(data: Mapping[str, Mapping[str, float | None]]) -> dict[str, Mean]:
    """Return what `means_to_json` wrote."""
    return {
        name: Mean(**{end: math.nan if (value := mean[end]) is None else float(value) for end in ENDS})
        for name, mean in data.items()
    }


def _optional(value: float | None) -> float | None:
    return None if value is None else float(value)
