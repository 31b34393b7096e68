"""Streams of cameras: scored while they run, with alarms, and results in stretches of minutes."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vigil.extract.decode.live import LiveSource, PieceBegun, PieceEnded
from vigil.extract.decode.live_copy import LiveCopy
from vigil.extract.decode.thumbnails import LiveSheet
from vigil.extract.engine.dispatch import Engine
from vigil.extract.engine.live import LiveStreams, News, Piece, SeenClip
from vigil.extract.errors import UserError, counted
from vigil.extract.source import VideoIdentity
from vigil.extract.store import VideoFeatures
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.option_values import Span
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.rolling import RollingTimeline
from vigil.pipeline.scores.video_scoring import frames_of_span
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.watching.alarm import Alarm
from vigil.pipeline.watching.event_alarms import closing, utc_now
from vigil.pipeline.watching.ledger import Ledger
from vigil.pipeline.watching.metrics import Gauges
from vigil.pipeline.watching.piece_scorer import PieceScorer
from vigil.pipeline.watching.stream_album import AlbumSettings, StreamAlbum
from vigil.pipeline.watching.stream_clips import ClipSettings, StreamClips
from vigil.pipeline.watching.stream_events import LONGER_BY, StreamEvents

CLIPS_SECONDS = 10.0
"""For which the end of a run waits for clips of streams."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamSettings:
    """How streams are scored."""

    rule: Callable[[str], tuple[EventRule, str]]
    """Camera -> what counts as an event, and where its threshold comes from, in words."""
    span: Span = "auto"
    thumbnails: AlbumSettings | None = None
    """None: the engine takes none."""
    clips: ClipSettings | None = None
    """None: events have no clips."""


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
        self._pieces: dict[str, PieceScorer] = {}
        self._ended: list[PieceScorer] = []
        """Those that have ended, and wait for clips."""
        self._sources = tuple(sources)
        self._orphans = {source.name: ledger.open_events(source.name) for source in sources}
        """Events that were open when their camera was last seen."""
        for source in sources:
            gauges.set("vigil_camera_up", 0, camera=source.name)
            gauges.add("vigil_stream_errors_total", 0, camera=source.name)
            if not source.can_end:
                gauges.set("vigil_when_late", 1, camera=source.name, rule=source.when_late)
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
        clips = self._settings.clips
        packet_bytes = 0 if clips is None else clips.memory_mib << 20
        return LiveStreams(self._sources, self._hear, packet_bytes)

    def finish(self, patience_seconds: float | None = CLIPS_SECONDS) -> None:
        """End all pieces where they are; events that go on stay open, for the next run.

        Clips that are being written have some time, or as long as they need.
        """
        for camera in [*self._pieces]:
            self._end(camera)
        until = None if patience_seconds is None else time.monotonic() + patience_seconds
        for scorer in self._ended:
            scorer.clips.wait(until)
        self._keep_ended(is_last=True)

    def _keep_ended(self, is_last: bool = False) -> None:
        """Make the last results of pieces that have ended, if no clip is missing any more."""
        waiting, self._ended = self._ended, []
        for scorer in waiting:
            self._tell_clips(scorer)
            if is_last:
                scorer.clips.close()
            if not scorer.clips.are_known():
                self._ended.append(scorer)
                continue
            with contextlib.closing(scorer.album):
                scorer.keep_rest()

    def _tell_clips(self, scorer: PieceScorer) -> None:
        """Send messages about clips that are there."""
        for event, path in scorer.clips.take_written():
            if alarm := self._ledger.last_message(event):
                told = replace(
                    alarm, clip=path, detected_at=utc_now().isoformat(), lag_seconds=None
                )
                self._ledger.record_alarms([told])

    def check(self) -> None:
        """Close events of cameras that have not come back, and go on with clips.

        To be called every few seconds.
        """
        for scorer in self._pieces.values():
            self._tell_clips(scorer)
        self._keep_ended()
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
            case LiveCopy():
                if scorer := self._pieces.get(camera):
                    scorer.clips.add(news)
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
        self._ended.append(scorer)
        self._ledger.record_alarms(self._guarded(camera, scorer.finish))
        left = scorer.events.left
        if self._is_played(camera):
            left = [closing(one, utc_now()) for one in left]
        else:
            self._orphans[camera] = left
        self._ledger.record_alarms(left)
        self._keep_ended()

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
        self._gauges.add("vigil_clips_static_total", clip.is_static, camera=camera)
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
                given_up.clips.close()
                self._orphans[camera] = given_up.events.left
            return []

    def _begin(self, camera: str, begun: PieceBegun) -> "PieceScorer":
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
        clips = StreamClips(self._settings.clips, camera, begun.fps)
        keep = partial(self._keep, camera)
        how = timeline, events, album, clips, rule, why, keep
        return PieceScorer(self._checkpoint, camera, kind, *how)

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


def _shape(begun: PieceBegun) -> tuple[int, int, float]:
    return begun.width, begun.height, begun.fps
