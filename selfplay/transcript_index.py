"""A run's conversations to filter, sort and look up: an SQLite file beside them, derived from them.

Deleting it changes nothing.  It reads what is new whenever it is asked to, also while the run is written, and from the
beginning where a file was replaced.  Nothing of the transcripts stays in memory.
"""

from __future__ import annotations

import itertools
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfplay.dialog import clean_text
from selfplay.filters import NEWEST_FIRST, OLDEST_FIRST, Fields, Filter
from selfplay.line_files import RecordError, json_from_line
from selfplay.records_json import TOKENS_SCHEMA, check_schema
from selfplay.token_heat import NUM_LINES, heat_scale
from selfplay.transcript_facts import place_of, problem_of_rewards
from selfplay.transcript_file import IndexFile
from selfplay.transcript_rows import COLUMNS_OF_ROW, IndexInfo, Page, Row, names_in, row_of
from selfplay.transcript_shards import Lines
from selfplay.transcript_tables import FILE
from selfplay.verifiable import verifiable_parts

__all__ = ["IndexInfo", "Page", "Row", "TranscriptIndex"]

NUM_LISTS = 6  # sorted lists that are kept for their next page
JUDGED = ("rm:", "judge")  # how the names of learned rewards begin
NO_VARIANCE = 1e-12
# What a run has, where a query finds anything.
HAS: Mapping[str, str] = {
    **{name: f"SELECT 1 FROM conversations WHERE {name} IS NOT NULL" for name in ("advantage", "kl", "nll")},
    "rewards": "SELECT 1 FROM conversations WHERE reward IS NOT NULL",
    "groups": "SELECT 1 FROM conversations GROUP BY group_id HAVING count(*) > 1",
    "labelled": "SELECT 1 FROM conversations WHERE labelled",
    "tokens": "SELECT 1 FROM tokens",
}
PLACE = "SELECT f.name, x.offset FROM {table} x JOIN files f ON f.number = x.file WHERE x.{key} = ?"

Part = tuple[int, str, float | None]  # number, name, weight; None: a gate


@dataclass(slots=True)
class _State:
    """What was read of one state of the index."""

    version: tuple[int, int]  # changes when anybody writes
    fields: Fields
    parts: Sequence[Part]
    disagreement: str  # SQL; "NULL": there is nothing that could disagree
    of: int  # conversations
    lists: OrderedDict[tuple[object, ...], array[int]] = field(default_factory=OrderedDict)
    info: IndexInfo | None = None


class TranscriptIndex:
    """The conversations of one run folder, for any number of threads.

    `refresh` looks for new lines; everything else answers from what was found so far.
    """

    def __init__(self, folder: Path | str, *, file: Path | None = None) -> None:
        """Open the index: RUN/index.sqlite, or a temporary file where that cannot be written."""
        self.folder = Path(folder)
        self._file = IndexFile(self.folder, file=file or self.folder / FILE)
        self._lines = Lines(self.folder)
        self._unreadable: dict[str, None] = {}  # lines that could be read once
        self._known: _State | None = None
        self._heat: tuple[int, dict[str, list[float]]] | None = None  # of how many tokens lines, and the scale

    @property
    def problems(self) -> list[str]:
        """One line for each thing that could not be read, with file and line number."""
        stored = self._file.ask(lambda: self._file.rows("SELECT text FROM problems"))
        lines = [row[0] for row in stored]
        return list(dict.fromkeys([*self._file.notes, *lines, *self._unreadable, *self._file.unfinished]))

    def close(self) -> None:
        """Close the files; nothing can be asked afterwards."""
        self._file.close()

    def refresh(self) -> bool:
        """Read what is new; return whether anything has changed.  It costs next to nothing where nothing has."""
        return self._file.refresh()

    def info(self) -> IndexInfo:
        """Return what there is to filter by."""
        return self._file.ask(self._info)

    def fields(self) -> Fields:
        """Return the fields that filters of this run may name, and what it can be sorted by."""
        return self._file.ask(lambda: self._state().fields)

    def page(
        self,
        query: str = "",
        *,
        sort: str = NEWEST_FIRST,
        descending: bool | None = None,
        offset: int = 0,
        limit: int = 50,
        by_scenario: bool = False,
    ) -> Page:
        """Return some rows of the conversations that fit a filter; unknown numbers come last.

        descending: None is large numbers first.  by_scenario: conversations of one scenario stand together, the groups
        among them too; scenarios are in order of their first.  Raises UserError for a filter or key that is none.
        """

        def read() -> Page:
            numbers = self._sorted(query, sort, descending, by_scenario=by_scenario)
            start = max(offset, 0)
            rows = self._rows_of(numbers[start : start + max(limit, 0)])
            return Page(total=len(numbers), of=self._state().of, rows=tuple(rows))

        return self._file.ask(read)

    def ids(self, query: str = "", *, sort: str = OLDEST_FIRST, descending: bool | None = None) -> list[str]:
        """Return the ids of all conversations that fit a filter, in order."""

        def read() -> list[str]:
            numbers = self._sorted(query, sort, descending, by_scenario=False)
            by_number = dict(self._file.rows("SELECT number, id FROM conversations"))
            return [by_number[number] for number in numbers]

        return self._file.ask(read)

    def ids_for(self, query: str, role: str) -> list[str]:
        """Return the ids of all that fit a filter in which `payoff` and `reward` are those of one role, in order."""

        def read() -> list[str]:
            fields = self._state().fields
            own = {"payoff": f"payoff.{role}", "reward": f"role.{role}"}
            meant = fields.with_meaning({name: of for name, of in own.items() if of in fields.by_name})
            wanted = Filter.parse(query, meant)
            sql = f"SELECT c.id FROM conversations c WHERE {wanted.where} ORDER BY c.place"
            return [id for (id,) in self._file.rows(sql, *wanted.parameters)]

        return self._file.ask(read)

    def row(self, id: str) -> Row | None:
        """Return the row of one conversation; None: there is none."""
        return next(iter(self._rows_where("c.id = ?", id)), None)

    def siblings(self, id: str) -> list[Row]:
        """Return the rows of a conversation's group, itself among them, in order of ids."""
        return self._rows_where("c.group_id = (SELECT group_id FROM conversations WHERE id = ?)", id)

    def neighbours(self, id: str) -> tuple[str | None, str | None]:
        """Return the ids before and after an id, in order of ids."""
        before = "SELECT id FROM conversations WHERE place < ? ORDER BY place DESC LIMIT 1"
        after = "SELECT id FROM conversations WHERE place > ? ORDER BY place LIMIT 1"

        def read() -> tuple[str | None, str | None]:
            found = [self._file.rows(sql, place_of(id)) for sql in (before, after)]
            previous, following = [rows[0][0] if rows else None for rows in found]
            return previous, following

        return self._file.ask(read)

    def record(self, id: str) -> dict[str, Any] | None:
        """Return a transcript record as `RunReader.record` does; None: there is none, or it can no longer be read."""
        record = next(self._loaded("conversations", "id", id), None)
        if record is None or clean_text(str(record.get("id"))) != clean_text(id):
            return None
        annotations = list(self._loaded("annotations", "conversation", id))
        try:
            is_unreadable = record.get("rewards") is not None and problem_of_rewards(record)
        except RecordError:
            return None
        if annotations:
            record = {**record, "annotations": annotations}
        return {**record, "rewards": None} if is_unreadable else record

    def tokens(self, id: str) -> dict[str, Any] | None:
        """Return the newest complete tokens line of a conversation; None: there is none."""
        record = next(self._loaded("tokens", "conversation", id), None)
        try:
            check_schema(record or {}, TOKENS_SCHEMA)
        except RecordError:
            return None
        return record if record and clean_text(str(record.get("conversation"))) == clean_text(id) else None

    def has_tokens(self, id: str) -> bool:
        """Whether a conversation's tokens are stored."""
        sql = "SELECT 1 FROM tokens WHERE conversation = ?"
        return bool(self._file.ask(lambda: self._file.rows(sql, clean_text(id))))

    def heat_scale(self) -> dict[str, list[float]]:
        """Return quantiles of each quantity of a token, as `selfplay.token_heat`, over some of the run's tokens.

        They are taken again when the run has twice as many tokens lines.
        """
        num_lines = int(self._file.ask(lambda: self._file.rows("SELECT coalesce(max(rowid), 0) FROM tokens"))[0][0])
        if self._heat is None or not self._heat[0] <= num_lines < 2 * max(self._heat[0], 1):
            self._heat = (num_lines, heat_scale(self._some_tokens()))
        return self._heat[1]

    def _state(self) -> _State:
        version = self._file.version()
        if self._known is None or self._known.version != version:
            self._known = self._read_state(version)
        return self._known

    def _read_state(self, version: tuple[int, int]) -> _State:
        parts = self._file.rows("SELECT number, name, weight FROM parts ORDER BY number")
        roles = self._file.rows("SELECT number, name FROM roles ORDER BY number")
        disagreement = self._disagreement(parts)
        numbers = {
            **{f"reward.{name}": f"c.raw_{number}" for number, name, _ in parts},
            **{f"value.{name}": f"c.value_{number}" for number, name, weight in parts if weight is not None},
            **{f"role.{name}": f"c.role_{number}" for number, name in roles},
            **{f"payoff.{name}": f"c.payoff_{number}" for number, name in roles},
            "disagreement": disagreement,
        }
        cast = self._file.rows("SELECT number, name FROM cast ORDER BY number")
        words = {f"player.{name}": f"coalesce(c.player_{number}, '')" for number, name in cast}
        has_trigrams = bool(self._file.rows("SELECT 1 FROM sqlite_master WHERE name = 'trigrams'"))
        return _State(
            version=version,
            fields=Fields.of(numbers, words=words, has_trigrams=has_trigrams),
            parts=parts,
            disagreement=disagreement,
            of=self._file.rows("SELECT count(*) FROM conversations")[0][0],
        )

    def _disagreement(self, parts: Sequence[Part]) -> str:
        """Return by how much learned and verifiable rewards disagree, as SQL, in standard deviations."""
        weighted = [(number, name) for number, name, weight in parts if weight]
        verifiable = verifiable_parts(self.folder)
        verified = [number for number, name in weighted if name in verifiable]
        others = [(number, name) for number, name in weighted if name not in verifiable]
        learned = [number for number, name in others if name.startswith(JUDGED)]
        scores = [self._deviations(learned or [number for number, _ in others]), self._deviations(verified)]
        return "NULL" if None in scores else f"abs({scores[0]} - {scores[1]})"

    def _deviations(self, parts: Sequence[int]) -> str | None:
        """Return the sum of parts' values in standard deviations from its mean, as SQL; None: it has none."""
        if not parts:
            return None
        known = ", ".join(f"c.value_{number}" for number in parts)
        total = " + ".join(f"coalesce(c.value_{number}, 0)" for number in parts)
        value = f"(CASE WHEN coalesce({known}, NULL) IS NULL THEN NULL ELSE {total} END)"
        mean = self._file.rows(f"SELECT avg({value}) FROM conversations c")[0][0]
        if mean is None:
            return None
        squares = f"SELECT avg(({value} - ?1) * ({value} - ?1)) FROM conversations c"
        variance = self._file.rows(squares, mean)[0][0]
        if variance <= NO_VARIANCE * (1 + mean * mean):
            return None
        return f"(({value} - {mean!r}) / {variance**0.5!r})"

    def _sorted(self, query: str, sort: str, descending: bool | None, *, by_scenario: bool) -> array[int]:
        """Return the numbers of the conversations that fit, in order."""
        state = self._state()
        key = (query, sort, descending, by_scenario)
        if key not in state.lists:
            wanted = Filter.parse(query, state.fields)
            order = _order(state.fields.sort_sql(sort), sort, descending)
            columns = "c.number, c.split, c.scenario, c.group_id" if by_scenario else "c.number"
            sql = f"SELECT {columns} FROM conversations c WHERE {wanted.where} ORDER BY {order}"
            found = self._file.rows(sql, *wanted.parameters)
            state.lists[key] = array("q", _side_by_side(found) if by_scenario else [number for (number,) in found])
            if len(state.lists) > NUM_LISTS:
                state.lists.popitem(last=False)
        state.lists.move_to_end(key)
        return state.lists[key]

    def _rows_of(self, numbers: Sequence[int]) -> list[Row]:
        found: dict[int, Row] = {}
        for start in range(0, len(numbers), 500):
            some = numbers[start : start + 500]
            marks = ", ".join("?" for _ in some)
            found |= self._read_rows(f"c.number IN ({marks})", *some)
        return [found[number] for number in numbers]

    def _rows_where(self, where: str, id: str) -> list[Row]:
        return self._file.ask(lambda: list(self._read_rows(f"{where} ORDER BY c.place", clean_text(id)).values()))

    def _read_rows(self, where: str, *parameters: object) -> dict[int, Row]:
        state = self._state()
        columns = [f"c.raw_{number}, c.value_{number}" for number, *_ in state.parts]
        wanted = ", ".join([*COLUMNS_OF_ROW.values(), state.disagreement, *columns])
        sql = f"SELECT {wanted} FROM conversations c JOIN shown s ON s.number = c.number WHERE {where}"
        names = [name for _, name, _ in state.parts]
        return {values[0]: row_of(values, names) for values in self._file.rows(sql, *parameters)}

    def _info(self) -> IndexInfo:
        state = self._state()
        if state.info is None:
            state.info = self._read_info(state)
        return state.info

    def _read_info(self, state: _State) -> IndexInfo:
        first, last = self._file.rows("SELECT min(step), max(step) FROM conversations")[0]
        newest = self._file.rows("SELECT id FROM conversations ORDER BY place DESC LIMIT 1")
        has = [name for name, sql in HAS.items() if self._file.rows(f"SELECT EXISTS ({sql})")[0][0]]
        return IndexInfo(
            conversations=state.of,
            parts=tuple(name for _, name, _ in sorted(state.parts, key=lambda part: part[2] == 0)),
            weights={name: weight for _, name, weight in state.parts},
            roles=tuple(self._several("roles")),
            envs=tuple(self._distinct("env")),
            splits=tuple(self._distinct("split")),
            reasons=tuple(self._distinct("reason")),
            statuses=tuple(self._distinct("status")),
            models=tuple(sorted(self._several("models"))),
            flags=tuple(sorted(self._several("flags"))),
            tags=tuple(sorted(self._several("tags"))),
            steps=None if first is None else (first, last),
            versions=tuple(self._distinct("version")),
            newest=newest[0][0] if newest else None,
            has=frozenset([*has, *([] if state.disagreement == "NULL" else ["disagreement"])]),
        )

    def _distinct(self, column: str) -> list[Any]:
        sql = f"SELECT DISTINCT {column} FROM conversations WHERE {column} IS NOT NULL ORDER BY {column}"
        return [value for (value,) in self._file.rows(sql)]

    def _several(self, column: str) -> list[str]:
        """Return all names in a column that holds several each, in order of their first."""
        return list(dict.fromkeys(name for text in self._distinct(column) for name in names_in(text)))

    def _loaded(self, table: str, key: str, id: str) -> Iterator[dict[str, Any]]:
        """Yield the records of an id's lines, in their order, that can still be read."""
        sql = f"{PLACE.format(table=table, key=key)} ORDER BY f.name, x.offset"
        yield from self._records(self._file.ask(lambda: self._file.rows(sql, clean_text(id))))

    def _some_tokens(self) -> Iterator[dict[str, Any]]:
        """Yield tokens lines from all over the run."""
        sql = "SELECT f.name, t.offset FROM tokens t JOIN files f ON f.number = t.file ORDER BY f.name, t.offset"
        places = self._file.ask(lambda: self._file.rows(sql))
        step = max(1.0, len(places) / NUM_LINES)
        yield from self._records([places[int(number * step)] for number in range(min(len(places), NUM_LINES))])

    def _records(self, places: Iterable[tuple[str, int]]) -> Iterator[dict[str, Any]]:
        """Yield the records of the lines at places, in order of both, that can still be read."""
        for name, some in itertools.groupby(places, key=lambda place: place[0]):
            try:
                for line in self._lines.read(name, (offset for _, offset in some)):
                    yield from self._record_of(line, name)
            except (OSError, EOFError, zlib.error) as error:
                self._unreadable[f"{name}: {error}"] = None

    def _record_of(self, line: bytes, name: str) -> Iterator[dict[str, Any]]:
        try:
            yield json_from_line(line)
        except RecordError as error:
            self._unreadable[f"{name}: {error}"] = None


def _order(value: str, sort: str, descending: bool | None) -> str:
    """Return what comes after ORDER BY; ties are in order of ids."""
    is_down = descending is not False
    if not value:
        return f"c.place {'DESC' if is_down == (sort == NEWEST_FIRST) else 'ASC'}"
    down = "DESC" if is_down else "ASC"
    return f"{value} IS NULL, {value} {down}, c.place {down}"


def _side_by_side(found: Iterable[tuple[int, str, str, str]]) -> Iterator[int]:
    """Yield sorted numbers by scenario and group, each of which comes where its first comes."""
    scenarios: dict[tuple[str, str], dict[str, list[int]]] = {}
    for number, split, scenario, group in found:
        scenarios.setdefault((split, scenario), {}).setdefault(group, []).append(number)
    for groups in scenarios.values():
        for numbers in groups.values():
            yield from numbers
