"""How many clips an extraction has still to do, from what the containers promise."""

import math
import time
from collections.abc import Sequence

from vigil.extract.clips import ClipGrid
from vigil.extract.decode.promises import Promises
from vigil.extract.engine.activity import Activity
from vigil.extract.engine.dispatch import num_bytes
from vigil.extract.engine.writer import Extracted
from vigil.extract.source import SourceVideo
from vigil.pipeline.extraction.fetched import Outcome

READ_AFTER_SECONDS = 5.0
"""A shorter run needs no forecast."""
MIN_CLIPS = 16
"""Fewer make no rate."""
MAX_MOMENTS = 200


class Pace:
    """The rate of clips over the later half of the time since the first one.

    What came before tells nothing: the program starts, and workers are added one by one. A half is
    so long that single clips do not matter.
    """

    def __init__(self) -> None:
        """Nothing is known before two moments."""
        self._moments: list[tuple[float, int]] = []
        """Moments, at the earliest from the middle of the time so far, each with its clips."""
        self._first = math.inf
        self.clips_per_second: float | None = None

    def note(self, now: float, num_clips: int) -> None:
        """Note how many clips have come back until now."""
        moments = self._moments
        self._first = min(self._first, now)
        age = now - self._first
        while len(moments) > 1 and self._is_late_enough(*moments[1], age, num_clips):
            del moments[0]
        if moments and now > moments[0][0]:
            self.clips_per_second = (num_clips - moments[0][1]) / (now - moments[0][0])
        if not moments or now - moments[-1][0] >= age / MAX_MOMENTS:
            moments.append((now, num_clips))

    def _is_late_enough(self, moment: float, clips: int, age: float, num_clips: int) -> bool:
        """Whether the rate may be taken from this moment on."""
        return moment - self._first <= age / 2 and num_clips - clips >= MIN_CLIPS


class Workload:
    """The clips that the videos of a run have, promised or, once they are extracted, counted.

    The clips of a video that promises nothing follow from its size, and from the clips and sizes of
    those known so far.
    """

    def __init__(
        self, videos: Sequence[SourceVideo], grid: ClipGrid, frame_rate: float | None = None
    ) -> None:
        """All videos are still to do; grid and frame rate are those of the spec."""
        self._videos, self._grid, self._frame_rate = videos, grid, frame_rate
        self._sizes = {video.name: num_bytes(video) for video in videos}
        self._open: dict[str, int | None] = dict.fromkeys(self._sizes)
        """Video still to do -> its promised clips, None if unknown."""
        self._promised = 0
        self._unknown_bytes = sum(self._sizes.values())
        self._finished = 0
        """Clips of the finished videos."""
        self._known_clips = self._known_bytes = 0
        """Of all videos with a promise, or else finished."""
        self._begun = time.monotonic()
        self._promises: Promises | None = None
        self._pace = Pace()

    def close(self) -> None:
        """Stop reading."""
        if self._promises is not None:
            self._promises.close()

    def conclude(self, outcome: Outcome) -> None:
        """Note that a video is done."""
        name = outcome.video
        promise = self._open.pop(name)
        if promise is None:
            self._unknown_bytes -= self._sizes[name]
        else:
            self._promised -= promise
        if isinstance(outcome, Extracted):
            features = outcome.features
            clips = self._grid.num_clips(features.num_frames_sampled or features.num_frames_decoded)
            self._finished += clips
            if promise is None:
                self._learn(name, clips)

    def forecast(self, activity: Activity) -> tuple[float | None, float | None]:
        """The share of the work that is done, 0..1, and the seconds left; None if unknown.

        To be called whenever a clip comes back.
        """
        self._pace.note(time.monotonic(), activity.num_clips_done)
        self._read()
        left = self._clips_left(activity.num_clips_kept)
        if left is None:
            return None, None
        pace = self._pace.clips_per_second
        share = activity.num_clips_kept / max(activity.num_clips_kept + left, 1)
        return share, left / pace if pace else None

    def _clips_left(self, num_kept: int) -> float | None:
        if self._promises is None:
            return None
        expected = float(self._promised)
        if self._unknown_bytes:
            if not self._known_bytes:
                return None
            expected += self._unknown_bytes * self._known_clips / self._known_bytes
        # A video may hold more than it promises, but none is done before its last clip.
        return max(expected - max(num_kept - self._finished, 0), len(self._open))

    def _read(self) -> None:
        """Take over what has been promised since the last call."""
        if self._promises is None:
            if time.monotonic() - self._begun < READ_AFTER_SECONDS:
                return
            still_open = [one for one in self._videos if one.name in self._open]
            self._promises = Promises(still_open, self._frame_rate)
        for video, num_frames in self._promises.take():
            if num_frames is not None and video.name in self._open:
                clips = self._grid.num_clips(num_frames)
                self._open[video.name] = clips
                self._promised += clips
                self._unknown_bytes -= self._sizes[video.name]
                self._learn(video.name, clips)

    def _learn(self, name: str, clips: int) -> None:
        self._known_clips += clips
        self._known_bytes += self._sizes[name]
