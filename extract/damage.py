"""Which frames of a video are damaged, and how many are missing.

Ranges are half-open, and decoded frames are counted from 0.
"""

from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

EVEN_SHARE = 0.9
"""A video's frame rate counts as even if at least this share of its frame intervals is within 10%
of the median."""
NEAR_FRAMES = 16
"""An error and its gap may be as many frames apart as codecs hold back, because packets come in
another order than frames, and a container may report a missing packet at the one before."""
MAX_GAP_FRAMES = 10_000
"""A longer gap (some minutes) means that a clock was set, not that so many frames were lost."""


@dataclass(frozen=True, eq=False)
class Damage:
    """Where a video is damaged, and how much of it."""

    frames: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    """(n, 2) ranges of frames decoded with errors, in order; no two of them touch. An empty range
    [i, i) marks frames missing before frame i; other ranges may have missing frames in or next to
    them."""
    num_lost: int = 0
    """Total number of missing frames."""

    @property
    def num_damaged(self) -> int:
        """Number of frames that are missing or were decoded with errors."""
        return int(np.diff(self.frames).sum()) + self.num_lost

    def share(self, num_decoded: int) -> float:
        """Return the `damaged_share` of a video with this many decoded frames."""
        return damaged_share(self.num_damaged, self.num_lost, num_decoded)


def damaged_share(num_damaged: int, num_lost: int, num_decoded: int) -> float:
    """Return the share of the expected frames that are missing or damaged, 0..1."""
    return num_damaged / max(num_decoded + num_lost, 1)


def excess(share: float, max_damage: float) -> str | None:
    """Return why a share of damaged frames is too large, or None if it is not."""
    if share <= max_damage:
        return None
    return (
        f"{100 * share:.4g}% of its frames are damaged, more than the limit of "
        f"{100 * max_damage:.4g}%: raise max_damage, or find a better copy of the video"
    )


@dataclass
class DamageLog:
    """Damage that a decoder records before it can know which frames are affected."""

    packet_pts: "array[int]" = field(default_factory=lambda: array("q"))
    """Presentation times of all packets, in the stream's unit."""
    error_pts: "array[int]" = field(default_factory=lambda: array("q"))
    """Presentation times of packets with errors, in the stream's unit."""
    damaged: "array[int]" = field(default_factory=lambda: array("q"))
    """Frames known to have been decoded with errors."""
    lost: "array[int]" = field(default_factory=lambda: array("q"))
    """Frames before which another is known to be missing."""
    num_cut_off: int = 0
    """Frames missing at the end."""

    def place(self, frame_pts: npt.NDArray[np.int64], has_silent: bool = False) -> Damage:
        """Return the damage, with every error at its place among the frames.

        An error damages the frame that has its packet's time. If there is no such frame, it is
        lost, and its place is after all frames with earlier times: frames leave a codec in another
        order than packets enter it, and some only at the end. Near an error, a gap in the times of
        an otherwise even video also means lost frames: their packets are missing.

        Args:
            frame_pts: (N,) presentation times of all frames.
            has_silent: whether every packet holds a frame, and some are lost without an error.
        """
        order, error_pts = np.argsort(frame_pts, kind="stable"), np.array(self.error_pts)
        places = np.searchsorted(frame_pts, error_pts, sorter=order)
        has_frame = np.isin(error_pts, frame_pts)
        lost_pts = error_pts[~has_frame]
        if has_silent:
            num_silent = len(self.packet_pts) - len(frame_pts) - len(lost_pts)
            silent_pts = np.setdiff1d(self.packet_pts, np.append(frame_pts, error_pts))
            lost_pts = np.append(lost_pts, silent_pts[: max(num_silent, 0)])
        damaged = np.concatenate([self.damaged, order[places[has_frame]]]).astype(np.intp)
        near_pts = np.concatenate([error_pts, frame_pts[damaged]])
        lost = np.concatenate(
            [
                self.lost,
                np.searchsorted(frame_pts, lost_pts, sorter=order),
                _missing_in_gaps(frame_pts[order], near_pts, lost_pts),
            ]
        )
        num_lost = len(lost) + self.num_cut_off
        if self.num_cut_off:
            lost = np.append(lost, len(frame_pts))
        ranges = np.concatenate([[damaged, damaged + 1], [lost, lost]], axis=1).T
        return Damage(_merged(ranges.astype(np.int64)), num_lost)


def _missing_in_gaps(
    frame_pts: npt.NDArray[np.int64], near_pts: npt.NDArray[Any], lost_pts: npt.NDArray[Any]
) -> npt.NDArray[np.intp]:
    """Return the frames before which others are missing, repeated for each missing one.

    Args:
        frame_pts: (N,) times of frames, in order.
        near_pts: only gaps around or near these times count.
        lost_pts: times of frames already known to be missing.
    """
    nothing = np.empty(0, np.intp)
    if len(frame_pts) < 3 or frame_pts[0] == np.iinfo(np.int64).min or not len(near_pts):
        return nothing
    intervals = np.diff(frame_pts)
    usual = np.median(intervals)
    if usual <= 0 or np.mean(np.abs(intervals - usual) <= usual / 10) < EVEN_SHARE:
        return nothing
    frames, gaps = np.sort(np.searchsorted(frame_pts, near_pts)), np.arange(len(intervals))
    first, stop = gaps + 1 - NEAR_FRAMES, gaps + 1 + NEAR_FRAMES
    gaps = gaps[np.searchsorted(frames, first) < np.searchsorted(frames, stop)]
    known = np.bincount(np.searchsorted(frame_pts, lost_pts), minlength=len(frame_pts) + 1)
    num_missing = np.round(intervals[gaps] / usual).astype(np.intp) - 1 - known[gaps + 1]
    num_missing[num_missing > MAX_GAP_FRAMES] = 0
    return np.repeat(gaps + 1, num_missing.clip(0))


def _merged(ranges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (m, 2) sorted ranges, with those that touch merged."""
    starts, stops = ranges[np.lexsort(ranges.T[::-1])].T
    stops = np.maximum.accumulate(stops)
    is_first = starts > np.append(-1, stops[:-1])
    is_last = np.append(is_first[1:], True)[: len(ranges)]
    return np.stack([starts[is_first], stops[is_last]], axis=1)
