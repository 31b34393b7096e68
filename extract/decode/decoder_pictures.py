"""A folder of pictures as a video: each is a frame, in the natural order of their names.

The bytes of each picture go straight to FFmpeg's codec. No container is opened, because its name
could be read as a pattern, and no other file is read. As in any video, a picture that does not
decode is a lost frame, and one that decodes with errors is a damaged frame.
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

from vigil.extract.decode.decoder import MAX_FRAME_PIXELS, VideoInfo, displayed_size
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.orientation import UPRIGHT
from vigil.extract.errors import VideoError
from vigil.extract.source import list_pictures

# First bytes -> FFmpeg's decoder. Other kinds of files, such as scripts and playlists, have none.
_CODECS = {b"\xff\xd8": "mjpeg", b"\x89PNG": "png", b"II*\0": "tiff", b"MM\0*": "tiff"}
_TIFF_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_COMPRESSION, _JPEG = 259, (6, 7)
"""A TIFF field, and its values for which FFmpeg returns black pictures without an error."""
_TIME_UNIT = Fraction(1, 1000)


class PictureDecoder(AvDecoder):
    """A `Decoder` of pictures, which must all have the size of the first one."""

    def _open(self, path: Path, _hardware: HWAccel | None) -> VideoCodecContext:
        """Return the codec of the first picture; one of another kind does not decode."""
        try:
            self._pictures = list_pictures(path)
        except OSError as error:
            raise VideoError(f"the folder cannot be read ({error.strerror})") from error
        self._native_size: tuple[int, int] | None = None
        codecs = (_codec_name(_read(picture)) for picture in self._pictures)
        name = next(filter(None, codecs), None)
        if name is None:
            raise VideoError("the folder holds no JPEG, PNG or TIFF pictures")
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
            packet.is_keyframe = True  # FFmpeg would add other PNGs to the previous picture
            yield packet

    def _require_kind(self, name: str, content: bytes) -> None:
        """Refuse an intact picture that this codec would lose, or decode as black."""
        kind, expected = _codec_name(content), self._codec.name
        if kind not in (None, expected):
            reason = f"{name} is of kind {kind}, but the pictures before it are {expected}"
            raise VideoError(f"{reason}: save them all as one kind", self.name, len(self._pts))
        if _tiff_compression(content) in _JPEG:
            reason = f"{name} is a TIFF with JPEG compression, which FFmpeg cannot read"
            raise VideoError(f"{reason}: save it as PNG", self.name, len(self._pts))

    def _pixels(self, frame: VideoFrame, picture: VideoFrame) -> npt.NDArray[np.uint8]:
        self._orientation = UPRIGHT  # unless this picture says something else
        shown = displayed_size(frame)
        self._native_size = self._native_size or shown
        if self._native_size != shown:
            width, height = self._native_size
            index = frame.pts or 0
            raise VideoError(
                f"{self._pictures[index].name} has {shown[0]}x{shown[1]} pixels, but the "
                f"pictures before it have {width}x{height}: save them all at one size",
                self.name,
                len(self._pts),
            )
        return super()._pixels(frame, picture)

    def first_frame(self) -> VideoFrame:
        """Return the first picture that decodes.

        Raises:
            VideoError: no picture decodes.
        """
        for decoded in self._decode():
            for frame in decoded.frames:
                return frame
        raise VideoError("no frame can be decoded", self.name)

    @property
    def num_pictures(self) -> int:
        """The expected number of frames."""
        return len(self._pictures)

    @property
    def _time_base(self) -> Fraction:
        return _TIME_UNIT

    def timestamps(self) -> npt.NDArray[np.float64]:
        """Return (N,) seconds of the decoded pictures; lost pictures take up time, too."""
        return np.array(self._pts, np.float64) / self.info.fps

    def last_timestamp(self) -> float:
        """Return the seconds of the picture yielded last."""
        return self._pts[-1] / self.info.fps

    def close(self) -> None:
        """Do nothing: no file stays open."""


def probe_pictures(folder: Path, fps: float) -> VideoInfo:
    """Return the properties of a folder of pictures shown at ``fps`` frames per second.

    Raises:
        VideoError: the folder cannot be read, or none of its pictures decodes.
    """
    decoder = PictureDecoder(folder, VideoInfo(0, 0, fps, 0), 0, 0)
    frame = decoder.first_frame()
    width, height = displayed_size(frame)
    return VideoInfo(width, height, fps, decoder.num_pictures)


def _read(picture: Path) -> bytes:
    try:
        return picture.read_bytes()
    except OSError as error:
        raise VideoError(f"{picture.name} cannot be read ({error.strerror})") from error


def _codec_name(content: bytes) -> str | None:
    return next((name for start, name in _CODECS.items() if content.startswith(start)), None)


def _tiff_compression(content: bytes) -> int | None:
    """Return the compression of a TIFF's first picture; None for other or damaged files."""
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
        pass  # the codec reports what is wrong
    return None
