"""Features of segments: as stored, or pooled anew from stored clips.

Legend: V views, S segments, n clips, T time positions of a clip, P positions of a video,
C channels, D = T x C, time-major.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from vigil.extract.errors import UserError
from vigil.extract.segments import range_centres

if TYPE_CHECKING:  # the command line is built from the settings here, without HDF5
    from vigil.extract.store import VideoFeatures

Pooling = Literal["clips", "positions"]


@dataclass(frozen=True)
class PoolingConfig:
    """How the features of a segment are pooled."""

    pooling: Pooling = "clips"
    """clips: the stored maximum over whole clips; positions: the maximum over a window that slides
    by the network's time positions, each a few frames long. This locates anomalies more precisely,
    but needs features from vigil extract --keep-clips."""
    window_frames: tuple[int, ...] = (64,)
    """Length of the window over which positions are averaged, in frames as clips have them; the
    features of several windows are concatenated."""
    span_frames: int = 0
    """0: a video is one bag. Otherwise videos longer than 1.5 times this number of frames, as clips
    have them, are cut into overlapping spans of this length, a bag each. This is for training on
    long videos, and needs features from vigil extract --keep-clips."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        if self.pooling not in get_args(Pooling):
            raise ValueError(
                f"pooling = {self.pooling!r} is not allowed: it must be one of 'clips', 'positions'"
            )
        if not self.window_frames or min(self.window_frames) < 1:
            raise ValueError(
                f"window_frames = {list(self.window_frames)} is not allowed: it must be one or "
                "more numbers from 1 up"
            )
        if self.span_frames < 0:
            raise ValueError(
                f"span_frames = {self.span_frames} is not allowed: it must be 0 or the length of a "
                "span"
            )

    @property
    def needs_clips(self) -> bool:
        """Whether stored clips are needed, not only stored segments."""
        return self.pooling == "positions" or self.span_frames > 0


class SegmentFeatures(NamedTuple):
    """The features of one video's segments."""

    values: npt.NDArray[np.floating]
    """(V, S, time_positions * channels)."""
    time_positions: int
    channels: int


def segment_features(
    content: "VideoFeatures", views: Sequence[str], config: PoolingConfig
) -> SegmentFeatures:
    """Return the features of a video's segments, for the named views in the given order.

    Raises:
        FeatureFileError: a view is not stored, or has values that are not finite.
        UserError: clips are needed but not stored, or come from several networks.
    """
    stored = content.select_views(views)
    if config.pooling == "clips":
        return SegmentFeatures(stored, content.time_positions, content.channels)
    if content.clip_features is None or content.clip_frames is None or content.parts:
        why = "it has several networks" if content.parts else "its clips are not stored"
        raise UserError(
            f"{content.video.path} does not support pooling = positions ({why}): extract with "
            "--keep-clips and one backbone, or use pooling = clips"
        )
    rows = [content.views.index(name) for name in views]
    frames_per_sample = 1.0
    if content.num_frames_sampled:
        frames_per_sample = content.num_frames_decoded / content.num_frames_sampled
    pooled = [
        pool_positions(
            content.clip_features[:][:, rows],
            content.clip_frames,
            content.segment_frames,
            content.time_positions,
            content.spec.clip_frames,
            window * frames_per_sample,
            content.clip_lengths,
        )
        for window in config.window_frames
    ]
    values = np.moveaxis(np.concatenate(pooled, axis=2), 0, 1)  # (V, S, windows x C)
    return SegmentFeatures(values, 1, values.shape[2])


def pool_positions(
    clip_features: npt.NDArray[np.floating],
    clip_frames: npt.NDArray[np.int64],
    segment_frames: npt.NDArray[np.int64],
    time_positions: int,
    clip_length: int,
    window_frames: float,
    clip_lengths: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.floating]:
    """Return (S, V, C), the maximum over the windows whose centres lie in a segment.

    A window is centred on a time position, and its feature is the mean over all positions whose
    centres lie within half its length. A segment without positions uses the nearest one.

    Args:
        clip_features: (n, V, D).
        clip_frames: (n, 2) half-open ranges of the video's frames; positions in a clip's padding
            are ignored.
        segment_frames: (S, 2) half-open ranges that partition the video's frames.
        time_positions: T.
        clip_length: frames of a whole clip, padding included.
        window_frames: length of the window, in frames of the video.
        clip_lengths: (n,) frames of each clip without padding, evenly spread over its range; None:
            the frames of the range.
    """
    num_clips, num_views, _ = clip_features.shape
    places = real_positions(clip_frames, time_positions, clip_length, clip_lengths)
    positions = clip_features.reshape(num_clips, num_views, time_positions, -1).swapaxes(1, 2)
    positions = positions[places.clips, places.positions]  # (P, V, C)
    pooled = np.empty((len(segment_frames), *positions.shape[1:]), clip_features.dtype)
    windows = windows_of_segments(places.centres, segment_frames, window_frames)
    for segment, (begin, past) in enumerate(windows):
        pooled[segment] = window_means(positions, begin, past).max(axis=0)
    return pooled


class RealPositions(NamedTuple):
    """The time positions of a video that do not lie in a clip's padding, in order of time."""

    clips: npt.NDArray[np.int64]
    """(P,) the clip of each."""
    positions: npt.NDArray[np.int64]
    """(P,) its index in the clip."""
    centres: npt.NDArray[np.float64]
    """(P,) its centre, in frames of the video."""


def real_positions(
    clip_frames: npt.NDArray[np.int64],
    time_positions: int,
    clip_length: int,
    clip_lengths: npt.NDArray[np.int64] | None = None,
) -> RealPositions:
    """Return where the positions of clips lie; the arguments are those of `pool_positions`."""
    offsets = (np.arange(time_positions) + 0.5) * clip_length / time_positions
    ranges = np.diff(clip_frames)
    scale = 1 if clip_lengths is None else ranges / clip_lengths[:, None]
    centres = clip_frames[:, :1] + offsets * scale  # (n, T)
    centres[:, 0] = np.minimum(centres[:, 0], clip_frames[:, 1] - 1)  # every clip keeps one
    clips, positions = np.nonzero(centres < clip_frames[:, 1:])
    centres = centres[clips, positions]
    order = np.argsort(centres, kind="stable")
    return RealPositions(clips[order], positions[order], centres[order])


def windows_of_segments(
    centres: npt.NDArray[np.float64], segment_frames: npt.NDArray[np.int64], window_frames: float
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield, for each segment, where its windows begin and end: (w,) and (w,), among P positions.

    Args:
        centres: (P,) of the positions, increasing.
        segment_frames: (S, 2).
        window_frames: length of a window.
    """
    first = np.searchsorted(centres, centres - window_frames / 2, side="left")
    stop = np.searchsorted(centres, centres + window_frames / 2, side="right")
    bounds = np.searchsorted(centres, segment_frames)
    for segment, (own, end) in enumerate(bounds):
        if own == end:
            centre = range_centres(segment_frames[segment : segment + 1])[0]
            own = int(np.argmin(np.abs(centres - centre)))
            end = own + 1
        yield first[own:end], stop[own:end]


def window_means(
    positions: npt.NDArray[np.floating],
    begin: npt.NDArray[np.int64],
    past: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return (w, V, C), the means of positions (P, V, C) over neighbouring windows in order."""
    low = begin[0]
    sums = np.cumsum(positions[low : past[-1]], axis=0, dtype=np.float64)
    sums = np.concatenate([np.zeros_like(sums[:1]), sums])
    return np.asarray((sums[past - low] - sums[begin - low]) / (past - begin)[:, None, None])
