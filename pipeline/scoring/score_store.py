"""Score the videos of feature files with a checkpoint.

Legend: V views, S segments, K classes (normal has index 0).
"""

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vigil.extract.errors import FailedVideo, UserError, counted
from vigil.extract.sealed import UnreadableFileError
from vigil.extract.store import VideoFeatures, open_features
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.option_values import Span
from vigil.pipeline.recorder_names import RecordingTime
from vigil.pipeline.result_formats import DEFAULT_FORMATS
from vigil.pipeline.scores.events import (
    Event,
    EventRule,
    find_events,
    label_of,
    peak_score,
)
from vigil.pipeline.scores.frame_warnings import damaged_frames
from vigil.pipeline.scores.spans import Timeline
from vigil.pipeline.scores.video_scoring import (
    feature_warnings,
    length_warnings,
    rate_warnings,
    score_video,
)
from vigil.pipeline.scoring.event_actions import with_actions
from vigil.pipeline.scoring.recording_times import with_times_of_day
from vigil.pipeline.scoring.results import SegmentScore, VideoResult
from vigil.pipeline.scoring.thresholds import GIVEN_RULE, threshold_for
from vigil.pipeline.scoring.writers import write_video

logger = logging.getLogger(__name__)


@dataclass
class Scorer:
    """Scores feature files one by one, and writes the result of each into a folder."""

    checkpoint: Checkpoint
    """Its model runs on the device of its weights."""
    folder: Path
    """RESULTS."""
    threshold: float | None = None
    """Score that opens an event; None for the checkpoint's, which may depend on the camera."""
    views: Sequence[str] | None = None
    """Views to average over; None for all views of a file."""
    sources: Mapping[str, Path | str] = field(default_factory=dict)
    """Video -> video file or address, if known, for the links of the report."""
    times: Mapping[str, RecordingTime] = field(default_factory=dict)
    """Video -> when its recording starts, if known."""
    span: Span = "auto"
    """How long videos are cut."""
    rule: EventRule = field(default_factory=EventRule)
    """What counts as an event, but for the threshold."""
    formats: Collection[str] = DEFAULT_FORMATS
    """In which results are written."""
    threshold_rule: str = GIVEN_RULE
    """Where the threshold comes from, in words, unless that is the checkpoint."""
    results: list[VideoResult] = field(default_factory=list)
    """Of the videos scored so far."""
    failures: list[FailedVideo] = field(default_factory=list)
    seconds: float = 0.0
    """Spent on scoring."""

    @property
    def num_done(self) -> int:
        """Number of videos scored, or tried."""
        return len(self.results) + len(self.failures)

    def score(self, video: str, path: Path) -> None:
        """Score a video (path relative to the folder of videos) and write its result.

        A failure is logged and kept, so that it does not stop the others.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        begun = time.monotonic()
        try:
            result = self._result(video, path)
            write_video(self.folder, result, self.formats)
            self.results.append(result)
        except UserError as error:
            logger.error("%s", error)
            may_pass = isinstance(error, UnreadableFileError)
            self.failures.append(FailedVideo(video, str(error), may_pass=may_pass))
        self.seconds += time.monotonic() - begun

    def _result(self, video: str, path: Path) -> VideoResult:
        threshold, why = threshold_for(
            self.checkpoint.config, video, self.threshold, self.threshold_rule
        )
        rule = replace(self.rule, threshold=threshold)
        with open_features(path) as features:
            timeline = score_video(
                self.checkpoint, video, features, self.views, threshold, self.span
            )
            source = self.sources.get(video)
            result = video_result(
                self.checkpoint, video, features, timeline, rule, self.views, source
            )
            result = replace(with_actions(result, features), threshold_rule=why)
        known_until = features.first_jump_seconds if features.num_clock_jumps else math.inf
        return with_times_of_day(result, self.times.get(video), known_until)


def video_result(
    checkpoint: Checkpoint,
    video: str,
    features: VideoFeatures,
    timeline: Timeline,
    rule: EventRule,
    views: Sequence[str] | None = None,
    source: Path | str | None = None,
) -> VideoResult:
    """The result of one video: label, events, and the score and time range of each segment."""
    names, scores = checkpoint.config.class_names, timeline.scores
    of_segments = scores.segment_class_probabilities
    probabilities = dict(zip(names, scores.class_probabilities.tolist(), strict=True))
    frames, seconds = timeline.frames, timeline.seconds
    candidates, events = events_of(checkpoint, timeline, rule)
    if timeline.span_frames is not None and not events:
        probabilities = dict(zip(names, timeline.named.mean(axis=0).tolist(), strict=True))
    warnings = (
        *feature_warnings(features),
        *rate_warnings(checkpoint.config, features),
        *length_warnings(checkpoint.config, features, timeline),
        *disagreements(candidates, events, probabilities, names[0]),
    )
    return VideoResult(
        video=video,
        source=str(source.absolute()) if isinstance(source, Path) else source,
        label=label_of(events, names[0]),
        class_probabilities=probabilities,
        peak_score=peak_score(scores.scores, frames),
        threshold=rule.threshold,
        rule=rule,
        left_out=tuple(event for event in candidates if event not in events),
        span_frames=timeline.span_frames,
        events=events,
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
        static_share=features.static_share,
        warnings=warnings,
    )


def events_of(
    checkpoint: Checkpoint, timeline: Timeline, rule: EventRule
) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """Candidates for events, and those of them that the classifier does not take for normal."""
    names, scores = checkpoint.config.class_names, timeline.scores
    probabilities = dict(zip(names, scores.class_probabilities.tolist(), strict=True))
    of_segments = scores.segment_class_probabilities
    ranges = timeline.frames, timeline.seconds
    scored = scores.scores, *ranges, rule, probabilities, names[0], of_segments
    candidates = find_events(*scored)
    if not checkpoint.config.recipe.classifies:
        return candidates, candidates
    return candidates, find_events(*scored, timeline.named)


def disagreements(
    candidates: Sequence[Event],
    events: Sequence[Event],
    class_probabilities: Mapping[str, float],
    normal_class: str,
) -> list[str]:
    """Warnings where scores and classes of a video contradict each other, a sentence each."""
    warnings = []
    if left_out := [event for event in candidates if event not in events]:
        highest = max(event.peak_score for event in left_out)
        warnings.append(
            f"{counted(len(left_out), 'place')} with a score of up to {highest:.3f} left out, "
            f"because the video around looks {normal_class} to the classifier: see the report."
        )
    named = max(class_probabilities, key=class_probabilities.__getitem__)
    if not events and named != normal_class:
        warnings.append(
            f"It looks like {named} ({class_probabilities[named]:.0%}) to the classifier, but no "
            "part of it reaches the threshold."
        )
    return warnings
