"""Temporal localisation of named anomalies: mean average precision at an overlap, mAP@IoU.

Each video gets proposals for each anomalous class from its class scores
(`VideoScores.segment_class_scores`). A proposal is a run of segments at or above a level between
the video's lowest and highest class score. Its rank is a weighted sum of its peak and the mean of
the video's highest segments. In order of rank, a proposal is right if its IoU with an annotated
interval of its class and video reaches the threshold and no earlier proposal matched that interval;
of several intervals, it matches the one with the highest IoU. The average precision of a class is
the mean over its intervals of the precision at the rank where each is found, or 0 if it is not
found. The measure is the mean over the classes that have intervals.

Level, rank and matching follow VadCLIP (Wu et al., AAAI 2024; official code at
github.com/nwpu-zxr/VadCLIP, src/utils/ucf_detectionMAP.py, based on W-TALC, Paul et al.,
ECCV 2018). That code supports several levels, with non-maximum suppression between their proposals,
but uses only one, so its runs do not overlap. This module differs in four points:

* Normal is not a class. VadCLIP counts it: on XD-Violence, each normal video is an interval; on
  UCF-Crime there are none, so the AP of normal is 0 and the reported figure is 13/14 of the mean
  over the anomalous classes.
* A segment that reaches the level belongs to a run (VadCLIP: exceeds it), so a video that is
  anomalous throughout can be found. Segments with score 0 are never proposed.
* A video with several classes has intervals of its first class only, and no proposals for the
  others.
* Proposals of equal rank in different videos are ties, as in `pipeline.scores.metrics`.

Legend: N videos, S segments, K classes (normal is 0), P proposals, I intervals. Ranges are
half-open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt

from vigil.pipeline.scores import metrics
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo, VideoMeasure
from vigil.pipeline.scores.events import held_segments, true_runs
from vigil.pipeline.scores.metrics import FloatArray, IntArray, Measure, Pieces, Ranking

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
LEVEL = 0.4
"""Position of the level between the lowest (0) and the highest (1) class score of a video."""
VIDEO_WEIGHT = 0.7
"""Weight in a proposal's rank of the mean of the video's highest segments; its peak has 1."""
TOP_SHARE = 16
"""The highest segments of a video are one in this many."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """Frame ranges where a class may be in one video, in order of time."""

    frames: IntArray
    """(P, 2), disjoint."""
    ranks: FloatArray
    """(P,); higher ranks are matched first."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The proposals for one class in all videos, evaluated at one IoU, and the interval counts."""

    ranking: Ranking
    """Each piece is a proposal with one item, which is anomalous if the proposal is right."""
    num_intervals: IntArray
    """(N,) intervals of the class in each video."""


def localisation_measures(
    videos: Sequence[EvaluatedVideo], num_classes: int, unknown: str
) -> dict[str, VideoMeasure]:
    """The mAP at each IoU threshold, and their mean, by name.

    Args:
        videos: at least one.
        num_classes: K of the model; its only anomalous class is Anomaly if it knows no others.
        unknown: why frames cannot be evaluated; empty if they can.
    """
    names = [*(f"map_iou_{threshold}" for threshold in IOU_THRESHOLDS), "map_iou_mean"]
    if unknown:
        return dict.fromkeys(names, lambda _: Measure(None, unknown))
    of_classes = [_of_class(videos, index) for index in range(1, num_classes)]
    detections_at = [
        [evaluate_proposals(*one, threshold) for one in of_classes] for threshold in IOU_THRESHOLDS
    ]
    # All thresholds have the same classes, so the mean over both equals the mean of their means.
    detections_at.append(list(chain(*detections_at)))
    return {
        name: partial(mean_interval_average_precision, detections)
        for name, detections in zip(names, detections_at, strict=True)
    }


def _of_class(
    videos: Sequence[EvaluatedVideo], index: int
) -> tuple[list[Proposals], list[IntArray]]:
    """The proposals for a class in each video, and its intervals there, (I, 2)."""
    proposals, intervals = [], []
    for video in videos:
        # Intervals do not name a class: if a video has several, they count for the first.
        is_evaluated = index not in video.other_class_indices
        scores = video.scores.segment_class_scores[:, index - 1]
        proposals.append(find_proposals(scores * is_evaluated, video.segment_frames))
        truth = video.truth if video.class_index == index else None
        runs = [] if truth is None else true_runs(truth)
        intervals.append(np.array(runs, np.int64).reshape(-1, 2))
    return proposals, intervals


def find_proposals(class_scores: FloatArray, segment_frames: IntArray) -> Proposals:
    """Find the proposals for one class in one video.

    Args:
        class_scores: (S,) class score of each segment, 0..1.
        segment_frames: (S, 2) ranges that partition the frames; empty ones are skipped.
    """
    held = held_segments(segment_frames)
    scores, frames = class_scores[held], segment_frames[held]
    level = scores.min() + LEVEL * (scores.max() - scores.min())
    runs = true_runs((scores >= level) & (scores > 0))
    num_top = max(1, len(scores) // TOP_SHARE)
    of_video = VIDEO_WEIGHT * np.sort(scores)[-num_top:].mean()
    ranges = [(frames[start, 0], frames[stop - 1, 1]) for start, stop in runs]
    return Proposals(
        np.array(ranges, np.int64).reshape(-1, 2),
        np.array([scores[start:stop].max() + of_video for start, stop in runs], np.float64),
    )


def overlaps(first: IntArray, second: IntArray) -> FloatArray:
    """(P, I), 0..1, the IoU of each of the ranges (P, 2) with each of the ranges (I, 2)."""
    stops = np.minimum(first[:, None, 1], second[None, :, 1])
    common = np.maximum(stops - np.maximum(first[:, None, 0], second[None, :, 0]), 0)
    lengths = np.diff(first) + np.diff(second).T
    return np.asarray(common / (lengths - common))


def match(proposals: Proposals, intervals: IntArray, iou_threshold: float) -> npt.NDArray[np.bool_]:
    """(P,), whether each proposal of a video is right, given the intervals (I, 2) of its class."""
    is_right = np.zeros(len(proposals.ranks), np.bool_)
    free = overlaps(proposals.frames, intervals)
    if not len(intervals):
        return is_right
    for index in np.argsort(-proposals.ranks, kind="stable"):
        best = int(free[index].argmax())
        if free[index, best] >= iou_threshold:
            is_right[index] = True
            free[:, best] = 0.0
    return is_right


def evaluate_proposals(
    proposals: Sequence[Proposals], intervals: Sequence[IntArray], iou_threshold: float
) -> Detections:
    """Match the proposals for one class in N videos with its intervals, (I, 2) for each video.

    Args:
        proposals: the proposals in each video.
        intervals: the intervals in each video, in frames; empty if it does not have the class.
        iou_threshold: the minimum IoU of a right proposal, above 0.
    """
    pieces = []
    for of_video, truth in zip(proposals, intervals, strict=True):
        is_right = match(of_video, truth, iou_threshold).astype(np.int64)
        pieces.append(Pieces(of_video.ranks, is_right, 1 - is_right))
    return Detections(metrics.rank_frames(pieces), np.array([len(truth) for truth in intervals]))


def interval_average_precision(
    detections: Detections, video_weights: IntArray | None = None
) -> float | None:
    """The average precision of one class, 0..1; None if it has no intervals."""
    ranking, num_intervals = detections.ranking, detections.num_intervals
    weights = np.ones(len(num_intervals), np.int64) if video_weights is None else video_weights
    num_to_find = int(weights @ num_intervals)
    if not num_to_find:
        return None
    num_found = int(weights[ranking.video_index] @ ranking.num_anomalous)
    if not num_found:
        return 0.0
    of_found = metrics.average_precision(ranking, weights).value
    assert of_found is not None
    return of_found * num_found / num_to_find


def mean_interval_average_precision(
    detections: Sequence[Detections], video_weights: IntArray | None = None
) -> Measure:
    """Mean of the average precisions over classes, or over classes and thresholds."""
    values = [interval_average_precision(one, video_weights) for one in detections]
    known = [value for value in values if value is not None]
    if not known:
        return Measure(None, "no class has annotated intervals")
    return Measure(float(np.mean(known)))
