"""The overview of RESULTS while more and more recordings are scored: bounded in memory and time.

It shows the newest recordings with events, and as many of those without. The JSON files of all
others stay where they are.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from vigil.extract.errors import FailedVideo, counted
from vigil.pipeline.options import WatchOptions
from vigil.pipeline.scoring.command import drift_warnings, results_of
from vigil.pipeline.scoring.results import ResultsError, VideoResult, read_result, result_path
from vigil.pipeline.scoring.score_store import Scorer
from vigil.pipeline.scoring.writers import write_overview
from vigil.pipeline.watching.ledger import FAILED, SCORED
from vigil.pipeline.watching.seen_files import POSTPONED, SeenFiles

REFRESH_SECONDS = 30.0
"""At least between two refreshes."""
MAX_SHARE = 0.05
"""Of the time, that refreshes take."""

TELL_SECONDS = 3600.0
"""Between two times that drift is logged."""

Kept = TypeVar("Kept")

log = logging.getLogger(__name__)


@dataclass
class Overview:
    """The newest results, and the files about all of them."""

    options: WatchOptions
    scorer: Scorer
    """Describes the detector and the thresholds."""
    notes: Sequence[str] = ()
    """What else to know of this run."""
    _results: dict[bool, OrderedDict[str, tuple[float, VideoResult]]] = field(
        default_factory=lambda: {True: OrderedDict(), False: OrderedDict()}
    )
    """Whether there are events -> name -> when it was scored and its result, the oldest first."""
    _failures: OrderedDict[str, tuple[float, FailedVideo]] = field(default_factory=OrderedDict)
    _is_changed: bool = True
    _next_refresh: float = 0.0
    _next_telling: float = 0.0
    _begun: float = field(default_factory=time.monotonic)

    def load(self, seen: SeenFiles) -> None:
        """Take over the newest results of earlier runs."""
        for with_events in (True, False):
            for done_at, file in seen.newest(SCORED, with_events, self.options.report_videos):
                try:
                    self.add(read_result(result_path(self.options.out, file.name)), done_at)
                except ResultsError as error:
                    log.debug("%s", error)  # its removal was interrupted
        for outcome in (FAILED, POSTPONED):
            for done_at, file in seen.newest(outcome, False, self.options.report_videos):
                self.fail(FailedVideo(file.name, file.reason), done_at)

    @property
    def num_videos(self) -> int:
        """Number of results that are shown."""
        return sum(map(len, self._results.values()))

    def add(self, result: VideoResult, done_at: float) -> None:
        """Show a result, and no longer the oldest of its kind if there are too many."""
        self.discard([result.video])
        self.forgive(result.video)
        self._put(self._results[bool(result.events)], result.video, (done_at, result))

    def fail(self, failed: FailedVideo, done_at: float) -> None:
        """List a recording that has no result."""
        self._put(self._failures, failed.video, (done_at, failed))

    def forgive(self, name: str) -> None:
        """List a recording no longer that had no result."""
        self._is_changed |= self._failures.pop(name, None) is not None

    def discard(self, names: Collection[str]) -> bool:
        """Show these results no longer; return whether any was shown."""
        num_before = self.num_videos
        for results in self._results.values():
            for name in names:
                results.pop(name, None)
        was_shown = self.num_videos < num_before
        self._is_changed |= was_shown
        return was_shown

    def refresh(self, now: bool = False) -> None:
        """Write the files about all recordings, if it is time to, or ``now``."""
        begun = time.monotonic()
        if not self._is_changed or (begun < self._next_refresh and not now):
            return
        shown = [one for results in self._results.values() for _, one in results.values()]
        failures = [failed for _, failed in self._failures.values()]
        scorer = replace(self.scorer, results=shown, failures=failures)
        seconds = {"watching": begun - self._begun, "scoring": self.scorer.seconds}
        content = results_of(self.options, scorer, seconds, self._notes(), self._drifted())
        write_overview(self.options.out, content, scorer.formats)
        self._is_changed = False
        took = time.monotonic() - begun
        self._next_refresh = time.monotonic() + max(REFRESH_SECONDS, took / MAX_SHARE)

    def _is_full(self, results: Collection[str]) -> bool:
        return len(results) >= self.options.report_videos

    def _notes(self) -> list[str]:
        """What to know of the overview."""
        if not any(map(self._is_full, self._results.values())):
            return [*self.notes]
        number = counted(self.options.report_videos, "recording")
        return [
            *self.notes,
            f"Shown are the newest {number} with events, and as many without; the files of all "
            "others are in the folder.",
        ]

    def _drifted(self) -> list[str]:
        """Reasons why the calibrated rate of alarms may not hold, logged once an hour.

        Those with events stay longer, so only those count that are as new as any without.
        """
        oldest = [
            next(iter(results.values()))[0]
            for results in self._results.values()
            if self._is_full(results)
        ]
        sample = [
            result
            for results in self._results.values()
            for done_at, result in results.values()
            if done_at >= max(oldest, default=0.0)
        ]
        drifted = drift_warnings(replace(self.scorer, results=sample), self.options.span)
        if time.monotonic() >= self._next_telling:
            self._next_telling = time.monotonic() + TELL_SECONDS
            for warning in drifted:
                log.warning("%s", warning)
        return drifted

    def _put(self, shown: OrderedDict[str, Kept], name: str, value: Kept) -> None:
        shown.pop(name, None)
        shown[name] = value
        if len(shown) > self.options.report_videos:
            shown.popitem(last=False)
        self._is_changed = True
