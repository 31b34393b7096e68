"""Score the videos of feature files with a checkpoint.

Legend: V views, S segments, K classes (normal has index 0).
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.store import VideoFeatures, read_features
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.scores.events import find_events, peak_score
from vigil.pipeline.scores.frame_warnings import damaged_frames
from vigil.pipeline.scores.inference import VideoScores
from vigil.pipeline.scores.video_scoring import feature_warnings, score_features
from vigil.pipeline.scoring.recorder_names import RecordingTime
from vigil.pipeline.scoring.recording_times import with_times_of_day
from vigil.pipeline.scoring.results import SegmentScore, VideoResult, write_result
from vigil.pipeline.scoring.writers import remove_overview

logger = logging.getLogger(__name__)


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
    times: Mapping[str, RecordingTime] | None = None,
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
        times: video -> when its recording starts, if known.
    """
    remove_overview(folder)
    results, failures = [], []
    for video, path in files.items():
        try:
            features = read_features(path)
            scores = score_features(checkpoint, video, features, views, threshold)
            source = (sources or {}).get(video)
            result = video_result(checkpoint, video, features, scores, threshold, views, source)
            known_until = features.first_jump_seconds if features.num_clock_jumps else math.inf
            result = with_times_of_day(result, (times or {}).get(video), known_until)
            write_result(folder, result)
        except UserError as error:
            logger.error("%s", error)
            failures.append(FailedVideo(video, str(error)))
            continue
        results.append(result)
    return ScoredStore(tuple(results), tuple(failures))


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
