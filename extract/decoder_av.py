"""The PyAV decoder: what FFmpeg can read, it reads, and it knows which frames are damaged."""

import math
from collections.abc import Iterator
from pathlib import Path

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from extract.decoder import VideoInfo, best_stream, open_container

# Counter-clockwise angle in degrees -> the filters that turn a frame by it.
_ROTATIONS: dict[int, list[tuple[str, str | None]]] = {
    90: [("transpose", "cclock")],
    180: [("hflip", None), ("vflip", None)],
    270: [("transpose", "clock")],
}


class AvDecoder:
    """A `Decoder` that goes on behind damage and counts it."""

    name = "pyav"

    def __init__(self, path: Path, info: VideoInfo, width: int, height: int) -> None:
        """Open a video whose frames are to have the given size in pixels.

        Raises:
            VideoError: the file cannot be opened as a video.
        """
        self.info = info
        self.num_damaged = 0
        self._size = width, height
        self._seconds: list[float] = []
        self._graphs: dict[tuple[str, int, int, int], Graph] = {}
        self._container = open_container(path)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield every frame FFmpeg returns, those with errors in them too."""
        av.logging.set_level(av.logging.PANIC)  # count errors, print nothing
        stream = best_stream(self._container)
        stream.codec_context.thread_count = 1
        num_errors = _num_logged_errors()
        for packet in self._packets(stream):
            try:
                frames, failed = stream.codec_context.decode(packet), False
            except av.error.FFmpegError:
                frames, failed = [], True
            num_before, num_errors = num_errors, _num_logged_errors()
            num_corrupt = sum(frame.is_corrupt for frame in frames)
            self.num_damaged += max(failed or num_errors > num_before, num_corrupt)
            for frame in frames:
                self._seconds.append(_seconds(frame, stream))
                yield self._pixels(frame)

    def _packets(self, stream: VideoStream) -> "Iterator[Packet[VideoStream] | None]":
        """Yield the packets; None makes the codec give out what it still holds."""
        packets = self._container.demux(stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:
                self.num_damaged += 1  # the container breaks off here
                yield None
                return

    def _pixels(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        kind = frame.format.name, frame.width, frame.height, frame.rotation % 360
        if kind not in self._graphs:
            self._graphs[kind] = _conversion(frame, *self._size)
        self._graphs[kind].vpush(frame)
        return np.asarray(self._graphs[kind].vpull().to_ndarray(), dtype=np.uint8)

    def timestamps(self) -> npt.NDArray[np.float64]:
        """(N,) presentation times in seconds."""
        return np.array(self._seconds, dtype=np.float64)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _seconds(frame: VideoFrame, stream: VideoStream) -> float:
    """When a frame is shown; frames that were waiting in the codec do not know their time base."""
    if frame.pts is None or stream.time_base is None:
        return math.nan
    return float(frame.pts * stream.time_base)


def _conversion(frame: VideoFrame, width: int, height: int) -> Graph:
    """Filters that turn frames of this kind upright, resize them and make them RGB.

    They are those of decord, in its order: with `VideoFrame.reformat` the chroma of resized frames
    lies elsewhere, and 10-bit colours differ.
    """
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    filters: list[tuple[str, str | None]] = [
        *_ROTATIONS.get(frame.rotation % 360, []),
        ("scale", f"{width}:{height}:flags=bilinear"),
        ("format", "rgb24"),
        ("buffersink", None),
    ]
    graph.link_nodes(source, *(graph.add(*named) for named in filters)).configure()
    return graph


def _num_logged_errors() -> int:
    """How many errors FFmpeg has logged in this process so far."""
    num_errors, _last = av.logging.get_last_error()
    return num_errors
