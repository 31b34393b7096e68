"""What is wrong with the frames of a video: in words, in ranges, and how much of it is too much."""

import re

import numpy as np

from extract.errors import UserError
from extract.store import VideoFeatures
from pipeline.results import DamagedFrames, clock_time

# A container's count may differ from the decoded one by this much without a word.
MAX_FRAME_MISMATCH = 2
# Its length may by this much: a second is what a person can tell on a clock. The last frame's own
# length is a guess, and other streams end a little later; in 45 real files that was 0.05 s at most.
MAX_SECONDS_MISMATCH = 1.0
MAX_RANGES = 1000  # of damaged frames in a result: more cannot be seen, and take megabytes


def read_max_damage(text: str | None) -> float:
    """The share of damaged frames, 0..1, that is allowed on the command line; None allows all.

    Raises:
        UserError: it is no share.
    """
    if text is None:
        return 1.0
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if match is None or share > 1 or (share == 1 and not match[2]):
        raise UserError(f"--max-damage {text!r} is no share of frames: use 10% or 0.1")
    return share


def frame_warnings(features: VideoFeatures) -> list[str]:
    """What is wrong with the frames of a video, a sentence each."""
    warnings = []
    decoded, promised = features.num_frames_decoded, features.num_frames_container
    if features.num_frames_damaged:
        how = f" ({features.num_frames_lost} of them lost)" if features.num_frames_lost else ""
        for first_seconds, _ in features.damage_seconds[:1]:
            how += f", the first at {clock_time(first_seconds)}"
        warnings.append(
            f"Damaged frames: {features.num_frames_damaged}{how}; {decoded} could be decoded."
        )
    if promised and abs(promised - decoded) > MAX_FRAME_MISMATCH:
        warnings.append(f"The container promises {promised} frames, {decoded} could be decoded.")
    seconds, promised_seconds = features.segment_seconds[-1, 1], features.duration_container
    allowed_seconds = max(MAX_SECONDS_MISMATCH, MAX_FRAME_MISMATCH / features.fps)
    if promised_seconds and abs(promised_seconds - seconds) > allowed_seconds:
        warnings.append(
            f"The container promises {promised_seconds:.1f} seconds, the frames last {seconds:.1f}."
        )
    return warnings


def damaged_frames(features: VideoFeatures) -> tuple[DamagedFrames, ...]:
    """Where frames of a video are damaged or missing, in order; of many, the nearest made one."""
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
