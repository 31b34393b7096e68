"""The overview of RESULTS while more and more recordings are scored: bounded in memory and time.

It shows the newest recordings with events, and as many of those without. The JSON files of all
others stay where they are.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TypeVar

from vigil.extract.errors import FailedVideo, counted
from vigil.pipeline.options import WatchOptions
from vigil.pipeline.scoring.command import drift_warnings, results_of
from vigil.pipeline.scoring.results import ResultsError, VideoResult, read_result, result_path
from vigil.pipeline.scoring.score_store import Scorer
from vigil.pipeline.scoring.writers import write_overview
from vigil.pipeline.watching.ledger import FAILED, SCORED
from vigil.pipeline.watching.seen_files import SeenFiles

REFRESH_SECONDS = 30.0
"""At least between two refreshes."""
MAX_SHARE = 0.05
"""Of the time, that refreshes take."""

Kept = TypeVar("Kept")

log = logging.getLogger(__name__)


@dataclass
class Overview:
    """The newest results, and the files about all of them."""

    options: WatchOptions
    scorer: Scorer
    """Describes the detector and the thresholds."""
    _results: dict[bool, OrderedDict[str, VideoResult]] = field(
        default_factory=lambda: {True: OrderedDict(), False: OrderedDict()}
    )
    """Whether there are events -> the results by name, the oldest first."""
    _failures: OrderedDict[str, FailedVideo] = field(default_factory=OrderedDict)
    _is_changed: bool = False
    _next_refresh: float = 0.0
    _told: set[str] = field(default_factory=set)
    _begun: float = field(default_factory=time.monotonic)

    def load(self, seen: SeenFiles) -> None:
        """Take over the newest results of earlier runs."""
        for with_events in (True, False):
            for file in seen.newest(SCORED, with_events, self.options.report_videos):
                try:
                    self.add(read_result(result_path(self.options.out, file.name)))
                except ResultsError as error:
                    log.debug("%s", error)  # its removal was interrupted
        for file in seen.newest(FAILED, False, self.options.report_videos):
            self.fail(FailedVideo(file.name, file.reason))

    @property
    def num_videos(self) -> int:
        """Number of results that are shown."""
        return sum(map(len, self._results.values()))

    def add(self, result: VideoResult) -> None:
        """Show a result, and no longer the oldest of its kind if there are too many."""
        self.discard([result.video])
        self._failures.pop(result.video, None)
        self._put(self._results[bool(result.events)], result.video, result)

    def fail(self, failed: FailedVideo) -> None:
        """List a recording that has no result."""
        self._put(self._failures, failed.video, failed)

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
        shown = [result for results in self._results.values() for result in results.values()]
        scorer = replace(self.scorer, results=shown, failures=[*self._failures.values()])
        drifted = drift_warnings(scorer, self.options.span)
        for warning in {*drifted} - self._told:
            log.warning("%s", warning)
        self._told.update(drifted)
        seconds = {"watching": begun - self._begun, "scoring": self.scorer.seconds}
        note = (
            f"Shown are the newest {counted(self.options.report_videos, 'recording')} with events, "
            "and as many without; the files of all others are kept, too."
        )
        is_full = any(len(one) >= self.options.report_videos for one in self._results.values())
        content = results_of(self.options, scorer, seconds, [note] if is_full else [], drifted)
        write_overview(self.options.out, content, scorer.formats)
        self._is_changed = False
        took = time.monotonic() - begun
        self._next_refresh = time.monotonic() + max(REFRESH_SECONDS, took / MAX_SHARE)

    def _put(self, shown: OrderedDict[str, Kept], name: str, value: Kept) -> None:
        shown.pop(name, None)
        shown[name] = value
        if len(shown) > self.options.report_videos:
            shown.popitem(last=False)
        self._is_changed = True
