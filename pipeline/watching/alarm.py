"""An alarm: one message about an event, and its JSON, which every sink sends unchanged."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from vigil.extract.versions import installed_versions

SCHEMA = 1

_EVENT = re.compile(r"[A-Za-z0-9._-]{1,200}")
_FIRST_SEEN = ("sequence", "detected_at", "lag_seconds")
"""What differs when the same message is made again after a restart."""


@dataclass(frozen=True)
class Alarm:
    """One message about an event; the first has sequence 1.

    Raises:
        ValueError: the id has other characters than letters, digits and ``._-``, a number is not
            finite, or the event ends before it starts.
    """

    event: str
    """Its id: unique, and the same after a restart (`event_id`)."""
    sequence: int
    """1, 2, ... within the event; the ledger gives it, and replaces whatever it was."""
    is_open: bool
    """Whether the event goes on."""
    camera: str
    video: str | None
    """Name of the recording in RESULTS; None for a stream."""
    label: str
    """Class of the event."""
    class_shares: Mapping[str, float]
    peak_score: float
    threshold: float
    start_seconds: float
    """Within the recording, or within the unbroken piece of a stream."""
    stop_seconds: float
    start_time: str | None
    """ISO 8601 with an offset, if the time of day is known."""
    stop_time: str | None
    detected_at: str
    """UTC, ISO 8601."""
    lag_seconds: float | None
    """From the end of what was seen to the alarm, if known."""
    clip: str | None = None
    """Path in RESULTS of the clip of a stream's event, with forward slashes, once it is there."""

    def __post_init__(self) -> None:
        """Refuse what no sink could send."""
        if not _EVENT.fullmatch(self.event):
            raise ValueError(f"an event's id has letters, digits and ._- only: {self.event!r}")
        numbers = (self.peak_score, self.threshold, self.start_seconds, self.stop_seconds)
        lag = 0.0 if self.lag_seconds is None else self.lag_seconds
        if not all(map(math.isfinite, (*numbers, lag, *self.class_shares.values()))):
            raise ValueError(f"event {self.event} has a number that is not finite: {self}")
        if self.stop_seconds < self.start_seconds:
            raise ValueError(f"event {self.event} ends before it starts: {self}")

    @property
    def digest(self) -> str:
        """The sha256 of what the message says: two with the same digest are one message."""
        content = _content(self)
        for name in _FIRST_SEEN:
            del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def numbered(self, sequence: int) -> "Alarm":
        """The same message with its number within the event."""
        return replace(self, sequence=sequence)


def event_id(camera: str, start: datetime | None, *source: object) -> str:
    """An id that is the same whenever the same event is found again.

    Args:
        camera: of the event.
        start: when it starts, if known, with a time zone.
        source: what distinguishes it from every other event of this camera, and does not change
            when the same footage is scored again: the sha256 of a recording and the frame at which
            the event starts, or the name of a piece of a stream and the frame.
    """
    what = json.dumps([camera, *map(str, source)])
    stamp = "" if start is None else f"{start.astimezone(UTC):%Y%m%dT%H%M%SZ}-"
    return f"{slug(camera)[:100]}-{stamp}{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def slug(name: str) -> str:
    """A name of letters, digits and ``_-`` only; another name gives another one.

    A name that had to be changed gets the start of its sha256 at the end.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    if plain == name and name:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{plain[:60].strip('_')}_{digest}".lstrip("_")


def alarm_text(alarm: Alarm) -> str:
    """The message as sinks send it: JSON in one line, ASCII (schema/alarm.json)."""
    about = {"vigil": _version(), "schema": SCHEMA}
    return json.dumps(_content(alarm) | about, allow_nan=False)


def read_alarm(text: str) -> Alarm:
    """The alarm of a message; the inverse of `alarm_text`."""
    content: dict[str, Any] = json.loads(text)
    return Alarm(**{one.name: content[one.name] for one in fields(Alarm) if one.name in content})


@cache
def _version() -> str:
    return installed_versions().get("vigil-video", "unknown")


def _content(alarm: Alarm) -> dict[str, Any]:
    content = {one.name: getattr(alarm, one.name) for one in fields(alarm)}
    if alarm.clip is None:
        del content["clip"]
    return content | {"class_shares": dict(alarm.class_shares)}
