"""The transcript page as one script: the modules of view/static, each in a function of its own.

A module becomes ``const $name = (() => { ...; return { exported names }; })();``, so that names need not differ between
modules; its imports become ``const { a, b: c } = $other;``.  Only the forms that our modules use are understood, and
anything else is an error: a test bundles them all.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["BundleError", "bundle", "static_folder", "style"]

# What the page needs besides its entry: data and drawing first; then what it would load only when it is needed.
FIRST, ENTRY, LATER = ("offline.js",), "app.js", "contests.js"
PLOTTING = "vendor/uPlot.esm.js"
STYLES = ("vendor/uPlot.min.css", "style.css", "list.css", "conversation.css", "pages.css", "contests.css")

IMPORT = re.compile(r'^import\s+\{([^}]*)\}\s+from\s+"\./([\w./-]+)";[ \t]*$', re.MULTILINE)
DECLARED = re.compile(r"^export\s+((?:async\s+)?function\*?|class|const|let)\s+(\w+)", re.MULTILINE)
DEFAULT = re.compile(r"^export\s+\{\s*(\w+)\s+as\s+default\s*\};[ \t]*$", re.MULTILINE)
LEFT_OVER = re.compile(r"^\s*(import\s*[\w{*\"']|export\b)", re.MULTILINE)


class BundleError(ValueError):
    """A module is written in a way that cannot be put into one script."""


def static_folder() -> Path:
    """Return where the page's files lie."""
    return Path(__file__).parent.parent / "view" / "static"


def bundle(folder: Path) -> str:
    """Return the page's script; raises BundleError if a module has a form that is not understood."""
    modules: dict[str, str] = {}
    plotting = _library(PLOTTING, (folder / PLOTTING).read_text(encoding="utf-8"))
    for name in (*FIRST, ENTRY, LATER):
        _gather(folder, name, modules, within=())
    shared = [f"globalThis.uPlot = {_name(PLOTTING)}.default;"]
    loaded = f"globalThis.selfplayContests = {_name(LATER)};"
    return "\n".join(['"use strict";', plotting, *shared, *modules.values(), loaded])


def style(folder: Path) -> str:
    """Return the page's style sheets in one."""
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in STYLES if (folder / name).exists())


def _gather(folder: Path, name: str, modules: dict[str, str], *, within: tuple[str, ...]) -> None:
    """Add a module after all that it imports."""
    if name in modules:
        return
    if name in within:
        raise BundleError(f"{' imports '.join((*within, name))}")
    text = (folder / name).read_text(encoding="utf-8")
    for found in IMPORT.finditer(text):
        _gather(folder, found[2], modules, within=(*within, name))
    modules[name] = _module(name, text)


def _library(name: str, text: str) -> str:
    """Return a library that exports one thing in its last line; comments may hold whatever else."""
    found = next(DEFAULT.finditer(text), None)
    if found is None or text[found.end() :].strip():
        raise BundleError(f"{name} does not end with its default export")
    return f"const {_name(name)} = (() => {{\n{text[: found.start()]}\nreturn {{ default: {found[1]} }};\n}})();"


def _module(name: str, text: str) -> str:
    exported = [found[2] for found in DECLARED.finditer(text)]
    body = IMPORT.sub(lambda found: f"const {{ {_renamed(found[1])} }} = {_name(found[2])};", text)
    body = DECLARED.sub(r"\1 \2", body)
    left = LEFT_OVER.search(body)
    if left is not None:
        line = body[left.start() :].strip().partition("\n")[0]
        raise BundleError(f"{name}: {line!r} is a form of import or export that is not understood")
    return f"const {_name(name)} = (() => {{\n{body}\nreturn {{ {', '.join(exported)} }};\n}})();"


def _renamed(names: str) -> str:
    return ", ".join(re.sub(r"\s+as\s+", ": ", name.strip()) for name in names.split(",") if name.strip())


def _name(module: str) -> str:
    return "$" + re.sub(r"\W", "_", Path(module).name.removesuffix(".js"))
