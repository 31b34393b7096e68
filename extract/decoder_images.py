"""A folder of pictures as a video: each is a frame, in the natural order of their names.

Each picture goes to FFmpeg's codec as it is: no container is opened, whose name could be taken for
a pattern, and no other file is read. A picture that does not decode is a lost frame, and one that
decodes with errors a damaged one, as in any video.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.decoder import MAX_FRAME_PIXELS, VideoInfo
from vigil.extract.decoder_av import AvDecoder
from vigil.extract.errors import VideoError
from vigil.extract.source import list_pictures

# First bytes -> FFmpeg's decoder. Other kinds, scripts and playlists among them, have none here.
_CODECS = {b"\xff\xd8": "mjpeg", b"\x89PNG": "png", b"II*\0": "tiff", b"MM\0*": "tiff"}
_TIFF_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_COMPRESSION, _JPEG = 259, (6, 7)
"""A TIFF's field, and what it holds where FFmpeg gives black pictures without an error."""
_TIME_UNIT = Fraction(1, 1000)


class PictureDecoder(AvDecoder):
    """A `Decoder` of pictures, which all must have the size of the first one."""

    def _open(self, path: Path, _hardware: HWAccel | None) -> VideoCodecContext:
        """The codec of the first picture; one of another kind does not decode."""
        try:
            self._pictures = list_pictures(path)
        except OSError as error:
            raise VideoError(f"the folder cannot be read ({error.strerror})") from error
        self._native_size: tuple[int, int] | None = None
        codecs = (_codec_name(_read(picture)) for picture in self._pictures)
        name = next(filter(None, codecs), None)
        if name is None:
            raise VideoError("the folder holds no pictures that are JPEG, PNG or TIFF")
        codec = av.CodecContext.create(name, "r")
        assert isinstance(codec, VideoCodecContext)
        codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        return codec

    def _packets(self) -> "Iterator[Packet[VideoStream] | None]":
        for index, picture in enumerate(self._pictures):
            content = _read(picture)
            self._require_kind(picture.name, content)
            # A packet without bytes would mean the end.
            packet = cast("Packet[VideoStream]", Packet(content or b"\0"))
            packet.pts, packet.time_base = index, _TIME_UNIT
            packet.is_keyframe = True  # FFmpeg adds other PNGs to the picture before
            yield packet

    def _require_kind(self, name: str, content: bytes) -> None:
        """Refuse what is whole, but would be lost in this codec, or come out black."""
        kind, wanted = _codec_name(content), self._codec.name
        if kind not in (None, wanted):
            reason = f"{name} is of the kind {kind} and the pictures before of {wanted}"
            raise VideoError(f"{reason}: they are no video", self.name, len(self._pts))
        if _tiff_compression(content) in _JPEG:
            reason = f"{name} is a TIFF with a JPEG in it, which FFmpeg cannot read"
            raise VideoError(f"{reason}: save it as PNG", self.name, len(self._pts))

    def _pixels(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        self._native_size = self._native_size or (frame.width, frame.height)
        if self._native_size != (frame.width, frame.height):
            width, height = self._native_size
            index = frame.pts or 0
            raise VideoError(
                f"{self._pictures[index].name} is of {frame.width}x{frame.height} pixels and the "
                f"pictures before of {width}x{height}: they are no video",
                self.name,
                len(self._pts),
            )
        return super()._pixels(frame)

    def first_frame(self) -> VideoFrame:
        """The first picture that decodes.

        Raises:
            VideoError: none does.
        """
        for decoded in self._decode():
            for frame in decoded.frames:
                return frame
        raise VideoError("no frame can be decoded", self.name)

    @property
    def num_pictures(self) -> int:
        """Frames there should be."""
        return len(self._pictures)

    def timestamps(self) -> npt.NDArray[np.float64]:
        """(N,) seconds at which the pictures would be shown, those that are lost included."""
        return np.array(self._pts, np.float64) / self.info.fps

    def close(self) -> None:
        """Nothing stays open."""


def probe_pictures(folder: Path, fps: float) -> VideoInfo:
    """What is known of a folder of pictures that are shown at so many frames a second.

    Raises:
        VideoError: it cannot be read, or none of its pictures can.
    """
    decoder = PictureDecoder(folder, VideoInfo(0, 0, fps, 0), 0, 0)
    frame = decoder.first_frame()
    width, height = frame.width, frame.height
    if frame.rotation % 180 == 90:
        width, height = height, width
    return VideoInfo(width, height, fps, decoder.num_pictures)


def _read(picture: Path) -> bytes:
    try:
        return picture.read_bytes()
    except OSError as error:
        raise VideoError(f"{picture.name} cannot be read ({error.strerror})") from error


def _codec_name(content: bytes) -> str | None:
    return next((name for start, name in _CODECS.items() if content.startswith(start)), None)


def _tiff_compression(content: bytes) -> int | None:
    """How the first picture of a TIFF is packed; None in other files, and in damaged ones."""
    order = _TIFF_BYTE_ORDERS.get(content[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (num_fields,) = struct.unpack_from(f"{order}H", content, start)
        for index in range(num_fields):
            at = start + 2 + 12 * index
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", content, at)
            if tag == _COMPRESSION:
                return int(value)
    except struct.error:
        pass  # the codec says what is wrong
    return None
