"""Which alarms of a camera are recorded but not sent: quiet hours, and too many in an hour."""

import re
from dataclasses import dataclass
from datetime import datetime, time

from vigil.extract.errors import UserError

QUIET, TOO_MANY = "quiet hours", "too many"
"""Why an alarm was not sent."""


class LimitsError(UserError):
    """Quiet hours or a rate cannot be understood."""


@dataclass(frozen=True)
class QuietHours:
    """A part of every day, half-open, by the clock and time zone of the machine."""

    start: time
    stop: time

    def includes(self, moment: time) -> bool:
        """Whether a time of day lies in it; 22:00-06:00 goes past midnight."""
        if self.start < self.stop:
            return self.start <= moment < self.stop
        return moment >= self.start or moment < self.stop


@dataclass(frozen=True)
class CameraLimits:
    """What limits the alarms of a camera that are sent."""

    quiet_hours: tuple[QuietHours, ...] = ()
    events_per_hour: int | None = None
    """None: any number."""

    def __post_init__(self) -> None:
        """Refuse a rate at which nothing would ever be sent."""
        if self.events_per_hour is not None and self.events_per_hour < 1:
            raise LimitsError(
                f"{self.events_per_hour} events per hour: give at least 1, or leave it out for "
                "any number"
            )

    def reason_against(self, moment: datetime, num_recent: int) -> str | None:
        """Why no message about a new event is sent now; None if it is.

        Args:
            moment: now, by the clock of the machine.
            num_recent: events of the camera that were sent in the last hour.
        """
        if any(hours.includes(moment.time()) for hours in self.quiet_hours):
            return QUIET
        if self.events_per_hour is not None and num_recent >= self.events_per_hour:
            return TOO_MANY
        return None


def read_quiet_hours(text: str) -> tuple[QuietHours, ...]:
    """Parse 22:00-06:00, or several such ranges separated by commas; empty text has none.

    Raises:
        LimitsError: it is something else.
    """
    return tuple(_one(part.strip()) for part in text.split(",")) if text.strip() else ()


def _one(text: str) -> QuietHours:
    found = re.fullmatch(r"(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)", text)
    if found:
        start_hour, start_minute, stop_hour, stop_minute = map(int, found.groups())
        try:
            # 24:00 is the end of a day, as in 18:00-24:00.
            start, stop = time(start_hour, start_minute), time(stop_hour % 24, stop_minute)
        except ValueError:
            pass
        else:
            if start != stop and (stop_hour < 24 or (stop_hour, stop_minute) == (24, 0)):
                return QuietHours(start, stop)
    raise LimitsError(
        f"quiet hours {text!r} are not understood: write a start and another end, such as "
        "22:00-06:00, and a comma between several"
    )
