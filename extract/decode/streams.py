"""Packets of a video, also in a transport stream whose video changes its identifier."""

import re
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vigil.extract.decode.decoder import best_stream, open_container
from vigil.extract.decode.transport import TS_LENGTHS, extents
from vigil.extract.errors import VideoError


def demux(
    path: Path, container: InputContainer, stream: VideoStream
) -> "Iterator[Packet[VideoStream] | None]":
    """Yield the packets of a stream, and at last an empty one.

    If the stream ends and a later one replaces it, its packets follow; None if it has another codec
    and therefore cannot be decoded together with the first one.

    Raises:
        av.error.FFmpegError: the file cannot be read further.
    """
    last: Packet[VideoStream] | None = None
    for packet in _known(container, stream):
        if packet.size == 0 and packet.dts is None and last is not None:
            yield from _replacement(path, container, stream, last.pos)
        last = packet
        yield packet


def _known(container: InputContainer, stream: VideoStream) -> "Iterator[Packet[VideoStream]]":
    """Yield the packets of a stream, and at last an empty one.

    If streams have appeared since the container was opened, PyAV fails at the end of the file, when
    it has returned all packets of those that it knew.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):
            return
        yield packet


def _replacement(
    path: Path, container: InputContainer, stream: VideoStream, position: int | None
) -> "Iterator[Packet[VideoStream] | None]":
    """Yield the packets, except the empty one, of a stream that begins after a file position.

    A stream that begins earlier shows something else at the same time.
    """
    if position is None or not _has_other_video(container):
        return
    try:
        later = open_container(path, skipped_bytes=position + TS_LENGTHS[0])
    except VideoError:
        return
    with later:
        try:
            found = best_stream(later)
        except VideoError:
            return
        (_, end), (begin, _) = extents(path, [stream.id, found.id])
        if begin < end:
            return
        if found.codec_context.name != stream.codec_context.name:
            yield None
            return
        packets = demux(path, later, found)
        for packet in dropwhile(lambda one: one is not None and not one.is_keyframe, packets):
            if packet is None or packet.size > 0:
                yield packet


def changes_streams(path: Path) -> bool:
    """Whether a file is a transport stream in which one video stream replaces another."""
    with open_container(path) as container:
        if container.format.name != "mpegts":
            return False
        stream = best_stream(container)
        try:
            return any(is_of_another(packet, stream) for packet in demux(path, container, stream))
        except av.error.FFmpegError:
            return True


def is_of_another(packet: "Packet[VideoStream] | None", stream: VideoStream) -> bool:
    """Whether `demux` has found that another stream replaces this one."""
    return packet is None or packet.stream.id != stream.id


def _has_other_video(container: InputContainer) -> bool:
    """Whether several video streams have been found in a transport stream so far."""
    if container.format.name != "mpegts":
        return False
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        description = container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_level(level)
    return len(re.findall(r"^ *Stream #.*?: Video:", description, re.MULTILINE)) > 1
