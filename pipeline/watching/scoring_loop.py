"""Scores recordings as they become complete, with one engine that runs all the time."""

import errno
import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from vigil.extract.engine.dispatch import Engine
from vigil.extract.engine.plan import plan_extraction
from vigil.extract.engine.writer import Extracted
from vigil.extract.errors import FailedVideo
from vigil.extract.source import CHANGED, SourceVideo, VideoIdentity, size_and_time
from vigil.extract.store import feature_path, read_identity
from vigil.pipeline.failures import exit_code
from vigil.pipeline.options import WatchOptions
from vigil.pipeline.recorder_names import RecordingTime
from vigil.pipeline.scores.frame_warnings import frame_warnings
from vigil.pipeline.scoring.recording_times import find_time
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.scoring.score_store import Scorer
from vigil.pipeline.watching.cameras import Cameras
from vigil.pipeline.watching.free_space import FreeSpace
from vigil.pipeline.watching.in_order import InOrder
from vigil.pipeline.watching.ledger import FAILED, SCORED
from vigil.pipeline.watching.recorder_folder import RecorderFolders, Recording
from vigil.pipeline.watching.records import Records
from vigil.pipeline.watching.retention import Retention
from vigil.pipeline.watching.seen_files import POSTPONED
from vigil.pipeline.watching.streams import StreamFollower

GIVEN_FOR_CAMERA = "given for the camera in --cameras"
MAX_IN_PROGRESS = 2 * len(os.sched_getaffinity(0)) + 2
"""Recordings that the engine may have at a time: enough to keep every worker busy."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Done:
    """A recording with its result, or with why it has none."""

    recording: Recording
    outcome: VideoResult | FailedVideo
    start: RecordingTime | None = None


@dataclass
class ScoringLoop:
    """What is being scored, and everything that this takes."""

    options: WatchOptions
    cameras: Cameras
    engine: Engine
    store: Path
    """Of the features."""
    scorer: Scorer
    """With the settings that all recordings share."""
    folders: RecorderFolders
    records: Records
    retention: Retention
    free_space: FreeSpace
    streams: StreamFollower
    _in_progress: dict[str, Recording] = field(default_factory=dict)
    """Until they are recorded."""
    _held: list[Recording] = field(default_factory=list)
    """Those with the content of one in progress."""
    _lines: InOrder[_Done] = field(default_factory=InOrder)
    """Events go on from one recording to the next, so those of a camera are recorded in order."""

    def run(self) -> int:
        """Score until interrupted, or with --once until nothing complete is left.

        Returns:
            The exit code: 0, or 3 if some recordings failed, or 4 if all did.
        """
        while True:
            try:
                self._score_what_comes()
                break
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.free_space.ran_out(error)
                self._begin_anew()
        so_far = self.records.outcomes
        return exit_code(so_far[FAILED] + so_far[POSTPONED], so_far[SCORED])

    def _score_what_comes(self) -> None:
        live = self.streams.connect()
        outcomes = self.engine.extract([], self.store, more=self._more, live=live)
        with closing(outcomes):
            for outcome in outcomes:
                self._conclude(outcome)

    def _begin_anew(self) -> None:
        """Give back what was in progress when the disk was full, and wait until there is room."""
        for recording in [*self._in_progress.values(), *self._held]:
            self.folders.again(recording)
        self._in_progress.clear()
        self._held.clear()
        self._lines = InOrder()
        while not self.free_space.check():
            self.retention.apply()
            time.sleep(1)

    def _more(self) -> Sequence[SourceVideo] | None:
        """What the engine is to extract next; None if nothing more will come."""
        self.folders.require_running()
        for recording, reason in self.folders.take_unreadable():
            failed = FailedVideo(recording.name, reason, may_pass=True)
            self.records.failed(recording, failed)
            self.folders.done(recording)
        self.records.overview.refresh()
        self.retention.apply()
        self.records.close_stale_events(self._is_idle)
        self.streams.check()
        self._measure()
        is_busy = self._in_progress or self._held
        if self.options.once and self.folders.is_exhausted and not is_busy:
            self.records.close_stale_events(self.folders.is_idle, now=True)
            return None
        if not self.free_space.check():
            return []
        held, self._held = self._held, []
        room = MAX_IN_PROGRESS - len(self._in_progress) + self._lines.num_waiting
        taken = [one for one in (*held, *self.folders.take(room)) if self._is_new(one)]
        return self._plan(taken)

    def _is_idle(self, camera: str) -> bool:
        """Whether nothing of a camera will come that its open events could go on with."""
        return camera not in self.streams.cameras and self.folders.is_idle(camera)

    def _measure(self) -> None:
        gauges = self.records.gauges
        gauges.set("vigil_recordings_waiting", self.folders.num_waiting + len(self._held))
        gauges.set("vigil_recordings_in_progress", len(self._in_progress))
        gauges.set("vigil_recordings_to_retry", self.records.seen.num_to_retry)
        gauges.set("vigil_recordings_removed_total", self.folders.num_lost)
        gauges.set("vigil_has_disk_space", self.free_space.is_there)

    def _is_new(self, recording: Recording) -> bool:
        """Whether a recording is to be scored now; it is in progress then."""
        content = recording.camera, recording.digest
        before = self.records.ledger.recorded(*content)
        if before is not None:
            self.records.known(recording, before)
            self.folders.done(recording)
        elif content in {(one.camera, one.digest) for one in self._in_progress.values()}:
            self._held.append(recording)
        else:
            self._in_progress[recording.name] = recording
            self._lines.announce(recording.camera, recording.name)
            return True
        return False

    def _plan(self, taken: Sequence[Recording]) -> list[SourceVideo]:
        """Those without features; those that have them from before a kill are scored."""
        fps = self.options.compute.input_fps
        videos = [SourceVideo(one.path, one.name, input_fps=fps) for one in taken]
        there = [one for one in videos if feature_path(self.store, one.name).exists()]
        if not there:
            return videos
        plan = plan_extraction(there, self.store, self.engine, overwrite=True)
        for failed in plan.failed:
            self._conclude(failed)
        for video in plan.present:
            self._score(video.name, read_identity(feature_path(self.store, video.name)).video)
        return [one for one in videos if one not in there or one in plan.missing]

    def _conclude(self, outcome: Extracted | FailedVideo) -> None:
        """Go on with a recording that has features now, or cannot have any."""
        if isinstance(outcome, Extracted):
            for warning in frame_warnings(outcome.features):
                log.warning("%s: %s", outcome.video, warning)
            self._score(outcome.video, outcome.features.video)
            return
        recording = self._in_progress[outcome.video]
        try:
            is_same = size_and_time(recording.path) == (recording.num_bytes, recording.modified_ns)
        except FileNotFoundError:
            self._leave(recording, None)
            self.folders.lose(recording)
            return
        except OSError:
            is_same = True
        if outcome.reason == CHANGED or not is_same:
            log.info("%s changed while it was read: it is read again", recording.name)
            self._leave(recording, None)
            self.folders.again(recording)
            return
        log.error("%s: %s", outcome.video, outcome.reason)
        self._leave(recording, _Done(recording, outcome))

    def _score(self, name: str, identity: VideoIdentity) -> None:
        """Score a recording with features."""
        recording = replace(  # it may have changed after it was read for the first time
            self._in_progress[name],
            num_bytes=identity.num_bytes,
            modified_ns=identity.modified_ns,
            digest=identity.digest,
        )
        start = find_time(self.options.clock)(name, recording.path)
        scorer = self._scorer_of(recording, start)
        scorer.score(name, feature_path(self.store, name))
        self.scorer.seconds += scorer.seconds
        outcomes: list[VideoResult | FailedVideo] = [*scorer.results, *scorer.failures]
        self._leave(recording, _Done(recording, outcomes[0], start))

    def _scorer_of(self, recording: Recording, start: RecordingTime | None) -> Scorer:
        """A scorer for one recording, with the threshold of its camera."""
        scorer = replace(
            self.scorer,
            sources={recording.name: recording.path},
            times={} if start is None else {recording.name: start},
            results=[],
            failures=[],
            seconds=0.0,
        )
        threshold = self.cameras.settings_of(recording.camera).threshold
        if threshold is None:
            return scorer
        return replace(scorer, threshold=threshold, threshold_rule=GIVEN_FOR_CAMERA)

    def _leave(self, recording: Recording, done: _Done | None) -> None:
        """End the progress of a recording, and record what may be recorded now."""
        if done is None:
            del self._in_progress[recording.name]
        for one in self._lines.come(recording.camera, recording.name, done):
            if isinstance(one.outcome, FailedVideo):
                self.records.failed(one.recording, one.outcome)
            else:
                self.records.scored(one.recording, one.outcome, one.start)
            del self._in_progress[one.recording.name]
            self.folders.done(one.recording)
