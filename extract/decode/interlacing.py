"""Interlaced video: frames that hold two moments, one in every other line.

FFmpeg's filter bwdif keeps the lines of the first moment and computes the others, also from the
frames before and after. It returns one frame for each.
"""

import re
from collections.abc import Iterable, Iterator

from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

AUTO, ON, OFF = "auto", "on", "off"

_MIXED = ("vc1", "cavs")
"""Codecs whose later frames may be interlaced if the first one is not."""
_SEQUENCE_EXTENSION = re.compile(rb"\x00\x00\x01\xb5[\x10-\x1f](.)", re.DOTALL)
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_SPS = 7


class Deinterlacer:
    """Deinterlaces the frames that are flagged as interlaced, or all; others stay as they are.

    A video without interlaced frames never enters a filter. The result for a frame depends only on
    the frame before it, itself and the next one.
    """

    def __init__(self, mode: str, codec: str) -> None:
        """Set what is deinterlaced: auto (frames that are flagged), on (all) or off (none)."""
        # FFmpeg returns the two moments of interlaced HEVC as frames of their own.
        self._mode = OFF if codec == "hevc" and mode == AUTO else mode
        self._graph: Graph | None = None
        self._previous: VideoFrame | None = None
        """The last frame pushed, if there is one; in the filter, it is not yet returned."""
        self._num_to_drop = 0
        """Results that are due for frames that have been returned without the filter."""

    def push(self, frame: VideoFrame) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        """Take the next frame; yield those that are ready, as decoded and as deinterlaced.

        Both have the time of the decoded one.
        """
        if self._previous is not None and _kind(frame) != _kind(self._previous):
            yield from self.flush()
        if self._graph is None and (
            self._mode == ON or (self._mode == AUTO and frame.interlaced_frame)
        ):
            self._graph = _filter(frame, self._mode)
            if self._previous is not None:
                self._graph.vpush(self._previous)
                self._num_to_drop = 1
        previous, self._previous = self._previous, frame
        if self._graph is None:
            yield frame, frame
            return
        self._graph.vpush(frame)
        if previous is not None:
            yield from self._pull(previous)

    def flush(self) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        """Yield the last frame if the filter still holds it; the next one begins anew."""
        graph, last, self._previous = self._graph, self._previous, None
        if graph is not None and last is not None:
            graph.vpush(None)
            yield from self._pull(last)
        self._graph = None

    def _pull(self, frame: VideoFrame) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        assert self._graph is not None
        result = self._graph.vpull()
        if self._num_to_drop:
            self._num_to_drop -= 1
        else:
            result.pts = frame.pts if frame.pts is not None else frame.dts
            result.time_base = frame.time_base
            yield frame, result


def deinterlaced(frames: Iterable[VideoFrame], codec: str) -> Iterator[VideoFrame]:
    """Yield the frames of a video, those that are flagged as interlaced deinterlaced."""
    deinterlacer = Deinterlacer(AUTO, codec)
    for frame in frames:
        yield from (shown for _, shown in deinterlacer.push(frame))
    yield from (shown for _, shown in deinterlacer.flush())


def _kind(frame: VideoFrame) -> tuple[str, int, int]:
    return frame.format.name, frame.width, frame.height


def _filter(frame: VideoFrame, mode: str) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    which = "all" if mode == ON else "interlaced"
    deinterlace = graph.add("bwdif", f"mode=send_frame:parity=auto:deint={which}")
    graph.link_nodes(source, deinterlace, graph.add("buffersink")).configure()
    return graph


def may_be_interlaced(frame: VideoFrame, codec: VideoCodecContext) -> bool:
    """Whether a video with this first frame may have interlaced frames."""
    headers = codec.extradata or b""
    if frame.interlaced_frame or codec.name in _MIXED:
        return True
    if codec.name == "mpeg2video":
        return not _is_all_progressive(headers)
    return codec.name == "h264" and any(map(_allows_fields, _h264_headers(headers)))


def _is_all_progressive(headers: bytes) -> bool:
    """Whether the sequence extension of MPEG-2 (H.262, 6.2.2.3) rules out interlaced frames."""
    extension = _SEQUENCE_EXTENSION.search(headers)
    return extension is not None and bool(extension[1][0] & 8)


def _h264_headers(extradata: bytes) -> Iterator[bytes]:
    """Yield the sequence parameter sets, between start codes or in an avcC box."""
    if extradata[:1] != b"\1":
        units = (unit.rstrip(b"\0") for unit in extradata.split(b"\0\0\1"))
        yield from (unit for unit in units if unit and unit[0] & 31 == _SPS)
        return
    start = 6
    for _ in range(extradata[5] & 31 if len(extradata) > 5 else 0):
        length = int.from_bytes(extradata[start : start + 2])
        yield extradata[start + 2 : start + 2 + length]
        start += 2 + length


def _allows_fields(header: bytes) -> bool:
    """Whether a sequence parameter set allows frames of two fields (H.264, 7.3.2.1.1).

    One that ends early counts as if it did.
    """
    try:
        return not _read_frame_mbs_only(_Bits(header.replace(b"\0\0\3", b"\0\0")))
    except IndexError:
        return True


def _read_frame_mbs_only(bits: "_Bits") -> int:
    profile = bits.read(16) & 255
    bits.read(16)
    bits.unsigned()
    if profile in _HIGH_PROFILES:
        _skip_chroma(bits)
    bits.unsigned()
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.read(1)
        bits.unsigned(), bits.unsigned()
        for _ in range(bits.unsigned()):
            bits.unsigned()
    bits.unsigned()
    bits.read(1)
    bits.unsigned(), bits.unsigned()
    return bits.read(1)


def _skip_chroma(bits: "_Bits") -> None:
    chroma = bits.unsigned()
    if chroma == 3:
        bits.read(1)
    bits.unsigned(), bits.unsigned()
    bits.read(1)
    if not bits.read(1):
        return
    for number in range(12 if chroma == 3 else 8):
        last = following = 8
        for _ in range((16 if number < 6 else 64) if bits.read(1) else 0):
            if following:
                following = (last + bits.signed()) % 256
                last = following or last


class _Bits:
    """Reads numbers from the bits of a header."""

    def __init__(self, content: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in content)
        self._place = 0

    def read(self, num_bits: int) -> int:
        """Return the next bits as a number.

        Raises:
            IndexError: there are not so many.
        """
        start, self._place = self._place, self._place + num_bits
        if self._place > len(self._bits):
            raise IndexError
        return int(self._bits[start : self._place] or "0", 2)

    def unsigned(self) -> int:
        """Return the next number in Exp-Golomb code (H.264, 9.1)."""
        num_zeros = 0
        while not self.read(1):
            num_zeros += 1
        return (1 << num_zeros) - 1 + self.read(num_zeros)

    def signed(self) -> int:
        """Return the next signed number in Exp-Golomb code (H.264, 9.1.1)."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)
