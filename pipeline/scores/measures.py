"""The measures of an evaluation, computed from videos with truth and scores.

* ``frame_auc``, ``frame_ap``: ROC AUC and average precision over the frames of all videos pooled;
  ``frame_auc_anomalous_videos``: ROC AUC over the frames of the anomalous videos only.
* ``frame_pr_auc``: area under the precision-recall curve, which papers on XD-Violence report as AP.
* ``false_alarm_rate``: share of the normal videos' frames with a score of at least 0.5;
  ``false_alarm_rate_at_threshold``: the same at the model's own threshold, or at the calibrated one
  of each video's camera.
* ``maa``: mean over the classes, normal included, of the share of their videos with the right label
  (the most probable class); ``video_accuracy``: that share over all videos; ``top1_anomalous``:
  over the anomalous videos; ``top1_anomalous_without_normal``: over the anomalous videos, labelled
  with the most probable anomalous class.
* ``video_auc``: ROC AUC of the videos' peak scores; ``video_anomaly_accuracy``: share of the videos
  whose peak score is on the right side of that threshold.
* ``map_iou_0.1`` to ``map_iou_0.5``: average precision of finding a class's intervals with at least
  this overlap, mean over the anomalous classes; ``map_iou_mean``: mean of these.
* ``video_map``: average precision of ranking the videos by a class's probability, mean over the
  anomalous classes. A video may have several classes; the other measures use only the first.

* What an operator sees, such as ``false_alarms_per_day`` and ``event_recall``: see
  `pipeline.scores.alarms`.

The formulae are in `pipeline.scores.metrics` and `pipeline.scores.localisation`. Legend: N videos,
S segments, K classes (normal is 0).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from vigil.pipeline.scores import metrics
from vigil.pipeline.scores.alarms import (
    ALARM_MEASURES,
    LOWER_IS_BETTER,
    VideoAlarms,
    alarm_levels,
    alarm_measures,
    count_alarms,
    why_unknown,
)
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo, VideoMeasure
from vigil.pipeline.scores.localisation import localisation_measures
from vigil.pipeline.scores.metrics import Curve, FloatArray, IntArray, Measure, Ranking

FALSE_ALARM_THRESHOLD = 0.5
"""The threshold of published false-alarm rates (Sultani et al., CVPR 2018, table 4)."""


@dataclass(frozen=True)
class ComparedMeasure:
    """A measure that comparisons and tables of methods show."""

    title: str
    of_frames: Callable[[Ranking, IntArray], Measure] | None = None
    """Its formula, of the ranked frames and how often each video counts; None if not of frames."""
    of_classes: bool = False
    """Whether it depends on the classes that a method distinguishes."""
    lower_is_better: bool = False

    @property
    def heading(self) -> str:
        """The title, and which direction is better if that is down."""
        return f"{self.title} (lower is better)" if self.lower_is_better else self.title


MEASURES = {
    "frame_auc": ComparedMeasure("frame AUC", metrics.roc_auc),
    "frame_ap": ComparedMeasure("frame AP", metrics.average_precision),
    "frame_pr_auc": ComparedMeasure("frame PR AUC", metrics.precision_recall_auc),
    "maa": ComparedMeasure("mAA", of_classes=True),
    "video_auc": ComparedMeasure("video AUC"),
    **{
        name: ComparedMeasure(
            name.replace("_", " ").replace("iou", "IoU"), lower_is_better=name in LOWER_IS_BETTER
        )
        for name in ALARM_MEASURES
    },
}
"""What `vigil compare` prints, in this order, and tables may show; an evaluation reports more."""


@dataclass(frozen=True)
class ClassMeasures:
    """The measures of one class.

    There is no standard definition of the frame AUC of one class, and published tables seldom
    specify which normal frames they count, so both variants are reported.
    """

    class_name: str
    num_videos: int
    recall: Measure
    """Share of its videos with the right label."""
    frame_auc: Measure
    """Over the frames of its videos and of all normal videos."""
    frame_auc_within: Measure
    """Over the frames of its videos only: how well the anomaly is found within them."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All measures of one evaluation."""

    measures: dict[str, Measure]
    classes: tuple[ClassMeasures, ...]
    """One for each class of the model, in the model's order."""
    confusion: IntArray
    """(K, K) videos; rows are the truth."""
    frame_curve: Curve
    """Over the frames with known truth."""
    alarm_levels: FloatArray
    """(T,) the thresholds, other than the model's own, at which alarms are counted."""
    alarms: tuple[VideoAlarms, ...]
    """Of each video; empty if they are unknown."""

    @property
    def undefined(self) -> list[str]:
        """A sentence for each measure that has no value."""
        measures = self.measures.items()
        return [f"{name} is undefined: {one.undefined}" for name, one in measures if one.undefined]


def evaluate_videos(
    videos: Sequence[EvaluatedVideo],
    class_names: Sequence[str],
    threshold: float | FloatArray,
    num_resamples: int,
    seed: int,
) -> Evaluation:
    """Compute all measures of the videos; those of the whole set have bootstrap intervals.

    Args:
        videos: at least one.
        class_names: the model's classes, normal first.
        threshold: the model's own, or (N,) one for each video, which counts as detected if its peak
            is at or above it.
        num_resamples: number of bootstrap resamples of the videos; 0 gives no intervals.
        seed: seed of the resamples.
    """
    true_class = np.array([video.class_index for video in videos])
    is_anomalous = true_class > 0
    pieces = [video.pieces for video in videos]
    frames, thresholds = metrics.rank_frames(pieces), np.broadcast_to(threshold, len(videos))
    above = metrics.rank_frames(
        [replace(one, scores=one.scores - at) for one, at in zip(pieces, thresholds, strict=True)]
    )
    unknown = _unknown_frames(videos)
    levels, unknown_alarms = alarm_levels(videos), unknown or why_unknown(videos)
    alarms = () if unknown_alarms else count_alarms(videos, thresholds, levels)
    functions = {
        **_frame_measures(frames, above, is_anomalous, unknown),
        **_video_measures(videos, true_class, len(class_names), thresholds),
        **localisation_measures(videos, len(class_names), unknown),
        **_alarm_measures(alarms, unknown_alarms),
    }
    resamples = metrics.resample_videos(is_anomalous, num_resamples, seed)
    labels = np.array([video.label_index for video in videos])
    confusion = metrics.confusion_matrix(true_class, labels, len(class_names))
    return Evaluation(
        measures={
            name: metrics.with_interval(function, resamples, len(videos))
            for name, function in functions.items()
        },
        classes=_class_measures(videos, frames, confusion, class_names),
        confusion=confusion,
        frame_curve=metrics.found_at_thresholds(frames),
        alarm_levels=levels,
        alarms=alarms,
    )


def _alarm_measures(alarms: Sequence[VideoAlarms], unknown: str) -> dict[str, VideoMeasure]:
    if unknown:
        return dict.fromkeys(ALARM_MEASURES, lambda _: Measure(None, unknown))
    return alarm_measures(alarms)


def _unknown_frames(videos: Sequence[EvaluatedVideo]) -> str:
    """Why frames cannot be evaluated; empty if they can."""
    names = [video.video for video in videos if video.truth is None]
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"anomalous videos without annotated frames: {len(names)} ({some})" if names else ""


def _frame_measures(
    frames: Ranking, above: Ranking, is_anomalous: npt.NDArray[np.bool_], unknown: str
) -> dict[str, VideoMeasure]:
    """The measures of frames, ranked by score and by what it is above the video's threshold."""

    def known(measure: VideoMeasure) -> VideoMeasure:
        return (lambda _: Measure(None, unknown)) if unknown else measure

    def false_alarms(ranking: Ranking, at: float) -> VideoMeasure:
        return lambda weights: metrics.false_alarm_rate(ranking, at, weights * ~is_anomalous)

    return {
        **{
            name: known(partial(one.of_frames, frames))
            for name, one in MEASURES.items()
            if one.of_frames is not None
        },
        "frame_auc_anomalous_videos": known(
            lambda weights: metrics.roc_auc(frames, weights * is_anomalous)
        ),
        "false_alarm_rate": false_alarms(frames, FALSE_ALARM_THRESHOLD),
        "false_alarm_rate_at_threshold": false_alarms(above, 0.0),
    }


def _video_measures(
    videos: Sequence[EvaluatedVideo], true_class: IntArray, num_classes: int, thresholds: FloatArray
) -> dict[str, VideoMeasure]:
    is_anomalous = true_class > 0
    peaks = np.array([video.peak_score for video in videos])
    ranking = metrics.rank_videos(peaks, is_anomalous)
    label = np.array([video.label_index for video in videos])
    anomaly = np.array([video.anomaly_index for video in videos])
    labels = partial(metrics.confusion_matrix, true_class, label, num_classes)
    anomalies = partial(metrics.confusion_matrix, true_class, anomaly, num_classes)
    of_classes = [_rank_by_class(videos, index) for index in range(1, num_classes)]
    found = partial(metrics.confusion_matrix, is_anomalous * 1, (peaks >= thresholds) * 1, 2)
    return {
        "maa": lambda weights: metrics.mean_class_accuracy(labels(weights)),
        "video_accuracy": lambda weights: metrics.accuracy(labels(weights)),
        "video_auc": lambda weights: metrics.roc_auc(ranking, weights),
        "video_anomaly_accuracy": lambda weights: metrics.accuracy(found(weights)),
        "top1_anomalous": lambda weights: metrics.accuracy(labels(weights)[1:]),
        "top1_anomalous_without_normal": lambda weights: metrics.accuracy(anomalies(weights)[1:]),
        "video_map": lambda weights: metrics.mean_average_precision(of_classes, weights),
    }


def _rank_by_class(videos: Sequence[EvaluatedVideo], index: int) -> Ranking:
    """Rank the videos by the probability of a class; those that have the class are positive."""
    has_class = [index in (video.class_index, *video.other_class_indices) for video in videos]
    probabilities = [video.scores.class_probabilities[index] for video in videos]
    return metrics.rank_videos(np.array(probabilities), np.array(has_class))


def _class_measures(
    videos: Sequence[EvaluatedVideo],
    frames: Ranking,
    confusion: IntArray,
    class_names: Sequence[str],
) -> tuple[ClassMeasures, ...]:
    true_class = np.array([video.class_index for video in videos])
    recalls = metrics.class_recalls(confusion, class_names)
    classes = []
    for index, (name, recall) in enumerate(zip(class_names, recalls, strict=True)):
        members = true_class == index
        unknown = _unknown_frames([video for video in videos if video.class_index == index])
        auc, auc_within = (
            Measure(None, unknown) if unknown else metrics.roc_auc(frames, chosen * 1)
            for chosen in (members | (true_class == 0), members)
        )
        classes.append(ClassMeasures(name, int(members.sum()), recall, auc, auc_within))
    return tuple(classes)
