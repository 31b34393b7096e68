"""Counts the frames of videos without decoding them.

Containers are read in a separate process, because damaged ones can crash or hang FFmpeg.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import av

from vigil.extract.decode.decoder import best_stream, open_container
from vigil.extract.errors import VideoError
from vigil.extract.processes import spawn
from vigil.extract.source import SourceVideo, list_pictures

STALL_SECONDS = 60.0


def count_frames(videos: Sequence[SourceVideo]) -> Iterator[tuple[SourceVideo, int | str]]:
    """Yield each video with its number of frames, or with the reason why it cannot be read.

    For a folder these are its pictures; for a container the number it states, or else its packets.
    """
    waiting = deque(videos)
    while waiting:
        ours, theirs = Pipe()
        process = spawn(_count_all, (theirs, [video.path for video in waiting]), "vigil-counter")
        theirs.close()
        try:
            while waiting and ours.poll(STALL_SECONDS):
                count = ours.recv()
                yield waiting.popleft(), count
            if waiting:
                yield waiting.popleft(), f"reading it made no progress for {STALL_SECONDS:g} s"
        except EOFError:
            yield waiting.popleft(), "the process reading it died"
        finally:
            process.kill()
            process.join()
            ours.close()


def _count_all(connection: Connection, paths: Sequence[Path]) -> None:
    """Send the number of frames of each path, or why it cannot be read."""
    for path in paths:
        try:
            connection.send(len(list_pictures(path)) if path.is_dir() else _num_frames(path))
        except (VideoError, OSError) as error:
            connection.send(str(error))


def _num_frames(path: Path) -> int:
    with open_container(path) as container:
        stream = best_stream(container)
        if stream.frames > 0:
            return stream.frames
        try:
            return sum(packet.size > 0 for packet in container.demux(stream))
        except av.error.FFmpegError as error:
            raise VideoError(f"it cannot be read to the end ({error.strerror})") from error
