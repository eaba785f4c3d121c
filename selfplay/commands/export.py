"""`selfplay export`: conversations for other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.text import Text

from selfplay.commands.conversation_rows import open_index
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.errors import UserError
from selfplay.export import DEFAULT_LIMIT, TARGETS, Kind, Request, Source, Target, export
from selfplay.export.inspect_log import log_name
from selfplay.run_reader import find_run

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "conversations for other tools: html, inspect, trl, openai, parquet, csv"
USAGE = f"""
selfplay export [RUN] to=FORMAT [out=PATH] [where=FILTER] [key=value ...] [--json]

Write the conversations of a run, or those that fit a filter, for other tools.  Nothing that exists is replaced.

  RUN            a run folder, a name under runs/, or nothing: the newest run
  to=html        the transcript page in one file: filter and read it without this package or a network
  to=inspect     a log for Inspect (`inspect view`); lost: tokens, and in each sample the other roles' briefs
  to=trl         JSON lines for TRL's trainers; lost: tokens, sizes of rewards
  to=openai      JSON lines of chat messages, one a conversation and role; lost: rewards, tokens
  to=parquet     two tables, of conversations and of turns, in a folder; needs pyarrow; lost: tokens
  to=csv         the same two tables as csv files; lost too: null against empty text
  out=PATH       where to (default: here, named after the run)
  where=FILTER   such as 'reward<0 & split=held_out' (docs/filters.md); to=trl takes training conversations alone
                 unless the filter names split
  private=false  leave out briefs, private facts, what may quote them (reasons, errors, the values of moves), people's
                 tags and labels, the configuration and this machine's folders; what players say stays
  limit=N        the newest N conversations, 0 for all (default: {DEFAULT_LIMIT} for html, else all)
  tokens=true    html: with every token and its numbers
  roles=A,B      openai, trl: whose views (default: all; trl: the trained ones)

Of to=trl:
  kind=supervised   prompt and completion: every turn after exactly what its role knew; turns that a limit cut, and
                    failed conversations, are left out; source=labels: only of what people chose
  kind=preference   prompt, chosen, rejected: two conversations on a scenario at the role's first turn that differs;
                    dropped where what it heard before differs, for then they share no prompt.  source=labels: by
                    people's choices, ties and both-bad dropped; source=rewards: best against worst of each group
  kind=unpaired     prompt, completion, label.  source=rewards: whether a turn's reward is above threshold= (default:
                    the median); source=labels: whether its conversation was chosen more often than not
  gap=0.5           preference by rewards: the least difference

Examples:
  selfplay export my-run to=html where='reward.question<1'
  selfplay export my-run to=trl kind=preference source=labels out=pairs.jsonl
"""
ENDINGS: Mapping[str, str] = {
    "html": ".html",
    "trl": ".jsonl",
    "openai": "-openai.jsonl",
    "parquet": "-parquet",
    "csv": "-csv",
}


class ExportSettings(Settings):
    """What `export` accepts."""

    to: Target | None = None
    out: Annotated[Path | None, WRITTEN_PATH] = None  # None: here, named after the run
    where: str = ""
    private: bool = True
    limit: int | None = Field(default=None, ge=0)
    tokens: bool = False
    roles: str = ""
    kind: Kind = "supervised"
    source: Source = "rewards"
    threshold: float | None = None
    gap: float = Field(default=0.0, ge=0)
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")


def run(line: CommandLine) -> int:
    """Export a run."""
    plain = line.names
    if len(plain) > 1:
        raise UserError(f"too many words: {' '.join(plain)}; write selfplay export [RUN] to=FORMAT")
    settings = resolve(ExportSettings, line.settings)
    if settings.to is None:
        raise UserError(f"to= is missing: what should be written? One of {', '.join(TARGETS)}")
    folder = find_run(plain[0] if plain else "", settings.runs)
    open_index(folder).close()  # who would wait long for it is told why
    result = export(folder, _request(settings, settings.to, folder))
    if line.as_json:
        print(json.dumps({"path": str(result.path), "num": result.num, "of": result.noun, "notes": result.notes}))
        return 0
    console = open_console()
    console.print(Text(one_line(f"{plural(result.num, result.noun)} in {result.path}")))
    for note in result.notes:
        console.print(Text(one_line(note), style="dim"))
    return 0


def _request(settings: ExportSettings, to: Target, folder: Path) -> Request:
    return Request(
        to=to,
        out=settings.out or _usual_path(settings, to, folder),
        where=settings.where,
        has_private=settings.private,
        has_tokens=settings.tokens,
        limit=settings.limit,
        roles=tuple(role.strip() for role in settings.roles.split(",") if role.strip()),
        kind=settings.kind,
        source=settings.source,
        threshold=settings.threshold,
        gap=settings.gap,
    )


def _usual_path(settings: ExportSettings, to: Target, folder: Path) -> Path:
    if to == "inspect":
        return Path(log_name(folder))
    kind = f"-{settings.kind}" if to == "trl" else ""
    return Path(f"{folder.resolve().name}{kind}{ENDINGS[to]}")
