"""The alarms of recordings: an event that goes on across the border between two files is one.

The end of a recording says nothing of what comes next, so an event that reaches it stays open. The
next recording of the camera continues it, with the same id, or closes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from vigil.pipeline.recorder_names import RecordingTime
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.watching.alarm import Alarm, event_id

CLOCK_SECONDS = 1.0
"""To which names give the time: the border between two recordings may be off by as much."""


@dataclass(frozen=True)
class ScoredRecording:
    """A recording with its result."""

    camera: str
    result: VideoResult
    digest: str
    """The sha256 of its content."""
    start: datetime | None
    """With a time zone; None if the time of day is not known."""
    completed_at: float
    """Seconds since 1970."""


def local_start(time: RecordingTime | None) -> datetime | None:
    """The start of a recording with a time zone: this machine's, unless the name has one."""
    return None if time is None else time.start.astimezone()


def alarms_of(
    recording: ScoredRecording, open_events: Sequence[Alarm], join_seconds: float, now: datetime
) -> list[Alarm]:
    """The messages that a recording gives rise to: of events that it ends, continues and starts.

    Args:
        recording: the next one of its camera, unless it comes late.
        open_events: last message of each event of the camera that goes on.
        join_seconds: events with at most so much time between them are one.
        now: the time, in UTC.
    """
    left = list(open_events)
    own = []
    for number, event in enumerate(recording.result.events):
        alarm = _alarm(recording, event, number, join_seconds, now)
        before = next((one for one in left if _continues(one, alarm, join_seconds)), None)
        if before is not None:
            left.remove(before)
            alarm = _continued(before, alarm)
        own.append(alarm)
    closed = [closing(one, now) for one in left if _is_over(one, recording)]
    return [*closed, *own]


def closing(alarm: Alarm, now: datetime) -> Alarm:
    """The message that an event is over, given its last one."""
    return replace(alarm, is_open=False, detected_at=_text(now), lag_seconds=None, clip=None)


def _alarm(
    recording: ScoredRecording, event: Event, number: int, join_seconds: float, now: datetime
) -> Alarm:
    """The message about an event of a recording, seen on its own."""
    result = recording.result
    # An event after a jump of the recorder's clock has no time of day.
    start = recording.start if event.start_clock is not None else None
    start_time, stop_time = (
        None if start is None else start + timedelta(seconds=seconds)
        for seconds in (event.start_seconds, event.stop_seconds)
    )
    until_end = result.duration_seconds - event.stop_seconds
    return Alarm(
        event=event_id(recording.camera, start_time, recording.digest, number),
        sequence=1,
        is_open=start is not None and until_end <= join_seconds,
        camera=recording.camera,
        video=result.video,
        label=event.class_name,
        class_shares=event.class_shares,
        peak_score=event.peak_score,
        threshold=result.threshold,
        start_seconds=event.start_seconds,
        stop_seconds=event.stop_seconds,
        start_time=None if start_time is None else _text(start_time),
        stop_time=None if stop_time is None else _text(stop_time),
        detected_at=_text(now),
        lag_seconds=max(0.0, now.timestamp() - recording.completed_at),
    )


def _continues(before: Alarm, alarm: Alarm, join_seconds: float) -> bool:
    """Whether an event of a later recording goes on with an open one."""
    if alarm.start_time is None or before.start_time is None or before.stop_time is None:
        return False
    start, stop = map(datetime.fromisoformat, (before.start_time, before.stop_time))
    gap = datetime.fromisoformat(alarm.start_time) - stop
    is_later = datetime.fromisoformat(alarm.start_time) >= start
    return is_later and gap <= timedelta(seconds=join_seconds + CLOCK_SECONDS)


def _continued(before: Alarm, alarm: Alarm) -> Alarm:
    """The message about an event that goes on: its class is that of the part that peaks highest."""
    highest = max(before, alarm, key=lambda one: one.peak_score)
    return replace(
        alarm,
        event=before.event,
        start_time=before.start_time,
        label=highest.label,
        class_shares=highest.class_shares,
        peak_score=highest.peak_score,
    )


def _is_over(alarm: Alarm, recording: ScoredRecording) -> bool:
    """Whether a recording shows that an event is over: it begins later, and does not continue it.

    One that comes late lies before the event, and says nothing of it.
    """
    if recording.start is None or alarm.stop_time is None:
        return False
    stop = recording.start + timedelta(seconds=recording.result.duration_seconds)
    return stop > datetime.fromisoformat(alarm.stop_time)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def stale(open_events: Sequence[Alarm], seconds: float, now: datetime) -> Iterator[Alarm]:
    """Yield the messages that events are over, of which there was none for so long."""
    for alarm in open_events:
        if now - datetime.fromisoformat(alarm.detected_at) > timedelta(seconds=seconds):
            yield closing(alarm, now)


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)
