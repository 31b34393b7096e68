"""Streams as Matroska that is written as it comes: a header, and clusters, each complete in itself.

The header and any clusters in order are a file. PyAV's Matroska takes no telephone sound (G.711),
which is decoded, and no AAC with headers in its packets, as transport streams have it; these are
removed.
"""

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import av
from av.container import OutputContainer
from av.packet import Packet

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
CLUSTER = b"\x1f\x43\xb6\x75"
TIMESTAMP, SIMPLE_BLOCK, FIRST_TRACK, IS_KEY = 0xE7, 0xA3, 0x81, 0x80
"""Of Matroska (RFC 9559): what a cluster begins with, and what a block says of its packet."""


class ClusterFile:
    """What PyAV writes a file to: its header, and clusters as they become complete."""

    def __init__(self) -> None:
        """Begin with nothing."""
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


def open_like(
    file: ClusterFile, streams: tuple[Any, ...]
) -> tuple[OutputContainer, dict[int, Any]]:
    """Open a file with streams like these; the first must fit, and others may be left out.

    Returns:
        The file, and the index of each stream that fits -> its stream in the file.

    Raises:
        av.error.FFmpegError, ValueError, ArithmeticError: it cannot hold them.
    """
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


def as_stored(packet: "Packet[Any]", codec: Any) -> "Packet[Any]":
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


def cluster_times(cluster: bytes) -> tuple[float, float | None]:
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
