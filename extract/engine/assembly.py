"""One video in progress: collect its clip features, and pool them when they are complete.

Clip features are kept in a file until the video's length is known, so memory does not grow with
it. Legend: V views, S segments, D = time positions x channels.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil.extract.decode.parts import Part
from vigil.extract.decode.reader import Finished
from vigil.extract.decode.timeline import frame_edges, make_timeline
from vigil.extract.engine.album import AlbumWriter
from vigil.extract.engine.device import DeviceReady
from vigil.extract.engine.journal import Journal, journal_header
from vigil.extract.networks.weights import Weights
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.source import SourceVideo, VideoIdentity
from vigil.extract.spec import FeaturePart, FeatureSpec
from vigil.extract.store import VideoFeatures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provenance:
    """The origin of a run's features, as every feature file records it."""

    spec: FeatureSpec
    weights: Weights
    views: tuple[str, ...]
    parts: tuple[FeaturePart, ...]
    """The values of each network, in their order within a feature."""
    dtype: type[np.floating]
    keep_clips: bool
    batch_size: int
    """Clip-views per batch; not recorded."""

    @property
    def feature_layout(self) -> tuple[int, int]:
        """(time positions, channels) of a feature; several parts count as one position."""
        if len(self.parts) == 1:
            return self.parts[0].time_positions, self.parts[0].channels
        return 1, self.parts[-1].stop


@dataclass(eq=False)
class OpenVideo:
    """A video with clips that the device has not returned yet."""

    source: SourceVideo
    store: Path
    provenance: Provenance
    finished: Finished | None = None
    attempt: int = 0
    """Number of restarts; features of an earlier attempt are ignored."""
    num_deaths: int = 0
    """Workers that died while reading it."""
    size_and_time: tuple[int, int] | None = None
    """Of the video at the beginning of the run; None if it could not be read."""
    has_earlier_clips: bool = False
    """Whether it uses clips that an earlier run had computed."""
    reading: str | None = None
    """How it is being decoded; None until that is known."""
    album: AlbumWriter | None = None
    """Where its thumbnails are kept; None if none are taken."""
    _back: set[int] = field(default_factory=set)
    _parts: dict[int, Finished | None] = field(default_factory=dict)
    """First clip of each part -> the result of reading it, None until then."""

    @cached_property
    def journal(self) -> Journal:
        """Where its clip features are kept."""
        made = self.provenance
        shape = len(made.views), made.parts[-1].stop
        return Journal(self.store, self.source.name, shape, np.dtype(made.dtype))

    def journal_header(self, computed: DeviceReady) -> bytes:
        """What its clip features depend on, given the devices that compute them."""
        made = self.provenance
        return journal_header(
            self.source.name,
            self.size_and_time,
            made.spec,
            made.weights,
            made.views,
            made.dtype,
            computed,
            made.batch_size,
        )

    def is_mixed(self, identity: VideoIdentity) -> bool:
        """Whether its clips are of two versions of the video: it changed as this run began."""
        return self.has_earlier_clips and self.size_and_time != (
            identity.num_bytes,
            identity.modified_ns,
        )

    def begin(self, reading: str, num_clips: int | None = None) -> None:
        """Note how the video is being decoded, and the number of its clips if it is known."""
        if self.reading is not None:
            return
        self.reading = reading
        computed, static = self._known_clips
        if num_there := len(computed) + len(static):
            of_all = "" if num_clips is None else f" of {num_clips}"
            log.info("continuing %s: %d%s clips are there", self.source.name, num_there, of_all)

    def begin_anew(self) -> None:
        """Discard all clips so far."""
        if self.reading is not None:
            self.journal.forget(self.reading)
        if self.album is not None:
            self.album.remove()
        self.attempt += 1
        self.reading = self.finished = None
        self._back.clear()
        self._parts.clear()

    @property
    def _known_clips(self) -> tuple[Collection[int], Collection[int]]:
        """The clips of the reading that are computed, and those that are static."""
        reading = self.reading or ""
        return self.journal.clips_of(reading), self.journal.static_clips_of(reading)

    def take(self, first: int, stop: int) -> bool:
        """Use the features of a range of clips that an earlier run has stored, if all are there."""
        computed, static = self._known_clips
        clips = range(first, stop)
        is_there = all(clip in computed or clip in static for clip in clips)
        if is_there:
            self._back.update(clips)
            self.has_earlier_clips = True
        return is_there

    def split(self, parts: Sequence[Part]) -> None:
        """Note that the video is read in these parts, given in order."""
        self._parts = {part.first_clip: None for part in parts}

    def finish(self, finished: Finished, part: Part | None = None) -> None:
        """Note that the last clip of the video, or of a part of it, has been decoded."""
        if part is None:
            self.finished = finished
            return
        self._parts[part.first_clip] = finished
        read = [known for known in self._parts.values() if known is not None]
        if len(read) == len(self._parts):
            self.finished = _joined(read)

    def put(self, clip_index: int, features: npt.NDArray[np.floating]) -> None:
        """Store a clip's features (V, D); clips may come in any order."""
        with np.errstate(over="ignore"):  # overflow is reported when the video is written
            self.journal.put(self.reading or "", clip_index, features)
        self._back.add(clip_index)

    def skip(self, clip_index: int) -> None:
        """Let a static clip have the features of the last computed clip before it."""
        self.journal.put_static(self.reading or "", clip_index)
        self._back.add(clip_index)

    @property
    def num_clips_back(self) -> int:
        """Number of clips whose features are stored, or that are static."""
        return len(self._back)

    @property
    def is_complete(self) -> bool:
        """Whether the video has ended and all its clips are back."""
        if self.finished is None:
            return False
        return len(self._back) == self.provenance.spec.grid.num_clips(self.finished.num_samples)

    def finish_album(self) -> None:
        """Write when each thumbnail is seen, on the timeline of the features."""
        if self.album is None or self.finished is None:
            return
        starts = frame_edges(self.finished.timestamps, self.finished.info)[:-1]
        samples = self.finished.samples
        self.album.finish(self.reading or "", starts if samples is None else starts[samples])

    def pool(self, computed: DeviceReady) -> VideoFeatures:
        """The content of the video's feature file, given the devices that computed its clips."""
        made, finished = self.provenance, self.finished
        if finished is None or not self.is_complete:
            raise RuntimeError(f"{self.source.name} was closed before its end")
        num_frames = len(finished.timestamps)
        clip_frames = made.spec.grid.frame_ranges(num_frames)
        if finished.samples is not None:
            clip_frames = made.spec.grid.source_ranges(finished.samples, num_frames)
        clip_features = self.journal.features(self.reading or "")
        segment_frames = segment_ranges(num_frames, made.spec.num_segments)
        segments_SVD = pool_clips(clip_features, clip_frames, segment_frames)
        timeline = make_timeline(finished.timestamps, finished.info)
        edges, jumps = timeline.edges, timeline.jumps
        time_positions, channels = made.feature_layout
        is_computed = np.isin(np.arange(len(clip_frames)), list(self._known_clips[0]))
        return VideoFeatures(
            features=np.ascontiguousarray(segments_SVD.transpose(1, 0, 2)),
            segment_frames=segment_frames,
            segment_seconds=edges[segment_frames],
            clip_features=clip_features if made.keep_clips else None,
            clip_frames=clip_frames if made.keep_clips else None,
            frame_seconds=edges if made.keep_clips else None,
            clip_computed=is_computed if made.spec.static == "skip" else None,
            views=made.views,
            spec=made.spec,
            time_positions=time_positions,
            channels=channels,
            parts=made.parts if len(made.parts) > 1 else (),
            weights_name=made.weights.name,
            weights_trained=made.weights.trained,
            precision=computed.precision,
            rung=computed.rung,
            device=computed.name,
            decoder=finished.decoder,
            video=finished.identity,
            fps=finished.info.fps,
            width=finished.info.width,
            height=finished.info.height,
            num_frames_container=finished.info.num_frames_container,
            num_frames_decoded=num_frames,
            num_frames_sampled=0 if finished.samples is None else finished.num_samples,
            num_frames_damaged=finished.damage.num_damaged,
            num_frames_lost=finished.damage.num_lost,
            damage_frames=finished.damage.frames,
            damage_seconds=edges[finished.damage.frames],
            duration_container=finished.info.duration_seconds,
            rotation_ignored=finished.info.rotation_ignored,
            num_clock_jumps=len(jumps),
            first_jump_seconds=float(edges[jumps[0]]) if len(jumps) else 0.0,
            rate_source=timeline.rate_source,
            num_bytes_unread=finished.info.num_bytes_unread,
        )


def _joined(parts: Sequence[Finished]) -> Finished:
    """Return the end of a video from the ends of its parts, in order."""
    timestamps = np.concatenate([part.timestamps for part in parts])
    starts = np.cumsum([0, *(len(part.timestamps) for part in parts)])
    used = [
        part.samples + start
        for part, start in zip(parts, starts[:-1], strict=True)
        if part.samples is not None
    ]
    samples = np.concatenate(used) if used else None
    return replace(parts[-1], timestamps=timestamps, samples=samples)
