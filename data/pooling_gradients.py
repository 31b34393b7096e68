"""From segments back to clips: how a change of clip features changes those of the segments.

Pooling takes means and maxima, so it is linear wherever no two maxima are equal: a maximum follows
the one place that has it. What is computed here is the transpose of that linear map. Multiplied
with the clip features themselves it gives back the sum over the segments, because pooling a feature
of twice the size gives twice the value (Euler's theorem on homogeneous functions).

Legend: V views, S segments, n clips, T time positions of a clip, P positions of a video,
C channels, D = T x C, time-major, W windows.
"""

import numpy as np
import numpy.typing as npt

from vigil.data.pooling import (
    PoolingConfig,
    real_positions,
    window_means,
    windows_of_segments,
)
from vigil.extract.segments import clips_of_segments
from vigil.extract.store import VideoFeatures

FloatArray = npt.NDArray[np.float64]


def clip_gradient(
    content: VideoFeatures, rows: list[int], config: PoolingConfig, gradient: FloatArray
) -> FloatArray:
    """Return the gradient (n, V, D) by the clip features, from that by the segment features.

    Args:
        content: of the video, with its clips.
        rows: indices of the views among those stored.
        config: how the segments were pooled.
        gradient: (V, S, F) by what `segment_features` returns for these views.
    """
    if content.clip_features is None or content.clip_frames is None:
        raise ValueError("a gradient by clips needs stored clips")
    clips = content.clip_features[:][:, rows].astype(np.float64)
    by_segment = np.swapaxes(gradient, 0, 1)  # (S, V, F)
    if config.pooling == "clips":
        return _through_maxima(clips, content.clip_frames, content.segment_frames, by_segment)
    places = real_positions(
        content.clip_frames,
        content.time_positions,
        content.spec.clip_frames,
        content.clip_lengths,
    )
    positions = clips.reshape(len(clips), len(rows), content.time_positions, -1).swapaxes(1, 2)
    total = np.zeros_like(positions)  # (n, T, V, C)
    per_sample = content.num_frames_decoded / content.num_frames_seen
    parts = np.split(by_segment, len(config.window_frames), axis=2)
    for window, part in zip(config.window_frames, parts, strict=True):
        found = _through_windows(
            positions[places.clips, places.positions],
            places.centres,
            content.segment_frames,
            window * per_sample,
            part,
        )
        np.add.at(total, (places.clips, places.positions), found)
    return total.swapaxes(1, 2).reshape(clips.shape)


def _through_maxima(
    clips: FloatArray,
    clip_frames: npt.NDArray[np.int64],
    segment_frames: npt.NDArray[np.int64],
    gradient: FloatArray,
) -> FloatArray:
    """Give what a segment has to the clip with the maximum: (S, V, D) -> (n, V, D)."""
    total = np.zeros_like(clips)
    views, values = np.indices(clips.shape[1:])
    ranges = clips_of_segments(clip_frames, segment_frames)
    for (first, stop), part in zip(ranges, gradient, strict=True):
        best = first + clips[first:stop].argmax(axis=0)
        total[best, views, values] += part
    return total


def _through_windows(
    positions: FloatArray,
    centres: FloatArray,
    segment_frames: npt.NDArray[np.int64],
    window_frames: float,
    gradient: FloatArray,
) -> FloatArray:
    """Spread it evenly over the window with the maximum: (S, V, C) -> (P, V, C)."""
    steps = np.zeros((len(positions) + 1, *positions.shape[1:]))
    views, channels = np.indices(positions.shape[1:])
    windows = windows_of_segments(centres, segment_frames, window_frames)
    for (begin, past), part in zip(windows, gradient, strict=True):
        best = window_means(positions, begin, past).argmax(axis=0)  # (V, C)
        share = part / (past - begin)[best]
        np.add.at(steps, (begin[best], views, channels), share)
        np.add.at(steps, (past[best], views, channels), -share)
    return np.asarray(steps.cumsum(axis=0)[:-1])
