"""One video, or a part of it -> its clips, through the first decoder that can.

Needs a decoder and numpy only, so that it can run in a process of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extract.clips import ClipGrid, new_array
from extract.decoder import Decoder, VideoInfo, frame_size, probe
from extract.decoder_av import AvDecoder, NvdecDecoder
from extract.decoder_decord import DecordDecoder
from extract.errors import UserError, VideoError
from extract.parts import Part, PartDecoder, split
from extract.source import SourceVideo, VideoIdentity, identify

_DECODERS: dict[str, type[DecordDecoder] | type[AvDecoder] | type[NvdecDecoder]] = {
    decoder.name: decoder for decoder in (DecordDecoder, AvDecoder, NvdecDecoder)
}
DECODERS = ("auto", *_DECODERS)

# While its consumer waits, decord decodes on to the end of the video: 20,000 frames and 5.2 GB were
# measured behind a reader that had taken 256. `auto` gives it only videos that would fit in this,
# of which every worker may need as much.
READ_AHEAD_LIMIT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Clip:
    """The next clip of the video being read."""

    pixels: npt.NDArray[np.uint8]
    """(64, H, W, 3) RGB."""


@dataclass(frozen=True)
class Restart:
    """The clips so far are void: another decoder begins the video again."""

    reason: str


@dataclass(frozen=True)
class Split:
    """Instead of clips: the parts in which a long video is to be read."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Finished:
    """The last clip has been sent; what is known of the video, or of the part of it."""

    info: VideoInfo
    identity: VideoIdentity
    decoder: str
    timestamps: npt.NDArray[np.float64]
    """(N,) seconds of the N decoded frames; of a part's, those that are not the next part's too."""
    num_damaged: int


@dataclass(frozen=True)
class ReadingOptions:
    """How videos are turned into clips."""

    grid: ClipGrid
    short_side: int | None
    clips_per_part: int = 256
    """Videos of twice as many are split, where that is allowed."""


NewClip = Callable[[tuple[int, ...]], npt.NDArray[np.uint8]]


def check_decoder(name: str) -> None:
    """Refuse unknown decoders.

    Raises:
        UserError: names the decoders there are.
    """
    if name not in DECODERS:
        raise UserError(f"no decoder {name!r}: use one of {', '.join(DECODERS)}")


def read_video(
    video: SourceVideo,
    options: ReadingOptions,
    decoder: str = "auto",
    new_clip: NewClip = new_array,
    *,
    may_split: bool = False,
) -> Iterator[Clip | Restart | Split | Finished]:
    """Yield a video's clips in order, then `Finished`; or `Split` in their place.

    With ``auto`` decord reads the video. Where it cannot open it, meets damage, or would read too
    far ahead, PyAV reads it from the beginning instead; `Restart` says so. Only what comes to PyAV
    is split, so that the decoder does not depend on whether that is allowed.

    Args:
        video: where it is.
        options: how it is turned into clips.
        decoder: one of `DECODERS`.
        new_clip: gives the memory for each clip, as for `ClipGrid.cut`.
        may_split: whether a long video that PyAV is to read may be read in parts.

    Raises:
        UserError: there is no such decoder.
        VideoError: no decoder gets a frame out of it.
    """
    check_decoder(decoder)
    info = probe(video.path)
    identity = identify(video)
    width, height = frame_size(info.width, info.height, options.short_side)
    if decoder == "auto":
        try:
            frugal = _frugal_decord(video.path, info, width, height)
            yield from _read(frugal, identity, options, new_clip)
            return
        except VideoError as error:
            yield Restart(error.reason)
            decoder = AvDecoder.name
    if may_split and decoder == AvDecoder.name:
        parts = split(video.path, info, identity, options.grid, options.clips_per_part)
        if parts:
            yield Split(parts)
            return
    chosen = _DECODERS[decoder](video.path, info, width, height)
    yield from _read(chosen, identity, options, new_clip)


def read_part(
    video: SourceVideo, part: Part, options: ReadingOptions, new_clip: NewClip = new_array
) -> Iterator[Clip | Finished]:
    """Yield the clips of a part of a video in order, then `Finished`.

    Raises:
        VideoError: what the part promises cannot be kept; the video is to be read in one piece.
    """
    status, identity = video.path.stat(), part.identity
    if (status.st_size, status.st_mtime_ns) != (identity.num_bytes, identity.modified_ns):
        raise VideoError("the file changed while it was being read")
    width, height = frame_size(part.info.width, part.info.height, options.short_side)
    decoder = PartDecoder(video.path, part, width, height)
    yield from _read(decoder, identity, options, new_clip, part.num_own_frames)


def _frugal_decord(path: Path, info: VideoInfo, width: int, height: int) -> DecordDecoder:
    """The decord decoder, if a whole video is not more than it may read ahead.

    Raises:
        VideoError: it is, or decord cannot open it.
    """
    if info.num_frames_container * height * width * 3 <= READ_AHEAD_LIMIT_BYTES:
        decoder = DecordDecoder(path, info, width, height)
        if decoder.read_ahead_bytes <= READ_AHEAD_LIMIT_BYTES:
            return decoder
        decoder.close()
    raise VideoError("too long for decord, which reads ahead without bound", DecordDecoder.name)


def _read(
    decoder: Decoder,
    identity: VideoIdentity,
    options: ReadingOptions,
    new_clip: NewClip,
    num_own_frames: int | None = None,
) -> Iterator[Clip | Finished]:
    try:
        for pixels in options.grid.cut(decoder, new_clip):
            yield Clip(pixels)
        timestamps = decoder.timestamps()[:num_own_frames]
        if len(timestamps) == 0:
            raise VideoError("no frame can be decoded", decoder.name)
        yield Finished(decoder.info, identity, decoder.name, timestamps, decoder.num_damaged)
    finally:
        decoder.close()
