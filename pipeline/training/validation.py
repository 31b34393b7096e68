"""Evaluate a model on held-out videos, and choose the score threshold there.

Whole videos are evaluated, because training may know only their labels; the scores of a long one
are blended from those of its spans, as in scoring.
Legend: N videos, R bags, V views, S segments, D features of a segment, K classes (0 is normal).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vigil.data.bags import BagSet
from vigil.model.detector import Detector
from vigil.pipeline.recipe import Selection
from vigil.pipeline.scores.events import peak_score
from vigil.pipeline.scores.inference import score_videos
from vigil.pipeline.scores.metrics import (
    FloatArray,
    IntArray,
    confusion_matrix,
    found_at_thresholds,
    mean_class_accuracy,
    rank_videos,
    roc_auc,
)
from vigil.pipeline.scores.spans import blend_spans
from vigil.pipeline.training.learner import DivergedError
from vigil.pipeline.training.ranks import ALONE, Ranks

FALLBACK_THRESHOLD = 0.5
THRESHOLD_RULE = (
    "highest Youden index of the validation videos' highest segment scores, "
    "halfway to the next lower one"
)
FALLBACK_RULE = "fixed, since no threshold tells the validation videos apart"


@dataclass(frozen=True)
class Validation:
    """Measures on the held-out videos; the score of a video is its peak score."""

    auc: float
    """Area under the ROC curve, anomalous versus normal videos."""
    maa: float
    """Mean over the classes present of the share of their videos that are classified correctly."""
    separation: float
    """Mean score of the anomalous videos minus that of the normal ones, -1..1."""
    threshold: float
    threshold_rule: str

    @property
    def metrics(self) -> dict[str, float]:
        """The three measures by name."""
        return {"auc": self.auc, "maa": self.maa, "separation": self.separation}


def rank(metrics: Mapping[str, float], selection: Selection) -> tuple[float, float]:
    """The sort key of an epoch; separation breaks ties, which are frequent with few videos."""
    both = ("auc", "maa")
    value = sum(metrics[name] for name in both) / 2 if selection == "mean" else metrics[selection]
    return value, metrics["separation"]


def is_better(
    metrics: Mapping[str, float], best: Mapping[str, float], selection: Selection
) -> bool:
    """Whether an epoch replaces the best one so far."""
    return selection == "last" or rank(metrics, selection) > rank(best, selection)


class HeldOutAnswers(NamedTuple):
    """The predictions of a model for videos that it was not trained on."""

    peaks: FloatArray
    """(N,) the peak scores, 0..1."""
    named: IntArray | None
    """(N,) predicted classes; None for methods that only distinguish anomalous from normal."""


def validate(model: Detector, bags: BagSet, features: Tensor, ranks: Ranks = ALONE) -> Validation:
    """Evaluate a model on held-out bags, some anomalous and some normal.

    Args:
        model: of any method.
        bags: the held-out videos.
        features: their features (R, V, S, D), preferably on the model's device.
        ranks: those that share the videos.

    Raises:
        DivergedError: the model's scores are not finite.
    """
    answers = answer(model, bags, features, ranks)
    num_classes = model.shape.num_classes
    return ranks.of_first(lambda: validate_answers(answers, bags.class_indices, num_classes))


def answer(model: Detector, bags: BagSet, features: Tensor, ranks: Ranks = ALONE) -> HeldOutAnswers:
    """The predictions of a model for bags; the arguments are those of `validate`.

    Each rank predicts the videos that it has.

    Raises:
        DivergedError: the model's scores are not finite.
    """
    found: dict[int, tuple[float, int]] = {}
    for part in ranks.of_all(lambda: _own_answers(model, bags, features)):
        found |= part
    peaks, named = zip(*(found[video] for video in range(len(bags))), strict=True)
    return HeldOutAnswers(np.array(peaks), np.array(named) if model.classifies else None)


def _own_answers(model: Detector, bags: BagSet, features: Tensor) -> dict[int, tuple[float, int]]:
    """Number of each video whose features are here -> its peak score and class."""
    scored = score_videos(model, features)
    if not all(one.is_finite for one in scored):
        raise DivergedError("the scores of the held-out videos are not finite")
    answers = {}
    for video, (first, stop) in enumerate(pairwise(bags.bounds.tolist())):
        places = bags.places(np.arange(first, stop))
        if places[0] >= 0:  # all spans of a video are in one place
            own = scored[places[0] : places[-1] + 1]
            whole, frames = blend_spans(bags.segment_frames[first:stop], own)
            named = int(whole.class_probabilities.argmax())
            answers[video] = peak_score(whole.scores, frames), named
    return answers


def validate_answers(
    answers: HeldOutAnswers, class_indices: IntArray, num_classes: int
) -> Validation:
    """Evaluate predictions for videos with these classes (N,), some anomalous and some normal."""
    is_anomalous = class_indices > 0
    peaks = answers.peaks
    threshold, rule = choose_threshold(peaks, is_anomalous)
    labels = (peaks >= threshold).astype(np.int64) if answers.named is None else answers.named
    auc = roc_auc(rank_videos(peaks, is_anomalous)).value
    maa = mean_class_accuracy(confusion_matrix(class_indices, labels, num_classes)).value
    if auc is None or maa is None:
        raise ValueError("validation needs anomalous and normal videos")
    separation = float(peaks[is_anomalous].mean() - peaks[~is_anomalous].mean())
    return Validation(auc, maa, separation, threshold, rule)


def choose_threshold(
    peak_scores: FloatArray, is_anomalous: npt.NDArray[np.bool_]
) -> tuple[float, str]:
    """The threshold that best separates anomalous from normal videos, and the rule that chose it.

    The Youden index is the share of anomalous videos at or above a threshold minus that of normal
    ones. The highest threshold with the highest index is moved halfway to the next lower score,
    because new scores fall on both sides of those seen.

    Args:
        peak_scores: (N,) highest segment score of each video, 0..1.
        is_anomalous: (N,) with both kinds present.
    """
    curve = found_at_thresholds(rank_videos(peak_scores, is_anomalous))
    anomalous_share = curve.true_positives / curve.true_positives[-1]
    normal_share = curve.false_positives / curve.false_positives[-1]
    youden = anomalous_share - normal_share
    best = int(np.argmax(youden))
    if youden[best] <= 0:
        return FALLBACK_THRESHOLD, FALLBACK_RULE
    next_lower = np.append(curve.thresholds, 0.0)[best + 1]
    return float(curve.thresholds[best] + next_lower) / 2, THRESHOLD_RULE
