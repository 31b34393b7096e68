"""Whether there is room for more results on the disk."""

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

CHECK_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass
class FreeSpace:
    """Looks at the disk every few seconds, and tells when room runs out and when it is back."""

    folder: Path
    min_gib: float
    is_there: bool = True
    _next: float = 0.0

    def check(self) -> bool:
        """Whether there is room."""
        if time.monotonic() < self._next:
            return self.is_there
        self._next = time.monotonic() + CHECK_SECONDS
        free_gib = shutil.disk_usage(self.folder).free / 2**30
        is_there = free_gib >= self.min_gib
        if self.is_there and not is_there:
            log.warning(
                "%.2f GiB are free in %s, less than --min-free-gib %g: no recording is scored "
                "until there is room",
                free_gib,
                self.folder,
                self.min_gib,
            )
        elif is_there and not self.is_there:
            log.info("there is room again in %s: scoring goes on", self.folder)
        self.is_there = is_there
        return is_there

    def ran_out(self, error: OSError) -> None:
        """Note that a file could not be written for lack of room."""
        log.warning("%s: no space is left; no recording is scored until there is room", error)
        self.is_there, self._next = False, time.monotonic() + CHECK_SECONDS
