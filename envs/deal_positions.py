"""Where the deal game begins, what a division is worth to each role, and which divisions are best."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from envs.deal_messages import ISSUES, ITEMS, NUM_OPTIONS, Counts
from envs.drawing import Draw

Division = tuple[int, ...]  # by thing: how many the first role keeps, or the issue's option from 0
Points = tuple[tuple[int, ...], ...]  # one role's points, by thing and then by its place in a division
Position = tuple[dict[str, int], list[list[Any]]]  # how many there are of what, and what each role values

MOST_ITEM_POINTS = 10  # the whole pool to one role
MOST_ISSUE_POINTS = 100  # every issue as one role likes it best
POOL_SIZES = (5, 6, 7)
COMPATIBLE = (2, 3)  # places of the weights of issues in which both want the same


def draw_items(draw: Draw) -> Position:
    """Draw a pool, and what its items are worth to each role."""
    counts = draw.choose(item_pools())
    first, second = draw.choose(item_values(counts))
    return dict(zip(ITEMS, counts, strict=True)), [list(first), list(second)]


@functools.cache
def item_pools() -> tuple[Counts, ...]:
    """Return all pools: 5 to 7 things, at least one of each item."""
    every = itertools.product(range(1, max(POOL_SIZES)), repeat=len(ITEMS))
    return tuple(counts for counts in every if sum(counts) in POOL_SIZES)


@functools.cache
def item_values(counts: Counts) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Return all pairs of values that the two may have."""
    every = itertools.product(range(MOST_ITEM_POINTS + 1), repeat=len(counts))
    worths = [values for values in every if sum(map(int.__mul__, values, counts)) == MOST_ITEM_POINTS]
    return tuple(
        (first, second)
        for first, second in itertools.product(worths, repeat=2)
        if all(map(int.__add__, first, second)) and any(map(int.__mul__, first, second))
    )


def draw_issues(draw: Draw) -> Position:
    """Draw which two issues are a plain conflict, in which two both want the same, and who needs which of the rest."""
    *alike, high, higher, low, lower = draw.choose(issue_weights())
    first = [*alike, high, higher, low, lower]
    second = [*alike, low, lower, high, higher]
    tables: list[list[list[int]]] = [[], []]
    for kind in draw.shuffled(range(len(ISSUES))):
        is_rising = bool(draw.below(2))
        tables[0].append(_issue_points(first[kind], is_rising=is_rising))
        tables[1].append(_issue_points(second[kind], is_rising=is_rising == (kind in COMPATIBLE)))
    return dict.fromkeys(ISSUES, NUM_OPTIONS), tables


@functools.cache
def issue_weights() -> tuple[tuple[int, ...], ...]:
    """Return all weights, in points a step: two of conflict, two of agreement, two high and two low ones."""
    ranges = (range(2, 5), range(2, 5), range(1, 4), range(1, 4), *(range(4, 7),) * 2, *(range(1, 3),) * 2)
    steps = MOST_ISSUE_POINTS // (NUM_OPTIONS - 1)
    return tuple(weights for weights in itertools.product(*ranges) if sum(weights) == steps)


def _issue_points(weight: int, *, is_rising: bool) -> list[int]:
    points = [weight * place for place in range(NUM_OPTIONS)]
    return points if is_rising else points[::-1]


@functools.lru_cache(maxsize=1024)
def item_points(counts: Counts, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[Points, Points]:
    """Return the points of both roles for every number of each item that the first may keep."""
    kept = tuple(tuple(value * place for place in range(count + 1)) for value, count in zip(first, counts, strict=True))
    left = tuple(
        tuple(value * (count - place) for place in range(count + 1))
        for value, count in zip(second, counts, strict=True)
    )
    return kept, left


def points_of(table: Points, division: Division) -> int:
    """Return what a division is worth to the role whose table it is."""
    return sum(row[place] for row, place in zip(table, division, strict=True))


def most_joint_points(first: Points, second: Points) -> int:
    """Return the most points that the two can have together."""
    return sum(max(map(int.__add__, *rows)) for rows in zip(first, second, strict=True))


def is_pareto_optimal(first: Points, second: Points, *, points: tuple[int, int]) -> bool:
    """Whether no division gives one role more than these points and the other no less."""
    own, others = points
    return not any(
        mine >= own and theirs >= others and (mine, theirs) != points for mine, theirs in pareto_points(first, second)
    )


@functools.lru_cache(maxsize=1024)
def pareto_points(first: Points, second: Points) -> tuple[tuple[int, int], ...]:
    """Return the points of both in all Pareto-optimal divisions, by the points of the first."""
    # What is worse for both in some of the things is so in all of them, so that it can be dropped at once.
    reached: tuple[tuple[int, int], ...] = ((0, 0),)
    for rows in zip(first, second, strict=True):
        options = _undominated(zip(*rows, strict=True))
        sums = itertools.product(reached, options)
        reached = _undominated((mine + more, theirs + others) for (mine, theirs), (more, others) in sums)
    return reached


def _undominated(points: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    kept: list[tuple[int, int]] = []
    for mine, theirs in sorted(points, reverse=True):
        if not kept or theirs > kept[-1][1]:
            kept.append((mine, theirs))
    return tuple(kept)


def conceded(own: Points, wished: Division, weights: Sequence[float], aspiration: float) -> Division:
    """Return a division worth at least the aspiration to a role, and otherwise near to what its partner wished.

    It starts at the role's own best and goes step by step where a step costs least by its weight; an aspiration above
    the best gives the best.
    """
    division = [
        max(range(len(row)), key=lambda place: (row[place], -abs(place - wish)))
        for row, wish in zip(own, wished, strict=True)
    ]
    left = points_of(own, tuple(division)) - aspiration
    steps = [(0.0, thing, 0, place) for thing, place in enumerate(division)]  # weighed cost, thing, cost, place
    while steps:
        _, thing, cost, place = heapq.heappop(steps)
        # No step wins anything back: one that is too dear now stays so, and those behind it need it.
        if cost > left:
            continue
        division[thing], left = place, left - cost
        if place != wished[thing]:
            further = place + (1 if wished[thing] > place else -1)
            cost = own[thing][place] - own[thing][further]
            heapq.heappush(steps, (cost / weights[thing], thing, cost, further))
    return tuple(division)
