"""What is asked of an export, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

__all__ = ["DEFAULT_LIMIT", "KINDS", "SOURCES", "TARGETS", "Kind", "Request", "Result", "Source", "Target"]

Target = Literal["html", "inspect", "trl", "openai", "parquet", "csv"]
Kind = Literal["supervised", "preference", "unpaired"]
Source = Literal["rewards", "labels"]

TARGETS: tuple[Target, ...] = get_args(Target)
KINDS: tuple[Kind, ...] = get_args(Kind)
SOURCES: tuple[Source, ...] = get_args(Source)
DEFAULT_LIMIT = 1000  # conversations of a page that is one file: some ten megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody wants.

    Example: ``Request(to="trl", out=Path("pairs.jsonl"), kind="preference", source="labels")``
    """

    to: Target
    out: Path  # a file; of parquet and csv a folder
    where: str = ""  # a filter, as in docs/filters.md; "": all conversations
    has_private: bool = True  # False: what only one role was told is left out
    has_tokens: bool = False  # html: whether tokens come along
    limit: int | None = None  # the newest so many conversations; 0: all; None: all, of html DEFAULT_LIMIT
    roles: tuple[str, ...] = ()  # openai, trl: whose views; (): all, of trl those that were trained
    kind: Kind = "supervised"  # trl
    source: Source = "rewards"  # trl: what says that something is better
    threshold: float | None = None  # trl unpaired: a turn's reward above it is good; None: the median
    gap: float = 0.0  # trl preference: how much more reward the better one has, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was written."""

    path: Path
    num: int  # of what `noun` says
    noun: str  # "conversation", "line"
    notes: tuple[str, ...] = ()  # sentences on what was left out
