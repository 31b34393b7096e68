"""Excerpts: parts of videos as MP4 files that every browser plays, each with a contact sheet.

H.264 in 8-bit 4:2:0 is copied, without loss, if a keyframe lies shortly before the part; anything
else is encoded. Sound is kept, as AAC. Frames that are encoded are turned upright and get square
pixels; a copy keeps what its file says about that.

Parts are found by time. If a file stores no times, or if its clock jumps, its frames are counted
from the beginning, and sound, which only a clock could place, is left out.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.decode.contact_sheet import write_sheet
from vigil.extract.decode.decoder import (
    NO_TIMESTAMPS,
    TIMES_MAY_JUMP,
    VideoInfo,
    best_stream,
    open_container,
)
from vigil.extract.decode.decoder_table import for_folder
from vigil.extract.decode.excerpt_tracks import (
    CopiedPictures,
    CopiedSound,
    Encoder,
    Pictures,
    Sound,
    Track,
    decoded,
    open_mp4,
    time_of,
)
from vigil.extract.errors import VideoError
from vigil.extract.files import replace_file

COPIED_FORMATS = ("yuv420p", "yuvj420p")
MAX_EARLY_SECONDS = 2.0
"""A copy may begin so much earlier than asked for, because it must begin with a keyframe."""
SAME_SECONDS = 1.0
"""By so much a file's own length may differ from that of its timeline if its clock never jumps."""
LONGEST_STEP_SECONDS = 60.0
ROUNDING = 1e-3
STEPS_BACK = (0.0, 2.0, 10.0, 60.0, 600.0)
"""Seconds by which to seek earlier if the file's index leads to a place after the one asked for."""


@dataclass(frozen=True)
class Excerpt:
    """A part of a video to be written: an event and some seconds around it."""

    path: Path
    """The MP4 file; the contact sheet lies beside it, as .jpg."""
    event_seconds: tuple[float, float]
    """From the first frame on."""
    event_frames: tuple[int, int]
    """Half-open."""
    margin_seconds: float

    @property
    def seconds(self) -> tuple[float, float]:
        """Where the excerpt starts and stops; it may stop after the end of the video."""
        start, stop = self.event_seconds
        return max(start - self.margin_seconds, 0.0), stop + self.margin_seconds

    def frames(self, fps: float) -> range:
        """The frames of the excerpt, if frames are counted."""
        margin = round(self.margin_seconds * fps)
        return range(max(self.event_frames[0] - margin, 0), self.event_frames[1] + margin)

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.path.with_suffix(".jpg")


@dataclass(frozen=True)
class Source:
    """A video, and what its results say of its timeline."""

    path: Path
    fps: float
    duration_seconds: float


@dataclass(frozen=True)
class Written:
    """An excerpt that lies on the disk."""

    start_seconds: float
    """When it starts, from the first frame of the video on."""
    is_copy: bool


def write_excerpt(
    source: Source, excerpt: Excerpt, beat: Callable[[], None] = lambda: None
) -> Written:
    """Write an excerpt and its contact sheet.

    Args:
        source: the video.
        excerpt: which part of it.
        beat: called for every packet or frame that is read.

    Raises:
        VideoError: the video is missing or cannot be decoded there.
        OSError: the disk is full or the folder cannot be written.
    """
    if source.path.is_dir():
        return _encode_counted(source, excerpt, _pictures(source, beat))
    with open_container(source.path) as container:
        stream = best_stream(container)
        if _is_timed(container, stream, source):
            with suppress(_ClockJumpsError):
                part = _Part(container, stream, excerpt, beat)
                if part.may_copy:
                    with suppress(VideoError, av.error.FFmpegError):  # it is encoded instead
                        return part.write(copy=True)
                return part.write(copy=False)
    with open_container(source.path) as container:
        frames = _all_frames(container, best_stream(container), beat)
        clocked = not container.format.flags & NO_TIMESTAMPS
        return _encode_counted(source, excerpt, frames, clocked)


class _ClockJumpsError(Exception):
    """The times in a file are not those of its timeline."""


def _is_timed(container: InputContainer, stream: VideoStream, source: Source) -> bool:
    """Whether the times in a file are those of its timeline, as far as it states its length."""
    if container.format.flags & NO_TIMESTAMPS or not stream.time_base:
        return False
    ticks = stream.duration
    seconds = float(ticks * stream.time_base) if ticks else (container.duration or 0) / av.time_base
    more = source.duration_seconds - seconds
    if container.format.flags & TIMES_MAY_JUMP or container.format.name == "avi":
        return abs(more) <= SAME_SECONDS
    return not seconds or more <= SAME_SECONDS  # shorter than it says: it breaks off


class _Part:
    """A part of a file whose times are those of its timeline."""

    def __init__(
        self,
        container: InputContainer,
        video: VideoStream,
        excerpt: Excerpt,
        beat: Callable[[], None],
    ) -> None:
        self._container, self._video, self._excerpt, self._beat = container, video, excerpt, beat
        sound = container.streams.best("audio")
        self._sound = sound if isinstance(sound, AudioStream) and sound.codec_context else None
        self._unit, self._latest = video.time_base or Fraction(1), -math.inf
        first = next(_all_frames(container, video, beat), None)
        if first is None:
            raise VideoError("no frame of it can be decoded")
        self._first, self._origin = first, time_of(first, self._unit)
        start, stop = excerpt.seconds
        self._start, self._stop = self._origin + start, self._origin + stop
        self._place, self._keyframe = self._seek()

    @property
    def may_copy(self) -> bool:
        """Whether browsers play the stream as it is, and it can begin close to the start."""
        codec, keyframe = self._video.codec_context, self._keyframe
        is_known = codec.name == "h264" and codec.pix_fmt in COPIED_FORMATS
        earliest = max(self._start - MAX_EARLY_SECONDS, self._origin)
        is_near = keyframe is not None and earliest <= keyframe <= self._start
        return is_known and is_near and bool(codec.extradata)

    def _seek(self) -> tuple[float | None, float | None]:
        """Find a place in the file and the last keyframe by the start, in its own seconds.

        The place is None for the beginning of the file, and the keyframe if there is none.
        """
        places = (self._start - back for back in STEPS_BACK)
        for place in (*(one for one in places if one > self._origin), None):
            with suppress(av.error.FFmpegError):
                self._go_to(place)
                keyframe = self._last_keyframe()
                if place is None or keyframe is not None:
                    return place, keyframe
        return None, None

    def _last_keyframe(self) -> float | None:
        """The last keyframe by the start, from where the file is."""
        found = None
        for packet in self._packets(self._video):
            if packet.pts is not None and (time := float(packet.pts * self._unit)) > self._start:
                break
            if packet.is_keyframe and packet.pts is not None:
                found = time
        return found

    def _go_to(self, place: float | None) -> None:
        self._latest = -math.inf
        if place is None:
            self._container.seek(min(self._container.start_time or 0, 0), backward=True)
        else:
            self._container.seek(int(place / self._unit), stream=self._video)

    def _packets(self, *streams: Any) -> "Iterator[Packet[Any]]":
        """Yield packets from where the file is; a damaged place ends them.

        Raises:
            _ClockJumpsError: another recording follows, as in files that were joined.
        """
        packets = self._container.demux(*streams)
        while True:
            self._beat()
            try:
                packet = next(packets)
            except (StopIteration, IndexError, av.error.FFmpegError):
                return
            if packet.stream.index == self._video.index and packet.dts is not None:
                time = float(packet.dts * self._unit)
                if time < self._latest - SAME_SECONDS:
                    raise _ClockJumpsError
                self._latest = max(self._latest, time)
            if packet.size:
                yield packet

    def write(self, *, copy: bool) -> Written:
        """Write the MP4 file and its contact sheet.

        Raises:
            VideoError: there is no frame in it, or a copy does not decode.
        """
        start = self._keyframe if copy and self._keyframe is not None else self._start
        span = start, self._stop
        with replace_file(self._excerpt.path) as partial, open_mp4(partial) as output:
            pictures = (
                CopiedPictures(output, self._video, span)
                if copy
                else Pictures(output, self._video, span, self._first)
            )
            tracks: dict[int, Track] = {self._video.index: pictures}
            if self._sound is not None:
                is_aac = self._sound.codec_context.name == "aac"
                kind = CopiedSound if is_aac else Sound
                tracks[self._sound.index] = kind(output, self._sound, span)
            self._go_to(self._place)
            for packet in self._packets(*(self._container.streams[index] for index in tracks)):
                track = tracks[packet.stream.index]
                track.take(packet)
                if track.is_past(packet) or all(one.is_over for one in tracks.values()):
                    break
            for track in tracks.values():
                track.finish()
            if pictures.last_seconds < self._origin + self._excerpt.event_seconds[0] - ROUNDING:
                raise VideoError("it ends before the event, or cannot be decoded there")
        written = Written(start - self._origin, is_copy=copy)
        _add_sheet(self._excerpt, written)
        return written


def _add_sheet(excerpt: Excerpt, written: Written) -> None:
    start, stop = (seconds - written.start_seconds for seconds in excerpt.event_seconds)
    write_sheet(excerpt.path, excerpt.sheet, start, stop)


def _all_frames(
    container: InputContainer, stream: VideoStream, beat: Callable[[], None]
) -> Iterator[VideoFrame]:
    """Yield every frame that decodes, from the beginning of the file."""
    packets = container.demux(stream)
    while True:
        beat()
        try:
            packet = next(packets)
        except (StopIteration, IndexError, av.error.FFmpegError):
            return
        yield from decoded(packet)


def _pictures(source: Source, beat: Callable[[], None]) -> Iterator[VideoFrame]:
    """Yield the frames of a folder of pictures."""
    from vigil.extract.decode.decoder_pictures import probe_pictures

    info: VideoInfo = probe_pictures(source.path, source.fps)
    with closing(for_folder().open(source.path, info, info.width, info.height)) as decoder:
        for pixels in decoder:
            beat()
            yield VideoFrame.from_ndarray(pixels, format="rgb24")


def _encode_counted(
    source: Source, excerpt: Excerpt, frames: Iterator[VideoFrame], clocked: bool = False
) -> Written:
    """Write an excerpt of a video whose frames are counted, without sound.

    ``clocked``: the frames have times, from which steps are taken that are no jumps.
    """
    wanted, seconds, event_at = excerpt.frames(source.fps), 0.0, math.nan
    previous, usual = None, 1 / source.fps
    with replace_file(excerpt.path) as partial, open_mp4(partial) as output:
        encoder: Encoder | None = None
        for index, frame in enumerate(islice(frames, wanted.start, wanted.stop), wanted.start):
            encoder = encoder or Encoder(output, source.fps, frame)
            if previous is not None:
                seconds += _step(previous, frame, usual) if clocked else usual
            if index == excerpt.event_frames[0]:
                event_at = seconds
            encoder.write(frame, seconds)
            previous = frame
        if encoder is None or math.isnan(event_at):
            raise VideoError("it ends before the event, or cannot be decoded there")
        encoder.finish()
    written = Written(max(excerpt.event_seconds[0] - event_at, 0.0), is_copy=False)
    _add_sheet(excerpt, written)
    return written


def _step(previous: VideoFrame, frame: VideoFrame, usual: float) -> float:
    """Seconds from one frame to the next; as usual if the clock jumps."""
    if previous.time is None or frame.time is None:
        return usual
    step = frame.time - previous.time
    return step if 0 < step <= LONGEST_STEP_SECONDS else usual
