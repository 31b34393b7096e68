"""Numbers from scores: measures of detection over frames and videos, and of classification.

Legend: N videos, P pieces, G distinct scores, K classes (the normal class has index 0). A piece is
a set of frames of one video that hold one score. Segment scores are constant over a segment, so a
test set of a million frames is a few thousand pieces: every measure is computed from these counts,
which is exact, and quick enough to repeat for each bootstrap resample of the videos.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measure:
    """One number as a fraction, or the reason why it does not exist, with its interval if any."""

    value: float | None
    undefined: str = ""
    """Why there is no value; empty where there is one."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class Pieces:
    """Items of one video as counts per score: frames, or the video itself."""

    scores: FloatArray
    """(P,)"""
    num_anomalous: IntArray
    """(P,) items of that score whose truth is anomalous."""
    num_normal: IntArray
    """(P,)"""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The pieces of all videos by falling score; `video_index` says whose each piece is."""

    scores: FloatArray
    num_anomalous: IntArray
    num_normal: IntArray
    video_index: IntArray
    num_videos: int


@dataclass(frozen=True, eq=False)
class Curve:
    """What a threshold at each distinct score finds, highest score first."""

    thresholds: FloatArray
    """(G,) strictly falling; an item counts as found where its score is at or above it."""
    true_positives: IntArray
    """(G,) anomalous items found."""
    false_positives: IntArray
    """(G,) normal items found."""


def frame_pieces(
    segment_scores: FloatArray, segment_frames: IntArray, truth: npt.NDArray[np.bool_]
) -> Pieces:
    """The frames of one video as counts: a piece for each segment that holds frames.

    Args:
        segment_scores: (S,).
        segment_frames: (S, 2) half-open ranges that partition the frames; empty ones are left out.
        truth: (frames,) True where a frame is anomalous.
    """
    before = np.concatenate([[0], np.cumsum(truth, dtype=np.int64)])
    lengths = segment_frames[:, 1] - segment_frames[:, 0]
    anomalous = before[segment_frames[:, 1]] - before[segment_frames[:, 0]]
    held = lengths > 0
    return Pieces(
        np.asarray(segment_scores, np.float64)[held], anomalous[held], (lengths - anomalous)[held]
    )


def rank_frames(videos: Sequence[Pieces]) -> Ranking:
    """The ranking of the frames of all videos; a video's index is its position here."""
    scores = np.concatenate([video.scores for video in videos])
    order = np.argsort(-scores, kind="stable")
    video_index = np.repeat(np.arange(len(videos)), [len(video.scores) for video in videos])
    return Ranking(
        scores=scores[order],
        num_anomalous=np.concatenate([video.num_anomalous for video in videos])[order],
        num_normal=np.concatenate([video.num_normal for video in videos])[order],
        video_index=video_index[order],
        num_videos=len(videos),
    )


def rank_videos(scores: FloatArray, is_anomalous: npt.NDArray[np.bool_]) -> Ranking:
    """The ranking of N videos by one score each, both (N,): an item is a video, not a frame."""
    return rank_frames(
        [
            Pieces(np.array([score]), np.array([int(anomalous)]), np.array([int(not anomalous)]))
            for score, anomalous in zip(scores, is_anomalous, strict=True)
        ]
    )


def found_at_thresholds(ranking: Ranking, video_weights: IntArray | None = None) -> Curve:
    """The items found at each distinct score, every video counted `video_weights` (N,) times."""
    weights = np.ones(ranking.num_videos, np.int64) if video_weights is None else video_weights
    weight = weights[ranking.video_index]
    last_of_score = np.append(np.flatnonzero(np.diff(ranking.scores)), len(ranking.scores) - 1)
    return Curve(
        thresholds=ranking.scores[last_of_score],
        true_positives=np.cumsum(weight * ranking.num_anomalous)[last_of_score],
        false_positives=np.cumsum(weight * ranking.num_normal)[last_of_score],
    )


def roc_auc(ranking: Ranking, video_weights: IntArray | None = None) -> Measure:
    """Area under the ROC curve over all items; equal scores count one half."""
    curve = found_at_thresholds(ranking, video_weights)
    num_anomalous, num_normal = curve.true_positives[-1], curve.false_positives[-1]
    if not num_anomalous or not num_normal:
        return _undefined_without("anomalous" if not num_anomalous else "normal")
    found = np.concatenate([[0], curve.true_positives])
    steps = np.diff(curve.false_positives, prepend=0)
    area = np.sum(steps * (found[1:] + found[:-1])) / 2
    return Measure(float(area / (num_anomalous * num_normal)))


def average_precision(ranking: Ranking, video_weights: IntArray | None = None) -> Measure:
    """Precision at each distinct score, weighted by the recall gained there (no interpolation)."""
    curve = found_at_thresholds(ranking, video_weights)
    if not curve.true_positives[-1]:
        return _undefined_without("anomalous")
    found = np.maximum(curve.true_positives + curve.false_positives, 1)
    gained = np.diff(curve.true_positives, prepend=0)
    value = np.sum(gained * (curve.true_positives / found)) / curve.true_positives[-1]
    return Measure(float(value))


def precision_recall_auc(ranking: Ranking, video_weights: IntArray | None = None) -> Measure:
    """Area under straight lines between the points of precision and recall, from (0, 1) on.

    It is what XD-Violence's authors call average precision (Wu et al., ECCV 2020), and larger than
    `average_precision` where few scores are distinct.
    """
    curve = found_at_thresholds(ranking, video_weights)
    num_anomalous = curve.true_positives[-1]
    if not num_anomalous:
        return _undefined_without("anomalous")
    found = curve.true_positives + curve.false_positives
    precision = np.where(found > 0, curve.true_positives / np.maximum(found, 1), 1.0)
    heights = np.concatenate([[1.0], precision])
    gained = np.diff(curve.true_positives, prepend=0)
    area = np.sum(gained * (heights[1:] + heights[:-1])) / 2 / num_anomalous
    return Measure(float(area))


def mean_average_precision(
    rankings: Sequence[Ranking], video_weights: IntArray | None = None
) -> Measure:
    """The mean of the rankings' average precisions; those without anything to find are left out."""
    values = [average_precision(ranking, video_weights).value for ranking in rankings]
    known = [value for value in values if value is not None]
    if not known:
        return _undefined_without("anomalous")
    return Measure(float(np.mean(known)))


def false_alarm_rate(
    ranking: Ranking, threshold: float, video_weights: IntArray | None = None
) -> Measure:
    """Share of the normal items with a score at or above the threshold.

    Given only normal videos (by their weights) and the threshold 0.5 this is the false-alarm rate
    of Sultani et al. (CVPR 2018, table 4).
    """
    curve = found_at_thresholds(ranking, video_weights)
    if not curve.false_positives[-1]:
        return _undefined_without("normal")
    num_reached = int(np.sum(curve.thresholds >= threshold))
    num_found = curve.false_positives[num_reached - 1] if num_reached else 0
    return Measure(float(num_found / curve.false_positives[-1]))


def _undefined_without(kind: str) -> Measure:
    return Measure(None, f"there is nothing {kind} in the truth")


def confusion_matrix(
    true_class: IntArray,
    predicted_class: IntArray,
    num_classes: int,
    video_weights: IntArray | None = None,
) -> IntArray:
    """(K, K) numbers of videos: a row is a true class, a column a predicted one."""
    weights = np.ones(len(true_class)) if video_weights is None else video_weights
    cells = true_class * num_classes + predicted_class
    counts = np.bincount(cells, weights, minlength=num_classes**2)
    return np.rint(counts).astype(np.int64).reshape(num_classes, num_classes)


def class_recalls(confusion: IntArray, class_names: Sequence[str]) -> tuple[Measure, ...]:
    """For each class the share of its videos that got its label; undefined where it has none."""
    return tuple(
        Measure(float(row[index] / row.sum()))
        if row.sum()
        else Measure(None, f"no video of class {name}")
        for index, (row, name) in enumerate(zip(confusion, class_names, strict=True))
    )


def mean_class_accuracy(confusion: IntArray) -> Measure:
    """mAA: the mean over the classes that have videos of the class's recall.

    Source: Majhi et al., FG 2021, IV, over the C + 1 classes, normal included.
    """
    videos_of_class = confusion.sum(axis=1)
    present = videos_of_class > 0
    if not present.any():
        return Measure(None, "there is no video")
    return Measure(float(np.mean(np.diag(confusion)[present] / videos_of_class[present])))


def accuracy(confusion: IntArray) -> Measure:
    """Share of the videos in these rows whose label is right; pass ``[1:]`` for the anomalous."""
    num_videos = confusion.sum()
    if not num_videos:
        return Measure(None, "there is no video of these classes")
    offset = confusion.shape[1] - confusion.shape[0]
    return Measure(float(np.trace(confusion, offset=offset) / num_videos))


def resample_videos(
    is_anomalous: npt.NDArray[np.bool_], num_resamples: int, seed: int
) -> list[IntArray]:
    """How often each of the N videos is drawn, (N,) for each of the bootstrap's resamples.

    Videos are drawn with replacement among the anomalous and among the normal ones apart, so that
    every resample has as many of each as the test set.
    """
    generator = np.random.default_rng(seed)
    counts = np.zeros((num_resamples, len(is_anomalous)), np.int64)
    for members in (np.flatnonzero(is_anomalous), np.flatnonzero(~is_anomalous)):
        if len(members):
            even = np.full(len(members), 1 / len(members))
            counts[:, members] = generator.multinomial(len(members), even, size=num_resamples)
    return list(counts)


def with_interval(
    measure: Callable[[IntArray], Measure], resamples: Sequence[IntArray], num_videos: int
) -> Measure:
    """The measure of all videos with its percentile bootstrap interval.

    Args:
        measure: takes how often each video counts, (N,).
        resamples: from `resample_videos`; none gives no interval.
        num_videos: N.

    Returns:
        Resamples in which the measure is undefined are left out.
    """
    whole = measure(np.ones(num_videos, np.int64))
    values = [drawn.value for drawn in map(measure, resamples) if drawn.value is not None]
    if whole.value is None or not values:
        return whole
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return replace(whole, low=float(low), high=float(high))


def thin_indices(x: FloatArray, y: FloatArray, max_points: int) -> IntArray:
    """Indices of at most `max_points` points of a curve, evenly along it, both ends included."""
    if len(x) <= max_points:
        return np.arange(len(x))
    steps = np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0]))
    length = np.cumsum(steps)
    picked = np.searchsorted(length, np.linspace(0, length[-1], max_points))
    picked[-1] = len(x) - 1
    return np.unique(picked)
