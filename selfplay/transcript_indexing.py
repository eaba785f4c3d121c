"""New lines of a run folder become rows of its index: each line is read once.

What was learnt of a conversation may be read before the conversation itself, so it has tables of its own.
"""

from __future__ import annotations

import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from selfplay.dialog import clean_text
from selfplay.filters import SEPARATOR
from selfplay.line_files import RecordError, json_from_line
from selfplay.preferences import PREFERENCES, read_preferences
from selfplay.records_json import ANNOTATION_SCHEMA, TOKENS_SCHEMA, check_schema
from selfplay.run_folder import ANNOTATIONS, CONVERSATIONS, TOKENS
from selfplay.transcript_facts import Facts, facts_of
from selfplay.transcript_learnt import learnt
from selfplay.transcript_shards import SEALED, Shard, open_lines, shards
from selfplay.transcript_tables import MOST_COLUMNS, create, transaction

__all__ = ["Indexing"]

BATCH_BYTES = 16_000_000  # read in one transaction: what is new is seen soon, and another process gets its turn
TAIL_BYTES = 64  # before the next line: how a file that was rewritten in place is told
MOST_PROBLEMS = 1000
MOST_INTEGER = 2**63 - 1
# As the writer writes them; any other line is parsed as a whole.
TOKENS_LINE = re.compile(
    rb'\{"schema": "' + TOKENS_SCHEMA.encode() + rb'", "conversation": "([\x20-\x21\x23-\x5b\x5d-\x7e]+)", .*\}\s*\n',
    re.DOTALL,
)
COLUMNS = (
    *("id", "place", "file", "offset", "line", "step", "version", "turns", "tokens", "seconds", "seed", "reward"),
    *("payoff", "success"),
    *("cut", "repeats", "group_id", "scenario", "env", "split", "status", "reason", "by", "protocol", "brief"),
    *("roles", "players", "models", "tags", "flags", "about", "error"),
)
# As of conversations, the last file counts; a row that is replaced gets a new rowid.
NEWER_TOKENS = """INSERT OR REPLACE INTO tokens SELECT ?1, ?2, ?3 WHERE NOT EXISTS (
  SELECT 1 FROM tokens t JOIN files f ON f.number = t.file WHERE t.conversation = ?1 AND f.name > ?4)"""


class _ReplacedError(Exception):
    """A file is not what it was: everything is to be read anew."""


@dataclass(slots=True)
class _Place:
    """Up to where a file was read."""

    name: str
    file: int
    offset: int = 0
    line: int = 1
    tail: bytes = b""  # what stands before the offset


@dataclass(slots=True)
class _Touched:
    """What a transaction has to bring up to date at its end."""

    groups: set[str] = field(default_factory=set)
    learnt: set[str] = field(default_factory=set)  # ids of which an annotation gave numbers
    marked: set[str] = field(default_factory=set)  # ids of which tags, labels or validity changed


class Indexing:
    """Reads what is new in a run folder into its index."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.unfinished: list[str] = []  # problems that may be gone at the next look
        self._folder = folder
        self._connection = connection
        self._has_trigrams = False
        self._names: dict[str, dict[str, int]] = {"parts": {}, "roles": {}, "cast": {}}
        self._weights: dict[str, float | None] = {}
        self._briefs: dict[str, int] = {}
        self._is_anything_learnt = False

    def read(self) -> bool:
        """Read what is new in the files; return whether there was anything.  A replaced file makes everything new."""
        is_changed = False
        while True:
            try:
                with transaction(self._connection):
                    # Looked at within the transaction: a file that another process has read further since an earlier
                    # look would seem to be shorter than it was.
                    is_more, num_lines = self._read_batch(shards(self._folder))
            except _ReplacedError:
                with transaction(self._connection):
                    create(self._connection)
                is_changed = True
                continue
            is_changed = is_changed or num_lines > 0
            if not is_more:
                return is_changed

    def _read_batch(self, found: Sequence[Shard]) -> tuple[bool, int]:
        """Return whether lines are left for another transaction, and how many were read."""
        places = self._places(found)
        self._names = {table: dict(self._rows(f"SELECT name, number FROM {table}")) for table in self._names}
        self._weights, self._briefs = dict(self._rows("SELECT name, weight FROM parts")), {}
        self._has_trigrams = bool(self._rows("SELECT 1 FROM sqlite_master WHERE name = 'trigrams'"))
        tables = " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in ("learnt", "tags", "labelled"))
        self._is_anything_learnt = bool(self._rows(f"SELECT {tables}")[0][0])
        self.unfinished.clear()
        touched, num_lines, left = _Touched(), 0, BATCH_BYTES
        for shard in found:
            place, before = places[shard.name], places[shard.name].offset
            if shard.kind == PREFERENCES:
                num_lines += self._read_preferences(shard, place, touched)
                continue
            num_lines += self._read_lines(shard, place, touched, left=left)
            left -= place.offset - before
            if left <= 0:
                break
        self._bring_up_to_date(touched)
        return left <= 0, num_lines

    def _rows(self, sql: str, *parameters: object) -> list[Any]:
        return self._connection.execute(sql, parameters).fetchall()

    def _places(self, found: Sequence[Shard]) -> dict[str, _Place]:
        """Return up to where each file was read; raises _ReplacedError if one is gone, or another than it was."""
        known = {row[1]: row for row in self._rows("SELECT number, name, inode, offset, line, tail FROM files")}
        if not known.keys() <= {shard.name for shard in found}:
            raise _ReplacedError
        places = {}
        for shard in found:
            if shard.name not in known:
                self._rows(
                    "INSERT INTO files (name, inode, offset, line, tail) VALUES (?, ?, 0, 1, x'')",
                    shard.name,
                    shard.inode,
                )
                places[shard.name] = _Place(name=shard.name, file=self._rows("SELECT last_insert_rowid()")[0][0])
                continue
            number, name, inode, offset, line, tail = known[shard.name]
            places[name] = _Place(name=name, file=number, offset=offset, line=line, tail=tail)
            is_shorter = not shard.is_packed and shard.size < offset
            if shard.kind != PREFERENCES and (inode != shard.inode or is_shorter):
                raise _ReplacedError
        return places

    def _read_lines(self, shard: Shard, place: _Place, touched: _Touched, *, left: int) -> int:
        """Read whole lines until at least so many bytes are read, of a packed file all; return their number."""
        if not shard.is_packed and shard.size == place.offset:
            return 0
        if shard.is_packed and place.tail.startswith(SEALED):
            if place.tail != shard.seal:
                raise _ReplacedError
            return 0
        num_lines = 0
        try:
            with open_lines(self._folder / shard.name) as file:
                num_lines = self._read_open(file, shard, place, self._reader(shard.kind, place, touched), left=left)
                place.tail = shard.seal if shard.is_packed else place.tail
        except (OSError, EOFError, zlib.error) as error:
            self.unfinished.append(f"{self._label(shard.name)}: {error}, skipped")
        changed = (place.offset, place.line, place.tail, place.file)
        self._rows("UPDATE files SET offset = ?, line = ?, tail = ? WHERE number = ?", *changed)
        return num_lines

    def _read_open(
        self, file: BinaryIO, shard: Shard, place: _Place, read: Callable[[bytes], None], *, left: int
    ) -> int:
        _go_to(file, place)
        start, num_lines = place.offset, 0
        for line in file:
            if not line.endswith(b"\n"):
                self.unfinished.append(f"{self._label(shard.name, place.line)}: the last line is incomplete, skipped")
                break
            try:
                if line.strip():
                    read(line)
            except (ValueError, OverflowError) as error:  # RecordError, or a number that nobody expected
                self._report(f"{self._label(shard.name, place.line)}: {error}, skipped")
            place.offset, place.line, place.tail = place.offset + len(line), place.line + 1, line[-TAIL_BYTES:]
            num_lines += 1
            if place.offset - start >= left and not shard.is_packed:
                break
        return num_lines

    def _reader(self, kind: str, place: _Place, touched: _Touched) -> Callable[[bytes], None]:
        readers = {
            CONVERSATIONS: self._read_conversation,
            TOKENS: self._read_tokens,
            ANNOTATIONS: self._read_annotation,
        }
        return lambda line: readers[kind](line, place, touched)

    def _label(self, name: str, line: int = 0) -> str:
        within = name if "/" in name else f"{self._folder.resolve().name}/{name}"
        return f"{within}:{line}" if line else within

    def _report(self, problem: str) -> None:
        if self._rows("SELECT count(*) FROM problems")[0][0] < MOST_PROBLEMS:
            self._rows("INSERT OR IGNORE INTO problems VALUES (?)", clean_text(problem))

    def _read_conversation(self, line: bytes, place: _Place, touched: _Touched) -> None:
        facts, problem = facts_of(json_from_line(line))
        if problem:
            self._report(f"{CONVERSATIONS}: {problem}; shown without them")
        values = {**self._columns(facts), "file": place.file, "offset": place.offset, "line": place.line}
        stored = self._rows("SELECT number, group_id, file FROM conversations WHERE id = ?", facts.id)
        number, group, file = stored[0] if stored else (None, "", place.file)
        if self._is_later(file, place):
            return
        if number is not None:
            self._forget(number, group, touched)
        columns = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join("?" for _ in values)
        row = [number, *values.values()]
        number = self._connection.execute(
            f"INSERT INTO conversations (number, {columns}) VALUES (?, {marks})", row
        ).lastrowid
        self._rows("INSERT INTO shown VALUES (?, ?)", number, _shown(facts))
        self._rows("INSERT INTO texts VALUES (?, ?)", number, facts.text.lower())
        if self._has_trigrams:
            self._rows("INSERT INTO trigrams (rowid, text) VALUES (?, ?)", number, facts.text.lower())
        touched.groups.add(facts.group)
        if self._is_anything_learnt:
            touched.learnt.add(facts.id)
            touched.marked.add(facts.id)

    def _is_later(self, file: int, place: _Place) -> bool:
        """Whether a file comes after the one that is read: of several files the last counts, whichever grew last."""
        return file != place.file and self._rows("SELECT name FROM files WHERE number = ?", file)[0][0] > place.name

    def _forget(self, number: int, group: str, touched: _Touched) -> None:
        """Remove an earlier line of the same id."""
        touched.groups.add(group)
        if self._has_trigrams:
            remove = (
                "INSERT INTO trigrams (trigrams, rowid, text) SELECT 'delete', number, text FROM texts WHERE number = ?"
            )
            self._rows(remove, number)
        for table in ("conversations", "shown", "texts"):
            self._rows(f"DELETE FROM {table} WHERE number = ?", number)

    def _columns(self, facts: Facts) -> dict[str, object]:
        special: dict[str, object] = {
            "group_id": facts.group,
            "tags": _words(facts.tags),
            "flags": _words([*facts.flags, *(f"tagged:{tag}" for tag in facts.tags)]),
            "roles": _words(facts.roles),
            "players": _words(facts.names),
            "models": _words(facts.models),
            "brief": self._brief(facts.brief.lower()),
            "seed": _integer(facts.seed),
            "version": _integer(facts.version),
            "tokens": _integer(facts.tokens),
        }
        values = {
            name: special[name] if name in special else getattr(facts, name) for name in COLUMNS if name not in PLACES
        }
        for column, of_role in (("role", facts.per_role), ("payoff", facts.payoffs)):
            for name, value in of_role.items():
                number = self._number_of("roles", name, ("role", "payoff"))
                if number is not None:
                    values[f"{column}_{number}"] = value
        values |= self._players_by_role(facts)
        for name, part in facts.parts.items():
            number = self._number_of("parts", name, ("raw", "value"))
            if number is not None:
                values |= {f"raw_{number}": part.raw, f"value_{number}": part.value}
                if part.weight != 0:
                    self._weigh(name, part.weight)
        return values

    def _players_by_role(self, facts: Facts) -> dict[str, object]:
        numbers = {role: self._number_of("cast", role, ("player",)) for role in facts.cast}
        return {
            f"player_{numbers[role]}": _words(names) for role, names in facts.cast.items() if numbers[role] is not None
        }

    def _number_of(self, table: str, name: str, columns: Iterable[str]) -> int | None:
        """Return the number of a part or role, which has columns of its own from now on; None: there are too many."""
        known = self._names[table]
        if name in known:
            return known[name]
        if len(known) >= MOST_COLUMNS:
            self._report(f"{CONVERSATIONS}: there are more than {MOST_COLUMNS} {table}; {name!r} cannot be searched")
            return None
        known[name] = len(known)
        self._rows(f"INSERT INTO {table} (number, name) VALUES (?, ?)", known[name], name)
        if table == "parts":
            self._weights[name] = 0.0
            self._rows("UPDATE parts SET weight = 0.0 WHERE number = ?", known[name])
        for column in columns:
            kind = "TEXT" if table == "cast" else "REAL"
            self._rows(f"ALTER TABLE conversations ADD COLUMN {column}_{known[name]} {kind}")
        return known[name]

    def _weigh(self, name: str, weight: float | None) -> None:
        if self._weights[name] != weight:
            self._weights[name] = weight
            self._rows("UPDATE parts SET weight = ? WHERE name = ?", weight, name)

    def _brief(self, text: str) -> int | None:
        if not text:
            return None
        if text not in self._briefs:
            self._rows("INSERT OR IGNORE INTO briefs (text) VALUES (?)", text)
            self._briefs[text] = self._rows("SELECT number FROM briefs WHERE text = ?", text)[0][0]
        return self._briefs[text]

    def _read_tokens(self, line: bytes, place: _Place, touched: _Touched) -> None:
        written = TOKENS_LINE.fullmatch(line) if _is_one_object(line) else None
        id = written[1].decode() if written else _conversation_of_tokens(json_from_line(line))
        self._rows(NEWER_TOKENS, id, place.file, place.offset, place.name)

    def _read_annotation(self, line: bytes, place: _Place, touched: _Touched) -> None:
        record = json_from_line(line)
        check_schema(record, ANNOTATION_SCHEMA)
        id, data = record.get("conversation"), record.get("data")
        if not isinstance(id, str) or not isinstance(data, dict):
            raise RecordError("the line names no conversation, or holds no data")
        id = clean_text(id)
        insert = "INSERT INTO annotations (conversation, file, offset) VALUES (?, ?, ?)"
        self._rows(insert, id, place.file, place.offset)
        values = learnt(record.get("kind"), data)
        if values:
            (touched.marked if "is_invalid" in values else touched.learnt).add(id)
            names, marks = ", ".join(values), ", ".join("?" for _ in values)
            updates = ", ".join(f"{name} = excluded.{name}" for name in values)
            sql = f"INSERT INTO learnt (conversation, {names}) VALUES (?, {marks}) ON CONFLICT DO UPDATE SET {updates}"
            self._rows(sql, id, *values.values())
        if record.get("kind") == "tag" and isinstance(data.get("tag"), str):
            touched.marked.add(id)
            self._tag(id, record.get("turn"), clean_text(data["tag"]), is_removed=data.get("remove") is True)

    def _tag(self, id: str, turn: object, tag: str, *, is_removed: bool) -> None:
        number = turn if type(turn) is int else -1
        if is_removed:
            self._rows("DELETE FROM tags WHERE conversation = ? AND turn = ? AND tag = ?", id, _integer(number), tag)
        else:
            self._rows("INSERT OR IGNORE INTO tags VALUES (?, ?, ?)", id, _integer(number), tag)

    def _read_preferences(self, shard: Shard, place: _Place, touched: _Touched) -> int:
        """Read who was labelled, all anew: choices can be taken back, and are few.  1: the file has changed."""
        state = f"{shard.inode} {shard.size} {shard.modified}".encode()
        if place.tail == state:
            return 0
        found = read_preferences(self._folder).preferences
        now = {clean_text(id) for one in found for id in (one.left, one.right)}
        before = {row[0] for row in self._rows("SELECT conversation FROM labelled")}
        self._connection.executemany("DELETE FROM labelled WHERE conversation = ?", [(id,) for id in before - now])
        self._connection.executemany("INSERT INTO labelled VALUES (?)", [(id,) for id in now - before])
        touched.marked |= before ^ now
        self._rows("UPDATE files SET tail = ? WHERE number = ?", state, place.file)
        return 1

    def _bring_up_to_date(self, touched: _Touched) -> None:
        groups = [(group,) for group in touched.groups]
        mean = "SELECT avg(reward) FROM conversations WHERE group_id = ?1"
        self._connection.executemany(f"UPDATE conversations SET group_mean = ({mean}) WHERE group_id = ?1", groups)
        surprise = "UPDATE conversations SET surprise = abs(reward - group_mean) WHERE group_id = ?"
        self._connection.executemany(surprise, groups)
        learnt = "SELECT advantage, coalesce(kl, measured_kl), coalesce(nll, measured_nll) FROM learnt"
        self._connection.executemany(
            f"UPDATE conversations SET (advantage, kl, nll) = ({learnt} WHERE conversation = ?1) WHERE id = ?1",
            [(id,) for id in touched.learnt],
        )
        self._connection.executemany(
            "UPDATE conversations SET labelled = ?2, tags = ?3, flags = ?4 WHERE number = ?1",
            self._marks_of(touched.marked),
        )

    def _marks_of(self, ids: Iterable[str]) -> Iterator[tuple[object, ...]]:
        for id in ids:
            sql = "SELECT c.number, s.facts FROM conversations c JOIN shown s USING (number) WHERE c.id = ?"
            for number, text in self._rows(sql, id):
                shown = json.loads(text)
                invalid = self._rows("SELECT 1 FROM learnt WHERE conversation = ? AND is_invalid", id)
                labelled = self._rows("SELECT 1 FROM labelled WHERE conversation = ?", id)
                added = self._rows("SELECT DISTINCT tag FROM tags WHERE conversation = ? ORDER BY tag", id)
                tags = list(dict.fromkeys([*shown["tags"], *(tag for (tag,) in added)]))
                flags = [*shown["flags"], *(["invalid part"] if invalid else []), *(f"tagged:{tag}" for tag in tags)]
                yield number, int(bool(labelled)), _words(tags), _words([*flags, *(["labelled"] if labelled else [])])


def _go_to(file: BinaryIO, place: _Place) -> None:
    """Go to the next line; raises _ReplacedError if what stands before it is not what stood there."""
    file.seek(place.offset - len(place.tail))
    if file.read(len(place.tail)) != place.tail:
        raise _ReplacedError


PLACES = ("file", "offset", "line")  # columns that no fact says


def _shown(facts: Facts) -> str:
    """Return what a row shows, and no filter asks, as JSON."""
    shown = {
        "players": "/".join(facts.players),
        "model": facts.model,
        "first_words": facts.first_words,
        "per_role": facts.per_role,
        "public": facts.public,
        "cut_turns": facts.cut_turns,
        "said": facts.said,
        "tags": facts.tags,
        "flags": facts.flags,
    }
    return json.dumps(shown, separators=(",", ":"))


def _words(names: Iterable[str]) -> str:
    """Return several names as one text in which each can be found."""
    found = list(dict.fromkeys(name.replace(SEPARATOR, " ") for name in names))
    return f"{SEPARATOR}{SEPARATOR.join(found)}{SEPARATOR}" if found else ""


def _integer(value: int | None) -> int | float | None:
    """Return a number that SQLite can hold."""
    if value is None or abs(value) <= MOST_INTEGER:
        return value
    return float(min(value, 10**300)) if value > 0 else float(max(value, -(10**300)))


def _is_one_object(line: bytes) -> bool:
    """Whether a line is surely not what a torn line and the next one make; in JSON, text never holds `"schema"`."""
    pairs = ((b"{", b"}"), (b"[", b"]"))
    balanced = all(line.count(opened) == line.count(closed) for opened, closed in pairs)
    return balanced and line.count(b'"schema"') == 1 and line.isascii() and b"\0" not in line


def _conversation_of_tokens(record: Mapping[str, Any]) -> str:
    check_schema(record, TOKENS_SCHEMA)
    id = record.get("conversation")
    if not isinstance(id, str):
        raise RecordError("the line names no conversation")
    return clean_text(id)
