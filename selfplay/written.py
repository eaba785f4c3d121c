"""What users write, word or YAML file, as values; and one-sentence answers to what is wrong with it.

Only plain numbers and null stop being text here.  Everything else stays as it was written until the field it belongs
to decides what it is, so a name may be 007, and a topic may be "no".
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic_core import ErrorDetails

from selfplay.errors import UserError
from selfplay.stored_config import MOST_BYTES

# A number as it is usually written; anything else (007, 1_000, 1e-5, yes) stays text until a field reads it.
MOST_VALUES = 50_000  # of a file, with what its aliases repeat written out
PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A YAML file that was read."""

    name: str  # as the user knows it: "preset chat", "my.yaml"
    tree: dict[str, Any]  # what it says
    root: yaml.Node | None  # where that stands in the file; None: an empty file


def read_source(name: str, text: str) -> Source:
    """Read a YAML mapping; UserError names the line that is at fault."""
    if len(text) > MOST_BYTES:
        raise UserError(f"{name}: has {len(text)} characters, and a file of settings at most {MOST_BYTES}")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _num_values(root, {}) > MOST_VALUES:
            raise UserError(f"{name}: its aliases (*name) repeat too much: more than {MOST_VALUES} values in all")
        tree = {} if root is None else _value_of_node(root, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}, line {line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise _too_deep(name) from error
    if not isinstance(tree, dict):
        raise UserError(f"{name}, line 1: expected `key: value` lines")
    return Source(name=name, tree=tree, root=root)


def value_of_word(key: str, text: str) -> Any:
    """Return what the text after `key=` says: a YAML list or mapping in brackets, else a scalar.

    Text may begin with a bracket too: `{topic}`, `{a} and {b}` and `[smiles] Hello` stay as they are.
    """
    if not text.startswith(("[", "{")):
        return _scalar(text)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        assert root is not None, text
        return _value_of_node(root, key) if _is_collection(root, text) else text
    except RecursionError as error:
        raise _too_deep(key) from error
    except yaml.YAMLError as error:
        if {"[": "]", "{": "}"}[text[0]] in text:
            return text
        raise UserError(f"{key}={text}: not a list or mapping such as [a, b] or {{a: 1}}") from error


def _is_collection(root: yaml.Node, text: str) -> bool:
    """Return whether a word is one list, or one mapping with a value in it, from its first bracket to its last."""
    if not isinstance(root, yaml.CollectionNode) or not root.flow_style:
        return False  # `{topic}: a talk` is a mapping without brackets
    if root.end_mark.index < len(text.rstrip()):
        return False
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return not pairs or any(value.start_mark.index < value.end_mark.index for _, value in pairs)


def _too_deep(name: str) -> UserError:
    return UserError(f"{name}: its values are nested too deeply, or one is inside itself (as in &a [*a])")


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node is with its aliases written out; raises RecursionError if it is inside itself."""
    if id(node) not in known:
        inside = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
        children = [] if isinstance(node, yaml.ScalarNode) else inside
        known[id(node)] = 1 + sum(_num_values(child, known) for child in children)
    return known[id(node)]


def _value_of_node(node: yaml.Node, name: str) -> Any:
    """Return a node's value; only plain numbers and null stop being text, so that no field loses what was written."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node.value, is_quoted=node.style is not None, is_empty_null=True)
    if isinstance(node, yaml.SequenceNode):
        return [_value_of_node(item, name) for item in node.value]
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if key in tree:
            raise UserError(f"{name}, line {key_node.start_mark.line + 1}: {key} is given twice")
        tree[key] = _value_of_node(value_node, name)
    return tree


def _scalar(text: str, *, is_quoted: bool = False, is_empty_null: bool = False) -> str | int | float | None:
    if is_quoted:
        return text
    if text in ("null", "~") or (is_empty_null and not text):
        return None
    if PLAIN_NUMBER.fullmatch(text):
        number = float(text) if "." in text else int(text)
        if str(number) == text:
            return number
    return text


def as_written(value: Any) -> Any:
    """Return a Python value as it would come back from a YAML file."""
    if isinstance(value, Mapping):
        return {str(key): as_written(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_written(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, str):
        return value
    return value if isinstance(value, int | float) and _scalar(str(value)) == value else str(value)


def with_booleans(value: Any) -> Any:
    """Undo `as_written` for true and false, which are read as text either way, so that no quotes show."""
    if isinstance(value, dict):
        return {key: with_booleans(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_booleans(item) for item in value]
    return value == "true" if value in ("true", "false") else value


def line_of(source: Source, keys: Sequence[object]) -> int | None:
    """Return the line on which a key stands in a file; None: it comes from elsewhere."""
    node, line = source.root, None
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((name, value) for name, value in pairs if name.value == str(key)), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def takes_text(kind: Any) -> bool:
    """Return whether a field of this type wants the text as it was written."""
    origin = get_origin(kind)
    if origin is Annotated:
        return takes_text(get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return any(takes_text(arm) for arm in get_args(kind))
    if origin is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return kind is str or kind is Path


def wrong_value(key: str, problem: ErrorDetails) -> str:
    """Return the sentence for one of pydantic's errors: `key=value: must be at least 0`."""
    kind, bounds = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        return f"{key}: is missing"
    return f"{key}={_shown(problem['input'])}: {_requirement(kind, bounds, problem['msg'])}"


def _requirement(kind: str, bounds: Mapping[str, Any], message: str) -> str:
    exact = {
        "greater_than_equal": f"must be at least {bounds.get('ge', 0):g}",
        "greater_than": f"must be above {bounds.get('gt', 0):g}",
        "less_than_equal": f"must be at most {bounds.get('le', 0):g}",
        "less_than": f"must be below {bounds.get('lt', 0):g}",
        "literal_error": f"must be {bounds.get('expected', '').replace(chr(39), '')}",
        "value_error": str(bounds.get("error")),
        "finite_number": "must be a finite number",
        "string_type": "must be text",
        "string_too_short": "must not be empty",
        "path_type": "must be a path",
        "model_type": "is a group of settings; give its keys, as in group.key=value",
        "model_attributes_type": "is a group of settings; give its keys, as in group.key=value",
    }
    families = {
        "int": "must be a whole number",
        "float": "must be a number",
        "bool": "must be true or false",
        "list": "must be a list such as [a, b]",
        "tuple": "must be a list such as [a, b]",
        "dict": "must hold keys and values such as {a: b}",
    }
    return exact.get(kind) or families.get(kind.split("_")[0]) or message[:1].lower() + message[1:]


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip()
    return "null" if value is None else str(value)


def nearest(name: str, choices: Sequence[str], *, is_list_shown: bool = True) -> str:
    """Return what to append to "unknown name": the nearest choice, else all of them."""
    close = difflib.get_close_matches(name, choices, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; choose from {', '.join(choices)}" if choices and is_list_shown else ""
