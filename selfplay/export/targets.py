"""Every target of an export, by name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from selfplay.errors import UserError
from selfplay.export.chosen import Chosen, choose
from selfplay.export.destination import new_file, new_folder
from selfplay.export.html import write_html
from selfplay.export.inspect_log import write_inspect
from selfplay.export.openai import write_openai
from selfplay.export.request import DEFAULT_LIMIT, Request, Result, Target
from selfplay.export.tables import write_csv, write_parquet, write_rows_csv
from selfplay.export.trl import write_trl

__all__ = ["export", "export_rows"]

Download = Literal["csv", "html", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """How one target is written."""

    write: Callable[[Chosen, Path, Request], Result]
    is_folder: bool = False
    limit: int = 0  # conversations, unless the request says otherwise
    is_for_training: bool = False  # held-out conversations are left out, unless the request asks for them


_WRITERS: Mapping[Target, _Writer] = {
    "html": _Writer(write=write_html, limit=DEFAULT_LIMIT),
    "inspect": _Writer(write=lambda chosen, draft, _: write_inspect(chosen, draft)),
    "trl": _Writer(write=write_trl, is_for_training=True),
    "openai": _Writer(write=lambda chosen, draft, request: write_openai(chosen, draft, roles=request.roles)),
    "parquet": _Writer(write=lambda chosen, draft, _: write_parquet(chosen, draft), is_folder=True),
    "csv": _Writer(write=lambda chosen, draft, _: write_csv(chosen, draft), is_folder=True),
}


def export(folder: Path, request: Request) -> Result:
    """Write what is asked for of a run folder.

    Raises UserError if the filter is none, nothing fits it, a role is unknown, or the destination exists or cannot be
    written; then nothing is left behind.
    """
    writer = _WRITERS[request.to]
    return _export(folder, request, writer)


def export_rows(folder: Path, to: Download, query: str, out: Path) -> Path:
    """Write what the page downloads, one file: the list's rows as csv, the page itself, or the records as JSON.

    Raises UserError as `export` does.
    """
    writers: Mapping[Download, _Writer] = {
        "csv": _Writer(write=lambda chosen, draft, _: write_rows_csv(chosen, draft)),
        "html": _WRITERS["html"],
        "json": _Writer(write=lambda chosen, draft, _: _write_json(chosen, draft)),
    }
    if to not in writers:
        raise UserError(f"to={to}: the page exports {', '.join(writers)}")
    return _export(folder, Request(to="html", out=out, where=query), writers[to]).path


def _export(folder: Path, request: Request, writer: _Writer) -> Result:
    make = new_folder if writer.is_folder else new_file
    with make(request.out) as draft, contextlib.closing(_Choice(folder, request, writer)) as choice:
        result = writer.write(choice.chosen, draft, request)
        notes = tuple(_notes(choice.chosen))
    return replace(result, path=request.out, notes=(*notes, *result.notes))


def _notes(chosen: Chosen) -> Iterator[str]:
    if chosen.num_left_out:
        yield f"{chosen.num_left_out} older conversations are left out: limit=0 takes them all"
    if chosen.num_held_out:
        yield f"{chosen.num_held_out} held-out conversations are left out: a where= that names split takes them"


class _Choice:
    """What was chosen, with its index open."""

    def __init__(self, folder: Path, request: Request, writer: _Writer) -> None:
        limit = writer.limit if request.limit is None else request.limit
        self.chosen = choose(folder, request, limit=limit, only_train=writer.is_for_training)
        try:
            _check_roles(self.chosen, request)
        except UserError:
            self.close()
            raise

    def close(self) -> None:
        """Close the index."""
        self.chosen.index.close()


def _check_roles(chosen: Chosen, request: Request) -> None:
    known = chosen.info.roles
    for role in request.roles:
        if role not in known:
            raise UserError(
                f"roles={','.join(request.roles)}: run {chosen.name} has no role {role!r}, but {', '.join(known)}"
            )


def _write_json(chosen: Chosen, draft: Path) -> Result:
    with draft.open("w", encoding="ascii", newline="\n") as file:
        file.write(json.dumps({"run": chosen.name, "where": chosen.where})[:-1] + ', "conversations": [')
        num = 0
        for record in chosen.records():
            file.write(("," if num else "") + "\n" + json.dumps(record, allow_nan=False))
            num += 1
        file.write("\n]}\n")
    return Result(path=draft, num=num, noun="conversation")
