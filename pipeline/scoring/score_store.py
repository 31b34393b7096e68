"""Score the videos of feature files with a checkpoint.

Legend: V views, S segments, K classes (normal has index 0).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vigil.data.pooling import segment_features
from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.files import make_folder, sync
from vigil.extract.spec import difference
from vigil.extract.store import VideoFeatures, read_features
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.scores.events import find_events, peak_score
from vigil.pipeline.scores.frame_warnings import damaged_frames, frame_warnings
from vigil.pipeline.scores.inference import VideoScores, score_views, two_class_probabilities
from vigil.pipeline.scoring.report import REPORT_NAME
from vigil.pipeline.scoring.results import (
    EVENTS_NAME,
    FAILURES_NAME,
    MANIFEST_NAME,
    SUMMARY_NAME,
    SegmentScore,
    VideoResult,
    write_result,
)

# Files about all videos. The manifest is removed first: without it a folder counts as unfinished.
OVERVIEW_NAMES = (MANIFEST_NAME, REPORT_NAME, SUMMARY_NAME, EVENTS_NAME, FAILURES_NAME)

logger = logging.getLogger(__name__)

UNTRAINED_WARNING = (
    "The features were computed with untrained (random) weights: "
    "these scores say nothing about the videos."
)


class ScoringError(UserError):
    """A video cannot be scored with this checkpoint."""


@dataclass(frozen=True)
class ScoredStore:
    """The results of scoring a set of feature files."""

    results: tuple[VideoResult, ...]
    failures: tuple[FailedVideo, ...]


def score_store(
    checkpoint: Checkpoint,
    files: Mapping[str, Path],
    folder: Path,
    threshold: float,
    views: Sequence[str] | None = None,
    sources: Mapping[str, Path] | None = None,
) -> ScoredStore:
    """Score each feature file and write its result; a failure does not stop the others.

    Overview files of an earlier run are removed first, since they are no longer valid.

    Args:
        checkpoint: its model runs on the device of its weights.
        files: video (path relative to the folder of videos) -> feature file.
        folder: RESULTS; a JSON file per video is written there.
        threshold: score from which a segment belongs to an event.
        views: views to average over; None for all views of a file.
        sources: video -> video file, if known, for the links of the report.
    """
    make_folder(folder)
    for name in OVERVIEW_NAMES:
        (folder / name).unlink(missing_ok=True)
    sync(folder)
    results, failures = [], []
    for video, path in files.items():
        try:
            features = read_features(path)
            scores = score_features(checkpoint, video, features, views, threshold)
            source = (sources or {}).get(video)
            result = video_result(checkpoint, video, features, scores, threshold, views, source)
            write_result(folder, result)
        except UserError as error:
            logger.error("%s", error)
            failures.append(FailedVideo(video, str(error)))
            continue
        results.append(result)
    return ScoredStore(tuple(results), tuple(failures))


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


def video_result(
    checkpoint: Checkpoint,
    video: str,
    features: VideoFeatures,
    scores: VideoScores,
    threshold: float,
    views: Sequence[str] | None = None,
    source: Path | None = None,
) -> VideoResult:
    """The result of one video: label, events, and the score and time range of each segment."""
    names = checkpoint.config.class_names
    of_segments = scores.segment_class_probabilities
    probabilities = dict(zip(names, scores.class_probabilities.tolist(), strict=True))
    frames, seconds = features.segment_frames, features.segment_seconds
    return VideoResult(
        video=video,
        source=None if source is None else str(source.absolute()),
        label=max(probabilities, key=probabilities.__getitem__),
        class_probabilities=probabilities,
        peak_score=peak_score(scores.scores, frames),
        threshold=threshold,
        events=find_events(
            scores.scores, frames, seconds, threshold, probabilities, names[0], of_segments
        ),
        segments=tuple(
            SegmentScore(int(start), int(stop), float(start_seconds), float(stop_seconds), score)
            for (start, stop), (start_seconds, stop_seconds), score in zip(
                frames, seconds, scores.scores.tolist(), strict=True
            )
        ),
        views=features.views if views is None else tuple(views),
        fps=features.fps,
        num_frames_container=features.num_frames_container,
        num_frames_decoded=features.num_frames_decoded,
        num_frames_damaged=features.num_frames_damaged,
        num_frames_lost=features.num_frames_lost,
        damage=damaged_frames(features),
        segment_class_probabilities=(
            None
            if of_segments is None
            else dict(zip(names, map(tuple, of_segments.T.tolist()), strict=True))
        ),
        spec_digest=features.spec.digest,
        warnings=tuple(feature_warnings(features)),
    )


def feature_warnings(features: VideoFeatures) -> list[str]:
    """Warnings to read before trusting the scores of a video, a sentence each."""
    untrained = [] if features.weights_trained else [UNTRAINED_WARNING]
    return untrained + frame_warnings(features)
