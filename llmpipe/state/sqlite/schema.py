"""The tables, as steps that are only ever added to: the file's ``user_version`` is how many it has had."""

from __future__ import annotations

import sqlite3
import time
from functools import cache

__all__ = ("APPLICATION_ID", "VERSION", "expected", "migrate")

APPLICATION_ID = 0x6C6C7069
"""``llpi`` in the file's header: whose file it is."""

_FIRST = """
CREATE TABLE clock (
  id INTEGER PRIMARY KEY CHECK (id = 1), boot TEXT NOT NULL, offset REAL NOT NULL, base REAL NOT NULL,
  seen REAL NOT NULL
) STRICT;

CREATE TABLE sums (
  space TEXT NOT NULL, account TEXT NOT NULL, period INTEGER NOT NULL, spent INTEGER NOT NULL,
  held INTEGER NOT NULL, keep REAL NOT NULL, touched REAL NOT NULL, seal INTEGER NOT NULL,
  PRIMARY KEY (space, account, period)
) STRICT, WITHOUT ROWID;

CREATE TABLE holds (
  space TEXT NOT NULL, hold TEXT NOT NULL, state TEXT NOT NULL, at REAL NOT NULL, parts TEXT NOT NULL,
  seal INTEGER NOT NULL, PRIMARY KEY (space, hold)
) STRICT, WITHOUT ROWID;
CREATE INDEX holds_open ON holds (space, at) WHERE state = 'open';

CREATE TABLE journal (
  space TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, nano INTEGER, estimated INTEGER NOT NULL,
  call TEXT NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL, project TEXT NOT NULL, key TEXT NOT NULL,
  use_case TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, status TEXT NOT NULL,
  input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL, asked_tokens INTEGER,
  seconds REAL NOT NULL, prompt TEXT NOT NULL, prefix TEXT NOT NULL, request_id TEXT NOT NULL,
  seal INTEGER NOT NULL, PRIMARY KEY (space, at, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX journal_ids ON journal (space, id);
CREATE INDEX journal_tenants ON journal (space, tenant, at, id);

CREATE TABLE buckets (
  space TEXT NOT NULL, key TEXT NOT NULL, tat REAL NOT NULL, seal INTEGER NOT NULL, PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE slots (
  space TEXT NOT NULL, key TEXT NOT NULL, held REAL NOT NULL, seal INTEGER NOT NULL, PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE tickets (
  space TEXT NOT NULL, ticket TEXT NOT NULL, until REAL NOT NULL, taken TEXT NOT NULL, seal INTEGER NOT NULL,
  PRIMARY KEY (space, ticket)
) STRICT, WITHOUT ROWID;
CREATE INDEX tickets_until ON tickets (space, until);

CREATE TABLE records (
  space TEXT NOT NULL, writer TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL,
  call TEXT NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL, outcome TEXT NOT NULL, body TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX records_seq ON records (space, writer, seq);
CREATE INDEX records_at ON records (space, at, writer, seq);
CREATE INDEX records_tenant ON records (space, tenant, at, writer, seq);
CREATE INDEX records_call ON records (space, call);
CREATE TABLE unended (
  space TEXT NOT NULL, writer TEXT NOT NULL, seq INTEGER NOT NULL, call TEXT NOT NULL,
  PRIMARY KEY (space, writer, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX unended_call ON unended (space, call);
CREATE TABLE writers (
  space TEXT NOT NULL, writer TEXT NOT NULL, seq INTEGER NOT NULL, hash TEXT NOT NULL, alive REAL NOT NULL,
  PRIMARY KEY (space, writer)
) STRICT, WITHOUT ROWID;

CREATE TABLE items (
  number INTEGER PRIMARY KEY AUTOINCREMENT, space TEXT NOT NULL, id TEXT NOT NULL, line TEXT NOT NULL,
  priority INTEGER NOT NULL, came REAL NOT NULL, due REAL NOT NULL, expires REAL, most INTEGER NOT NULL,
  state TEXT NOT NULL, attempts INTEGER NOT NULL, token INTEGER NOT NULL, until REAL NOT NULL,
  ended REAL NOT NULL, reason TEXT NOT NULL, bytes INTEGER NOT NULL, digest INTEGER NOT NULL, answer INTEGER,
  seal INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX items_id ON items (space, id);
CREATE INDEX items_next ON items (space, priority DESC, number, due, line) WHERE state = 'pending';
CREATE INDEX items_line ON items (space, line, number) WHERE line <> '' AND state IN ('pending', 'leased');
CREATE INDEX items_leased ON items (space, until) WHERE state = 'leased';
CREATE INDEX items_expiring ON items (space, expires) WHERE state = 'pending' AND expires IS NOT NULL;
CREATE INDEX items_over ON items (space, state, ended) WHERE state IN ('done', 'dead', 'expired');
CREATE TABLE payloads (
  number INTEGER PRIMARY KEY REFERENCES items (number) ON DELETE CASCADE, payload BLOB NOT NULL, result BLOB
) STRICT;
CREATE TABLE totals (
  space TEXT NOT NULL PRIMARY KEY, items INTEGER NOT NULL, bytes INTEGER NOT NULL, tokens INTEGER NOT NULL,
  seal INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE vault (
  space TEXT NOT NULL, tenant TEXT NOT NULL, provider TEXT NOT NULL, name TEXT NOT NULL,
  version INTEGER NOT NULL, master TEXT NOT NULL, data_key BLOB NOT NULL, secret BLOB NOT NULL,
  created_at REAL NOT NULL, hint TEXT NOT NULL, seal INTEGER NOT NULL,
  PRIMARY KEY (space, tenant, provider, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE providers (
  space TEXT NOT NULL, name TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, account TEXT NOT NULL,
  use_cases TEXT NOT NULL, max_tokens INTEGER NOT NULL, is_default INTEGER NOT NULL,
  is_active INTEGER NOT NULL, key TEXT NOT NULL, base_url TEXT NOT NULL, created_at REAL NOT NULL,
  updated_at REAL NOT NULL, seal INTEGER NOT NULL, PRIMARY KEY (space, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE revisions (space TEXT NOT NULL PRIMARY KEY, revision INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE entries (
  number INTEGER PRIMARY KEY, space TEXT NOT NULL, key BLOB NOT NULL, stored REAL NOT NULL,
  expires REAL NOT NULL, used INTEGER NOT NULL, size INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_key ON entries (space, key);
CREATE UNIQUE INDEX entries_used ON entries (space, used, size);
CREATE TABLE replies (
  number INTEGER PRIMARY KEY REFERENCES entries (number) ON DELETE CASCADE, entry BLOB NOT NULL
) STRICT;
CREATE TABLE shelves (
  space TEXT NOT NULL PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL, used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

_STEPS: tuple[str, ...] = (_FIRST,)

VERSION = len(_STEPS)
"""What this llmpipe reads and writes."""


def migrate(db: sqlite3.Connection) -> None:
    """Bring the file from its version to `VERSION`, in one transaction, unless somebody has just done so."""
    db.execute("BEGIN IMMEDIATE")
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        for number in range(version, VERSION):
            for statement in _STEPS[number].split(";\n"):
                if statement.strip():
                    db.execute(statement)
        if version == 0:
            now = time.time()
            db.execute("INSERT INTO clock VALUES (1, '', 0.0, ?, ?)", (float(int(now)), now))
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:  # nothing half: whatever it is goes on, and the file is as it was
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


_SHAPE = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'"


def shape(db: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """The tables and indexes there are, with what made them."""
    return set(db.execute(_SHAPE))


@cache
def expected() -> frozenset[tuple[str, str, str]]:
    """The tables and indexes that a file of `VERSION` has."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(db)
        return frozenset(shape(db))
    finally:
        db.close()
