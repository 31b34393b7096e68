"""Whether there are enough hours of ordinary footage for an asked rate of alarms."""

import math
from collections import defaultdict
from collections.abc import Sequence

from vigil.extract.decode.promises import stated_seconds
from vigil.extract.errors import UserError
from vigil.extract.source import SourceVideo
from vigil.pipeline.calibration import DAY_SECONDS, camera_of, rate_in_words
from vigil.pipeline.options import CalibrateOptions
from vigil.pipeline.scores.alarm_rate import allowed_alarms, needed_blocks

MARGIN = 1.1
"""Videos may last longer than their headers state, but seldom by more than that."""


def check_stated_hours(videos: Sequence[SourceVideo], options: CalibrateOptions) -> None:
    """Refuse videos that are too short by their headers, before anything is extracted.

    If the headers of one state no length, nothing is refused: what is decoded will tell.

    Raises:
        UserError: names the hours of the footage and those needed.
    """
    by_camera: dict[str, float] = defaultdict(float)
    for video, seconds in stated_seconds(videos).items():
        if seconds is None:
            return
        by_camera[camera_of(video, options.camera)] += seconds
    block = options.block_seconds
    stated, most = (
        sum(math.floor(factor * seconds / block) for seconds in by_camera.values())
        for factor in (1, MARGIN)
    )
    if not allowed_alarms(most, options.alarms_per_day * block / DAY_SECONDS):
        raise UserError(
            f"nothing was extracted, because by the videos' headers {too_short(stated, options)}; "
            "if a video lasts longer, correct its header: ffmpeg -i VIDEO -c copy NEW_VIDEO"
        )


def too_short(num_blocks: int, options: CalibrateOptions) -> str:
    """Why footage carries no threshold: its hours, those needed, and the rate that it carries."""
    seconds = options.block_seconds
    needed = needed_blocks(options.alarms_per_day * seconds / DAY_SECONDS) * seconds / 3600
    carried = math.ceil(1000 * DAY_SECONDS / seconds / (num_blocks + 1)) / 1000
    return (
        f"{num_blocks * seconds / 3600:.2f} hours of footage (whole blocks of {seconds:g} s) are "
        f"too short for {rate_in_words(options.alarms_per_day)}: give at least "
        f"{math.ceil(10 * needed) / 10:g} hours, or ask for at least {carried:g} alarms a day"
    )
