"""The conversations that an export is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.dialog import Conversation, ScoredConversation
from selfplay.errors import UserError
from selfplay.export.private import without_private
from selfplay.export.request import Request
from selfplay.records_json import conversation_from_json
from selfplay.rewards_json import scored_from_json
from selfplay.score import has_failed
from selfplay.transcript_index import IndexInfo, Row, TranscriptIndex

__all__ = ["Chosen", "Played", "choose"]

ROWS_AT_ONCE = 200


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

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.resolve().name

    @property
    def info(self) -> IndexInfo:
        """What is known of the whole run."""
        return self.index.info()

    def record(self, id: str) -> dict[str, Any] | None:
        """Return a transcript record with its annotations; None: it can no longer be read."""
        record = self.index.record(id)
        return record if record is None or self.has_private else without_private(record)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records that can be read."""
        for id in self.ids:
            record = self.record(id)
            if record is not None:
                yield record

    def rows(self) -> Iterator[Row]:
        """Yield the row of each."""
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


def choose(folder: Path, request: Request, *, limit: int = 0) -> Chosen:
    """Read the run and its filter; limit: the newest so many, 0 for all.

    Raises UserError if the filter is none, or no conversation fits it.
    """
    index = TranscriptIndex(folder)
    index.refresh()
    ids = index.ids(request.where, sort="oldest")
    if not ids:
        fitting = f" fits where={request.where}" if request.where else ""
        raise UserError(
            f"no conversation of run {folder.resolve().name}{fitting or ' is there yet'}; nothing was written"
        )
    kept = ids[-limit:] if limit else ids
    return Chosen(
        folder=folder,
        index=index,
        ids=tuple(kept),
        where=request.where,
        has_private=request.has_private,
        num_left_out=len(ids) - len(kept),
    )
