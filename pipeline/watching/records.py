"""What is recorded of a recording that is done, and in which order.

A kill at any moment loses nothing and repeats no alarm: first come the files of the result; then
the ledger gets the recording with its alarms, in one transaction; then follow the index by file,
the overview, and the clips. Until the ledger has it, a recording counts as new; a restart makes up
for everything after that but the clips, which vigil report writes.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from vigil.extract.errors import FailedVideo
from vigil.extract.store import feature_path
from vigil.pipeline.option_checks import wants_clips
from vigil.pipeline.options import WatchOptions
from vigil.pipeline.recorder_names import RecordingTime
from vigil.pipeline.result_formats import read_formats
from vigil.pipeline.scoring.clips import add_clips
from vigil.pipeline.scoring.results import ResultsError, VideoResult, read_result, result_path
from vigil.pipeline.scoring.strips import write_strips
from vigil.pipeline.scoring.writers import write_video
from vigil.pipeline.watching.event_alarms import (
    ScoredRecording,
    alarms_of,
    local_start,
    stale,
    utc_now,
)
from vigil.pipeline.watching.ledger import FAILED, REPEATED, SCORED, Ledger, ScoredVideo
from vigil.pipeline.watching.metrics import Gauges
from vigil.pipeline.watching.overview import Overview
from vigil.pipeline.watching.recorder_folder import Recording
from vigil.pipeline.watching.retention import result_bytes
from vigil.pipeline.watching.seen_files import POSTPONED, SeenFile, SeenFiles

CLOSE_SECONDS = 600.0
"""An open event that nothing continues is over after this time and the length of a recording."""
UNKNOWN_LENGTH_SECONDS = 3600.0
"""Taken for the length of recordings of a camera before one was scored."""
CHECK_SECONDS = 30.0
RETRY_SECONDS = (60.0, 300.0, 1800.0, *11 * (7200.0,))
"""Pauses before attempts at a recording whose failure may pass; after them it has failed."""

log = logging.getLogger(__name__)


@dataclass
class Records:
    """Records recordings, in the ledger and everywhere else."""

    options: WatchOptions
    store: Path
    """Of the features."""
    ledger: Ledger
    seen: SeenFiles
    overview: Overview
    gauges: Gauges
    outcomes: Counter[str] = field(default_factory=Counter)
    """Outcome -> number of recordings since the start."""
    _lengths: dict[str, float] = field(default_factory=dict)
    """Camera -> length of its last recording, in seconds."""
    _next_check: float = 0.0

    def scored(
        self, recording: Recording, result: VideoResult, start: RecordingTime | None
    ) -> None:
        """Record a recording whose result is written."""
        now, camera = utc_now(), recording.camera
        scored = ScoredRecording(
            camera, result, recording.digest, local_start(start), recording.completed_at
        )
        open_events = self.ledger.open_events(camera)
        alarms = alarms_of(scored, open_events, self.options.join_seconds, now)
        self.ledger.record_video(self._row(recording, SCORED, ""), alarms)
        if wants_clips(self.options) and result.events:
            how = self.options.clip_margin, self.options.annotate
            (result,) = add_clips(self.options.out, [result], *how)
        self._keep_features(recording.name, bool(result.events))
        self._lengths[camera] = result.duration_seconds
        self._note_result(recording, result)
        lag = max(0.0, now.timestamp() - recording.completed_at)
        self._count(recording, SCORED)
        self.gauges.set("vigil_lag_seconds", lag, camera=camera)
        found = ", ".join(f"{one.class_name} {one.peak_score:.3f}" for one in result.events)
        log.info("%s: %s, %.1f s after its end", recording.name, found or "no event", lag)

    def stretch(self, camera: str, result: VideoResult, write_album: Callable[[], None]) -> None:
        """Record the result of a stretch of a stream, whose alarms are recorded already.

        Its thumbnails come last: the result has what is left of the disk first, and a kill leaves
        no picture that `Retention` does not know of.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        write_video(self.options.out, result, read_formats(self.options.format))
        self._note_stretch(camera, result)
        write_album()
        write_strips(self.options.out, result)
        self._note_stretch(camera, result)
        self.overview.add(result, time.time())

    def note_clips(self, camera: str, video: str) -> None:
        """Put a stretch of a stream into the index that has clips, and no result yet.

        So `Retention` knows of them, also after a kill.
        """
        self._note_files(camera, video, num_events=1)

    def _note_stretch(self, camera: str, result: VideoResult) -> None:
        """Put the result of a stretch into the index, with the size of its files so far."""
        self._note_files(camera, result.video, result.num_events)

    def _note_files(self, camera: str, video: str, num_events: int) -> None:
        num_bytes = max(1, result_bytes(self.options.out, self.store, video))
        file = SeenFile(video, camera, "", 0, 0, SCORED, "", num_events, num_bytes)
        self.seen.record(file, time.time())

    def failed(self, recording: Recording, failed: FailedVideo) -> None:
        """Record a recording that has no result, or none yet.

        The ledger gets only what has failed for good; what is tried again counts as new there.
        """
        file = recording.name, recording.num_bytes, recording.modified_ns
        outcome, reason, retry_at = FAILED, failed.reason, None
        num_failures = self.seen.num_failures(*file) + 1
        if failed.may_pass:
            reason += f" (attempt {num_failures} of {len(RETRY_SECONDS) + 1}"
            if num_failures <= len(RETRY_SECONDS):
                outcome, retry_at = POSTPONED, time.time() + RETRY_SECONDS[num_failures - 1]
                reason += f", the next one at {_local_text(retry_at)}"
            reason += ")"
        if outcome == FAILED:
            self.ledger.record_video(self._row(recording, FAILED, reason), [])
        self._keep_features(recording.name, False)
        self._note(recording, outcome, reason, num_failures=num_failures, retry_at=retry_at)
        self.overview.fail(replace(failed, reason=reason), time.time())
        self._count(recording, outcome)
        if failed.may_pass:
            log.info("%s: %s", recording.name, reason)

    def known(self, recording: Recording, before: ScoredVideo) -> None:
        """Record a file whose content was dealt with before, under this name or another one."""
        if before.video != recording.name:
            reason = f"has the content of {before.video}"
            self.ledger.record_video(self._row(recording, REPEATED, reason), [])
            self._note(recording, REPEATED, reason)
            self.overview.forgive(recording.name)
            self._count(recording, REPEATED)
            log.info("%s %s: not scored again", recording.name, reason)
        elif before.outcome == SCORED:  # a kill came before this was in the index
            try:
                self._note_result(recording, read_result(self._result_path(recording)))
            except ResultsError:  # removed by now
                self._note(recording, SCORED)
        else:
            self._note(recording, before.outcome, before.reason)

    def close_stale_events(self, is_idle: Callable[[str], bool], now: bool = False) -> None:
        """Close events that were open at the end of a recording, and that nothing has continued.

        Args:
            is_idle: whether no recording of a camera is about to be scored.
            now: look for them although it is not yet time to.
        """
        if time.monotonic() < self._next_check and not now:
            return
        self._next_check = time.monotonic() + CHECK_SECONDS
        for camera in filter(is_idle, self.ledger.cameras_with_open_events()):
            patience = CLOSE_SECONDS + self._lengths.get(camera, UNKNOWN_LENGTH_SECONDS)
            if over := [*stale(self.ledger.open_events(camera), patience, utc_now())]:
                self.ledger.record_alarms(over)

    def _row(self, recording: Recording, outcome: str, reason: str) -> ScoredVideo:
        return ScoredVideo(
            recording.camera,
            recording.name,
            recording.digest,
            outcome,
            reason,
            recording.completed_at,
            time.time(),
        )

    def _note_result(self, recording: Recording, result: VideoResult) -> None:
        num_bytes = result_bytes(self.options.out, self.store, recording.name)
        self._note(recording, SCORED, num_events=result.num_events, result_bytes=num_bytes)
        self.overview.add(result, time.time())

    def _note(
        self,
        recording: Recording,
        outcome: str,
        reason: str = "",
        num_events: int = 0,
        result_bytes: int = 0,
        num_failures: int = 0,
        retry_at: float | None = None,
    ) -> None:
        """Put a file into the index."""
        file = SeenFile(
            recording.name,
            recording.camera,
            str(recording.path),
            recording.num_bytes,
            recording.modified_ns,
            outcome,
            reason,
            num_events,
            result_bytes,
        )
        self.seen.record(file, time.time(), num_failures, retry_at)

    def _keep_features(self, name: str, has_events: bool) -> None:
        """Remove the features of a recording unless they are to be kept."""
        keep = self.options.keep_features
        if keep == "none" or (keep == "events" and not has_events):
            feature_path(self.store, name).unlink(missing_ok=True)

    def _result_path(self, recording: Recording) -> Path:
        return result_path(self.options.out, recording.name)

    def _count(self, recording: Recording, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.gauges.add("vigil_recordings_total", camera=recording.camera, outcome=outcome)
        self.gauges.beat(recording.camera)


def _local_text(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")
