"""What was read of labelled data, and when it is too bad to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.errors import UserError
from selfplay.reward_model.examples import Example

__all__ = ["Loaded", "check_teaches", "counted", "is_clear", "joined", "ordered", "stop_if_bad"]

MOST_BAD = 0.05  # of the lines
MOST_SHOWN = 5  # bad lines, in the message


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Examples, and what became of the lines that gave none.

    Example: ``Loaded(examples=(...,), num_lines=200, problems=("pairs.jsonl:12: not a JSON object",),
    notes=("31 ties",))``
    """

    examples: tuple[Example, ...]
    num_lines: int
    problems: tuple[str, ...] = ()  # lines that cannot be used, with their numbers and why
    notes: tuple[str, ...] = ()  # what else there is to know, such as what was left out


def joined(parts: Sequence[Loaded]) -> Loaded:
    """Return several readings as one."""
    return Loaded(
        examples=tuple(example for part in parts for example in part.examples),
        num_lines=sum(part.num_lines for part in parts),
        problems=tuple(problem for part in parts for problem in part.problems),
        notes=tuple(note for part in parts for note in part.notes),
    )


def stop_if_bad(loaded: Loaded, name: str, *, place: str) -> Loaded:
    """Return what was read; raises UserError if over 5% of its lines are bad.

    name: how the message calls it; place: what stands before the line number in its problems.
    """
    bad = len(loaded.problems)
    if bad <= MOST_BAD * loaded.num_lines:
        return loaded
    shown = [_with_number(problem, place) for problem in loaded.problems[:MOST_SHOWN]]
    rest = [f"and {bad - MOST_SHOWN} more"] if bad > MOST_SHOWN else []
    raise UserError(
        f"{bad} of {loaded.num_lines} lines of {name} cannot be used, and more than {100 * MOST_BAD:.0f}% stops: "
        f"{'; '.join([*shown, *rest])}"
    )


def _with_number(problem: str, place: str) -> str:
    """Return a problem without the file that the message has named already: ``line 3: not valid JSON``."""
    return f"line {problem.removeprefix(f'{place}:')}" if problem.startswith(f"{place}:") else problem


def check_teaches(loaded: Loaded) -> None:
    """Raise UserError unless something is preferred to something."""
    if not loaded.examples:
        why = "; ".join(loaded.notes) or "there are no labels in it"
        raise UserError(f"the data gives nothing to learn from: {why}")
    ratings = {(one.source, one.targets) for one in loaded.examples if one.kind == "rating"}
    if len(ratings) > len({source for source, _ in ratings}) or any(map(is_clear, loaded.examples)):
        return
    what = "all ratings are the same" if ratings else "all of it are ties"
    raise UserError(f"the data gives nothing to learn from, for it prefers nothing to anything: {what}")


def is_clear(example: Example) -> bool:
    """Whether it prefers one dialog to another; a rating does not, by itself."""
    if example.kind == "ranking":
        return len(set(example.targets)) > 1
    return example.kind == "best" or (example.kind == "pair" and example.targets[0] != 0.5)


def ordered(example: Example) -> Example:
    """Return a pair with its sides in the order of their contents' hashes, whichever is preferred.

    In many files the chosen one always comes first, which says nothing.
    """
    first, second = example.dialogs
    if first.key <= second.key:
        return example
    return Example(
        dialogs=(second, first),
        kind="pair",
        targets=(1.0 - example.targets[0],),
        judged=example.judged,
        source=example.source,
        keys=example.keys,
        split=example.split,
        where=example.where,
    )


def counted(left_out: Counter[str]) -> list[str]:
    """Return what was counted as notes, such as "31 ties"; what was counted begins with a plural."""
    return [f"{num:,} {what if num > 1 else _one(what)}" for what, num in left_out.items() if num]


def _one(what: str) -> str:
    noun, space, rest = what.partition(" ")
    return f"{noun.removesuffix('s')}{space}{rest}"
