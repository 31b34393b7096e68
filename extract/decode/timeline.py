"""From the times of frames to one continuous timeline.

A clock may jump in the middle of a file: recordings were joined, a recorder was restarted or its
clock was set. Frames on both sides of a jump follow each other at the usual distance here, and the
jump is reported. All times of a video go through this module at once, so that they are the same
whether it was read in one piece or in parts.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vigil.extract.decode.decoder import UNKNOWN_TIMES, VideoInfo

NEAR_FRAMES = 16
"""Codecs hold back at most so many frames; within so many, a step back may be mere disorder."""
COMPENSATION = 0.25
"""A step forward of at least this share of a step back makes up for it: a frame came too late or
has a wrong time. In recordings that were joined, only usual steps follow the step back."""
LONGEST_GAP_SECONDS = 24 * 3600
"""In containers with one clock for the whole file: a longer step is not a gap."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """When each frame of a video starts, from 0 on."""

    edges: npt.NDArray[np.float64]
    """(N + 1,) seconds at which each frame starts and the last one ends; they never decrease."""
    jumps: npt.NDArray[np.intp]
    """Frames before which the clock jumps, in order."""
    rate_source: str
    """As in `VideoInfo`, or `UNKNOWN_TIMES`."""


def make_timeline(timestamps: npt.NDArray[np.float64], info: VideoInfo) -> Timeline:
    """Return the timeline of a video.

    It comes from the timestamps, or from the frame index and the frame rate if the container has no
    timestamps or unknown ones.

    Args:
        timestamps: (N,) seconds of all frames in the order of presentation, as the container has
            them; not finite where unknown.
        info: the properties of the video, as its decoder has them at the end.
    """
    by_index = np.arange(len(timestamps) + 1) / info.fps
    if not len(timestamps):
        return Timeline(by_index, np.empty(0, np.intp), info.rate_source)
    is_known = bool(np.isfinite(timestamps).all())
    if info.has_timestamps and is_known:
        elapsed, jumps = _continuous(timestamps, info, by_index[-1])
        stop = elapsed[-1] + (info.last_frame_seconds or 1 / info.fps)
    else:
        elapsed, jumps = by_index[:-1], np.empty(0, np.intp)
        last = info.last_frame_seconds
        stop = elapsed[-1] + last if last else by_index[-1]
    edges = np.maximum.accumulate(np.maximum(np.append(elapsed, stop), 0))
    unknown = UNKNOWN_TIMES if info.has_timestamps and not is_known else info.rate_source
    return Timeline(edges, jumps, unknown)


def frame_edges(timestamps: npt.NDArray[np.float64], info: VideoInfo) -> npt.NDArray[np.float64]:
    """Return only the edges of `make_timeline`, (N + 1,) seconds."""
    return make_timeline(timestamps, info).edges


def has_jumps(timestamps: npt.NDArray[np.float64], info: VideoInfo) -> bool:
    """Whether the clock of a video jumps, by the times of its frames in order of presentation."""
    return bool(len(make_timeline(timestamps, info).jumps))


def _continuous(
    timestamps: npt.NDArray[np.float64], info: VideoInfo, expected_seconds: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return (N,) seconds from 0 on without jumps, and the frames before which there were any."""
    elapsed, steps = timestamps - timestamps[0], np.diff(timestamps)
    wrap = info.clock_wrap_seconds
    longest = info.longest_gap_seconds or LONGEST_GAP_SECONDS + 10 * expected_seconds
    if wrap and len(steps) and (np.abs(steps) > wrap / 2).any():
        steps = (steps + wrap / 2) % wrap - wrap / 2
        elapsed = np.round(np.append(0, steps.cumsum()), 6)
    suspects = np.flatnonzero((steps < 0) | (steps > longest))
    if not len(suspects):
        return elapsed, suspects
    forward = steps[(steps > 0) & (steps <= longest)]
    usual = float(np.median(forward)) if len(forward) else 1 / info.fps
    jumps, stop = [], 0
    for step in suspects.tolist():
        if step < stop:
            continue  # part of a disorder
        if steps[step] < 0 and (end := _end_of_disorder(steps, step, usual)):
            stop = end
        else:
            jumps.append(step)
    if not jumps:
        return elapsed, np.empty(0, np.intp)
    starts = [step + 1 for step in jumps]
    for start, stop in pairwise([*starts, len(elapsed)]):
        since = elapsed[start:stop] if wrap else timestamps[start:stop]
        elapsed[start:stop] = elapsed[start - 1] + usual + (since - since[0])
    # Times far from 0 have rounding errors, with which 2 s would be shown as 0:00:01.
    return np.round(elapsed, 6), np.array(starts)


def _end_of_disorder(steps: npt.NDArray[np.float64], step: int, usual: float) -> int | None:
    """Return the step after those that make up for a step back, or None if nothing does."""
    back, level = -steps[step], steps[step]
    for later in range(step + 1, min(step + 1 + NEAR_FRAMES, len(steps))):
        level += steps[later]
        if level >= 0 and steps[later] >= COMPENSATION * back:
            return later + 1
    if back > NEAR_FRAMES * usual:
        return None
    before = steps[max(step - NEAR_FRAMES, 0) : step]
    is_late = len(before) and before.max() >= max(COMPENSATION * back, 1.5 * usual)
    return step + 1 if is_late else None
