"""What a video's packets tell about its clock and its length; no frame is decoded for it."""

import re
from array import array
from collections import deque
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from vigil.extract.decode.decoder import VideoInfo
from vigil.extract.source import PIECE_BYTES

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

NO_PTS = -(1 << 63)
"""FFmpeg's number for an unknown time."""
NUM_RECENT = 64
"""Packets among which the one of the last frame is found; codecs hold back at most 16."""
SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 24 * 3600
"""Shorter or longer durations of a last frame are a muxer's placeholders, not measurements."""

MIN_START_SECONDS = 1.0
"""A first frame that is not so late makes no difference."""

# Headers with which files of these formats begin: MP4, Flash, ASF, AVI, Matroska.
_HEADERS = re.compile(
    rb"\0\0\0[\x08-\x80]ftyp|FLV\x01[\x01\x04\x05]\0\0\0\x09"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa|RIFF....AVI LIST"
    rb"|\x1a\x45\xdf\xa3(?:[\x80-\xff]|\x01.{7})\x42\x86\x81\x01",
    re.DOTALL,
)
HEADER_BYTES = 32
TS_PACKET_BYTES, TS_HEADER_BYTES, TS_SYNC = (188, 192, 204), 4, 0x47
"""Of transport streams: sizes of packets, without and with a time or a checksum for each."""
_AVI_CHUNK = re.compile(rb"(?:(\d\d)(?:d[bc]|wb|pc|tx)|JUNK|ix\d\d)(....)", re.DOTALL)
_AVI_LIST = re.compile(rb"(?:RIFF....AVIX)?LIST....(?:movi|rec )", re.DOTALL)


class PacketLog:
    """Collects the times of packets, in the order in which the file holds them."""

    def __init__(self) -> None:
        """Start without packets."""
        self.pts = array("q")
        """Presentation times of packets that are shown, in the stream's unit."""
        self.dts = array("q")
        """The same of decoding times; in an AVI file, positions among all chunks."""
        self._groups = array("q")
        self._num_keyframes = 0
        self.num_hidden = 0
        """Packets that an edit list hides."""
        self._recent: deque[tuple[int, int]] = deque(maxlen=NUM_RECENT)
        self._stop_byte = 0
        self._stream_index = self._stream_id = 0

    def add(self, packet: "Packet[VideoStream]") -> None:
        """Take note of a packet; those without bytes repeat a frame or mean the end."""
        if packet.size == 0:
            return
        if packet.pos is not None and packet.pos >= 0:
            self._stop_byte = max(self._stop_byte, packet.pos + packet.size)
        self._stream_index = packet.stream_index
        self._stream_id = packet.stream.id if packet.stream else 0  # pictures have no stream
        if packet.is_discard:
            self.num_hidden += 1
            return
        pts = NO_PTS if packet.pts is None else packet.pts
        self.pts.append(pts)
        self.dts.append(NO_PTS if packet.dts is None else packet.dts)
        self._num_keyframes += packet.is_keyframe
        self._groups.append(self._num_keyframes)
        self._recent.append((pts, packet.duration or 0))

    def ends_inside_frame(self, path: Path) -> bool:
        """Whether an MPEG transport stream was cut off inside its last frame.

        The decoder may notice nothing. Muxers fill up the last packet of each frame, so a frame is
        incomplete if nothing fills up its last packet (or, one time in 184, complete by chance).
        """
        return _last_is_full(path, self._stream_id)

    def presented_seconds(self, unit: float) -> npt.NDArray[np.float64]:
        """Return the presentation times (N,) in the order in which frames leave the codec."""
        return np.asarray(self.presented_pts() * unit, np.float64)

    def presented_pts(self) -> npt.NDArray[np.int64]:
        """Return the same in the stream's unit.

        That is their own order between keyframes, where the parts of joined recordings start.
        """
        pts = np.array(self.pts)
        return pts[np.lexsort([pts, np.array(self._groups)])]

    def frame_seconds(
        self, pts: npt.NDArray[np.int64], info: VideoInfo, unit: Fraction
    ) -> npt.NDArray[np.float64]:
        """Return (N,) seconds of frames as `Decoder.last_timestamp` does, nan where unknown.

        Args:
            pts: (N,) presentation times of all frames, in order, in the stream's unit.
            info: the properties of the video.
            unit: the stream's unit of time in seconds.
        """
        times = np.array(self.dts) if info.counts_chunks else pts
        is_known = (times != NO_PTS) & (info.counts_chunks or info.has_timestamps)
        return np.where(is_known, exact_seconds(times.astype(np.float64), unit), np.nan)

    def num_chunks(self, path: Path) -> int:
        """Return the number of a stream's chunks in an AVI file, empty ones too."""
        num_before = self.dts[-1] + 1 if self.dts and self.dts[-1] != NO_PTS else 0
        return num_before + self._num_last_chunks(path)

    def _num_last_chunks(self, path: Path) -> int:
        """Return the number of empty chunks at the end."""
        return _empty_chunks_after(path, self._stop_byte, self._stream_index)

    def slots(self) -> npt.NDArray[np.int64] | None:
        """Return the positions (N,) of an AVI file's frames, if empty chunks lie between them.

        Frames take the places of packets in order of presentation. With B-frames next to empty
        chunks, a frame may be off by as many frames as the codec holds back.
        """
        slots = np.array(self.dts)
        if len(slots) < 2 or slots[0] < 0:
            return None
        steps = np.diff(slots)
        return slots - slots[0] if steps.min() >= 1 and steps.max() > 1 else None

    def last_seconds(self, last_pts: int, unit: float, info: VideoInfo) -> float:
        """Return how long the last frame is shown, in seconds; 0 if that is nothing unusual."""
        durations = (duration for pts, duration in reversed(self._recent) if pts == last_pts)
        seconds = next(durations, 0) * unit
        is_sane = info.has_timestamps and SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS
        return seconds if is_sane and abs(seconds * info.fps - 1) > 0.5 else 0.0

    def duration_seconds(self, info: VideoInfo, unit: float) -> float:
        """Return the duration that the container states, from the first frame on.

        Some count from time 0, however late their first frame: the nearer one to the packets is it.
        """
        seconds, known = info.duration_seconds, np.array(self.pts)[np.array(self.pts) != NO_PTS]
        if not (seconds and len(known)):
            return seconds
        start, end = float(known.min()) * unit, float(known.max()) * unit
        own = seconds - start
        is_nearer = abs(own - (end - start)) < abs(seconds - (end - start))
        return own if start >= MIN_START_SECONDS and own > 0 and is_nearer else seconds

    def completed(self, info: VideoInfo, path: Path, last_pts: int, unit: float) -> VideoInfo:
        """Return the properties of a video, with those that only its end shows.

        Args:
            info: the properties so far.
            path: the file of the video.
            last_pts: time of the last frame.
            unit: the stream's unit of time in seconds.
        """
        num_frames, last_seconds = info.num_frames_container, 0.0
        if info.counts_chunks:
            num_last = self._num_last_chunks(path)
            num_empty = max(self.num_chunks(path) - len(self.dts), 0)
            num_frames = max(num_frames - num_empty, 0)
            last_seconds = (1 + num_last) / info.fps if num_last else 0.0
        else:
            last_seconds = self.last_seconds(last_pts, unit, info)
        return replace(
            info,
            num_frames_container=max(num_frames - self.num_hidden, 0),
            has_timestamps=info.has_timestamps or (info.counts_chunks and self.slots() is not None),
            duration_seconds=self.duration_seconds(info, unit),
            last_frame_seconds=last_seconds,
            num_bytes_unread=_unread_bytes(path, self._stop_byte),
        )


Time = TypeVar("Time", float, npt.NDArray[np.float64])


def exact_seconds(time: Time, unit: Fraction) -> Time:
    """Return times in the stream's unit as seconds, rounded alike whoever asks."""
    return time * unit.numerator / unit.denominator


def _empty_chunks_after(path: Path, start: int, stream_index: int) -> int:
    """Return how many empty chunks of a stream follow in an AVI file after a packet's end."""
    num_empty, size, place = 0, path.stat().st_size, start + start % 2
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            header = file.read(24)
            if lists := _AVI_LIST.match(header):
                place += lists.end()
                continue
            chunk = _AVI_CHUNK.match(header)
            if chunk is None:
                break
            length = int.from_bytes(chunk[2], "little")
            num_empty += chunk[1] is not None and int(chunk[1]) == stream_index and length == 0
            place += 8 + length + length % 2
    return num_empty


def _last_is_full(path: Path, identifier: int) -> bool:
    """Whether the last packet of a transport stream's identifier is full of payload."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - PIECE_BYTES, 0))
        end = file.read()
    for size in TS_PACKET_BYTES:
        starts = [at for at in range(size) if end[at::size].count(TS_SYNC) == len(end[at::size])]
        for start in starts if len(end) >= 4 * size else ():
            for place in range(start + (len(end) - start - 1) // size * size, -1, -size):
                packet = end[place : place + TS_PACKET_BYTES[0]]
                if len(packet) >= TS_HEADER_BYTES and _identifier(packet) == identifier:
                    return _payload_goes_on(packet)
    return False


def _identifier(packet: bytes) -> int:
    return int.from_bytes(packet[1:3]) & 0x1FFF


def _payload_goes_on(packet: bytes) -> bool:
    """Whether no bytes fill up a packet (ISO 13818-1, 2.4.3.2 to 2.4.3.5)."""
    if len(packet) < TS_PACKET_BYTES[0] or not packet[3] & 0x20:
        return True
    length, flags = packet[4], packet[5]
    clocks = 6 * (bool(flags & 0x10) + bool(flags & 0x08)) + bool(flags & 0x04)
    return length > 0 and not flags & 0x03 and length <= 1 + clocks


def _unread_bytes(path: Path, start: int) -> int:
    """Return the size of another recording that follows after the last packet, in bytes; or 0."""
    if start == 0:
        return 0
    with path.open("rb") as file:
        file.seek(start)
        before, position = b"", start
        while piece := file.read(PIECE_BYTES):
            if found := _HEADERS.search(before + piece):
                return path.stat().st_size - (position - len(before) + found.start())
            before, position = piece[-HEADER_BYTES:], position + len(piece)
    return 0
