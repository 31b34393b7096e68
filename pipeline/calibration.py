"""The thresholds that `vigil calibrate` stores in a checkpoint, and which camera a video is of."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from vigil.extract.errors import UserError
from vigil.extract.source import composed
from vigil.model.settings import require

DAY_SECONDS = 86400.0
FOLDER = "folder"
NO_CAMERA = "."
"""The camera of videos at the top, and of those that the pattern does not fit."""


@dataclass(frozen=True)
class OrdinaryQuantile:
    """A quantile of the maximum scores of ordinary blocks."""

    level: float
    value: float
    daily_shares: tuple[float, ...]
    """The share of blocks above it, in each day or so of footage."""


@dataclass(frozen=True)
class CalibratedThreshold:
    """A threshold and the ordinary footage it comes from."""

    threshold: float | None
    """None if the footage is too short for the asked rate."""
    hours: float
    """Length of the whole blocks."""
    num_blocks: int
    num_alarms: int
    """At most as many of these blocks reach the threshold."""
    alarms_per_day_low: float | None
    alarms_per_day_high: float | None
    """Ends of the 95 % interval of the rate on new footage."""
    quantiles: tuple[OrdinaryQuantile, ...]
    """What drift is measured by; empty if there are no blocks."""


@dataclass(frozen=True)
class Calibration:
    """The thresholds that keep a rate of alarms on new footage of the same cameras."""

    alarms_per_day: float
    """The rate that was asked for, of each camera."""
    block_seconds: float
    """Alarms within a block count as one."""
    camera: str
    """The camera of a video: folder, or a regular expression with one group."""
    views: tuple[str, ...]
    """The views that scores are averaged over."""
    span: str
    """How videos are cut: as for vigil score --span."""
    cameras: dict[str, CalibratedThreshold]
    overall: CalibratedThreshold
    """From the blocks of all cameras together."""
    created_at: str

    def __post_init__(self) -> None:
        """Reject contradictory or invalid values.

        Raises:
            ValueError: names the value.
        """
        check_camera(self.camera)
        require(self.alarms_per_day > 0, "alarms per day", self.alarms_per_day, "positive")
        require(self.block_seconds > 0, "block seconds", self.block_seconds, "positive")
        require(self.overall.threshold is not None, "overall threshold", None, "a number")
        for one in (self.overall, *self.cameras.values()):
            valid = one.threshold is None or 0 <= one.threshold <= 1
            require(valid, "calibrated threshold", one.threshold, "from 0 to 1")

    def threshold_of(self, video: str) -> tuple[float, str]:
        """The threshold for a video, and the rule it follows, in words."""
        camera = camera_of(video, self.camera)
        own = self.cameras.get(camera)
        asked = rate_in_words(self.alarms_per_day)
        if own is not None and own.threshold is not None:
            return own.threshold, f"calibrated on camera {camera!r} for {asked}"
        assert self.overall.threshold is not None
        return self.overall.threshold, f"calibrated on all cameras together for {asked}"

    def thresholds_of(self, videos: Iterable[str]) -> dict[str, float]:
        """Camera -> the threshold of its videos, for the cameras of these videos."""
        return {camera_of(video, self.camera): self.threshold_of(video)[0] for video in videos}


def rate_in_words(alarms_per_day: float) -> str:
    """A rate with its unit: 1 alarm a day, 0.1429 alarms a day."""
    rounded = float(f"{alarms_per_day:.4g}")  # without an exponent in ordinary cases
    return f"{rounded:g} alarm{'s' * (rounded != 1)} a day"


def check_asked(alarms_per_day: float, block_seconds: float, camera: str) -> None:
    """Refuse what is asked of a calibration if no footage can meet it.

    Raises:
        UserError: names the option, its value and what is allowed.
    """
    if not 1 <= block_seconds <= DAY_SECONDS:
        raise UserError(
            f"--block-seconds {block_seconds:g} is not a number from 1 to {DAY_SECONDS:g}"
        )
    most = DAY_SECONDS / block_seconds
    if not 0 < alarms_per_day < most:
        raise UserError(
            f"--alarms-per-day {alarms_per_day:g} is not above 0 and below {most:g}, the number "
            f"of blocks of {block_seconds:g} s in a day: ask for fewer, or shorten --block-seconds"
        )
    check_camera_option(camera)


def check_camera_option(rule: str) -> None:
    """Refuse a rule for cameras from the command line, like `check_camera`.

    Raises:
        UserError: names the option, its value and what is allowed.
    """
    try:
        check_camera(rule)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def check_camera(rule: str) -> None:
    """Refuse a rule for cameras that is neither `FOLDER` nor a pattern with one group.

    Raises:
        ValueError: names the rule and what is allowed.
    """
    try:
        num_groups = 1 if rule == FOLDER else re.compile(rule).groups
    except (re.error, OverflowError, RecursionError):
        num_groups = 0
    allowed = f"{FOLDER}, or a regular expression with one group, such as '(cam[0-9]+)_'"
    require(num_groups == 1, "camera", rule, allowed)


def camera_of(video: str, rule: str) -> str:
    """The camera of a video, from its path relative to the folder of videos.

    Args:
        video: the path, with forward slashes.
        rule: `FOLDER` for its top folder, or a pattern whose group is the camera wherever it fits.
    """
    name = composed(video)
    if rule != FOLDER:
        match = re.search(rule, name)
        return (match and match[1]) or NO_CAMERA
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else NO_CAMERA
