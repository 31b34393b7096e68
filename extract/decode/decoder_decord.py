"""The decord decoder: the default, for videos in which its FFmpeg finds nothing wrong.

decord hides damage: its FFmpeg paints over broken macroblocks and reports that only in its log.
Features of invented pixels are worse than none, so this decoder watches that log and stops at the
first error. PyAV (`decoder_av`) then decodes the video and counts the damaged frames. decord also
opens playlists, which may name other files or network addresses, and that cannot be
switched off, so it gets only files that cannot be mistaken for one.
"""

import atexit
import ctypes
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import decord
import numpy as np
import numpy.typing as npt

from vigil.extract.damage import Damage
from vigil.extract.decode.decoder import VideoInfo
from vigil.extract.decode.decoder_av import read_packets
from vigil.extract.decode.interlacing import AUTO, ON
from vigil.extract.decode.packets import NO_PTS, PacketLog
from vigil.extract.decode.streams import changes_streams
from vigil.extract.decode.timeline import has_jumps
from vigil.extract.errors import VideoError

AV_LOG_ERROR = 16
# In place of a frame that it cannot decode, decord repeats the previous one. This share of all
# frames, too small for even one, may be such copies; 0 would allow any number.
DUPLICATES_TOLERATED = 1e-9

MAX_TIME_ERROR = 0.001
"""Seconds by which decord's times may differ from those of the packets."""

LATEST_START_SECONDS = 4096.0
"""Where decord's times, of single precision, still have half a millisecond. Some files that start
in this century's Unix time make it abort."""

# Playlists and other lists of files are text. A file that starts with a zero byte or with one of
# these is not a list: MPEG transport stream, Matroska, AVI, Flash, Ogg, ASF.
_BEGINNINGS = re.compile(
    rb"\x00|(?:\x47.{187}){3}|\x1a\x45\xdf\xa3|RIFF....AVI |FLV\x01|OggS\x00|\x30\x26\xb2\x75",
    re.DOTALL,
)
_BEGINNING_BYTES = 3 * 188

# While its consumer waits, decord keeps decoding to the end of the video: 20,000 frames and 5.2 GB
# were measured when the consumer had used 256 frames. `auto` gives it only videos that fit into
# this limit, and every worker may need that much.
READ_AHEAD_LIMIT_BYTES = 256 << 20
UNKNOWN_LENGTH_LIMIT_BYTES = 64 << 20


class DecordDecoder:
    """A `Decoder` that reads sequentially, with one codec thread."""

    name = "decord"

    def __init__(
        self, path: Path, info: VideoInfo, width: int, height: int, deinterlace: str = AUTO
    ) -> None:
        """Open a video, to decode its frames at the given size in pixels.

        Raises:
            VideoError: decord cannot open the file, or may choose another of its streams, mistake
                it for a list of other files, decode zeros in place of data, show frames as they are
                stored, or return other frames or times than those of the packets.
        """
        if not _is_surely_video(path):
            raise VideoError("decord may mistake it for a list of other files", self.name)
        if not info.is_choice_clear:
            reason = "decord may choose another video stream than the one marked as default"
            raise VideoError(reason, self.name)
        if not info.is_plain:
            reason = "decord may not show its frames as they are mirrored, turned or stretched"
            raise VideoError(reason, self.name)
        if deinterlace == ON or (deinterlace == AUTO and info.may_be_interlaced):
            raise VideoError("decord does not deinterlace", self.name)
        if changes_streams(path):
            raise VideoError("decord reads only the first of its video streams", self.name)
        try:
            packets, unit = read_packets(path)
        except VideoError as error:
            reason = f"decord may decode what is lost ({error.reason})"
            raise VideoError(reason, self.name) from error
        last_pts = max(packets.pts, default=NO_PTS)
        self.info = packets.completed(info, path, last_pts, float(unit))
        self._exact_seconds: npt.NDArray[np.float64] | None = None
        if NO_PTS not in packets.pts and self.info.has_timestamps:
            self._exact_seconds = packets.presented_seconds(float(unit))
        self._times = packets.frame_seconds(packets.presented_pts(), self.info, unit)
        self._knows_times = NO_PTS not in packets.pts or not self.info.has_timestamps
        if why_not := self._why_not(path, packets):
            raise VideoError(why_not, self.name)
        self._num_yielded = 0
        self._size = width, height
        self._log = _ffmpeg_log()
        self._num_errors_before = self._log.num_errors
        try:
            self._reader = decord.VideoReader(
                str(path.absolute()),
                width=width,
                height=height,
                num_threads=1,
                fault_tol=DUPLICATES_TOLERATED,
            )
        except (decord.DECORDError, RuntimeError, OSError, UnicodeError) as error:
            raise VideoError(f"decord cannot open it: {_first_line(error)}", self.name) from error
        if why_wrong := self._why_wrong(len(packets.pts)):
            self.close()
            raise VideoError(why_wrong, self.name)

    def _why_not(self, path: Path, packets: PacketLog) -> str | None:
        """Return why decord should not open a video with these packets, or None."""
        if self.info.clock_wrap_seconds and packets.ends_inside_frame(path):
            return "decord may decode a frame that is cut off"
        if self.info.counts_chunks and self.info.has_timestamps:
            return "decord ignores empty chunks, which take up time"
        if (seconds := self._exact_seconds) is None or not len(seconds):
            return None
        if has_jumps(seconds, self.info):
            return "decord cannot follow a clock that jumps"
        if abs(seconds[0]) > LATEST_START_SECONDS:
            return "decord rounds times so far from 0"
        return None

    def _why_wrong(self, num_packets: int) -> str | None:
        """Return why the frames that decord has found are wrong, or None."""
        if (num_frames := len(self._reader)) == num_packets:
            return None
        return f"decord finds {num_frames} frames in {num_packets} packets"

    @property
    def read_ahead_bytes(self) -> int:
        """Bytes that decord may fill while its consumer waits: it keeps decoding to the end."""
        width, height = self._size
        return len(self._reader) * width * height * 3

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames up to the first error.

        Raises:
            VideoError: decord or its FFmpeg found damage.
        """
        for _ in range(len(self._reader)):
            try:
                frame = self._reader.next().asnumpy()
            except StopIteration:
                break
            except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
                raise self._error(_first_line(error)) from error
            self._check_log()
            self._num_yielded += 1
            yield frame
        self._check_log()

    def _check_log(self) -> None:
        if self._log.num_errors > self._num_errors_before:
            raise self._error(f"damaged: {self._log.last_error}")

    def _error(self, reason: str) -> VideoError:
        return VideoError(f"decord stopped: {reason}", self.name, self._num_yielded)

    def timestamps(self) -> npt.NDArray[np.float64]:
        """Return (N,) presentation times in seconds, with decord's float32 precision.

        If that is too coarse, or decord does not know them, they are those of the packets.
        """
        num_frames = self._num_yielded
        if num_frames == 0:
            return np.empty(0)
        seconds = np.asarray(self._reader.get_frame_timestamp(range(num_frames))[:, 0], np.float64)
        if self._exact_seconds is None:
            return seconds
        exact = self._exact_seconds[:num_frames]
        errors = np.abs((seconds - seconds[0]) - (exact - exact[0]))
        return seconds if (errors <= MAX_TIME_ERROR).all() else exact

    def last_timestamp(self) -> float:
        """Return the seconds of the frame yielded last, as its packet has them; nan if it has none.

        Raises:
            VideoError: only some packets have times, so their order is not known.
        """
        if not self._knows_times:
            raise self._error("it does not know the times of all frames")
        return float(self._times[self._num_yielded - 1])

    def damage(self) -> Damage:
        """Return no damage: this decoder stops at the first error."""
        return Damage()

    def close(self) -> None:
        """Free decord's threads and read-ahead."""
        del self._reader


def open_if_short(
    path: Path, info: VideoInfo, width: int, height: int, deinterlace: str = AUTO
) -> DecordDecoder:
    """Open a video of which the whole is within the read-ahead limit.

    Raises:
        VideoError: the video exceeds the limit, or decord cannot open it.
    """
    num_frames = info.num_frames_container or info.duration_seconds * info.fps
    # decord reads the whole file, whatever its size, before it reports the number of frames.
    is_small = num_frames > 0 or path.stat().st_size <= UNKNOWN_LENGTH_LIMIT_BYTES
    if is_small and num_frames * height * width * 3 <= READ_AHEAD_LIMIT_BYTES:
        decoder = DecordDecoder(path, info, width, height, deinterlace)
        if decoder.read_ahead_bytes <= READ_AHEAD_LIMIT_BYTES:
            return decoder
        decoder.close()
    raise VideoError("too long for decord, which reads ahead without bound", DecordDecoder.name)


def _is_surely_video(path: Path) -> bool:
    """Whether the first bytes and the name show that a file cannot be a list of other files."""
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING_BYTES)
    # FFmpeg reads a name with a number pattern, such as %03d, as a series of pictures.
    return _BEGINNINGS.match(beginning) is not None and "%" not in path.name


def _first_line(error: BaseException) -> str:
    """Return the useful part of decord's message, without the stack trace."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return re.split(r"\.(?:cc|h):\d+: (?:Check failed: )?", lines[0])[-1].strip()


class _FfmpegLog:
    """Counts the errors that decord's own FFmpeg logs, instead of printing them."""

    def __init__(self) -> None:
        self.num_errors = 0
        self.last_error = ""
        signature = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        )
        self._callback = signature(self._record)
        library = ctypes.CDLL(str(_bundled_libavutil()))
        library.av_log_set_callback(self._callback)
        # A codec thread may outlive the interpreter, and must not call back into it.
        default = ctypes.cast(library.av_log_default_callback, ctypes.c_void_p)
        atexit.register(library.av_log_set_callback, default)

    def _record(self, _context: int, level: int, text: bytes, _arguments: int) -> None:
        if level <= AV_LOG_ERROR or text.startswith(b"concealing"):
            self.num_errors += 1  # first, because the rest needs memory, which may be short
            self.last_error = text.decode(errors="replace").strip()


@cache
def _ffmpeg_log() -> _FfmpegLog:
    return _FfmpegLog()


def _bundled_libavutil() -> Path:
    """Return the libavutil inside the decord wheel; a second copy would have its own log.

    Raises:
        VideoError: this decord was built against another FFmpeg.
    """
    specification = importlib.util.find_spec("decord")
    origin = specification.origin if specification else None
    for folder in (
        [Path(origin).parent.parent / "decord.libs", Path(origin).parent] if origin else []
    ):
        for library in sorted(folder.glob("libavutil*")):
            return library
    raise VideoError(
        "this build of decord has no libavutil of its own, so damage cannot be detected: "
        "install the decord 0.6.0 wheel, or use the decoder pyav",
        DecordDecoder.name,
    )
