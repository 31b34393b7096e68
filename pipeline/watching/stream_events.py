"""The events of a stream while they happen: opened, continued, closed.

Cells of the timeline arrive one span after they were recorded. Events are found among them as in a
recording, so a stream has the events of its file; what the end of a piece revises is revised here,
too. Legend: C cells, K classes (normal has index 0).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.scores.events import Event, EventRule
from vigil.pipeline.scores.rolling import Update
from vigil.pipeline.scores.spans import Timeline
from vigil.pipeline.scoring.score_store import events_of
from vigil.pipeline.watching.alarm import Alarm, event_id
from vigil.pipeline.watching.event_alarms import closing, utc_now

CONTINUE_SECONDS = 60.0
"""An event that an interruption left open goes on with the next one, at most so much later."""
HIGHER_BY, LONGER_BY = 0.1, 20.0
"""A peak that rises by so much, and an event that lasts so many seconds longer, are told."""


@dataclass(eq=False)
class _Told:
    """An event of which there was a message."""

    event: Event
    alarm: Alarm


class StreamEvents:
    """Finds the events of one piece, and makes the messages about them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        rule: EventRule,
        camera: str,
        began_at: float,
        inherited: Sequence[Alarm] = (),
        patience_seconds: float = 0.0,
    ) -> None:
        """Begin a piece.

        Args:
            checkpoint: that scores it.
            rule: what counts as an event, with the camera's threshold.
            camera: its name in messages.
            began_at: when its first frame arrived, in seconds since 1970.
            inherited: the last messages of events that an interruption left open.
            patience_seconds: by which what is known of them may be older than their last moment.
        """
        self._checkpoint, self._rule, self._camera = checkpoint, rule, camera
        self.began_at = began_at
        """May be corrected, as the clocks of camera and machine are known better."""
        self._key = repr(began_at)
        self._patience = CONTINUE_SECONDS + patience_seconds
        self._inherited = list(inherited)
        self._told: list[_Told] = []
        self.first = 0
        """Index of the first cell that is kept."""
        self.timeline: Timeline | None = None
        """The cells that are kept."""

    def take(self, update: Update) -> list[Alarm]:
        """Add cells, and return the messages they give rise to."""
        kept = self.timeline
        num_kept, self.timeline = update.first - self.first, update.timeline
        if kept is not None and num_kept:
            self.timeline = kept.cells(0, num_kept).followed_by(update.timeline)
        return self._messages()

    def time_at(self, seconds: float) -> datetime:
        """The time of day of an offset from the beginning of the piece."""
        return datetime.fromtimestamp(self.began_at + seconds, UTC).astimezone()

    def drop(self, num_cells: int) -> Timeline:
        """Remove the oldest cells, which hold no open event, and return them."""
        assert self.timeline is not None
        dropped = self.timeline.cells(0, num_cells)
        self.timeline = self.timeline.cells(num_cells)
        self.first += num_cells
        until = dropped.seconds[-1, 1]
        self._told = [one for one in self._told if one.event.stop_seconds > until]
        return dropped

    def quiet_cells(self, before_seconds: float, *, is_urgent: bool = False) -> int:
        """Number of kept cells up to the last quiet place before a time.

        A place is quiet if no score around reaches the level at which events go on; if it is
        urgent, it is enough that no event is there.
        """
        if self.timeline is None:
            return 0
        starts, stops = self.timeline.seconds.T
        is_loud = self.timeline.scores.scores >= self._rule.keep_threshold
        if is_urgent:
            is_loud = np.zeros(len(starts), bool)
            for one in self._told:
                is_loud |= (stops > one.event.start_seconds) & (starts < one.event.stop_seconds)
        margin = self._rule.join_seconds + self._rule.min_seconds
        num_loud = np.append(0, is_loud.cumsum())
        first = np.searchsorted(stops, stops - margin, side="right")
        past = np.searchsorted(starts, stops + margin)
        is_quiet = (num_loud[past] == num_loud[first]) & (stops <= before_seconds)
        return int(np.flatnonzero(is_quiet)[-1]) + 1 if is_quiet.any() else 0

    def close_inherited(self, now: float) -> list[Alarm]:
        """Close inherited events that did not go on in time; ``now`` in seconds since 1970."""
        over = [one for one in self._inherited if not self._goes_on(one, now)]
        self._inherited = [one for one in self._inherited if one not in over]
        return [closing(one, utc_now()) for one in over]

    @property
    def told(self) -> list[tuple[Event, Alarm]]:
        """The events of which there was a message, each with its last one."""
        return [(one.event, one.alarm) for one in self._told]

    @property
    def left(self) -> list[Alarm]:
        """Messages about the events that are open now, which the next piece inherits."""
        is_open = [one for one in self._told if one.alarm.is_open]
        return [self._alarm(one.event, one.alarm) for one in is_open] + self._inherited

    def _messages(self) -> list[Alarm]:
        assert self.timeline is not None
        _, events = events_of(self._checkpoint, self.timeline, self._rule)
        known, self._told = self._told, []
        alarms = []
        for event in events:
            mine = [one for one in known if _overlap(one.event, event) > 0]
            told = max(mine, key=lambda one: _overlap(one.event, event), default=None)
            alarm = self._alarm(event, None if told is None else told.alarm)
            if told is None or _differs(alarm, told.alarm):
                alarms.append(alarm)
            else:
                alarm = told.alarm
            self._told.append(_Told(event, alarm))
            known = [one for one in known if one is not told]
        # What was an event, and by later evidence is none, or was joined to another one. It may
        # become one again, and is then the same.
        for one in known:
            if one.alarm.is_open:
                alarms.append(closing(one.alarm, utc_now()))
                one.alarm = alarms[-1]
        self._told += known
        return alarms

    def _alarm(self, event: Event, before: Alarm | None) -> Alarm:
        assert self.timeline is not None
        start = self.time_at(event.start_seconds)
        if before is None:
            before = self._continued(start)
        now = time.time()
        stop = self.time_at(event.stop_seconds)
        name = event_id(self._camera, start, self._key, event.start_frame)
        return Alarm(
            event=name if before is None else before.event,
            sequence=0,
            is_open=event.stop_seconds + self._rule.join_seconds >= self._undecided_from,
            camera=self._camera,
            video=None,
            label=event.class_name,
            class_shares=event.class_shares,
            peak_score=event.peak_score,
            threshold=self._rule.threshold,
            start_seconds=event.start_seconds,
            stop_seconds=event.stop_seconds,
            start_time=start.isoformat() if before is None else before.start_time,
            stop_time=stop.isoformat(),
            detected_at=datetime.fromtimestamp(now, UTC).isoformat(),
            lag_seconds=round(now - stop.timestamp(), 3),
        )

    def _goes_on(self, alarm: Alarm, now: float) -> bool:
        stop = None if alarm.stop_time is None else datetime.fromisoformat(alarm.stop_time)
        return stop is not None and now - stop.timestamp() <= self._patience

    @property
    def _undecided_from(self) -> float:
        """From when on what comes may still become an event, or go on with one."""
        assert self.timeline is not None
        seconds, scores = self.timeline.seconds, self.timeline.scores.scores
        is_quiet = np.flatnonzero(scores < self._rule.keep_threshold)
        return float(seconds[is_quiet[-1], 1] if len(is_quiet) else seconds[0, 0])

    def _continued(self, start: datetime) -> Alarm | None:
        """The inherited event that one with this start goes on with."""
        for one in self._inherited:
            if self._goes_on(one, start.timestamp()):
                self._inherited.remove(one)
                return one
        return None


def _overlap(one: Event, other: Event) -> int:
    stop = min(one.stop_frame, other.stop_frame)
    return stop - max(one.start_frame, other.start_frame)


def _differs(new: Alarm, old: Alarm) -> bool:
    """Whether a message about an event says something new enough to be sent."""
    is_higher = new.peak_score >= old.peak_score + HIGHER_BY
    is_longer = new.stop_seconds >= old.stop_seconds + LONGER_BY
    return is_higher or is_longer or (new.label, new.is_open) != (old.label, old.is_open)
