"""The ledger: which recordings are done, which alarms there were, and who has yet to get them.

It is an SQLite file. What is recorded together is there together or not at all, also after a kill
or a power cut, so an alarm is neither lost nor made twice. It never waits for a sink.
"""

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vigil.extract.errors import counted
from vigil.pipeline.watching.alarm import Alarm, alarm_text, read_alarm
from vigil.pipeline.watching.ledger_file import LedgerFile, bound, unbound
from vigil.pipeline.watching.limits import CameraLimits
from vigil.pipeline.watching.outbox import Outbox, steady_clock

LEDGER_NAME = "watch.sqlite"
EVENT_LOG = "events.jsonl"
"""The sink that gets every alarm, also those that limits keep from the others."""
SCORED, FAILED, REPEATED = "scored", "failed", "repeated"
"""Outcomes of a recording; a repeated one has the content of another."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredVideo:
    """A recording that is done."""

    camera: str
    video: str
    """Its name in RESULTS."""
    digest: str
    """The sha256 of its content."""
    outcome: str
    """`SCORED`, `FAILED` or `REPEATED`."""
    reason: str
    """Why it failed, or which one it repeats; else empty."""
    completed_at: float | None
    """When it was complete in its folder, in seconds since 1970, if known."""
    scored_at: float
    """When it was done, in seconds since 1970."""


class Ledger:
    """The ledger of one folder of results; any thread may use it."""

    def __init__(
        self,
        path: Path,
        sinks: Sequence[str],
        limits: Callable[[str], CameraLimits] = lambda camera: CameraLimits(),
        clock: Callable[[], float] | None = None,
        local_time: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Open or create it.

        Args:
            path: the file; SQLite adds two beside it.
            sinks: names of those that get alarms from now on, besides `EVENT_LOG`.
            limits: camera -> its limits.
            clock: seconds since 1970; by default one that never jumps.
            local_time: the time of day to which quiet hours refer.

        Raises:
            LedgerError: it is damaged, of another vigil, or cannot be written.
        """
        self.path = path
        self._file = LedgerFile(path)
        self.outbox = Outbox(self._file, clock or steady_clock())
        self.sinks = (EVENT_LOG, *sinks)
        self._limits = limits
        self._local_time = local_time
        self._changed = threading.Condition()
        self._num_changes = 0
        self._unwritten: deque[tuple[ScoredVideo | None, tuple[Alarm, ...], float]] = deque()
        self._is_refused = False
        for sink, (number, _) in self.outbox.waiting().items():
            if sink not in self.sinks:
                what = f"{counted(number, 'alarm')} for {sink}, which this run does not name,"
                log.warning("%s will be sent when a run names it again", what)

    def recorded(self, camera: str, digest: str) -> ScoredVideo | None:
        """The recording of this content that was scored, else one that failed, else None."""
        with self._file.lock:
            for video, _, _ in self._unwritten:
                if video and (video.camera, video.digest) == (camera, digest):
                    return video
            rows = self._file.rows(
                "SELECT camera, video, digest, outcome, reason, completed_at, scored_at "
                "FROM videos WHERE camera = ? AND digest = ? AND outcome != ? "
                "ORDER BY outcome = ? DESC, scored_at LIMIT 1",
                *(bound(camera), digest, REPEATED, SCORED),
            )
        for _, video_name, _, outcome, reason, *times in rows:
            return ScoredVideo(
                camera, unbound(video_name), digest, outcome, unbound(reason), *times
            )
        return None

    def record_video(self, video: ScoredVideo, alarms: Sequence[Alarm]) -> None:
        """Record that a recording is done, with its alarms, all or nothing.

        What was scored before stays as it is, and its alarms are not sent again. One that failed
        may be recorded again. If the disk is full, this is kept in memory and written later.
        """
        self._record(video, alarms)

    def record_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Record messages of streams, all or nothing, like `record_video`.

        A message that its event has had before is left out (`Alarm.digest`).
        """
        self._record(None, alarms)

    def forget_failures(self) -> list[str]:
        """Let contents that failed count as new; return the names of their recordings.

        Those that were scored under any name stay as they are.
        """
        of_failed = (
            "FROM videos WHERE (camera, digest) IN "
            f"(SELECT camera, digest FROM videos WHERE outcome = '{FAILED}' "
            f"EXCEPT SELECT camera, digest FROM videos WHERE outcome = '{SCORED}')"
        )
        with self._file.transaction():
            rows = self._file.rows(f"SELECT video {of_failed}")
            self._file.change(f"DELETE {of_failed}")
        return [unbound(row[0]) for row in rows]

    def open_events(self, camera: str) -> list[Alarm]:
        """The last message of each event of a camera that goes on."""
        rows = self._file.rows(
            "SELECT message FROM open_events JOIN alarms ON alarm = number "
            "WHERE open_events.camera = ? ORDER BY number",
            bound(camera),
        )
        return [read_alarm(row[0]) for row in rows]

    def last_message(self, event: str) -> Alarm | None:
        """The last message of an event; None if there is none."""
        with self._file.lock:
            unwritten = [one for _, alarms, _ in self._unwritten for one in alarms]
            rows = self._file.rows(
                "SELECT message FROM alarms WHERE event = ? ORDER BY sequence DESC LIMIT 1", event
            )
        for alarm in reversed(unwritten):
            if alarm.event == event:
                return alarm
        return read_alarm(rows[0][0]) if rows else None

    def cameras_with_open_events(self) -> list[str]:
        """The cameras that have events which go on."""
        rows = self._file.rows("SELECT DISTINCT camera FROM open_events")
        return [unbound(row[0]) for row in rows]

    @property
    def num_changes(self) -> int:
        """A number that grows whenever alarms are recorded, for `wait`."""
        return self._num_changes

    @property
    def num_unwritten(self) -> int:
        """Records that wait in memory, because the disk is full."""
        return len(self._unwritten)

    def wait(self, num_changes: int, seconds: float) -> None:
        """Wait until there were more changes than these, at most for some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_changes != num_changes, seconds)

    def wake(self) -> None:
        """End every `wait`."""
        with self._changed:
            self._num_changes += 1
            self._changed.notify_all()

    def write_rest(self) -> bool:
        """Write what could not be written before; return whether nothing is left."""
        with self._file.lock:
            while self._unwritten:
                try:
                    self._write(*self._unwritten[0])
                except sqlite3.OperationalError as error:
                    if not self._is_refused:
                        log.warning(
                            "%s cannot be written (%s): records are kept in memory and tried "
                            "again, and their alarms are late",
                            *(self.path, error),
                        )
                    self._is_refused = True
                    return False
                self._unwritten.popleft()
                self.wake()
            if self._is_refused:
                log.info("%s is written again, and nothing is missing from it", self.path)
            self._is_refused = False
        return True

    def prune(self, keep_days: float, exists: Callable[[str, str], bool]) -> None:
        """Forget alarms that are older, and recordings that are older and gone.

        Alarms of events that go on, and those that wait for a sink of this run, stay.

        Args:
            keep_days: how long to keep what is recorded.
            exists: of a camera and a recording, whether that still lies in its folder. While it
                does, it must be known, or it would be scored again.
        """
        before = self.outbox.clock() - keep_days * 86400
        marks = ", ".join("?" * len(self.sinks))
        old = self._file.rows(
            "SELECT DISTINCT camera, video FROM videos WHERE scored_at < ?", before
        )
        gone = [row for row in old if not exists(*map(unbound, row))]
        with self._file.transaction():
            for row in gone:
                self._file.change("DELETE FROM videos WHERE camera = ? AND video = ?", *row)
            self._file.change(
                "DELETE FROM alarms WHERE recorded_at < ? "
                "AND event NOT IN (SELECT event FROM open_events) "
                "AND number NOT IN (SELECT alarm FROM outbox WHERE state = 'waiting' AND sink IN "
                f"({marks}))",
                *(before, *self.sinks),
            )
        self._file.shrink()

    def close(self) -> None:
        """Write the rest if that is possible, and close the file; closing twice does nothing."""
        with self._file.lock:
            if not self.write_rest():
                what = counted(len(self._unwritten), "record")
                log.error("%s of %s could not be written and are lost", what, self.path)
                self._unwritten.clear()
            self._file.close()

    def _record(self, video: ScoredVideo | None, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            alarm_text(alarm)  # what cannot be written must not be in the way of what follows
        with self._file.lock:
            self._unwritten.append((video, tuple(alarms), self.outbox.clock()))
            self.write_rest()

    def _write(self, video: ScoredVideo | None, alarms: Sequence[Alarm], now: float) -> None:
        with self._file.transaction():
            if video is not None and not self._note(video):
                return
            for alarm in alarms:
                self._add(alarm, now)

    def _note(self, video: ScoredVideo) -> bool:
        """Write a recording's row; return whether its alarms are new."""
        camera = bound(video.camera)
        is_known = bool(
            self._file.rows(
                "SELECT 1 FROM videos WHERE camera = ? AND digest = ? AND outcome = ?",
                *(camera, video.digest, SCORED),
            )
        )
        if is_known and video.outcome != REPEATED:
            return False
        self._file.change(
            f"INSERT OR {'IGNORE' if is_known else 'REPLACE'} INTO videos "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(camera, bound(video.video), video.digest, video.outcome, bound(video.reason)),
            *(video.completed_at, video.scored_at),
        )
        return not is_known

    def _add(self, alarm: Alarm, now: float) -> None:
        """Write an alarm and a row for each sink, unless its event has had this message."""
        rows = self._file.rows("SELECT digest, sequence FROM alarms WHERE event = ?", alarm.event)
        messages = dict(rows)
        if alarm.digest in messages:
            return
        alarm = alarm.numbered(1 + max(messages.values(), default=0))
        suppressed, camera = self._reason_against(alarm, now), bound(alarm.camera)
        number = self._file.change(
            "INSERT INTO alarms VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            *(alarm.event, alarm.sequence, alarm.digest, camera, suppressed, now),
            alarm_text(alarm),
        )
        self._file.change("DELETE FROM open_events WHERE event = ?", alarm.event)
        if alarm.is_open:
            self._file.change(
                "INSERT INTO open_events VALUES (?, ?, ?)", alarm.event, camera, number
            )
        for sink in self.sinks if suppressed is None else (EVENT_LOG,):
            self._file.change(
                "INSERT INTO outbox (alarm, sink, camera) VALUES (?, ?, ?)", number, sink, camera
            )

    def _reason_against(self, alarm: Alarm, now: float) -> str | None:
        """Why an alarm is not sent; an event of which a message was sent goes on being sent."""
        ((was_sent, num_recent),) = self._file.rows(
            "SELECT EXISTS (SELECT 1 FROM alarms WHERE event = ? AND suppressed IS NULL), "
            "(SELECT COUNT(DISTINCT event) FROM alarms WHERE camera = ? AND suppressed IS NULL "
            "AND recorded_at > ? AND recorded_at <= ?)",
            *(alarm.event, bound(alarm.camera), now - 3600, now),
        )
        if was_sent:
            return None
        return self._limits(alarm.camera).reason_against(self._local_time(), num_recent)
