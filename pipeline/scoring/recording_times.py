"""The times of day of recordings and their events, from names or containers."""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from vigil.extract.decode.frame_counts import creation_times
from vigil.extract.errors import counted
from vigil.extract.source import SourceVideo
from vigil.pipeline.recorder_names import (
    AUTO,
    CREATION,
    NONE,
    YEARS,
    RecordingTime,
    parse_template,
    time_in_name,
)
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.text_files import clock_time

MAX_SECONDS_OFF, MAX_SHARE_OFF = 10.0, 0.02
"""A recording may differ that much from the length in its name."""

_IS_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")
_SOME_DATE = re.compile(r"(?<!\d)\d\d([-_.])\d\d\1(?:19|20)\d\d\D{1,3}\d\d[-_.:]?\d\d")

log = logging.getLogger(__name__)


def recording_times(
    clock: str, names: Iterable[str], sources: Mapping[str, Path]
) -> dict[str, RecordingTime]:
    """Find the starts of recordings; those that are not known are left out, and counted in the log.

    Args:
        clock: auto (from names as recorders write them), none, creation (from containers) or a
            template for names.
        names: of the videos.
        sources: video -> its file.

    Raises:
        UserError: the template is not one.
    """
    names = list(names)
    if clock == NONE:
        return {}
    if clock == CREATION:
        found = dict(_created(names, sources))
    else:
        find = time_in_name if clock == AUTO else parse_template(clock)
        found = {name: time for name in names if (time := find(name))}
    unknown = [name for name in names if name not in found]
    if clock != AUTO and unknown:
        why = "container has no creation time" if clock == CREATION else "name does not fit"
        log.warning(
            "no time of day for %s, whose %s: %s", counted(len(unknown), "video"), why, unknown[0]
        )
    elif doubtful := [name for name in unknown if _SOME_DATE.search(PurePosixPath(name).name)]:
        log.warning(
            "no time of day for %s, whose date may begin with day or month: %s; say which with "
            "clock, such as %%d-%%m-%%Y_%%H-%%M-%%S",
            counted(len(doubtful), "video"),
            doubtful[0],
        )
    return found


def find_time(clock: str) -> Callable[[str, Path], RecordingTime | None]:
    """Return the function that finds the start of one recording, from its name and its file.

    Raises:
        UserError: the template is not one.
    """
    if clock == NONE:
        return lambda name, path: None
    if clock == CREATION:
        return lambda name, path: dict(_created([name], {name: path})).get(name)
    find = time_in_name if clock == AUTO else parse_template(clock)
    return lambda name, path: find(name)


def _created(
    names: Iterable[str], sources: Mapping[str, Path]
) -> Iterator[tuple[str, RecordingTime]]:
    videos = [SourceVideo(sources[name], name) for name in names if name in sources]
    for video, text in creation_times(videos):
        try:
            start = datetime.fromisoformat(text if _IS_TIME.match(text) else "")
        except ValueError:
            continue
        if start.year in YEARS:
            yield video.name, RecordingTime(start, "creation_time")


def with_times_of_day(
    result: VideoResult, time: RecordingTime | None, until_seconds: float = math.inf
) -> VideoResult:
    """The same result with the times of day of the recording and its events.

    Args:
        result: without them.
        time: start of the recording; None if it is not known.
        until_seconds: offset from which on the times are not known, because the clock jumped.
    """
    if time is None:
        return result
    events = tuple(
        replace(
            event,
            start_clock=time.at(event.start_seconds),
            stop_clock=time.at(event.stop_seconds, round_up=True),
        )
        if event.stop_seconds <= until_seconds
        else event
        for event in result.events
    )
    return replace(
        result,
        events=events,
        recorded_at=time.at(0),
        recorded_at_source=time.source,
        warnings=result.warnings + _length_warning(result.duration_seconds, time),
    )


def _length_warning(seconds: float, time: RecordingTime) -> tuple[str, ...]:
    named = time.named_seconds
    if named is None or abs(named - seconds) <= max(MAX_SECONDS_OFF, MAX_SHARE_OFF * named):
        return ()
    return (
        f"Its name gives it a length of {clock_time(named)}, its frames one of "
        f"{clock_time(seconds)}: its times of day may be wrong.",
    )
