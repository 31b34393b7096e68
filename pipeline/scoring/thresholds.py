"""Which threshold a video gets, and whether the footage still fits the calibration behind it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vigil.extract.source import natural_order
from vigil.extract.store import VideoFeatures
from vigil.pipeline.calibration import DAY_SECONDS, Calibration, camera_of, rate_in_words
from vigil.pipeline.checkpoint import Checkpoint, CheckpointConfig
from vigil.pipeline.option_values import Span
from vigil.pipeline.scores.alarm_rate import (
    Recording,
    block_maxima,
    find_drift,
)
from vigil.pipeline.scores.events import held_segments
from vigil.pipeline.scores.metrics import FloatArray
from vigil.pipeline.scores.video_scoring import score_video
from vigil.pipeline.scoring.results import VideoResult

GIVEN_RULE = "given on the command line"
DRIFT_P_VALUE = 1e-3
"""A camera whose scores are less probable than that under its calibration carries a warning."""


def threshold_for(
    config: CheckpointConfig, video: str, given: float | None = None, rule: str = GIVEN_RULE
) -> tuple[float, str]:
    """The threshold for a video, and where it comes from, in words: ``rule`` for a given one.

    It is the given one; else the calibrated one of the video's camera, or of all cameras if that
    camera has none; else the checkpoint's.
    """
    if given is not None:
        return given, rule
    return config.threshold_of(video)


def describe_thresholds(
    config: CheckpointConfig, videos: Iterable[str], given: float | None
) -> dict[str, Any]:
    """What the manifest of results records about the thresholds of their videos.

    Returns:
        ``threshold`` and ``threshold_rule``; with a calibration these are those of all cameras
        together, and ``thresholds`` has that of each video's camera.
    """
    calibration = config.calibration
    if given is not None or calibration is None:
        threshold, rule = threshold_for(config, "", given)
        return {"threshold": threshold, "threshold_rule": rule}
    return {
        "threshold": calibration.overall.threshold,
        "threshold_rule": f"calibrated by camera for {rate_in_words(calibration.alarms_per_day)}",
        "thresholds": calibration.thresholds_of(videos),
    }


def ordinary_scores(
    checkpoint: Checkpoint,
    video: str,
    features: VideoFeatures,
    views: Sequence[str] | None,
    span: Span,
) -> Recording:
    """The scores of a video and their times, as scoring with these views and spans computes them.

    Raises:
        UserError: the video cannot be scored with this checkpoint.
    """
    timeline = score_video(checkpoint, video, features, views, span=span)
    held = held_segments(timeline.frames)
    return Recording(timeline.scores.scores[held], timeline.seconds[held])


def camera_maxima(
    recordings: Mapping[str, Recording], camera: str, block_seconds: float
) -> dict[str, tuple[FloatArray, float]]:
    """Camera -> what `block_maxima` returns for its recordings, in the order of their names.

    Args:
        recordings: video -> its scores.
        camera: the rule for cameras.
        block_seconds: length of a block.
    """
    by_camera: dict[str, list[Recording]] = {}
    for video in sorted(recordings, key=natural_order):
        by_camera.setdefault(camera_of(video, camera), []).append(recordings[video])
    return {name: block_maxima(parts, block_seconds) for name, parts in by_camera.items()}


def calibration_warnings(
    calibration: Calibration, results: Iterable[VideoResult], views: Sequence[str], span: str
) -> list[str]:
    """Reasons why these results may have another rate of alarms than the calibrated one."""
    warnings = []
    if span != calibration.span:
        warnings.append(
            f"Videos are cut with --span {span}, but were calibrated with {calibration.span}: the "
            "calibrated rate of alarms does not hold."
        )
    if set(views) != set(calibration.views):
        warnings.append(
            f"Scores are averaged over {', '.join(views)}, but were calibrated over "
            f"{', '.join(calibration.views)}: the calibrated rate of alarms does not hold."
        )
    recordings = {result.video: _recording(result) for result in results}
    found = camera_maxima(recordings, calibration.camera, calibration.block_seconds)
    per_day = DAY_SECONDS / calibration.block_seconds
    for camera, (maxima, _) in found.items():
        ordinary = calibration.cameras.get(camera)
        if ordinary is None:
            warnings.append(
                f"Camera {camera!r} was not calibrated, so its rate of alarms is not known: "
                "calibrate with footage of it."
            )
        elif ordinary.quantiles and len(maxima) >= per_day:  # hours of a day differ
            drift = find_drift(maxima, ordinary.quantiles, ordinary.num_blocks, per_day)
            if drift.p_value < DRIFT_P_VALUE:
                warnings.append(
                    f"Camera {camera!r} no longer scores as it was calibrated: "
                    f"{drift.num_above} of {drift.num_blocks} blocks are above the "
                    f"{drift.level:.0%} quantile (p {drift.p_value:.1g}): calibrate with recent "
                    "footage."
                )
    return warnings


def _recording(result: VideoResult) -> Recording:
    held = [one for one in result.segments if one.stop_frame > one.start_frame]
    times = [(one.start_seconds, one.stop_seconds) for one in held]
    return Recording(np.array([one.score for one in held]), np.array(times))
