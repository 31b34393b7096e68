"""Captioned clips: a strip under the picture with class, score and time, drawn into every frame.

The strip shows the scores around a moment as a curve with the threshold, and a cursor that moves.
The picture is copied beside it, so nothing of it is covered, and keeps its size and times; sound is
copied. Legend: H, W a picture's sides, C cells of the timeline.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from vigil.extract.decode.decoder import best_stream, open_container
from vigil.extract.decode.excerpt_tracks import (
    Encoder,
    decoded,
    held_back,
    open_mp4,
    time_of,
)
from vigil.extract.decode.interlacing import AUTO, Deinterlacer
from vigil.extract.decode.upright import Upright
from vigil.extract.errors import VideoError
from vigil.extract.files import replace_file

STRIP_SHARE, MIN_STRIP, MAX_STRIP = 0.16, 48, 160
"""Height of the strip: this share of the picture's, within bounds in pixels."""
TEXT_SHARE = 0.3
"""Height of the letters, as a share of the strip's."""
GAP_SHARE = 0.06
BACK, TEXT, CURVE = "#14171b", "#e4e7ea", "#7fb4e0"
HIGH, THRESHOLD, CURSOR = "#ff7a5c", "#ffcf7d", "#ffffff"


@dataclass(frozen=True)
class Caption:
    """What a strip says."""

    path: Path
    """The MP4 file to write."""
    title: str
    """The event's class."""
    seconds: tuple[tuple[float, float], ...]
    """(C, 2) ranges of the scores, from the first frame of the video on."""
    scores: tuple[float, ...]
    """(C,), 0..1."""
    threshold: float
    recorded_at: datetime | None
    """Time of day of the first frame of the video; None if it is not known."""
    font: str
    """Path of a TrueType font."""

    def score_at(self, seconds: float) -> float:
        """The score of the cell at a time; the last one after the end."""
        stops = [stop for _, stop in self.seconds]
        index = int(np.searchsorted(stops, seconds, side="right"))
        return self.scores[min(index, len(stops) - 1)]

    def time_at(self, seconds: float) -> str:
        """A time in the video, behind the time of day if that is known."""
        minutes, rest = divmod(seconds, 60)
        hours, minutes = divmod(int(minutes), 60)
        offset = f"{hours}:{minutes:02}:{int(10 * rest) / 10:04.1f}"
        if self.recorded_at is None:
            return offset
        clock = self.recorded_at + timedelta(seconds=seconds)
        return f"{clock:%Y-%m-%d %H:%M:%S}  ({offset})"


def write_captioned(
    clip: Path, start_seconds: float, caption: Caption, beat: Callable[[], None] = lambda: None
) -> None:
    """Write a clip once more, with a strip under its picture.

    Args:
        clip: an MP4 file that `excerpts` wrote.
        start_seconds: when it starts in its video.
        caption: what the strip says, and where to write.
        beat: called for every packet that is read.

    Raises:
        VideoError: the clip does not decode.
        OSError: the disk is full or the folder cannot be written.
    """
    with open_container(clip) as container, replace_file(caption.path) as partial:
        stream, sound = best_stream(container), container.streams.best("audio")
        first = next(container.decode(stream), None)
        if first is None:
            raise VideoError("no frame of its clip can be decoded")
        stop_seconds = start_seconds + (container.duration or 0) / av.time_base
        container.seek(0)
        with open_mp4(partial) as output:
            pictures = _Pictures(output, stream, first, caption, (start_seconds, stop_seconds))
            streams: list[Any] = [stream]
            if isinstance(sound, AudioStream):
                streams.append(sound)
                copied = output.add_stream_from_template(sound)
            for packet in container.demux(*streams):
                beat()
                if packet.stream.index == stream.index:
                    pictures.take(decoded(packet))
                elif packet.size:
                    packet.stream = copied
                    output.mux(packet)
            pictures.finish()


class _Pictures:
    """Frames of a clip with the strip under them."""

    def __init__(
        self,
        output: OutputContainer,
        stream: VideoStream,
        first: VideoFrame,
        caption: Caption,
        span: tuple[float, float],
    ) -> None:
        """Begin the stream; the first frame decides how large all are."""
        self._stream, self._unit = stream, stream.time_base or Fraction(1)
        self._deinterlacer = Deinterlacer(AUTO, stream.codec_context.name)
        self._upright = Upright("yuv420p", stream.sample_aspect_ratio or 1)
        width, height = self._upright.size(first)
        self._strip = _Strip(caption, width, strip_height(height), span)
        self._origin = time_of(first, self._unit) - span[0]
        rate = stream.average_rate or Fraction(25)
        self._encoder = Encoder(output, rate, self._with_strip(first, span[0]))

    def take(self, frames: Sequence[VideoFrame]) -> None:
        """Write frames, in order."""
        for frame in frames:
            self._write(self._deinterlacer.push(frame))

    def finish(self) -> None:
        """Write what is held back."""
        self.take(held_back(self._stream))
        self._write(self._deinterlacer.flush())
        self._encoder.finish()

    def _write(self, frames: Iterable[tuple[VideoFrame, VideoFrame]]) -> None:
        for frame, shown in frames:
            time = time_of(frame, self._unit)
            self._encoder.write(self._with_strip(shown, time - self._origin), time)

    def _with_strip(self, frame: VideoFrame, seconds: float) -> VideoFrame:
        picture = _planes(self._upright(frame))
        strip = VideoFrame.from_ndarray(np.asarray(self._strip.at(seconds)), format="rgb24")
        strip = strip.reformat(format="yuv420p")
        stacked = map(np.vstack, zip(picture, _planes(strip), strict=True))
        whole = np.concatenate([plane.ravel() for plane in stacked])
        return VideoFrame.from_ndarray(whole.reshape(-1, picture[0].shape[1]), format="yuv420p")


def strip_height(height: int) -> int:
    """The height of the strip under a picture, in pixels, even like that of every picture."""
    return round(min(max(STRIP_SHARE * height, MIN_STRIP), MAX_STRIP)) // 2 * 2


def _planes(frame: VideoFrame) -> list[npt.NDArray[np.uint8]]:
    """Brightness (H, W) and the two colours (H / 2, W / 2) of a frame in yuv420p."""
    values = frame.to_ndarray().astype(np.uint8, copy=False).ravel()
    sizes = [(frame.height, frame.width), *[(frame.height // 2, frame.width // 2)] * 2]
    ends = np.cumsum([height * width for height, width in sizes])
    parts = np.split(values, ends[:-1])
    return [part.reshape(size) for part, size in zip(parts, sizes, strict=True)]


class _Strip:
    """Draws the strip: everything once, and the moving parts for each frame."""

    def __init__(
        self, caption: Caption, width: int, height: int, span: tuple[float, float]
    ) -> None:
        self._caption, self._width, self._height = caption, width, height
        self._start, self._stop = span
        self._gap = max(round(GAP_SHARE * height), 2)
        longest = f"{caption.title} 0.00  {caption.time_at(self._stop)}"
        size = max(round(TEXT_SHARE * height), 1)
        while size > 1 and self._font(size).getlength(longest) > width - 2 * self._gap:
            size -= 1
        self._letters = self._font(size)
        self._top = 2 * self._gap + round(TEXT_SHARE * height)
        self._base = self._drawn()

    def at(self, seconds: float) -> Image.Image:
        """The strip at a time of the video."""
        strip = self._base.copy()
        draw = ImageDraw.Draw(strip)
        score = self._caption.score_at(seconds)
        share = (seconds - self._start) / max(self._stop - self._start, 1e-9)
        x = min(max(round(share * self._width), 0), self._width - 1)
        draw.line([(x, self._top), (x, self._height)], CURSOR, width=max(self._height // 40, 1))
        colour = HIGH if score >= self._caption.threshold else TEXT
        title = f"{self._caption.title} {score:.2f}"
        draw.text((self._gap, self._gap), title, colour, self._letters)
        right = (self._width - self._gap, self._gap)
        draw.text(right, self._caption.time_at(seconds), TEXT, self._letters, anchor="ra")
        return strip

    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(self._caption.font, size)

    def _drawn(self) -> Image.Image:
        """The curve, a column for each pixel, and the threshold."""
        strip = Image.new("RGB", (self._width, self._height), BACK)
        draw = ImageDraw.Draw(strip)
        step = (self._stop - self._start) / self._width
        for x in range(self._width):
            score = self._caption.score_at(self._start + (x + 0.5) * step)
            colour = HIGH if score >= self._caption.threshold else CURVE
            draw.line([(x, self._y(score)), (x, self._height)], colour)
        y = self._y(self._caption.threshold)
        draw.line([(0, y), (self._width, y)], THRESHOLD)
        return strip

    def _y(self, score: float) -> int:
        return round(self._top + (1 - score) * (self._height - 1 - self._top))
