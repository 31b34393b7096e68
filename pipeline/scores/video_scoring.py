"""Score a feature file with a checkpoint.

Legend: V views, S segments, K classes (normal has index 0).
"""

from collections.abc import Sequence
from dataclasses import replace

from vigil.data.pooling import segment_features
from vigil.data.spans import WHOLE_SPANS, span_length
from vigil.extract.errors import UserError
from vigil.extract.spec import difference
from vigil.extract.store import VideoFeatures
from vigil.pipeline.checkpoint import MAX_FACTOR, Checkpoint, CheckpointConfig
from vigil.pipeline.option_values import Span
from vigil.pipeline.scores.events import peak_score
from vigil.pipeline.scores.frame_warnings import frame_warnings
from vigil.pipeline.scores.inference import score_views, two_class_probabilities
from vigil.pipeline.scores.spans import Timeline, score_spans, whole_timeline

UNKNOWN_LENGTH_SECONDS = 60.0
"""A longer video may be too long for a checkpoint that does not record its training videos."""
UNTRAINED_WARNING = (
    "The features were computed with untrained (random) weights: "
    "these scores say nothing about the videos."
)


class ScoringError(UserError):
    """A video cannot be scored with this checkpoint."""


def score_video(
    checkpoint: Checkpoint,
    video: str,
    features: VideoFeatures,
    views: Sequence[str] | None = None,
    threshold: float | None = None,
    span: Span = "whole",
) -> Timeline:
    """Score one video, averaging over the views; None stands for all stored views.

    If the method has no classes, the threshold (by default the checkpoint's own) decides the label.

    Raises:
        ScoringError: the features are of another kind than those the checkpoint was trained on, the
            number of frames is unknown, or the model's output is not finite.
        FeatureFileError: a view is not stored, or its values are not finite.
    """
    _check_kind(checkpoint.config, video, features)
    names = features.views if views is None else views
    config, model = checkpoint.config, checkpoint.model
    pooling = config.recipe.features
    span_frames = cut_length(config, features, span)
    if span_frames is not None:
        timeline = score_spans(model, features, names, pooling, span_frames)
    else:
        scores = score_views(model, segment_features(features, names, pooling).values)
        timeline = whole_timeline(features, scores)
    if not timeline.scores.is_finite:
        raise ScoringError(
            f"{video}: the model's scores are not finite: its weights are damaged, train again"
        )
    if not config.recipe.classifies:
        peak = peak_score(timeline.scores.scores, timeline.frames)
        at = config.threshold if threshold is None else threshold
        by_peak = two_class_probabilities(peak, at)
        timeline = replace(timeline, scores=replace(timeline.scores, class_probabilities=by_peak))
    return timeline


def _check_kind(config: CheckpointConfig, video: str, features: VideoFeatures) -> None:
    """Refuse features that a checkpoint cannot score.

    Raises:
        ScoringError: names the difference and the remedy.
    """
    differences = difference(features.spec, config.spec)
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


def cut_length(config: CheckpointConfig, features: VideoFeatures, span: Span) -> int | None:
    """The length of the spans that a video is cut into, in its own frames; None: it stays whole."""
    length = frames_of_span(config, features, span)
    if length is None or features.clip_features is None:
        return None
    return length if features.num_frames_decoded > WHOLE_SPANS * length else None


def frames_of_span(config: CheckpointConfig, features: VideoFeatures, span: Span) -> int | None:
    """The length of spans in a video's own frames; None: every video is scored as a whole."""
    if span == "whole" or (span == "auto" and config.training_lengths is None):
        return None
    lengths = config.training_lengths
    if span == "auto" and lengths is not None:
        per_frame = features.num_frames_decoded / features.num_frames_seen
        usual = config.recipe.features.span_frames or lengths.median
        return span_length(features, min(usual, lengths.longest) * per_frame)
    return span_length(features, float(span) * features.fps)


def rate_warnings(config: CheckpointConfig, features: VideoFeatures) -> list[str]:
    """A warning if a video's frame rate is unlike that of the training videos."""
    lengths, own = config.training_lengths, features.spec.frame_rate or features.fps
    if lengths is None or lengths.fps / MAX_FACTOR <= own <= lengths.fps * MAX_FACTOR:
        return []
    seconds = features.spec.clip_frames / own
    return [
        f"It has {own:g} frames a second, the training videos had {lengths.fps:g}: a clip of the "
        f"network lasts {seconds:.1f} seconds here. Scores and classes are less reliable; a model "
        "trained on features with --frame-rate 25 would see the same time."
    ]


def length_warnings(
    config: CheckpointConfig, features: VideoFeatures, timeline: Timeline
) -> list[str]:
    """Warnings about segments longer than those a model was trained on, a sentence each."""
    lengths = config.training_lengths
    seconds = float(timeline.seconds[-1, 1])
    if lengths is None:
        if timeline.span_frames is not None or seconds <= UNKNOWN_LENGTH_SECONDS:
            return []
        return [
            "The checkpoint does not record how long its training videos were, so this video was "
            "scored as a whole and events may be lost in it: train again, or use --span SECONDS."
        ]
    num_frames = timeline.span_frames or features.num_frames_decoded
    scored = num_frames * features.num_frames_seen / features.num_frames_decoded
    if scored <= max(lengths.longest, WHOLE_SPANS * lengths.median):
        return []
    num_segments = features.spec.num_segments
    rate = num_segments * (features.spec.frame_rate or features.fps)
    own, known = scored / rate, lengths.longest / rate
    needs_clips = features.clip_features is None
    remedy = "extract with --keep-clips and use" if needs_clips else "use"
    return [
        f"A segment lasts {own:.1f} seconds here, at most {known:.1f} in training: events may be "
        f"lost, and scores mean little; {remedy} --span auto."
    ]


def feature_warnings(features: VideoFeatures) -> list[str]:
    """Warnings to read before trusting the scores of a video, a sentence each."""
    untrained = [] if features.weights_trained else [UNTRAINED_WARNING]
    return untrained + frame_warnings(features)
