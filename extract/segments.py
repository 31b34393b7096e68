"""The segments of a video, and pooling its clips into them.

A video of N frames is cut into S equal half-open frame ranges, its segments. A segment's feature
is the maximum over the clips whose centre lies in it (Majhi et al., FG 2021, III-B).
"""

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt


def segment_ranges(num_frames: int, num_segments: int) -> npt.NDArray[np.int64]:
    """Return (S, 2) int64, the half-open frame ranges [floor(kN/S), floor((k+1)N/S)).

    They partition the frames. If there are fewer frames than segments, some are empty.
    """
    edges = np.arange(num_segments + 1, dtype=np.int64) * num_frames // num_segments
    return np.stack([edges[:-1], edges[1:]], axis=1)


def range_centres(frame_ranges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return floor((first + last) / 2) of half-open frame ranges (n, 2): (n,) int64 frames."""
    return (frame_ranges[:, 0] + frame_ranges[:, 1] - 1) // 2


def segment_of_clips(
    clip_frames: npt.NDArray[np.int64], segment_frames: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return (n_clips,) int64, the segment that holds each clip's centre."""
    return np.searchsorted(segment_frames[:, 1], range_centres(clip_frames), side="right")


class ClipFeatures(Protocol):
    """Clip features (n_clips, ...): an array, or an object that reads them from elsewhere."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[np.floating]: ...  # noqa: D102
    def __len__(self) -> int: ...  # noqa: D105
    def __getitem__(self, clips: slice, /) -> npt.NDArray[np.floating]: ...  # noqa: D105


SLICE_BYTES = 1 << 24
"""Of the clip features of a long video, at most so many are in memory at once, but one clip is."""


def slices(features: ClipFeatures, first: int = 0, stop: int | None = None) -> Iterator[slice]:
    """Yield the slices, each of few bytes, that make up the rows from ``first`` to ``stop``."""
    row_bytes = features.dtype.itemsize * math.prod(features.shape[1:])
    step = max(1, SLICE_BYTES // max(1, row_bytes))
    stop = len(features) if stop is None else stop
    for start in range(first, stop, step):
        yield slice(start, min(start + step, stop))


def clips_of_segments(
    clip_frames: npt.NDArray[np.int64], segment_frames: npt.NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield, for each segment, the half-open range of the clips that it pools, as `pool_clips`."""
    owners = segment_of_clips(clip_frames, segment_frames)
    clip_centres = range_centres(clip_frames)
    for segment, centre in enumerate(range_centres(segment_frames)):
        first, stop = map(int, np.searchsorted(owners, [segment, segment + 1]))
        if first == stop:
            first = int(np.argmin(np.abs(clip_centres - centre)))
            stop = first + 1
        yield first, stop


def pool_clips(
    clip_features: ClipFeatures,
    clip_frames: npt.NDArray[np.int64],
    segment_frames: npt.NDArray[np.int64],
) -> npt.NDArray[np.floating]:
    """Return segment features, the maximum over each segment's clips.

    Every clip belongs to the one segment that holds its centre. A segment that holds no centre uses
    the clip with the nearest one; of two equally near, the earlier.

    Args:
        clip_features: (n_clips, ...) in the order of the clips.
        clip_frames: (n_clips, 2) half-open ranges of real frames.
        segment_frames: (S, 2) half-open ranges that partition the video's frames.

    Returns:
        (S, ...) with the dtype of ``clip_features``.

    Raises:
        ValueError: there are no clips, or features and ranges differ in number.
    """
    if len(clip_features) != len(clip_frames) or len(clip_frames) == 0:
        raise ValueError(f"{len(clip_features)} clip features for {len(clip_frames)} clips")
    pooled = np.empty((len(segment_frames), *clip_features.shape[1:]), clip_features.dtype)
    for segment, (first, stop) in enumerate(clips_of_segments(clip_frames, segment_frames)):
        maxima = [clip_features[some].max(axis=0) for some in slices(clip_features, first, stop)]
        pooled[segment] = np.max(maxima, axis=0)
    return pooled
