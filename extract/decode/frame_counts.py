"""Counts the frames of videos, and reads when they were created, without decoding them.

Containers are read in a separate process, because damaged ones can crash or hang FFmpeg.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av

from vigil.extract.decode.decoder import best_stream, num_stated_frames, open_container
from vigil.extract.decode.streams import demux
from vigil.extract.errors import VideoError
from vigil.extract.processes import ask_each
from vigil.extract.source import SourceVideo, list_pictures

STALL_SECONDS = 60.0


def count_frames(videos: Sequence[SourceVideo]) -> Iterator[tuple[SourceVideo, int | str]]:
    """Yield each video with its number of frames, or with the reason why it cannot be read.

    For a folder these are its pictures; for a container the number it states, or else its packets,
    without those that are never shown.
    """
    return _read_each(videos, _num_frames)


def creation_times(videos: Sequence[SourceVideo]) -> Iterator[tuple[SourceVideo, str]]:
    """Yield each video with the time at which its container says it was created.

    The times are as they stand there, most often ISO 8601. It is empty if the container has none or
    cannot be read.
    """
    for video, found in _read_each(videos, _creation_time):
        yield video, found[1] if isinstance(found, tuple) else ""


def _read_each(
    videos: Sequence[SourceVideo], read: Callable[[Path], object]
) -> Iterator[tuple[SourceVideo, Any]]:
    """Yield each video with what ``read`` returns, or with the reason why it cannot be read."""
    paths = [video.path for video in videos]
    found = ask_each(partial(_read_all, read=read), paths, "vigil-counter", STALL_SECONDS)
    for video, (_, said) in zip(videos, found, strict=True):
        yield video, said


def _read_all(
    connection: Connection, paths: Sequence[Path], read: Callable[[Path], object]
) -> None:
    """Send what ``read`` returns for each path, or why it cannot be read."""
    for path in paths:
        try:
            connection.send(read(path))
        except (VideoError, OSError) as error:
            connection.send(str(error))


def _creation_time(path: Path) -> tuple[str, str]:
    """Return the name of the tag and its value; QuickTime's own also has the time zone."""
    if path.is_dir():
        return "", ""
    with open_container(path) as container:
        for tags in (container.metadata, best_stream(container).metadata):
            for name in ("com.apple.quicktime.creationdate", "creation_time"):
                if value := tags.get(name):
                    return name, value
    return "", ""


def _num_frames(path: Path) -> int:
    if path.is_dir():
        return len(list_pictures(path))
    with open_container(path) as container:
        stream = best_stream(container)
        # AVI's number counts empty chunks, too; MP4's counts frames that an edit list hides.
        num_stated = num_stated_frames(container, stream)
        if num_stated and container.format.name != "avi":
            return num_stated - sum(entry.is_discard for entry in stream.index_entries)
        try:
            packets = demux(path, container, stream)
            return sum(packet is not None and packet.size > 0 for packet in packets)
        except av.error.FFmpegError as error:
            raise VideoError(f"it cannot be read to the end ({error.strerror})") from error
