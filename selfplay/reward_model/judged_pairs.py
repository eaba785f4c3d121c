"""Judgements of any kind as pairs: what accuracies, baselines and intervals are counted over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from selfplay.reward_model.dialogs import Dialog, Judged
from selfplay.reward_model.examples import Example, groups_of

__all__ = ["JudgedPair", "pairs_of"]

TIE = 1e-6
DRAW_MATCHES = 2121  # first part of the spawn key


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """Two dialogs and which is preferred.

    Example: ``JudgedPair(first=one, second=other, target=1.0, judged="turn", source="hh", group=3)``
    """

    first: Dialog
    second: Dialog
    target: float  # how likely the first is preferred, in [0, 1]; 0.5 is a tie
    judged: Judged
    source: str
    group: int  # pairs of one group share a key, or come from one example: they are no independent evidence

    @property
    def is_clear(self) -> bool:
        """Whether one of the two is preferred."""
        return abs(self.target - 0.5) > TIE

    @property
    def example(self) -> Example:
        """The pair as an example."""
        return Example(
            dialogs=(self.first, self.second),
            kind="pair",
            targets=(self.target,),
            judged=self.judged,
            source=self.source,
        )


def pairs_of(examples: Sequence[Example], *, seed: int = 0) -> list[JudgedPair]:
    """Return the pairs that examples come to, ties included.

    A ranking of K gives its K(K-1)/2 pairs, a best-of-K its winner against each other.  Ratings are matched by seed:
    each is in at most one pair, with one of its source that differs.
    """
    found = [
        _Found(first=example.dialogs[one], second=example.dialogs[other], target=target, members=(number,))
        for number, example in enumerate(examples)
        for one, other, target in _preferences_in(example)
    ]
    found += _matched_ratings(examples, seed=seed)
    groups = _groups(examples, found)
    return [
        JudgedPair(
            first=pair.first,
            second=pair.second,
            target=pair.target,
            judged=examples[pair.members[0]].judged,
            source=examples[pair.members[0]].source,
            group=groups[pair.members[0]],
        )
        for pair in found
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    first: Dialog
    second: Dialog
    target: float
    members: tuple[int, ...]  # numbers of the examples that it comes from


def _preferences_in(example: Example) -> Iterator[tuple[int, int, float]]:
    """Yield the numbers of two dialogs and how likely the first is preferred; a rating alone prefers nothing."""
    targets = example.targets
    if example.kind == "pair":
        yield 0, 1, targets[0]
    elif example.kind == "ranking":
        for one, other in combinations(range(len(targets)), 2):
            yield one, other, 0.5 if targets[one] == targets[other] else float(targets[one] < targets[other])
    elif example.kind == "best":
        winner = int(targets[0])
        for other in range(len(example.dialogs)):
            if other != winner:
                yield winner, other, 1.0


def _matched_ratings(examples: Sequence[Example], *, seed: int) -> list[_Found]:
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAW_MATCHES,)))
    waiting: dict[tuple[str, str], list[int]] = {}  # of each source, all with one rating: others would have matched
    found = []
    for number in generator.permutation(len(examples)).tolist():
        example = examples[number]
        if example.kind != "rating":
            continue
        unmatched = waiting.setdefault((example.source, example.judged), [])
        if not unmatched or examples[unmatched[0]].targets == example.targets:
            unmatched.append(number)
            continue
        partner = unmatched.pop()
        found.append(
            _Found(
                first=examples[partner].dialogs[0],
                second=example.dialogs[0],
                target=float(examples[partner].targets[0] > example.targets[0]),
                members=(partner, number),
            )
        )
    return found


def _groups(examples: Sequence[Example], found: Sequence[_Found]) -> list[int]:
    """Return each example's group: those that share a key, or a pair, directly or through others."""
    keys = [[f"key {key}" for key in example.keys] for example in examples]
    for number, pair in enumerate(found):
        for member in pair.members:
            keys[member].append(f"pair {number}")
    groups = {member: number for number, members in enumerate(groups_of(keys)) for member in members}
    return [groups[number] for number in range(len(examples))]
