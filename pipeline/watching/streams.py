"""Streams of cameras: scored while they run, with alarms, and results in stretches of minutes."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vigil.extract.decode.live import LiveSource, PieceBegun, PieceEnded
from vigil.extract.decode.thumbnails import LiveSheet
from vigil.extract.engine.dispatch import Engine
from vigil.extract.engine.live import LiveStreams, News, Piece, SeenClip, WhenLate
from vigil.extract.errors import UserError, counted
from vigil.extract.source import VideoIdentity
from vigil.extract.store import VideoFeatures
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.option_values import Span
from vigil.pipeline.recorder_names import RecordingTime
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.rolling import RollingTimeline, Update
from vigil.pipeline.scores.video_scoring import frames_of_span
from vigil.pipeline.scoring.recording_times import with_times_of_day
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.scoring.score_store import video_result
from vigil.pipeline.watching.alarm import Alarm
from vigil.pipeline.watching.event_alarms import closing, utc_now
from vigil.pipeline.watching.ledger import Ledger
from vigil.pipeline.watching.metrics import Gauges
from vigil.pipeline.watching.stream_album import AlbumSettings, StreamAlbum
from vigil.pipeline.watching.stream_events import LONGER_BY, StreamEvents

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


@dataclass(frozen=True)
class StreamSettings:
    """How streams are scored."""

    rule: Callable[[str], tuple[EventRule, str]]
    """Camera -> what counts as an event, and where its threshold comes from, in words."""
    span: Span = "auto"
    when_late: WhenLate = "drop-oldest"
    thumbnails: AlbumSettings | None = None
    """None: the engine takes none."""


class StreamFollower:
    """Hears the news of cameras, and turns them into alarms and results."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: Engine,
        sources: Sequence[LiveSource],
        settings: StreamSettings,
        ledger: Ledger,
        keep: Callable[[str, VideoResult, Callable[[], None]], None],
        gauges: Gauges,
    ) -> None:
        """Prepare to follow cameras.

        Args:
            checkpoint: its model runs on the device of its weights.
            engine: computes the features.
            sources: the cameras.
            settings: how they are scored.
            ledger: gets alarms.
            keep: gets the camera and the result of every stretch, and what writes its album.
            gauges: are set for `/metrics`.

        Raises:
            UserError: streams cannot be scored with this checkpoint; names the remedy.
        """
        self._checkpoint, self._engine, self._settings = checkpoint, engine, settings
        self._ledger, self._keep, self._gauges = ledger, keep, gauges
        self._pieces: dict[str, _PieceScorer] = {}
        self._sources = tuple(sources)
        self._orphans = {source.name: ledger.open_events(source.name) for source in sources}
        """Events that were open when their camera was last seen."""
        for source in sources:
            gauges.set("vigil_camera_up", 0, camera=source.name)
            gauges.add("vigil_stream_errors_total", 0, camera=source.name)
        if sources:
            self._require_spans()

    def _require_spans(self) -> None:
        if self._settings.span == "whole":
            raise UserError(
                "--span whole: streams cannot be scored as a whole, since they have no end: leave "
                "it out, or use --span SECONDS"
            )
        if self._engine.spec.frame_rate is not None:
            raise UserError(
                f"the checkpoint samples {self._engine.spec.frame_rate:g} frames a second, which "
                "vigil watch cannot do with streams yet: let a recorder write files into a folder, "
                "or train on features without --frame-rate"
            )
        if self._span_frames(self._kind("", PieceBegun(0, 25, 0, 0))) is None:
            raise UserError(
                "streams are scored in spans, and the checkpoint does not record how long its "
                "training videos were: use --span SECONDS, or train again"
            )

    @property
    def cameras(self) -> set[str]:
        """Names of the cameras."""
        return {source.name for source in self._sources}

    def connect(self) -> LiveStreams:
        """The cameras anew, for the engine to follow."""
        self.finish()
        return LiveStreams(self._sources, self._hear, self._settings.when_late)

    def finish(self) -> None:
        """End all pieces where they are; events that go on stay open, for the next run."""
        for camera in [*self._pieces]:
            self._end(camera)

    def check(self) -> None:
        """Close events of cameras that have not come back; to be called every few seconds."""
        now = time.time()
        for camera, alarms in self._orphans.items():
            if alarms and camera not in self._pieces:
                closing = StreamEvents(self._checkpoint, EventRule(), camera, now, alarms)
                self._ledger.record_alarms(closing.close_inherited(now))
                self._orphans[camera] = closing.left

    def _hear(self, piece: Piece, news: News) -> None:
        camera, _ = piece
        match news:
            case PieceBegun():
                log.info("%s: %dx%d, %.3g frames a second", camera, *_shape(news))
                self._gauges.set("vigil_camera_up", 1, camera=camera)
                self._pieces[camera] = self._begin(camera, news)
            case SeenClip():
                self._clip(camera, news)
            case LiveSheet():
                if scorer := self._pieces.get(camera):
                    scorer.album.add(news)
            case PieceEnded():
                damaged = (
                    f"; {counted(news.num_errors, 'packet')} could not be decoded, or not well"
                )
                log.warning("%s: %s%s", camera, news.reason, damaged if news.num_errors else "")
                self._gauges.set("vigil_camera_up", 0, camera=camera)
                self._gauges.add("vigil_stream_errors_total", news.num_errors, camera=camera)
                self._end(camera)

    def _end(self, camera: str) -> None:
        """End a piece; its open events go on with the next one, if there is one."""
        scorer = self._pieces.pop(camera, None)
        if scorer is None:
            return
        with contextlib.closing(scorer.album):
            self._ledger.record_alarms(self._guarded(camera, scorer.finish))
            left = scorer.events.left
            if self._is_played(camera):
                left = [closing(one, utc_now()) for one in left]
            else:
                self._orphans[camera] = left
            self._ledger.record_alarms(left)
            scorer.keep_rest()

    def _is_played(self, camera: str) -> bool:
        """Whether a camera is a file, which ends for good, and has no clock."""
        return any(source.name == camera and source.can_end for source in self._sources)

    def _clip(self, camera: str, clip: SeenClip) -> None:
        scorer = self._pieces.get(camera)
        if clip.features is not None and not np.isfinite(clip.features).all():
            log.error("%s: a clip is left out, its features overflow: compute in fp32", camera)
            clip = replace(clip, features=None)
        self._gauges.add("vigil_clips_total", 1, camera=camera)
        self._gauges.add("vigil_clips_dropped_total", clip.features is None, camera=camera)
        if scorer is None:
            return
        self._ledger.record_alarms(self._guarded(camera, lambda: scorer.add(clip)))
        scorer.keep_what_is_quiet()
        lag = scorer.lag(clip, has_clock=not self._is_played(camera))
        self._gauges.set("vigil_lag_seconds", lag, camera=camera)
        if clip.features is not None:
            self._gauges.beat(camera)

    def _guarded(self, camera: str, step: Callable[[], list[Alarm]]) -> list[Alarm]:
        """Do a step; a piece that cannot be scored is given up, and the next one is tried."""
        try:
            return step()
        except UserError as error:
            log.error("%s: %s", camera, error)
            if given_up := self._pieces.pop(camera, None):
                given_up.album.close()
                self._orphans[camera] = given_up.events.left
            return []

    def _begin(self, camera: str, begun: PieceBegun) -> "_PieceScorer":
        kind = self._kind(camera, begun)
        span = self._span_frames(kind)
        assert span is not None  # checked at the start
        model, config = self._checkpoint.model, self._checkpoint.config
        timeline = RollingTimeline(model, kind, kind.views, config.recipe.features, span)
        rule, why = self._settings.rule(camera)
        inherited = self._orphans.pop(camera, [])
        # After a kill, what is known of an event is as old as its last message, and that a span.
        patience = LONGER_BY + 2 * span / begun.fps
        known = begun.began_at, inherited, patience
        events = StreamEvents(self._checkpoint, rule, camera, *known)
        album = StreamAlbum(self._settings.thumbnails, camera)
        keep = partial(self._keep, camera)
        how = timeline, events, album, rule, why, keep
        return _PieceScorer(self._checkpoint, camera, kind, *how)

    def _span_frames(self, kind: VideoFeatures) -> int | None:
        return frames_of_span(self._checkpoint.config, kind, self._settings.span)

    def _kind(self, camera: str, begun: PieceBegun) -> VideoFeatures:
        """Features like those of a piece, without arrays."""
        made = self._engine.provenance
        time_positions, channels = made.feature_layout
        return VideoFeatures(
            features=np.empty((len(made.views), 0, made.parts[-1].stop), made.dtype),
            segment_frames=np.empty((0, 2), np.int64),
            segment_seconds=np.empty((0, 2)),
            views=made.views,
            spec=made.spec,
            time_positions=time_positions,
            channels=channels,
            parts=made.parts if len(made.parts) > 1 else (),
            weights_name=made.weights.name,
            weights_trained=made.weights.trained,
            precision=self._engine.precision,
            device="",
            decoder="pyav",
            video=VideoIdentity(camera, 0, 0, ""),
            fps=begun.fps,
            width=begun.width,
            height=begun.height,
            num_frames_decoded=1,
        )


class _PieceScorer:
    """One piece of one camera while it runs."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        camera: str,
        kind: VideoFeatures,
        timeline: RollingTimeline,
        events: StreamEvents,
        album: StreamAlbum,
        rule: EventRule,
        threshold_rule: str,
        keep: KeepStretch,
    ) -> None:
        self._checkpoint, self._camera, self._kind = checkpoint, camera, kind
        self._timeline, self.events, self.album = timeline, events, album
        self._rule, self._threshold_rule, self._keep = rule, threshold_rule, keep
        self._clock, self._shown = math.inf, 0.0
        """When the first frame was shown, by the clock that never jumps, and the last frame."""
        self._first_clock, self._offset = 0.0, wall_offset()
        self._kept_until = 0.0
        """Seconds of the piece that are in results."""
        self._is_refused = False
        """Whether the last stretch could not be written."""
        self._unseen: list[tuple[float, float]] = []
        """Of the others, those that were dropped."""

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
        return self._take(self._timeline.add(clip.seconds, clip.features))

    def finish(self) -> list[Alarm]:
        """Take the end of the piece, and return messages."""
        return self._take(self._timeline.finish())

    def _take(self, update: Update | None) -> list[Alarm]:
        if update is None:
            return []
        alarms = self.events.take(update)
        told_until = self.events.time_at(float(update.timeline.seconds[-1, 1]))
        return [*alarms, *self.events.close_inherited(told_until.timestamp())]

    def keep_what_is_quiet(self) -> None:
        """Make the result of a stretch, if one is long enough and ends in a quiet place."""
        kept = self.events.timeline
        if kept is None or not len(kept.frames):
            return
        lasts = float(kept.seconds[-1, 1]) - self._kept_until
        if lasts < STRETCH_SECONDS:
            return
        # What the end of the piece may revise is kept back: a span.
        stop = kept.frames[-1, 1] - 2 * (kept.span_frames or 0)
        old = float(kept.seconds[max(0, int(np.searchsorted(kept.frames[:, 1], stop))), 0])
        old = min(old, self.album.complete_until)
        num_cells = self.events.quiet_cells(old, is_urgent=lasts >= LONG_STRETCH_SECONDS)
        if lasts >= LONGEST_STRETCH_SECONDS:
            num_cells = int(np.searchsorted(kept.seconds[:, 1], old))
        if num_cells and kept.seconds[num_cells - 1, 1] - self._kept_until >= STRETCH_SECONDS / 2:
            self._try_to_write(num_cells)

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
            self._is_refused = False

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
        moment = f"{began:%H-%M-%S}-{began.microsecond // 1000:03}"
        name = f"{self._camera}/{began:%Y-%m-%d}/{moment}"
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
        result = with_times_of_day(result, RecordingTime(began, "stream"))
        self._keep(result, lambda: self.album.write(name, start, stop))
        self._kept_until = stop


def wall_offset() -> float:
    """What the time of day is ahead of the clock that never jumps, in seconds."""
    return time.time() - time.monotonic()


def _shape(begun: PieceBegun) -> tuple[int, int, float]:
    return begun.width, begun.height, begun.fps
