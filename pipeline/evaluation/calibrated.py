"""What evaluation says of a checkpoint that `vigil calibrate` has given thresholds by camera."""

from collections.abc import Iterable, Sequence
from typing import Any

from vigil.extract.errors import counted
from vigil.extract.store import VideoFeatures
from vigil.pipeline.calibration import Calibration, camera_of, rate_in_words
from vigil.pipeline.checkpoint import CheckpointConfig
from vigil.pipeline.option_values import Span, read_span
from vigil.pipeline.scores.video_scoring import cut_length


def calibration_json(config: CheckpointConfig, videos: Iterable[str]) -> dict[str, Any]:
    """What `metrics.json` records of the thresholds in use; empty without a calibration."""
    calibration = config.calibration
    if calibration is None:
        return {}
    return {
        "calibration": {
            "alarms_per_day": calibration.alarms_per_day,
            "block_seconds": calibration.block_seconds,
            "thresholds": calibration.thresholds_of(videos),
        }
    }


def thresholds_in_words(calibration: Calibration, videos: Iterable[str]) -> str:
    """Which thresholds the events of the videos are counted at."""
    own = calibration.thresholds_of(videos).values()
    return (
        f"events are counted at thresholds calibrated for "
        f"{rate_in_words(calibration.alarms_per_day)}: {min(own):.4f} to {max(own):.4f} "
        f"({counted(len(own), 'camera')})"
    )


def unlike_calibrated(
    config: CheckpointConfig, features: VideoFeatures, views: Sequence[str] | None, span: Span
) -> set[str]:
    """How a video is scored otherwise than the footage of the calibration was, in words."""
    calibration = config.calibration
    if calibration is None:
        return set()
    found = set()
    known = read_span(calibration.span)
    if cut_length(config, features, span) != cut_length(config, features, known):
        found.add(f"--span {span}, not {calibration.span}")
    used = features.views if views is None else views
    if set(used) != set(calibration.views):
        found.add(f"views {', '.join(used)}, not {', '.join(calibration.views)}")
    return found


def calibration_problems(
    config: CheckpointConfig, videos: Iterable[str], unlike: Iterable[str]
) -> list[str]:
    """Warnings if the calibrated rate of alarms need not hold on the test videos.

    Args:
        config: of the checkpoint.
        videos: the test videos.
        unlike: what `unlike_calibrated` found for any of them.
    """
    calibration = config.calibration
    if calibration is None:
        return []
    problems = [
        f"some videos are scored with {one} as in the calibration: its rate of alarms does not "
        "hold for them"
        for one in sorted(unlike)
    ]
    others = {camera_of(video, calibration.camera) for video in videos} - {*calibration.cameras}
    if others:
        problems.append(
            f"{counted(len(others), 'camera')} of the test videos, such as {min(others)!r}, had no "
            "footage in the calibration: the threshold of all cameras is used for their videos"
        )
    return problems
