"""What there is to point at: tables of objects and people, and how a starting position is drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from envs.drawing import Draw, draw_position
from selfplay.dialog import Split

Difficulty = Literal["easy", "hard"]

# No word stands in two tables, so that a word says which attribute it is of.
LOOKS = ("small", "big", "round", "square", "flat", "tall")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink")
MATERIALS = ("wooden", "plastic", "metal", "paper", "clay", "stone")
THINGS = ("cup", "box", "ball", "lamp", "chair", "hat", "spoon", "clock", "bag", "shoe", "table", "plate")
OBJECTS = (LOOKS, COLOURS, MATERIALS, THINGS)

NAMES = (
    *("Anna", "Ben", "Cara", "David", "Ella", "Frank", "Greta", "Henry", "Ivan", "Jane", "Kate", "Leo"),
    *("Maria", "Nora", "Oscar", "Paul", "Rosa", "Simon", "Tom", "Vera", "Walter", "Yara", "Zoe", "Felix"),
)
TOWNS = ("Oslo", "Rome", "Paris", "Lima", "Cairo", "Delhi", "Boston", "Vienna")  # where they went to school
JOBS = ("nurse", "baker", "pilot", "farmer", "teacher", "lawyer", "singer", "painter")
HOBBIES = ("chess", "tennis", "golf", "yoga", "sailing", "fishing", "knitting", "dancing")
DETAILS = (TOWNS, JOBS, HOBBIES)
VALUES_IN_PLAY = 3  # of each detail in one position: few, so that one detail seldom tells two people apart

MAX_OPTIONS = 8  # easy friends need 2 * 8 - 1 names, and easy objects 8 colours


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Two lists and the one entry that has to be selected, which is in both.

    Example: ``Position(lists=(("Anna Oslo nurse chess", ...), ("Ben Rome pilot golf", ...)), answer="Anna Oslo ...")``
    """

    lists: tuple[tuple[str, ...], tuple[str, ...]]  # of the two roles, each in its own order
    answer: str


def objects_of(seed: int, split: Split, *, options: int, difficulty: Difficulty) -> Position:
    """Return the same objects in two orders, each as likely to be the answer.

    easy: one word, its colour or its kind, singles out any object.  hard: no word does.
    """

    def make(draw: Draw) -> Position:
        objects = _hard_objects(draw, options) if difficulty == "hard" else _easy_objects(draw, options)
        lists = tuple(draw.shuffled(objects)), tuple(draw.shuffled(objects))
        return Position(lists=lists, answer=draw.choose(objects))

    return draw_position(seed, split, make, key=_key)


def friends_of(seed: int, split: Split, *, options: int, difficulty: Difficulty) -> Position:
    """Return two tables of people with one in common, each as likely to be the one.

    easy: the others of the two tables have different names.  hard: all names are in both tables, and the others
    differ in one detail.
    """

    def make(draw: Draw) -> Position:
        pools = [draw.some(values, VALUES_IN_PLAY) for values in DETAILS]
        names = draw.some(NAMES, options if difficulty == "hard" else 2 * options - 1)
        rows = [(name, *(draw.choose(pool) for pool in pools)) for name in names]
        first = rows[:options]
        others = [_changed(draw, row, pools) for row in rows[1:]] if difficulty == "hard" else rows[options:]
        lists = tuple(tuple(" ".join(row) for row in draw.shuffled(table)) for table in (first, [rows[0], *others]))
        return Position(lists=(lists[0], lists[1]), answer=" ".join(rows[0]))

    return draw_position(seed, split, make, key=_key)


def _key(position: Position) -> str:
    # Whose list is whose, the orders and the answer do not matter: the same entries are never in both splits.
    return "|".join(sorted({*position.lists[0], *position.lists[1]}))


def _easy_objects(draw: Draw, options: int) -> list[str]:
    own = draw.choose((COLOURS, THINGS))
    columns = [
        draw.some(values, options) if values is own else _two_values(draw, values, options) for values in OBJECTS
    ]
    return [" ".join(row) for row in zip(*columns, strict=True)]


def _two_values(draw: Draw, values: tuple[str, ...], options: int) -> list[str]:
    two = draw.some(values, 2)
    return [draw.choose(two) for _ in range(options)]


def _hard_objects(draw: Draw, options: int) -> list[str]:
    objects: list[str] = []
    while len(set(objects)) < options:
        columns = [_shared_values(draw, values, options) for values in OBJECTS]
        objects = [" ".join(row) for row in zip(*columns, strict=True)]
    return objects


def _shared_values(draw: Draw, values: tuple[str, ...], options: int) -> list[str]:
    """Return a value for each object, such that at least two have the same."""
    some = draw.some(values, 1 + draw.below(min(options // 2, len(values))))
    return draw.shuffled([*some, *some, *(draw.choose(some) for _ in range(options - 2 * len(some)))])


def _changed(draw: Draw, row: tuple[str, ...], pools: list[list[str]]) -> tuple[str, ...]:
    place = draw.below(len(pools))
    other = draw.choose([value for value in pools[place] if value != row[1 + place]])
    return (*row[: 1 + place], other, *row[2 + place :])
