"""Cut long videos into spans, for training and for scoring alike.

A model sees every video as S segments, so those of a long video hold the maximum of many more
clips. A span is a stretch of it with segments of its own, like a video of its length. Spans overlap
by half. A video of up to `WHOLE_SPANS` spans stays whole.
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vigil.extract.errors import UserError
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.store import VideoFeatures

WHOLE_SPANS = 1.5
"""A video of at most so many spans is one span."""


def span_starts(
    num_frames: int, span_frames: int, clip_starts: npt.NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Return the frames at which each span starts and stops: half-open ranges in order.

    Every span starts with a clip, half a span after the one before, and the last one ends with the
    video. A video of at most `WHOLE_SPANS` spans is one span.

    Args:
        num_frames: N, 1 or more.
        span_frames: length of a span, 1 or more.
        clip_starts: (n,) increasing frames at which clips start, the first of them 0.
    """
    if num_frames <= WHOLE_SPANS * span_frames:
        return [(0, num_frames)]
    last = int(clip_starts[np.searchsorted(clip_starts[:-1], num_frames - span_frames)])
    wanted = np.arange(0, last, max(span_frames // 2, 1))
    starts = np.unique(clip_starts[np.searchsorted(clip_starts, wanted, side="right") - 1])
    starts = np.append(starts[starts < last], last)
    stops = np.minimum(starts + span_frames, num_frames)
    stops[-1] = num_frames
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def span_length(features: VideoFeatures, wanted: float) -> int:
    """Return the length of a span in frames of a video: as wanted, but at least a clip.

    A shorter span would repeat that clip in all its segments.
    """
    per_frame = features.num_frames_decoded / features.num_frames_seen
    return max(round(wanted), math.ceil(features.spec.clip_frames * per_frame))


def training_spans(features: VideoFeatures, span_frames: int) -> list[tuple[int, int]]:
    """Return the half-open ranges of frames that become a video's bags.

    Args:
        features: of the video; its arrays of features may be empty.
        span_frames: length of a span, in frames as clips have them; 1 or more.

    Raises:
        UserError: the video must be cut but cannot be; names the reason and the remedy.
    """
    num_frames, clip = features.num_frames_decoded, features.spec.clip_frames
    video = features.video.path
    if span_frames < clip:
        raise UserError(
            f"span_frames = {span_frames} is not allowed: a clip of {video} has {clip} frames, so "
            "it must be 0 or at least that"
        )
    if not num_frames:
        raise UserError(
            f"{video} does not support span_frames (its number of frames is unknown): import its "
            "features again with --num-frames, or use span_frames = 0"
        )
    length = span_length(features, span_frames * num_frames / features.num_frames_seen)
    if num_frames <= WHOLE_SPANS * length:
        return [(0, num_frames)]
    if features.clip_frames is None:
        raise UserError(
            f"{video} does not support span_frames = {span_frames} (its clips are not stored): "
            "extract with --keep-clips, or use span_frames = 0"
        )
    return span_starts(num_frames, length, features.clip_frames[:, 0])


def cut(features: VideoFeatures, start: int, stop: int) -> VideoFeatures:
    """Return the features of a span [start, stop) of a video as if it were a video of its own.

    Its frames count from 0, and its segments are pooled from the clips that a video of its length
    would have. Clips must be stored, and one must begin at ``start``.
    """
    if features.clip_features is None or features.clip_frames is None:
        raise ValueError("a span needs stored clips")
    grid, num_frames = features.spec.grid, stop - start
    first = int(np.searchsorted(features.clip_frames[:, 0], start))
    num_seen = round(num_frames * features.num_frames_seen / features.num_frames_decoded)
    past = min(first + grid.num_clips(max(num_seen, 1)), len(features.clip_frames))
    num_seen = min(num_seen, (past - first - 1) * grid.stride + grid.clip_frames)
    clips = features.clip_features[first:past]
    clip_frames = np.minimum(features.clip_frames[first:past] - start, num_frames)
    segment_frames = segment_ranges(num_frames, features.spec.num_segments)
    pooled = pool_clips(clips, clip_frames, segment_frames)
    return replace(
        features,
        features=np.ascontiguousarray(np.moveaxis(pooled, 0, 1)),
        segment_frames=segment_frames,
        clip_features=clips,
        clip_frames=clip_frames,
        num_frames_decoded=num_frames,
        num_frames_sampled=num_seen if features.num_frames_sampled else 0,
    )
