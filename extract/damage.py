"""Which frames of a video are damaged, and how many are missing.

Ranges are half-open and of decoded frames, which are counted from 0.
"""

from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

EVEN_SHARE = 0.9
"""Share of intervals between frames that are alike, within a tenth, in a video of even rate."""
NEAR_FRAMES = 16
"""Between an error and the gap it tells of there may be as many frames as codecs hold back: packets
come in another order, and a container may notice at the one before what the next one lacks."""
MAX_GAP_FRAMES = 10_000
"""A longer gap, some minutes, is a clock that was set, not so many frames lost."""


@dataclass(frozen=True, eq=False)
class Damage:
    """Where a video is damaged, and how much of it is."""

    frames: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    """(n, 2) ranges of frames decoded with errors, in order; no two of them touch. Frames that are
    missing are missing before the frame i of an empty range [i, i), or at or in another range."""
    num_lost: int = 0
    """Frames that are missing in all."""

    @property
    def num_damaged(self) -> int:
        """Frames that are missing, or were decoded with errors."""
        return int(np.diff(self.frames).sum()) + self.num_lost

    def share(self, num_decoded: int) -> float:
        """`damaged_share` of a video of so many decoded frames."""
        return damaged_share(self.num_damaged, self.num_lost, num_decoded)


def damaged_share(num_damaged: int, num_lost: int, num_decoded: int) -> float:
    """Share of the frames there should be that are missing or damaged, 0..1."""
    return num_damaged / max(num_decoded + num_lost, 1)


def excess(share: float, max_damage: float) -> str | None:
    """Why a share of damaged frames is too large; None where it is not."""
    if share <= max_damage:
        return None
    return (
        f"{100 * share:.4g}% of its frames are damaged, more than --max-damage "
        f"{100 * max_damage:.4g}%: allow more, or find a better copy of it"
    )


@dataclass
class DamageLog:
    """What a decoder notes of damage while it cannot know yet where that lies."""

    packet_pts: "array[int]" = field(default_factory=lambda: array("q"))
    """Presentation times of all packets, in the stream's unit."""
    error_pts: "array[int]" = field(default_factory=lambda: array("q"))
    """Presentation times of packets with errors, in the stream's unit."""
    damaged: "array[int]" = field(default_factory=lambda: array("q"))
    """Frames known to be decoded with errors."""
    lost: "array[int]" = field(default_factory=lambda: array("q"))
    """Frames before which one is known to be missing."""
    num_cut_off: int = 0
    """Frames missing at the end."""

    def place(self, frame_pts: npt.NDArray[np.int64], has_silent: bool = False) -> Damage:
        """The damage, with every error at its place among the frames.

        An error has damaged the frame of its packet's time. Where there is no such frame, it is
        lost, and missing behind as many frames as have earlier times: frames come out of a codec
        in another order than packets go in, and some only at the end. Near errors, a gap in the
        times of a video that is otherwise even is one of frames whose packets are gone, too.

        Args:
            frame_pts: (N,) presentation times of all frames.
            has_silent: every packet stands for a frame, and some are lost without an error.
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
    """Before which of the frames another one is missing, once for each that is.

    Args:
        frame_pts: (N,) times of frames, in order.
        near_pts: only the gaps around these, or near them, count.
        lost_pts: what is missing already without this.
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
    """(m, 2) ranges in order, those that touch made one."""
    starts, stops = ranges[np.lexsort(ranges.T[::-1])].T
    stops = np.maximum.accumulate(stops)
    is_first = starts > np.append(-1, stops[:-1])
    is_last = np.append(is_first[1:], True)[: len(ranges)]
    return np.stack([starts[is_first], stops[is_last]], axis=1)
