"""The ledger's SQLite file: its tables, and transactions from any thread."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vigil.extract.errors import UserError
from vigil.extract.files import make_folder

BUSY_SECONDS = 30
VERSION = 2

_TABLES = """
CREATE TABLE videos (
    camera TEXT NOT NULL, video TEXT NOT NULL, digest TEXT NOT NULL,
    outcome TEXT NOT NULL, reason TEXT NOT NULL, completed_at REAL, scored_at REAL NOT NULL,
    PRIMARY KEY (camera, digest, video));
CREATE TABLE alarms (
    number INTEGER PRIMARY KEY, event TEXT NOT NULL, sequence INTEGER NOT NULL,
    digest TEXT NOT NULL, camera TEXT NOT NULL, suppressed TEXT, recorded_at REAL NOT NULL,
    message TEXT NOT NULL,
    UNIQUE (event, sequence), UNIQUE (event, digest));
CREATE INDEX sent_alarms ON alarms (camera, recorded_at, event) WHERE suppressed IS NULL;
CREATE TABLE open_events (
    event TEXT PRIMARY KEY, camera TEXT NOT NULL, alarm INTEGER NOT NULL REFERENCES alarms)
    WITHOUT ROWID;
CREATE TABLE outbox (
    alarm INTEGER NOT NULL REFERENCES alarms ON DELETE CASCADE, sink TEXT NOT NULL,
    camera TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
    attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (alarm, sink)) WITHOUT ROWID;
CREATE INDEX waiting ON outbox (sink, camera, alarm) WHERE state = 'waiting';
"""


class LedgerError(UserError):
    """The ledger cannot be opened."""


class LedgerFile:
    """One connection, which threads use in turn; each commit is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        """Open the file or create it.

        Raises:
            LedgerError: it is damaged, of another vigil, or cannot be written.
        """
        self.lock = threading.RLock()
        try:
            make_folder(path.parent)
            self._database = _open(path)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(
                f"the ledger {path} cannot be used ({error}): check the disk, or move the file "
                "away; all recordings count as new then, and raise their alarms again"
            ) from error

    def rows(self, query: str, *values: object) -> list[Any]:
        """All rows of a query."""
        with self.lock:
            return self._database.execute(query, values).fetchall()

    def change(self, statement: str, *values: object) -> int:
        """Change the file, and return the number of the last row that was inserted."""
        with self.lock:
            return self._database.execute(statement, values).lastrowid or 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that the block changes, or nothing.

        Raises:
            sqlite3.OperationalError: the disk is full, for example; nothing was written.
        """
        with self.lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # a full disk may have ended it
                    self._database.execute("ROLLBACK")
                raise

    def shrink(self) -> None:
        """Give the room of what was deleted back to the disk."""
        with self.lock:
            # It needs many steps, and `execute` makes one if there are no columns.
            self._database.executescript("PRAGMA incremental_vacuum")

    def close(self) -> None:
        """Close the file; every later access is an `sqlite3.ProgrammingError`."""
        with self.lock:
            self._database.close()


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    for setting in ("auto_vacuum = INCREMENTAL", "journal_mode = WAL", "synchronous = FULL"):
        database.execute(f"PRAGMA {setting}")
    database.execute("PRAGMA foreign_keys = ON")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        raise sqlite3.DatabaseError(f"it is of version {version}, and this vigil knows {VERSION}")
    if version == 0:
        database.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
        )
    return database


def bound(name: str) -> str | bytes:
    """A name for SQLite, which takes no text that is not UTF-8; the inverse of `unbound`."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape")
    return name


def unbound(name: str | bytes) -> str:
    """The name that `bound` took."""
    return name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
