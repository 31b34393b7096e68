"""The streams of an excerpt: packets of a file become packets of an MP4 file, copied or encoded."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vigil.extract.decode.interlacing import AUTO, Deinterlacer
from vigil.extract.decode.upright import Upright
from vigil.extract.errors import UserError, VideoError

ENCODER, SOUND_ENCODER = "libx264", "aac"
ENCODER_OPTIONS = {"crf": "20", "preset": "veryfast", "profile": "high"}
TICKS = 90_000
SOUND_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Those that AAC has and browsers play."""


def require_encoder() -> None:
    """Check that PyAV can encode what browsers play.

    Raises:
        UserError: an encoder is missing; names the remedy.
    """
    for name in (ENCODER, SOUND_ENCODER):
        try:
            av.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            raise UserError(
                f"this PyAV has no encoder {name}, which clips need: install PyAV's own package, "
                "pip install --force-reinstall --only-binary av av"
            ) from None


class Track(ABC):
    """One stream of an excerpt, from packets of the file to packets of the MP4 file."""

    AFTER_SECONDS = 5.0
    """Streams lie side by side in a file, but not in step: none lags more than this."""

    def __init__(
        self, output: OutputContainer, stream: Any, span: tuple[float, float], out: Any = None
    ) -> None:
        """Begin the track.

        Args:
            output: the MP4 file.
            stream: of the video.
            span: where the excerpt starts and stops, in the video's own seconds.
            out: what takes frames; None: the stream is copied.
        """
        self.is_over, self.last_seconds = False, -math.inf
        """The latter: when the last picture or sound begins, in the video's own seconds."""
        self._stream, self._output, (self._start, self._stop) = stream, output, span
        self._unit = stream.time_base or Fraction(1)
        self._out = out or output.add_stream_from_template(stream)

    @abstractmethod
    def take(self, packet: "Packet[Any]") -> None:
        """Use a packet of the stream."""

    def finish(self) -> None:  # noqa: B027  (copies hold nothing back)
        """Write what is held back."""

    def is_past(self, packet: "Packet[Any]") -> bool:
        """Whether a packet of any stream lies so far behind the end that none can follow."""
        time = packet.dts if packet.dts is not None else packet.pts
        if time is None or packet.time_base is None:
            return False
        return float(time * packet.time_base) > self._stop + self.AFTER_SECONDS

    def _copy(self, packet: "Packet[Any]", pts: int, dts: int) -> None:
        shift = round(self._start / self._unit)
        packet.pts, packet.dts, packet.stream = pts - shift, dts - shift, self._out
        self._output.mux(packet)
        self.last_seconds = max(self.last_seconds, float(pts * self._unit))


class CopiedPictures(Track):
    """H.264 as it is, from the keyframe at the start on."""

    def __init__(
        self, output: OutputContainer, stream: VideoStream, span: tuple[float, float]
    ) -> None:
        """Begin the track, as for any."""
        super().__init__(output, stream, span)
        self._waiting: list[tuple[Packet[VideoStream], int]] = []

    def take(self, packet: "Packet[Any]") -> None:
        """Use a packet of the stream.

        Matroska has no decoding times. FFmpeg finds them out from some packet on; those before it
        wait for that, and precede it at the usual distance.
        """
        # Frames shown before the keyframe may follow it in the file; what they need is not here.
        if packet.pts is None or packet.pts < round(self._start / self._unit):
            return
        time = packet.dts if packet.dts is not None else packet.pts
        self.is_over = self.is_over or float(time * self._unit) >= self._stop
        if self.is_over:
            return
        self._waiting.append((packet, packet.pts))
        if packet.dts is not None:
            self._write(packet.dts)

    def _write(self, dts: int) -> None:
        """Write what waits, the last of it with this decoding time."""
        usual = 1 / (self._stream.average_rate or self._stream.guessed_rate or 25)
        step = round(usual / self._unit)
        for number, (_, pts) in enumerate(reversed(self._waiting)):
            if dts - number * step > pts:
                raise VideoError("its decoding times are not known")
        for number, (packet, pts) in enumerate(self._waiting, start=1 - len(self._waiting)):
            self._copy(packet, pts, dts + number * step)
        self._waiting.clear()


class CopiedSound(Track):
    """AAC as it is."""

    def take(self, packet: "Packet[Any]") -> None:
        """Use a packet of the stream."""
        if packet.pts is None:
            return
        time = float(packet.pts * self._unit)
        self.is_over = self.is_over or time >= self._stop
        if not self.is_over and time >= self._start:
            self._copy(packet, packet.pts, packet.pts)


class Pictures(Track):
    """Frames, decoded, deinterlaced if flagged, and encoded; that of the start comes first."""

    def __init__(
        self,
        output: OutputContainer,
        stream: VideoStream,
        span: tuple[float, float],
        first: VideoFrame,
    ) -> None:
        """Begin the track, as for any; the first frame of the video decides how large all are."""
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        super().__init__(output, stream, span, Encoder(output, rate, first, aspect or 1))
        self._held: VideoFrame | None = None
        self._deinterlacer = Deinterlacer(AUTO, stream.codec_context.name)

    def take(self, packet: "Packet[Any]") -> None:
        """Use a packet of the stream."""
        for frame in decoded(packet):
            self._take(self._deinterlacer.push(frame))

    def finish(self) -> None:
        """Write what is held back."""
        for frame in [] if self.is_over else held_back(self._stream):
            self._take(self._deinterlacer.push(frame))
        self._take(self._deinterlacer.flush())
        self._write_held()
        self._out.finish()

    def _take(self, frames: Iterable[tuple[VideoFrame, VideoFrame]]) -> None:
        for _, frame in frames:
            time = time_of(frame, self._unit)
            if time <= self._start:
                self._held = frame
                continue
            self._write_held()
            self.is_over = self.is_over or time >= self._stop
            if not self.is_over:
                self._out.write(frame, time - self._start)
                self.last_seconds = time

    def _write_held(self) -> None:
        if self._held is not None:
            self._out.write(self._held, 0.0)
            self.last_seconds = time_of(self._held, self._unit)
            self._held = None


class Sound(Track):
    """Sound, decoded and encoded as AAC, in mono or stereo."""

    def __init__(
        self, output: OutputContainer, stream: AudioStream, span: tuple[float, float]
    ) -> None:
        """Begin the track, as for any."""
        source = stream.codec_context
        rate = min(SOUND_RATES, key=lambda one: abs(one - source.sample_rate))
        layout = "mono" if source.layout.nb_channels == 1 else "stereo"
        out = output.add_stream(SOUND_ENCODER, rate=rate, layout=layout)
        super().__init__(output, stream, span, out)

    def take(self, packet: "Packet[Any]") -> None:
        """Use a packet of the stream."""
        for frame in decoded(packet):
            time = frame.time
            self.is_over = self.is_over or (time is not None and time >= self._stop)
            if time is not None and self._start <= time < self._stop:
                frame.pts = round((time - self._start) * frame.sample_rate)
                frame.time_base = Fraction(1, frame.sample_rate)
                self._output.mux(self._out.encode(frame))
                self.last_seconds = time

    def finish(self) -> None:
        """Write what is held back."""
        if self.last_seconds > -math.inf:
            self._output.mux(self._out.encode(None))


class Encoder:
    """Encodes frames of any kind as H.264 in 8-bit 4:2:0."""

    def __init__(
        self,
        output: OutputContainer,
        rate: Fraction | float,
        first: VideoFrame,
        aspect: Fraction | int = 1,
    ) -> None:
        """Begin a stream.

        Args:
            output: the MP4 file.
            rate: about how many frames a second there will be.
            first: a frame of the video; it decides how large all will be.
            aspect: the width of a pixel divided by its height.
        """
        self._output, self._upright, self._last = output, Upright("yuv420p", aspect), -1
        rate = Fraction(rate).limit_denominator(1001)
        self._stream: VideoStream = output.add_stream(ENCODER, rate)  # type: ignore[assignment]
        self._stream.width, self._stream.height = self._upright.size(first)
        self._stream.pix_fmt, self._stream.options = "yuv420p", dict(ENCODER_OPTIONS)
        self._stream.codec_context.time_base = Fraction(1, TICKS)

    def write(self, frame: VideoFrame, seconds: float) -> None:
        """Encode a frame that is shown from then on; times increase."""
        picture = self._upright(frame)
        self._last = max(round(seconds * TICKS), self._last + 1)
        picture.pts, picture.time_base = self._last, Fraction(1, TICKS)
        self._output.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Write what the encoder holds back."""
        if self._last >= 0:
            self._output.mux(self._stream.encode(None))


def open_mp4(path: Path) -> OutputContainer:
    """Open an MP4 file to be written, whose index will lie at its beginning."""
    return av.open(str(path), "w", "mp4", options={"movflags": "+faststart"})


def decoded(packet: "Packet[Any]") -> Sequence[Any]:
    """The frames that a packet yields; none if it is damaged."""
    try:
        return packet.decode()
    except av.error.FFmpegError:
        return ()


def all_frames(
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


def held_back(stream: Any) -> Sequence[Any]:
    """The frames that a codec has yet to yield at the end of the file."""
    try:
        return cast("Sequence[Any]", stream.codec_context.decode(None))
    except av.error.FFmpegError:  # it has been told so by the last packet, and yielded them
        return ()


def time_of(frame: VideoFrame, unit: Fraction) -> float:
    """When a frame is shown, in the file's own seconds."""
    ticks = frame.pts if frame.pts is not None else frame.dts
    if ticks is None:
        raise VideoError("its frames have no times")
    return float(ticks * unit)
