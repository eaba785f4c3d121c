"""The SQLite file of a run's index: its tables, how it is opened, and when it is made anew.

It is derived: whoever deletes it loses nothing.  Numbers of parts and roles are columns of their own, added when a part
is first seen (`raw_0, value_0, role_0, payoff_0, ...`), for sorting by any of them must be quick.  So are the players
of a role (`player_0`, by the numbers in `cast`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

__all__ = ["FILE", "MOST_COLUMNS", "connect", "create", "identity", "is_current", "remove", "transaction"]

FILE = "index.sqlite"
APPLICATION, VERSION = 0x5E1F9A1A, 6  # who wrote the file, and the version of the tables below
BUSY_SECONDS = 60.0
MOST_COLUMNS = 200  # parts, or roles, that can be filtered and sorted by
TABLES = """
CREATE TABLE files (
  number INTEGER PRIMARY KEY, name TEXT UNIQUE, inode INTEGER, offset INTEGER, line INTEGER, tail BLOB);
CREATE TABLE conversations (
  number INTEGER PRIMARY KEY, id TEXT UNIQUE, place TEXT, file INTEGER, offset INTEGER, line INTEGER,
  step INTEGER, version INTEGER, turns INTEGER, tokens INTEGER, seconds REAL, seed INTEGER, reward REAL,
  payoff REAL, success INTEGER,
  advantage REAL, kl REAL, nll REAL, group_mean REAL, surprise REAL, cut REAL, repeats REAL,
  group_id TEXT, scenario TEXT, env TEXT, split TEXT, status TEXT, reason TEXT, "by" TEXT, protocol INTEGER,
  labelled INTEGER DEFAULT 0, brief INTEGER, roles TEXT, players TEXT, models TEXT, tags TEXT, flags TEXT, about TEXT,
  error TEXT);
CREATE INDEX by_place ON conversations (place);
CREATE INDEX by_group ON conversations (group_id);
CREATE TABLE shown (number INTEGER PRIMARY KEY, facts TEXT);
CREATE TABLE parts (number INTEGER PRIMARY KEY, name TEXT UNIQUE, weight REAL);
CREATE TABLE roles (number INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE cast (number INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE briefs (number INTEGER PRIMARY KEY, text TEXT UNIQUE);
CREATE TABLE texts (number INTEGER PRIMARY KEY, text TEXT);
CREATE TABLE tokens (conversation TEXT PRIMARY KEY, file INTEGER, offset INTEGER);
CREATE TABLE annotations (number INTEGER PRIMARY KEY, conversation TEXT, file INTEGER, offset INTEGER);
CREATE INDEX annotations_of ON annotations (conversation);
CREATE TABLE learnt (
  conversation TEXT PRIMARY KEY, advantage REAL, kl REAL, nll REAL, measured_kl REAL, measured_nll REAL,
  is_invalid INTEGER DEFAULT 0);
CREATE TABLE tags (conversation TEXT, turn INTEGER, tag TEXT, PRIMARY KEY (conversation, turn, tag)) WITHOUT ROWID;
CREATE TABLE labelled (conversation TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE problems (text TEXT PRIMARY KEY) WITHOUT ROWID;
"""
TRIGRAMS = """
CREATE VIRTUAL TABLE trigrams USING fts5(text, content='texts', content_rowid='number', tokenize='trigram');
"""


def connect(file: Path) -> sqlite3.Connection:
    """Open the file, new or old; sqlite3.Error or OSError: it cannot be."""
    if file.is_symlink():  # what it leads to may be anybody's
        raise OSError(f"{file.name} is a link")
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_mode = WAL")  # pages are read while new lines are indexed
        connection.execute("PRAGMA synchronous = OFF")  # what a power cut destroys is built again
        connection.create_function("folded", 1, _folded, deterministic=True)
    except BaseException:
        connection.close()
        raise
    return connection


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the file holds the tables of this version."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return bool(application == APPLICATION and connection.execute("PRAGMA user_version").fetchone()[0] == VERSION)


def create(connection: sqlite3.Connection) -> None:
    """Leave nothing but new, empty tables, in the transaction that goes on."""
    # A virtual table first: it drops tables of its own.
    named = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    for (name,) in connection.execute(f"{named} ORDER BY sql LIKE '%VIRTUAL%' DESC").fetchall():
        quoted = name.replace('"', '""')
        connection.execute(f'DROP TABLE IF EXISTS "{quoted}"')
    for statement in TABLES.split(";\n"):
        connection.execute(statement)
    # An SQLite without trigrams searches all texts instead.
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute(TRIGRAMS)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write as the only one, all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def identity(file: Path) -> tuple[int, int] | None:
    """Return what tells a file from one that replaced it; None: it is gone."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove(file: Path) -> None:
    """Delete the file, and what SQLite keeps beside it: a log without its file would be read into the next one."""
    for name in (file.name, f"{file.name}-wal", f"{file.name}-shm", f"{file.name}-journal"):
        with contextlib.suppress(OSError):
            file.with_name(name).unlink(missing_ok=True)


def _folded(text: object) -> str | None:
    return text.lower() if isinstance(text, str) else None
