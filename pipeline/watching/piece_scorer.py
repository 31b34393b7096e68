"""One piece of a stream while it runs: its events, its clocks, and its results in stretches."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import numpy as np

from vigil.extract.engine.live import SeenClip
from vigil.extract.store import VideoFeatures
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.recorder_names import RecordingTime
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.rolling import RollingTimeline, Update
from vigil.pipeline.scores.spans import Timeline
from vigil.pipeline.scoring.recording_times import with_times_of_day
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.scoring.score_store import video_result
from vigil.pipeline.watching.alarm import Alarm
from vigil.pipeline.watching.stream_album import StreamAlbum
from vigil.pipeline.watching.stream_clips import StreamClips, Stretch
from vigil.pipeline.watching.stream_events import StreamEvents

STRETCH_SECONDS = 600.0
"""A stream has a result for each stretch of at least so long, up to a quiet place."""
MAX_DRIFT = 2e-4
"""By which the clock of a camera may be slow, as a share of the time."""
LONG_STRETCH_SECONDS = 3600.0
"""From so long on, a stretch may end wherever no event is, if there is no quiet place."""
LONGEST_STRETCH_SECONDS = 86400.0
"""An event as long as this is cut."""

KeepStretch = Callable[[VideoResult, Callable[[], None]], None]
"""Gets the result of a stretch, and what writes its album, which is to come after the result."""

log = logging.getLogger(__name__)


class PieceScorer:
    """One piece of one camera while it runs."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        camera: str,
        kind: VideoFeatures,
        timeline: RollingTimeline,
        events: StreamEvents,
        album: StreamAlbum,
        clips: StreamClips,
        rule: EventRule,
        threshold_rule: str,
        keep: KeepStretch,
    ) -> None:
        """Begin a piece; ``kind`` is features like its own, without arrays."""
        self._checkpoint, self._camera, self._kind = checkpoint, camera, kind
        self._timeline, self.events, self.album = timeline, events, album
        self.clips = clips
        self._rule, self._threshold_rule, self._keep = rule, threshold_rule, keep
        self._clock, self._shown = math.inf, 0.0
        """When the first frame was shown, by the clock that never jumps, and the last frame."""
        self._first_clock, self._offset = 0.0, wall_offset()
        self._kept_until = 0.0
        """Seconds of the piece that are in results."""
        self._is_refused = False
        """Whether the last stretch could not be written."""
        self._name = ""
        """Of the present stretch, once clips of it have one."""
        self._num_ready = 0
        """Cells of the present stretch, once only clips are missing."""
        self._unseen: list[tuple[float, float]] = []
        """Of the others, those that were dropped."""
        self._clips: list[tuple[float, bool]] = []
        """Of the others, when each clip begins, and whether it was static."""

    def lag(self, clip: SeenClip, has_clock: bool) -> float:
        """Seconds from when the last frame of a clip was shown until now.

        A frame counts as shown when it could have been read: as long after the first one as the
        stream says, the least delay so far taken for none.
        """
        shown = float(clip.seconds[-1])
        drifted = self._clock + MAX_DRIFT * (shown - self._shown)
        if not self._shown:
            self._first_clock = clip.arrived_at - shown
        before, self._clock = self._clock, min(drifted, clip.arrived_at - shown)
        offset = wall_offset()
        if has_clock:  # times of day follow its drift, and steps of this machine's clock
            moved = self._clock - (before if self._shown else self._first_clock)
            self.events.began_at += moved + offset - self._offset
        self._shown, self._offset = shown, offset
        return time.monotonic() - self._clock - shown

    def add(self, clip: SeenClip) -> list[Alarm]:
        """Take the next clip, and return messages."""
        if clip.features is None:
            self._unseen.append((float(clip.seconds[0]), float(clip.seconds[-1])))
        self._clips.append((float(clip.seconds[0]), clip.is_static))
        alarms = self._take(self._timeline.add(clip.seconds, clip.features))
        self.clips.follow(self.events.told)
        # An event that begins later may be of the next stretch, in whose folder its clip is then.
        if not self._num_ready:  # else `keep_what_is_quiet` knows which are of the present one
            self.clips.write(self._kept_until + STRETCH_SECONDS, self._stretch)
        return alarms

    def finish(self) -> list[Alarm]:
        """Take the end of the piece, and return messages."""
        try:
            return self._take(self._timeline.finish())
        finally:
            end = self._shown + 0.5 / self._kind.fps
            self.clips.follow(self.events.told, end)
            self.clips.write(math.inf, self._stretch, at_once=True, end_seconds=end)

    def _take(self, update: Update | None) -> list[Alarm]:
        if update is None:
            return []
        alarms = self.events.take(update)
        told_until = self.events.time_at(float(update.timeline.seconds[-1, 1]))
        return [*alarms, *self.events.close_inherited(told_until.timestamp())]

    def keep_what_is_quiet(self) -> None:
        """Make the result of a stretch, if one is long enough and ends in a quiet place.

        It waits for the clips of its events.
        """
        kept = self.events.timeline
        if kept is None or not len(kept.frames):
            return
        lasts = float(kept.seconds[-1, 1]) - self._kept_until
        if lasts < STRETCH_SECONDS:
            return
        self._num_ready = self._num_ready or self._quiet_cells(kept, lasts)
        if not self._num_ready:
            return
        border = float(kept.seconds[self._num_ready - 1, 1])
        self.clips.write(border, self._stretch, at_once=lasts >= LONGEST_STRETCH_SECONDS)
        if self.clips.are_known(border):
            self._try_to_write(self._num_ready)
            self._num_ready = 0

    def _quiet_cells(self, kept: Timeline, lasts: float) -> int:
        """Number of cells that make a stretch; 0: there is no place to end it yet."""
        # What the end of the piece may revise is kept back: a span.
        stop = kept.frames[-1, 1] - 2 * (kept.span_frames or 0)
        old = float(kept.seconds[max(0, int(np.searchsorted(kept.frames[:, 1], stop))), 0])
        old = min(old, self.album.complete_until)
        num_cells = self.events.quiet_cells(old, is_urgent=lasts >= LONG_STRETCH_SECONDS)
        if lasts >= LONGEST_STRETCH_SECONDS:
            num_cells = int(np.searchsorted(kept.seconds[:, 1], old))
        if not num_cells:
            return 0
        border = float(kept.seconds[num_cells - 1, 1])
        is_long = border - self._kept_until >= STRETCH_SECONDS / 2
        return num_cells if is_long and self.clips.end_by(border) else 0

    def keep_rest(self) -> None:
        """Make the result of what is left at the end of the piece."""
        if self.events.timeline is not None and len(self.events.timeline.frames):
            self._try_to_write(len(self.events.timeline.frames))

    def _try_to_write(self, num_cells: int) -> None:
        """Write a stretch; if that fails, it is tried again while the piece goes on."""
        try:
            self._write(num_cells)
        except OSError as error:
            if not self._is_refused:
                log.error("%s: the result cannot be written (%s)", self._camera, error)
            self._is_refused = True
        else:
            self.events.drop(num_cells)
            self.clips.begin_stretch(self._kept_until)
            self._name = ""
            self._is_refused = False

    def _stretch(self) -> Stretch:
        """The present stretch; from now on its name is fixed."""
        kept = self.events.timeline
        assert kept is not None  # since it has an event
        began = self.events.time_at(float(kept.seconds[0, 0]))
        self._name = self._name or name_of(self._camera, began)
        return Stretch(self._name, began, kept, self._rule.threshold)

    def _write(self, num_cells: int) -> None:
        """Make the result of the oldest cells."""
        assert self.events.timeline is not None
        dropped = self.events.timeline.cells(0, num_cells)
        start, stop = float(dropped.seconds[0, 0]), float(dropped.seconds[-1, 1])
        first, num_frames = int(dropped.frames[0, 0]), int(np.ptp(dropped.frames))
        own = replace(dropped, frames=dropped.frames - first, seconds=dropped.seconds - start)
        kind = replace(
            self._kind,
            num_frames_decoded=num_frames,
            segment_frames=own.frames,
            segment_seconds=own.seconds,
        )
        began = self.events.time_at(start)
        name = self._name or name_of(self._camera, began)
        result = video_result(self._checkpoint, name, kind, own, self._rule)
        unseen = sum(max(0.0, min(b, stop) - max(a, start)) for a, b in self._unseen)
        self._unseen = [one for one in self._unseen if one[1] > stop]
        warnings = result.warnings
        if unseen:
            warnings += (
                f"{unseen / (stop - start):.0%} of it was not looked at, because the device was "
                "late: scores there are those of what is nearest, or 0 where nothing is near.",
            )
        result = replace(result, threshold_rule=self._threshold_rule, warnings=warnings)
        are_static = [is_static for start, is_static in self._clips if start < stop]
        if self._kind.spec.static == "skip":
            result = replace(result, static_share=sum(are_static) / max(len(are_static), 1))
        result = with_times_of_day(result, RecordingTime(began, "stream"))
        result = self.clips.named_in(result, start)
        self._keep(result, lambda: self.album.write(name, start, stop))
        self._kept_until = stop
        del self._clips[: len(are_static)]


def name_of(camera: str, began: datetime) -> str:
    """The name of the result of a stretch."""
    return f"{camera}/{began:%Y-%m-%d}/{began:%H-%M-%S}-{began.microsecond // 1000:03}"


def wall_offset() -> float:
    """What the time of day is ahead of the clock that never jumps, in seconds."""
    return time.time() - time.monotonic()
