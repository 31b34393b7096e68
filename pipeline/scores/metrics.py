"""Detection measures over frames and videos, and classification measures.

Legend: N videos, P pieces, G distinct scores, K classes (the normal class has index 0). A piece is
a set of frames of one video with the same score. Scores are constant over a segment, so a test set
of a million frames has only a few thousand pieces. Every measure is computed from their counts,
which is exact and fast enough to repeat for each bootstrap resample of the videos.
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
    """A measure as a fraction, with its interval if any, or the reason why it is undefined."""

    value: float | None
    undefined: str = ""
    """Why there is no value; empty if there is one."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Spread:
    """A mean with its interval over seeds and videos."""

    mean: float
    deviation: float | None
    """Sample standard deviation of the R values, dividing by R - 1; None for a single one."""
    low: float
    high: float
    """95 % percentile bootstrap interval of the mean."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The items of one video, its frames or the video itself, as counts per score."""

    scores: FloatArray
    """(P,)"""
    num_anomalous: IntArray
    """(P,) items with that score that are anomalous in the truth."""
    num_normal: IntArray
    """(P,)"""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The pieces of all videos by decreasing score; `video_index` is the video of each piece."""

    scores: FloatArray
    num_anomalous: IntArray
    num_normal: IntArray
    video_index: IntArray
    num_videos: int


@dataclass(frozen=True, eq=False)
class Curve:
    """The items found with a threshold at each distinct score, highest score first."""

    thresholds: FloatArray
    """(G,) strictly decreasing; an item is found if its score is at or above the threshold."""
    true_positives: IntArray
    """(G,) anomalous items found."""
    false_positives: IntArray
    """(G,) normal items found."""


def frame_pieces(
    segment_scores: FloatArray, segment_frames: IntArray, truth: npt.NDArray[np.bool_]
) -> Pieces:
    """The frames of one video as counts, with a piece for each segment that holds frames.

    Args:
        segment_scores: (S,).
        segment_frames: (S, 2) half-open ranges that partition the frames; empty ones are skipped.
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
    """Rank the frames of all videos; a video's index is its position in ``videos``."""
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
    """Rank N videos by one score each, both (N,); an item is a video, not a frame."""
    return rank_frames(
        [
            Pieces(np.array([score]), np.array([int(anomalous)]), np.array([int(not anomalous)]))
            for score, anomalous in zip(scores, is_anomalous, strict=True)
        ]
    )


def found_at_thresholds(ranking: Ranking, video_weights: IntArray | None = None) -> Curve:
    """The items found at each distinct score, counting each video `video_weights` (N,) times."""
    weights = np.ones(ranking.num_videos, np.int64) if video_weights is None else video_weights
    weight = weights[ranking.video_index]
    last_of_score = np.append(np.flatnonzero(np.diff(ranking.scores)), len(ranking.scores) - 1)
    return Curve(
        thresholds=ranking.scores[last_of_score],
        true_positives=np.cumsum(weight * ranking.num_anomalous)[last_of_score],
        false_positives=np.cumsum(weight * ranking.num_normal)[last_of_score],
    )


def roc_auc(ranking: Ranking, video_weights: IntArray | None = None) -> Measure:
    """Area under the ROC curve over all items; ties count one half."""
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
    """Area under the precision-recall curve, interpolated linearly, from recall 0, precision 1 on.

    The authors of XD-Violence call this average precision (Wu et al., ECCV 2020). It is larger than
    `average_precision` if there are few distinct scores.
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
    """Mean of the rankings' average precisions, without rankings that have no anomalous items."""
    values = [average_precision(ranking, video_weights).value for ranking in rankings]
    known = [value for value in values if value is not None]
    if not known:
        return _undefined_without("anomalous")
    return Measure(float(np.mean(known)))


def false_alarm_rate(
    ranking: Ranking, threshold: float, video_weights: IntArray | None = None
) -> Measure:
    """Share of the normal items with a score at or above the threshold.

    With weights that select the normal videos and a threshold of 0.5, this is the false-alarm rate
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
    """(K, K) counts of videos; rows are true classes, columns are predicted ones."""
    weights = np.ones(len(true_class)) if video_weights is None else video_weights
    cells = true_class * num_classes + predicted_class
    counts = np.bincount(cells, weights, minlength=num_classes**2)
    return np.rint(counts).astype(np.int64).reshape(num_classes, num_classes)


def class_recalls(confusion: IntArray, class_names: Sequence[str]) -> tuple[Measure, ...]:
    """For each class, the share of its videos with the right label; undefined without videos."""
    return tuple(
        Measure(float(row[index] / row.sum()))
        if row.sum()
        else Measure(None, f"no video of class {name}")
        for index, (row, name) in enumerate(zip(confusion, class_names, strict=True))
    )


def mean_class_accuracy(confusion: IntArray) -> Measure:
    """mAA: mean recall over the classes that have videos.

    Source: Majhi et al., FG 2021, IV, over the C + 1 classes, normal included.
    """
    videos_of_class = confusion.sum(axis=1)
    present = videos_of_class > 0
    if not present.any():
        return Measure(None, "there are no videos")
    return Measure(float(np.mean(np.diag(confusion)[present] / videos_of_class[present])))


def accuracy(confusion: IntArray) -> Measure:
    """Share of the videos in these rows with the right label; pass rows ``[1:]`` for anomalous."""
    num_videos = confusion.sum()
    if not num_videos:
        return Measure(None, "there are no videos of these classes")
    offset = confusion.shape[1] - confusion.shape[0]
    return Measure(float(np.trace(confusion, offset=offset) / num_videos))


def resample_videos(
    is_anomalous: npt.NDArray[np.bool_], num_resamples: int, seed: int
) -> list[IntArray]:
    """Draw bootstrap resamples: for each, how often it contains each of the N videos, (N,).

    Anomalous and normal videos are drawn with replacement separately, so every resample has as many
    of each as the test set.
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
    """Compute a measure of all videos with its percentile bootstrap interval.

    Args:
        measure: function of how often each video counts, (N,).
        resamples: from `resample_videos`; if empty, there is no interval.
        num_videos: N.

    Returns:
        The measure; its interval ignores resamples in which the measure is undefined.
    """
    whole = measure(np.ones(num_videos, np.int64))
    values = [one.value for one in map(measure, resamples) if one.value is not None]
    if whole.value is None or not values:
        return whole
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return replace(whole, low=float(low), high=float(high))


def thin_indices(x: FloatArray, y: FloatArray, max_points: int) -> IntArray:
    """Indices of at most `max_points` points spaced evenly along a curve, with both ends."""
    if len(x) <= max_points:
        return np.arange(len(x))
    steps = np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0]))
    length = np.cumsum(steps)
    picked = np.searchsorted(length, np.linspace(0, length[-1], max_points))
    picked[-1] = len(x) - 1
    return np.unique(picked)
