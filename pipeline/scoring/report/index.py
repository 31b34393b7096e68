"""The index of a report: a short row per video and per event, for lists, filters and sorting.

It is loaded as a whole, so rows are arrays, in the order of `VIDEO_COLUMNS` and `EVENT_COLUMNS`,
and words that many share are numbers into lists. Names are never keys of objects.
"""

import string
from itertools import pairwise
from pathlib import Path
from typing import Any

from vigil.pipeline.calibration import FOLDER, camera_of
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.report.details import url
from vigil.pipeline.scoring.results import Results, VideoResult
from vigil.pipeline.scoring.strips import album_of, existing_strip

VIDEO_COLUMNS = (
    *("video", "camera", "label", "label_probability", "peak_score", "duration_seconds"),
    *("num_frames", "num_damaged", "num_warnings", "num_left_out", "recorded_at", "curve"),
    "album",
)
EVENT_COLUMNS = (
    *("video", "start_frame", "stop_frame", "start_seconds", "stop_seconds", "peak_score"),
    *("class", "class_probability", "strip", "start_clock", "stop_clock"),
)
FAILURE_COLUMNS = ("video", "camera", "reason", "decoder", "frame")
CURVE_COLUMNS = 32
_DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
"""Scores in a curve: one of 64 characters each."""


class _Words:
    """Words that many rows share -> their numbers."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        return self.numbers.setdefault(word, len(self.numbers))


def index_of(results: Results, folder: Path) -> dict[str, Any]:
    """The index of all results, as JSON: columns, shared words, and the rows.

    Args:
        results: all of RESULTS.
        folder: of the page, in which the albums are.
    """
    cameras, classes = _Words(), _Words()
    videos, events = [], []
    for number, result in enumerate(results.by_name):
        warnings = sum(warning not in results.warnings for warning in result.warnings)
        album = album_of(folder, result.video)
        link = None if album is None else url(album.folder.relative_to(folder).as_posix())
        videos.append([*_video_row(result, warnings, cameras, classes), link])
        for event in result.events:
            strip = existing_strip(album, result, event)
            events.append(_event_row(number, event, strip, classes))
    failures = [
        [one.video, cameras(camera_of(one.video, FOLDER)), one.reason, one.decoder, one.frame]
        for one in results.failures
    ]
    return {
        "video_columns": VIDEO_COLUMNS,
        "event_columns": EVENT_COLUMNS,
        "failure_columns": FAILURE_COLUMNS,
        "cameras": list(cameras.numbers),
        "classes": list(classes.numbers),
        "class_names": sorted({name for one in results.videos for name in one.class_probabilities}),
        "videos": videos,
        "events": events,
        "failures": failures,
    }


def _video_row(
    result: VideoResult, num_warnings: int, cameras: _Words, classes: _Words
) -> list[object]:
    return [
        result.video,
        cameras(camera_of(result.video, FOLDER)),
        classes(result.label),
        round(result.label_probability, 4),
        round(result.peak_score, 6),
        round(result.duration_seconds, 3),
        result.num_frames_decoded,
        result.num_frames_damaged,
        num_warnings,
        len(result.left_out),
        result.recorded_at,
        curve_of(result),
    ]


def _event_row(number: int, event: Event, strip: str | None, classes: _Words) -> list[object]:
    row: list[object] = [
        number,
        event.start_frame,
        event.stop_frame,
        round(event.start_seconds, 3),
        round(event.stop_seconds, 3),
        round(event.peak_score, 6),
        classes(event.class_name),
        round(event.class_probability, 6),
        strip,
    ]
    return row if event.start_clock is None else [*row, event.start_clock, event.stop_clock]


def curve_of(result: VideoResult) -> str:
    """The scores over time in at most `CURVE_COLUMNS` characters, each the highest in its part."""
    scores = [one.score for one in result.held_segments]
    num_columns = min(len(scores), CURVE_COLUMNS)
    edges = [index * len(scores) // max(num_columns, 1) for index in range(num_columns + 1)]
    return "".join(_DIGITS[_level(max(scores[start:stop]))] for start, stop in pairwise(edges))


def _level(score: float) -> int:
    return round(63 * min(max(score, 0.0), 1.0))
