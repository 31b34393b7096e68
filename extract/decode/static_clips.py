"""Finds the static clips of a fixed camera, which look like one that is computed already.

A clip is static if no block of any of its frames differs from the reference by more than noise. The
reference is the mean frame of the last computed clip, if that was still itself: a clip after motion
is computed, because the clip of the motion says nothing about it, and so is the first clip in which
somebody stands still at a new place. Errors do not add up, because a static clip is never compared
with another one.

The frames are made small: the mean grey of 32 rows of square blocks, so that somebody far away
still fills a good part of one. Of a frame's differences from the reference, the median over all
blocks is the noise between these two pictures, whatever its cause: a light that dims, or a keyframe
that changes all blocks a little, raises it, and lets no block stand out. A few blocks that differ
by far more than the rest are motion; so is a difference of most blocks, if it is too large for
noise.

Every `RESTART_CLIPS` clips one is computed whatever it shows, so that a result depends only on the
clips since then: the same for a video in one piece, in parts that begin there, and for a stream.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESTART_CLIPS = 32
"""82 seconds at 25 frames a second; at most so many clips share a feature."""
NUM_ROWS = 32
"""Of blocks along the shorter side: 8x8 pixels in frames of 256."""
FALSE_ALARM_RATE = 0.01
"""Share of the clips that are computed although they show normally distributed noise only."""
LEAST_NOISE = 1.0
"""Grey levels, the standard deviation of a difference that is always put down to the codec. H.264
at the quantiser 30 rounds the mean of 4x4 pixels to multiples of 20 / 4; the mean of the four in a
block of 8x8 is then 20 / 4 / sqrt(12) / sqrt(4) = 0.7 off, and a difference sqrt(2) times that."""
MOST_NOISE = 2.0
"""Grey levels: in blocks of 8x8, that of pixels with a noise of 16 each. More is motion."""
MAX_LIGHT = 0.1
"""Share by which the light may differ: an eighth of a stop, where exposures are set in thirds."""

NORMAL = NormalDist()
MEDIAN_DEVIATION = NORMAL.inv_cdf(0.75)
"""Median of the absolute value of normally distributed noise whose standard deviation is 1."""

Blocks = npt.NDArray[np.float64]
"""(..., R, C) mean grey levels, 0..255, of the blocks of frames."""


class StaticClips:
    """Tells which of the clips of a video are static, in their order."""

    def __init__(self) -> None:
        """Begin a video, or a part of it that begins with a multiple of `RESTART_CLIPS` clips."""
        self._num_clips = 0
        self._reference: Blocks | None = None

    def is_static(self, clip: npt.NDArray[np.uint8]) -> bool:
        """Whether the next clip (T, H, W, 3) RGB may have the feature of the last computed one."""
        is_due = self._num_clips % RESTART_CLIPS == 0
        self._num_clips += 1
        frames = block_means(clip)
        if not is_due and self._reference is not None and is_same(frames, self._reference):
            return True
        own = frames.mean(axis=0)
        self._reference = own if is_same(frames, own) else None
        return False


def block_means(clip: npt.NDArray[np.uint8]) -> Blocks:
    """Return (T, R, C), the mean grey levels of the blocks of frames (T, H, W, 3).

    Less than a block is left out at the bottom and at the right. Sums are of integers, and so the
    same on every processor.
    """
    height, width = clip.shape[1:3]
    side = min(height, width) // NUM_ROWS
    rows, columns = height // side, width // side
    lefts = np.arange(0, 3 * side * columns, 3 * side)
    sums = np.empty((len(clip), rows, columns), np.uint32)
    for frame, blocks in zip(clip, sums, strict=True):
        # 16 bits hold a column of 257 pixels, and MAX_FRAME_PIXELS allows blocks of 256.
        strips = frame[: rows * side].reshape(rows, side, -1).sum(axis=1, dtype=np.uint16)
        np.add.reduceat(strips[:, : 3 * side * columns], lefts, axis=1, dtype=np.uint32, out=blocks)
    means: Blocks = sums / (3 * side * side)
    return means


def is_same(frames: Blocks, reference: Blocks) -> bool:
    """Whether frames (T, R, C) show what a reference (R, C) shows, but for light and noise."""
    flat = frames.reshape(len(frames), -1)
    # Light multiplies grey levels, and still does after gamma. The 1 spares black from division.
    light = np.median((flat + 1) / (reference.ravel() + 1), axis=1, keepdims=True)
    if (np.abs(light - 1) > MAX_LIGHT).any():
        return False
    differences = np.abs(flat - light * reference.ravel())
    noise = np.median(differences, axis=1) / MEDIAN_DEVIATION
    if (noise > MOST_NOISE).any():
        return False
    # Bonferroni: the probability with which each of so many differences exceeds its limit one way.
    tail = FALSE_ALARM_RATE / (2 * differences.size)
    limits = -NORMAL.inv_cdf(tail) * np.maximum(noise, LEAST_NOISE)
    return bool((differences.max(axis=1) <= limits).all())
