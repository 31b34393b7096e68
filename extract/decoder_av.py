"""The PyAV decoder: what FFmpeg can read, it reads, and it knows which frames are damaged."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.codec.hwaccel import HWAccel
from av.filter import Graph
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.damage import Damage, DamageLog
from vigil.extract.decoder import MAX_FRAMES, VideoInfo, best_stream, open_container
from vigil.extract.errors import VideoError

NO_PTS = -(1 << 63)
"""FFmpeg's number for a time that is not known."""

MAX_UNTOLD = 2
"""Frames by which the promise of a container without timestamps may be wrong."""

ONE_FRAME_A_PACKET = ("h264", "hevc")
"""Codecs in which a packet without a frame is a frame lost, unless a packet holds half a frame: of
interlaced video. FFmpeg says nothing of frames that it cannot show for want of others."""

HOLE = bytes(32)
"""Zeros in the place of data. H.264 (7.4.1) and HEVC (7.4.2) have two in a row at most within a
unit, and FFmpeg may decode more without a word; behind a unit there may be any number."""

MAX_GRAPHS = 8
"""Kinds of frames, by format, size and rotation, for which filters are kept."""

# Counter-clockwise angle in degrees -> the filters that turn a frame by it.
_ROTATIONS: dict[int, list[tuple[str, str | None]]] = {
    90: [("transpose", "cclock")],
    180: [("hflip", None), ("vflip", None)],
    270: [("transpose", "clock")],
}


@dataclass(frozen=True)
class Decoded:
    """What came of one packet of a video."""

    packet: "Packet[VideoStream] | None"
    """None: the container breaks off, and the codec gives out what it still holds."""
    frames: Sequence[VideoFrame]
    """Those that became ready, in the order in which they are shown; not always the packet's."""
    has_error: bool
    """Met in the packet, or on the way to it."""


class AvDecoder:
    """A `Decoder` that goes on behind damage and counts it."""

    name = "pyav"

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        width: int,
        height: int,
        hardware: HWAccel | None = None,
    ) -> None:
        """Open a video whose frames are to have the given size in pixels.

        Raises:
            VideoError: the file cannot be opened as a video.
        """
        self.info = info
        self._size = width, height
        self._pts = array("q")
        self._damage = DamageLog()
        self._num_packets = 0
        """But those that an edit list hides."""
        self._is_cut = False
        """Whether only a part of the packet before was there."""
        self._is_interlaced = False
        self._is_over = False
        """Whether the codec has given out every frame."""
        self._graphs: dict[tuple[str, int, int, int], Graph] = {}
        self._codec = self._open(path, hardware)

    def _open(self, path: Path, hardware: HWAccel | None) -> VideoCodecContext:
        """Open the file, and return what decodes its packets."""
        self._container = open_container(path, hardware)
        self._stream = best_stream(self._container)
        return self._stream.codec_context

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield every frame FFmpeg returns, those with errors in them too.

        Raises:
            MemoryError: FFmpeg gets no more.
        """
        for decoded in self._decode():
            self._note_damage(decoded)
            for frame in decoded.frames:
                self._is_interlaced |= frame.interlaced_frame
                if frame.is_corrupt:
                    self._damage.damaged.append(len(self._pts))
                yield self._pixels(frame)

    def _note_damage(self, decoded: Decoded) -> None:
        """Note an error; at the end, what should have come behind it if the file breaks off."""
        packet, log = decoded.packet, self._damage
        if packet is None or packet.size == 0:
            self._is_over = True
            num_missing = self._num_promised() - self._num_packets
            # Without timestamps there are no edit lists, for which fewer packets may come.
            is_short = not self.info.has_timestamps and num_missing > MAX_UNTOLD
            if decoded.has_error or self._is_cut or is_short:
                log.num_cut_off = max(num_missing, int(decoded.has_error))
            return
        self._num_packets += 1
        self._is_cut = packet.is_corrupt
        if packet.is_discard:
            return
        if packet.pts is not None:
            log.packet_pts.append(packet.pts)
        if not decoded.has_error:
            return
        if packet.pts is not None:
            log.error_pts.append(packet.pts)
        elif decoded.frames:
            log.damaged.append(len(self._pts))
        else:
            log.lost.append(len(self._pts))

    def _num_promised(self) -> int:
        """Frames that the container promises, or that fit into the length that it promises."""
        by_length = self.info.duration_seconds * self.info.fps
        return round(min(self.info.num_frames_container or by_length, MAX_FRAMES))

    def _decode(self) -> Iterator[Decoded]:
        av.logging.set_level(av.logging.PANIC)  # count errors, print nothing
        codec = self._codec
        codec.thread_count = 1
        num_errors = num_logged_errors()
        for packet in self._packets():
            if packet is not None and packet.size == 0 and packet.dts is not None:
                self._num_packets += 1  # the frame before is shown on; to codecs it were the end
                continue
            try:
                frames, failed = codec.decode(packet), False
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                frames, failed = [], True
            num_before, num_errors = num_errors, num_logged_errors()
            failed = failed or num_errors > num_before
            failed = failed or packet is None or packet.is_corrupt or _has_hole(packet, codec)
            yield Decoded(packet, frames, failed)

    def _packets(self) -> "Iterator[Packet[VideoStream] | None]":
        """Yield the packets; None where the container breaks off."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                yield None
                return

    def _pixels(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB, in FFmpeg's memory."""
        self._pts.append(NO_PTS if frame.pts is None else frame.pts)
        kind = frame.format.name, frame.width, frame.height, frame.rotation % 360
        if kind not in self._graphs:
            if len(self._graphs) == MAX_GRAPHS:
                self._graphs.clear()
            self._graphs[kind] = _conversion(frame, *self._size)
        self._graphs[kind].vpush(frame)
        width, height = self._size
        plane = self._graphs[kind].vpull().planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        return rows[:, : 3 * width].reshape(height, width, 3)

    def timestamps(self) -> npt.NDArray[np.float64]:
        """(N,) presentation times in seconds."""
        # Frames that were waiting in the codec do not know their time base: the stream does.
        unit, pts = self._stream.time_base or Fraction(0), np.array(self._pts, np.float64)
        is_known = (pts != NO_PTS) & (unit != 0)
        return np.where(is_known, pts * unit.numerator / unit.denominator, np.nan)

    def damage(self) -> Damage:
        """Every error so far at its place."""
        is_each_a_frame = self._codec.name in ONE_FRAME_A_PACKET
        has_silent = self._is_over and is_each_a_frame and not self._is_interlaced
        return self._damage.place(np.array(self._pts), has_silent)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class NvdecDecoder(AvDecoder):
    """The same, with the decoding unit of an NVIDIA GPU, for what that can decode.

    Its frames are downloaded, then turned, resized and made RGB by the same filters. How it
    compares in speed and pixels has not been measured, so it is used only where it is asked for.
    """

    name = "nvdec"

    def __init__(self, path: Path, info: VideoInfo, width: int, height: int) -> None:
        """Open a video whose frames are to have the given size in pixels.

        Raises:
            VideoError: there is no such unit, or it cannot decode this codec.
        """
        hardware = HWAccel("cuda", allow_software_fallback=False)
        try:
            super().__init__(path, info, width, height, hardware)
        except (VideoError, RuntimeError) as error:
            reason = f"no NVIDIA GPU here can decode it ({error}): use --decoder auto"
            raise VideoError(reason, self.name) from error
        if not self._codec.is_hwaccel:
            self.close()
            codec = self._codec.name
            raise VideoError(f"NVIDIA GPUs do not decode {codec}: use --decoder auto", self.name)


def _conversion(frame: VideoFrame, width: int, height: int) -> Graph:
    """Filters that turn frames of this kind upright, resize them and make them RGB.

    They are those of decord, in its order: with `VideoFrame.reformat` the chroma of resized frames
    lies elsewhere, and 10-bit colours differ.
    """
    # FFmpeg scales to packed RGB of an odd width without vector instructions. By way of planar RGB
    # it takes half the time, and gives the same pixels if several rows make one.
    upright_height = frame.height if frame.rotation % 180 == 0 else frame.width
    is_reduced = 8 * height <= 7 * upright_height
    by_planes = [("format", "gbrp")] if is_reduced and width % 2 else []
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    filters: list[tuple[str, str | None]] = [
        *_ROTATIONS.get(frame.rotation % 360, []),
        ("scale", f"{width}:{height}:flags=bilinear"),
        *by_planes,
        ("format", "rgb24"),
        ("buffersink", None),
    ]
    graph.link_nodes(source, *(graph.add(*named) for named in filters)).configure()
    return graph


def has_holes(path: Path) -> bool:
    """Whether a packet of a video has zeros in the place of data, or cannot be read.

    Raises:
        MemoryError: FFmpeg gets no more.
    """
    with open_container(path) as container:
        stream = best_stream(container)
        codec = stream.codec_context
        if codec.name not in ONE_FRAME_A_PACKET:
            return False
        try:
            return any(_has_hole(packet, codec) for packet in container.demux(stream))
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            return True


def _has_hole(packet: "Packet[VideoStream]", codec: VideoCodecContext) -> bool:
    if codec.name not in ONE_FRAME_A_PACKET:
        return False
    content = bytes(packet)
    if HOLE not in content:
        return False
    units = _units(content, codec.name, codec.extradata or b"")
    return any(HOLE in unit.rstrip(b"\0") for unit in units)


def _units(content: bytes, codec: str, extradata: bytes) -> Iterator[bytes]:
    """The units of a packet: between start codes, or behind their lengths, as avcC and hvcC say."""
    if extradata[:1] != b"\1":
        yield from content.split(b"\0\0\1")
        return
    place = 4 if codec == "h264" else 21
    length_size = 1 + (extradata[place] & 3 if len(extradata) > place else 3)
    begin = length_size
    while begin <= len(content):
        length = int.from_bytes(content[begin - length_size : begin])
        yield content[begin : begin + length]
        begin += length + length_size


def num_logged_errors() -> int:
    """How many errors FFmpeg has logged in this process so far."""
    num_errors, _last = av.logging.get_last_error()
    return num_errors
