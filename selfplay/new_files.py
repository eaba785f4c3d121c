"""What `env new` and `reward new` share: which names they refuse, and how their files are written."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import keyword
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from selfplay.errors import UserError

__all__ = ["check_free", "check_module_name", "is_word_of_python", "names_in", "write_files"]

NAME = re.compile(r"[a-z][a-z0-9_]*")
# Modules of these names would hide ours in the folder that they are written to; pytest reads conftest.py by itself.
OWN_MODULES = ("conftest", "envs", "rewards", "selfplay")


def check_module_name(name: str, *, what: str, example: str, taken: Sequence[str]) -> None:
    """Raise UserError for what cannot be the name of a new file, or is taken.

    what: "environment" or "reward".
    """
    article = "an" if what[0] in "aeiou" else "a"
    if not NAME.fullmatch(name) or name.startswith("test_"):
        raise UserError(
            f"{name!r} cannot be the name of {article} {what}: it is a file's, small letters, digits and underlines, "
            f"without test_ before it, such as {example}"
        )
    if is_word_of_python(name):
        raise UserError(f"{name!r} is a word of Python's; give the {what} another name")
    if name in taken:
        raise UserError(f"there is {article} {what} {name!r} already; give yours another name")
    if name in sys.stdlib_module_names or name in OWN_MODULES or _is_installed(name):
        raise UserError(f"{name}.py would hide the module {name!r}; give the {what} another name")


def is_word_of_python(name: str) -> bool:
    """Whether a name means something in Python already."""
    return keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name)


def names_in(source: str) -> frozenset[str]:
    """Return the names that a program imports, defines and uses; none of them can be given to anything else in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return frozenset(found)


def check_free(files: Iterable[Path]) -> None:
    """Raise UserError if one of the files exists."""
    for file in files:
        if file.exists():
            raise UserError(f"{file} exists already; give another name or out=FOLDER, nothing is overwritten")


def write_files(texts: Mapping[Path, str]) -> None:
    """Write new files, in folders that are made if need be: all of them, or with a UserError none."""
    check_free(texts)
    written: list[Path] = []
    try:
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as stream:
                written.append(file)
                stream.write(text)
    except OSError as error:
        for done in written:
            done.unlink()
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _is_installed(name: str) -> bool:
    """Whether a package or module of that name is there; a file in the folder where this runs is none."""
    found = importlib.util.find_spec(name)
    return found is not None and (found.origin is None or Path(found.origin).parent != Path.cwd())
