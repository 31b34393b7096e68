"""Score a video while it is recorded, in spans, with the result that its file will have.

The spans are those of `spans`, but for the last one, which is placed when the end is known. A cell
of the timeline is told when no later span but the last can change it, so one span after it was
recorded; the end may revise the last span's cells, or all if the video stays as short as a span.

Legend: V views, S segments of a span, C cells of the timeline, K classes, D values of a clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.spans import WHOLE_SPANS, cut
from vigil.extract.segments import range_centres
from vigil.extract.store import VideoFeatures
from vigil.model.detector import Detector
from vigil.pipeline.scores.inference import VideoScores, score_videos
from vigil.pipeline.scores.metrics import FloatArray, IntArray
from vigil.pipeline.scores.spans import Blend, Timeline, whole_timeline


@dataclass(frozen=True, eq=False)
class Update:
    """The cells of a timeline from one on; they replace those told before."""

    first: int
    """Index of the first cell."""
    timeline: Timeline


class RollingTimeline:
    """The timeline of a video of unknown length. Memory: two spans, whatever the length."""

    def __init__(
        self,
        model: Detector,
        kind: VideoFeatures,
        views: Sequence[str],
        pooling: PoolingConfig,
        span_frames: int,
    ) -> None:
        """Begin a video.

        Args:
            model: of any method.
            kind: features like those of the video, without arrays: spec, views, layout and fps.
            views: names of the views to average over.
            pooling: how the model's features of a segment are pooled.
            span_frames: length of a span in frames, at least that of a clip.
        """
        self._model, self._kind, self._views = model, kind, views
        self._pooling, self._span = pooling, span_frames
        self._clips: dict[int, npt.NDArray[np.floating] | None] = {}
        """Index -> features (V, D), or None if it was dropped."""
        self._seconds = np.empty(0)
        """When frames start, from frame ``_first`` on."""
        self._first = 0
        self.num_frames = self._num_clips = 0
        self._turn = 0
        """Number of the next span; a span begins every half span."""
        self._scored: list[tuple[int, int, bool, VideoScores]] = []
        """Start, stop, whether it is the last one, and scores of the latest spans."""
        self._num_told = 0

    def add(self, seconds: FloatArray, features: npt.NDArray[np.floating] | None) -> Update | None:
        """Take the next clip, and return the cells that it completes.

        Args:
            seconds: (n,) times of the frames that no clip before it holds, since the first frame.
            features: (V, D); None if it was dropped: its place takes those of the nearest clip.

        Raises:
            UserError: the features do not fit the model, or are not finite.
        """
        self._clips[self._num_clips] = features
        self._num_clips += 1
        self._seconds = np.maximum.accumulate(np.append(self._seconds, seconds))
        self.num_frames += len(seconds)
        while self.num_frames > (start := self._start(self._turn)) + self._span:
            self._score(start, start + self._span)
            while self._start(self._turn) == start:
                self._turn += 1
        limit = self._start(self._turn)
        edges = self._edges(self._num_told, self.num_frames)
        num_final = int(np.searchsorted(range_centres(_ranges(edges)), limit))
        if not num_final:
            return None
        first, self._num_told = self._num_told, self._num_told + num_final
        update = Update(first, self._timeline(edges[: num_final + 1]))
        self._forget()
        return update

    def finish(self) -> Update | None:
        """Return the cells that the end of the video completes or changes; None: it has no frame.

        Raises:
            UserError: the features do not fit the model, or are not finite.
        """
        num_frames, span, grid = self.num_frames, self._span, self._kind.spec.grid
        if not num_frames:
            return None
        if num_frames <= WHOLE_SPANS * span:
            features = self._window(0, num_frames)
            if features is None:
                return None
            edges = np.append(self._seconds, self._end_seconds)
            ranges = features.segment_frames
            features = replace(features, segment_seconds=edges[ranges])
            return Update(0, whole_timeline(features, self._scores(features)))
        last = min(-(-(num_frames - span) // grid.stride), grid.num_clips(num_frames) - 1)
        last *= grid.stride
        self._score(last, num_frames, is_last=True)
        edges = self._edges(0, num_frames)[:-1]
        edges = np.append(edges[edges < num_frames], num_frames)
        centres = range_centres(_ranges(edges))
        first = min(int(np.searchsorted(centres, last)), self._num_told)
        return Update(first, self._timeline(edges[first:]))

    def _start(self, turn: int) -> int:
        """The first frame of a span: that of a clip."""
        stride = self._kind.spec.clip_stride
        return turn * max(self._span // 2, 1) // stride * stride

    def _edges(self, first: int, stop: int) -> IntArray:
        """Return (n,) frames at which cells start, from one on, up to the first edge past a frame.

        Only the last cell of a video is shorter than others.
        """
        num_segments = self._kind.spec.num_segments
        past = -(-stop * num_segments // self._span) + 1
        return np.arange(first, past + 1, dtype=np.int64) * self._span // num_segments

    @property
    def _end_seconds(self) -> float:
        return float(self._seconds[-1]) + 1 / self._kind.fps

    def _score(self, start: int, stop: int, is_last: bool = False) -> None:
        """Score a span, unless none of its clips was computed."""
        features = self._window(start, stop)
        if features is not None:
            self._scored.append((start, stop, is_last, self._scores(features)))

    def _scores(self, features: VideoFeatures) -> VideoScores:
        bag = segment_features(features, self._views, self._pooling).values
        return score_videos(self._model, torch.from_numpy(bag[np.newaxis]))[0]

    def _window(self, start: int, stop: int) -> VideoFeatures | None:
        """The features of a span as of a video of its own; None if it has no computed clip."""
        grid = self._kind.spec.grid
        first = start // grid.stride
        indices = np.arange(first, first + grid.num_clips(stop - start))
        clips = {index: self._clips.get(index) for index in indices.tolist()}
        computed = {index: clip for index, clip in clips.items() if clip is not None}
        if not computed:
            return None
        nearest = [min(computed, key=lambda other: abs(other - index)) for index in clips]
        starts = indices * grid.stride
        stops = np.minimum(starts + grid.clip_frames, self.num_frames)
        whole = replace(
            self._kind,
            clip_features=np.stack([computed[index] for index in nearest]),
            clip_frames=np.stack([starts, stops], axis=1) - start,
            num_frames_decoded=stop - start,
        )
        return cut(whole, 0, stop - start)

    def _timeline(self, edges: IntArray) -> Timeline:
        """The timeline of the cells between edges, from the spans scored so far."""
        cells = _ranges(edges)
        blend = Blend(cells, self._model.shape.num_classes)
        for start, stop, is_last, scores in self._scored:
            blend.add(start, stop, scores, is_first=start == 0, is_last=is_last)
        seconds = np.append(self._seconds, self._end_seconds)[cells - self._first]
        return Timeline(blend.scores(), cells, seconds, blend.named, self._span)

    def _forget(self) -> None:
        """Drop what neither the next span nor the last one can need."""
        needed = max(0, self.num_frames - 2 * self._span - self._kind.spec.clip_frames)
        stride = self._kind.spec.clip_stride
        self._clips = {
            index: clip for index, clip in self._clips.items() if index * stride >= needed
        }
        self._scored = [one for one in self._scored if one[1] > needed]
        self._seconds = self._seconds[needed - self._first :]
        self._first = needed


def _ranges(edges: IntArray) -> IntArray:
    return np.stack([edges[:-1], edges[1:]], axis=1)
