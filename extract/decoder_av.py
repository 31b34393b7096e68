"""The PyAV decoder: what FFmpeg can read, it reads, and it knows which frames are damaged."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from extract.decoder import VideoInfo, best_stream, open_container


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
        self._reformatter = VideoReformatter()
        self._container = open_container(path)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield every frame FFmpeg returns, those with errors in them too."""
        stream = best_stream(self._container)
        stream.codec_context.thread_count = 1
        for packet in self._packets(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.num_damaged += 1
                continue
            for frame in frames:
                self.num_damaged += frame.is_corrupt
                self._seconds.append(np.nan if frame.time is None else frame.time)
                yield self._pixels(frame)

    def _packets(self, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        packets = self._container.demux(stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                # The container breaks off here. What the codec still holds must come out.
                self.num_damaged += 1
                if isinstance(error, av.error.EOFError):
                    return
                yield Packet()  # type: ignore[misc]  # an empty packet belongs to no stream
                return

    def _pixels(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        width, height = self._size[::-1] if frame.rotation % 180 else self._size
        resized = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation=Interpolation.BILINEAR
        )
        pixels = np.asarray(resized.to_ndarray(), dtype=np.uint8)
        return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))

    def timestamps(self) -> npt.NDArray[np.float64]:
        """(N,) presentation times in seconds."""
        return np.array(self._seconds, dtype=np.float64)

    def close(self) -> None:
        """Close the file."""
        self._container.close()
