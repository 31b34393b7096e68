"""Reads a few clips of a video again.

It does so in a process of its own, because damaged videos can crash or hang FFmpeg.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt

from vigil.extract.decode.reader import Clip, ReadingOptions, Restart, read_video
from vigil.extract.errors import VideoError
from vigil.extract.processes import ask_each, limit_memory
from vigil.extract.source import SourceVideo

STALL_SECONDS = 60.0
MEMORY_BYTES = 8 << 30

Clips = dict[int, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class _Request:
    video: SourceVideo
    options: ReadingOptions
    decoder: str
    wanted: frozenset[int]


def read_clips(
    video: SourceVideo, options: ReadingOptions, decoder: str, wanted: Collection[int]
) -> Clips:
    """Return clips (64, H, W, 3) by their numbers; the video is read from its beginning.

    Args:
        video: the video.
        options: how it is turned into clips.
        decoder: one of `DECODER_NAMES`.
        wanted: the numbers of the clips.

    Raises:
        VideoError: it cannot be read, or ends before one of them.
    """
    request = _Request(video, options, decoder, frozenset(wanted))
    ((_, said),) = ask_each(_read, [request], "vigil-clips", STALL_SECONDS)
    if isinstance(said, str):
        raise VideoError(said)
    found: Clips = said
    if missing := request.wanted - found.keys():
        raise VideoError(f"it ends before clip {min(missing)}")
    return found


def _read(connection: Connection, requests: Sequence[_Request]) -> None:
    limit_memory(MEMORY_BYTES)
    for request in requests:
        try:
            connection.send(_found(connection, request))
        except VideoError as error:
            connection.send(error.reason)
        except MemoryError:
            connection.send(f"it needs more than {MEMORY_BYTES >> 30} GiB of memory")


def _found(connection: Connection, request: _Request) -> Clips:
    found: Clips = {}
    number = 0
    for event in read_video(request.video, request.options, request.decoder):
        connection.send(None)
        if isinstance(event, Restart):
            number = 0
            found.clear()
        elif isinstance(event, Clip):
            if number in request.wanted:
                found[number] = event.pixels
            number += 1
            if len(found) == len(request.wanted):
                break
    return found
