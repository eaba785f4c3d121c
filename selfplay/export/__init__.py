"""Stored conversations for other tools: `export` writes a run, or what a filter leaves of it, in one of their formats.

    export(folder, Request(to="html", out=Path("run.html"), where="reward<0")) -> Result
    export_rows(folder, "csv", query, out)   # what the page downloads: csv, html or json, as one file

What is written is there whole or not at all, and nothing that is there already is replaced.
"""

from selfplay.export.request import DEFAULT_LIMIT, KINDS, SOURCES, TARGETS, Kind, Request, Result, Source, Target
from selfplay.export.targets import export, export_rows

__all__ = [
    "DEFAULT_LIMIT",
    "KINDS",
    "SOURCES",
    "TARGETS",
    "Kind",
    "Request",
    "Result",
    "Source",
    "Target",
    "export",
    "export_rows",
]
