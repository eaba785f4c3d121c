"""What a judge goes by: principles to compare by, examples with their answers, rubrics for single messages."""

from __future__ import annotations

import importlib.resources
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import yaml
from pydantic import Field, StringConstraints, ValidationError

from selfplay.config import Settings
from selfplay.errors import UserError
from selfplay.reward_model.dialogs import Dialog, Message
from selfplay.whole_files import reason
from selfplay.written import Source, nearest, read_source, wrong_value

__all__ = ["PARTNER", "SPEAKER", "Constitution", "FewShot", "Principle", "Rubric", "read_constitution"]

SPEAKER, PARTNER = "Speaker", "Partner"  # who is judged, and everybody else
OURS = "constitution.yaml"
NAME = r"^[a-z0-9_]+$"
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
LINE = re.compile(rf"({SPEAKER}|{PARTNER}):\s*(\S.*)", re.DOTALL)


class Principle(Settings):
    """What two dialogs are compared by."""

    id: str = Field(pattern=NAME)  # recorded with each verdict
    compare: Words  # asks in which option the Speaker does better
    about: str = ""  # what it is an example of: helpful, honest, kind, ...


class FewShot(Settings):
    """A comparison with its answer; messages are lines such as "Partner: Hello!"."""

    principle: str
    before: tuple[str, ...] = ()  # what both options go on from
    better: tuple[str, ...] = Field(min_length=1)
    worse: tuple[str, ...] = Field(min_length=1)

    @property
    def options(self) -> tuple[Dialog, Dialog]:
        """The better dialog and the worse one."""
        return _dialog([*self.before, *self.better]), _dialog([*self.before, *self.worse])


class Rubric(Settings):
    """What one message is scored by, from 1 to 5."""

    id: str = Field(pattern=NAME)
    asks: Words
    worst: Words  # what 1 means
    best: Words  # what 5 means


class Constitution(Settings):
    """Principles, examples and rubrics; `read_constitution` reads it from a file."""

    principles: tuple[Principle, ...] = Field(min_length=1)
    few_shots: tuple[FewShot, ...] = ()
    rubrics: tuple[Rubric, ...] = ()

    def principle(self, id: str) -> Principle:
        """Return the principle of an id; raises UserError if there is none."""
        return cast(Principle, _named(id, self.principles, kind="principle"))

    def rubric(self, id: str) -> Rubric:
        """Return the rubric of an id; raises UserError if there is none."""
        return cast(Rubric, _named(id, self.rubrics, kind="rubric"))

    def shots(self, num: int) -> tuple[FewShot, ...]:
        """Return the first few examples; raises UserError if there are fewer."""
        if num > len(self.few_shots):
            raise UserError(
                f"few_shot={num}: the constitution has {len(self.few_shots)} examples; add some, or ask less"
            )
        return self.few_shots[:num]


def read_constitution(path: str = "") -> Constitution:
    """Read a constitution from a YAML file; "": the one that comes with the package.

    Raises UserError: the file cannot be read, or which line of it is wrong, and why.
    """
    source = _source(path)
    try:
        constitution = Constitution.model_validate(source.tree)
    except ValidationError as error:
        raise UserError(_sentence(source, cast("dict[str, Any]", error.errors()[0]))) from error
    for problem in _problems(constitution):
        raise UserError(f"{source.name}: {problem}")
    return constitution


def _source(path: str) -> Source:
    if not path:
        text = (importlib.resources.files("selfplay.judge") / OURS).read_text(encoding="utf-8")
        return read_source(OURS, text)
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"constitution={path}: cannot be read: {reason(error)}") from error
    return read_source(path, text)


def _sentence(source: Source, problem: dict[str, Any]) -> str:
    keys = problem["loc"]
    where = f"{source.name}, line {_line(source, keys)}"
    key = ".".join(str(key) for key in keys)
    if problem["type"] == "extra_forbidden":
        known = list(_fields(keys))
        return f"{where}: {key}: unknown key{nearest(str(keys[-1]), known)}"
    if problem["type"] == "string_pattern_mismatch":
        return f"{where}: {key}={problem['input']}: must be made of small letters, digits and underscores"
    if problem["type"] == "too_short":
        return f"{where}: {key}: must not be empty"
    return f"{where}: {wrong_value(key, cast(Any, problem))}"


def _line(source: Source, keys: Sequence[int | str]) -> int:
    """Return the line of the last of nested keys that is in the file; those of lists are numbers."""
    node, line = source.root, 1
    for key in keys:
        items: dict[object, yaml.Node] = {}
        if isinstance(node, yaml.MappingNode):
            items = {name.value: value for name, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            items = dict(enumerate(node.value))
        if key not in items:
            break
        node = items[key]
        line = node.start_mark.line + 1
    return line


def _fields(keys: Sequence[int | str]) -> Iterable[str]:
    """Return the keys that stand where an unknown one was found."""
    groups: dict[object, type[Settings]] = {"principles": Principle, "few_shots": FewShot, "rubrics": Rubric}
    return groups.get(keys[0], Constitution).model_fields if len(keys) > 1 else Constitution.model_fields


def _problems(constitution: Constitution) -> Iterator[str]:
    """Yield what is wrong with a constitution whose parts are each in order."""
    ids = [principle.id for principle in constitution.principles]
    for kind, names in (("principle", ids), ("rubric", [rubric.id for rubric in constitution.rubrics])):
        yield from (
            f"two have the id {name}: {kind} ids must differ" for name, num in Counter(names).items() if num > 1
        )
    for number, shot in enumerate(constitution.few_shots):
        place = f"few_shots.{number}"
        if shot.principle not in ids:
            yield f"{place}.principle={shot.principle}: no principle has that id{nearest(shot.principle, ids)}"
        for line in (*shot.before, *shot.better, *shot.worse):
            if not LINE.fullmatch(line):
                yield f"{place}: {line[:40]!r} must begin with {SPEAKER}: or {PARTNER}:"
        for key in ("better", "worse"):
            if not getattr(shot, key)[-1].startswith(SPEAKER):
                yield f"{place}.{key}: must end with what the {SPEAKER} says"


def _named(id: str, choices: Sequence[Principle | Rubric], *, kind: str) -> Principle | Rubric:
    found = next((one for one in choices if one.id == id), None)
    if found is None:
        raise UserError(f"{kind}={id}: the constitution has no such {kind}{nearest(id, [one.id for one in choices])}")
    return found


def _dialog(lines: Sequence[str]) -> Dialog:
    parsed = [cast("re.Match[str]", LINE.fullmatch(line)) for line in lines]
    return Dialog(messages=tuple(Message(text=match[2], is_focus=match[1] == SPEAKER) for match in parsed))
