"""What a reward model is trained on: dialogs, and what somebody or something said of them.

Legend: K dialogs of an example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from selfplay.line_files import RecordError
from selfplay.reward_model.dialogs import Dialog, Judged, dialog_from_messages, dialog_to_messages

__all__ = ["Example", "Kind", "Split", "example_from_json", "example_to_json", "groups_of", "split_examples"]

EXAMPLE_SCHEMA = "selfplay.example/1"
Kind = Literal["pair", "ranking", "best", "rating"]
Split = Literal["train", "held_out"]
DRAW_SPLIT = 2001  # first part of the spawn key


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """K dialogs and what was said of them.

    Kinds and their targets:
      pair     K = 2, one target: how likely the first is preferred, in [0, 1]; 0.5 is a tie
      ranking  K targets: the rank of each, 1 is the best; equal ranks are ties
      best     one target: the number of the winner, from 0
      rating   K = 1, one target: the rating, in units of its source's deviation from its mean

    Example: ``Example(dialogs=(one, other), kind="pair", targets=(1.0,), judged="turn", source="hh", keys=("p:3f",))``
    """

    dialogs: tuple[Dialog, ...]  # [K]
    kind: Kind
    targets: tuple[float, ...]
    judged: Judged = "conversation"
    source: str = ""  # who or what said it: "person", "judge:smollm2-135m", "gold:question", a file's name
    keys: tuple[str, ...] = ()  # examples that share a key are never on both sides of a split
    split: Split | None = None  # which side it is on; None: `split_examples` decides
    where: str = ""  # file and line, for messages

    def __post_init__(self) -> None:
        """Refuse targets that do not go with the kind."""
        problem = _problem(self)
        if problem:
            raise ValueError(problem)


def _problem(example: Example) -> str:
    num, targets = len(example.dialogs), example.targets
    if not all(np.isfinite(targets)):
        return "a target is not a finite number"
    right = {
        "pair": num == 2 and len(targets) == 1 and 0.0 <= targets[0] <= 1.0,
        "ranking": num >= 2 and len(targets) == num and all(rank >= 1 for rank in targets),
        "best": num >= 2 and len(targets) == 1 and targets[0] in range(num),
        "rating": num == 1 and len(targets) == 1,
    }
    return "" if right[example.kind] else f"{num} dialogs with targets {list(targets)} are no {example.kind}"


def split_examples(examples: Sequence[Example], *, held_out: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return the examples to train on and the held-out ones.

    Examples that share a key, directly or through others, stay together.  What says its own split goes there.
    held_out: the share of examples that are to be held out, of those that say nothing; groups are drawn by seed until
    it is reached.
    """
    free = [number for number, example in enumerate(examples) if example.split is None]
    groups = groups_of([examples[number].keys for number in free])
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAW_SPLIT,)))
    wanted, chosen = held_out * len(free), set[int]()
    for number in generator.permutation(len(groups)).tolist():
        group = groups[number]
        # Half of a group too many is nearer to what is wanted than half too few.
        if len(chosen) + len(group) / 2 <= wanted:
            chosen.update(free[member] for member in group)
    sides: tuple[list[Example], list[Example]] = ([], [])
    for number, example in enumerate(examples):
        is_held_out = example.split == "held_out" if example.split else number in chosen
        sides[is_held_out].append(example)
    return sides


def groups_of(keys: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the numbers of what is joined by keys, in the order in which groups first appear."""
    parent = list(range(len(keys)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[str, int] = {}
    for number, own in enumerate(keys):
        for key in own:
            one, other = sorted((root(number), root(first.setdefault(key, number))))
            parent[other] = one
    found: dict[int, list[int]] = {}
    for number in range(len(keys)):
        found.setdefault(root(number), []).append(number)
    return list(found.values())


def example_to_json(example: Example) -> dict[str, Any]:
    """Return the record of an example."""
    return {
        "schema": EXAMPLE_SCHEMA,
        "kind": example.kind,
        "dialogs": [dialog_to_messages(dialog) for dialog in example.dialogs],
        "targets": list(example.targets),
        "judged": example.judged,
        "source": example.source,
        "keys": list(example.keys),
        "split": example.split,
        "where": example.where,
    }


def example_from_json(record: Mapping[str, Any]) -> Example:
    """Return the example of a record.  Raises RecordError for what is none."""
    if record.get("schema") != EXAMPLE_SCHEMA:
        raise RecordError(f"schema {record.get('schema')!r} is not {EXAMPLE_SCHEMA}")
    if record.get("kind") not in get_args(Kind) or record.get("judged") not in get_args(Judged):
        raise RecordError(f"kind {record.get('kind')!r} judged by {record.get('judged')!r} is not known")
    try:
        return Example(
            dialogs=tuple(dialog_from_messages(messages) for messages in record["dialogs"]),
            kind=record["kind"],
            targets=tuple(float(target) for target in record["targets"]),
            judged=record["judged"],
            source=str(record.get("source", "")),
            keys=tuple(str(key) for key in record.get("keys", ())),
            split=record.get("split"),
            where=str(record.get("where", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"no example: {error}") from error
