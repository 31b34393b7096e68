"""Keeps the newest packets of a stream as they are, so that clips can be cut of what was shown.

They become Matroska, which holds whatever cameras send, in clusters of two seconds at most, whose
times are seconds of the piece. Nothing is encoded for it, and no picture is decoded.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.decode.matroska import (
    CANNOT,
    ClusterFile,
    as_stored,
    cluster_times,
    open_like,
)
from vigil.extract.decode.packet_ring import PacketRing

MAX_UNTIMED = 16
"""Pictures without times in a row, of a stream in which their order is not that of its packets."""
MAX_HELD = 32
"""Packets that a decoder may have taken before the first frame of them comes out."""


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
        self._file = ClusterFile()
        self._outs: dict[int, Any] = {}
        with self._noting_problems():
            try:
                self._output, self._outs = open_like(self._file, streams)
            except CANNOT:  # because of its sound, perhaps
                self._file = ClusterFile()
                self._output, self._outs = open_like(self._file, streams[:1])

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
        packet = as_stored(held.packet, self._streams[held.index].codec_context)
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
            Cluster(self._ring.append(one), len(one), *cluster_times(one))
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
