"""Score a feature file with a checkpoint.

Legend: V views, S segments, K classes (normal has index 0).
"""

from collections.abc import Sequence
from dataclasses import replace

from vigil.data.pooling import segment_features
from vigil.extract.errors import UserError
from vigil.extract.spec import difference
from vigil.extract.store import VideoFeatures
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.scores.events import peak_score
from vigil.pipeline.scores.frame_warnings import frame_warnings
from vigil.pipeline.scores.inference import VideoScores, score_views, two_class_probabilities

UNTRAINED_WARNING = (
    "The features were computed with untrained (random) weights: "
    "these scores say nothing about the videos."
)


class ScoringError(UserError):
    """A video cannot be scored with this checkpoint."""


def score_features(
    checkpoint: Checkpoint,
    video: str,
    features: VideoFeatures,
    views: Sequence[str] | None = None,
    threshold: float | None = None,
) -> VideoScores:
    """Score one video, averaging over the views; None stands for all stored views.

    If the method has no classes, the threshold (by default the checkpoint's own) decides the label.

    Raises:
        ScoringError: the features are of another kind than those the checkpoint was trained on, the
            number of frames is unknown, or the model's output is not finite.
        FeatureFileError: a view is not stored, or its values are not finite.
    """
    differences = difference(features.spec, checkpoint.config.spec)
    if differences:
        raise ScoringError(
            f"{video}: its features differ from those that the checkpoint was trained on "
            f"({'; '.join(differences)}): extract it with the checkpoint's settings, "
            "or use a checkpoint trained on such features"
        )
    if not features.num_frames_decoded:
        raise ScoringError(
            f"{video}: its number of frames is unknown, so segments have no frame ranges: import "
            "its features again with --num-frames"
        )
    names = features.views if views is None else views
    config = checkpoint.config
    values = segment_features(features, names, config.recipe.features).values
    scores = score_views(checkpoint.model, values)
    if not scores.is_finite:
        raise ScoringError(
            f"{video}: the model's scores are not finite: its weights are damaged, train again"
        )
    if not config.recipe.classifies:
        peak = peak_score(scores.scores, features.segment_frames)
        at = config.threshold if threshold is None else threshold
        scores = replace(scores, class_probabilities=two_class_probabilities(peak, at))
    return scores


def feature_warnings(features: VideoFeatures) -> list[str]:
    """Warnings to read before trusting the scores of a video, a sentence each."""
    untrained = [] if features.weights_trained else [UNTRAINED_WARNING]
    return untrained + frame_warnings(features)
