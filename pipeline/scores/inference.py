"""A model's scores of videos, averaged over views.

Legend: N videos, V views, S segments, D features of a segment, K classes (normal has index 0).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vigil.extract.errors import UserError
from vigil.model.detector import Detector
from vigil.pipeline.scores.metrics import FloatArray

# Bags in one forward pass; limits memory and does not change the result.
MAX_BAGS = 64
EPSILON = 1e-7
"""Scores are clipped to this distance from 0 and 1 before their log-odds are computed."""


@dataclass(frozen=True, eq=False)
class VideoScores:
    """The output of a model for one video."""

    scores: FloatArray
    """(S,), 0..1, 1 = anomalous."""
    class_probabilities: FloatArray
    """(K,), sums to 1. For a method without classes: (1 - peak, peak), until
    `two_class_probabilities` replaces them."""
    alpha: FloatArray | None = None
    """(S,), first attention, sums to 1; None if the model lacks that stage."""
    beta: FloatArray | None = None
    """(S,), second attention, each 0..1; None if the model lacks that stage."""
    segment_class_probabilities: FloatArray | None = None
    """(S, K), each row sums to 1; None if the model classifies whole videos only."""

    @property
    def is_finite(self) -> bool:
        """Whether every score and probability is finite."""
        arrays = (self.scores, self.class_probabilities, self.segment_class_probabilities)
        return all(bool(np.isfinite(values).all()) for values in arrays if values is not None)

    @property
    def segment_class_scores(self) -> FloatArray:
        """(S, K - 1), 0..1, the class scores of each segment, which sum to its score.

        A segment's score is distributed over the anomalous classes in proportion to its class
        probabilities, or to the video's if segments have none. Normal is left out.
        """
        probabilities = self.segment_class_probabilities
        if probabilities is None:
            probabilities = self.class_probabilities[np.newaxis]
        anomalous = probabilities[:, 1:]
        total = np.maximum(anomalous.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return np.asarray(self.scores[:, np.newaxis] * (anomalous / total))


def score_views(model: Detector, features: npt.NDArray[np.floating]) -> VideoScores:
    """Score one video from its views (V, S, D), in float32 on the model's device.

    Raises:
        UserError: the features are not finite, or their shape does not fit the model.
    """
    if not np.isfinite(features).all():
        raise UserError("the features hold values that are not finite: extract the video again")
    return score_videos(model, torch.from_numpy(features[np.newaxis]))[0]


def score_videos(model: Detector, features: Tensor) -> list[VideoScores]:
    """Score several videos from their views (N, V, S, D), as `score_views` does for one.

    Raises:
        UserError: the shape of the features does not fit the model.
    """
    expected = (model.shape.num_segments, model.shape.feature_size)
    if features.shape[2:] != expected or features.shape[1] == 0:
        raise UserError(
            f"features of shape {tuple(features.shape[1:])} do not fit a model for (views, "
            f"{expected[0]}, {expected[1]}): extract them with the model's own settings"
        )
    model.eval()
    step = max(1, MAX_BAGS // features.shape[1])
    with torch.inference_mode():
        batches = [_score_batch(model, batch) for batch in torch.split(features, step)]
    columns = {
        name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in batches[0]
    }
    return [
        VideoScores(**{name: values[video] for name, values in columns.items()})
        for video in range(len(features))
    ]


def _score_batch(model: Detector, features: Tensor) -> dict[str, Tensor]:
    """The fields of `VideoScores` for a batch of videos, in float64 on the model's device."""
    num_videos, num_views = features.shape[:2]
    output = model(features.to(model.device).flatten(0, 1))

    def mean_over_views(values: Tensor) -> Tensor:
        shape = (num_videos, num_views, *values.shape[1:])
        return values.double().reshape(shape).mean(dim=1)

    means = {"scores": mean_over_views(output.scores)}
    if output.class_logits is None:
        peaks = means["scores"].amax(dim=1)
        means["class_probabilities"] = torch.stack([1 - peaks, peaks], dim=1)
    else:
        means["class_probabilities"] = mean_over_views(output.class_logits.softmax(dim=-1))
    if output.segment_class_logits is not None:
        probabilities = output.segment_class_logits.softmax(dim=-1)
        means["segment_class_probabilities"] = mean_over_views(probabilities)
    for name, attention in (("alpha", output.alpha), ("beta", output.beta)):
        if attention is not None:
            means[name] = mean_over_views(attention)
    return means


def two_class_probabilities(peak: float, threshold: float) -> FloatArray:
    """(2,), the probabilities of normal and anomalous for a video with this peak score.

    The odds are those of the peak divided by those of the threshold, so anomalous is the more
    probable class from the threshold on.
    """
    logits = [np.log(p) - np.log1p(-p) for p in np.clip([peak, threshold], EPSILON, 1 - EPSILON)]
    gap = logits[0] - logits[1]
    gap = max(gap, EPSILON) if peak >= threshold else min(gap, -EPSILON)
    anomalous = 1 / (1 + np.exp(-gap))
    return np.array([1 - anomalous, anomalous])
