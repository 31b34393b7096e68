"""Events: the intervals of a video that a person should review, from its segment scores.

Legend: S segments, K classes. Ranges are half-open.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_GAP_SEGMENTS = 1


@dataclass(frozen=True)
class Event:
    """A predicted interval of a video, with its class and scores."""

    start_frame: int
    stop_frame: int
    start_seconds: float
    stop_seconds: float
    peak_score: float
    class_name: str
    """The most probable anomalous class, even if normal is more probable. Taken over the event's
    segments, or from the video if the model classifies whole videos only."""
    class_probability: float
    """Mean over the event's segments, or that of the video; normal counts in the total of 1."""
    start_clock: str | None = None
    """Time of day, as YYYY-MM-DD hh:mm:ss[+hh:mm]; None if it is not known."""
    stop_clock: str | None = None


def true_runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The half-open ranges in which flags (N,) are True, in order."""
    steps = np.diff(flags.astype(np.int8), prepend=0, append=0)
    starts, stops = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
    return [(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]


def held_segments(segment_frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices of the segments (S, 2) that hold frames; a short video leaves some segments empty.

    If all are empty, the frames of the video are unknown, and every segment counts.
    """
    is_held = segment_frames[:, 1] > segment_frames[:, 0]
    return np.flatnonzero(is_held | ~is_held.any())


def peak_score(
    segment_scores: npt.NDArray[np.float64], segment_frames: npt.NDArray[np.int64]
) -> float:
    """The highest score of the segments that hold frames: the video's own score, in 0..1."""
    return float(segment_scores[held_segments(segment_frames)].max())


def event_runs(
    segment_scores: npt.NDArray[np.float64],
    segment_frames: npt.NDArray[np.int64],
    threshold: float,
) -> list[npt.NDArray[np.int64]]:
    """The segments of each event, as (n,) increasing indices.

    An event is a run of segments at or above the threshold. Two runs with one segment between them
    form one event, which includes that segment. Segments without frames are ignored.
    """
    held = held_segments(segment_frames)
    found = np.flatnonzero(segment_scores[held] >= threshold)
    if not len(found):
        return []
    breaks = np.flatnonzero(np.diff(found) > MAX_GAP_SEGMENTS + 1) + 1
    return [held[run[0] : run[-1] + 1] for run in np.split(found, breaks)]


def find_events(
    segment_scores: npt.NDArray[np.float64],
    segment_frames: npt.NDArray[np.int64],
    segment_seconds: npt.NDArray[np.float64],
    threshold: float,
    class_probabilities: Mapping[str, float],
    normal_class: str,
    segment_class_probabilities: npt.NDArray[np.float64] | None = None,
) -> tuple[Event, ...]:
    """Find the events of one video, in order of time.

    Args:
        segment_scores: (S,) in 0..1.
        segment_frames: (S, 2) half-open ranges of frames.
        segment_seconds: (S, 2) the same ranges in seconds.
        threshold: minimum score of an event's segments, except for gaps of one segment.
        class_probabilities: class -> its probability for the video, normal included.
        normal_class: name of the class that no event has.
        segment_class_probabilities: (S, K) in the same order; None from models that classify whole
            videos only.
    """
    events = []
    for run in event_runs(segment_scores, segment_frames, threshold):
        probabilities = class_probabilities
        if segment_class_probabilities is not None:
            # Normal keeps its share: a segment that looks normal must count less.
            means = segment_class_probabilities[run].mean(axis=0).tolist()
            probabilities = dict(zip(class_probabilities, means, strict=True))
        anomalous = {name: p for name, p in probabilities.items() if name != normal_class}
        class_name = max(anomalous, key=anomalous.__getitem__)
        events.append(
            Event(
                start_frame=int(segment_frames[run[0], 0]),
                stop_frame=int(segment_frames[run[-1], 1]),
                start_seconds=float(segment_seconds[run[0], 0]),
                stop_seconds=float(segment_seconds[run[-1], 1]),
                peak_score=float(segment_scores[run].max()),
                class_name=class_name,
                class_probability=anomalous[class_name],
            )
        )
    return tuple(events)
