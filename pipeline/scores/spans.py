"""Score a video of any length in spans as long as the videos that a model was trained on.

A model sees every video as S segments. Segments much longer than those of its training hold the
maximum of many more clips, and the model then overlooks events or finds them everywhere. So a long
video is scored span by span. Spans overlap by half, and where they overlap, each counts the more
the farther a place is from the span's ends. A video of up to `data.spans.WHOLE_SPANS` spans is
scored whole.

Legend: N frames of a video, V views, S segments of a span, C cells of the timeline, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.spans import cut, span_starts
from vigil.extract.segments import range_centres, segment_ranges
from vigil.extract.store import VideoFeatures
from vigil.model.detector import Detector
from vigil.pipeline.scores.inference import MAX_BAGS, VideoScores, score_videos
from vigil.pipeline.scores.metrics import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Timeline:
    """The scores of a video, and where in it they are."""

    scores: VideoScores
    frames: IntArray
    """(C, 2) half-open ranges of frames; for a video scored as a whole, its segments."""
    seconds: FloatArray
    """(C, 2) the same in seconds."""
    named: FloatArray
    """(C, K) class probabilities of the video or the spans around each place."""
    span_frames: int | None = None
    """Length of a span; None: the video was scored as a whole."""

    def cells(self, first: int, stop: int | None = None) -> "Timeline":
        """Some of its cells, as a timeline without attentions."""
        return self._of([column[first:stop] for column in self._columns])

    def followed_by(self, other: "Timeline") -> "Timeline":
        """The cells of both."""
        pairs = zip(self._columns, other._columns, strict=True)
        return other._of([np.concatenate(pair) for pair in pairs])

    @property
    def _columns(self) -> list[npt.NDArray[Any]]:
        of_segments = self.scores.segment_class_probabilities
        columns = [self.frames, self.seconds, self.named, self.scores.scores]
        return columns if of_segments is None else [*columns, of_segments]

    def _of(self, columns: Sequence[npt.NDArray[Any]]) -> "Timeline":
        frames, seconds, named, scores, *of_segments = columns
        classes = named[scores.argmax()] if len(scores) else np.zeros(named.shape[1])
        probabilities = of_segments[0] if of_segments else None
        video = VideoScores(scores, classes, segment_class_probabilities=probabilities)
        return Timeline(video, frames, seconds, named, self.span_frames)


def whole_timeline(features: VideoFeatures, scores: VideoScores) -> Timeline:
    """The timeline of a video that was scored as a whole."""
    shape = len(scores.scores), len(scores.class_probabilities)
    named = np.broadcast_to(scores.class_probabilities, shape)
    return Timeline(scores, features.segment_frames, features.segment_seconds, named)


def seconds_at(features: VideoFeatures, frames: IntArray) -> FloatArray:
    """Return when frames (...) start, in seconds; frame N stands for the video's end.

    Files with clips hold the time of every frame. In older ones, times between the ends of segments
    are interpolated.
    """
    if features.frame_seconds is not None:
        return np.asarray(features.frame_seconds[frames])
    edges = np.append(features.segment_frames[:, 0], features.segment_frames[-1, 1])
    seconds = np.append(features.segment_seconds[:, 0], features.segment_seconds[-1, 1])
    edges, first = np.unique(edges, return_index=True)
    return np.asarray(np.interp(frames, edges, seconds[first]))


def score_spans(
    model: Detector,
    features: VideoFeatures,
    views: Sequence[str],
    pooling: PoolingConfig,
    span_frames: int,
) -> Timeline:
    """Score a video span by span, on the model's device.

    Args:
        model: of any method.
        features: of the whole video, with its clips.
        views: names of the views to average over.
        pooling: how the model's features of a segment are pooled.
        span_frames: length of a span in frames.

    Raises:
        FeatureFileError: a view is not stored, or its values are not finite.
        UserError: the features do not fit the model.
    """
    if features.clip_frames is None:
        raise ValueError("spans need stored clips")
    num_frames = features.num_frames_decoded
    spans = span_starts(num_frames, span_frames, features.clip_frames[:, 0])
    cells = _cells(num_frames, span_frames, features.spec.num_segments)
    blend = Blend(cells, model.shape.num_classes)
    step = max(1, MAX_BAGS // len(views))
    for first in range(0, len(spans), step):
        batch = spans[first : first + step]
        bags = [segment_features(cut(features, *span), views, pooling).values for span in batch]
        scored = score_videos(model, torch.from_numpy(np.stack(bags)))
        for (start, stop), scores in zip(batch, scored, strict=True):
            blend.add(start, stop, scores, is_first=start == 0, is_last=stop == num_frames)
    return Timeline(blend.scores(), cells, seconds_at(features, cells), blend.named, span_frames)


def blend_spans(spans: IntArray, scores: Sequence[VideoScores]) -> tuple[VideoScores, IntArray]:
    """Return the scores of a video from those of all its spans, and the ranges they are of (C, 2).

    Args:
        spans: (n, S, 2) the segments of each span, in frames of the video.
        scores: of each span.
    """
    if len(spans) == 1:
        return scores[0], spans[0]
    num_frames, span_frames = int(spans[-1, -1, 1]), int(spans[0, -1, 1])
    cells = _cells(num_frames, span_frames, spans.shape[1])
    blend = Blend(cells, len(scores[0].class_probabilities))
    ranges = zip(spans[:, 0, 0].tolist(), spans[:, -1, 1].tolist(), strict=True)
    for (start, stop), one in zip(ranges, scores, strict=True):
        blend.add(start, stop, one, is_first=start == 0, is_last=stop == num_frames)
    return blend.scores(), cells


def _cells(num_frames: int, span_frames: int, num_segments: int) -> IntArray:
    """Return (C, 2), ranges as long as segments of a span, the last one up to the video's end."""
    num_cells = -(-num_frames * num_segments // span_frames)
    edges = np.arange(num_cells + 1, dtype=np.int64) * span_frames // num_segments
    edges[-1] = num_frames
    return np.stack([edges[:-1], edges[1:]], axis=1)


class Blend:
    """The weighted mean of the scores of overlapping spans, in each cell of a timeline."""

    def __init__(self, cells: IntArray, num_classes: int) -> None:
        """Begin with no span, for cells (C, 2) in frames of the video."""
        self._centres = range_centres(cells)
        self._weights = np.zeros(len(cells))
        self._sums = np.zeros((len(cells), 1 + 2 * num_classes))
        """Of scores, of the segments' class probabilities, and of the spans' ones."""
        self._num_classes = num_classes

    def add(
        self, start: int, stop: int, scores: VideoScores, *, is_first: bool, is_last: bool
    ) -> None:
        """Add a span [start, stop); nothing overlaps the video's own ends."""
        first, past = np.searchsorted(self._centres, [start, stop])
        places = self._centres[first:past] - start
        num_frames, num_segments = stop - start, len(scores.scores)
        segments = np.searchsorted(
            segment_ranges(num_frames, num_segments)[:, 1], places, side="right"
        )
        from_start = np.inf if is_first else places + 0.5
        from_stop = np.inf if is_last else num_frames - places - 0.5
        weights = np.minimum(np.minimum(from_start, from_stop), np.full(len(places), num_frames))
        of_span = np.broadcast_to(
            scores.class_probabilities, (num_segments, len(scores.class_probabilities))
        )
        of_segments = scores.segment_class_probabilities
        if of_segments is None:
            of_segments = of_span
        columns = np.hstack([scores.scores[:, np.newaxis], of_segments, of_span])
        self._weights[first:past] += weights
        self._sums[first:past] += weights[:, np.newaxis] * columns[segments]

    @property
    def _means(self) -> FloatArray:
        """0 where there is no span."""
        weights = self._weights[:, np.newaxis]
        return np.divide(self._sums, weights, out=np.zeros_like(self._sums), where=weights > 0)

    @property
    def named(self) -> FloatArray:
        """(C, K) mean class probabilities of the spans."""
        return self._means[:, 1 + self._num_classes :]

    def scores(self) -> VideoScores:
        """Return the means; the video's classes are those of the spans around its highest score."""
        means = self._means
        return VideoScores(
            scores=means[:, 0],
            class_probabilities=self.named[means[:, 0].argmax()],
            segment_class_probabilities=means[:, 1 : 1 + self._num_classes],
        )
