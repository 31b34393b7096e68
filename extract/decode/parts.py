"""Splits a long video into parts for several workers, with the exact frames of each part.

A part is decoded from a keyframe on. It is valid only if its frames are those that the packets of
the whole video promise, none of them damaged; then they are, bit for bit, the frames that reading
from the beginning yields. A video whose packets promise nothing is not split. If a part breaks the
promise, the video must be read in one piece.
"""

import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import dropwhile, pairwise, repeat
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from vigil.extract.clips import ClipGrid
from vigil.extract.decode.decoder import VideoInfo, best_stream, open_container
from vigil.extract.decode.decoder_av import AvDecoder, num_logged_errors
from vigil.extract.decode.interlacing import AUTO
from vigil.extract.decode.packets import PacketLog
from vigil.extract.decode.sampling import expected_samples, nearest_frames
from vigil.extract.decode.streams import demux, is_of_another
from vigil.extract.decode.timeline import has_jumps
from vigil.extract.errors import VideoError
from vigil.extract.source import VideoIdentity

MIN_LEAD_FRAMES = 32
"""Frames decoded and dropped after the keyframe, where codecs report missing reference frames."""
MAX_LEAD = 0.25
"""Limit for additional frames decoded and dropped, as a share of the frames of a part."""
PACKED = ("frame_pts", "samples")
"""The arrays of a part."""
SEEK_MARGIN_SECONDS = 10
"""Without an index, seeking is inexact; reading extra packets costs little."""


@dataclass(frozen=True, eq=False)
class Part:
    """Consecutive clips of a video, and the frames they are made of."""

    first_clip: int
    stop_clip: int
    frame_pts: npt.NDArray[np.int64]
    """(n,) presentation times of the part's frames, in order, in the stream's unit."""
    keyframe_pts: int | None
    """Time of the frame from which to decode; None: from the beginning of the file."""
    num_own_frames: int
    """Number of frames before the first one of the next part, which may share the rest."""
    info: VideoInfo
    identity: VideoIdentity
    samples: npt.NDArray[np.int64] | None = None
    """(m,) the frames, of this part's, of which its clips are made, in order; None: each once."""
    num_own_samples: int = 0
    """Number of samples before the first one of the next part, which may share the rest."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the part in few bytes, so that sending it never waits for the worker."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        packed = {
            name: zlib.compress(np.diff(values[name], prepend=0).tobytes(), 1)
            for name in PACKED
            if values[name] is not None
        }
        return _unpacked, (values | packed,)


def _unpacked(values: dict[str, Any]) -> Part:
    arrays = {
        name: np.frombuffer(zlib.decompress(values[name]), np.int64).cumsum()
        for name in PACKED
        if values[name] is not None
    }
    return Part(**(values | arrays))


class PartDecoder(AvDecoder):
    """A `Decoder` of one part that yields exactly the promised frames, or fails."""

    def __init__(
        self, path: Path, part: Part, width: int, height: int, deinterlace: str = AUTO
    ) -> None:
        """Open a video, to decode the frames of one part at the given size in pixels.

        Raises:
            VideoError: the file cannot be opened as a video.
        """
        super().__init__(path, part.info, width, height, deinterlace)
        self._part = part
        self._begins_clean = part.keyframe_pts is None

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames of the part.

        Raises:
            VideoError: they are damaged, or not the promised ones.
        """
        for decoded in self._decode():
            if decoded.has_error and not self._is_dropped(decoded.packet):
                raise self._error("damaged")
            for frame in decoded.frames:
                yield from self._own(self._deinterlacer.push(frame))
                if len(self._pts) == len(self._part.frame_pts):
                    return
        yield from self._own(self._deinterlacer.flush())
        if len(self._pts) < len(self._part.frame_pts):
            raise self._error("too few frames")

    def skip(self) -> None:
        """Take all frames of the part as yielded; they are known to be the promised ones."""
        self._pts = array("q", self._part.frame_pts.tolist())

    def _own(
        self, ready: Iterator[tuple[VideoFrame, VideoFrame]]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the pixels of those frames that belong to this part.

        At the end of an interlaced part, the deinterlacer returns its last frame only after the
        first one of the next part has been decoded.
        """
        for frame, picture in ready:
            if len(self._pts) < len(self._part.frame_pts) and self._is_own(frame):
                yield self._pixels(frame, picture)

    def _packets(self) -> "Iterator[Packet[VideoStream] | None]":
        """Yield the packets from the keyframe on."""
        keyframe_pts = self._part.keyframe_pts
        if keyframe_pts is None:
            return super()._packets()
        margin = round(SEEK_MARGIN_SECONDS / (self._stream.time_base or 1))
        start = self._stream.start_time or 0
        try:
            if keyframe_pts - margin > start:  # at the start, seeking may miss the first packet
                self._container.seek(keyframe_pts - margin, stream=self._stream)
        except av.error.FFmpegError as error:
            raise self._error("the keyframe before them cannot be reached") from error
        return dropwhile(
            lambda packet: (
                packet is not None and not (packet.is_keyframe and packet.pts == keyframe_pts)
            ),
            super()._packets(),
        )

    def _is_dropped(self, packet: "Packet[VideoStream] | None") -> bool:
        """Whether a packet's frame belongs to an earlier part, which checks it for damage."""
        if packet is None or packet.pts is None:
            return False
        return bool(packet.pts < self._part.frame_pts[0])

    def _is_own(self, frame: VideoFrame) -> bool:
        """Whether the frame belongs to this part; it must then be the next one, and undamaged."""
        if frame.pts is not None and frame.pts == self._part.keyframe_pts:
            # With gradual refresh, for example, keyframes are keyframes only in name.
            self._begins_clean = frame.key_frame and frame.pict_type == PictureType.I
        if frame.pts is not None and frame.pts < self._part.frame_pts[0]:
            return False
        if frame.pts != self._part.frame_pts[len(self._pts)]:
            raise self._error("not the frames that its packets promise")
        if not self._begins_clean:
            raise self._error("not decodable from its keyframe")
        if frame.is_corrupt:
            raise self._error("damaged")
        return True

    def _error(self, reason: str) -> VideoError:
        clips = f"clips {self._part.first_clip} to {self._part.stop_clip}"
        return VideoError(f"{clips}: {reason}", self.name, len(self._pts))


def split(
    path: Path,
    info: VideoInfo,
    identity: VideoIdentity,
    grid: ClipGrid,
    clips_per_part: int,
    beat: Callable[[], None] = lambda: None,
    frame_rate: float | None = None,
    step: int = 1,
) -> tuple[Part, ...]:
    """Return the parts of a video in order, two or more, or none if it should not be split.

    ``beat`` is called for every packet read from the file. With a frame rate, clips are made of the
    frames nearest to its ticks. The first clip of every part is a multiple of ``step``.
    """
    shortest = 2 * clips_per_part
    stated = expected_samples(info.num_frames_container, info.fps, frame_rate)
    if stated and grid.num_clips(stated) < shortest:
        return ()
    promised = _scan(path, info, beat)
    if promised is None:
        return ()
    frame_pts, keyframes = promised.frame_pts, promised.keyframes
    num_frames = len(frame_pts)
    samples = np.arange(num_frames) if frame_rate is None else promised.samples(frame_rate)
    num_clips = grid.num_clips(len(samples))
    if num_clips < shortest:
        return ()
    starts = samples[grid.frame_ranges(len(samples))[:, 0]]
    frames_per_part = clips_per_part * grid.stride * (num_frames / len(samples))
    between = _borders(starts, clips_per_part, frames_per_part, keyframes, step)
    borders = [0, *between, num_clips]
    parts = []
    for first_clip, stop_clip in pairwise(borders if len(borders) > 2 else ()):
        is_last, first = stop_clip == num_clips, starts[first_clip]
        own_stop = num_frames if is_last else starts[stop_clip]
        first_sample, own_stop_sample = first_clip * grid.stride, stop_clip * grid.stride
        _, stop_sample = grid.frame_range(stop_clip - 1, len(samples))
        stop = max(samples[stop_sample - 1] + 1, own_stop)
        keyframe = _keyframes_before(np.array(first), keyframes)
        parts.append(
            Part(
                first_clip,
                stop_clip,
                frame_pts[first:stop],
                int(frame_pts[keyframe]) if first_clip else None,
                int(own_stop - first),
                promised.info,
                identity,
                None if frame_rate is None else samples[first_sample:stop_sample] - first,
                (stop_sample if is_last else own_stop_sample) - first_sample,
            )
        )
    return tuple(parts)


@dataclass(frozen=True, eq=False)
class _Promise:
    """What the packets of a video promise."""

    frame_pts: npt.NDArray[np.int64]
    """(N,) presentation times of all frames, in order."""
    keyframes: npt.NDArray[np.intp]
    """Which of them are keyframes."""
    seconds: npt.NDArray[np.float64]
    """(N,) what `Decoder.last_timestamp` will return."""
    info: VideoInfo
    """With the properties that only the end of the video shows."""

    def samples(self, rate: float) -> npt.NDArray[np.int64]:
        """Return (M,) the frame nearest to each tick."""
        timed = zip(self.seconds.tolist(), repeat(None))
        nearest = (index for index, _ in nearest_frames(timed, rate, lambda: self.info))
        return np.fromiter(nearest, np.int64)


def _scan(path: Path, info: VideoInfo, beat: Callable[[], None]) -> _Promise | None:
    """Return what the packets of a video promise.

    None if they do not determine the times of its frames, or if these are not one rising clock.
    """
    log, keyframe_pts = PacketLog(), array("q")
    av.logging.set_level(av.logging.PANIC)
    num_errors = num_logged_errors()
    with open_container(path) as container:
        try:
            stream = best_stream(container)
            exact_unit = stream.time_base or Fraction(0)  # to be read while the file is open
            for packet in demux(path, container, stream):
                beat()
                if packet is None or is_of_another(packet, stream):
                    return None
                if packet.size == 0:
                    continue
                if packet.pts is None or packet.is_corrupt or packet.is_discard:
                    return None
                log.add(packet)
                if packet.is_keyframe:
                    keyframe_pts.append(packet.pts)
        except av.error.FFmpegError:
            return None
    all_pts = np.array(log.pts)
    frame_pts = np.unique(all_pts)
    if not len(all_pts) or len(frame_pts) < len(all_pts) or num_logged_errors() > num_errors:
        return None
    unit = float(exact_unit)
    info = log.completed(info, path, int(frame_pts[-1]), unit)
    if info.clock_wrap_seconds and log.ends_inside_frame(path):
        return None
    if (info.counts_chunks and info.has_timestamps) or has_jumps(log.presented_seconds(unit), info):
        return None
    keyframes = np.searchsorted(frame_pts, np.sort(np.array(keyframe_pts)))
    return _Promise(frame_pts, keyframes, log.frame_seconds(frame_pts, info, exact_unit), info)


def _borders(
    starts: npt.NDArray[np.int64],
    clips_per_part: int,
    frames_per_part: float,
    keyframes: npt.NDArray[np.intp],
    step: int = 1,
) -> Iterator[int]:
    """Yield the first clips of parts: clips that start soon after a keyframe, multiples of a step.

    ``starts`` has the first frame of every clip.
    """
    num_clips = len(starts)
    num_parts = num_clips // clips_per_part
    reach = clips_per_part // 4
    last = 0
    for number in range(1, num_parts):
        even = number * num_clips // num_parts
        clips = np.arange(even - reach, even + reach + 1)
        clips = clips[clips % step == 0]
        if not len(clips):
            continue
        found = _keyframes_before(starts[clips], keyframes)
        leads = starts[clips] - found
        best = np.lexsort([np.abs(clips - even), leads])[0]
        is_near = leads[best] <= MIN_LEAD_FRAMES + MAX_LEAD * frames_per_part
        if found[best] >= 0 and is_near and starts[clips[best]] > last:
            last = starts[clips[best]]  # parts without a frame of their own would be empty
            yield int(clips[best])


def _keyframes_before(
    frames: npt.NDArray[np.intp], keyframes: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Return the keyframe from which to decode to reach each frame, or -1 if there is none."""
    numbers = np.searchsorted(keyframes, frames - MIN_LEAD_FRAMES, side="right")
    return np.append(-1, keyframes)[numbers]
