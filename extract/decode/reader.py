"""Reads a video, or a part of it, into clips, with the first decoder that can.

It needs only a decoder and numpy, so that it can run in its own process.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vigil.extract.clips import VIEW_SIZE, ClipGrid, new_array
from vigil.extract.damage import Damage, excess
from vigil.extract.decode.decoder import MAX_FRAMES, Decoder, VideoInfo, frame_size, probe
from vigil.extract.decode.decoder_pictures import probe_pictures
from vigil.extract.decode.decoder_table import AUTO, DecoderRow, check_decoder, for_file, for_folder
from vigil.extract.decode.parts import Part, PartDecoder, split
from vigil.extract.decode.pulse import Pulse
from vigil.extract.decode.ring import MIN_SLOTS
from vigil.extract.decode.sampling import nearest_frames
from vigil.extract.decode.static_clips import RESTART_CLIPS, StaticClips
from vigil.extract.decode.thumbnails import Photographer, Sheet, thumbnail_step
from vigil.extract.errors import VideoError
from vigil.extract.source import SourceVideo, VideoIdentity, identify, require_unchanged


@dataclass(frozen=True, eq=False)
class Clip:
    """The next clip of the video being read."""

    pixels: npt.NDArray[np.uint8]
    """(64, H, W, 3) RGB."""
    is_static: bool = False
    """Whether it may have the feature of the last clip before it that is not static."""


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
    samples: npt.NDArray[np.int64] | None = None
    """(M,) the decoded frames of which clips are made, in order; None: each once. In a part, they
    count from its first frame, and those shared with the next part are left out."""

    @property
    def num_samples(self) -> int:
        """Number of frames of which clips are made."""
        return len(self.timestamps if self.samples is None else self.samples)


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
    deinterlace: str = "auto"
    """auto: frames that are flagged as interlaced; on: all; off: none."""
    frame_rate: float | None = None
    """Frames per second of which clips are made, as in `FeatureSpec`; None: every frame once."""
    thumbnails: bool = False
    """Whether to yield sheets of thumbnails, too."""
    finds_static: bool = False
    """Whether to tell which clips are static."""


Pixels: TypeAlias = npt.NDArray[np.uint8]
NewClip = Callable[[tuple[int, ...]], Pixels]


def read_video(
    video: SourceVideo,
    options: ReadingOptions,
    decoder: str = AUTO,
    new_clip: NewClip = new_array,
    *,
    may_split: bool = False,
    pulse: Pulse | None = None,
) -> Iterator[Clip | Sheet | Restart | SplitVideo | Finished]:
    """Yield a video's clips in order, then `Finished`; or only `SplitVideo`.

    With ``auto``, each decoder of the table gets the video only if those before it cannot read it
    completely, and reads it from the beginning, after a `Restart`. Its turn comes before the video
    is split, so the choice of decoder does not depend on ``may_split``. Folders of pictures have a
    decoder of their own, and are never split.

    Args:
        video: the video to read.
        options: how it is turned into clips.
        decoder: one of `DECODER_NAMES`.
        new_clip: returns the memory for each clip, as in `ClipGrid.cut`.
        may_split: whether a long video may be split into parts, if its decoder allows that.
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
    info = probe(video.path, pulse.beat, video.input_fps)
    identity = identify(video, pulse.beat)
    size = _frame_size(info, options)

    def read_with(row: DecoderRow) -> Iterator[Clip | Sheet | SplitVideo | Finished]:
        pulse.decoder = row.name
        if may_split and row.splits:
            grid, length = options.grid, options.clips_per_part
            rate = options.frame_rate
            step = RESTART_CLIPS if options.finds_static else 1
            if parts := split(video.path, info, identity, grid, length, pulse.beat, rate, step):
                yield SplitVideo(parts)
                return
        opened = row.open(video.path, info, *size, options.deinterlace)
        yield from _read(opened, video, identity, options, new_clip, pulse)

    *others, last = for_file(decoder)
    for row in others:
        try:
            yield from read_with(row)
            return
        except (VideoError, MemoryError) as error:
            yield Restart(str(error) or f"{row.name} needs too much memory")
    yield from read_with(last)


def _read_pictures(
    video: SourceVideo, options: ReadingOptions, new_clip: NewClip, pulse: Pulse
) -> Iterator[Clip | Sheet | Finished]:
    row = for_folder()
    pulse.decoder = row.name
    info = probe_pictures(video.path, video.picture_fps)
    identity = identify(video, pulse.beat)
    decoder = row.open(video.path, info, *_frame_size(info, options), options.deinterlace)
    yield from _read(decoder, video, identity, options, new_clip, pulse)


def read_part(
    video: SourceVideo,
    part: Part,
    options: ReadingOptions,
    new_clip: NewClip = new_array,
    pulse: Pulse | None = None,
) -> Iterator[Clip | Sheet | Finished]:
    """Yield the clips of a part of a video in order, then `Finished`.

    Raises:
        VideoError: the frames are not those that the part promises; read the video in one piece.
    """
    require_unchanged(video, part.identity)
    width, height = _frame_size(part.info, options)
    pulse = pulse or Pulse()
    pulse.decoder = PartDecoder.name
    decoder = PartDecoder(video.path, part, width, height, options.deinterlace)
    yield from _read(decoder, video, part.identity, options, new_clip, pulse, part)


def read_end(
    video: SourceVideo, part: Part, options: ReadingOptions, pulse: Pulse
) -> Iterator[Finished]:
    """Yield the `Finished` with which `read_part` ends, without decoding: the part promises it.

    Raises:
        VideoError: the video has changed, or cannot be opened.
    """
    require_unchanged(video, part.identity)
    pulse.decoder = PartDecoder.name
    decoder = PartDecoder(video.path, part, *_frame_size(part.info, options), options.deinterlace)
    try:
        decoder.skip()
        timestamps = decoder.timestamps()[: part.num_own_frames]
        yield Finished(decoder.info, part.identity, decoder.name, timestamps, decoder.damage())
    finally:
        decoder.close()


def _frame_size(info: VideoInfo, options: ReadingOptions) -> tuple[int, int]:
    """Return (width, height) in pixels at which to decode frames.

    Raises:
        VideoError: their clips would need more memory than they may use.
    """

    def num_bytes(size: tuple[int, int]) -> int:
        return MIN_SLOTS * options.grid.clip_frames * size[0] * size[1] * 3

    width, height = size = frame_size(info.width, info.height, options.short_side)
    if num_bytes(size) <= options.max_clips_bytes:
        return size
    smaller = [
        f"reduce the short side to {side} pixels, or "
        for side in (256, VIEW_SIZE)
        if side < min(size)
        and num_bytes(frame_size(info.width, info.height, side)) <= options.max_clips_bytes
    ]
    gib = num_bytes(size) / 2**30
    raise VideoError(
        f"its frames of {info.width}x{info.height} pixels, decoded as {width}x{height}, make "
        f"clips of {gib:.1f} GiB: {''.join(smaller[:1])}raise worker_memory_gib to "
        f"{math.ceil(gib)} or more"
    )


def _read(
    decoder: Decoder,
    video: SourceVideo,
    identity: VideoIdentity,
    options: ReadingOptions,
    new_clip: NewClip,
    pulse: Pulse,
    part: Part | None = None,
) -> Iterator[Clip | Sheet | Finished]:
    samples = array("q")
    frames = _watched(decoder, pulse)
    if part is not None and part.samples is not None:
        samples.extend(part.samples[: part.num_own_samples])
        frames = _repeated(frames, part.samples)
    elif options.frame_rate is not None:
        frames = _sampled(decoder, frames, options.frame_rate, samples)
    photographer = _photographer(decoder.info, options, part)
    static = StaticClips() if options.finds_static else None
    try:
        for pixels in options.grid.cut(photographer.watch(frames), new_clip):
            pulse.beat()  # with a frame rate, one frame may fill many clips
            yield Clip(pixels, static is not None and static.is_static(pixels))
            yield from photographer.sheets()
        timestamps = decoder.timestamps()[: part.num_own_frames if part else None]
        if len(timestamps) == 0:
            raise VideoError("no frame can be decoded", decoder.name)
        require_unchanged(video, identity)
        damage, num_frames = decoder.damage(), len(timestamps)
        if reason := excess(damage.share(num_frames), options.max_damage):
            raise VideoError(reason, decoder.name, num_frames)
        used = np.array(samples) if options.frame_rate is not None else None
        yield from photographer.sheets(is_end=True)
        yield Finished(decoder.info, identity, decoder.name, timestamps, damage, used)
    finally:
        decoder.close()


def _photographer(info: VideoInfo, options: ReadingOptions, part: Part | None) -> Photographer:
    rate, grid = options.frame_rate or info.fps, options.grid
    step = thumbnail_step(rate, grid.clip_frames) if options.thumbnails else 0
    if part is None:
        return Photographer(step)
    first = part.first_clip * grid.stride
    return Photographer(step, first, first + part.num_own_samples)


def _sampled(
    decoder: Decoder, frames: Iterable[Pixels], rate: float, samples: "array[int]"
) -> Iterator[Pixels]:
    """Yield the frame nearest to each tick of a clock, and add its index to ``samples``."""
    timed = ((decoder.last_timestamp(), frame) for frame in frames)
    for index, frame in nearest_frames(timed, rate, lambda: decoder.info):
        samples.append(index)
        yield frame


def _repeated(frames: Iterable[Pixels], samples: npt.NDArray[np.int64]) -> Iterator[Pixels]:
    """Yield each frame as often as its index is among the samples."""
    counts = np.bincount(samples)
    for index, frame in enumerate(frames):
        yield from repeat(frame, counts[index] if index < len(counts) else 0)


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
