"""Thumbnails of RESULTS: the album of each video, and a strip of it around each event's peak.

A strip is named after the thumbnails in it, so it is always that of its name: scoring again with
another threshold writes those that are missing, and removes those of events that are no more.
"""

import logging
import os
from pathlib import Path

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
JPEG_QUALITY = 75

log = logging.getLogger(__name__)


def album_of(folder: Path, video: str) -> Album | None:
    """The album of a video in RESULTS; None if it has none."""
    return read_album(album_folder(folder / THUMBNAILS_FOLDER, video))


def strip_of(album: Album, result: VideoResult, event: Event) -> list[int]:
    """The thumbnails around the middle of an event's highest segment; empty if none is near."""
    among = [
        one
        for one in result.held_segments
        if one.start_frame < event.stop_frame and one.stop_frame > event.start_frame
    ]
    seconds = (event.start_seconds + event.stop_seconds) / 2
    if among:
        peak = max(among, key=lambda one: one.score)
        seconds = (peak.start_seconds + peak.stop_seconds) / 2
    return album.around(seconds, NUM_AROUND)


def strip_name(numbers: list[int]) -> str:
    """Name of the file with these thumbnails."""
    return f"strip-{numbers[0]}-{numbers[-1]}.jpg"


def existing_strip(album: Album | None, result: VideoResult, event: Event) -> str | None:
    """Name of an event's strip beside its album; None if there is no such file."""
    numbers = strip_of(album, result, event) if album is not None else []
    if album is None or not numbers:
        return None
    name = strip_name(numbers)
    return name if os.path.isfile(album.folder / name) else None  # noqa: PTH113


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
        strips = [one for event in result.events if (one := strip_of(album, result, event))]
        paths = {album.folder / strip_name(numbers): numbers for numbers in strips}
        for path in {*album.folder.glob("strip-*.jpg")}.difference(paths):
            path.unlink()
        for path, numbers in paths.items():
            if not path.exists():
                write_strip(album, numbers, path)
    except OSError as error:
        log.warning("%s: its events have no thumbnails (%s)", result.video, error)


def write_strip(album: Album, numbers: list[int], path: Path) -> None:
    """Write thumbnails in one row.

    Raises:
        OSError: a sheet cannot be read, or the strip not written.
    """
    pictures = list(album.pictures(numbers))
    width, height = album.size
    strip = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height))
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place * (width + GAP), 0))
    with replace_file(path) as partial:
        strip.save(partial, "JPEG", quality=JPEG_QUALITY)
