"""The verdicts of several people on the events of one RESULTS folder, in an SQLite database.

There is one row per person and event. What a person says last of an event replaces what that person
said of it before; what others said stays. Taking a verdict back leaves an empty row, so that an
older one, sent late, does not come back.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from vigil.extract.errors import UserError

DATABASE_NAME = "verdicts.sqlite"
BUSY_SECONDS = 30
VERSION = 1

_TABLE = """
CREATE TABLE verdicts (
    video TEXT NOT NULL,
    start_frame INTEGER NOT NULL,
    stop_frame INTEGER NOT NULL,
    reviewer TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('', 'right', 'wrong')),
    true_class TEXT NOT NULL,
    note TEXT NOT NULL,
    reviewed_at TEXT NOT NULL,
    change INTEGER NOT NULL UNIQUE,
    PRIMARY KEY (video, start_frame, stop_frame, reviewer)
)
"""
_PUT = """
INSERT INTO verdicts SELECT ?, ?, ?, ?, ?, ?, ?, ?, coalesce(max(change), 0) + 1 FROM verdicts
WHERE true
ON CONFLICT (video, start_frame, stop_frame, reviewer) DO UPDATE SET
    verdict = excluded.verdict, true_class = excluded.true_class, note = excluded.note,
    reviewed_at = excluded.reviewed_at, change = excluded.change
WHERE excluded.reviewed_at >= verdicts.reviewed_at
"""


@dataclass(frozen=True)
class Verdict:
    """What a person says of an event."""

    video: str
    start_frame: int
    stop_frame: int
    reviewer: str
    """Name of the person, as given by that person."""
    verdict: str
    """right, wrong, or empty: only a note, or nothing any more."""
    true_class: str
    """The class that a right event has; empty for others."""
    note: str
    reviewed_at: str
    """UTC, as 2024-05-01T23:59:58Z."""

    @property
    def says_nothing(self) -> bool:
        """Whether it has been taken back."""
        return not self.verdict and not self.note


_COLUMNS = ", ".join(one.name for one in fields(Verdict))


class VerdictStore:
    """The database in a file; any number of threads and processes may use it at a time."""

    def __init__(self, path: Path) -> None:
        """Open the database, and make it if it does not exist.

        Raises:
            UserError: the file cannot be written, or is something else.
        """
        self.path = path
        try:
            with self._connection() as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    connection.execute(_TABLE)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                elif version != VERSION:
                    raise UserError(
                        f"{path} has verdicts of format version {version}, and this vigil knows "
                        f"{VERSION}: use the vigil that wrote it, or move the file away"
                    )
        except sqlite3.Error as error:
            raise UserError(
                f"{path} cannot keep verdicts ({error}): give a folder for them with --verdicts"
            ) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept if the block succeeds."""
        with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as connection, connection:
            yield connection

    def put(self, verdicts: Sequence[Verdict]) -> int:
        """Keep verdicts, all or none, and return how many are not older than what is there.

        Raises:
            sqlite3.Error: the disk is full, for example.
        """
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            before = connection.total_changes
            connection.executemany(_PUT, map(astuple, verdicts))
            return connection.total_changes - before

    def since(self, change: int = 0) -> tuple[int, list[Verdict]]:
        """The number of the last change, and the verdicts that changed after the one given.

        Those that were taken back are among them, except from 0 on.
        """
        with self._connection() as connection:
            connection.execute("BEGIN")  # so that both queries see the same state
            rows = connection.execute(
                f"SELECT change, {_COLUMNS} FROM verdicts WHERE change > ? ORDER BY change",
                (change,),
            ).fetchall()
            (last,) = connection.execute("SELECT coalesce(max(change), 0) FROM verdicts").fetchone()
        found = [Verdict(*row[1:]) for row in rows]
        return last, [one for one in found if change > 0 or not one.says_nothing]

    def all(self) -> list[Verdict]:
        """Every verdict that stands, in the order in which they were given."""
        return self.since()[1]
