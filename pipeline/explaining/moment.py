"""The moment that is explained, and the bag in which the model saw it.

Legend: S segments of a bag, C cells of a timeline.
"""

from dataclasses import dataclass

import numpy as np

from vigil.data.spans import cut, span_starts
from vigil.extract.errors import UserError
from vigil.extract.segments import range_centres, segment_ranges
from vigil.extract.store import VideoFeatures
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.results import SegmentScore, VideoResult
from vigil.pipeline.text_files import clock_time


@dataclass(frozen=True)
class Moment:
    """A segment of a result, and the event that it is part of."""

    segment: SegmentScore
    event: Event | None
    """None: it is in no event."""
    is_left_out: bool = False
    """Whether the scores make it an event, but the classifier sees normal around it."""


def find_moment(result: VideoResult, at_seconds: float | None) -> Moment:
    """The segment at a time, or the highest one of the highest event, or of the video without any.

    Raises:
        UserError: the video is over before that time.
    """
    segments = result.held_segments
    if at_seconds is not None:
        if at_seconds >= result.duration_seconds:
            raise UserError(
                f"--at {clock_time(at_seconds)} is after the end of {result.video}: it lasts "
                f"{clock_time(result.duration_seconds)}"
            )
        chosen = next(one for one in segments if at_seconds < one.stop_seconds)
    else:
        if result.events:
            highest = max(result.events, key=lambda event: event.peak_score)
            segments = [one for one in segments if _is_in(one, highest)]
        chosen = max(segments, key=lambda segment: segment.score)
    event = next((one for one in result.events if _is_in(chosen, one)), None)
    return Moment(chosen, event, any(_is_in(chosen, one) for one in result.left_out))


def _is_in(segment: SegmentScore, event: Event) -> bool:
    return event.start_frame <= segment.start_frame < event.stop_frame


@dataclass(frozen=True, eq=False)
class Bag:
    """What the model is given at once: a video, or a span of a long one."""

    features: VideoFeatures
    """As of a video of its own, with its clips."""
    start_frame: int
    """Where it begins in the video."""
    first_clip: int
    """The clip of the video with which it begins."""
    segment: int
    """The segment that holds the moment."""


def bag_around(
    features: VideoFeatures, span_frames: int | None, start_frame: int, stop_frame: int
) -> Bag:
    """The bag around frames; of overlapping spans the one from whose ends they are farthest.

    That span counts most in the score of the timeline, to which all spans there contribute.

    Args:
        features: of the video, with its clips.
        span_frames: length of a span; None: the video is one bag.
        start_frame: of the moment.
        stop_frame: of the moment, after its last frame.
    """
    centre = int(range_centres(np.array([[start_frame, stop_frame]]))[0])
    start, stop, first, bag = 0, features.num_frames_decoded, 0, features
    if span_frames is not None and features.clip_frames is not None:
        starts = features.clip_frames[:, 0]
        spans = span_starts(features.num_frames_decoded, span_frames, starts)
        start, stop = max(spans, key=lambda span: min(centre - span[0], span[1] - 1 - centre))
        first, bag = int(np.searchsorted(starts, start)), cut(features, start, stop)
    ends = segment_ranges(stop - start, features.spec.num_segments)[:, 1]
    return Bag(bag, start, first, int(np.searchsorted(ends, centre - start, side="right")))
