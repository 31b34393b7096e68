"""The files that were dealt with, by name, size and time: a restart reads none of them again.

The ledger knows recordings by their content and decides what is scored. This index beside it is by
file: if it lacks one, that file is read, and the ledger is asked.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vigil.pipeline.watching.ledger import FAILED

SEEN_NAME = "seen.sqlite"
BEFORE = "before"
"""Outcome of a file that was there at the first start with --from-now."""
POSTPONED = "postponed"
"""Outcome of a file that failed, and is to be tried again."""

MAX_LOOKED_AT = 1000

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    name BLOB PRIMARY KEY, camera BLOB NOT NULL, path BLOB NOT NULL,
    num_bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL, outcome TEXT NOT NULL,
    reason BLOB NOT NULL, num_events INTEGER NOT NULL, result_bytes INTEGER NOT NULL,
    done_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS retries (
    name BLOB PRIMARY KEY REFERENCES files ON DELETE CASCADE,
    num_failures INTEGER NOT NULL, next_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS with_result ON files (done_at) WHERE result_bytes > 0;
CREATE INDEX IF NOT EXISTS by_outcome ON files (outcome, num_events > 0, done_at);
"""
_COLUMNS = "name, camera, path, num_bytes, modified_ns, outcome, reason, num_events, result_bytes"


@dataclass(frozen=True)
class SeenFile:
    """A file that was dealt with."""

    name: str
    """In RESULTS."""
    camera: str
    path: str
    num_bytes: int
    modified_ns: int
    outcome: str
    """As in the ledger, or `BEFORE` or `POSTPONED`."""
    reason: str = ""
    num_events: int = 0
    result_bytes: int = 0
    """Of its files in RESULTS; 0 if there are none, or none any more."""


class SeenFiles:
    """The index of one RESULTS folder; any thread may use it."""

    def __init__(self, path: Path) -> None:
        """Open or create it; one that is damaged is made anew, since the ledger has what counts."""
        self._lock = threading.Lock()
        self._looked_until = b""
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._database = _open(path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @property
    def is_new(self) -> bool:
        """Whether no run has searched all folders yet."""
        return not self._all("PRAGMA user_version")[0][0]

    def note_search(self) -> None:
        """Note that a run has searched all folders."""
        with self._lock, self._database:
            self._database.execute("PRAGMA user_version = 1")

    def is_known(self, name: str, num_bytes: int, modified_ns: int) -> bool:
        """Whether a file of this name, size and time was dealt with, and is not to be retried."""
        query = (
            "SELECT 1 FROM files WHERE name = ? AND num_bytes = ? AND modified_ns = ? "
            "AND name NOT IN (SELECT name FROM retries WHERE next_at <= ?)"
        )
        return bool(self._all(query, os.fsencode(name), num_bytes, modified_ns, time.time()))

    def num_failures(self, name: str, num_bytes: int, modified_ns: int) -> int:
        """How often a file of this name, size and time has failed while it is to be retried."""
        query = (
            "SELECT num_failures FROM retries JOIN files USING (name) "
            "WHERE name = ? AND num_bytes = ? AND modified_ns = ?"
        )
        rows = self._all(query, os.fsencode(name), num_bytes, modified_ns)
        return int(rows[0][0]) if rows else 0

    @property
    def num_to_retry(self) -> int:
        """Number of files that failed and are to be tried again."""
        return int(self._all("SELECT COUNT(*) FROM retries")[0][0])

    def retry(self, names: Sequence[str]) -> None:
        """Let all files that failed, and these, be tried at once, and as often as new ones."""
        again = "INSERT OR REPLACE INTO retries SELECT name, 0, 0 FROM files WHERE"
        with self._lock, self._database:
            self._database.execute(f"{again} outcome IN (?, ?)", (FAILED, POSTPONED))
            rows = [(os.fsencode(name),) for name in names]
            self._database.executemany(f"{again} name = ?", rows)

    def forget_retries_of_gone(self) -> None:
        """Try no file again that is to be tried now, and is gone."""
        rows = self._all(
            "SELECT name, path FROM retries JOIN files USING (name) WHERE next_at <= ?", time.time()
        )
        gone = [(name,) for name, path in rows if not os.path.lexists(path)]
        with self._lock, self._database:
            self._database.executemany("DELETE FROM retries WHERE name = ?", gone)

    def record(
        self, file: SeenFile, done_at: float, num_failures: int = 0, retry_at: float | None = None
    ) -> None:
        """Note that a file is dealt with, or how often it failed and when to try it again."""
        values = (
            *map(os.fsencode, (file.name, file.camera, file.path)),
            *(file.num_bytes, file.modified_ns, file.outcome, os.fsencode(file.reason)),
            *(file.num_events, file.result_bytes, done_at),
        )
        try:
            with self._lock, self._database:
                self._database.execute(
                    f"INSERT OR REPLACE INTO files VALUES ({', '.join('?' * len(values))})", values
                )  # and what was in retries is gone
                if retry_at is not None:
                    row = values[0], num_failures, retry_at
                    self._database.execute("INSERT INTO retries VALUES (?, ?, ?)", row)
        except sqlite3.OperationalError as error:  # a full disk: the file is looked at once more
            log.warning("%s cannot be put into the index: %s", file.name, error)

    def newest(self, outcome: str, with_events: bool, number: int) -> list[tuple[float, SeenFile]]:
        """The files of an outcome that were dealt with last, each with when; the oldest first.

        Scored ones whose results were removed do not count.
        """
        rows = self._all(
            f"SELECT done_at, {_COLUMNS} FROM files WHERE outcome = ? AND (num_events > 0) = ? "
            "AND (outcome != 'scored' OR result_bytes > 0) ORDER BY done_at DESC LIMIT ?",
            outcome,
            with_events,
            number,
        )
        return [(row[0], _file(row[1:])) for row in reversed(rows)]

    def oldest_results(self) -> Iterator[tuple[float, SeenFile]]:
        """Yield the files with results, the oldest first, each with when it was dealt with."""
        after = (-1.0, b"")
        while rows := self._all(
            f"SELECT done_at, {_COLUMNS} FROM files WHERE result_bytes > 0 "
            "AND (done_at, name) > (?, ?) ORDER BY done_at, name LIMIT 100",
            *after,
        ):
            yield from ((row[0], _file(row[1:])) for row in rows)
            after = rows[-1][0], rows[-1][1]

    def total_bytes(self) -> int:
        """Size of all results."""
        (total,) = self._all("SELECT COALESCE(SUM(result_bytes), 0) FROM files")[0]
        return int(total)

    def forget_results(self, files: Sequence[SeenFile]) -> None:
        """Note that the results of files are removed; forget the files that are gone as well."""
        with self._lock, self._database:
            for one in files:
                gone = not os.path.lexists(one.path)
                change = "DELETE FROM files" if gone else "UPDATE files SET result_bytes = 0"
                self._database.execute(f"{change} WHERE name = ?", (os.fsencode(one.name),))

    def forget_gone(self, before: float) -> None:
        """Forget some files without results that are gone and were dealt with before a time.

        A call looks at the next ones after those of the last call.
        """
        rows = self._all(
            "SELECT name, path FROM files WHERE result_bytes = 0 AND done_at < ? AND name > ? "
            "ORDER BY name LIMIT ?",
            *(before, self._looked_until, MAX_LOOKED_AT),
        )
        self._looked_until = rows[-1][0] if len(rows) == MAX_LOOKED_AT else b""
        gone = [(name,) for name, path in rows if not os.path.lexists(path)]
        with self._lock, self._database:
            self._database.executemany("DELETE FROM files WHERE name = ?", gone)

    def path_of(self, name: str) -> str | None:
        """Where a file lay when it was dealt with; None if it is not known."""
        rows = self._all("SELECT path FROM files WHERE name = ?", os.fsencode(name))
        return os.fsdecode(rows[0][0]) if rows else None

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA synchronous = NORMAL")  # what is lost is found out again
    database.executescript(_TABLES)
    return database


def _file(row: tuple[Any, ...]) -> SeenFile:
    name, camera, path, num_bytes, modified_ns, outcome, reason, num_events, result_bytes = row
    return SeenFile(
        os.fsdecode(name),
        os.fsdecode(camera),
        os.fsdecode(path),
        num_bytes,
        modified_ns,
        outcome,
        os.fsdecode(reason),
        num_events,
        result_bytes,
    )
