"""Reads a video, or a part of it, into clips, with the first decoder that can.

It needs only a decoder and numpy, so that it can run in its own process.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil.extract.clips import ClipGrid, new_array
from vigil.extract.damage import Damage, excess
from vigil.extract.decode.decoder import MAX_FRAMES, Decoder, VideoInfo, frame_size, probe
from vigil.extract.decode.decoder_av import AvDecoder, NvdecDecoder
from vigil.extract.decode.decoder_decord import DecordDecoder
from vigil.extract.decode.decoder_pictures import PictureDecoder, probe_pictures
from vigil.extract.decode.parts import Part, PartDecoder, split
from vigil.extract.decode.pulse import Pulse
from vigil.extract.decode.ring import MIN_SLOTS
from vigil.extract.errors import UserError, VideoError
from vigil.extract.source import SourceVideo, VideoIdentity, identify, require_unchanged

_DECODERS: dict[str, type[DecordDecoder] | type[AvDecoder] | type[NvdecDecoder]] = {
    decoder.name: decoder for decoder in (DecordDecoder, AvDecoder, NvdecDecoder)
}
DECODERS = ("auto", *_DECODERS)

# While its consumer waits, decord keeps decoding to the end of the video: 20,000 frames and 5.2 GB
# were measured when the consumer had used 256 frames. `auto` gives it only videos that fit into
# this limit, and every worker may need that much.
READ_AHEAD_LIMIT_BYTES = 256 << 20
UNKNOWN_LENGTH_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Clip:
    """The next clip of the video being read."""

    pixels: npt.NDArray[np.uint8]
    """(64, H, W, 3) RGB."""


@dataclass(frozen=True)
class Restart:
    """The clips so far are void: another decoder starts the video again."""

    reason: str


@dataclass(frozen=True)
class SplitVideo:
    """Yielded instead of clips: the parts in which to read a long video."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Finished:
    """The end of a video or a part, after its last clip, with its properties."""

    info: VideoInfo
    identity: VideoIdentity
    decoder: str
    timestamps: npt.NDArray[np.float64]
    """(N,) seconds of the N decoded frames; in a part, without those shared with the next part."""
    damage: Damage


@dataclass(frozen=True)
class ReadingOptions:
    """How videos are turned into clips."""

    grid: ClipGrid
    short_side: int | None
    clips_per_part: int = 256
    """Videos of at least twice as many clips are split, if that is allowed."""
    max_clips_bytes: int = 4 << 30
    """Memory limit for the clips that a worker must hold at the same time."""
    max_damage: float = 1.0
    """Share of a video's frames, 0..1, that may be damaged."""


NewClip = Callable[[tuple[int, ...]], npt.NDArray[np.uint8]]


def decoder_name(pulse: Pulse) -> str:
    """Return the name of the decoder at work; empty if none was chosen yet."""
    return DECODERS[pulse.decoder] if pulse.decoder else ""


def check_decoder(name: str) -> None:
    """Refuse unknown decoders.

    Raises:
        UserError: the decoder is unknown; names those that exist.
    """
    if name not in DECODERS:
        raise UserError(f"unknown decoder {name!r}: use one of {', '.join(DECODERS)}")


def read_video(
    video: SourceVideo,
    options: ReadingOptions,
    decoder: str = "auto",
    new_clip: NewClip = new_array,
    *,
    may_split: bool = False,
    pulse: Pulse | None = None,
) -> Iterator[Clip | Restart | SplitVideo | Finished]:
    """Yield a video's clips in order, then `Finished`; or only `SplitVideo`.

    With ``auto``, decord reads the video. If it cannot open the file, finds damage, or would read
    too far ahead, PyAV reads the video from the beginning instead, after a `Restart`. Only videos
    that PyAV reads are split, so the choice of decoder does not depend on ``may_split``. PyAV reads
    all folders of pictures, and they are never split.

    Args:
        video: the video to read.
        options: how it is turned into clips.
        decoder: one of `DECODERS`.
        new_clip: returns the memory for each clip, as in `ClipGrid.cut`.
        may_split: whether a long video that PyAV would read may be split into parts.
        pulse: records heartbeat and progress, for a process that watches.

    Raises:
        UserError: the decoder is unknown.
        VideoError: no decoder can decode a frame of it, or too many are damaged.
    """
    check_decoder(decoder)
    pulse = pulse or Pulse()
    if video.path.is_dir():
        yield from _read_pictures(video, options, new_clip, pulse)
        return
    info = probe(video.path, pulse.beat)
    identity = identify(video, pulse.beat)
    width, height = _frame_size(info, options)
    if decoder == "auto":
        pulse.decoder = DECODERS.index(DecordDecoder.name)
        try:
            frugal = _frugal_decord(video.path, info, width, height)
            yield from _read(frugal, video, identity, options, new_clip, pulse)
            return
        except (VideoError, MemoryError) as error:
            yield Restart(str(error) or "decord needs too much memory")
            decoder = AvDecoder.name
    pulse.decoder = DECODERS.index(decoder)
    if may_split and decoder == AvDecoder.name:
        parts = split(video.path, info, identity, options.grid, options.clips_per_part, pulse.beat)
        if parts:
            yield SplitVideo(parts)
            return
    chosen = _DECODERS[decoder](video.path, info, width, height)
    yield from _read(chosen, video, identity, options, new_clip, pulse)


def _read_pictures(
    video: SourceVideo, options: ReadingOptions, new_clip: NewClip, pulse: Pulse
) -> Iterator[Clip | Finished]:
    pulse.decoder = DECODERS.index(PictureDecoder.name)
    info = probe_pictures(video.path, video.picture_fps)
    identity = identify(video, pulse.beat)
    width, height = _frame_size(info, options)
    decoder = PictureDecoder(video.path, info, width, height)
    yield from _read(decoder, video, identity, options, new_clip, pulse)


def read_part(
    video: SourceVideo,
    part: Part,
    options: ReadingOptions,
    new_clip: NewClip = new_array,
    pulse: Pulse | None = None,
) -> Iterator[Clip | Finished]:
    """Yield the clips of a part of a video in order, then `Finished`.

    Raises:
        VideoError: the frames are not those that the part promises; read the video in one piece.
    """
    require_unchanged(video, part.identity)
    width, height = _frame_size(part.info, options)
    pulse = pulse or Pulse()
    pulse.decoder = DECODERS.index(PartDecoder.name)
    decoder = PartDecoder(video.path, part, width, height)
    yield from _read(decoder, video, part.identity, options, new_clip, pulse, part.num_own_frames)


def _frame_size(info: VideoInfo, options: ReadingOptions) -> tuple[int, int]:
    """Return (width, height) in pixels at which to decode frames.

    Raises:
        VideoError: their clips would need more memory than they may use.
    """
    width, height = frame_size(info.width, info.height, options.short_side)
    num_bytes = MIN_SLOTS * options.grid.clip_frames * width * height * 3
    if num_bytes > options.max_clips_bytes:
        raise VideoError(
            f"its frames of {info.width}x{info.height} pixels, decoded as {width}x{height}, make "
            f"clips of {num_bytes / 2**30:.1f} GiB: reduce the short side to 256 pixels, or "
            "allow workers more memory"
        )
    return width, height


def _frugal_decord(path: Path, info: VideoInfo, width: int, height: int) -> DecordDecoder:
    """Open decord, if a whole video is within its read-ahead limit.

    Raises:
        VideoError: the video exceeds the limit, or decord cannot open it.
    """
    num_frames = info.num_frames_container or info.duration_seconds * info.fps
    # decord reads the whole file, whatever its size, before it reports the number of frames.
    is_small = num_frames > 0 or path.stat().st_size <= UNKNOWN_LENGTH_LIMIT_BYTES
    if is_small and num_frames * height * width * 3 <= READ_AHEAD_LIMIT_BYTES:
        decoder = DecordDecoder(path, info, width, height)
        if decoder.read_ahead_bytes <= READ_AHEAD_LIMIT_BYTES:
            return decoder
        decoder.close()
    raise VideoError("too long for decord, which reads ahead without bound", DecordDecoder.name)


def _read(
    decoder: Decoder,
    video: SourceVideo,
    identity: VideoIdentity,
    options: ReadingOptions,
    new_clip: NewClip,
    pulse: Pulse,
    num_own_frames: int | None = None,
) -> Iterator[Clip | Finished]:
    try:
        for pixels in options.grid.cut(_watched(decoder, pulse), new_clip):
            yield Clip(pixels)
        timestamps = decoder.timestamps()[:num_own_frames]
        if len(timestamps) == 0:
            raise VideoError("no frame can be decoded", decoder.name)
        require_unchanged(video, identity)
        damage, num_frames = decoder.damage(), len(timestamps)
        if reason := excess(damage.share(num_frames), options.max_damage):
            raise VideoError(reason, decoder.name, num_frames)
        yield Finished(decoder.info, identity, decoder.name, timestamps, damage)
    finally:
        decoder.close()


def _watched(decoder: Decoder, pulse: Pulse) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a decoder's frames, with a heartbeat for each.

    Raises:
        VideoError: there are more than `MAX_FRAMES`.
    """
    for number, frame in enumerate(decoder, start=1):
        if number > MAX_FRAMES:
            raise VideoError(f"the video has more than {MAX_FRAMES} frames", decoder.name, number)
        pulse.num_frames = number
        yield frame
