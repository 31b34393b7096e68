"""What an operator gets from a detector: alarms, how many are false, and what they miss.

An alarm is an event by the rule of `pipeline.scores.events`. It is false if it overlaps no
annotated interval; an interval is found if an alarm overlaps it.

* ``false_alarms_per_hour``, ``false_alarms_per_day``: over all footage, at the model's threshold
  or the calibrated one of a video's camera.
* ``event_recall``: share of the intervals found. ``event_recall_iou_0.3``, ``..._0.5``: by an alarm
  with at least this overlap, each alarm for one interval. ``event_f1_iou_0.5``: 2 x found /
  (intervals + alarms) at this overlap.
* ``event_recall_at_1_a_day``, ``..._5_...``, ``..._20_...``: share found at the best threshold with
  at most so many false alarms a day. A test set of few hours allows none then.
* ``alarm_delay_seconds``: from the start of an interval to that of the first alarm for it, 0 if
  that is earlier; mean over the intervals found.
* ``footage_seconds_per_event``: length of all alarms for each interval found.

The numbers of alarms per video, `VideoAlarms`, are all that the measures need, so that stored ones
can be compared. Legend: N videos, T thresholds. Times are in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vigil.pipeline.scores.evaluated_video import EvaluatedVideo, VideoMeasure
from vigil.pipeline.scores.events import EventRule, event_runs, true_runs
from vigil.pipeline.scores.metrics import FloatArray, IntArray, Measure

IOU_THRESHOLDS = (0.3, 0.5)
ALARMS_PER_DAY = (1, 5, 20)
NUM_THRESHOLDS = 100
HOUR, DAY = 3600.0, 86400.0
UNKNOWN_FRAMES = "some anomalous videos have no annotated frames"
LOWER_IS_BETTER = frozenset(
    {
        "false_alarms_per_hour",
        "false_alarms_per_day",
        "alarm_delay_seconds",
        "footage_seconds_per_event",
    }
)

Interval = tuple[float, float]


@dataclass(frozen=True)
class VideoAlarms:
    """The alarms of one video, compared with its annotated intervals."""

    num_alarms: int
    num_false: int
    num_intervals: int
    num_found: int
    num_matched: tuple[int, ...]
    """Intervals found at each of `IOU_THRESHOLDS`."""
    delays: tuple[float, ...]
    """Of the intervals found."""
    alarm_seconds: float
    seconds: float
    """Length of the video."""
    num_false_at: tuple[int, ...] = ()
    """False alarms at each of T other thresholds."""
    num_found_at: tuple[int, ...] = ()
    """Intervals found at these."""


def overlap(one: Interval, other: Interval) -> float:
    """Length of what two intervals have in common, 0 or more."""
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def num_matched(alarms: Sequence[Interval], truth: Sequence[Interval], least_iou: float) -> int:
    """How many pairs of an alarm and an interval have at least this IoU, the best ones first."""
    pairs = []
    for alarm, a in enumerate(alarms):
        for interval, b in enumerate(truth):
            common = overlap(a, b)
            iou = common / max((a[1] - a[0]) + (b[1] - b[0]) - common, 1e-9)
            if iou >= least_iou:
                pairs.append((-iou, alarm, interval))
    used_alarms, used_intervals = set(), set()
    for _, alarm, interval in sorted(pairs):
        if alarm not in used_alarms and interval not in used_intervals:
            used_alarms.add(alarm)
            used_intervals.add(interval)
    return len(used_intervals)


def compare(alarms: Sequence[Interval], truth: Sequence[Interval], seconds: float) -> VideoAlarms:
    """Compare the alarms of a video of this length with its annotated intervals."""
    hits = [[alarm for alarm in alarms if overlap(alarm, interval)] for interval in truth]
    return VideoAlarms(
        num_alarms=len(alarms),
        num_false=sum(not any(overlap(alarm, one) for one in truth) for alarm in alarms),
        num_intervals=len(truth),
        num_found=sum(bool(found) for found in hits),
        num_matched=tuple(num_matched(alarms, truth, iou) for iou in IOU_THRESHOLDS),
        delays=tuple(
            max(0.0, min(start for start, _ in found) - interval[0])
            for found, interval in zip(hits, truth, strict=True)
            if found
        ),
        alarm_seconds=sum((stop - start for start, stop in alarms), 0.0),
        seconds=seconds,
    )


def alarms_of(video: EvaluatedVideo, rule: EventRule) -> list[Interval]:
    """The alarms of a video by a rule, in order of time."""
    seconds = video.segment_seconds
    if seconds is None:
        raise ValueError("times are unknown")
    scored = video.scores.scores, video.segment_frames, seconds, rule, video.named
    return [(float(seconds[run[0], 0]), float(seconds[run[-1], 1])) for run in event_runs(*scored)]


def intervals_of(video: EvaluatedVideo) -> list[Interval]:
    """The annotated intervals of a video."""
    seconds, frames = video.segment_seconds, video.segment_frames
    if seconds is None or video.truth is None:
        raise ValueError("times or truth are unknown")
    edges = np.append(frames[:, 0], frames[-1, 1])
    edges, first = np.unique(edges, return_index=True)
    times = np.append(seconds[:, 0], seconds[-1, 1])[first]
    found = np.interp(np.array(true_runs(video.truth), float).reshape(-1, 2), edges, times)
    return [(float(start), float(stop)) for start, stop in found]


def why_unknown(videos: Sequence[EvaluatedVideo]) -> str:
    """Why the alarms of the videos cannot be compared with intervals; empty if they can."""
    if any(video.truth is None for video in videos):
        return UNKNOWN_FRAMES
    if any(video.segment_seconds is None for video in videos):
        return "the times of segments are unknown"
    return ""


def count_alarms(
    videos: Sequence[EvaluatedVideo], threshold: float | FloatArray, levels: FloatArray
) -> tuple[VideoAlarms, ...]:
    """The alarms of each video at its threshold, and at the levels.

    Args:
        videos: N, whose truth and times must be known (`why_unknown`).
        threshold: the model's own, or (N,) one for each video.
        levels: (T,).
    """
    counted, thresholds = [], np.broadcast_to(threshold, len(videos)).tolist()
    for video, own_threshold in zip(videos, thresholds, strict=True):
        if video.segment_seconds is None:
            raise ValueError("times are unknown")
        truth, seconds = intervals_of(video), float(video.segment_seconds[-1, 1])
        own, *others = (
            compare(alarms_of(video, EventRule(level)), truth, seconds)
            for level in (own_threshold, *levels.tolist())
        )
        false_at = tuple(other.num_false for other in others)
        found_at = tuple(other.num_found for other in others)
        counted.append(replace(own, num_false_at=false_at, num_found_at=found_at))
    return tuple(counted)


def alarm_curve(alarms: Sequence[VideoAlarms]) -> tuple[FloatArray, FloatArray]:
    """False alarms an hour (T,), and the share of the intervals found (T,), at each threshold."""
    hours = sum(one.seconds for one in alarms) / HOUR
    num_intervals = sum(one.num_intervals for one in alarms)
    false = np.sum([one.num_false_at for one in alarms], axis=0)
    found = np.sum([one.num_found_at for one in alarms], axis=0)
    return false / hours, found / num_intervals


def alarm_measures(alarms: Sequence[VideoAlarms]) -> dict[str, VideoMeasure]:
    """The measures of the module by name, from the alarms of N videos."""
    num_alarms, false, intervals, found = (
        np.array([getattr(one, name) for one in alarms])
        for name in ("num_alarms", "num_false", "num_intervals", "num_found")
    )
    seconds = np.array([one.seconds for one in alarms])
    matched = np.array([one.num_matched for one in alarms])
    delays = np.array([sum(one.delays) for one in alarms])
    looked_at = np.array([one.alarm_seconds for one in alarms])
    false_at = np.array([one.num_false_at for one in alarms])
    found_at = np.array([one.num_found_at for one in alarms])

    def matched_share(row: int, weights: IntArray) -> Measure:
        return _ratio(weights @ matched[:, row], weights @ intervals)

    def recall_at(rate: float, weights: IntArray) -> Measure:
        fits = np.flatnonzero(weights @ false_at <= rate / DAY * (weights @ seconds))
        best = int((weights @ found_at[:, fits]).max()) if len(fits) else 0
        return _ratio(best, weights @ intervals)

    return {
        "false_alarms_per_hour": lambda w: _ratio(HOUR * (w @ false), w @ seconds),
        "false_alarms_per_day": lambda w: _ratio(DAY * (w @ false), w @ seconds),
        "event_recall": lambda w: _ratio(w @ found, w @ intervals),
        **{
            f"event_recall_iou_{iou}": partial(matched_share, row)
            for row, iou in enumerate(IOU_THRESHOLDS)
        },
        "event_f1_iou_0.5": lambda w: _ratio(2 * (w @ matched[:, 1]), w @ (intervals + num_alarms)),
        **{f"event_recall_at_{rate}_a_day": partial(recall_at, rate) for rate in ALARMS_PER_DAY},
        "alarm_delay_seconds": lambda w: _ratio(w @ delays, w @ found),
        "footage_seconds_per_event": lambda w: _ratio(w @ looked_at, w @ found),
    }


ALARM_MEASURES = tuple(alarm_measures([]))
"""The names of the measures."""


def alarm_levels(videos: Sequence[EvaluatedVideo]) -> FloatArray:
    """At most `NUM_THRESHOLDS` thresholds, (T,), closer to each other the higher they are."""
    scores = np.concatenate([video.scores.scores for video in videos])
    shares = np.geomspace(1 / len(scores), 1, NUM_THRESHOLDS)
    return np.unique(np.append(np.quantile(scores, 1 - shares), np.nextafter(scores.max(), 2)))


def _ratio(part: float, whole: float) -> Measure:
    if not whole:
        return Measure(None, "no annotated interval, or none found")
    return Measure(float(part / whole))
