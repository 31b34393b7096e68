"""Frames at a regular rate: for each tick of a clock, the frame of a video nearest to it.

Tick k is k / rate seconds after the first frame. Of a video with fewer frames a second, some are
nearest to several ticks; of one with more, some to none. Whether a frame is nearest is known as
soon as the next one arrives, so one function does it while a video is decoded, and from the
promised times of a video that is read in parts.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import TypeVar

from vigil.extract.decode.decoder import MAX_FRAMES, VideoInfo
from vigil.extract.decode.timeline import LONGEST_GAP_SECONDS, NEAR_FRAMES
from vigil.extract.errors import VideoError

Frame = TypeVar("Frame")

TIE_TICKS = 1e-6
"""A tick in the middle between two frames goes to the earlier one, and so does one so little beyond
it: times have rounding errors."""


def nearest_frames(
    frames: Iterable[tuple[float, Frame]], rate: float, info: Callable[[], VideoInfo]
) -> Iterator[tuple[int, Frame]]:
    """Yield, for each tick, the index of the nearest frame, and the frame.

    The last tick is the last one that is at least half a tick before the last frame ends; there is
    always one.

    Args:
        frames: timestamps in seconds, not finite where unknown, and what comes with them.
        rate: ticks per second.
        info: returns the properties of the video. How long the last frame is shown need be known
            only after it.

    Raises:
        VideoError: there are more than `MAX_FRAMES` ticks.
    """
    clock, num_ticks = _Clock(info()), 0
    held: tuple[int, Frame] | None = None
    before = 0.0
    for index, (timestamp, frame) in enumerate(frames):
        seconds = clock.advance(timestamp)
        if held is not None:
            stop = _checked(math.floor((before + seconds) / 2 * rate + TIE_TICKS) + 1, rate)
            yield from repeat(held, stop - num_ticks)
            num_ticks = max(num_ticks, stop)
        held, before = (index, frame), seconds
    if held is not None:
        end = before + (info().last_frame_seconds or 1 / info().fps)
        stop = _checked(max(math.floor(end * rate + 0.5 + TIE_TICKS), 1), rate)
        yield from repeat(held, stop - num_ticks)


def expected_samples(num_frames: float, fps: float, rate: float | None) -> int:
    """Return how many frames clips are made of, if a video keeps its frame rate."""
    return round(num_frames if rate is None else num_frames / fps * rate)


def _checked(num_ticks: int, rate: float) -> int:
    if num_ticks > MAX_FRAMES:
        raise VideoError(
            f"at {rate:g} frames a second it has more than {MAX_FRAMES} frames: use a lower frame "
            "rate, or native"
        )
    return num_ticks


class _Clock:
    """The time of each frame since the first one, known when it arrives; it never decreases.

    It is that of `timeline.make_timeline`, except where only later frames would tell:

    * a frame without a time follows at the frame rate;
    * so does the first frame after a jump, at which `make_timeline` uses the usual distance;
    * a step back by up to `NEAR_FRAMES` frames stops the clock until times have caught up, but it
      is a jump if as many frames have not;
    * without a limit for gaps, one of more than `LONGEST_GAP_SECONDS` is a jump.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._usual = 1 / info.fps
        self._wrap = info.clock_wrap_seconds
        self._longest = info.longest_gap_seconds or LONGEST_GAP_SECONDS
        self._seconds: float | None = None
        """Of the last frame."""
        self._zero: float | None = None
        """The timestamp that a frame at 0 would have."""
        self._num_behind = 0
        """Frames that came too late since the clock last went on."""

    def advance(self, timestamp: float) -> float:
        """Return the time of the next frame."""
        last = self._seconds or 0.0
        expected = 0.0 if self._seconds is None else last + self._usual
        if not math.isfinite(timestamp):
            self._seconds = expected
            return expected
        if self._zero is None:
            self._zero = timestamp - expected
        elapsed = timestamp - self._zero
        if self._wrap and (turns := round((elapsed - expected) / self._wrap)):
            self._zero += turns * self._wrap
            elapsed = timestamp - self._zero
        self._num_behind += elapsed < last
        is_jump = last - elapsed > NEAR_FRAMES * self._usual or elapsed - last > self._longest
        if is_jump or self._num_behind > NEAR_FRAMES:
            self._zero, elapsed = timestamp - expected, expected
        if elapsed > last:
            self._num_behind = 0
        self._seconds = max(last, elapsed)
        return self._seconds
