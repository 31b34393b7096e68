"""The interface of video decoders, and the properties of a video.

Frames are RGB, uint8 (H, W, 3), turned and mirrored as the file asks, with square pixels, and
deinterlaced. If another size than the native one is requested, they are resized while decoding,
with bilinear interpolation. Of several video streams, the one that FFmpeg considers best is
decoded. Each frame comes once, in presentation order.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
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
from vigil.extract.decode.interlacing import may_be_interlaced
from vigil.extract.decode.orientation import UPRIGHT, Orientation, orientation, rotation_ignored
from vigil.extract.decode.transport import extents
from vigil.extract.errors import VideoError
from vigil.extract.source import ASSUMED_FPS

# Containers that hold their own frames. Playlists (hls, concat, dash) are excluded: they would make
# a decoder open other files than the one the user named.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,av1,ivf,obu,flv,"
    "live_flv,asf,ogg,m4v,mjpeg,mxf,gxf,nut,dv,rm,wtv,dhav,xmv,rawvideo,yuv4mpegpipe,gif,vc1"
)
# JPEG pictures with headers, as cameras send them; a saved stream may begin with the answer's own.
MULTIPART = re.compile(rb"(HTTP/[^\r\n]*\r?\n([^\r\n]+\r?\n)*)?\s*--[^\r\n]*\r?\n[A-Za-z-]+:")
BEGINNING_BYTES = 4096

# These store a frame rate but no time per frame; the times that decoders report are guesses.
CONTAINERS_WITHOUT_TIMESTAMPS = {"avi", "rawvideo"}
NO_TIMESTAMPS, TIMES_MAY_JUMP = 0x80, 0x200
"""FFmpeg's flags of raw streams, without times and rates of their own, and of containers in which
each part may have its own clock."""
CLOCK_BITS = {"mpegts": 33, "mpeg": 33}
"""Containers whose clock starts again at 0 -> its length in bits, at 90 kHz (ISO 13818-1)."""
LONGEST_GAP_SECONDS = 60.0
"""Where times may jump, a longer step forward is a jump; a shorter one is a gap in the picture."""
END_SECONDS = 1.0
"""Streams may end so much earlier than the file."""
_DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)\0*")  # Matroska's, per stream
MIN_FPS, MAX_FPS = 0.01, 1000.0

# No camera exceeds these limits: a file that does is damaged, or made to exhaust a machine.
MAX_STREAMS = 64
MAX_FRAME_PIXELS = 1 << 26
"""Twice the pixels of 8K."""
MAX_FRAMES = 10_000_000
"""93 hours at 30 frames a second."""


GIVEN_RATE, ASSUMED_RATE, UNKNOWN_TIMES = "given", "assumed", "unknown times"
"""Why times follow from a frame rate that the file does not state, or not from the file's times."""


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a video, as its container states them or its first frame has them."""

    width: int
    """Pixels as displayed: after rotation, and with square pixels."""
    height: int
    fps: float
    """Average frames per second; 25 if neither container nor headers state a rate."""
    num_frames_container: int
    """Number of frames that the container states; 0 if it states none."""
    duration_seconds: float = 0.0
    """Duration that the container states; 0 if it states none."""
    has_timestamps: bool = True
    """False for containers that store no time per frame; frames then follow at the frame rate."""
    is_choice_clear: bool = True
    """False if a file marks some, but not all, of its video streams as default: which of them is
    best then depends on the version of FFmpeg."""
    orientation: Orientation = UPRIGHT
    """How to show the first frame, and later ones that say nothing else."""
    rotation_ignored: float = 0.0
    """Degrees, clockwise, by which the file asks to turn frames beyond a multiple of 90."""
    is_plain: bool = True
    """False if decoders with an older FFmpeg might show frames otherwise: they are mirrored, turned
    by something else than the index of an MP4, or their pixels are not square."""
    may_be_interlaced: bool = False
    """Whether there may be interlaced frames, at the beginning or later."""
    rate_source: str = ""
    """Empty: the file states its frame rate; `GIVEN_RATE` or `ASSUMED_RATE`: it does not."""
    counts_chunks: bool = False
    """True for AVI: the position of a chunk is its time, and empty chunks take up time, too."""
    clock_wrap_seconds: float = 0.0
    """The container's clock starts again after so long; 0: never."""
    longest_gap_seconds: float = 0.0
    """A longer step forward of the clock is a jump; 0: only absurd ones are."""
    last_frame_seconds: float = 0.0
    """How long the last frame is shown; 0: as long as others. Known only at the end."""
    num_bytes_unread: int = 0
    """Size of another recording in the same file, which no decoder reads. Known only at the end."""


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

    def last_timestamp(self) -> float:
        """Return the exact seconds of the frame yielded last; not finite if it has no time.

        Raises:
            VideoError: the decoder cannot know it, although another one might.
        """
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


def displayed_size(frame: VideoFrame, pixel_aspect: Fraction | int = 1) -> tuple[int, int]:
    """Return (width, height) in square pixels of a frame as it is shown.

    ``pixel_aspect`` is the width of a pixel divided by its height, before the frame is turned.
    """
    width, height = max(round(frame.width * pixel_aspect), 1), frame.height
    return (height, width) if orientation(frame).swaps_sides else (width, height)


def open_container(
    path: Path, hardware: HWAccel | None = None, skipped_bytes: int = 0
) -> InputContainer:
    """Open the container of a video file, and no other file.

    Args:
        path: the file.
        hardware: decodes the packets, if that is possible.
        skipped_bytes: how much of the file's beginning to ignore.

    Raises:
        VideoError: there is no such file, it is empty, or it is not a video.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100  (resolve() would follow links)
    if not path.is_file():
        raise VideoError("there is no such file")
    if path.stat().st_size == 0:
        raise VideoError("the file is empty")
    with path.open("rb") as file:
        beginning = file.read(BEGINNING_BYTES)
    is_multipart = MULTIPART.match(beginning) is not None
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    if skipped_bytes:
        options["skip_initial_bytes"] = str(skipped_bytes)
    try:
        container = av.open(
            absolute,
            format="mjpeg" if is_multipart else None,  # it ignores the headers between pictures
            container_options=options,
            metadata_errors="replace",
            hwaccel=hardware,
        )
    except (av.error.FFmpegError, ValueError) as error:
        reason = _why_not(beginning, error) if hardware is None else str(error)
        raise VideoError(reason) from error
    if (num_streams := len(container.streams)) > MAX_STREAMS:
        container.close()
        raise VideoError(f"the file holds {num_streams} streams, more than {MAX_STREAMS}")
    return container


def _why_not(beginning: bytes, error: Exception) -> str:
    """Return why FFmpeg cannot open a file, more precisely than FFmpeg if possible."""
    if beginning.startswith(b"HTTP/") or MULTIPART.match(beginning):
        return "the answer of a web server, without the JPEG pictures of a camera: record it anew"
    if beginning.startswith((b"#EXTM3U", b"ffconcat")):
        return "it is a playlist, which would open other files: name the videos themselves"
    if beginning[4:8] == b"ftyp":
        return "an MP4 without a valid index: cut off, still being recorded, or damaged"
    return f"not a video that FFmpeg can open ({getattr(error, 'strerror', None) or error})"


def best_stream(container: InputContainer) -> VideoStream:
    """Return the video stream that FFmpeg would choose, limited to frames of the allowed size.

    A picture attached to a file, such as the cover of a song, is not a video.

    Raises:
        VideoError: there is none, its codec is unknown, or its frames are too large.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoError("the file holds no video stream")
    if Disposition.attached_pic in stream.disposition:
        stream = next(_videos(container), None)
        if stream is None:
            raise VideoError("its only picture is a cover, attached to sound: it is not a video")
    if container.format.name == "mpegts" and len(container.streams.video) > 1:
        stream = _first_of_successors(container, stream)
    codec = stream.codec_context
    if codec is None:
        raise VideoError("FFmpeg has no decoder for its video stream")
    if codec.width * codec.height > MAX_FRAME_PIXELS:
        raise VideoError(f"its frames of {codec.width}x{codec.height} pixels are too large")
    codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # frames may grow later in the stream
    return stream


def _first_of_successors(container: InputContainer, best: VideoStream) -> VideoStream:
    """Return the first video stream of a transport stream that ends before the best one begins."""
    streams = [best, *container.streams.video]
    (begin, _), *others = extents(Path(container.name), [stream.id for stream in streams])
    earlier = [
        (other_begin, stream)
        for (other_begin, end), stream in zip(others, streams[1:], strict=True)
        if 0 <= end < begin
    ]
    return min(earlier, key=lambda one: one[0])[1] if earlier else best


def _is_choice_clear(container: InputContainer) -> bool:
    best = container.streams.best("video")
    marks = [Disposition.default in stream.disposition for stream in _videos(container)]
    return len(set(marks)) <= 1 and best in list(_videos(container))


def _videos(container: InputContainer) -> Iterator[VideoStream]:
    """Yield the video streams that are more than a cover."""
    for stream in container.streams.video:
        if Disposition.attached_pic not in stream.disposition:
            yield stream


def num_stated_frames(container: InputContainer, stream: VideoStream) -> int:
    """Return the number of packets that the container states for a stream; 0 if it states none.

    In MP4 the index is counted, which lacks what lies far outside an edit list.
    """
    is_indexed = stream.frames > 0 and container.format.name.startswith("mov")
    return len(stream.index_entries) if is_indexed else max(stream.frames, 0)


def _duration_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Return the duration that the container states for the stream, or else for the whole file.

    That of the whole file is 0 if it may be another stream's.
    """
    unit = stream.time_base or Fraction(0)
    if stream.duration is not None and unit:
        return max(float(stream.duration * unit), 0.0)
    start_seconds = float((stream.start_time or 0) * unit)
    if match := _DURATION_TAG.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = (float(part) for part in match.groups())
        return max(3600 * hours + 60 * minutes + seconds - max(start_seconds, 0.0), 0.0)
    seconds = max((container.duration or 0) / av.time_base, 0.0)
    return seconds if len(container.streams) == 1 or not _is_reached(container, seconds) else 0.0


def _is_reached(container: InputContainer, seconds: float) -> bool:
    """Whether any stream reaches the stated end; if none does, the file is cut off."""
    start = container.start_time or 0
    near_end = start + round(max(seconds - 2 * END_SECONDS, 0) * av.time_base)
    for place in (near_end, start):  # without an index, only reading all of it may help
        try:
            container.seek(place)
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base
                    if float(end) - start / av.time_base >= seconds - END_SECONDS:
                        return True
        except (av.error.FFmpegError, IndexError):
            pass  # streams may appear late
    return False


def stated_rate(
    container: InputContainer, stream: VideoStream, input_fps: float | None
) -> tuple[float, str]:
    """Return frames per second, and where they come from, as in `VideoInfo.rate_source`."""
    if container.format.flags & NO_TIMESTAMPS:
        # FFmpeg states 25 for all raw streams; what their headers state, the codec knows.
        fps = float(stream.codec_context.framerate or 0)
        if math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS:
            return fps, ""
        return input_fps or ASSUMED_FPS, GIVEN_RATE if input_fps else ASSUMED_RATE
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    return (fps if math.isfinite(fps) and fps > 0 else ASSUMED_FPS), ""


def _first_frame(
    container: InputContainer, stream: VideoStream, beat: Callable[[], None]
) -> VideoFrame:
    """Return the first frame that decodes."""
    packets = container.demux(stream)
    while True:
        beat()
        try:
            frames = next(packets).decode()
        except (StopIteration, IndexError) as error:  # as `streams.demux` explains
            raise VideoError("no frame can be decoded", "pyav") from error
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            continue  # after an error of the container itself there are no more packets
        if frames:
            return frames[0]


def probe(
    path: Path, beat: Callable[[], None] = lambda: None, input_fps: float | None = None
) -> VideoInfo:
    """Return the properties of a file's best video stream, checked by decoding one frame of it.

    Args:
        path: the file of the video.
        beat: called for every packet that is read.
        input_fps: frames per second of a raw stream whose headers state no rate.

    Raises:
        VideoError: the file is not a video, or has no video stream or no decodable frame.
        MemoryError: FFmpeg cannot allocate more.
    """
    with open_container(path) as container:
        stream = best_stream(container)
        frame = _first_frame(container, stream, beat)
        shown, ignored = orientation(frame), rotation_ignored(frame)
        is_mp4 = container.format.name.startswith("mov,")
        pixel_aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
        width, height = displayed_size(frame, pixel_aspect)
        is_turned_as_ever = is_mp4 and not shown.is_mirrored and abs(ignored) < 0.5
        is_upright = shown == UPRIGHT and ignored == 0
        fps, rate_source = stated_rate(container, stream, input_fps)
        name, flags = container.format.name, container.format.flags
        has_timestamps = not (name in CONTAINERS_WITHOUT_TIMESTAMPS or flags & NO_TIMESTAMPS)
        may_jump = has_timestamps and bool(flags & TIMES_MAY_JUMP)
        return VideoInfo(
            width=width,
            height=height,
            fps=fps,
            num_frames_container=num_stated_frames(container, stream),
            duration_seconds=_duration_seconds(container, stream) if has_timestamps else 0.0,
            has_timestamps=has_timestamps,
            is_choice_clear=_is_choice_clear(container),
            rotation_ignored=ignored,
            orientation=shown,
            is_plain=pixel_aspect == 1 and (is_upright or is_turned_as_ever),
            may_be_interlaced=may_be_interlaced(frame, stream.codec_context),
            rate_source=rate_source,
            counts_chunks=name == "avi",
            clock_wrap_seconds=(1 << CLOCK_BITS[name]) / 90_000 if name in CLOCK_BITS else 0.0,
            longest_gap_seconds=LONGEST_GAP_SECONDS if may_jump else 0.0,
        )
