"""Events: the intervals of a video that a person should review, from its segment scores.

Legend: S segments, K classes. Ranges are half-open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class EventRule:
    """What counts as an event.

    The defaults were chosen by cross-validation on the yardstick's training part, by the F1 of
    events (docs/results.md).
    """

    threshold: float = 0.5
    """Score, 0..1, that opens an event: its highest segment reaches it."""
    keep_share: float = 0.5
    """An event lasts while scores are at least this share of the threshold, 0..1."""
    join_seconds: float = 1.0
    """Two events with at most so much time between them are one."""
    min_seconds: float = 1.0
    """A shorter event is dropped, unless the whole video is shorter."""

    @property
    def keep_threshold(self) -> float:
        """The score at which an event goes on."""
        return self.keep_share * self.threshold


@dataclass(frozen=True)
class Action:
    """A class of another dataset, Kinetics-400, that the backbone sees in an event."""

    name: str
    probability: float


@dataclass(frozen=True)
class EventClip:
    """An event and some seconds around it, as files of their own."""

    path: str
    """Of an MP4 file, relative to RESULTS, with forward slashes."""
    sheet: str
    """Of a JPEG with frames of the event."""
    start_seconds: float
    """When it starts, from the first frame of the video on; that of a stream may start before."""
    annotated: str | None = None
    """The same as ``path`` with class, score and time under the picture; None if not asked for."""


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
    class_shares: dict[str, float] = field(default_factory=dict)
    """Anomalous class -> its share of the event, in order of share; they sum to 1. Empty in results
    of earlier versions."""
    start_clock: str | None = None
    """Time of day, as YYYY-MM-DD hh:mm:ss[+hh:mm]; None if it is not known."""
    stop_clock: str | None = None
    actions: tuple[Action, ...] = ()
    """The most probable first; empty if none is likely, or the features cannot tell."""
    clip: EventClip | None = None
    """None if clips were not asked for, or this one could not be written."""


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
    segment_seconds: npt.NDArray[np.float64],
    rule: EventRule,
    named: npt.NDArray[np.float64] | None = None,
) -> list[npt.NDArray[np.int64]]:
    """The segments of each event, as (n,) increasing indices, in order of time.

    An event is a run of segments that keep to the rule, one of which opens it. Events close to each
    other are joined, with what lies between them, before short ones are dropped. Segments without
    frames are ignored.

    Scores find places, but on cameras that a model has not seen they are often too high; the
    classes of the whole video (or span) around an event tell ordinary footage better. So an event
    is also dropped if normal is the most probable class there, on average over its segments.

    Args:
        segment_scores: (S,) in 0..1.
        segment_frames: (S, 2) half-open ranges of frames.
        segment_seconds: (S, 2) the same ranges in seconds.
        rule: what counts as an event.
        named: (S, K) class probabilities of the video or span around each segment, normal first;
            None: no event is dropped for its surroundings.
    """
    held = held_segments(segment_frames)
    scores, seconds = segment_scores[held], segment_seconds[held]
    joined: list[tuple[int, int]] = []
    for start, stop in true_runs(scores >= rule.keep_threshold):
        if scores[start:stop].max() < rule.threshold:
            continue
        if joined and seconds[start, 0] - seconds[joined[-1][1] - 1, 1] <= rule.join_seconds:
            start = joined.pop()[0]
        joined.append((start, stop))
    shortest = min(rule.min_seconds, seconds[-1, 1] - seconds[0, 0])
    runs = [
        held[start:stop]
        for start, stop in joined
        if seconds[stop - 1, 1] - seconds[start, 0] >= shortest
    ]
    return [run for run in runs if named is None or named[run].mean(axis=0).argmax() > 0]


def find_events(
    segment_scores: npt.NDArray[np.float64],
    segment_frames: npt.NDArray[np.int64],
    segment_seconds: npt.NDArray[np.float64],
    rule: EventRule,
    class_probabilities: Mapping[str, float],
    normal_class: str,
    segment_class_probabilities: npt.NDArray[np.float64] | None = None,
    named: npt.NDArray[np.float64] | None = None,
) -> tuple[Event, ...]:
    """Find the events of one video, in order of time.

    Args:
        segment_scores: (S,) in 0..1.
        segment_frames: (S, 2) half-open ranges of frames.
        segment_seconds: (S, 2) the same ranges in seconds.
        rule: what counts as an event.
        class_probabilities: class -> its probability for the video, normal included.
        normal_class: name of the class that no event has.
        segment_class_probabilities: (S, K) in the same order; None from models that classify whole
            videos only.
        named: (S, K) as for `event_runs`.
    """
    events = []
    for run in event_runs(segment_scores, segment_frames, segment_seconds, rule, named):
        probabilities = class_probabilities
        if segment_class_probabilities is not None:
            # Normal keeps its share: a segment that looks normal must count less.
            means = segment_class_probabilities[run].mean(axis=0).tolist()
            probabilities = dict(zip(class_probabilities, means, strict=True))
        anomalous = {name: p for name, p in probabilities.items() if name != normal_class}
        class_name = max(anomalous, key=anomalous.__getitem__)
        total = sum(anomalous.values()) or 1.0
        by_share = sorted(anomalous, key=lambda name: -anomalous[name])
        events.append(
            Event(
                start_frame=int(segment_frames[run[0], 0]),
                stop_frame=int(segment_frames[run[-1], 1]),
                start_seconds=float(segment_seconds[run[0], 0]),
                stop_seconds=float(segment_seconds[run[-1], 1]),
                peak_score=float(segment_scores[run].max()),
                class_name=class_name,
                class_probability=anomalous[class_name],
                class_shares={name: anomalous[name] / total for name in by_share},
            )
        )
    return tuple(events)


def label_of(events: Sequence[Event], normal_class: str) -> str:
    """The label of a video: the class of the event with the highest peak, or normal without any."""
    if not events:
        return normal_class
    return max(events, key=lambda event: event.peak_score).class_name
