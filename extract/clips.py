"""The clip grid: clip index <-> half-open frame range.

A clip is ``clip_frames`` consecutive frames. Clip k starts at frame ``k * stride``; only the last
one may be short, and is filled up by repeating its last frame.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from extract.errors import UserError


@dataclass(frozen=True)
class ClipGrid:
    """Clip index <-> frame range, for a clip length and a stride in frames."""

    clip_frames: int = 64
    stride: int = 64

    def __post_init__(self) -> None:
        """Refuse a grid that would skip frames.

        Raises:
            UserError: the clip length is not positive or the stride lies outside 1..clip_frames.
        """
        if self.clip_frames < 1:
            raise UserError(f"clip length {self.clip_frames} is not positive: use 64")
        if not 1 <= self.stride <= self.clip_frames:
            raise UserError(
                f"clip stride {self.stride} is not in 1..{self.clip_frames}: a larger stride would "
                "skip frames; use 64 for clips that do not overlap"
            )

    def num_clips(self, num_frames: int) -> int:
        """Number of clips of a video: every frame is in at least one of them."""
        if num_frames < 1:
            return 0
        return -(-max(num_frames - self.clip_frames, 0) // self.stride) + 1

    def frame_range(self, clip_index: int, num_frames: int) -> tuple[int, int]:
        """Half-open range of the real frames of a clip.

        Raises:
            IndexError: there is no such clip in a video of that many frames.
        """
        if not 0 <= clip_index < self.num_clips(num_frames):
            raise IndexError(f"clip {clip_index} of a video of {num_frames} frames")
        start = clip_index * self.stride
        return start, min(start + self.clip_frames, num_frames)

    def frame_ranges(self, num_frames: int) -> npt.NDArray[np.int64]:
        """(num_clips, 2) int64, the half-open frame range of every clip."""
        starts = np.arange(self.num_clips(num_frames), dtype=np.int64) * self.stride
        return np.stack([starts, np.minimum(starts + self.clip_frames, num_frames)], axis=1)

    def cut(self, frames: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the clips of a stream of frames, in order, each a new array.

        Holds at most one clip of frames besides the one it yields, whatever the length of the
        video. Clip k of the result covers ``frame_range(k, N)``, N being the number of frames.

        Args:
            frames: uint8 pictures (H, W, 3), all of one size.

        Yields:
            (clip_frames, H, W, 3) uint8; the last one filled up with its last real frame.
        """
        pending: list[npt.NDArray[np.uint8]] = []
        num_frames = num_yielded = 0
        for frame in frames:
            pending.append(frame)
            num_frames += 1
            if len(pending) == self.clip_frames:
                yield np.stack(pending)
                num_yielded += 1
                del pending[: self.stride]
        if num_yielded < self.num_clips(num_frames):
            pending += [pending[-1]] * (self.clip_frames - len(pending))
            yield np.stack(pending)
