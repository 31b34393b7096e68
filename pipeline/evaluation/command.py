"""`vigil evaluate`: evaluate a checkpoint on annotated videos, in numbers and figures.

The ground truth is built here, from the annotation and the number of decoded frames, so that scores
and truth have the same length.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from vigil.data.annotations import Annotation, frame_truth, load_annotations, merge_anomalous
from vigil.data.classes import class_index
from vigil.data.matching import match_videos
from vigil.extract.errors import UserError, counted
from vigil.extract.locks import locked
from vigil.extract.networks.hardware import select_device
from vigil.extract.source import composed
from vigil.extract.store import VideoFeatures, list_features, open_features
from vigil.extract.versions import installed_versions
from vigil.extract.views import view_names
from vigil.pipeline.checkpoint import MAX_FACTOR, Checkpoint, CheckpointConfig, load_checkpoint
from vigil.pipeline.evaluation.calibrated import (
    calibration_json,
    calibration_problems,
    thresholds_in_words,
    unlike_calibrated,
)
from vigil.pipeline.evaluation.evaluation_files import (
    draw_evaluation,
    evaluation_json,
    measure_lines,
)
from vigil.pipeline.evaluation.records import record_use, write_scores
from vigil.pipeline.option_values import Span, read_span
from vigil.pipeline.options import EvaluateOptions
from vigil.pipeline.provenance import as_json, describe_checkpoint
from vigil.pipeline.run_folder import EVALUATION_FOLDER, METRICS_NAME, SPLITS_NAME
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.frame_warnings import MAX_FRAME_MISMATCH, frame_warnings
from vigil.pipeline.scores.measures import Evaluation, evaluate_videos
from vigil.pipeline.scores.metrics import Measure
from vigil.pipeline.scores.video_scoring import UNTRAINED_WARNING, score_video
from vigil.pipeline.text_files import read_json, write_json

logger = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "vigil-metrics", 1


class EvaluationError(UserError):
    """A name does not identify one evaluated video."""


@dataclass(frozen=True)
class EvaluatedRun:
    """The outcome of evaluating a run."""

    evaluation: Evaluation
    videos: tuple[EvaluatedVideo, ...]
    """With the truth and the scores of each."""
    class_names: tuple[str, ...]
    """In the order of their indices, normal first."""
    problems: tuple[str, ...]
    """Reasons to doubt the figures, a sentence each."""
    folder: Path
    """Where the files are."""

    @property
    def measures(self) -> dict[str, Measure]:
        """Name, as in docs/training.md, -> value and 95 % interval, fractions mostly."""
        return self.evaluation.measures


def run_evaluate(options: EvaluateOptions) -> int:
    """Score the annotated videos, write numbers and figures, and print ``name value`` lines.

    Returns:
        The exit code, 0.

    Raises:
        UserError: as in `evaluate_run`.
    """
    evaluated = evaluate_run(options)
    print("\n".join(measure_lines(evaluated.evaluation, evaluated.videos)))
    logger.info("metrics and figures are in %s", evaluated.folder)
    return 0


def evaluate_run(options: EvaluateOptions) -> EvaluatedRun:
    """Score the annotated videos, and write numbers and figures.

    Raises:
        UserError: checkpoint, features or annotations are missing, damaged or do not match.
    """
    checkpoint = load_checkpoint(options.run, options.which)
    checkpoint.model.to(select_device(options.device))
    views = None if options.views is None else view_names(options.views, unnamed=True)
    span = read_span(options.span)
    files = list_features(options.features)
    matching = match_videos(load_annotations(options.annotations), files)
    problems = matching.problems
    if not checkpoint.config.recipe.classifies:
        problems.append(
            f"{checkpoint.config.recipe.method} only distinguishes anomalous from normal: maa, "
            "video_accuracy and the confusion matrix use these two classes"
        )
    if not checkpoint.config.weights_trained:
        problems.append(UNTRAINED_WARNING)
    problems += known_videos(checkpoint, matching.annotations)
    config = checkpoint.config
    videos: list[EvaluatedVideo] = []
    lengths: list[int] = []
    unlike: set[str] = set()
    for video, annotation in matching.annotations.items():
        with open_features(files[video]) as features:
            videos.append(evaluate_video(checkpoint, annotation, features, views, span))
            problems += frame_problems(annotation, features)
            lengths.append(features.num_frames_seen)
            unlike |= unlike_calibrated(config, features, views, span)
    problems += length_problems(config, np.array(lengths), span)
    problems += calibration_problems(config, matching.annotations, unlike)
    chosen = choose_figures(videos, options.figures)
    names = config.class_names
    thresholds = np.array([config.threshold_of(video)[0] for video in matching.annotations])
    folder = options.out or checkpoint.folder.absolute().parent / EVALUATION_FOLDER
    with locked(folder):
        evaluation = evaluate_videos(videos, names, thresholds, options.bootstrap, options.seed)
        problems += evaluation.undefined
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **evaluation_json(evaluation, videos, names),
            **calibration_json(config, matching.annotations),
            "problems": problems,
            "without_features": list(matching.missing),
            "without_annotation": list(matching.extra),
            "settings": as_json(options),
            "checkpoint": describe_checkpoint(checkpoint),
            "versions": installed_versions(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(folder / METRICS_NAME, content)
        write_scores(folder, videos, names, evaluation.alarms)
        record_use(checkpoint, options.features, len(videos))
        draw_evaluation(folder, evaluation, names, chosen)
    for problem in problems:
        logger.warning("%s", problem)
    if config.calibration is not None:
        logger.info("%s", thresholds_in_words(config.calibration, matching.annotations))
    return EvaluatedRun(evaluation, tuple(videos), names, tuple(problems), folder)


def used_in_training(checkpoint: Checkpoint, videos: Iterable[str]) -> set[str]:
    """Those of the videos that the run trained on or validated with; empty if that is not known."""
    try:
        splits = read_json(checkpoint.folder.absolute().parent / SPLITS_NAME)
        return {*splits["train"], *splits["validation"]}.intersection(videos)
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def known_videos(checkpoint: Checkpoint, videos: Iterable[str]) -> list[str]:
    """A warning if the training used these videos, including to choose epoch and threshold."""
    known = used_in_training(checkpoint, videos)
    if not known:
        return []
    return [
        f"found {counted(len(known), 'test video')} named like a training video, such as "
        f"{min(known)}: if they are the same videos, these figures are optimistic"
    ]


def length_problems(
    config: CheckpointConfig, num_frames: npt.NDArray[np.int64], span: Span
) -> list[str]:
    """A warning if test videos (N,) are much longer or shorter than the training videos."""
    known = config.training_lengths
    if known is None or span != "whole" or not (is_unlike := known.unlike(num_frames)).any():
        return []
    unlike = num_frames[is_unlike]
    return [
        f"{counted(len(unlike), 'video')} of {len(num_frames)} ({unlike.min()} to {unlike.max()} "
        f"frames) differ in length by more than a factor of {MAX_FACTOR} from the training videos "
        f"({known.shortest} to {known.longest} frames): their segments are unlike those of the "
        "training; compare with --span auto"
    ]


def evaluate_video(
    checkpoint: Checkpoint,
    annotation: Annotation,
    features: VideoFeatures,
    views: Sequence[str] | None,
    span: Span = "whole",
) -> EvaluatedVideo:
    """The scores of one video's segments, with its ground truth.

    Raises:
        UnknownClassError: the model does not know the video's class.
        ScoringError: the features are not of the kind that the model was trained on.
        FeatureFileError: a view is not stored, or its values are not finite.
    """
    if not checkpoint.config.recipe.classifies:
        annotation = merge_anomalous(annotation)
    unknown = annotation.is_anomalous and annotation.intervals is None
    video, class_names = annotation.video, checkpoint.config.class_names
    threshold, _ = checkpoint.config.threshold_of(video)
    timeline = score_video(checkpoint, video, features, views, threshold, span)
    return EvaluatedVideo(
        video=video,
        class_index=class_index(class_names, annotation.class_name, video),
        truth=None if unknown else frame_truth(annotation, features.num_frames_decoded),
        num_frames=features.num_frames_decoded,
        segment_frames=timeline.frames,
        scores=timeline.scores,
        segment_seconds=timeline.seconds,
        named=timeline.named if checkpoint.config.recipe.classifies else None,
        other_class_indices=tuple(
            class_index(class_names, name, video) for name in annotation.other_classes
        ),
    )


def frame_problems(annotation: Annotation, features: VideoFeatures) -> list[str]:
    """One warning for each doubt about the frames of a video."""
    problems = [f"{annotation.video}: {warning}" for warning in frame_warnings(features)]
    decoded, needed = features.num_frames_decoded, annotation.num_frames_needed
    if needed > decoded + MAX_FRAME_MISMATCH:
        problems.append(
            f"{annotation.video}: annotated up to frame {needed}, but only {decoded} frames "
            "could be decoded: the rest is not evaluated"
        )
    annotated = annotation.num_frames
    if annotated is not None and abs(annotated - decoded) > MAX_FRAME_MISMATCH:
        problems.append(
            f"{annotation.video}: annotated as a video of {annotated} frames, but {decoded} could "
            "be decoded: truth and scores may be misaligned in time"
        )
    return problems


def choose_figures(videos: Sequence[EvaluatedVideo], names: Sequence[str]) -> list[EvaluatedVideo]:
    """The videos to plot: those named by path or base name, or else the first of each class.

    Raises:
        EvaluationError: a name matches no video, or several.
    """
    if not names:
        return list({video.class_index: video for video in reversed(videos)}.values())
    return [_find_video(videos, name) for name in names]


def _find_video(videos: Sequence[EvaluatedVideo], name: str) -> EvaluatedVideo:
    found = []
    for video in videos:
        path = PurePosixPath(composed(video.video))
        if composed(name) in (str(path), path.name, path.stem):
            found.append(video)
    if len(found) != 1:
        raise EvaluationError(
            f"{name!r} matches {len(found)} of the {len(videos)} evaluated videos: "
            f"give a path such as {videos[0].video}"
        )
    return found[0]
