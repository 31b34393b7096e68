"""The part of the ledger that says which sink has yet to get which alarm."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from vigil.pipeline.watching.ledger_file import LedgerFile, unbound

MAX_RETRY_SECONDS = 3600
"""Nothing waits longer for its next attempt, whatever the clock was when that was set."""


@dataclass(frozen=True)
class Letter:
    """An alarm on its way to one sink."""

    number: int
    """Of the alarm, ascending in the order of recording."""
    sink: str
    camera: str
    event: str
    sequence: int
    message: str
    """JSON in one line (`alarm_text`)."""
    suppressed: str | None
    """Why only the event log gets it, if so."""
    recorded_at: float
    """Seconds since 1970."""
    num_attempts: int
    """Those that failed."""


def steady_clock() -> Callable[[], float]:
    """A clock in seconds since 1970 that does not jump when the system's clock is set."""
    begun, started = time.time(), time.monotonic()
    return lambda: begun + time.monotonic() - started


class Outbox:
    """What each sink gets next. Any thread may use it.

    Its methods raise `sqlite3.Error` if the file cannot be read or written; what could not be
    written must be tried again.
    """

    def __init__(self, file: LedgerFile, clock: Callable[[], float]) -> None:
        """Use the file of a ledger, and a clock in seconds since 1970."""
        self._file = file
        self.clock = clock

    def due(self, sink: str) -> list[Letter]:
        """For each camera, what the sink gets next, if its time has come; in order of recording.

        What comes after it waits, so the order within a camera is kept.
        """
        now = self.clock()
        rows = self._file.rows(
            # SQLite takes the other columns from the row that has the minimum.
            "SELECT first, a.camera, event, sequence, message, suppressed, recorded_at, attempts "
            "FROM (SELECT MIN(alarm) AS first, attempts, next_attempt "
            "FROM outbox WHERE sink = ? AND state = 'waiting' GROUP BY camera) "
            "JOIN alarms AS a ON number = first "
            "WHERE next_attempt NOT BETWEEN ? AND ? ORDER BY first",
            # One that is too far in the future was set before the clock was put back.
            *(sink, now + 1e-3, now + MAX_RETRY_SECONDS),
        )
        return [Letter(number, sink, unbound(camera), *rest) for number, camera, *rest in rows]

    def delivered(self, letter: Letter) -> None:
        """Note that the sink has the alarm."""
        self._settle(letter, "delivered", "")

    def dead(self, letter: Letter, reason: str) -> None:
        """Note that no further attempt is made."""
        self._settle(letter, "dead", reason)

    def failed(self, letter: Letter, reason: str, retry_seconds: float) -> None:
        """Note an attempt that failed, and in how long to make the next one."""
        self._settle(letter, "waiting", reason, self.clock() + retry_seconds)

    def waiting(self) -> dict[str, tuple[int, float]]:
        """Sink -> number of alarms that wait for it, and seconds since the first was recorded."""
        rows = self._file.rows(
            "SELECT sink, length, recorded_at FROM (SELECT sink, COUNT(*) AS length, "
            "MIN(alarm) AS first FROM outbox WHERE state = 'waiting' GROUP BY sink) "
            "JOIN alarms ON number = first"
        )
        now = self.clock()
        return {sink: (length, max(0.0, now - since)) for sink, length, since in rows}

    def _settle(self, letter: Letter, state: str, reason: str, next_attempt: float = 0) -> None:
        with self._file.transaction():
            self._file.change(
                "UPDATE outbox SET state = ?, attempts = attempts + 1, reason = ?, "
                "next_attempt = ? WHERE alarm = ? AND sink = ?",
                *(state, reason, next_attempt, letter.number, letter.sink),
            )
