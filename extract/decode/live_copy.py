"""Keeps the newest packets of a stream as they are, so that clips can be cut of what was shown.

They become Matroska, which holds whatever cameras send, in clusters of two seconds at most. The
header of a piece and some of its clusters in order are a file, whose times are seconds of the
piece. Nothing is encoded for it, or decoded but telephone sound (G.711), which PyAV refuses.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.decode.packet_ring import PacketRing

OPTIONS = {
    "live": "1",
    "flush_packets": "1",
    "write_crc32": "0",
    "cluster_time_limit": "2000",
    "cluster_size_limit": str(4 << 20),
    "max_interleave_delta": "1000000",
}
"""Whole clusters come out, without an index; sound waits for pictures a second at most."""
G711, PCM = ("pcm_alaw", "pcm_mulaw"), "pcm_s16le"
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
CANNOT = (av.error.FFmpegError, ValueError, ArithmeticError)
"""What PyAV raises for packets and times that a file cannot have."""
MAX_UNTIMED = 16
"""Pictures without times in a row, of a stream in which their order is not that of its packets."""
MAX_HELD = 32
"""Packets that a decoder may have taken before the first frame of them comes out."""
CLUSTER = b"\x1f\x43\xb6\x75"
TIMESTAMP, SIMPLE_BLOCK, FIRST_TRACK, IS_KEY = 0xE7, 0xA3, 0x81, 0x80
"""Of Matroska (RFC 9559): what a cluster begins with, and what a block says of its packet."""


@dataclass(frozen=True)
class Cluster:
    """Consecutive packets of a piece, in the ring."""

    place: int
    num_bytes: int
    seconds: float
    """When the first of them is shown, since the first frame of the piece."""
    key_seconds: float | None
    """When its first key frame is shown; None: it has none."""


@dataclass(frozen=True, eq=False)
class LiveCopy:
    """The next packets of a piece, as they came."""

    header: bytes
    """Of a Matroska file, before clusters."""
    clusters: tuple[Cluster, ...]
    is_described: bool
    """Whether the header describes the pictures; not after they changed their size."""
    problem: str = ""
    """Why packets of the piece cannot be kept; empty if they can."""
    ring: PacketRing | None = None
    """Where the clusters are; in the process that follows the streams."""


@dataclass(frozen=True, eq=False)
class _Held:
    """A packet, and what muxing it changes."""

    packet: "Packet[Any]"
    index: int
    """Of its stream."""
    pts: int | None
    dts: int | None


class PacketCopier:
    """Copies the packets of one connection, piece by piece; without a ring, it does nothing."""

    def __init__(self, ring: PacketRing | None) -> None:
        """Begin; `listen` names the streams."""
        self._ring = ring
        self._streams: tuple[Any, ...] = ()
        self._size = (0, 0)
        self._held: deque[_Held] = deque(maxlen=MAX_HELD)
        self._piece: _PieceCopy | None = None

    def listen(self, container: InputContainer, video: VideoStream) -> tuple[Any, ...]:
        """Return the streams to be read: the pictures, and the sound that belongs to clips."""
        self._size = video.codec_context.width, video.codec_context.height
        sound = None if self._ring is None else container.streams.best("audio")
        has_sound = isinstance(sound, AudioStream) and sound.codec_context is not None
        self._streams = (video, sound) if has_sound else (video,)
        return self._streams

    def take(self, packet: "Packet[Any]") -> None:
        """Copy a packet, after its decoder has had it."""
        if self._ring is None or not packet.size:
            return
        held = _Held(packet, packet.stream_index, packet.pts, packet.dts)
        self._held.append(held)
        if self._piece is not None:
            self._piece.write(held)

    def begin(self, frame: VideoFrame, fps: float) -> None:
        """Begin a piece with a frame, which one of the last packets holds."""
        if self._ring is None:
            return
        video = self._streams[0].index
        of_video = [(n, one) for n, one in enumerate(self._held) if one.index == video]
        shown = [n for n, one in of_video if one.pts == frame.pts is not None]
        keys = [n for n, one in of_video if one.packet.is_keyframe]
        first = (shown or keys or [len(self._held)])[-1]
        is_described = self._size == (frame.width, frame.height)
        self._piece = _PieceCopy(self._ring, self._streams, frame.pts, fps, is_described)
        for held in [*self._held][first:]:
            self._piece.write(held)

    def news(self, is_end: bool = False) -> Iterator[LiveCopy]:
        """Yield what was copied since the last call; at the end of the piece, also the rest."""
        if self._piece is not None:
            yield from self._piece.news(is_end)
        if is_end:
            self._piece = None


class _PieceCopy:
    """The packets of one piece, on their way into the ring."""

    def __init__(
        self,
        ring: PacketRing,
        streams: tuple[Any, ...],
        first_pts: int | None,
        fps: float,
        is_described: bool,
    ) -> None:
        """Begin with the first frame's time, in ticks of the first stream, if it has one."""
        self._ring, self._streams, self._fps = ring, {one.index: one for one in streams}, fps
        self._video = streams[0].index
        self._origin = (first_pts or 0) * (streams[0].time_base or Fraction(1))
        self._is_described, self._problem = is_described, ""
        self._latest, self._num_untimed = -1 / fps, 0
        """When the last picture is shown, in seconds; and how many in a row have no time."""
        self._last = dict.fromkeys(self._streams, 0)
        """Decoding times of the last packets, in ticks of their streams."""
        self._file = _Written()
        self._outs: dict[int, Any] = {}
        with self._noting_problems():
            try:
                self._output, self._outs = _open(self._file, streams)
            except CANNOT:  # because of its sound, perhaps
                self._file = _Written()
                self._output, self._outs = _open(self._file, streams[:1])

    def write(self, held: _Held) -> None:
        """Write a packet; sound that cannot be written is left out."""
        if held.index not in self._outs or self._problem:
            return
        unit = self._streams[held.index].time_base or Fraction(1)
        if held.index == self._video:
            with self._noting_problems():
                self._write(held, unit)
            return
        try:
            self._write(held, unit)
        except CANNOT:
            del self._outs[held.index]

    def _write(self, held: _Held, unit: Fraction) -> None:
        shift, last = round(self._origin / unit), self._last[held.index]
        pts = self._untimed(unit) if held.pts is None else held.pts - shift
        if held.index == self._video:
            self._latest = float(pts * unit)
            self._num_untimed = 0 if held.pts is not None else self._num_untimed + 1
        if pts < 0:  # it was sent after the first frame, and is shown before
            return
        # Times that go back stand still, as in the timeline. Matroska stores no decoding times.
        pts = max(pts, last)
        self._last[held.index] = dts = (
            last if held.dts is None else min(max(held.dts - shift, last), pts)
        )
        packet = _stored(held.packet, self._streams[held.index].codec_context)
        packet.time_base, packet.pts, packet.dts, packet.duration = unit, pts, dts, 0
        packet.stream = self._outs[held.index]
        self._output.mux(packet)

    def _untimed(self, unit: Fraction) -> int:
        """The time of a packet without one: the first of a camera lack it, or all; frames count.

        Raises:
            ValueError: the packets are in another order than the frames.
        """
        reorders = self._streams[self._video].codec_context.has_b_frames
        if reorders and self._num_untimed >= MAX_UNTIMED:
            raise ValueError("they have no times")
        return round((self._latest + 1 / self._fps) / unit)

    def news(self, is_end: bool) -> Iterator[LiveCopy]:
        """Put what is complete into the ring, and yield where it is."""
        if is_end and self._outs and not self._problem:
            with self._noting_problems():
                self._output.close()
        clusters = tuple(
            Cluster(self._ring.append(one), len(one), *_times(one))
            for one in self._file.take_clusters()
        )
        if clusters or self._problem:
            yield LiveCopy(self._file.header, clusters, self._is_described, self._problem)

    @contextmanager
    def _noting_problems(self) -> Iterator[None]:
        """Run a block that copies: what it cannot do must not end the piece."""
        try:
            yield
        except CANNOT as error:
            self._problem = getattr(error, "strerror", None) or str(error)


class _Written:
    """What PyAV writes a file to: its header, and clusters as they become complete."""

    def __init__(self) -> None:
        self.header = b""
        self._rest = bytearray()

    def write(self, content: Any) -> int:
        """Take what comes next."""
        self._rest += content
        return len(content)

    def take_clusters(self) -> Iterator[bytes]:
        """Yield the clusters that are complete."""
        if not self.header and (start := self._rest.find(CLUSTER)) > 0:
            self.header = bytes(self._rest[:start])
            del self._rest[:start]
        while self._rest.startswith(CLUSTER) and len(self._rest) > 2 * len(CLUSTER) + 4:
            size, start = _number(self._rest, len(CLUSTER))
            if len(self._rest) < start + size:
                return
            yield bytes(self._rest[: start + size])
            del self._rest[: start + size]


def _open(file: _Written, streams: tuple[Any, ...]) -> tuple[OutputContainer, dict[int, Any]]:
    """Open a Matroska file with streams like these, or with the pictures only if it must be."""
    output = av.open(file, "w", "matroska", options=OPTIONS)
    outs: dict[int, Any] = {}
    for stream in streams:
        with suppress(ValueError) if outs else nullcontext():  # sound that it cannot hold
            outs[stream.index] = _added(output, stream)
    output.start_encoding()
    return output, outs


def _added(output: OutputContainer, stream: Any) -> Any:
    codec = stream.codec_context
    if codec.name in G711:
        return output.add_stream(PCM, codec.sample_rate, layout=codec.layout.name)
    config = _aac_config(codec) if _is_adts(codec) else None
    out: Any = output.add_stream_from_template(stream, opaque=True)
    if config is not None:
        out.codec_context.extradata = config
    return out


def _is_adts(codec: Any) -> bool:
    """Whether sound is AAC whose packets have headers of their own, as in transport streams."""
    return codec.name == "aac" and not codec.extradata


def _aac_config(codec: Any) -> bytes:
    """What Matroska has instead of such headers (ISO 14496-3, AudioSpecificConfig).

    Raises:
        ValueError: it is another AAC than the usual one.
    """
    if codec.profile != "LC":
        raise ValueError(f"AAC {codec.profile} without a description")
    rate, channels = AAC_RATES.index(codec.sample_rate), int(codec.layout.nb_channels)
    return (2 << 11 | rate << 7 | channels << 3).to_bytes(2)


def _stored(packet: "Packet[Any]", codec: Any) -> "Packet[Any]":
    """A packet as Matroska has it."""
    if codec.name in G711:
        return Packet(b"".join(bytes(one.planes[0]) for one in packet.decode()))
    if _is_adts(codec):
        content = bytes(packet)
        return Packet(content[7 if content[1] & 1 else 9 :])  # without a checksum, or with one
    return packet


def _number(content: bytes | bytearray, at: int) -> tuple[int, int]:
    """A number of EBML (RFC 8794, section 4), and where it ends: its first 1 counts its bytes."""
    length = 9 - content[at].bit_length()
    value = int.from_bytes(content[at : at + length])
    return value - (1 << 7 * length), at + length


def _times(cluster: bytes) -> tuple[float, float | None]:
    """When a cluster begins, in seconds, and its first key frame of the pictures if it has one."""
    _, at = _number(cluster, len(CLUSTER))
    begin = 0
    while at < len(cluster):
        kind, (size, start) = cluster[at], _number(cluster, at + 1)
        if kind == TIMESTAMP:
            begin = int.from_bytes(cluster[start : start + size])
        elif kind == SIMPLE_BLOCK and cluster[start] == FIRST_TRACK and cluster[start + 3] & IS_KEY:
            after = int.from_bytes(cluster[start + 1 : start + 3], signed=True)
            return begin / 1000, (begin + after) / 1000
        at = start + size
    return begin / 1000, None
