"""The conversations that an export is about."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from selfplay.dialog import Conversation, ScoredConversation, clean_text
from selfplay.errors import UserError
from selfplay.export.private import without_private, without_private_row
from selfplay.export.request import Request
from selfplay.filters import Filter, narrowed
from selfplay.records_json import conversation_from_json
from selfplay.rewards_json import scored_from_json
from selfplay.score import has_failed
from selfplay.transcript_index import IndexInfo, Row, TranscriptIndex

__all__ = ["Chosen", "Played", "choose", "clean"]

ROWS_AT_ONCE = 200
HELD_OUT, TRAIN = "split=held_out", "split=train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A conversation that did not fail, with its rewards if it has any."""

    conversation: Conversation
    scored: ScoredConversation | None
    record: dict[str, Any]

    @property
    def trained(self) -> list[str]:
        """The roles that were trained, in speaking order."""
        players = self.conversation.players
        return [role for role in self.conversation.scenario.roles if role in players and players[role].trained]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a filter left of a run."""

    folder: Path
    index: TranscriptIndex
    ids: tuple[str, ...]  # in order
    where: str
    has_private: bool
    num_left_out: int  # of those that fit, for the limit
    num_held_out: int = 0  # of those that fit, because nobody should train on them

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.resolve().name

    @property
    def info(self) -> IndexInfo:
        """What is known of the whole run."""
        return self.index.info()

    def record(self, id: str) -> dict[str, Any] | None:
        """Return a transcript record with its annotations, `clean`; None: it can no longer be read."""
        record = self.index.record(id)
        if record is None:
            return None
        found: dict[str, Any] = clean(record)
        return found if self.has_private else without_private(found)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records that can be read."""
        for id in self.ids:
            record = self.record(id)
            if record is not None:
                yield record

    def row(self, id: str) -> Row | None:
        """Return the row of one; None: it can no longer be read."""
        row = self.index.row(id)
        return None if row is None else self._shown_row(row)

    def rows(self) -> Iterator[Row]:
        """Yield the row of each that can be read."""
        yield from filter(None, map(self._shown_row, self._rows()))

    def _shown_row(self, row: Row) -> Row | None:
        found = replace(row, **{field.name: clean(getattr(row, field.name)) for field in fields(row)})
        if self.has_private:
            return found
        record = self.record(row.id)
        return None if record is None else without_private_row(found, record)

    def _rows(self) -> Iterator[Row]:
        if self.num_left_out:
            yield from (row for row in map(self.index.row, self.ids) if row is not None)
            return
        kept = set(self.ids)
        offset, is_more = 0, True
        while is_more:
            page = self.index.page(self.where, sort="oldest", offset=offset, limit=ROWS_AT_ONCE)
            offset += len(page.rows)
            is_more = bool(page.rows) and offset < page.total
            yield from (row for row in page.rows if row.id in kept)

    def played(self) -> Iterator[Played]:
        """Yield those that did not fail, with their rewards."""
        for record in self.records():
            conversation = conversation_from_json(record)
            if not has_failed(conversation):
                yield Played(conversation=conversation, scored=scored_from_json(record, conversation), record=record)


def choose(folder: Path, request: Request, *, limit: int = 0, only_train: bool = False) -> Chosen:
    """Read the run and its filter; limit: the newest so many, 0 for all.

    only_train: without held-out conversations, unless the filter itself speaks of splits.
    Raises UserError if the filter is none, or no conversation fits it.
    """
    index = TranscriptIndex(folder)
    try:
        return _chosen(index, request, limit=limit, only_train=only_train)
    except BaseException:
        index.close()
        raise


def clean(value: Any) -> Any:
    """Return a JSON value that every format can hold: numbers finite or None, text that can be encoded."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(clean, value))
    return value


def _chosen(index: TranscriptIndex, request: Request, *, limit: int, only_train: bool) -> Chosen:
    index.refresh()
    name, where, fitting = index.folder.resolve().name, request.where, index.ids(request.where, sort="oldest")
    if not fitting:
        said = f" fits where={where}" if where else " is there yet"
        raise UserError(f"no conversation of run {name}{said}; nothing was written")
    ids = fitting
    if only_train and "split" not in Filter.parse(where, index.fields()).names:
        where = narrowed(where, TRAIN, index.fields())
        ids = index.ids(where, sort="oldest")
    if not ids:
        raise UserError(
            f"run {name}: all {len(fitting)} conversations that fit are held out, and nobody should train on them; "
            f"where='{HELD_OUT}' takes them nevertheless; nothing was written"
        )
    kept = ids[-limit:] if limit else ids
    return Chosen(
        folder=index.folder,
        index=index,
        ids=tuple(kept),
        where=where,
        has_private=request.has_private,
        num_left_out=len(ids) - len(kept),
        num_held_out=len(fitting) - len(ids),
    )
