"""The number of frames that a container promises, read in the background for many videos.

Headers take about 2 ms a file. Where they promise no number of frames, the length and the frame
rate do, or else the packets at the beginning and the size of the file.
"""

import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vigil.extract.decode.decoder import best_stream, open_container, stated_rate
from vigil.extract.decode.sampling import expected_samples
from vigil.extract.errors import VideoError
from vigil.extract.processes import limit_memory, spawn
from vigil.extract.source import SourceVideo, list_pictures

STALL_SECONDS = 60.0
NUM_PACKETS = 500
MAX_RATIO = 5
"""A length is not believed if it promises more than this many times what size and packets do."""
MEMORY_BYTES = 4 << 30
RESOLUTION_SECONDS = 0.001
POLL_SECONDS = 0.01
_CLOCK_MAY_JUMP = {"mpegts", "mpeg"}


class Promises:
    """Reads the promises of videos in a process of its own, which damaged headers may crash."""

    def __init__(
        self,
        videos: Sequence[SourceVideo],
        frame_rate: float | None = None,
        estimate: bool = True,
    ) -> None:
        """Start reading, in random order, so that those known early stand for all.

        ``frame_rate`` and ``estimate`` are those of `promised_frames`.
        """
        self._read = partial(promised_frames, frame_rate=frame_rate, estimate=estimate)
        self._waiting = deque(random.Random(0).sample(videos, len(videos)))
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._start()

    def take(self) -> Iterator[tuple[SourceVideo, int | None]]:
        """Yield the videos read since the last call, with their promised frames; never waits.

        None: the video promises nothing, or cannot be read.
        """
        while self._waiting and self._connection is not None:
            try:
                if self._connection.poll():
                    self._heard = time.monotonic()
                    promise = self._connection.recv()
                elif time.monotonic() - self._heard < STALL_SECONDS:
                    return
                else:
                    raise EOFError
            except (EOFError, OSError):
                yield self._waiting.popleft(), None
                self.close()
                self._start()
            else:
                yield self._waiting.popleft(), promise

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = self._connection = None

    def _start(self) -> None:
        self._heard = time.monotonic()
        if self._waiting:
            self._connection, theirs = Pipe()
            work = theirs, tuple(self._waiting), self._read
            self._process = spawn(_send_promises, work, "vigil-promises")
            theirs.close()


def stated_seconds(videos: Sequence[SourceVideo]) -> dict[str, float | None]:
    """Name of each video -> the length that its headers state; None if they state none.

    It waits for all of them.
    """
    found: dict[str, float | None] = {}
    with closing(Promises(videos, 1 / RESOLUTION_SECONDS, estimate=False)) as reading:
        while len(found) < len(videos):
            for video, number in reading.take():
                found[video.name] = None if number is None else number * RESOLUTION_SECONDS
            time.sleep(POLL_SECONDS)
    return found


def _send_promises(
    connection: Connection,
    videos: Sequence[SourceVideo],
    read: Callable[[SourceVideo], int | None],
) -> None:
    os.nice(10)
    limit_memory(MEMORY_BYTES)
    with suppress(OSError):  # the other end is closed
        for video in videos:
            connection.send(read(video))


def promised_frames(
    video: SourceVideo, frame_rate: float | None = None, estimate: bool = True
) -> int | None:
    """Return the number of frames that a video promises; None if it promises nothing.

    With a frame rate, it is the number of frames at that rate. Without estimates, only what headers
    state counts, and the most of it.
    """
    try:
        if video.path.is_dir():
            num_pictures = len(list_pictures(video.path))
            return expected_samples(num_pictures, video.picture_fps, frame_rate)
        with open_container(video.path) as container:
            stream = best_stream(container)
            num_frames = (_frames_of if estimate else _stated_frames)(container, stream)
            fps, _ = stated_rate(container, stream, video.input_fps)
    except (VideoError, OSError, av.error.FFmpegError, MemoryError):
        return None
    return None if num_frames is None else expected_samples(num_frames, fps, frame_rate)


def _frames_of(container: InputContainer, stream: VideoStream) -> int | None:
    if stream.frames > 0:
        return stream.frames
    by_length = _frames_by_length(container, stream)
    if by_length is not None and container.format.name not in _CLOCK_MAY_JUMP:
        return by_length
    by_size = _by_size(container, stream)
    if by_length is None or by_size is None or by_length > MAX_RATIO * by_size:
        return by_size
    return by_length


def _stated_frames(container: InputContainer, stream: VideoStream) -> int | None:
    """Return the most that headers state; fragmented MP4 counts the frames of one fragment only."""
    if container.format.name in _CLOCK_MAY_JUMP:
        return None
    return max(stream.frames, _frames_by_length(container, stream) or 0) or None


def _frames_by_length(container: InputContainer, stream: VideoStream) -> int | None:
    seconds = (container.duration or 0) / av.time_base
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    frames = seconds * float(stream.average_rate or 0)
    return round(frames) if math.isfinite(frames) and frames >= 1 else None


def _by_size(container: InputContainer, stream: VideoStream) -> int | None:
    """Return the frames in the whole file if all of it is like its beginning."""
    packets = [packet for packet in islice(container.demux(stream), NUM_PACKETS) if packet.size]
    if not packets:
        return None
    first, last = packets[0].pos, packets[-1].pos
    num_bytes = sum(packet.size for packet in packets)
    if first is not None and last is not None and last > first:  # with sound and headers
        num_bytes = max(num_bytes, last - first + packets[-1].size)
    return round(len(packets) * container.size / num_bytes)
