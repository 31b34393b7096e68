"""One video -> its clips, through the first decoder that can: the worker's side of extraction.

Needs a decoder and numpy only, so that it can run in a process of its own.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extract.clips import ClipGrid
from extract.decoder import Decoder, VideoError, VideoInfo, frame_edges, frame_size, probe
from extract.decoder_av import AvDecoder
from extract.decoder_decord import DecordDecoder
from extract.errors import UserError
from extract.store import VideoIdentity

DECODERS = ("auto", "decord", "pyav")

# While its consumer waits, decord decodes on to the end of the video: 20,000 frames and 5.2 GB were
# measured behind a reader that had taken 256. `auto` gives it only videos that would fit in this.
READ_AHEAD_LIMIT_BYTES = 1 << 30

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceVideo:
    """A video to extract: where it is and what it is called in every output."""

    path: Path
    name: str
    """Relative to the folder of videos, with forward slashes."""


@dataclass(frozen=True, eq=False)
class Clip:
    """The next clip of the video being read."""

    pixels: npt.NDArray[np.uint8]
    """(64, H, W, 3) RGB."""


@dataclass(frozen=True)
class Restart:
    """The clips so far are void: another decoder begins the video again."""

    reason: str


@dataclass(frozen=True, eq=False)
class Finished:
    """The video's last clip has been sent; what is known of the whole video."""

    info: VideoInfo
    identity: VideoIdentity
    decoder: str
    edges: npt.NDArray[np.float64]
    """(N + 1,) seconds: where each of the N decoded frames begins, and where the last ends."""
    num_damaged: int


@dataclass(frozen=True)
class ReadingOptions:
    """How videos are turned into clips."""

    grid: ClipGrid
    short_side: int | None
    decoder: str = "auto"

    def __post_init__(self) -> None:
        """Refuse unknown decoders.

        Raises:
            UserError: names the decoders there are.
        """
        if self.decoder not in DECODERS:
            raise UserError(f"no decoder {self.decoder!r}: use one of {', '.join(DECODERS)}")


def read_video(video: SourceVideo, options: ReadingOptions) -> Iterator[Clip | Restart | Finished]:
    """Yield a video's clips in order, then `Finished`.

    With ``auto`` decord reads the video. Where it cannot open it, meets damage, or would read too
    far ahead, PyAV reads it from the beginning instead; `Restart` says so.

    Raises:
        VideoError: no decoder gets a frame out of it.
    """
    info = probe(video.path)
    identity = identify(video)
    if options.decoder == "auto":
        try:
            yield from _read_with("decord", video, identity, info, options)
            return
        except VideoError as error:
            log.debug("%s: %s; going on with PyAV", video.name, error.reason)
            yield Restart(error.reason)
    decoder = "pyav" if options.decoder == "auto" else options.decoder
    yield from _read_with(decoder, video, identity, info, options)


def _read_with(
    name: str, video: SourceVideo, identity: VideoIdentity, info: VideoInfo, options: ReadingOptions
) -> Iterator[Clip | Finished]:
    width, height = frame_size(info.width, info.height, options.short_side)
    decoder: Decoder
    if name == "decord":
        decoder = DecordDecoder(video.path, info, width, height)
        if options.decoder == "auto" and decoder.read_ahead_bytes > READ_AHEAD_LIMIT_BYTES:
            decoder.close()
            raise VideoError("too long for decord, which reads ahead without bound", name)
    else:
        decoder = AvDecoder(video.path, info, width, height)
    try:
        for pixels in options.grid.cut(decoder):
            yield Clip(pixels)
        timestamps = decoder.timestamps()
        if len(timestamps) == 0:
            raise VideoError("no frame can be decoded", name)
        yield Finished(info, identity, name, frame_edges(timestamps, info), decoder.num_damaged)
    finally:
        decoder.close()


def identify(video: SourceVideo) -> VideoIdentity:
    """Size, time of change and sha256 of a video file.

    Raises:
        VideoError: the file cannot be read.
    """
    try:
        status = video.path.stat()
        with video.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"the file cannot be read ({error.strerror})") from error
    return VideoIdentity(video.name, status.st_size, status.st_mtime_ns, digest)
