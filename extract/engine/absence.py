"""What the log says of a camera that stays away: the less often, the longer that lasts."""

import logging
import time
from dataclasses import dataclass

TOLD_AGAIN_SECONDS = (60.0, 300.0, 1800.0)
"""Between the messages about one absence; the last goes on."""

log = logging.getLogger(__name__)


@dataclass
class Absence:
    """Whether a camera is away, and since when."""

    camera: str
    _since: float | None = None
    """By `time.monotonic`; None: it is not away."""
    _num_told: int = 0
    _tell_at: float = 0.0

    def begins(self) -> None:
        """Note that nothing comes any more."""
        if self._since is None:
            self._since, self._num_told, self._tell_at = time.monotonic(), 0, 0.0

    def lasts(self, reason: str) -> None:
        """Note an attempt in vain, and log it if it is time to."""
        self.begins()
        assert self._since is not None
        now = time.monotonic()
        if now < self._tell_at:
            return
        so_far = f" for {spelled(now - self._since)}" if self._num_told else ""
        pause = TOLD_AGAIN_SECONDS[min(self._num_told, len(TOLD_AGAIN_SECONDS) - 1)]
        log.warning("%s: no connection%s: %s", self.camera, so_far, reason)
        self._num_told += 1
        self._tell_at = now + pause

    def ends(self) -> None:
        """Note that pictures come, and log for how long none did."""
        if self._since is not None:
            lasted = spelled(time.monotonic() - self._since)
            log.info("%s: it is back after %s", self.camera, lasted)
        self._since = None


def spelled(seconds: float) -> str:
    """A length of time for people: 45 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
