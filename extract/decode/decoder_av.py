"""The PyAV decoder: it reads whatever FFmpeg can, and knows which frames are damaged."""

import math
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
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.damage import Damage, DamageLog
from vigil.extract.decode.conversion import Converter
from vigil.extract.decode.decoder import MAX_FRAMES, VideoInfo, best_stream, open_container
from vigil.extract.decode.interlacing import AUTO, Deinterlacer
from vigil.extract.decode.packets import NO_PTS, PacketLog, exact_seconds
from vigil.extract.decode.streams import demux
from vigil.extract.errors import VideoError

MAX_MISCOUNT = 2
"""Frames by which a container without timestamps may misstate their number."""

ONE_FRAME_A_PACKET = ("h264", "hevc")
"""Codecs in which a packet without a frame means a lost frame, except in interlaced video, where a
packet may hold half a frame. FFmpeg reports no error for a frame that it cannot show because it
depends on missing ones."""

HOLE = bytes(32)
"""Zeros in place of data. H.264 (7.4.1) and HEVC (7.4.2) allow at most two in a row within a unit,
and FFmpeg may decode more without an error; after a unit there may be any number."""


@dataclass(frozen=True)
class Decoded:
    """The result of decoding one packet of a video."""

    packet: "Packet[VideoStream] | None"
    """None: the container is cut off, and the codec returns what it still holds."""
    frames: Sequence[VideoFrame]
    """Those that became ready, in presentation order; not always the packet's own."""
    has_error: bool
    """Whether there was an error in the packet, or on the way to it."""


class AvDecoder:
    """A `Decoder` that continues after damage, and counts it."""

    name = "pyav"

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        width: int,
        height: int,
        deinterlace: str = AUTO,
        hardware: HWAccel | None = None,
    ) -> None:
        """Open a video, to decode its frames at the given size in pixels.

        ``deinterlace`` is a mode of `Deinterlacer`.

        Raises:
            VideoError: the file cannot be opened as a video.
        """
        self.info = info
        self._converter = Converter(width, height, info.orientation)
        self._pts = array("q")
        self._damage = DamageLog()
        self._num_frames = 0
        """Those that left the codec; the deinterlacer may still hold the last one."""
        self._log = PacketLog()
        self._path = path
        self._num_packets = 0
        """Without those that an edit list hides."""
        self._is_cut = False
        """Whether the previous packet was incomplete."""
        self._is_interlaced = False
        self._is_over = False
        """Whether the codec has returned every frame."""
        self._codec = self._open(path, hardware)
        self._deinterlacer = Deinterlacer(deinterlace, self._codec.name)

    def _open(self, path: Path, hardware: HWAccel | None) -> VideoCodecContext:
        """Open the file, and return the codec that decodes its packets."""
        self._container = open_container(path, hardware)
        self._stream = best_stream(self._container)
        return self._stream.codec_context

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield every frame that FFmpeg returns, including those with errors.

        Raises:
            MemoryError: FFmpeg cannot allocate more.
        """
        for decoded in self._decode():
            self._note_damage(decoded)
            for frame in decoded.frames:
                self._is_interlaced |= frame.interlaced_frame
                if frame.is_corrupt:
                    self._damage.damaged.append(self._num_frames)
                self._num_frames += 1
                for ready in self._deinterlacer.push(frame):
                    yield self._pixels(*ready)
        for ready in self._deinterlacer.flush():
            yield self._pixels(*ready)
        if self._pts:
            unit = float(self._time_base)
            self.info = self._log.completed(self.info, self._path, self._pts[-1], unit)

    def _note_damage(self, decoded: Decoded) -> None:
        """Record an error; at the end, also the frames missing from a file that is cut off."""
        packet, log = decoded.packet, self._damage
        if packet is None or packet.size == 0:
            self._is_over = True
            self._note_cut_frame()
            num_packets = max(self._num_packets, self._num_chunks)
            num_missing = self._num_promised() - num_packets
            # An edit list may hide packets; containers without timestamps have none.
            is_short = not self.info.has_timestamps and num_missing > MAX_MISCOUNT
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
            log.damaged.append(self._num_frames)
        else:
            log.lost.append(self._num_frames)

    def _note_cut_frame(self) -> None:
        """Record an error in the last packet if a transport stream ends inside it."""
        pts, errors = self._log.pts, self._damage.error_pts
        if not (pts and pts[-1] != NO_PTS and pts[-1] not in errors[-1:]):
            return
        if self.info.clock_wrap_seconds and self._log.ends_inside_frame(self._path):
            errors.append(pts[-1])

    @property
    def _num_chunks(self) -> int:
        """In an AVI file, the chunks up to the last packet's and the empty ones after it."""
        return self._log.num_chunks(self._path) if self.info.counts_chunks else 0

    def _num_promised(self) -> int:
        """Return how many frames the container states, or how many fit its stated duration."""
        seconds = self._log.duration_seconds(self.info, float(self._time_base))
        by_length = seconds * self.info.fps
        return round(min(self.info.num_frames_container or by_length, MAX_FRAMES))

    def _decode(self) -> Iterator[Decoded]:
        av.logging.set_level(av.logging.PANIC)  # count errors, print nothing
        codec = self._codec
        codec.thread_count = 1
        num_errors = num_logged_errors()
        for packet in self._packets():
            if packet is not None:
                self._log.add(packet)
            if packet is not None and packet.size == 0 and packet.dts is not None:
                self._num_packets += 1  # repeats a frame; a codec would take it for the end
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
        """Yield the packets, and None if the container is cut off."""
        packets = demux(self._path, self._container, self._stream)
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

    def _pixels(self, frame: VideoFrame, picture: VideoFrame) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) RGB pixels, in FFmpeg's memory.

        Args:
            frame: as it was decoded.
            picture: the same, deinterlaced.
        """
        self._pts.append(NO_PTS if frame.pts is None else frame.pts)
        return self._converter.pixels(frame, picture)

    @property
    def _time_base(self) -> Fraction:
        # Frames that the codec held back have no time base, but the stream has.
        return self._stream.time_base or Fraction(0)

    def timestamps(self) -> npt.NDArray[np.float64]:
        """Return (N,) presentation times in seconds."""
        slots = self._log.slots() if self.info.counts_chunks else None
        if slots is not None and len(slots) == len(self._pts):
            return slots / self.info.fps
        unit, pts = self._time_base, np.array(self._pts, np.float64)
        is_known = (pts != NO_PTS) & (unit != 0)
        return np.where(is_known, pts * unit.numerator / unit.denominator, np.nan)

    def last_timestamp(self) -> float:
        """Return the seconds of the frame yielded last; nan if it has no time.

        In an AVI file, where positions of chunks are times, frames take the places of the packets.
        """
        times = self._log.dts if self.info.counts_chunks else self._pts
        pts = times[len(self._pts) - 1]
        if pts == NO_PTS or not (self.info.counts_chunks or self.info.has_timestamps):
            return math.nan
        return exact_seconds(float(pts), self._time_base)

    def damage(self) -> Damage:
        """Return the damage so far, with every error at its place."""
        is_each_a_frame = self._codec.name in ONE_FRAME_A_PACKET
        has_silent = self._is_over and is_each_a_frame and not self._is_interlaced
        return self._damage.place(np.array(self._pts), has_silent)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class NvdecDecoder(AvDecoder):
    """The same on the decoding unit of an NVIDIA GPU, for the codecs that it supports.

    The same filters rotate, resize and convert its frames to RGB after they are downloaded. Its
    speed and its pixels have not been compared with the others', so it is used only on request.
    """

    name = "nvdec"

    def __init__(
        self, path: Path, info: VideoInfo, width: int, height: int, deinterlace: str = AUTO
    ) -> None:
        """Open a video, to decode its frames at the given size in pixels.

        Raises:
            VideoError: there is no such unit, or it cannot decode this codec.
        """
        hardware = HWAccel("cuda", allow_software_fallback=False)
        try:
            super().__init__(path, info, width, height, deinterlace, hardware)
        except (VideoError, RuntimeError) as error:
            reason = f"no NVIDIA GPU here can decode it ({error}): use the decoder auto"
            raise VideoError(reason, self.name) from error
        if not self._codec.is_hwaccel:
            self.close()
            codec = self._codec.name
            raise VideoError(f"NVIDIA GPUs cannot decode {codec}: use the decoder auto", self.name)


def read_packets(path: Path) -> tuple[PacketLog, Fraction]:
    """Return the packets of a video's best stream, and the unit of their times in seconds.

    Raises:
        VideoError: a packet has zeros in place of data, or cannot be read.
        MemoryError: FFmpeg cannot allocate more.
    """
    log = PacketLog()
    with open_container(path) as container:
        stream = best_stream(container)
        try:
            for packet in demux(path, container, stream):
                if packet is None:
                    raise VideoError("another stream in another codec follows")
                log.add(packet)
                if _has_hole(packet, stream.codec_context):
                    raise VideoError("zeros replace lost data")
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError as error:
            raise VideoError("its packets cannot be read to the end") from error
        return log, stream.time_base or Fraction(0)


def _has_hole(packet: "Packet[VideoStream]", codec: VideoCodecContext) -> bool:
    if codec.name not in ONE_FRAME_A_PACKET:
        return False
    content = bytes(packet)
    if HOLE not in content:
        return False
    units = _units(content, codec.name, codec.extradata or b"")
    return any(HOLE in unit.rstrip(b"\0") for unit in units)


def _units(content: bytes, codec: str, extradata: bytes) -> Iterator[bytes]:
    """Yield a packet's units: between start codes, or after the lengths that avcC or hvcC set."""
    if extradata[:1] != b"\1":
        yield from content.split(b"\0\0\1")
        return
    place = 4 if codec == "h264" else 21
    length_size = 1 + (extradata[place] & 3 if len(extradata) > place else 3)
    start = length_size
    while start <= len(content):
        length = int.from_bytes(content[start - length_size : start])
        yield content[start : start + length]
        start += length + length_size


def num_logged_errors() -> int:
    """Return how many errors FFmpeg has logged in this process so far."""
    num_errors, _last = av.logging.get_last_error()
    return num_errors
