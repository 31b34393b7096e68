"""Damaged frames of a video: warnings, frame ranges and the allowed share."""

from dataclasses import dataclass

import numpy as np

from vigil.extract.store import VideoFeatures
from vigil.pipeline.text_files import clock_time

# The frame count of a container may differ by this much from the decoded one without a warning.
MAX_FRAME_MISMATCH = 2
# And its duration by this much, a second being what a viewer notices on a clock. The last frame's
# duration is a guess, and other streams end a little later: by at most 0.05 s in 45 real files.
MAX_SECONDS_MISMATCH = 1.0
MIN_ROTATION_DEGREES = 1.0  # FFmpeg does not turn frames by less either
MAX_RANGES = 1000  # damaged ranges in a result: more would be invisible and take megabytes


@dataclass(frozen=True)
class DamagedFrames:
    """A range of frames decoded with errors; if empty, frames are missing at this position.

    A long list of ranges is shortened by merging neighbours, including the frames between them.
    """

    start_frame: int
    stop_frame: int
    start_seconds: float
    stop_seconds: float


def frame_warnings(features: VideoFeatures) -> list[str]:
    """Warnings about the frames of a video, a sentence each."""
    warnings = []
    decoded, declared = features.num_frames_decoded, features.num_frames_container
    if features.num_frames_damaged:
        how = f" ({features.num_frames_lost} of them lost)" if features.num_frames_lost else ""
        for first_seconds, _ in features.damage_seconds[:1]:
            how += f", the first at {clock_time(first_seconds)}"
        warnings.append(
            f"Damaged frames: {features.num_frames_damaged}{how}; {decoded} could be decoded."
        )
    if declared and abs(declared - decoded) > MAX_FRAME_MISMATCH:
        warnings.append(f"The container declares {declared} frames, {decoded} could be decoded.")
    seconds, declared_seconds = features.segment_seconds[-1, 1], features.duration_container
    allowed_seconds = max(MAX_SECONDS_MISMATCH, MAX_FRAME_MISMATCH / features.fps)
    # A container's duration follows from its clock, so it means nothing if that jumps.
    is_declared = declared_seconds and not features.num_clock_jumps
    if is_declared and abs(declared_seconds - seconds) > allowed_seconds:
        warnings.append(
            f"The container declares {declared_seconds:.1f} seconds, the frames last {seconds:.1f}."
        )
    if abs(features.rotation_ignored) >= MIN_ROTATION_DEGREES:
        warnings.append(
            f"The file asks to turn its frames {features.rotation_ignored:+.0f} degrees further, "
            "but they are turned by multiples of 90 degrees only."
        )
    return warnings + _clock_warnings(features)


def _clock_warnings(features: VideoFeatures) -> list[str]:
    """Warnings about times that are not simply those of the file, a sentence each."""
    warnings = []
    if num_jumps := features.num_clock_jumps:
        how_often = f"{num_jumps} times, first" if num_jumps > 1 else "once,"
        warnings.append(
            f"The file's clock jumps {how_often} at {clock_time(features.first_jump_seconds)}: "
            "times here run on as if it did not."
        )
    if features.rate_source == "assumed":
        warnings.append(
            f"The file states no frame rate: times assume {features.fps:g} frames a second; "
            "--input-fps sets another."
        )
    if features.rate_source == "unknown times":
        warnings.append(
            f"Frames without times in the file: times assume {features.fps:g} frames a second."
        )
    if num_bytes := features.num_bytes_unread:
        warnings.append(
            f"Another recording follows in the same file and was not read ({num_bytes:,} bytes at "
            "its end): save them as separate files."
        )
    return warnings


def damaged_frames(features: VideoFeatures) -> tuple[DamagedFrames, ...]:
    """Ranges of damaged or missing frames, in order; if there are many, the nearest are merged."""
    frames, seconds = features.damage_frames, features.damage_seconds
    if len(frames) > MAX_RANGES:
        gaps = frames[1:, 0] - frames[:-1, 1]
        last = np.sort(np.argsort(-gaps, kind="stable")[: MAX_RANGES - 1])
        starts, stops = np.append(0, last + 1), np.append(last, -1)
        frames, seconds = (
            np.stack([ranges[starts, 0], ranges[stops, 1]], axis=1) for ranges in (frames, seconds)
        )
    places = zip(frames.tolist(), seconds.tolist(), strict=True)
    return tuple(DamagedFrames(*one, *when) for one, when in places)
