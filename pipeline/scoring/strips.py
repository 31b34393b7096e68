"""Thumbnails of RESULTS: the album of each video, and a strip of it around each event's peak.

A strip is named after the thumbnail in its middle, so it is always that of its name: scoring again
with another threshold writes those that are missing, and removes those of events that are no more.
"""

import logging
import os
from pathlib import Path

import numpy as np
from PIL import Image

from vigil.extract.engine.album import Album, album_folder, read_album
from vigil.extract.files import replace_file
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.results import VideoResult

THUMBNAILS_FOLDER = "thumbnails"
NUM_AROUND = 2
"""Thumbnails before the one nearest to the peak, and after it, as far as they exist."""
GAP = 4
"""Black pixels between two thumbnails."""
JPEG_QUALITY = 80

log = logging.getLogger(__name__)


def album_of(folder: Path, video: str) -> Album | None:
    """The album of a video in RESULTS; None if it has none."""
    return read_album(album_folder(folder / THUMBNAILS_FOLDER, video))


def strip_number(album: Album, result: VideoResult, event: Event) -> int:
    """The thumbnail nearest to the middle of an event's highest segment."""
    among = [
        one
        for one in result.held_segments
        if one.start_frame < event.stop_frame and one.stop_frame > event.start_frame
    ]
    seconds = (event.start_seconds + event.stop_seconds) / 2
    if among:
        peak = max(among, key=lambda one: one.score)
        seconds = (peak.start_seconds + peak.stop_seconds) / 2
    return int(np.abs(album.seconds - seconds).argmin())


def strip_path(album: Album, number: int) -> Path:
    """Where the strip around a thumbnail lies."""
    return album.folder / f"strip-{number}.jpg"


def existing_strip(album: Album | None, result: VideoResult, event: Event) -> int | None:
    """The number of an event's strip; None if there is no such file."""
    if album is None:
        return None
    number = strip_number(album, result, event)
    return number if os.path.isfile(strip_path(album, number)) else None  # noqa: PTH113


def write_strips(folder: Path, result: VideoResult) -> None:
    """Write the strips of a video's events; if one cannot be written, that is only logged.

    Args:
        folder: RESULTS.
        result: of the video.
    """
    album = album_of(folder, result.video)
    if album is None:
        return
    try:
        numbers = {strip_number(album, result, event) for event in result.events}
        paths = {strip_path(album, number): number for number in numbers}
        for path in {*album.folder.glob("strip-*.jpg")}.difference(paths):
            path.unlink()
        for path, number in paths.items():
            if not path.exists():
                write_strip(album, number, path)
    except OSError as error:
        log.warning("%s: its events have no thumbnails (%s)", result.video, error)


def write_strip(album: Album, number: int, path: Path) -> None:
    """Write a thumbnail with those around it, in one row.

    Raises:
        OSError: a sheet cannot be read, or the strip not written.
    """
    pictures = list(album.pictures(range(number - NUM_AROUND, number + NUM_AROUND + 1)))
    width, height = album.size
    strip = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height))
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place * (width + GAP), 0))
    with replace_file(path) as partial:
        strip.save(partial, "JPEG", quality=JPEG_QUALITY)
