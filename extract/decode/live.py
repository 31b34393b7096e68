"""Reads a running stream into clips: a network camera, a capture device, or a file as if it ran.

An unbroken stretch of a stream is a *piece*: a video of its own, whose length is not known before
it ends. A piece ends where nothing could be seen for a while, where the clock jumps, or where the
size of the picture changes; what follows is another piece, of the same connection if that is good.
Like `reader`, this needs only a decoder and numpy, and runs in the process of a worker. Memory
does not grow with the length of a piece.
"""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.clips import new_array
from vigil.extract.decode.conversion import Converter
from vigil.extract.decode.decoder import (
    CONTAINERS,
    MAX_FRAME_PIXELS,
    displayed_size,
    frame_size,
    stated_rate,
)
from vigil.extract.decode.interlacing import Deinterlacer
from vigil.extract.decode.live_copy import LiveCopy, PacketCopier
from vigil.extract.decode.orientation import UPRIGHT
from vigil.extract.decode.packet_ring import PacketRing
from vigil.extract.decode.pulse import Pulse
from vigil.extract.decode.reader import NewClip, Pixels, ReadingOptions
from vigil.extract.decode.static_clips import StaticClips
from vigil.extract.decode.thumbnails import LivePhotographer, LiveSheet
from vigil.extract.errors import VideoError

PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
    "http": "http,https,httpproxy,tcp,tls",
    "https": "http,https,httpproxy,tcp,tls",
    "rtmp": "rtmp,tcp",
    "srt": "srt",
    "udp": "udp",
    "tcp": "tcp",
    "file": "file",
}
"""Scheme of an address -> the protocols that FFmpeg may use for it. HTTP never reads files."""
DEVICE = re.compile(r"/dev/video\d+")
FORMATS = f"{CONTAINERS},rtsp,hls,mpjpeg,video4linux2,v4l2"
GAP_SECONDS = 5.0
"""A piece ends where the next frame is this much later, or earlier than the last. Another follows
from the same connection if the piece was so long, or the stream can end: a camera whose clock jumps
all the time is called again, after a pause."""
MAX_HIDDEN = 250
"""Frames before the first key frame, which a camera sends to whoever joins late, and which show
little. After so many without one, the stream is taken as it is."""
ENDED = "the stream ended"

WhenLate: TypeAlias = Literal["drop-oldest", "sparser", "keep-all"]
"""What to do with clips for which the devices have no time."""

TimedFrame: TypeAlias = tuple[float, Pixels]
"""Seconds since the first frame of a piece, and (H, W, 3) RGB pixels in FFmpeg's memory."""
_Decoded: TypeAlias = tuple[float, VideoFrame, VideoFrame]
"""Seconds by the clock of the stream, and a frame as it was decoded, and deinterlaced."""


@dataclass(frozen=True)
class LiveSource:
    """A camera to follow."""

    name: str
    address: str = field(repr=False)
    """May hold a password: it never appears in a message."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Of RTSP; over UDP, lost packets damage pictures."""
    connect_seconds: float = 15.0
    """Time limit for the first answer."""
    silence_seconds: float = 10.0
    """A stream that sends nothing for so long is taken to be broken."""
    when_late: WhenLate = "drop-oldest"
    """Means nothing for a stream that can end: all of it is computed."""

    @property
    def can_end(self) -> bool:
        """Whether the stream is a file played, which ends for good and may be read faster."""
        return urlsplit(self.address).scheme == "file"


@dataclass(frozen=True)
class PieceBegun:
    """The first frame of a piece has arrived."""

    began_at: float
    """When, in seconds since 1970, by the clock of this machine."""
    fps: float
    width: int
    """Pixels as displayed."""
    height: int


@dataclass(frozen=True, eq=False)
class LiveClip:
    """The next clip of a piece, and the times of the frames that no clip before it has shown."""

    pixels: npt.NDArray[np.uint8]
    """(T, H, W, 3) RGB."""
    seconds: npt.NDArray[np.float64]
    """(n,) since the first frame of the piece."""
    is_static: bool = False
    """As in `Clip`."""


@dataclass(frozen=True)
class PieceEnded:
    """The end of a piece, after its last clip; or a stream that never began."""

    reason: str
    num_frames: int
    num_errors: int = 0
    """Packets that could not be decoded, or only with errors."""
    goes_on: bool = False
    """Whether the next piece of the stream follows at once."""


def require_stream(address: str) -> None:
    """Refuse an address that is not that of a stream.

    Raises:
        VideoError: names what is allowed, and nothing of the address but its scheme.
    """
    scheme = urlsplit(address).scheme
    if scheme not in PROTOCOLS and not DEVICE.fullmatch(address):
        known = ", ".join(f"{name}://" for name in PROTOCOLS if name != "file")
        raise VideoError(f"{scheme or 'it'}:// is not a stream: use {known} or /dev/video0")


def open_stream(source: LiveSource) -> InputContainer:
    """Connect to a camera.

    Raises:
        av.error.FFmpegError: nothing answers, or not with a video.
    """
    av.logging.set_level(av.logging.PANIC)  # its messages name addresses
    address = source.address
    is_device = DEVICE.fullmatch(address) is not None
    scheme = "file" if is_device else urlsplit(address).scheme
    options = {"protocol_whitelist": PROTOCOLS[scheme], "format_whitelist": FORMATS}
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = source.transport
    return av.open(
        address,
        format="v4l2" if is_device else None,
        container_options=options,
        metadata_errors="replace",
        timeout=(source.connect_seconds, source.silence_seconds),
    )


def read_stream(
    source: LiveSource,
    options: ReadingOptions,
    new_clip: NewClip = new_array,
    pulse: Pulse | None = None,
    packets: PacketRing | None = None,
) -> Iterator[PieceBegun | LiveClip | LiveSheet | LiveCopy | PieceEnded]:
    """Yield the pieces of a stream: of each its beginning, its clips in order, and why it ended.

    At least the end of one comes, and only the last end does not go on. A sheet of thumbnails comes
    after the clips whose frames it shows, and so does what was copied meanwhile.

    Args:
        source: the camera.
        options: how frames are turned into clips; a frame rate is not supported.
        new_clip: returns the memory for each clip, as in `ClipGrid.cut`.
        pulse: records heartbeat and progress, for a process that watches.
        packets: where to keep a copy of the newest packets; None: they are not kept.

    Raises:
        VideoError: the address is not that of a stream.
    """
    require_stream(source.address)
    pieces = _Pieces(source, options, pulse or Pulse(), PacketCopier(packets))
    photographer = LivePhotographer(options.thumbnails)
    try:
        with pieces.open() as container:
            for frames in pieces.read(container):
                yield from _read_piece(pieces, frames, photographer, options, new_clip)
                if pieces.goes_on:
                    yield from photographer.sheets(is_end=True)
                    yield from pieces.copier.news(is_end=True)
                    yield pieces.ended
                    photographer = LivePhotographer(options.thumbnails)
    except av.error.FFmpegError as error:
        pieces.reason = why_broken(error)
    yield from photographer.sheets(is_end=True)
    yield from pieces.copier.news(is_end=True)
    yield pieces.ended


def _read_piece(
    pieces: "_Pieces",
    frames: Iterator[TimedFrame],
    photographer: LivePhotographer,
    options: ReadingOptions,
    new_clip: NewClip,
) -> Iterator[PieceBegun | LiveClip | LiveSheet | LiveCopy]:
    """Yield the beginning of a piece, its clips, what was copied, and sheets that are full."""
    for first in frames:  # and the rest of them below
        yield pieces.begun
        seconds: list[float] = []
        static = StaticClips() if options.finds_static else None
        noted = _noting(photographer.watch(chain([first], frames)), seconds)
        for pixels in options.grid.cut(noted, new_clip):
            is_static = static is not None and static.is_static(pixels)
            yield LiveClip(pixels, np.array(seconds), is_static)
            seconds.clear()
            yield from photographer.sheets()
            yield from pieces.copier.news()


def _noting(frames: Iterable[TimedFrame], seconds: list[float]) -> Iterator[Pixels]:
    """Yield the pixels of frames, and add their times to ``seconds``."""
    for when, pixels in frames:
        seconds.append(when)
        yield pixels


class _Pieces:
    """The pieces of a stream while it is read, one after the other."""

    def __init__(
        self, source: LiveSource, options: ReadingOptions, pulse: Pulse, copier: PacketCopier
    ) -> None:
        self.copier = copier
        self.reason = ENDED
        """Why the stream ends, unless the present piece is cut before."""
        self.goes_on = False
        self.num_frames = self.num_errors = 0
        self.begun = PieceBegun(0.0, 0.0, 0, 0)
        self._source, self._options, self._pulse = source, options, pulse
        self._ahead: list[_Decoded] = []
        """The first frame of the next piece."""
        self._cut = ""
        """Why the present piece is cut."""

    def open(self) -> InputContainer:
        """Connect, as `open_stream` does."""
        self._pulse.decoder = "pyav"
        return open_stream(self._source)

    @property
    def ended(self) -> PieceEnded:
        """The end of the present piece."""
        return PieceEnded(self._cut or self.reason, self.num_frames, self.num_errors, self.goes_on)

    def read(self, container: InputContainer) -> Iterator[Iterator[TimedFrame]]:
        """Yield the frames of each piece, to be read before the next one is asked for.

        An error of the stream ends a piece like the end of the stream: the frames before it count.
        """
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            self.reason = "it holds no video"
            return
        decoded = self._timed(container, stream)
        yield self._frames(container, stream, decoded)
        while self.goes_on:
            self._cut, self.goes_on = "", False
            self.num_frames = self.num_errors = 0
            yield self._frames(container, stream, decoded)

    def _frames(
        self, container: InputContainer, stream: VideoStream, decoded: Iterator[_Decoded]
    ) -> Iterator[TimedFrame]:
        """Yield frames with their seconds since the first one, until the piece ends."""
        convert: Converter | None = None
        size, origin, last = (0, 0), 0.0, 0.0
        for now, frame, picture in chain(self._ahead, decoded):
            if convert is None:
                origin, size = now, (frame.width, frame.height)
                convert = self._begin(container, stream, frame)
            elif (frame.width, frame.height) != size:
                self._cut = f"the picture changed to {frame.width}x{frame.height} pixels"
            elif not -GAP_SECONDS < now - last < GAP_SECONDS:
                self._cut = f"the clock of the stream jumped by {now - last:+.1f} s"
            if self._cut:
                self.goes_on = self._source.can_end or last - origin >= GAP_SECONDS
                self._ahead = [(now, frame, picture)]
                return
            last = now
            self.num_frames += 1
            self._pulse.num_frames = self.num_frames
            yield now - origin, convert.pixels(frame, picture)

    def _begin(
        self, container: InputContainer, stream: VideoStream, frame: VideoFrame
    ) -> Converter:
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
        width, height = displayed_size(frame, aspect)
        fps, _ = stated_rate(container, stream, None)
        self.begun = PieceBegun(time.time(), fps, width, height)
        self.copier.begin(frame, fps)
        return Converter(*frame_size(width, height, self._options.short_side), UPRIGHT)

    def _timed(self, container: InputContainer, stream: VideoStream) -> Iterator[_Decoded]:
        """Yield frames with their times by the clock of the stream."""
        now: float | None = None
        for frame, picture in self._decoded(container, stream):
            if frame.pts is not None and stream.time_base:
                now = float(frame.pts * stream.time_base)
            else:
                now = 0.0 if now is None else now + 1 / self.begun.fps
            yield now, frame, picture

    def _decoded(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        """Yield frames as they were decoded, and deinterlaced, from the first key frame on."""
        codec = stream.codec_context
        codec.thread_count = 1
        codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        deinterlacer = Deinterlacer(self._options.deinterlace, codec.name)
        num_hidden = 0
        for packet in self._packets(container, stream):
            self._pulse.beat()
            try:
                frames = codec.decode(packet)
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                self.num_errors += 1
                frames = []
            if packet is not None:
                self.copier.take(packet)
            for frame in frames:
                self.num_errors += frame.is_corrupt
                num_hidden += 1
                if self.num_frames or frame.key_frame or num_hidden > MAX_HIDDEN:
                    yield from deinterlacer.push(frame)
        yield from deinterlacer.flush()

    def _packets(
        self, container: InputContainer, stream: VideoStream
    ) -> "Iterator[Packet[VideoStream] | None]":
        """Yield packets until the stream ends, and at last an empty one; or None if it breaks."""
        packets = container.demux(*self.copier.listen(container, stream))
        while True:
            try:
                packet = next(packets)
            except (StopIteration, IndexError):  # as `streams.demux` explains
                return
            except av.error.FFmpegError as error:
                self.reason = why_broken(error)
                yield None
                return
            if packet.stream_index == stream.index:
                yield packet
            else:
                self.copier.take(packet)


def why_broken(error: av.error.FFmpegError) -> str:
    """Return what went wrong, without the address that FFmpeg adds."""
    if isinstance(error, av.error.ExitError | TimeoutError):
        return "nothing came for too long"
    return error.strerror or type(error).__name__
