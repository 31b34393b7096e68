"""The interface of video decoders, and the properties of a video.

Frames are RGB, uint8 (H, W, 3), with the container's rotation applied. If another size than the
native one is requested, they are resized while decoding, with bilinear interpolation. Of several
video streams, the one that FFmpeg considers best is decoded. Each frame comes once, in presentation
order.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.clips import VIEW_SIZE
from vigil.extract.damage import Damage
from vigil.extract.errors import VideoError

# Containers that hold their own frames. Playlists (hls, concat, dash) are excluded: they would make
# a decoder open other files than the one the user named.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,av1,ivf,obu,flv,"
    "live_flv,asf,ogg,m4v,mjpeg,mxf,gxf,nut,dv,rm,wtv,dhav,xmv,rawvideo,yuv4mpegpipe,gif,vc1"
)
# These store a frame rate but no time per frame; the times that decoders report are guesses.
CONTAINERS_WITHOUT_TIMESTAMPS = {"avi", "h264", "hevc", "m4v", "mjpeg", "mpegvideo", "rawvideo"}


# No camera exceeds these limits: a file that does is damaged, or made to exhaust a machine.
MAX_STREAMS = 64
MAX_FRAME_PIXELS = 1 << 26
"""Twice the pixels of 8K."""
MAX_FRAMES = 10_000_000
"""93 hours at 30 frames a second."""


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a video, as its container states them or its first frame has them."""

    width: int
    """Pixels as displayed, after rotation."""
    height: int
    fps: float
    """Average frames per second; 25 if the container states no rate."""
    num_frames_container: int
    """Number of frames that the container states; 0 if it states none."""
    duration_seconds: float = 0.0
    """Duration that the container states; 0 if it states none."""
    has_timestamps: bool = True
    """False for containers that store no time per frame."""
    is_choice_clear: bool = True
    """False if a file marks some, but not all, of its video streams as default: which of them is
    best then depends on the version of FFmpeg."""


class Decoder(Protocol):
    """One open video, read once from beginning to end."""

    name: str
    info: VideoInfo

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield every frame that decodes.

        Raises:
            VideoError: the decoder cannot continue, although another one might.
        """
        ...

    def timestamps(self) -> npt.NDArray[np.float64]:
        """Return (N,) seconds of the N frames yielded so far; not finite where unknown."""
        ...

    def damage(self) -> Damage:
        """Return which frames so far could not be decoded, or only with errors."""
        ...

    def close(self) -> None:
        """Close the file and free the decoder's memory."""
        ...


def frame_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Return (width, height) in pixels to which frames of a native size are resized.

    The short side becomes exactly ``short_side``; the long side keeps the aspect ratio, rounded.
    None keeps the native size, but a short side below the 224 pixels of a view is always enlarged.
    """
    short = min(width, height)
    target = max(short if short_side is None else short_side, VIEW_SIZE)
    if target == short:
        return width, height
    return (2 * width * target + short) // (2 * short), (2 * height * target + short) // (2 * short)


def frame_edges(timestamps: npt.NDArray[np.float64], info: VideoInfo) -> npt.NDArray[np.float64]:
    """Return (N + 1,) seconds at which each frame starts and the last one ends, from 0 on.

    They never decrease. They come from the timestamps, or from the frame index and the frame rate
    if the container has no timestamps or absurd ones.
    """
    by_index = np.arange(len(timestamps) + 1) / info.fps
    if not (info.has_timestamps and len(timestamps) and np.isfinite(timestamps).all()):
        return by_index
    elapsed = timestamps - timestamps[0]
    absurd = 10 * by_index[-1] + 24 * 3600
    if np.abs(elapsed).max() > absurd:
        return by_index
    edges = np.append(elapsed, elapsed[-1] + 1 / info.fps)
    return np.maximum.accumulate(np.maximum(edges, 0))


def open_container(path: Path, hardware: HWAccel | None = None) -> InputContainer:
    """Open the container of a video file, and no other file.

    Raises:
        VideoError: there is no such file, it is empty, or it is not a video.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100  (resolve() would follow links)
    if not path.is_file():
        raise VideoError("there is no such file")
    if path.stat().st_size == 0:
        raise VideoError("the file is empty")
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        container = av.open(
            absolute, container_options=options, metadata_errors="replace", hwaccel=hardware
        )
    except (av.error.FFmpegError, ValueError) as error:
        reason = _why_not(path, error) if hardware is None else str(error)
        raise VideoError(reason) from error
    if (num_streams := len(container.streams)) > MAX_STREAMS:
        container.close()
        raise VideoError(f"the file holds {num_streams} streams, more than {MAX_STREAMS}")
    return container


def _why_not(path: Path, error: Exception) -> str:
    """Return why FFmpeg cannot open a file, more precisely than FFmpeg if possible."""
    with path.open("rb") as file:
        beginning = file.read(8)
    if beginning.startswith((b"#EXTM3U", b"ffconcat")):
        return "it is a playlist, which would open other files: name the videos themselves"
    if beginning.endswith(b"ftyp"):
        return "an MP4 without a valid index: cut off, still being recorded, or damaged"
    return f"not a video that FFmpeg can open ({getattr(error, 'strerror', None) or error})"


def best_stream(container: InputContainer) -> VideoStream:
    """Return the video stream that FFmpeg would choose, limited to frames of the allowed size.

    Raises:
        VideoError: there is none, its codec is unknown, or its frames are too large.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoError("the file holds no video stream")
    codec = stream.codec_context
    if codec is None:
        raise VideoError("FFmpeg has no decoder for its video stream")
    if codec.width * codec.height > MAX_FRAME_PIXELS:
        raise VideoError(f"its frames of {codec.width}x{codec.height} pixels are too large")
    codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # frames may grow later in the stream
    return stream


def _is_choice_clear(container: InputContainer) -> bool:
    marks = [
        Disposition.default in stream.disposition
        for stream in container.streams.video
        if Disposition.attached_pic not in stream.disposition
    ]
    return len(set(marks)) <= 1


def _duration_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Return the duration that the container states for the stream, or else for the whole file."""
    if stream.duration is not None and stream.time_base is not None:
        return max(float(stream.duration * stream.time_base), 0.0)
    return max((container.duration or 0) / av.time_base, 0.0)


def _first_frame(
    container: InputContainer, stream: VideoStream, beat: Callable[[], None]
) -> VideoFrame:
    """Return the first frame that decodes."""
    packets = container.demux(stream)
    while True:
        beat()
        try:
            frames = next(packets).decode()
        except StopIteration as error:
            raise VideoError("no frame can be decoded", "pyav") from error
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            continue  # after an error of the container itself there are no more packets
        if frames:
            return frames[0]


def probe(path: Path, beat: Callable[[], None] = lambda: None) -> VideoInfo:
    """Return the properties of a file's best video stream, checked by decoding one frame of it.

    ``beat`` is called for every packet that is read.

    Raises:
        VideoError: the file is not a video, or has no video stream or no decodable frame.
        MemoryError: FFmpeg cannot allocate more.
    """
    with open_container(path) as container:
        stream = best_stream(container)
        frame = _first_frame(container, stream, beat)
        width, height = frame.width, frame.height
        if frame.rotation % 180 == 90:
            width, height = height, width
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        has_timestamps = container.format.name not in CONTAINERS_WITHOUT_TIMESTAMPS
        return VideoInfo(
            width=width,
            height=height,
            fps=fps if math.isfinite(fps) and fps > 0 else 25.0,
            num_frames_container=max(stream.frames, 0),
            duration_seconds=_duration_seconds(container, stream) if has_timestamps else 0.0,
            has_timestamps=has_timestamps,
            is_choice_clear=_is_choice_clear(container),
        )
