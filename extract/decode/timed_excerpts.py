"""Excerpts of files whose times are those of their timeline: sought, then copied or encoded."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vigil.extract.decode.excerpt_request import Excerpt, Source, Written, add_sheet, ends_early
from vigil.extract.decode.excerpt_tracks import (
    CopiedPictures,
    CopiedSound,
    Pictures,
    Sound,
    Track,
    all_frames,
    open_mp4,
    time_of,
)
from vigil.extract.errors import VideoError
from vigil.extract.files import replace_file

COPIED_FORMATS = ("yuv420p", "yuvj420p")
MAX_EARLY_SECONDS = 2.0
"""A copy may begin so much earlier than asked for, because it must begin with a keyframe."""
MAX_BACK_SECONDS = 1.0
"""A step back in time by more is a jump of the clock."""
ROUNDING = 1e-3
STEPS_BACK = (0.0, 2.0, 10.0, 60.0, 600.0)
"""Seconds by which to seek earlier if the file's index leads to a place after the one asked for."""


class ClockJumpsError(Exception):
    """The times in a file are not those of its timeline."""


class TimedPart:
    """A part of a file whose times are those of its timeline."""

    def __init__(
        self,
        container: InputContainer,
        video: VideoStream,
        source: Source,
        excerpt: Excerpt,
        beat: Callable[[], None],
    ) -> None:
        """Find the part in the file.

        Args:
            container: the open file.
            video: its stream of pictures.
            source: what is known of it.
            excerpt: which part of it.
            beat: called for every packet that is read.

        Raises:
            VideoError: no frame of it can be decoded.
            ClockJumpsError: its times are not those of its timeline.
        """
        self._container, self._video, self._excerpt, self._beat = container, video, excerpt, beat
        sound = container.streams.best("audio")
        self._sound = sound if isinstance(sound, AudioStream) and sound.codec_context else None
        self._unit, self._latest = video.time_base or Fraction(1), -math.inf
        first = next(all_frames(container, video, beat), None)
        if first is None:
            raise VideoError("no frame of it can be decoded")
        self._first = first
        begin = time_of(first, self._unit)
        self._origin = begin if source.begins_at is None else source.begins_at
        start, stop = excerpt.seconds
        if source.begins_at is not None:
            stop = min(stop, source.duration_seconds)
        self._start, self._stop = max(self._origin + start, begin), self._origin + stop
        # Packets of a stream were chosen so that they begin with the best keyframe.
        early = math.inf if source.begins_at is not None else MAX_EARLY_SECONDS
        self._earliest = max(self._start - early, begin)
        self._is_described = source.may_copy
        self._place, self._keyframe = self._seek()

    @property
    def may_copy(self) -> bool:
        """Whether browsers play the stream as it is, and it can begin close to the start."""
        codec, keyframe = self._video.codec_context, self._keyframe
        is_known = codec.name == "h264" and codec.pix_fmt in COPIED_FORMATS
        is_near = keyframe is not None and self._earliest <= keyframe <= self._start
        return is_known and is_near and bool(codec.extradata) and self._is_described

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
            ClockJumpsError: another recording follows, as in files that were joined.
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
                if time < self._latest - MAX_BACK_SECONDS:
                    raise ClockJumpsError
                self._latest = max(self._latest, time)
            if packet.size:
                yield packet

    def write(self, *, copy: bool) -> Written:
        """Write the MP4 file and its contact sheet.

        Raises:
            VideoError: there is no frame in it, or a copy does not decode.
            ClockJumpsError: another recording follows, as in files that were joined.
            OSError: the disk is full or the folder cannot be written.
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
                raise ends_early()
        written = Written(start - self._origin, is_copy=copy)
        add_sheet(self._excerpt, written)
        return written
